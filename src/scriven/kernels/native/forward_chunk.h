// Reading a text that is there already, with what each of its ids costs: a chunk of steps at a time, layer after layer.
//
// Only the products with a layer's own state wait for the step before. All others are made for the whole chunk at once;
// and a layer's weights stay in the cache while it reads the chunk.
#pragma once

#include "counts_mix.h"
#include "forward_step.h"

namespace scriven {

// A chunk of steps of some rows, on its way through the layers.
struct Passage {
    int64_t steps;
    const int64_t *read, *targets;  // (steps, rows), `apart` from step to step: read, after the costs of targets
    double *nats;                   // likewise: what each target costs
    uint8_t *right;                 // likewise: whether it is the likeliest one
    int64_t apart;
    Work step;        // one step of the rows, and their state
    Work chunk;       // all steps of all rows, each as a row: a place
    float *logits;    // (rows + places, logits_stride): those of the step before the chunk, and those of the chunk
    float *sums;      // (places, outputs): what the input adds to a layer's sums
    int64_t *places;  // 0, 1, 2, ...
    const float *x;   // (places, stride): what the next layer reads
    const Mixer *mixer;
    const int64_t *ids;  // the first of all ids of the first row, `before` of which stand before the chunk
    int64_t before;
    double *p;     // (V,)
    float *mixed;  // (V,) and padding
};

namespace {

// A row that reads the boundary begins a document: this layer's state of it is zeroed.
void begin_documents_of(const PackedModel &model, Work &step, int64_t depth, const int64_t *ids) {
    for (int64_t row = 0; row < step.rows; row++)
        for (int64_t i = 2 * depth; ids[row] == model.boundary && i < 2 * depth + 2; i++)
            if (step.state[i]) memset(step.state[i] + row * step.stride, 0, step.stride * sizeof(float));
}

// What the layer at `depth` multiplies its input's matrix with, at all places.
template <class P>
void pack_input(const PackedModel &model, Passage &passage, int64_t depth) {
    Work &chunk = passage.chunk;
    const PackedMatrix &input = model.layer[depth].input;
    if (place_in_stack(model, depth))
        return pack_rows<P>(chunk, input, passage.x, chunk.stride, chunk.input, chunk.input_scale);
    const int64_t inputs = P::inputs(input), rows = passage.step.rows;
    for (int64_t place = 0; place < chunk.rows; place++) {
        const int64_t id = passage.read[place / rows * passage.apart + place % rows];
        P::pack(model.layer[depth].embedding + id * inputs, inputs, chunk.input + place * chunk.operand_stride,
                chunk.input_scale + place);
    }
}

template <class P>
void read_layer_of_chunk(const PackedModel &model, Passage &passage, int64_t depth) {
    Work &step = passage.step, &chunk = passage.chunk;
    PackedLayer layer = model.layer[depth];
    const int64_t *from = passage.read;  // the rows of the table of sums
    int64_t apart = passage.apart;
    if (layer.input.data) {
        pack_input<P>(model, passage, depth);
        const int64_t outputs = layer.input.groups * layer.input.width * block;
        multiply_input<P>(chunk, layer.input, layer.sums, passage.sums, outputs);
        layer.input = {};
        layer.sums = passage.sums;
        from = passage.places;
        apart = step.rows;
    }
    float *h = step.state[2 * depth], *y = chunk.state[2 * depth];
    for (int64_t t = 0; t < passage.steps; t++, from += apart, y += step.rows * step.stride) {
        begin_documents_of(model, step, depth, passage.read + t * passage.apart);
        pack_rows<P>(step, layer.hidden, h, step.stride, step.hidden, step.hidden_scale);
        read_layer<P>(model, layer, step, depth, from);
        memcpy(y, h, step.rows * step.stride * sizeof(float));
    }
    passage.x = pass_on(model, chunk, depth);
}

// Whether logits[id] is the largest, and none before it is as large.
bool is_likeliest(const float *logits, int64_t id, float largest) {
    if (logits[id] != largest) return false;
    int32_t before = 0;  // as wide as a logit, so that the compiler makes vectors of it
    for (int64_t i = 0; i < id; i++) before |= logits[i] == largest;
    return !before;
}

struct Cost {
    double nats;
    bool right;
};

// -ln of the softmax of the logits at `id`, in nats; with 16 partial sums, the same on every level. And whether `id` is
// the likeliest. Changes the padding.
Cost cost(float *logits, int64_t count, int64_t id) {
    const int64_t padded = (count + block - 1) / block * block;
    for (int64_t i = count; i < padded; i++) logits[i] = -1e30f;
    Floats found = load(logits), sums[block / lanes] = {};
    for (int64_t i = lanes; i < padded; i += lanes) found = larger(load(logits + i), found);
    const float largest = largest_of(found);
    for (int64_t i = 0; i < padded; i += block)
        for (int v = 0; v < block / lanes; v++)
            sums[v] = sums[v] + exponential(load(logits + i + v * lanes) - largest, 1);
    alignas(64) float parts[block];
    for (int v = 0; v < block / lanes; v++) store(parts + v * lanes, sums[v]);
    double sum = 0;
    for (float part : parts) sum += part;
    return {logarithm(sum) + double(largest) - double(logits[id]), is_likeliest(logits, id, largest)};
}

template <class P>
void read_layers_by(const PackedModel &model, Passage &passage, int64_t first, int64_t last) {
    for (int64_t depth = first; depth < last && depth <= model.layers; depth++) {
        if (depth && !place_in_stack(model, depth))
            add_logits<P>(model, passage.chunk, stack_of(model, depth - 1), passage.x);
        if (depth < model.layers) read_layer_of_chunk<P>(model, passage, depth);
    }
    if (last <= model.layers) return;
    const int64_t rows = passage.step.rows, stride = passage.chunk.logits_stride;
    float *before = passage.logits;
    for (int64_t t = 0; t < passage.steps; t++)
        for (int64_t row = 0; row < rows; row++, before += stride) {
            const int64_t place = t * passage.apart + row, read = passage.before + t;
            float *logits = before;
            if (*passage.mixer && read) {
                const Text text{passage.ids + row, passage.apart, passage.mixer->boundary()};
                passage.mixer->mix(text, read, before, passage.p, logits = passage.mixed);
            }
            const Cost found = cost(logits, model.symbols, passage.targets[place]);
            passage.nats[place] = found.nats;
            passage.right[place] = found.right;
        }
}

// The layers from `first` to `last` read the chunk; the output layer, which makes the costs, comes after all of them. A
// stack's logits are made when the next stack begins.
void read_layers(const PackedModel &model, Passage &passage, int64_t first, int64_t last) {
#if defined(__AMX_INT8__)
    const TileShapes shapes;
    __asm__ volatile("" ::"r"(&shapes) : "memory");  // GCC's intrinsic tells it of the first 8 bytes only
    _tile_loadconfig(&shapes);
#endif
    if (model.precision == fp32) read_layers_by<Fp32>(model, passage, first, last);
    if (model.precision == bf16) read_layers_by<Bf16>(model, passage, first, last);
    if (model.precision == int8) read_layers_by<Int8>(model, passage, first, last);
#if defined(__AMX_INT8__)
    _tile_release();
#endif
}

}  // namespace
}  // namespace scriven
