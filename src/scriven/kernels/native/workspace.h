// Memory for reading with a packed model: the arrays of Work for some rows.
#pragma once

#include <cstdlib>
#include <initializer_list>

#include "sampler.h"

namespace scriven {
namespace {

constexpr int64_t rounded_up(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

// Pieces of one buffer of zeros, each at a multiple of 64 bytes. Without a buffer, it only counts their bytes.
class Arena {
  public:
    template <typename T>
    T *take(int64_t count) {
        char *place = buffer_ ? buffer_ + used_ : nullptr;
        used_ += rounded_up(count * int64_t(sizeof(T)), 64);
        return reinterpret_cast<T *>(place);
    }
    bool allocate() {
        raw_ = std::calloc(used_ + 64, 1);
        buffer_ = reinterpret_cast<char *>(rounded_up(reinterpret_cast<int64_t>(raw_), 64));
        used_ = 0;
        return raw_;
    }
    Arena() = default;
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;
    ~Arena() { std::free(raw_); }

  private:
    void *raw_ = nullptr;
    char *buffer_ = nullptr;
    int64_t used_ = 0;
};

inline int64_t inputs_of(const PackedMatrix &matrix, int64_t precision) {
    return matrix.chunks * (precision == int8 ? 4 : precision == bf16 ? 2 : 1);
}

// The rows of an array for `rows` rows: tiles are always whole.
inline int64_t padded_rows(int64_t rows) { return rows < worth_tiles ? rows : rounded_up(rows, rows_together); }

// The length of a row of floats that fits every array of a model.
inline int64_t longest_row(const PackedModel &model) {
    int64_t longest = 0;
    for (int64_t i = 0; model.heads && i < model.stacks; i++) {
        const int64_t size = inputs_of(model.heads[i], model.precision);
        longest = size > longest ? size : longest;
    }
    for (int64_t i = 0; i < model.layers; i++) {
        const PackedLayer &layer = model.layer[i];
        for (int64_t size : {inputs_of(layer.input, model.precision), inputs_of(layer.hidden, model.precision),
                             layer.hidden.groups * block * (model.cell == rnn ? layer.hidden.width : 1)})
            longest = size > longest ? size : longest;
    }
    return longest;
}

// Without a buffer in the arena, it only counts. Without `states`, the caller sets those of the layers.
inline Work lay_out_work(const PackedModel &model, int64_t rows, Arena &arena, bool states = true) {
    Work work = {};
    const int64_t all = padded_rows(rows), sums = rows_together * widest * block;
    work.member = {0, 1, nullptr};
    work.rows = rows;
    // Not a multiple of 4096 bytes, or all rows would fall into the same few sets of the cache.
    work.stride = rounded_up(longest_row(model), 64) + block;
    work.operand_stride = work.stride * int64_t(model.precision == int8 ? 1 : sizeof(float)) + 64;
    work.operand_stride = rounded_up(work.operand_stride, 64);
    work.logits_stride = rounded_up(model.symbols, block);
    if (model.heads) work.logits_stride = model.heads->groups * model.heads->width * block;
    work.state = arena.take<float *>(2 * model.layers);
    for (int64_t i = 0; states && i < 2 * model.layers; i++) {
        float *array = i % 2 == 0 || model.cell == lstm ? arena.take<float>(all * work.stride) : nullptr;
        if (work.state) work.state[i] = array;
    }
    work.x = arena.take<float>(all * work.stride);
    work.normed = arena.take<float>(all * work.stride);
    work.input = arena.take<char>(all * work.operand_stride);
    work.hidden = arena.take<char>(all * work.operand_stride);
    work.input_scale = arena.take<float>(all);
    work.hidden_scale = arena.take<float>(all);
    work.input_sums = arena.take<char>(sums * sizeof(float));
    work.hidden_sums = arena.take<char>(sums * sizeof(float));
    return work;
}

// Copies rows between the caller's dense arrays and the work's padded ones.
inline void copy_rows(float *to, int64_t to_stride, const float *from, int64_t from_stride, int64_t rows, int64_t count) {
    for (int64_t row = 0; row < rows; row++)
        memcpy(to + row * to_stride, from + row * from_stride, count * sizeof(float));
}

// Copies the state of the work's rows from or to the caller's rows from `first` on.
inline void copy_state(const PackedModel &model, const Work &work, float *const *state, bool into, int64_t first = 0) {
    for (int64_t i = 0; i < 2 * model.layers; i++) {
        if (!work.state[i]) continue;
        const int64_t cells = model.layer[i / 2].cells;
        float *theirs = state[i] + first * cells;
        if (into)
            copy_rows(work.state[i], work.stride, theirs, cells, work.rows, cells);
        else
            copy_rows(theirs, cells, work.state[i], work.stride, work.rows, cells);
    }
}

}  // namespace
}  // namespace scriven
