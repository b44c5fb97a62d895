// What the sampler's and the scorer's sources share: the kinds of packed models, and room to read with them.
#pragma once

#include "calls.h"
#include "thread_team.h"

namespace scriven {

constexpr int64_t block = 16;          // outputs of a matrix that are computed side by side
constexpr int64_t widest = 4;          // blocks in a group, at most
constexpr int64_t rows_together = 16;  // rows of a batch that use a group while it is in the cache
constexpr int64_t worth_tiles = 3;     // rows; fewer are faster without AMX

enum Cell : int64_t { rnn = 0, gru = 1, lstm = 2, mingru = 3 };
enum Precision : int64_t { fp32 = 0, bf16 = 1, int8 = 2 };
enum NormKind : int64_t { no_norm = 0, rms_norm = 1, layer_norm = 2 };

// Arrays for N rows; every row of `stride` floats or bytes begins at a multiple of 64 bytes and is padded with zeros.
// Members of a team may share the rows: the state and the logits are then the same arrays for all, of which each member
// makes the groups that are its own; all else it has, and makes, for itself.
struct Work {
    Member member;
    int64_t rows, stride, operand_stride;
    bool back;  // whether the next step goes through the groups from the last one to the first
    float **state;  // (L, 2) arrays (N, stride): h, and an lstm's c
    float *x, *normed;
    char *input, *hidden;  // what a layer's matrices are multiplied with
    float *input_scale, *hidden_scale;
    char *input_sums, *hidden_sums;  // products of a group, for rows_together rows
    float *logits;                   // (N, logits_stride)
    int64_t logits_stride;
};

struct Candidate {
    double weight;
    int64_t id;
};

int64_t likeliest(const float *logits, int64_t count);

// Room for drawing from `count` weights, padded to a multiple of 16.
struct Desk {
    double *weights;
    int64_t *places, *ids;
    Candidate *candidates;
};

int64_t pick(const Desk &desk, int64_t count, const Drawing &drawing, double uniform);

}  // namespace scriven
