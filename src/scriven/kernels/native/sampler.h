// Shared by the sampler and the scorer: the sizes of packed models, and the arrays to read with them.
#pragma once

#include "calls.h"
#include "thread_team.h"

namespace scriven {

constexpr int64_t block = 16;          // outputs of a matrix that are computed together
constexpr int64_t widest = 4;          // blocks in a group, at most
constexpr int64_t rows_together = 16;  // rows of a batch that use a group while it is in the cache
constexpr int64_t worth_tiles = 3;     // rows from which AMX is faster

enum Cell : int64_t { rnn = 0, gru = 1, lstm = 2, mingru = 3 };
enum Precision : int64_t { fp32 = 0, bf16 = 1, int8 = 2 };
enum NormKind : int64_t { no_norm = 0, rms_norm = 1, layer_norm = 2 };

// Arrays for N rows; every row of `stride` floats or bytes begins at a multiple of 64 bytes and is padded with zeros.
// Members of a team may share the rows. The state and the logits are then the same arrays for all, and each member makes
// its own groups of them. Each member has and makes everything else for itself.
struct Work {
    Member member;
    int64_t rows, stride, operand_stride;
    bool back;  // whether the next step takes the groups from the last to the first
    float **state;  // (L, 2) arrays (N, stride): h, and an lstm's c
    float *x, *normed;
    char *input, *hidden;  // the operands of a layer's matrices
    float *input_scale, *hidden_scale;
    char *input_sums, *hidden_sums;  // products of a group, for rows_together rows
    float *logits;                   // (N, logits_stride)
    int64_t logits_stride;
};

// The stack of a layer, and the layer's place in it.
inline int64_t stack_of(const PackedModel &model, int64_t depth) { return depth / (model.layers / model.stacks); }
inline int64_t place_in_stack(const PackedModel &model, int64_t depth) { return depth % (model.layers / model.stacks); }

struct Candidate {
    double weight;
    int64_t id;
};

int64_t likeliest(const float *logits, int64_t count);

// Buffers for drawing from `count` weights, padded to a multiple of 16.
struct DrawBuffers {
    double *weights;
    int64_t *places, *ids;
    Candidate *candidates;
};

int64_t pick(const DrawBuffers &buffers, int64_t count, const Drawing &drawing, double uniform);

// What a row has written so far, with the ids of this call, and mirostat's bound.
struct Written {
    const RowPast &past;
    const int64_t *ids;  // (count,)
    int64_t count;
    double &bound;
};

int64_t pick_after(const Written &written, const DrawBuffers &buffers, int64_t count, const Drawing &drawing,
                   double uniform);

bool adjust(const float *logits, int64_t symbols, const Written &written, const DrawBuffers &buffers, float *to);

bool constrain(const float *logits, int64_t symbols, const RowRule &rule, int64_t state, int64_t left,
               const DrawBuffers &buffers, float *to);

}  // namespace scriven
