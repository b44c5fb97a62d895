// Writing: draws an id for every row, reads it, and repeats that. One call makes many ids.
#include <atomic>

#include "counts_mix.h"
#include "forward_step.h"
#include "thread_team.h"
#include "workspace.h"

namespace scriven {
namespace {

constexpr int64_t most_members = 64;  // threads that share the weights

struct Workspace {
    Work work;
    DrawBuffers buffers;
    int64_t *ids;  // (seen + count, rows): those before the call, and those drawn
    double *p;     // (V,)
    float *mixed;  // (V,) and padding
    float *obeying;   // likewise: the logits that a rule leaves
    int64_t *states;  // (rows,) of the rules
    float *adjusted;  // (V,) and padding: the logits with penalties
    int64_t *written;  // (rows, longest_past + count): what rows with a past have written
    double *bounds;    // (rows,) of mirostat
};

Workspace lay_out(const PackedModel &model, const SamplerWrite &writing, int64_t rows, Arena &arena) {
    Workspace workspace = {};
    workspace.work = lay_out_work(model, rows, arena);
    workspace.work.logits = arena.take<float>(padded_rows(rows) * workspace.work.logits_stride);
    workspace.buffers.weights = arena.take<double>(workspace.work.logits_stride);
    workspace.buffers.places = arena.take<int64_t>(workspace.work.logits_stride);
    workspace.buffers.ids = arena.take<int64_t>(workspace.work.logits_stride);
    workspace.buffers.candidates = arena.take<Candidate>(model.symbols + 1);
    workspace.ids = arena.take<int64_t>((writing.seen + writing.count) * rows);
    workspace.p = arena.take<double>(model.symbols);
    workspace.mixed = arena.take<float>(workspace.work.logits_stride);
    workspace.obeying = arena.take<float>(workspace.work.logits_stride);
    workspace.states = arena.take<int64_t>(rows);
    if (writing.pasts) {
        workspace.adjusted = arena.take<float>(workspace.work.logits_stride);
        workspace.written = arena.take<int64_t>(rows * (writing.longest_past + writing.count));
        workspace.bounds = arena.take<double>(rows);
    }
    return workspace;
}

int64_t draw(const float *logits, int64_t count, const Drawing &drawing, double uniform,
             const DrawBuffers &buffers, const Written *written) {
    if (drawing.temperature == 0) return likeliest(logits, count);
    weigh(logits, buffers.weights, count, drawing.temperature);
    return written ? pick_after(*written, buffers, count, drawing, uniform) : pick(buffers, count, drawing, uniform);
}

// Draws as a rule allows, and moves the row's state. <unk> is the end of the text, and all that comes after it.
int64_t draw_by(const RowRule &rule, int64_t &state, int64_t left, const float *logits, int64_t symbols,
                const Drawing &drawing, double uniform, const Workspace &workspace, const Written *written) {
    const bool any = constrain(logits, symbols, rule, state, left, workspace.buffers, workspace.obeying);
    const int64_t id =
        any ? draw(workspace.obeying, symbols, drawing, uniform, workspace.buffers, written) : symbols - 1;
    state = id == symbols - 1 ? -1 : rule.next[state * rule.width + rule.columns[id]];
    return id;
}

// Sets the zero state for all members, before any of them continues.
void zero_state(const PackedModel &model, const Work &work) {
    for (int64_t i = 0; work.member.index == 0 && i < 2 * model.layers; i++)
        if (work.state[i]) memset(work.state[i], 0, work.rows * work.stride * sizeof(float));
    work.member.wait();
}

// Makes the logits after the last ids that fit into the window, from zero states. There are `count` ids.
void look_through(const PackedModel &model, const Workspace &workspace, Work &work, int64_t window,
                  int64_t count) {
    zero_state(model, work);
    const int64_t first = count < window ? 0 : count - window;
    for (int64_t place = first; place < count; place++)
        read(model, work, workspace.ids + place * work.rows, place == count - 1);
}

// Copies the state and logits before the call into the workspace, for the rows from `begin` on.
void open(const PackedModel &model, const SamplerWrite &writing, int64_t begin, const Workspace &workspace) {
    const Work &work = workspace.work;
    copy_state(model, work, writing.state, true, begin);
    copy_rows(work.logits, work.logits_stride, writing.logits + begin * model.symbols, model.symbols, work.rows,
              model.symbols);
}

// Copies the state and logits after the call back.
void close(const PackedModel &model, const SamplerWrite &writing, int64_t begin, const Workspace &workspace) {
    const Work &work = workspace.work;
    if (!writing.window) copy_state(model, work, writing.state, false, begin);
    copy_rows(writing.logits + begin * model.symbols, model.symbols, work.logits, work.logits_stride, work.rows,
              model.symbols);
}

// The logits to draw a row's id from, which is the one at `place` of its ids.
const float *logits_of(int64_t row, int64_t place, const Mixer &mixer, const Workspace &workspace) {
    const Work &work = workspace.work;
    const float *own = work.logits + row * work.logits_stride;
    if (!mixer || !place) return own;
    mixer.mix({workspace.ids + row, work.rows, mixer.boundary()}, place, own, workspace.p, workspace.mixed);
    return workspace.mixed;
}

// Draws a row's next id. `written` is null where the row has no past.
int64_t draw_row(const PackedModel &model, const SamplerWrite &writing, int64_t begin, int64_t row, int64_t step,
                 const float *logits, const Workspace &workspace, const Written *written) {
    const Drawing &drawing = writing.drawing[begin + row];
    const double uniform = writing.uniforms[step * writing.rows + begin + row];
    const RowRule *rule = writing.rules ? writing.rules + begin + row : nullptr;
    if (rule && rule->next)
        return draw_by(*rule, workspace.states[row], rule->left - step, logits, model.symbols, drawing, uniform,
                       workspace, written);
    return draw(logits, model.symbols - 1, drawing, uniform, workspace.buffers, written);
}

// The same for a row with a past: from logits with penalties, and notes the id. <unk> is the end of a text for which
// nothing is left.
int64_t draw_after(const PackedModel &model, const SamplerWrite &writing, int64_t begin, int64_t row, int64_t step,
                   const float *logits, const Workspace &workspace) {
    const RowPast &past = writing.pasts[begin + row];
    int64_t *ids = workspace.written + row * (writing.longest_past + writing.count);
    const int64_t count = past.count + step;
    const Written written = {past, ids, count, workspace.bounds[row]};
    const bool any = adjust(logits, model.symbols, written, workspace.buffers, workspace.adjusted);
    return ids[count] = any ? draw_row(model, writing, begin, row, step, workspace.adjusted, workspace, &written)
                            : model.symbols - 1;
}

// Copies what rows have written before the call into the workspace.
void open_pasts(const SamplerWrite &writing, int64_t begin, const Workspace &workspace) {
    for (int64_t row = 0; writing.pasts && row < workspace.work.rows; row++) {
        const RowPast &past = writing.pasts[begin + row];
        if (!past.bound) continue;
        const int64_t at = row * (writing.longest_past + writing.count);
        for (int64_t i = 0; i < past.count; i++) workspace.written[at + i] = past.ids[i];
        workspace.bounds[row] = *past.bound;
    }
}

// Copies the bounds after the call back.
void close_pasts(const SamplerWrite &writing, int64_t begin, const Workspace &workspace) {
    for (int64_t row = 0; writing.pasts && row < workspace.work.rows; row++)
        if (writing.pasts[begin + row].bound) *writing.pasts[begin + row].bound = workspace.bounds[row];
}

// Draws and reads. Members that share the rows all draw the same ids, and the first one writes them.
void write_rows(const PackedModel &model, const SamplerWrite &writing, const Mixer &mixer, int64_t begin,
                Workspace &workspace) {
    Work &work = workspace.work;
    const int64_t bytes = work.rows * int64_t(sizeof(int64_t));
    for (int64_t place = 0; place < writing.seen; place++)
        memcpy(workspace.ids + place * work.rows, writing.recent + place * writing.rows + begin, bytes);
    for (int64_t row = 0; writing.rules && row < work.rows; row++)
        workspace.states[row] = writing.rules[begin + row].state;
    open_pasts(writing, begin, workspace);
    for (int64_t step = 0; step < writing.count; step++) {
        const int64_t first = step * writing.rows + begin, place = writing.seen + step;
        int64_t *ids = workspace.ids + place * work.rows;
        for (int64_t row = 0; row < work.rows; row++) {
            const float *logits = logits_of(row, place, mixer, workspace);
            ids[row] = writing.pasts && writing.pasts[begin + row].bound
                           ? draw_after(model, writing, begin, row, step, logits, workspace)
                           : draw_row(model, writing, begin, row, step, logits, workspace, nullptr);
        }
        if (work.member.index == 0) memcpy(writing.ids + first, ids, bytes);
        if (writing.window)
            look_through(model, workspace, work, writing.window, place + 1);
        else
            read(model, work, ids, true);
    }
    if (writing.pasts) {
        work.member.wait();  // until all have read the bounds
        if (work.member.index == 0) close_pasts(writing, begin, workspace);
    }
}

// Each member has its own rows. Returns whether there was enough memory.
bool write_apart(const PackedModel &model, const SamplerWrite &writing, const Mixer &mixer) {
    std::atomic<bool> wrote{true};
    run(writing.threads, [&](const Member &member) {
        const Range tiles = member.share(rounded_up(writing.rows, rows_together) / rows_together);
        const int64_t begin = tiles.begin * rows_together, end = tiles.end * rows_together;
        const int64_t rows = (end < writing.rows ? end : writing.rows) - begin;
        if (rows <= 0) return;
        Arena arena;
        lay_out(model, writing, rows, arena);
        if (!arena.allocate()) {
            wrote = false;
            return;
        }
        Workspace workspace = lay_out(model, writing, rows, arena);
        open(model, writing, begin, workspace);
        write_rows(model, writing, mixer, begin, workspace);
        close(model, writing, begin, workspace);
    });
    return wrote;
}

// All members have all rows, and each computes its own groups of every matrix. So each core's share of the weights stays
// in its cache. Returns whether there was enough memory.
bool write_together(const PackedModel &model, const SamplerWrite &writing, const Mixer &mixer) {
    const int64_t threads = writing.threads < most_members ? writing.threads : most_members;
    Workspace workspaces[most_members];
    Arena arena;
    for (int64_t i = 0; i < threads; i++) lay_out(model, writing, writing.rows, arena);
    if (!arena.allocate()) return false;
    for (int64_t i = 0; i < threads; i++) {
        workspaces[i] = lay_out(model, writing, writing.rows, arena);
        workspaces[i].work.state = workspaces->work.state;
        workspaces[i].work.logits = workspaces->work.logits;
    }
    open(model, writing, 0, *workspaces);
    run(threads, [&](const Member &member) {
        workspaces[member.index].work.member = member;
        write_rows(model, writing, mixer, 0, workspaces[member.index]);
    });
    close(model, writing, 0, *workspaces);
    return true;
}

}  // namespace
}  // namespace scriven

// Writes ids in up to `threads` threads, which share the rows, or the weights if there are few rows. The last symbol,
// <unk>, is never drawn, but where it ends a text that obeys a rule, or one for which nothing is left.
SCRIVEN_API int64_t scriven_sampler_write(const scriven::SamplerWrite *call) {
    using namespace scriven;
    const PackedModel &model = *call->model;
    if (call->rows < 1 || call->count < 0 || model.symbols < 2 || call->seen < 0) return bad_argument;
    const Mixer mixer(call->partner);
    if (mixer.failed()) return no_memory;
    const bool together = call->threads > 1 && call->rows <= rows_together;
    return (together ? write_together : write_apart)(model, *call, mixer) ? ok : no_memory;
}
