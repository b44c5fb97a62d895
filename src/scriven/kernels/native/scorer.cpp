// Scoring: rows of text through a packed model, shared among threads: the rows, or, of a few rows, the layers.
#include "forward_chunk.h"
#include "thread_team.h"
#include "workspace.h"

namespace scriven {
namespace {

constexpr int64_t ROWS = 64;                  // read together, at most
constexpr int64_t PLACES = 64;                // in a chunk of more than one step, at most
constexpr int64_t LOGITS = int64_t{1} << 18;  // likewise: more would leave the cache
constexpr int64_t FEW = 2 * rows_together;    // rows that are not shared: one product takes as long for fewer

int64_t steps_at_once(const PackedModel &model, int64_t rows) {
    const int64_t places = LOGITS / model.symbols < PLACES ? LOGITS / model.symbols : PLACES;
    return places > rows ? places / rows : 1;
}

int64_t most_outputs(const PackedModel &model) {
    int64_t most = 0;
    for (int64_t i = 0; i < model.layers; i++) {
        const PackedMatrix &input = model.layer[i].input;
        const int64_t outputs = input.data ? input.groups * input.width * block : 0;
        most = outputs > most ? outputs : most;
    }
    return most;
}

// For up to so many rows.
Passage lay_out(const PackedModel &model, int64_t rows, const Mixer &mixer, Arena &arena) {
    const int64_t places = rows > PLACES ? rows : PLACES;
    Passage passage = {};
    passage.step = lay_out_work(model, rows, arena);
    passage.chunk = lay_out_work(model, places, arena, false);
    Work &chunk = passage.chunk;
    float *y = arena.take<float>(rounded_up(places, rows_together) * chunk.stride);
    for (int64_t i = 0; chunk.state && i < model.layers; i++) chunk.state[2 * i] = y;
    passage.logits = arena.take<float>((rows + places) * chunk.logits_stride);
    passage.sums = arena.take<float>(places * most_outputs(model));
    passage.mixer = &mixer;
    passage.p = arena.take<double>(model.symbols);
    passage.mixed = arena.take<float>(chunk.logits_stride);
    passage.places = arena.take<int64_t>(places);
    for (int64_t place = 0; passage.places && place < places; place++) passage.places[place] = place;
    return passage;
}

void open_chunk(const ScorerRead &text, int64_t first, int64_t begin, int64_t steps, Passage &passage) {
    const int64_t place = begin * text.rows + first;
    passage.steps = begin + steps < text.steps ? steps : text.steps - begin;
    passage.apart = text.rows;
    passage.read = text.read + place;
    passage.ids = text.read + first - text.seen * text.rows;
    passage.before = text.seen + begin;
    passage.targets = text.targets + place;
    passage.nats = text.nats + place;
    passage.right = text.right + place;
    passage.chunk.rows = passage.steps * passage.step.rows;
    passage.chunk.logits = passage.logits + passage.step.rows * passage.chunk.logits_stride;
}

// The logits of a chunk's last step stand before those of the next chunk.
void pass_logits(const Passage &from, Passage &to) {
    const int64_t size = from.step.rows * from.chunk.logits_stride;
    memcpy(to.logits, from.logits + from.steps * size, size * sizeof(float));
}

// Rows `first` and so on, as many as the passages were opened for, by the members that share a chunk's layers: each has
// a chunk in a passage of its own, and hands it to the next member. Passages take turns. The output layer comes last.
void read_rows(const PackedModel &model, const ScorerRead &text, int64_t first, Passage *passages,
               const Member &member) {
    const int64_t at_once = steps_at_once(model, passages->step.rows), chunks = (text.steps + at_once - 1) / at_once;
    const Range layers = member.share(model.layers + 1);
    for (int64_t turn = 0; turn < chunks + member.count - 1; turn++) {
        const int64_t chunk = turn - member.index;
        if (0 <= chunk && chunk < chunks) {
            Passage &passage = passages[chunk % member.count];
            if (member.index == 0) open_chunk(text, first, chunk * at_once, at_once, passage);
            read_layers(model, passage, layers.begin, layers.end);
            if (member.index == member.count - 1) pass_logits(passage, passages[(chunk + 1) % member.count]);
        }
        member.wait();
    }
}

// Opens the passages for rows `first` to `first + rows`: what was read before them.
void open(const PackedModel &model, const ScorerRead &text, int64_t first, int64_t rows, Passage *passages, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        passages[i].step.rows = rows;
        for (int64_t j = 0; i > 0 && j < 2 * model.layers; j++) passages[i].step.state[j] = passages->step.state[j];
    }
    copy_state(model, passages->step, text.state, true, first);
    copy_rows(passages->logits, passages->chunk.logits_stride, text.logits + first * model.symbols, model.symbols, rows,
              model.symbols);
}

// What was read after them.
void close(const PackedModel &model, const ScorerRead &text, int64_t first, const Passage *passages, int64_t count) {
    const int64_t rows = passages->step.rows, at_once = steps_at_once(model, rows);
    const Passage &last = passages[(text.steps + at_once - 1) / at_once % count];
    copy_state(model, passages->step, text.state, false, first);
    copy_rows(text.logits + first * model.symbols, model.symbols, last.logits, last.chunk.logits_stride, rows,
              model.symbols);
}

void read_by_layers(const PackedModel &model, const ScorerRead &text, Passage *passages, int64_t threads) {
    run(threads, [&](const Member &member) {
        if (member.index == 0) open(model, text, 0, text.rows, passages, member.count);
        member.wait();
        read_rows(model, text, 0, passages, member);
        if (member.index == 0) close(model, text, 0, passages, member.count);
    });
}

void read_by_rows(const PackedModel &model, const ScorerRead &text, Passage *passages, int64_t threads) {
    run(threads, [&](const Member &member) {
        const Range share = member.share(rounded_up(text.rows, rows_together) / rows_together);
        const int64_t end = share.end * rows_together < text.rows ? share.end * rows_together : text.rows;
        for (int64_t first = share.begin * rows_together; first < end; first += ROWS) {
            Passage *own = passages + member.index;
            open(model, text, first, end - first < ROWS ? end - first : ROWS, own, 1);
            read_rows(model, text, first, own, {0, 1, nullptr});
            close(model, text, first, own, 1);
        }
    });
}

bool known(const int64_t *ids, int64_t count, int64_t symbols) {
    bool all = true;
    for (int64_t i = 0; i < count; i++) all &= 0 <= ids[i] && ids[i] < symbols;
    return all;
}

}  // namespace
}  // namespace scriven

// A row's numbers are the same for any number of threads, beside any other rows.
SCRIVEN_API int64_t scriven_scorer_read(const scriven::ScorerRead *call) {
    using namespace scriven;
    constexpr int64_t most = 64;
    const PackedModel &model = *call->model;
    const int64_t rows = call->rows, places = rows * call->steps;
    const int64_t seen = rows * call->seen;
    if (rows < 1 || call->steps < 1 || seen < 0 || model.symbols < 2 ||
        !known(call->read - seen, seen + places, model.symbols) || !known(call->targets, places, model.symbols))
        return bad_argument;
    const Mixer mixer(call->partner);
    if (mixer.failed()) return no_memory;
    const bool few = rows < FEW;
    const int64_t useful = few ? model.layers + 1 : rows / rows_together;
    int64_t threads = call->threads < useful ? call->threads : useful;
    threads = threads < 1 ? 1 : threads < most ? threads : most;
    const FlushDenormals flushed;
    Passage passages[most];
    Arena arena;
    for (int64_t i = 0; i < threads; i++) lay_out(model, rows < ROWS ? rows : ROWS, mixer, arena);
    if (!arena.allocate()) return no_memory;
    for (int64_t i = 0; i < threads; i++) passages[i] = lay_out(model, rows < ROWS ? rows : ROWS, mixer, arena);
    (few ? read_by_layers : read_by_rows)(model, *call, passages, threads);
    return ok;
}
