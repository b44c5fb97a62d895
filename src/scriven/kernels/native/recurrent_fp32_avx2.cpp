#include "recurrent_fp32_steps.h"

const scriven::StepsKernels scriven::steps_avx2 = {forward, backward};
