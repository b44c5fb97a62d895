// Products of a layer with its weights, and their gradients, for the kernels of layers.
#pragma once

#include "calls.h"
#include "common.h"

namespace scriven {

Status project(const Projection &call);
Status weight_gradient(const WeightGradient &call);

// dtable (V, n) = for each symbol the sum of the rows of dy (k, n) whose ids name it.
Status sum_rows(int64_t threads, int64_t bf16, const int64_t *ids, int64_t k, int64_t n, int64_t symbols, const void *dy,
                float *dtable);

}  // namespace scriven
