// AdamW's step, and the norm of a gradient, over arrays that stand one after another in the weights.
#pragma once

#include "common.h"

namespace scriven {

struct AdamwRule {
    float scale;         // of the gradients
    float beta1, beta2;  // shares of the means that stay
    float rate;          // with the correction of the gradient's mean
    float root;          // the correction of the root of the squares' mean
    float epsilon;
};

struct AdamwKernels {
    double (*squares)(const float *gradient, int64_t count);
    void (*step)(const AdamwRule &, const float *gradient, float *values, float *mean, float *square, int64_t count);
};

extern const AdamwKernels adamw_portable, adamw_avx2, adamw_avx512;

}  // namespace scriven
