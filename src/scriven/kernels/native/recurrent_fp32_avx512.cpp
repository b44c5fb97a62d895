#include "recurrent_fp32_steps.h"

const scriven::StepsKernels scriven::steps_avx512 = {forward, backward};
