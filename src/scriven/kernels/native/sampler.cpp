// Writing: draw an id for every row, read it, and so on. One call makes many ids.
#include <atomic>

#include "forward_step.h"
#include "thread_team.h"
#include "workspace.h"

namespace scriven {
namespace {

constexpr int64_t most_members = 64;  // that share weights

struct Room {
    Work work;
    Desk desk;
    int64_t *seen;  // (window, rows): ids, a ring; without a window the last ones
};

Room lay_out(const PackedModel &model, int64_t rows, int64_t window, Arena &arena) {
    Room room = {};
    room.work = lay_out_work(model, rows, arena);
    room.work.logits = arena.take<float>(padded_rows(rows) * room.work.logits_stride);
    room.desk.weights = arena.take<double>(room.work.logits_stride);
    room.desk.places = arena.take<int64_t>(room.work.logits_stride);
    room.desk.ids = arena.take<int64_t>(room.work.logits_stride);
    room.desk.candidates = arena.take<Candidate>(model.symbols + 1);
    room.seen = arena.take<int64_t>((window ? window : 1) * rows);
    return room;
}

int64_t draw(const float *logits, int64_t count, const Drawing &drawing, double uniform,
             const Desk &desk) {
    if (drawing.temperature == 0) return likeliest(logits, count);
    weigh(logits, desk.weights, count, drawing.temperature);
    return pick(desk, count, drawing, uniform);
}

// The zero state for all members, before any of them goes on.
void zero_state(const PackedModel &model, const Work &work) {
    for (int64_t i = 0; work.member.index == 0 && i < 2 * model.layers; i++)
        if (work.state[i]) memset(work.state[i], 0, work.rows * work.stride * sizeof(float));
    work.member.wait();
}

// The logits after the last ids that fit into the window, of which `count` were there, from zero states.
void look_through(const PackedModel &model, const Room &room, Work &work, int64_t window,
                  int64_t count) {
    zero_state(model, work);
    const int64_t first = count < window ? 0 : count - window;
    for (int64_t place = first; place < count; place++)
        read(model, work, room.seen + place % window * work.rows, place == count - 1);
}

// What was there before: of a writing's rows, those from `begin` on are the room's.
void open(const PackedModel &model, const SamplerWrite &writing, int64_t begin, const Room &room) {
    const Work &work = room.work;
    copy_state(model, work, writing.state, true, begin);
    copy_rows(work.logits, work.logits_stride, writing.logits + begin * model.symbols, model.symbols, work.rows,
              model.symbols);
}

// What is there after it.
void close(const PackedModel &model, const SamplerWrite &writing, int64_t begin, const Room &room) {
    const Work &work = room.work;
    if (!writing.window) copy_state(model, work, writing.state, false, begin);
    copy_rows(writing.logits + begin * model.symbols, model.symbols, work.logits, work.logits_stride, work.rows,
              model.symbols);
}

// Draw and read. Members that share the rows draw alike, each for itself; the first one tells what.
void write_rows(const PackedModel &model, const SamplerWrite &writing, int64_t begin, Room &room) {
    Work &work = room.work;
    const int64_t bytes = work.rows * int64_t(sizeof(int64_t));
    for (int64_t place = 0; place < writing.seen; place++)
        memcpy(room.seen + place * work.rows, writing.recent + place * writing.rows + begin, bytes);
    for (int64_t step = 0; step < writing.count; step++) {
        const int64_t first = step * writing.rows + begin, count = writing.seen + step;
        int64_t *ids = room.seen + (writing.window ? count % writing.window * work.rows : 0);
        for (int64_t row = 0; row < work.rows; row++)
            ids[row] = draw(work.logits + row * work.logits_stride, model.symbols - 1,
                            writing.drawing[begin + row], writing.uniforms[first + row], room.desk);
        if (work.member.index == 0) memcpy(writing.ids + first, ids, bytes);
        if (writing.window)
            look_through(model, room, work, writing.window, count + 1);
        else
            read(model, work, ids, true);
    }
}

// Each member has rows of its own. Whether there was memory.
bool write_apart(const PackedModel &model, const SamplerWrite &writing) {
    std::atomic<bool> wrote{true};
    run(writing.threads, [&](const Member &member) {
        const Range tiles = member.share(rounded_up(writing.rows, rows_together) / rows_together);
        const int64_t begin = tiles.begin * rows_together, end = tiles.end * rows_together;
        const int64_t rows = (end < writing.rows ? end : writing.rows) - begin;
        if (rows <= 0) return;
        Arena arena;
        lay_out(model, rows, writing.window, arena);
        if (!arena.allocate()) {
            wrote = false;
            return;
        }
        Room room = lay_out(model, rows, writing.window, arena);
        open(model, writing, begin, room);
        write_rows(model, writing, begin, room);
        close(model, writing, begin, room);
    });
    return wrote;
}

// All members have all rows, and of every matrix the groups that are theirs: their shares of the weights stay in the
// caches of their cores. Whether there was memory.
bool write_together(const PackedModel &model, const SamplerWrite &writing) {
    const int64_t threads = writing.threads < most_members ? writing.threads : most_members;
    Room rooms[most_members];
    Arena arena;
    for (int64_t i = 0; i < threads; i++) lay_out(model, writing.rows, writing.window, arena);
    if (!arena.allocate()) return false;
    for (int64_t i = 0; i < threads; i++) {
        rooms[i] = lay_out(model, writing.rows, writing.window, arena);
        rooms[i].work.state = rooms->work.state;
        rooms[i].work.logits = rooms->work.logits;
    }
    open(model, writing, 0, *rooms);
    run(threads, [&](const Member &member) {
        rooms[member.index].work.member = member;
        write_rows(model, writing, 0, rooms[member.index]);
    });
    close(model, writing, 0, *rooms);
    return true;
}

}  // namespace
}  // namespace scriven

// Writes ids in up to so many threads, which share the rows, or the weights if there are few rows. The last symbol,
// <unk>, is never drawn.
SCRIVEN_API int64_t scriven_sampler_write(const scriven::SamplerWrite *call) {
    using namespace scriven;
    const PackedModel &model = *call->model;
    if (call->rows < 1 || call->count < 0 || model.symbols < 2 || call->seen > call->window) return bad_argument;
    const bool together = call->threads > 1 && call->rows <= rows_together;
    return (together ? write_together : write_apart)(model, *call) ? ok : no_memory;
}
