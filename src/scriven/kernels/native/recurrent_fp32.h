// All steps of a recurrent layer in fp32, forwards and backwards: what the instruction sets' versions have in common.
//
// The sums that come from the input are made before, by one product.
#pragma once

#include "common.h"

namespace scriven {

enum CellNumber : int64_t { rnn = 0, gru = 1, lstm = 2 };

struct StepsShape {
    int64_t steps, rows, cells, threads;
};

struct StepsForward {
    const float *input;    // (T, N, gates * H), or with ids (V, gates * H)
    const int64_t *ids;    // (T, N) or null
    const float *weight;   // (gates * H, H)
    const float *bias;     // (H,), of the GRU's new value from the hidden state, or null
    const float *h, *c;    // (N, H) before; c is null but for the LSTM
    const uint8_t *fresh;  // (T, N) or null: where a row's state is zeroed before a step
    float *y;              // (T, N, H)
    float *kept;           // (T, H / 32 rounded up, N, kept, 32), or null where nobody asks for gradients
    float *h_after, *c_after;
};

struct StepsBackward {
    const float *weight;
    const uint8_t *fresh;
    const float *kept;
    const float *dy;                   // (T, N, H)
    const float *dh_after, *dc_after;  // (N, H); dc is null but for the LSTM
    float *dinput, *dhidden;           // (T, N, gates * H); dhidden is null where it is the same
    float *dh, *dc;                    // (N, H)
};

struct StepsKernels {
    Status (*forward)(int64_t cell, const StepsShape &, const StepsForward &);
    Status (*backward)(int64_t cell, const StepsShape &, const StepsBackward &);
};

extern const StepsKernels steps_portable, steps_avx2, steps_avx512;

}  // namespace scriven
