// All steps of a layer whose gates see the input alone (minGRU, Feng et al. 2024), and their gradients:
//
//     z = sigmoid(k), new = x + 0.5 where x >= 0 and sigmoid(x) elsewhere, h = (1 - z) * h_before + z * new
//
// k and x come from one product of the input, made before. Cells do not meet, so that a call works on a range of them.
#pragma once

#include "common.h"

namespace scriven {

struct ScanShape {
    int64_t steps, rows, cells;
    int64_t begin, end;  // the cells to work on
};

// What both ways read. `sums` holds k (H) and x (H) of every step and row, in fp32 or as bits of bf16.
struct ScanInput {
    const void *sums;      // (T, N, 2H), or with ids (V, 2H)
    const int64_t *ids;    // (T, N) or null
    const uint8_t *fresh;  // (T, N) or null: where h_before is zero
    const float *h;        // (N, H) before the first step
};

struct ScanGradients {
    const float *y, *dy;  // (T, N, H): what came of every step, and the gradients of that
    float *dh;            // (N, H): the gradients of h
    void *dsums;          // (T, N, 2H) of the type of sums; or with ids (V, 2H) in fp32, which is added to
};

struct ScanKernels {
    void (*forward)(const ScanShape &, const ScanInput &, bool bf16, float *y);
    void (*backward)(const ScanShape &, const ScanInput &, bool bf16, const ScanGradients &);
};

extern const ScanKernels scan_portable, scan_avx2, scan_avx512;

}  // namespace scriven
