// One step of a whole model for N rows, with the products of matmul.h.
#pragma once

#include "matmul.h"

namespace scriven {
namespace {

// Null stays null.
inline const float *part(const float *array, int64_t from) { return array ? array + from : nullptr; }

// The sums of a group's gates for one row: those of the table or the bias, and the products with input and hidden.
template <class P>
struct GateSums {
    using Out = typename P::Out;
    const float *base;
    const Out *input, *hidden;  // null if base includes its products
    const float *input_scale, *hidden_scale;
    float input_row, hidden_row;

    Floats from_input(int64_t at) const {
        Floats sum = load(base + at);
        if (input) sum = sum + P::value(input, input_scale, at, input_row);
        return sum;
    }
    Floats from_hidden(int64_t at) const { return P::value(hidden, hidden_scale, at, hidden_row); }
    Floats operator()(int64_t at) const { return from_input(at) + from_hidden(at); }
};

template <class P, bool relu>
inline void lstm_cells(const GateSums<P> &sums, float *h, float *c) {
    for (int64_t i = 0; i < block; i += lanes) {
        const Floats memory = remembered<relu>(sums(block + i), load(c + i), sums(i), sums(2 * block + i));
        store(c + i, memory);
        store(h + i, gated<relu>(sums(3 * block + i), memory));
    }
}

template <class P, bool relu>
inline void gru_cells(const GateSums<P> &sums, const float *apart, float *h) {
    for (int64_t i = 0; i < block; i += lanes) {
        const Floats reset = sigmoid(sums(i)), keep = sigmoid(sums(block + i));
        const Floats inner = sums.from_hidden(2 * block + i) + load(apart + i);
        const Floats fresh = activation<relu>(sums.from_input(2 * block + i) + reset * inner);
        store(h + i, fresh + keep * (load(h + i) - fresh));
    }
}

template <class P, bool relu>
inline void rnn_cells(const GateSums<P> &sums, int64_t count, float *h) {
    for (int64_t i = 0; i < count; i += lanes) store(h + i, activation<relu>(sums(i)));
}

// As `step` of scan.cpp.
template <class P>
inline void mingru_cells(const GateSums<P> &sums, float *h) {
    for (int64_t i = 0; i < block; i += lanes) {
        const Floats x = sums.from_input(block + i), before = load(h + i);
        const Floats fresh = x >= 0.0f ? x + 0.5f : sigmoid(x);
        store(h + i, before + sigmoid(sums.from_input(i)) * (fresh - before));
    }
}

template <class P>
void pack_rows(const Work &work, const PackedMatrix &matrix, const float *x, int64_t stride, char *to, float *scales) {
    for (int64_t row = 0; row < work.rows; row++)
        P::pack(x + row * stride, P::inputs(matrix), to + row * work.operand_stride, scales + row);
}

// Computes this member's groups of the state after one layer, for all rows, from packed input and hidden operands.
template <class P, bool relu>
void read_layer_by(const PackedModel &model, const PackedLayer &layer, Work &work, int64_t depth, const int64_t *ids) {
    const PackedMatrix &hidden = layer.hidden, &input = layer.input;
    const int64_t outputs = hidden.width * block, all = hidden.groups * outputs;
    const int64_t cells = model.cell == rnn ? outputs : block;  // of a group
    const Range own = work.member.share(hidden.groups);
    for (int64_t place = own.begin; place < own.end; place++) {
        const int64_t group = work.back ? own.begin + own.end - 1 - place : place;
        for (int64_t first = 0; first < work.rows; first += rows_together) {
            const int64_t rows = work.rows - first < rows_together ? work.rows - first : rows_together;
            const int64_t operand = first * work.operand_stride;
            if (input.data) product<P>(input, group, work.input + operand, work.operand_stride, rows, work.input_sums);
            if (hidden.data)
                product<P>(hidden, group, work.hidden + operand, work.operand_stride, rows, work.hidden_sums);
            for (int64_t row = 0; row < rows; row++) {
                using Out = typename P::Out;
                const int64_t n = first + row, cell = n * work.stride + group * cells;
                const GateSums<P> sums{
                    layer.sums + (input.data ? 0 : ids[n] * all) + group * outputs,
                    input.data ? reinterpret_cast<const Out *>(work.input_sums) + row * outputs : nullptr,
                    reinterpret_cast<const Out *>(work.hidden_sums) + row * outputs,
                    part(input.scale, group * outputs),
                    part(hidden.scale, group * outputs),
                    work.input_scale[n],
                    work.hidden_scale[n],
                };
                float *h = work.state[2 * depth] + cell;
                if (model.cell == lstm) lstm_cells<P, relu>(sums, h, work.state[2 * depth + 1] + cell);
                if (model.cell == gru) gru_cells<P, relu>(sums, layer.apart + group * cells, h);
                if (model.cell == rnn) rnn_cells<P, relu>(sums, cells, h);
                if (model.cell == mingru) mingru_cells<P>(sums, h);
            }
        }
    }
}

// The same, with the activation of the layer.
template <class P>
void read_layer(const PackedModel &model, const PackedLayer &layer, Work &work, int64_t depth, const int64_t *ids) {
    model.relu >> place_in_stack(model, depth) & 1 ? read_layer_by<P, true>(model, layer, work, depth, ids)
                            : read_layer_by<P, false>(model, layer, work, depth, ids);
}

// The sum of term(x[i]) for i < count: 16 partial sums, which are then added in order.
template <typename Term>
inline float sum_of(const float *x, int64_t count, Term term) {
    float parts[block] = {}, sum = 0;
    int64_t i = 0;
    for (; i + block <= count; i += block)
        for (int64_t j = 0; j < block; j++) parts[j] += term(x[i + j]);
    for (; i < count; i++) parts[i % block] += term(x[i]);
    for (int64_t j = 0; j < block; j++) sum += parts[j];
    return sum;
}

// torch's nn.RMSNorm or nn.LayerNorm of one row with its padding, which `scale` and `shift` keep at zero.
inline void normalise(NormKind kind, const PackedLayer &layer, const float *x, int64_t padded, float *to) {
    const float count = float(layer.cells), least = kind == rms_norm ? 1.1920928955078125e-07f : 1e-5f;
    const float mean = kind == rms_norm ? 0.0f : sum_of(x, layer.cells, [](float x) { return x; }) / count;
    const float square = sum_of(x, layer.cells, [mean](float x) { return (x - mean) * (x - mean); }) / count;
    const float factor = 1.0f / __builtin_sqrtf(square + least);
    for (int64_t i = 0; i < padded; i++) to[i] = (x[i] - mean) * factor * layer.norm[i];
    if (layer.shift)
        for (int64_t i = 0; i < padded; i++) to[i] += layer.shift[i];
}

// The input for the next layer from the one at `depth`: its output, plus the residual input, then normalised.
inline const float *pass_on(const PackedModel &model, Work &work, int64_t depth) {
    const PackedLayer &layer = model.layer[depth];
    const float *y = work.state[2 * depth];
    const int64_t padded = (layer.cells + block - 1) / block * block;
    if (model.residual) {
        for (int64_t row = 0; row < work.rows; row++)
            for (int64_t i = row * work.stride; i < row * work.stride + padded; i++)
                work.x[i] = place_in_stack(model, depth) ? work.x[i] + y[i] : y[i];
        y = work.x;
    }
    if (!layer.norm) return y;
    for (int64_t row = 0; row < work.rows; row++)
        normalise(NormKind(model.norm), layer, y + row * work.stride, padded, work.normed + row * work.stride);
    return work.normed;
}

// base (outputs,) plus the products of a matrix with all rows of the input: to (rows, stride), this member's groups.
// Without a base, the products are added to what is there.
template <class P>
void multiply_input(const Work &work, const PackedMatrix &matrix, const float *base, float *to, int64_t stride) {
    const int64_t outputs = matrix.width * block;
    const Range groups = work.member.share(matrix.groups);
    for (int64_t group = groups.begin; group < groups.end; group++) {
        for (int64_t first = 0; first < work.rows; first += rows_together) {
            const int64_t rows = work.rows - first < rows_together ? work.rows - first : rows_together;
            product<P>(matrix, group, work.input + first * work.operand_stride, work.operand_stride, rows,
                       work.input_sums);
            for (int64_t row = 0; row < rows; row++) {
                const auto *sums = reinterpret_cast<const typename P::Out *>(work.input_sums) + row * outputs;
                const float *scale = part(matrix.scale, group * outputs);
                const float row_scale = work.input_scale[first + row];
                float *own = to + (first + row) * stride + group * outputs;
                for (int64_t i = 0; i < outputs; i += lanes)
                    store(own + i, load(base ? base + group * outputs + i : own + i) + P::value(sums, scale, i, row_scale));
            }
        }
    }
}

inline void begin_documents(const PackedModel &model, const Work &work, const int64_t *ids) {
    bool any = false;
    for (int64_t row = 0; row < work.rows; row++) {
        if (ids[row] != model.boundary) continue;
        any = true;
        for (int64_t i = 0; work.member.index == 0 && i < 2 * model.layers; i++)
            if (work.state[i]) memset(work.state[i] + row * work.stride, 0, work.stride * sizeof(float));
    }
    if (any) work.member.wait();
}

// What a stack adds to the logits of rows, from its last layer's output. The first stack makes them.
template <class P>
void add_logits(const PackedModel &model, Work &work, int64_t stack, const float *x) {
    if (model.heads) {
        const PackedMatrix &head = model.heads[stack];
        pack_rows<P>(work, head, x, work.stride, work.input, work.input_scale);
        multiply_input<P>(work, head, stack ? nullptr : model.head_bias, work.logits, work.logits_stride);
    } else if (work.member.index == 0) {
        const float share = 1.0f / float(model.stacks);
        for (int64_t row = 0; row < work.rows; row++, x += work.stride) {
            float *logits = work.logits + row * work.logits_stride;
            for (int64_t i = 0; i < model.symbols; i++) logits[i] = stack ? logits[i] + share * x[i] : share * x[i];
        }
    }
}

template <class P>
void read_by(const PackedModel &model, Work &work, const int64_t *ids, bool predict) {
    begin_documents(model, work, ids);
    const float *x = nullptr;
    for (int64_t depth = 0; depth < model.layers; depth++) {
        const PackedLayer &layer = model.layer[depth];
        if (place_in_stack(model, depth)) {
            pack_rows<P>(work, layer.input, x, work.stride, work.input, work.input_scale);
        } else if (layer.input.data) {
            const int64_t inputs = P::inputs(layer.input);
            for (int64_t row = 0; row < work.rows; row++)
                P::pack(layer.embedding + ids[row] * inputs, inputs, work.input + row * work.operand_stride,
                        work.input_scale + row);
        }
        pack_rows<P>(work, layer.hidden, work.state[2 * depth], work.stride, work.hidden, work.hidden_scale);
        work.member.wait();  // all have packed the old state, which is now overwritten
        read_layer<P>(model, layer, work, depth, ids);
        work.member.wait();
        x = pass_on(model, work, depth);
        if (predict && !place_in_stack(model, depth + 1)) add_logits<P>(model, work, stack_of(model, depth), x);
    }
    work.member.wait();
}

// Reads one id per row: updates the state of the work and, with `predict`, its logits.
inline void read(const PackedModel &model, Work &work, const int64_t *ids, bool predict) {
#if defined(__AMX_INT8__)
    const TileShapes shapes;
    const bool tiles = model.precision == int8 && work.rows >= worth_tiles;
    __asm__ volatile("" ::"r"(&shapes) : "memory");  // GCC's intrinsic declares only the first 8 bytes as read
    if (tiles) _tile_loadconfig(&shapes);
#endif
    work.back = !work.back;  // back and forth: the weights used last are used next, while they are in the cache
    if (model.precision == fp32) read_by<Fp32>(model, work, ids, predict);
    if (model.precision == bf16) read_by<Bf16>(model, work, ids, predict);
    if (model.precision == int8) read_by<Int8>(model, work, ids, predict);
#if defined(__AMX_INT8__)
    if (tiles) _tile_release();
#endif
}

}  // namespace
}  // namespace scriven
