#include "adamw_steps.h"

const scriven::AdamwKernels scriven::adamw_avx2 = {squares, step};
