// Writing: draw an id for every row, read it, and so on. One call makes many ids.
#include "sampler.h"

#include <cstdlib>
#include <initializer_list>

namespace scriven {
namespace {

const Kernels *kernels_of(int64_t level, bool vnni) {
    switch (level) {
        case portable: return &sampler_portable;
#if SCRIVEN_HAS_AVXVNNI
        case avx2: return vnni ? &sampler_avxvnni : &sampler_avx2;
#elif SCRIVEN_HAS_AVX2
        case avx2: return &sampler_avx2;
#endif
#if SCRIVEN_HAS_AVX512
        case avx512: return &sampler_avx512;
#endif
#if SCRIVEN_HAS_AMX
        case amx: return &sampler_amx;
#endif
        default: return vnni ? nullptr : nullptr;
    }
}

constexpr int64_t rounded_up(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

// Pieces of one buffer of zeros, each at a multiple of 64 bytes. Counts only, as long as there is no buffer.
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

struct Room {
    Work work;
    double *weights;
    Candidate *candidates;
};

int64_t inputs_of(const Matrix &matrix, int64_t precision) {
    return matrix.chunks * (precision == int8 ? 4 : precision == bf16 ? 2 : 1);
}

// How long a row of floats must be, so that every array of a model fits in it.
int64_t longest_row(const Model &model) {
    int64_t longest = inputs_of(model.head, model.precision);
    for (int64_t i = 0; i < model.layers; i++) {
        const Layer &layer = model.layer[i];
        for (int64_t size : {inputs_of(layer.input, model.precision), inputs_of(layer.hidden, model.precision),
                             layer.hidden.groups * block * (model.cell == rnn ? layer.hidden.width : 1)})
            longest = size > longest ? size : longest;
    }
    return longest;
}

Room lay_out(const Model &model, int64_t rows, Arena &arena) {
    Room room = {};
    Work &work = room.work;
    const int64_t all = rounded_up(rows, rows_together), sums = rows_together * widest * block;  // tiles have 16 rows
    work.rows = rows;
    // Not a multiple of 4096 bytes: rows would all fall in the same few sets of the cache.
    work.stride = rounded_up(longest_row(model), 64) + block;
    work.operand_stride = work.stride * int64_t(model.precision == int8 ? 1 : sizeof(float)) + 64;
    work.operand_stride = rounded_up(work.operand_stride, 64);
    work.logits_stride = rounded_up(model.symbols, block);
    if (model.head.data) work.logits_stride = model.head.groups * model.head.width * block;
    work.state = arena.take<float *>(2 * model.layers);
    for (int64_t i = 0; i < 2 * model.layers; i++) {
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
    work.logits = arena.take<float>(all * work.logits_stride);
    room.weights = arena.take<double>(work.logits_stride);
    room.candidates = arena.take<Candidate>(model.symbols + 1);
    return room;
}

// Copies rows between the caller's dense arrays and the work's padded ones.
void copy_rows(float *to, int64_t to_stride, const float *from, int64_t from_stride, int64_t rows, int64_t count) {
    for (int64_t row = 0; row < rows; row++)
        memcpy(to + row * to_stride, from + row * from_stride, count * sizeof(float));
}

void copy_state(const Model &model, Work &work, float *const *state, bool into) {
    for (int64_t i = 0; i < 2 * model.layers; i++) {
        if (!work.state[i]) continue;
        const int64_t cells = model.layer[i / 2].cells;
        if (into)
            copy_rows(work.state[i], work.stride, state[i], cells, work.rows, cells);
        else
            copy_rows(state[i], cells, work.state[i], work.stride, work.rows, cells);
    }
}

int64_t draw(const Kernels &kernels, const float *logits, int64_t count, const Drawing &drawing, double uniform,
             Room &room) {
    if (drawing.temperature == 0) return likeliest(logits, count);
    kernels.weigh(logits, room.weights, count, drawing.temperature);
    return pick(room.weights, count, drawing, uniform, room.candidates);
}

}  // namespace
}  // namespace scriven

// Write `count` ids a row, ids (count, N), each drawn with its number in uniforms (count, N) from the logits (N, V) and
// then read. The state, 2 arrays (N, cells) a layer (h, and an lstm's c), and the logits are changed to those after the
// last id. The last symbol, <unk>, is never drawn. `vnni`: whether the processor has AVX-VNNI.
SCRIVEN_API int64_t scriven_sampler_write(int64_t level, int64_t vnni, const scriven::Model *model, int64_t rows,
                                          int64_t count, const double *uniforms, const scriven::Drawing *drawing,
                                          float *const *state, float *logits, int64_t *ids) {
    using namespace scriven;
    const Kernels *kernels = kernels_of(level, vnni);
    if (!kernels) return no_such_level;
    if (rows < 1 || count < 0 || model->symbols < 2) return bad_argument;
    const FlushDenormals flushed;
    Arena arena;
    lay_out(*model, rows, arena);
    if (!arena.allocate()) return no_memory;
    Room room = lay_out(*model, rows, arena);
    Work &work = room.work;
    copy_state(*model, work, state, true);
    copy_rows(work.logits, work.logits_stride, logits, model->symbols, rows, model->symbols);
    for (int64_t step = 0; step < count; step++, ids += rows, uniforms += rows) {
        for (int64_t row = 0; row < rows; row++)
            ids[row] = draw(*kernels, work.logits + row * work.logits_stride, model->symbols - 1, *drawing,
                            uniforms[row], room);
        kernels->read(*model, work, ids);
    }
    copy_state(*model, work, state, false);
    copy_rows(logits, model->symbols, work.logits, work.logits_stride, rows, model->symbols);
    return ok;
}
