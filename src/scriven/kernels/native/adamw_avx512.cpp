#include "adamw_steps.h"

const scriven::AdamwKernels scriven::adamw_avx512 = {squares, step};
