// Writing: draw an id for every row, read it, and so on. One call makes many ids.
#include "sampler_room.h"

namespace scriven {
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

namespace {

struct Room {
    Work work;
    double *weights;
    Candidate *candidates;
};

Room lay_out(const Model &model, int64_t rows, Arena &arena) {
    Room room = {};
    room.work = lay_out_work(model, rows, arena);
    room.work.logits = arena.take<float>(rounded_up(rows, rows_together) * room.work.logits_stride);
    room.weights = arena.take<double>(room.work.logits_stride);
    room.candidates = arena.take<Candidate>(model.symbols + 1);
    return room;
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
