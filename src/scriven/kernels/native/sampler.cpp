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
    int64_t *seen;  // (window, rows): ids, a ring
};

Room lay_out(const Model &model, int64_t rows, int64_t window, Arena &arena) {
    Room room = {};
    room.work = lay_out_work(model, rows, arena);
    room.work.logits = arena.take<float>(padded_rows(rows) * room.work.logits_stride);
    room.desk.weights = arena.take<double>(room.work.logits_stride);
    room.desk.places = arena.take<int64_t>(room.work.logits_stride);
    room.desk.ids = arena.take<int64_t>(room.work.logits_stride);
    room.desk.candidates = arena.take<Candidate>(model.symbols + 1);
    room.seen = arena.take<int64_t>(window * rows);
    return room;
}

int64_t draw(const Kernels &kernels, const float *logits, int64_t count, const Drawing &drawing, double uniform,
             const Desk &desk) {
    if (drawing.temperature == 0) return likeliest(logits, count);
    kernels.weigh(logits, desk.weights, count, drawing.temperature);
    return pick(kernels, desk, count, drawing, uniform);
}

void zero_state(const Model &model, Work &work) {
    for (int64_t i = 0; i < 2 * model.layers; i++)
        if (work.state[i]) memset(work.state[i], 0, work.rows * work.stride * sizeof(float));
}

// The logits after the last ids that fit into the window, of which `count` were there, from zero states.
void look_through(const Kernels &kernels, const Model &model, const Room &room, Work &work, int64_t window,
                  int64_t count) {
    zero_state(model, work);
    const int64_t first = count < window ? 0 : count - window;
    for (int64_t place = first; place < count; place++)
        kernels.read(model, work, room.seen + place % window * work.rows, place == count - 1);
}

// Write the rows from `begin` to before `end` of a writing, while others write its others. Whether there was memory.
bool write_rows(const Kernels &kernels, const Model &model, const Writing &writing, int64_t begin, int64_t end) {
    Arena arena;
    lay_out(model, end - begin, writing.window, arena);
    if (!arena.allocate()) return false;
    Room room = lay_out(model, end - begin, writing.window, arena);
    Work &work = room.work;
    float *logits = writing.logits + begin * model.symbols;
    copy_state(model, work, writing.state, true, begin);
    copy_rows(work.logits, work.logits_stride, logits, model.symbols, work.rows, model.symbols);
    for (int64_t place = 0; place < writing.seen; place++)
        memcpy(room.seen + place * work.rows, writing.recent + place * writing.rows + begin, work.rows * sizeof(int64_t));
    for (int64_t step = 0; step < writing.count; step++) {
        const int64_t first = step * writing.rows + begin;
        for (int64_t row = 0; row < work.rows; row++)
            writing.ids[first + row] = draw(kernels, work.logits + row * work.logits_stride, model.symbols - 1,
                                         writing.drawing[begin + row], writing.uniforms[first + row], room.desk);
        if (writing.window) {
            const int64_t count = writing.seen + step;
            memcpy(room.seen + count % writing.window * work.rows, writing.ids + first, work.rows * sizeof(int64_t));
            look_through(kernels, model, room, work, writing.window, count + 1);
        } else {
            kernels.read(model, work, writing.ids + first, true);
        }
    }
    if (!writing.window) copy_state(model, work, writing.state, false, begin);
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
    if (writing->rows < 1 || writing->count < 0 || model->symbols < 2 || writing->seen > writing->window)
        return bad_argument;
    std::atomic<bool> wrote{true};
    run(threads, [&](const Member &member) {
        const Range tiles = member.share(rounded_up(writing->rows, rows_together) / rows_together);
        const int64_t end = tiles.end * rows_together < writing->rows ? tiles.end * rows_together : writing->rows;
        if (tiles.begin < tiles.end && !write_rows(*kernels, *model, *writing, tiles.begin * rows_together, end))
            wrote = false;
    });
    return wrote ? ok : no_memory;
}
