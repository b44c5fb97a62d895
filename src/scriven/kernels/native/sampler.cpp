// Writing: draw an id for every row, read it, and so on. One call makes many ids.
#include <atomic>

#include "sampler_room.h"
#include "team.h"

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
    Desk desk;
};

Room lay_out(const Model &model, int64_t rows, Arena &arena) {
    Room room = {};
    room.work = lay_out_work(model, rows, arena);
    room.work.logits = arena.take<float>(padded_rows(rows) * room.work.logits_stride);
    room.desk.weights = arena.take<double>(room.work.logits_stride);
    room.desk.places = arena.take<int64_t>(room.work.logits_stride);
    room.desk.ids = arena.take<int64_t>(room.work.logits_stride);
    room.desk.candidates = arena.take<Candidate>(model.symbols + 1);
    return room;
}

int64_t draw(const Kernels &kernels, const float *logits, int64_t count, const Drawing &drawing, double uniform,
             const Desk &desk) {
    if (drawing.temperature == 0) return likeliest(logits, count);
    kernels.weigh(logits, desk.weights, count, drawing.temperature);
    return pick(kernels, desk, count, drawing, uniform);
}

// Write the rows from `begin` to before `end` of a writing, while others write its others. Whether there was memory.
bool write_rows(const Kernels &kernels, const Model &model, const Writing &writing, int64_t begin, int64_t end) {
    Arena arena;
    lay_out(model, end - begin, arena);
    if (!arena.allocate()) return false;
    Room room = lay_out(model, end - begin, arena);
    Work &work = room.work;
    float *logits = writing.logits + begin * model.symbols;
    copy_state(model, work, writing.state, true, begin);
    copy_rows(work.logits, work.logits_stride, logits, model.symbols, work.rows, model.symbols);
    for (int64_t step = 0; step < writing.count; step++) {
        const int64_t first = step * writing.rows + begin;
        for (int64_t row = 0; row < work.rows; row++)
            writing.ids[first + row] = draw(kernels, work.logits + row * work.logits_stride, model.symbols - 1,
                                         writing.drawing[begin + row], writing.uniforms[first + row], room.desk);
        kernels.read(model, work, writing.ids + first);
    }
    copy_state(model, work, writing.state, false, begin);
    copy_rows(logits, model.symbols, work.logits, work.logits_stride, work.rows, model.symbols);
    return true;
}

}  // namespace
}  // namespace scriven

// Write ids, as Writing says, in up to so many threads. The last symbol, <unk>, is never drawn. `vnni`: whether the
// processor has AVX-VNNI.
SCRIVEN_API int64_t scriven_sampler_write(int64_t level, int64_t vnni, const scriven::Model *model,
                                          const scriven::Writing *writing, int64_t threads) {
    using namespace scriven;
    const Kernels *kernels = kernels_of(level, vnni);
    if (!kernels) return no_such_level;
    if (writing->rows < 1 || writing->count < 0 || model->symbols < 2) return bad_argument;
    std::atomic<bool> wrote{true};
    run(threads, [&](const Member &member) {
        const Range tiles = member.share(rounded_up(writing->rows, rows_together) / rows_together);
        const int64_t end = tiles.end * rows_together < writing->rows ? tiles.end * rows_together : writing->rows;
        if (tiles.begin < tiles.end && !write_rows(*kernels, *model, *writing, tiles.begin * rows_together, end))
            wrote = false;
    });
    return wrote ? ok : no_memory;
}
