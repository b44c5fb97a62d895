// The sampler on a model with random weights: the same numbers must give the same text on every processor.
#pragma once

#include <cmath>
#include <cstring>
#include <deque>
#include <vector>

#include "../../src/scriven/kernels/native/sampler.h"

extern "C" int64_t scriven_sampler_write(const scriven::SamplerWrite *);

namespace {

constexpr int64_t model_symbols = 45, model_cells = 37, model_layers = 2;  // none of them fills its blocks
constexpr int64_t gates_of[] = {1, 3, 4, 2}, written_rows = 20, written_count = 100;

struct alignas(64) Line {
    char bytes[64];
};

// A model packed as kernels/packing.py packs it; it owns the arrays.
class RandomModel {
  public:
    template <class Draw>
    RandomModel(int64_t cell, int64_t precision, const Draw &draw) : precision_(precision) {
        const int64_t gates = gates_of[cell];
        for (int64_t i = 0; i < model_layers; i++) {
            scriven::PackedLayer &layer = layers_[i];
            if (i) layer.input = matrix(model_cells, gates, draw);
            layer.hidden = cell == scriven::mingru ? shape(model_cells, gates) : matrix(model_cells, gates, draw);
            layer.sums = sums(i ? 1 : model_symbols, model_cells, gates, draw);
            if (cell == scriven::gru) layer.apart = sums(1, model_cells, 1, draw);
            layer.cells = model_cells;
        }
        head_ = matrix(model_symbols, 1, draw);
        model = {model_symbols, -1, cell, 0, 0, 0, precision, model_layers, 1, layers_, &head_, nullptr};
        model.head_bias = sums(1, model_symbols, 1, draw);
    }
    RandomModel(const RandomModel &) = delete;

    scriven::PackedModel model;

  private:
    template <class Value> Value *room(int64_t count) {
        arrays_.emplace_back((count * sizeof(Value) + 63) / 64);
        return reinterpret_cast<Value *>(arrays_.back().data());
    }
    static scriven::PackedMatrix shape(int64_t rows, int64_t gates) {
        const int64_t blocks = (rows + 15) / 16, groups = gates > 1 ? blocks : (blocks + 3) / 4;
        return {nullptr, nullptr, nullptr, groups, gates > 1 ? gates : (blocks + groups - 1) / groups, 0};
    }
    // Whether an output of a group is none of `rows` and only fills its block.
    static bool fills(const scriven::PackedMatrix &of, int64_t gates, int64_t group, int64_t output, int64_t rows) {
        const int64_t together = of.width / gates * 16;
        return group * together + output % together >= rows;
    }
    template <class Draw> const float *sums(int64_t count, int64_t rows, int64_t gates, const Draw &draw) {
        const scriven::PackedMatrix of = shape(rows, gates);
        const int64_t together = of.width * 16, outputs = of.groups * together;
        float *made = room<float>(count * outputs);
        for (int64_t i = 0; i < count * outputs; i++) {
            const float value = draw(2.0);
            made[i] = fills(of, gates, i % outputs / together, i % together, rows) ? 0 : value;
        }
        return made;
    }
    template <class Draw> scriven::PackedMatrix matrix(int64_t rows, int64_t gates, const Draw &draw) {
        scriven::PackedMatrix made = shape(rows, gates);
        const bool bytes = precision_ == scriven::int8;
        const int64_t outputs = made.width * 16, all = made.groups * outputs;
        made.chunks = bytes ? 64 / 4 : 48;
        char *data = room<char>(all * made.chunks * 4);
        float *scale = room<float>(all);
        int32_t *offset = room<int32_t>(all);
        for (int64_t at = 0; at < all; at++) {
            float weights[model_cells];
            for (float &weight : weights) weight = draw(2.5 / std::sqrt(double(model_cells)));
            if (fills(made, gates, at / outputs, at % outputs, rows)) continue;
            char *first = data + (at / outputs * made.chunks * outputs + at % outputs) * 4;
            if (bytes)
                round(weights, outputs, first, scale[at], offset[at]);
            else
                for (int64_t k = 0; k < model_cells; k++) std::memcpy(first + k * outputs * 4, weights + k, 4);
        }
        made.data = data;
        if (bytes) made.scale = scale, made.offset = offset;
        return made;
    }
    // The weights of one output in int8, 4 to a word, words `outputs` apart.
    static void round(const float *weights, int64_t outputs, char *first, float &scale, int32_t &offset) {
        float largest = 0;
        for (int64_t k = 0; k < model_cells; k++) largest = std::fmax(largest, std::fabs(weights[k]));
        scale = largest / 127.0f;
        for (int64_t k = 0; k < model_cells; k++) {
            const auto rounded = static_cast<int8_t>(std::nearbyint(weights[k] / scale));
            first[k / 4 * outputs * 4 + k % 4] = static_cast<char>(rounded);
            offset += 128 * rounded;
        }
    }

    int64_t precision_;
    scriven::PackedLayer layers_[model_layers] = {};
    scriven::PackedMatrix head_ = {};
    std::deque<std::vector<Line>> arrays_;
};

// What the model writes: (count, rows) ids, every row drawn in another way.
inline std::vector<int64_t> written(const scriven::PackedModel &model, int64_t threads, const std::vector<double> &uniforms) {
    const scriven::Drawing ways[] = {{1, 0, 1, 0}, {0.7, 10, 1, 0}, {1, 0, 0.9, 0}, {1.2, 0, 1, 0.05}, {0, 0, 1, 0}};
    std::vector<scriven::Drawing> drawing;
    for (int64_t row = 0; row < written_rows; row++) drawing.push_back(ways[row % 5]);
    std::vector<float> parts(model_layers * 2 * written_rows * model_cells), logits(written_rows * model_symbols);
    float *state[model_layers * 2] = {};
    for (int64_t i = 0; i < model_layers * 2; i++)
        if (i % 2 == 0 || model.cell == scriven::lstm) state[i] = &parts[i * written_rows * model_cells];
    std::vector<int64_t> ids(written_rows * written_count, -1);
    scriven::SamplerWrite call{};
    call.threads = threads, call.rows = written_rows, call.count = written_count;
    call.model = &model, call.uniforms = uniforms.data(), call.drawing = drawing.data();
    call.state = state, call.logits = logits.data(), call.ids = ids.data();
    return scriven_sampler_write(&call) == scriven::ok ? ids : std::vector<int64_t>{};
}

}  // namespace
