// All steps of a recurrent layer, forwards and backwards, in bf16 tiles with sums in fp32.
//
// The left factor of a step is the state, and beside it what the layer reads, where its sums were not made before: by
// one product, or in a table with a row a symbol. A team of threads shares the rows, where there are enough of them and a
// product takes as few as there are (Grid), and goes through all steps without waiting. Otherwise it shares the groups
// of 32 cells, so that each keeps its part of the packed weights in its own cache; they meet after every step then, since
// a product needs the whole state. 64 rows are worked on at a time, so that what they need stays in the cache as well.
// While tiles of one group are multiplied, the cells of the group before are computed.
#include <utility>

#include "bf16_vectors.h"
#include "calls.h"

#include "recurrent_cells.h"
#include "thread_team.h"

namespace scriven {
namespace {

constexpr int64_t ROWS = 64;  // worked on at a time
constexpr int64_t AHEAD = 4;  // rows between the one that is written and the one that is fetched for it

struct Shape {
    int64_t steps, rows, cells, inputs;  // T, N, H, and D: 0 where nothing is read here
    int64_t groups() const { return groups_of(cells); }
};

// Does the rows of one group of cells, a few after each part of the next product.
template <class Pass> struct Pending {
    const Pass *pass;
    typename Pass::Unit unit{};
    int64_t rows = 0, next = 0, credit = 0, parts = 1;
    const float *sums = nullptr;

    void operator()() {
        for (credit += rows; credit >= parts; credit -= parts) one();
    }
    void finish() {
        while (next < rows) one();
        rows = next = 0;
    }
    void one() {
        pass->row(unit, next, sums + next * GROUP);
        ++next;
    }
};

// Every step of a pass over `rows` rows: the products of each of this member's groups of cells with each 32 rows, and
// then the cells.
template <class Pass>
void sweep(const Pass &pass, const Member &member, int64_t steps, Range groups, int64_t rows, float *sums) {
    const int64_t pairs = groups_of(rows), places = (groups.end - groups.begin) * pairs, parts = pass.parts;
    Pending<Pass> pending{&pass};
    float *own = sums, *other = sums + Pass::products * SQUARE;
    for (int64_t step = 0; step < steps; ++step) {
        member.wait();  // for the left factors, of which all members have made a part
        pass.read(step + 1, rows, member);
        for (int64_t place = 0; place < places; ++place) {
            // There and back again, so that the weights used last are used next and still in the cache.
            const int64_t pair = place % pairs, past = place / pairs;
            const int64_t group = step % 2 ? groups.end - 1 - past : groups.begin + past;
            const bf16 *left = pass.left(step, pair), *right = pass.right + group * Pass::products * parts * 2 * TILE;
            const int64_t here = rows - pair * GROUP < GROUP ? rows - pair * GROUP : GROUP;
            for (int64_t p = 0; p < Pass::products; ++p, right += parts * 2 * TILE)
                product(left, right, parts, own + p * SQUARE, false, here, pending);
            pending.finish();
            pending = {&pass, pass.unit(step, group, pair), here, 0, 0, Pass::products * parts, own};
            std::swap(own, other);
        }
        pending.finish();
    }
}

// How a team shares a pass: by rows, if they are as many for each member, or so many that it does not matter.
struct Grid {
    static constexpr int64_t many = 8;
    int64_t members;
    bool by_rows;

    Grid(int64_t threads, int64_t rows, int64_t groups) {
        const int64_t blocks = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
        by_rows = ROWS_AT_ONCE < GROUP && threads > 1 && (blocks % threads == 0 || blocks >= many * threads);
        members = by_rows || threads < groups ? threads : groups;
    }
    // The rows of a member, and the member alone with them or in the team for all.
    Range rows_of(const Member &member, int64_t rows) const {
        if (!by_rows) return {0, rows};
        const Range blocks = member.share((rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
        return {blocks.begin * ROWS_AT_ONCE, blocks.end * ROWS_AT_ONCE < rows ? blocks.end * ROWS_AT_ONCE : rows};
    }
    Member team_of(const Member &member) const { return by_rows ? Member{0, 1, nullptr} : member; }
};

// What both passes hold: the left factors of this step and of the next one in tiles, and what goes from step to step,
// of each set of rows.
struct Scratch {
    Scratch(int64_t groups, int64_t products, int64_t parts, const Grid &grid)
        : sets(grid.by_rows ? grid.members : 1), each_left(2 * ROWS / GROUP * parts * SQUARE),
          each_carry(ROWS * groups * GROUP), left(sets * each_left), carry(sets * each_carry),
          sums(grid.members * 2 * products * SQUARE), right(groups * products * parts * 2 * TILE) {}
    bool made() const { return left && carry && sums && right; }
    int64_t sets, each_left, each_carry;
    Buffer<bf16> left;
    Buffer<float> carry, sums;  // carry: (groups, ROWS, 32)
    Buffer<bf16> right;
};

struct Common {
    Shape shape;
    const uint8_t *fresh;  // (T, N) or null
    int64_t first, parts;  // row of the layer that is row 0 here; parts of a left factor
    bf16 *tiles;
    float *carry;
    const bf16 *right;

    bf16 *left(int64_t step, int64_t pair) const {
        return tiles + (step % 2 * (ROWS / GROUP) + pair) * parts * 2 * TILE;
    }
    // Where the first of 32 rows stands in part `part` of the left factor of a step; others follow.
    bf16 *place(int64_t step, int64_t pair, int64_t part) const { return left(step, pair) + part * 2 * TILE; }
    float *carried(int64_t group, int64_t row) const { return carry + (group * ROWS + row) * GROUP; }
    // Of the rows from n on, which ones start afresh at t; null where none does.
    const uint8_t *forgotten(int64_t t, int64_t n) const {
        return fresh && t < shape.steps ? fresh + t * shape.rows + n : nullptr;
    }
};

struct ForwardArguments {
    const bf16 *input;   // (T, N, gates * H), with ids (V, gates * H), with x (gates * H)
    const int64_t *ids;  // (T, N) or null
    const float *bias;   // (H,), of the GRU's new value from the hidden state, or null
    const bf16 *x;       // (T, N, D), or null
    const float *h, *c;  // (N, H) before; c is null but for the LSTM
    bf16 *y;             // (T, N, H)
    bf16 *kept;          // (T, groups, N, kept, 32), or null where nobody asks for gradients
    float *h_after, *c_after;
};

template <class Cell> struct Forward : Common, ForwardArguments {
    static constexpr int gates = Cell::gates, products = gates;

    // 32 cells of up to 32 rows in one step: where everything of the first row is.
    struct Unit {
        const bf16 *input;
        const int64_t *ids;
        const float *bias;
        const uint8_t *forgotten;
        float *carry, *h_after, *c_after;
        bf16 *y, *next, *kept;
        __mmask32 there;
    };

    Unit unit(int64_t t, int64_t group, int64_t pair) const {
        const int64_t n = first + pair * GROUP, at = t * shape.rows + n, cell = group * GROUP;
        const int64_t in_state = n * shape.cells + cell;
        const bool last = t == shape.steps - 1;
        return {input + (ids ? 0 : at * stride()) + cell,
                ids ? ids + at : nullptr,
                bias ? bias + cell : nullptr,
                forgotten(t + 1, n),
                carried(group, pair * GROUP),
                last ? h_after + in_state : nullptr,
                last && c_after ? c_after + in_state : nullptr,
                y + at * shape.cells + cell,
                place(t + 1, pair, group),
                kept ? kept + ((t * shape.groups() + group) * shape.rows + n) * Cell::kept * GROUP : nullptr,
                lanes32(shape.cells - cell)};
    }

    // From a row of `input` to the next one.
    int64_t stride() const { return x ? 0 : Cell::gates * shape.cells; }

    // This member's part of what is read at t, as left factors beside those of the state.
    void read(int64_t t, int64_t rows, const Member &member) const {
        if (!x || t >= shape.steps) return;
        const Range groups = member.share(groups_of(shape.inputs));
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t group = groups.begin; group < groups.end; ++group) {
                const bf16 *from = x + (t * shape.rows + first + row) * shape.inputs + group * GROUP;
                bf16 *to = place(t, row / GROUP, shape.groups() + group) + row % GROUP * GROUP;
                _mm512_store_si512(to, _mm512_maskz_loadu_epi16(lanes32(shape.inputs - group * GROUP), from));
            }
    }

    void start(int64_t row, Range groups) const {
        const int64_t n = first + row;
        const uint8_t *afresh = forgotten(0, n);
        for (int64_t group = groups.begin; group < groups.end; ++group) {
            const int64_t cell = group * GROUP, from = n * shape.cells + cell;
            const __mmask32 there = afresh && *afresh ? 0 : lanes32(shape.cells - cell);
            _mm512_store_si512(place(0, row / GROUP, group) + row % GROUP * GROUP, rounded(load(h + from, there)));
            store(carried(group, row), load((c ? c : h) + from, there));
        }
    }

    inline void row(const Unit &unit, int64_t row, const float *sums) const {
        const int64_t cells = shape.cells;
        const bf16 *from = unit.input + (unit.ids ? unit.ids[row] : row) * stride();
        const __mmask16 stays = unit.forgotten && unit.forgotten[row] ? 0 : 0xffff;
        Values from_input[Cell::gates], from_hidden[Cell::gates], keep[Cell::kept];
        for (int g = 0; g < Cell::gates; ++g) {
            const bf16 *later = from + shape.rows * stride() + g * cells;
            if (!unit.ids) _mm_prefetch(reinterpret_cast<const char *>(later), _MM_HINT_T1);
            from_input[g] = fp32(_mm512_maskz_loadu_epi16(unit.there, from + g * cells));
            from_hidden[g] = load(sums + g * SQUARE);
        }
        if constexpr (Cell::apart) from_hidden[2] = from_hidden[2] + load(unit.bias, unit.there);
        Values carry = load(unit.carry + row * GROUP);
        const Values out = Cell::forward(from_input, from_hidden, carry, keep);
        store(unit.carry + row * GROUP, where(stays, carry));
        const __m512i values = rounded(out);
        _mm512_mask_storeu_epi16(unit.y + row * cells, unit.there, values);
        _mm512_store_si512(unit.next + row * GROUP, _mm512_maskz_mov_epi32(stays, values));
        if (unit.h_after) store(unit.h_after + row * cells, unit.there, out);
        if (unit.c_after) store(unit.c_after + row * cells, unit.there, carry);
        if (!unit.kept) return;
        for (int k = 0; k < Cell::kept; ++k)
            _mm512_storeu_si512(unit.kept + (row * Cell::kept + k) * GROUP, rounded(keep[k]));
    }
};

struct BackwardArguments {
    const bf16 *kept;
    const bf16 *dy;                     // (T, N, H)
    const float *dh_after, *dc_after;   // (N, H); dc is null but for the LSTM
    bf16 *dinput, *dhidden;             // (T, N, gates * H); dhidden is null where it is the same
    float *dh, *dc;                     // (N, H)
};

// Its step 0 is the layer's last one; after the layer's first one comes a step for the state before.
template <class Cell> struct Backward : Common, BackwardArguments {
    static constexpr int gates = Cell::gates, products = 1;

    // 32 cells of up to 32 rows in one step: where everything of the first row is.
    struct Unit {
        const bf16 *kept, *dy;
        const float *dh_after;
        const uint8_t *forgotten;
        float *carry, *dh, *dc;  // dh and dc only for the state before
        bf16 *dinput, *dhidden, *next;
        __mmask32 there;
    };

    Unit unit(int64_t step, int64_t group, int64_t pair) const {
        const int64_t t = shape.steps - 1 - step, n = first + pair * GROUP, cell = group * GROUP;
        const int64_t in_state = n * shape.cells + cell, at = t * shape.rows + n;
        Unit unit{};
        unit.there = lanes32(shape.cells - cell);
        unit.carry = carried(group, pair * GROUP);
        if (t < 0) {
            unit.dh = dh + in_state;
            unit.dc = dc ? dc + in_state : nullptr;
            return unit;
        }
        unit.kept = kept + ((t * shape.groups() + group) * shape.rows + n) * Cell::kept * GROUP;
        unit.dy = dy + at * shape.cells + cell;
        unit.dh_after = step ? nullptr : dh_after + in_state;
        unit.forgotten = forgotten(t, n);
        unit.dinput = dinput + at * Cell::gates * shape.cells + cell;
        unit.dhidden = dhidden ? dhidden + at * Cell::gates * shape.cells + cell : nullptr;
        unit.next = place(step + 1, pair, group);
        return unit;
    }

    void read(int64_t, int64_t, const Member &) const {}

    // No gradient comes back through the products of what follows the last step.
    void start(int64_t row, Range groups) const {
        for (int64_t group = groups.begin; group < groups.end; ++group) {
            const int64_t cell = group * GROUP, from = (first + row) * shape.cells + cell;
            store(carried(group, row), dc_after ? load(dc_after + from, lanes32(shape.cells - cell)) : all(0));
            for (int64_t part = group; part < parts; part += shape.groups())
                _mm512_store_si512(place(0, row / GROUP, part) + row % GROUP * GROUP, _mm512_setzero_si512());
        }
    }

    inline void row(const Unit &unit, int64_t row, const float *sums) const {
        if (unit.dh) return before(unit, row, sums);
        const int64_t cells = shape.cells, groups = shape.groups();
        const __mmask16 stays = unit.forgotten && unit.forgotten[row] ? 0 : 0xffff;
        const bf16 *from = unit.kept + row * Cell::kept * GROUP, *dy = unit.dy + row * cells;
        Values keep[Cell::kept], dx[Cell::gates], du[Cell::gates];
        for (int k = 0; k < Cell::kept; ++k) {
            const bf16 *later = from + k * GROUP - groups * shape.rows * Cell::kept * GROUP;
            _mm_prefetch(reinterpret_cast<const char *>(later), _MM_HINT_T1);
            keep[k] = fp32(_mm512_loadu_si512(from + k * GROUP));
        }
        _mm_prefetch(reinterpret_cast<const char *>(dy - shape.rows * cells), _MM_HINT_T1);
        Values out = load(sums) + fp32(_mm512_maskz_loadu_epi16(unit.there, dy));
        if (unit.dh_after) out = out + load(unit.dh_after + row * cells, unit.there);
        Values carry = load(unit.carry + row * GROUP);
        Cell::backward(out, carry, keep, dx, du);
        store(unit.carry + row * GROUP, where(stays, carry));
        for (int g = 0; g < Cell::gates; ++g) {
            const int64_t to = (row * Cell::gates + g) * cells;
            prefetch(unit.dinput + to + AHEAD * Cell::gates * cells);
            __m512i values = rounded(dx[g]);
            _mm512_mask_storeu_epi16(unit.dinput + to, unit.there, values);
            if constexpr (Cell::apart) {
                values = rounded(du[g]);
                _mm512_mask_storeu_epi16(unit.dhidden + to, unit.there, values);
            }
            _mm512_store_si512(unit.next + g * groups * 2 * TILE + row * GROUP, _mm512_maskz_mov_epi32(stays, values));
        }
    }

    void before(const Unit &unit, int64_t row, const float *sums) const {
        const Values carry = load(unit.carry + row * GROUP), out = load(sums);
        store(unit.dh + row * shape.cells, unit.there, Cell::apart ? out + carry : out);
        if (unit.dc) store(unit.dc + row * shape.cells, unit.there, carry);
    }
};

// The right factors of the steps forwards: a group's are its cells' rows of the weights (gates * H, H) and
// (gates * H, D), gate after gate.
void pack_forward(const float *weight, const float *weight_x, int64_t gates, Shape shape, Range groups, bf16 *right) {
    const int64_t from_state = shape.groups() * 2 * TILE, one = from_state + groups_of(shape.inputs) * 2 * TILE;
    for (int64_t gate = 0; gate < gates; ++gate, right += one) {
        const int64_t row = gate * shape.cells;
        pack_turned(weight + row * shape.cells, shape.cells, shape.cells, groups, right, gates * one);
        if (weight_x)
            pack_turned(weight_x + row * shape.inputs, shape.cells, shape.inputs, groups, right + from_state,
                        gates * one);
    }
}

// The right factors of the steps backwards: a group's are its cells' columns of the weight, all gates of them.
void pack_backward(const float *weight, int64_t gates, int64_t cells, Range groups, bf16 *right) {
    const int64_t square = groups_of(cells) * 2 * TILE;
    for (int64_t gate = 0; gate < gates; ++gate)
        pack_straight(weight + gate * cells * cells, cells, cells, groups, right + gate * square, gates * square);
}

// All rows and steps of a pass, shared among threads. `parts` are those of a left factor, `pack` makes the right factors
// of a range of groups.
template <class Pass, class Arguments, class Pack>
Status pass_over(Shape shape, int64_t steps, int64_t parts, int64_t threads, const uint8_t *fresh,
                 const Arguments &arguments, Pack &&pack) {
    const int64_t groups = shape.groups();
    const Grid grid(threads, shape.rows, groups);
    const Scratch scratch(groups, Pass::products, parts, grid);
    if (!scratch.made()) return no_memory;
    run(grid.members, [&](const Member &member) {
        const Tiles tiles;
        pack(member.share(groups), scratch.right);
        if (scratch.sets > 1) member.wait();
        const Member team = grid.team_of(member);
        const Range all_rows = grid.rows_of(member, shape.rows), own = team.share(groups);
        const int64_t set = scratch.sets > 1 ? member.index : 0;
        for (int64_t first = all_rows.begin; first < all_rows.end; first += ROWS) {
            const int64_t rows = all_rows.end - first < ROWS ? all_rows.end - first : ROWS;
            const Common common{shape, fresh, first, parts, scratch.left + set * scratch.each_left,
                                scratch.carry + set * scratch.each_carry, scratch.right};
            const Pass pass{common, arguments};
            if (first) team.wait();  // until nobody reads the left factors of the rows before
            for (int64_t row = 0; row < rows; ++row) pass.start(row, own);
            pass.read(0, rows, team);
            sweep(pass, team, steps, own, rows, scratch.sums + member.index * 2 * Pass::products * SQUARE);
        }
    });
    return ok;
}

template <class Cell>
Status forward(Shape shape, int64_t threads, const float *weight, const float *weight_x, const uint8_t *fresh,
               const ForwardArguments &arguments) {
    const int64_t parts = shape.groups() + groups_of(shape.inputs);
    return pass_over<Forward<Cell>>(shape, shape.steps, parts, threads, fresh, arguments, [&](Range own, bf16 *right) {
        pack_forward(weight, weight_x, Cell::gates, shape, own, right);
    });
}

template <class Cell>
Status backward(Shape shape, int64_t threads, const float *weight, const uint8_t *fresh,
                const BackwardArguments &arguments) {
    const int64_t parts = Cell::gates * shape.groups();
    return pass_over<Backward<Cell>>(
        shape, shape.steps + 1, parts, threads, fresh, arguments,
        [&](Range own, bf16 *right) { pack_backward(weight, Cell::gates, shape.cells, own, right); });
}

enum CellNumber : int64_t { rnn = 0, gru = 1, lstm = 2 };

bool shaped(Shape shape) {
    return shape.steps > 0 && shape.rows >= 0 && shape.cells > 0 && shape.inputs >= 0;
}

}  // namespace
}  // namespace scriven

SCRIVEN_API int64_t scriven_recurrent_forward(const scriven::RecurrentForward *call) {
    using namespace scriven;
    const int64_t cell = call->cell;
    const Shape shape{call->steps, call->rows, call->cells, call->inputs};
    if (!shaped(shape) || (cell == gru && !call->bias) || !call->x != !call->inputs || !call->x != !call->weight_x ||
        (call->x && call->ids))
        return bad_argument;
    for (int64_t i = 0; call->ids && i < shape.steps * shape.rows; ++i)
        if (call->ids[i] < 0 || call->ids[i] >= call->symbols) return bad_argument;
    const ForwardArguments arguments{call->sums, call->ids,  call->bias,    call->x,       call->h, call->c,
                                     call->y,    call->kept, call->h_after, call->c_after};
    if (cell == lstm) return forward<Lstm>(shape, call->threads, call->weight, call->weight_x, call->fresh, arguments);
    if (cell == gru) return forward<Gru>(shape, call->threads, call->weight, call->weight_x, call->fresh, arguments);
    if (cell == rnn) return forward<Rnn>(shape, call->threads, call->weight, call->weight_x, call->fresh, arguments);
    return bad_argument;
}

SCRIVEN_API int64_t scriven_recurrent_backward(const scriven::RecurrentBackward *call) {
    using namespace scriven;
    const int64_t cell = call->cell;
    const Shape shape{call->steps, call->rows, call->cells, 0};
    if (!shaped(shape) || (cell == gru && !call->dhidden)) return bad_argument;
    const BackwardArguments arguments{call->kept,  call->dy,      call->dh_after, call->dc_after,
                                      call->dsums, call->dhidden, call->dh,       call->dc};
    if (cell == lstm) return backward<Lstm>(shape, call->threads, call->weight, call->fresh, arguments);
    if (cell == gru) return backward<Gru>(shape, call->threads, call->weight, call->fresh, arguments);
    if (cell == rnn) return backward<Rnn>(shape, call->threads, call->weight, call->fresh, arguments);
    return bad_argument;
}
