// What the sampler's and the scorer's sources share: a model as Python packs it, and room to read with it.
#pragma once

#include "thread_team.h"

namespace scriven {

constexpr int64_t block = 16;          // outputs of a matrix that are computed side by side
constexpr int64_t widest = 4;          // blocks in a group, at most
constexpr int64_t rows_together = 16;  // rows of a batch that use a group while it is in the cache
constexpr int64_t worth_tiles = 3;     // rows; fewer are faster without AMX

// The layout of the structures is that of the ctypes structures in kernels/sampler.py.

enum Cell : int64_t { rnn = 0, gru = 1, lstm = 2, mingru = 3 };
enum Precision : int64_t { fp32 = 0, bf16 = 1, int8 = 2 };
enum NormKind : int64_t { no_norm = 0, rms_norm = 1, layer_norm = 2 };

// A weight matrix (outputs, K) in groups of `width` blocks of 16 outputs. A group lies together, as words of 32 bits
// [chunk][block][output]: a word holds the next weights of one output, 4 in int8, 2 in bf16, 1 in fp32.
// An lstm's group has the 4 gates of 16 cells, a gru's the 3, a mingru's the 2; other groups have the blocks that come
// next.
struct Matrix {
    const void *data;       // null where there is none; a mingru's hidden matrix then has groups and width all the same
    const float *scale;     // of each output; int8 only
    const int32_t *offset;  // 128 times the sum of each output's weights; int8 only
    int64_t groups, width, chunks;
};

struct Layer {
    Matrix input, hidden;       // no input where a table has its products
    const float *sums;          // (V, outputs) where it is a table, else the biases (outputs,)
    const float *apart;         // a gru's bias of the candidate that its reset gate scales (cells,)
    const float *norm, *shift;  // of what this layer gives to the next one (cells,); null where there is none
    int64_t cells;
};

struct Model {
    int64_t symbols, boundary, cell;  // boundary -1: none
    uint64_t relu;                    // bit i is set where layer i is bounded by relu, else by tanh
    int64_t residual, norm, precision, layers;
    const float *embedding;  // (V, K) where there is no table
    const Layer *layer;
    Matrix head;            // none where the last layer gives the logits
    const float *head_bias;
};

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

// How the next id of a row is drawn.
struct Drawing {
    double temperature, top_k, top_p, min_p;
};

// What is to be written: `count` ids for each of N rows, each drawn with its number from the logits and then read.
struct Writing {
    int64_t rows, count;
    const double *uniforms;  // (count, N)
    const Drawing *drawing;  // (N,)
    float *const *state;     // 2 arrays (N, cells) a layer, h, and an lstm's c: changed to those after
    float *logits;           // (N, V), changed likewise
    int64_t *ids;            // (count, N)
    int64_t window, seen;    // where the window is above 0, the logits are from its last ids alone, read from zero states
    const int64_t *recent;   // (seen, N) ids before, at most a window of them
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
