// The structs that Python passes: one for each call that takes more than a few values.
//
// The function scriven_sampler_write takes a SamplerWrite, and so on. Python's structures, kernels/*.py, have the same
// names and the same fields in the same order; tests/kernels/test_kernels_calls.py compares them, and their sizes with
// scriven_struct_size. An address may be null only where its comment says so. The letters are those of docs/shapes.md.
#pragma once

#include <cstdint>

namespace scriven {

// An n-gram model. S is uint8_t, uint16_t or uint32_t, of `width` bytes.
struct CountsTable {
    int64_t symbols, boundary, width;  // V; -1: none; the bytes of an S
    int64_t longest, reach;            // levels: of the longest contexts, and the deepest one of tails
    int64_t size, entries, large_size, tail_size;  // nodes, and lengths of arrays
    const int64_t *levels;    // (longest + 2, 3): a level's first node, its first tail, and where its tails begin
    const void *nodes;        // S (blocks, 64), 16 nodes each: the entries, children and tails before them as uint32_t;
                              // from 16 on the oldest symbol of each context (0 for the root), from 32 on the number of
                              // different symbols after it, 0 for a tail, from 48 on the number of children
    const void *successors;   // S (entries,): sorted within a row
    const uint8_t *counts;    // (entries,): 255 for large ones
    const uint32_t *large;    // (large_size, 2): entry, count; sorted
    const void *tails;        // S (tail_size,): of each tail the symbol after it, then those before its level's context,
                              // the newest first; V where they end
    const double *discounts;  // (longest + 1, 4, 3)
};

// What a network's logits are mixed with. A mixture's logit is weight 0 times the network's plus weight 1 times the
// logarithm of the table's probability, after contexts of `longest` ids at most. The weights are those of the level of
// the longest context that the table has. Logits after no id at all stay as they are.
struct CountsPartner {
    int64_t longest;
    const CountsTable *table;
    const double *weights;  // (table's longest + 1, 2)
};

// Models that are packed for sampling and scoring: see sampler.h.

// A weight matrix (outputs, K) in groups of `width` blocks of 16 outputs. A group lies together, as words of 32 bits
// [chunk][block][output]: a word holds the next weights of one output, 4 in int8, 2 in bf16, 1 in fp32.
// An lstm's group has the 4 gates of 16 cells, a gru's the 3, a mingru's the 2; other groups have the blocks that come
// next.
struct PackedMatrix {
    const void *data;       // null where there is none; a mingru's hidden matrix then has groups and width all the same
    const float *scale;     // of each output; int8 only
    const int32_t *offset;  // 128 times the sum of each output's weights; int8 only
    int64_t groups, width, chunks;
};

struct PackedLayer {
    PackedMatrix input, hidden;  // no input where a table has its products
    const float *sums;           // (V, outputs) where it is a table, else the biases (outputs,)
    const float *apart;          // a gru's bias of the candidate that its reset gate scales (cells,)
    const float *norm, *shift;   // of what this layer gives to the next one (cells,); null where there is none
    const float *embedding;      // (V, K) of a stack's first layer, where there is no table
    int64_t cells;
};

// One stack of layers, or several one after the other, which all read the same ids: those of a model of several members.
// The logits are the sum of what the stacks give; heads and biases are divided by the number of stacks beforehand.

struct PackedModel {
    int64_t symbols, boundary, cell;  // boundary -1: none
    int64_t relu;                     // bit i is set where layer i of a stack is bounded by relu, else by tanh
    int64_t residual, norm, precision;
    int64_t layers, stacks;  // layers of all stacks, as many in each
    const PackedLayer *layer;
    const PackedMatrix *heads;  // one for each stack; null where the last layers give the logits
    const float *head_bias;     // of all heads together
};

// A training text in blocks, which overlap, and the order of the suffixes that begin in each: see suffixes.cpp.
struct SuffixBlock {
    int64_t length, count;
    const void *text;      // (length,)
    const int32_t *order;  // (count,): places in `text`
};

struct SuffixIndex {
    int64_t width, separator, blocks;  // the bytes of an id, 1, 2 or 4; what is between documents, -1: nothing
    const SuffixBlock *block;
};

// The places of all suffixes of a text, sorted; a suffix that another begins with comes first.
struct SuffixSort {
    int64_t width, length, symbols;
    const void *text;  // (length,), below `symbols`
    int32_t *order;    // (length,)
};

// At each place of ids from `first` to `last`, the longest stretch that is in the training text, too, within one document.
struct SuffixMatch {
    int64_t first, last, length;
    const SuffixIndex *index;
    const int64_t *ids;        // (length,)
    int64_t *lengths;          // (length,), as are these:
    int64_t *blocks, *places;  // where it is: a block, and a place in that
};

struct SuffixFollow {
    int64_t count, symbols;
    const SuffixIndex *index;
    const int64_t *ids;  // (count,)
    uint8_t *found;      // (symbols,): 1 for those that follow the ids in the training text
};

// How the next id of a row is drawn.
struct Drawing {
    double temperature, top_k, top_p, min_p;
};

// What may follow in a row: see rules/automaton.py. `next` has the state after a symbol of each column, -1 where it is
// refused, and `distance` how many symbols a state is from one that accepts. At most `left` more symbols may follow. With
// `ends`, <unk> stands for the end of the text in an accepting state, as likely as all symbols that are refused there.
struct RowRule {
    int64_t width, state, left, ends;
    const int32_t *next;      // (S, width), or null where a row has no rule
    const int32_t *columns;   // (V,)
    const int32_t *distance;  // (S,)
};

// What a row has written before the call, and how that changes what is drawn: see penalties.py.
struct RowPast {
    double typical_p, mirostat_tau, mirostat_eta;
    double repetition_penalty, presence_penalty, frequency_penalty, dry_multiplier, dry_base;
    int64_t repeat_last_n, dry_allowed_length, dry_penalty_last_n, novel, count;
    const int64_t *ids;        // (count,)
    const float *bias;         // (V,), or null
    const SuffixIndex *index;  // of the text of which no `novel` ids in a row are written; or null
    double *bound;             // mirostat's, changed to that after; null where a row has no past
};

// `count` ids for each of N rows, each drawn with its number from the logits and then read.
struct SamplerWrite {
    int64_t threads, rows, count;
    int64_t window, seen, longest_past;  // with a window above 0, logits are of its last ids alone, read from zero states
    const PackedModel *model;
    const CountsPartner *partner;  // what the logits are mixed with before each is drawn from; or null
    const double *uniforms;        // (count, N)
    const Drawing *drawing;        // (N,)
    const RowRule *rules;          // (N,), or null
    const RowPast *pasts;          // (N,), or null; with longest_past ids at most
    const int64_t *recent;         // (seen, N) ids before
    float *const *state;     // 2 arrays (N, cells) a layer, h, and an lstm's c: changed to those after
    float *logits;           // (N, V), changed likewise
    int64_t *ids;            // (count, N)
};

// What each of `targets` costs before the id at its place in `read` is read, and whether it is the likeliest one there.
struct ScorerRead {
    int64_t threads, rows, steps, seen;
    const PackedModel *model;
    const CountsPartner *partner;   // what the logits are mixed with before a target is looked up; or null
    const int64_t *read, *targets;  // (T, N); `seen` ids of each row stand before those to read
    float *const *state;            // as in SamplerWrite
    float *logits;                  // (N, V), of the first targets: changed to those after the last id
    double *nats;                   // (T, N)
    uint8_t *right;                 // (T, N): 1 where the target is the first of those with the largest logit
};

// Text as ids.

struct TextTranslate {
    int64_t symbol_bytes, id_bytes;  // 1, 2 or 4
    int64_t length, size;            // of the text, and of the table
    const void *symbols;             // (length,)
    const int32_t *table;            // (size,)
    void *ids;                       // (length,)
    int64_t *counts;                 // (size,) or null
};

struct TextLearn {
    int64_t symbol_bytes, length, size, known;  // as in TextTranslate; and the first new id
    const void *symbols;                        // (length,)
    int32_t *table;                             // (size,)
    int64_t *places;                            // room for the first places of all new symbols
};

// Layers that are trained.

// All steps of a layer. With `bf16`, here and below, values and products are in bf16, for processors that multiply it, and
// the pointers without a type are to them; else in fp32. States and weights are in fp32.
struct RecurrentForward {
    int64_t threads, bf16, cell, relu;  // relu: whether that bounds the cell, in the place of tanh
    int64_t steps, rows, cells;
    int64_t symbols, inputs;      // V, or 0 without ids; D, or 0 without x
    const void *sums;             // (T, N, gates * H), with ids (V, gates * H); null with x
    const int64_t *ids;           // (T, N) or null
    const void *x;                // (T, N, D), with ids (V, D); or null
    const float *weight_x, *bias_x;  // (gates * H, D) and (gates * H,), or null without x
    const float *weight;          // (gates * H, H)
    const float *bias;            // (H,), of the GRU's candidate from the hidden state, or null
    const uint8_t *fresh;         // (T, N) or null: where a row's state is zeroed before a step
    const float *h, *c;           // (N, H) before; c is null but for the LSTM
    void *y;                      // (T, N, H)
    void *kept;                   // room for (T, H / 32 rounded up, N, kept, 32), or null where nobody asks for gradients
    float *h_after, *c_after;     // (N, H); c is null but for the LSTM
};

struct RecurrentBackward {
    int64_t threads, bf16, cell, relu, steps, rows, cells, symbols, inputs;
    const int64_t *ids;  // as in RecurrentForward, which has seen them
    const void *x;
    const float *weight_x, *weight;
    const uint8_t *fresh;
    const void *h;  // (T, N, H) before each step, rounded
    const void *kept;
    const void *dy;                    // (T, N, H)
    const float *dh_after, *dc_after;  // (N, H); dc is null but for the LSTM
    void *dsums;                       // as sums, with ids in fp32; null with x
    void *dx;                          // as x; or null where nobody asks for it
    float *dweight_x, *dbias_x;        // null without x
    float *dweight;                    // (gates * H, H)
    float *dbias;                      // (gates * H,), of the sums from the hidden state, or null
    float *dh, *dc;                    // (N, H); dc is null but for the LSTM
};

// All steps of a layer whose gates see the input alone, for the cells from `begin` to `end`.
struct ScanForward {
    int64_t steps, rows, cells, begin, end;
    int64_t symbols, bf16;  // V, or 0 without ids; whether sums are in bf16, else in fp32
    const void *sums;       // k (H) and x (H) of each step and row (T, N, 2H), with ids (V, 2H)
    const int64_t *ids;     // (T, N) or null
    const uint8_t *fresh;   // (T, N) or null: where h before is zero
    const float *h;         // (N, H) before the first step
    float *y;               // (T, N, H)
};

struct ScanBackward {
    int64_t steps, rows, cells, begin, end, bf16;
    const void *sums;  // as in ScanForward; ids are ones that it has seen
    const int64_t *ids;
    const uint8_t *fresh;
    const float *h;
    const float *y, *dy;  // (T, N, H)
    float *dh;            // (N, H): of the state after, changed to that of h
    void *dsums;          // (T, N, 2H) of the type of sums; or with ids (V, 2H) in fp32, which is added to
};

// Products of a layer with weights: K rows of M values that it reads, and N sums.

struct WeightGradient {
    int64_t threads, bf16, k, m, n;
    const void *x;        // (K, M)
    const void *dy;       // (K, N)
    const uint8_t *skip;  // (K,) or null: rows of x that count as zeros
    float *dweight;       // (N, M)
    float *sums;          // (N,) of all rows of dy, or null
};

struct Projection {
    int64_t threads, bf16, k, m, n, turned;
    const void *x;        // (K, M)
    const float *weight;  // (M, N), or with `turned` (N, M)
    const float *bias;    // (N,) or null
    void *y;              // (K, N)
};

// The output layer with its losses.

struct CrossEntropyForward {
    int64_t threads, bf16, rows, inputs, symbols;
    const void *y;           // (rows, inputs)
    const float *weight;     // (V, inputs)
    const float *bias;       // (V,) or null
    const int64_t *targets;  // (rows,)
    float *losses;           // (rows,)
    void *kept;              // (rows, scriven_cross_entropy_width) for the way back, or null
    float *factors;          // (rows, chunks) for the way back
};

struct CrossEntropyBackward {
    int64_t threads, bf16, rows, inputs, symbols;
    const void *y;
    const float *weight;
    const int64_t *targets;
    const float *factors;
    const float *dlosses;     // (rows,)
    void *kept;               // the gradients of the logits come in its place
    void *dy;                 // (rows, inputs)
    float *dweight, *dbias;   // (width, inputs) and (width,): of scriven_cross_entropy_width
};

// Optimizers. Gradients are `count` arrays.

struct SumSquares {
    int64_t threads, count;
    const float *const *gradients;
    const int64_t *sizes;  // (count,)
    double *sum;
};

struct AdamwStep {
    int64_t threads, count;
    const float *const *gradients;  // of P values in all
    const int64_t *sizes;           // (count,)
    float *values, *mean, *square;  // (P,)
    float scale;                    // of the gradients
    float beta1, beta2;             // shares of the means that stay
    float rate;                     // with the correction of the gradient's mean
    float root;                     // the correction of the root of the squares' mean
    float epsilon;
};

// Matrices (rows, columns) of one size.
struct MuonUpdate {
    int64_t threads, bf16, count, rows, columns;
    int64_t turns;         // how often A is made anew
    const int64_t *steps;  // (turns,) of the iteration for each A
    float scale, momentum, epsilon;
    float a, b, c;  // the coefficients of the iteration's polynomial, of the powers 1, 3 and 5
    const float *const *gradients;
    float *const *momenta;
    void *const *updates;  // one may be null: it is not made
};

struct MuonApply {
    int64_t threads, bf16, count, size;
    float keep, rate;
    const void *const *updates;  // (size,) each
    float *const *weights;
};

// N-grams: see counts.h.

// Makes a counter, which must be closed. Contexts have up to `longest` symbols, and end at the boundary (-1: none),
// after which a text begins. About `total` symbols will be counted, in about `budget` bytes; the table has about
// `bytes` at most.
struct CountsOpen {
    int64_t symbols, boundary, longest, total, budget, bytes;
    void **counter;
};

struct CountsAdd {
    int64_t count;
    void *counter;
    const int64_t *ids;  // (count,)
};

// Makes the table, whose arrays last until the counter is closed. `fit` gets how many symbols the discounts were
// fitted to, and what these cost in nats with the usual discounts and with the fitted ones; `pruned` up to how many
// occurrences n-grams were left out, by level, while counting and at the end.
struct CountsFinish {
    void *counter;
    CountsTable *table;
    double *fit;      // (3,)
    int64_t *pruned;  // (2, longest + 1)
};

// -ln of the probabilities of ids (N, T) from place `first` of each row on. The ids before one in its row are its
// context.
struct CountsScore {
    int64_t threads, rows, length, first;
    const CountsTable *table;
    const int64_t *ids;  // (N, T)
    double *nats;        // (N, T - first)
    uint8_t *right;      // (N, T - first), or null: 1 where the id is the first of the most probable ones
};

// Makes logits of what follows ids (T, N), from place `first` on, those of a mixture.
struct CountsMix {
    int64_t threads, rows, length, first;
    const CountsPartner *partner;
    const int64_t *ids;  // (T, N): those before one in its column are its context
    float *logits;       // (T - first, N, V)
};

struct CountsDistribution {
    int64_t rows, length;
    const CountsTable *table;
    const int64_t *ids;     // (N, T)
    double *probabilities;  // (N, V), of what follows
};

// A model that learns while it reads: see context_mixing.h.

// Makes a model, which must be closed, of V symbols, 65536 at most, with a table of 2^memory_bits bytes.
struct ContextMixingOpen {
    int64_t symbols, memory_bits;
    const int32_t *kinds;  // (V,): of a letter a number above 0, the same for both cases; -1: a space, -2: ends a line, -3: never comes
    void **mixing;
};

// -ln of the probabilities of the next ids. `frequencies`, here and below, are other models' predictions of these; the
// sum of a row has 32 bits at most. Where `others` is not a field, there is one of them, or null for none.
struct ContextMixingRead {
    int64_t count, others;  // 2 at most
    void *mixing;
    const int64_t *ids;           // (count,)
    const uint32_t *frequencies;  // (count, others, V)
    double *nats;                 // (count,)
};

// Takes ids as what comes before the next ones, without learning from them. No network may take part.
struct ContextMixingObserve {
    int64_t count;
    void *mixing;
    const int64_t *ids;  // (count,)
};

// The probability of each symbol to be the next one. No network may take part.
struct ContextMixingDistribution {
    int64_t others;  // 2 at most
    void *mixing;
    const uint32_t *frequencies;  // (others, V)
    double *probabilities;        // (V,)
};

// Writes the next ids as bytes: 32 each at most, and one at the end, if these are the last.
struct ContextMixingEncode {
    int64_t count, last;
    void *mixing;
    const int64_t *ids;
    const uint32_t *frequencies;
    uint8_t *bytes;
    int64_t *written;  // how many bytes
};

// Reads the next ids from the same bytes (size,) at each call, whose place it keeps.
struct ContextMixingDecode {
    int64_t count, size;
    void *mixing;
    const uint8_t *bytes;
    const uint32_t *frequencies;
    int64_t *ids;
};

}  // namespace scriven
