#include "adamw_steps.h"

const scriven::AdamwKernels scriven::adamw_portable = {squares, step};
