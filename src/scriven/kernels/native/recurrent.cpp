// All steps of a recurrent layer, forwards and backwards, in any number format, with sums and states in fp32.
//
// The left factor of a step is the state, and beside it what the layer reads, where its sums were not made before: by
// one product, or in a table with a row a symbol. A team of threads shares the rows, where there are enough of them and a
// product takes as few as there are, and goes through all steps without waiting. Otherwise it shares the groups
// of cells, so that each keeps its part of the packed weights in its own cache; they meet after every step then, since
// a product needs the whole state. 64 rows are worked on at a time, so that what they need stays in the cache as well.
// The cells of one group are computed during or after the products of the next one.
#include "blocks.h"
#include "calls.h"

#include "recurrent_cells.h"

namespace scriven {
namespace {

constexpr int64_t ROWS = 64;  // worked on at a time
constexpr int64_t FEWEST = 2;  // rows of a member, where a team shares them
constexpr int64_t AHEAD = 4;  // rows between the one that is written and the one that is fetched for it

struct Shape {
    int64_t steps, rows, cells, inputs;  // T, N, H, and D: 0 where nothing is read here
    int64_t groups() const { return groups_of(cells); }
    bool possible() const { return steps > 0 && rows >= 0 && cells > 0 && inputs >= 0; }
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

// Every step of a pass over `rows` rows: the products of each of this member's groups of cells with each group of
// rows, and then the cells.
template <class F, class Pass>
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
            const int64_t here = smaller_of(rows - pair * GROUP, GROUP);
            const auto *left = pass.place(step, pair, 0), *right = pass.right + group * Pass::products * parts * SQUARE;
            for (int64_t p = 0; p < Pass::products; ++p, right += parts * SQUARE)
                product_with<F>(left, right, pass.parts_in(step), own + p * SQUARE, here, pending);
            pending.finish();
            pending = {&pass, pass.unit(step, group, pair), here, 0, 0, Pass::products * parts, own};
            std::swap(own, other);
        }
        pending.finish();
    }
}

template <class F> struct Common {
    using Number = typename F::Number;
    using Packed = typename F::Packed;
    Shape shape;
    const uint8_t *fresh;  // (T, N) or null
    int64_t first, parts;  // row of the layer that is row 0 here; parts of a left factor
    Number *blocks;
    float *carry;
    const Number *right;

    // Where the first row of a group stands in part `part` of the left factor of a step; others follow.
    Number *place(int64_t step, int64_t pair, int64_t part) const {
        return blocks + ((step % 2 * (ROWS / GROUP) + pair) * parts + part) * SQUARE;
    }
    float *carried(int64_t group, int64_t row) const { return carry + (group * ROWS + row) * GROUP; }
    // Of the rows from n on, which ones start afresh at t; null where none does.
    const uint8_t *forgotten(int64_t t, int64_t n) const {
        return fresh && t < shape.steps ? fresh + t * shape.rows + n : nullptr;
    }
    // The cells of a group that are there.
    int64_t cells_of(int64_t group) const { return smaller_of(shape.cells - group * GROUP, GROUP); }
};

template <class F, template <class> class CellOf> struct Forward : Common<F> {
    using Base = Common<F>;
    using typename Base::Number, typename Base::Packed;
    using Base::shape, Base::first, Base::place, Base::carried, Base::forgotten;
    using Cell = CellOf<F>;
    static constexpr int products = Cell::gates;
    const RecurrentForward *call;

    // A group of cells of a group of rows in one step: where everything of the first row is.
    struct Unit {
        const Number *input;
        const int64_t *ids;
        const float *bias;
        const uint8_t *forgotten;
        float *carry, *h_after, *c_after;
        Number *y, *next, *kept;
        int64_t cells;
    };

    Unit unit(int64_t t, int64_t group, int64_t pair) const {
        const int64_t n = first + pair * GROUP, at = t * shape.rows + n, cell = group * GROUP;
        const int64_t in_state = n * shape.cells + cell;
        const bool last = t == shape.steps - 1;
        Number *kept = static_cast<Number *>(call->kept);
        return {static_cast<const Number *>(call->sums) + (call->ids ? 0 : at * stride()) + cell,
                call->ids ? call->ids + at : nullptr,
                call->bias ? call->bias + cell : nullptr,
                forgotten(t + 1, n),
                carried(group, pair * GROUP),
                last ? call->h_after + in_state : nullptr,
                last && call->c_after ? call->c_after + in_state : nullptr,
                static_cast<Number *>(call->y) + at * shape.cells + cell,
                place(t + 1, pair, group),
                kept ? kept + ((t * shape.groups() + group) * shape.rows + n) * Cell::kept * GROUP : nullptr,
                this->cells_of(group)};
    }

    // From a row of `sums` to the next one.
    int64_t stride() const { return call->x ? 0 : Cell::gates * shape.cells; }
    int64_t parts_in(int64_t) const { return this->parts; }

    // This member's part of what is read at t, as left factors beside those of the state.
    void read(int64_t t, int64_t rows, const Member &member) const {
        if (!call->x || t >= shape.steps) return;
        const Range groups = member.share(groups_of(shape.inputs));
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t group = groups.begin; group < groups.end; ++group) {
                const Number *from = static_cast<const Number *>(call->x) +
                                     (t * shape.rows + first + row) * shape.inputs + group * GROUP;
                Number *to = place(t, row / GROUP, shape.groups() + group) + row % GROUP * GROUP;
                F::store(to, F::packed(from, shape.inputs - group * GROUP));
            }
    }

    void start(int64_t row, Range groups) const {
        const int64_t n = first + row;
        const uint8_t *afresh = forgotten(0, n);
        for (int64_t group = groups.begin; group < groups.end; ++group) {
            const int64_t from = n * shape.cells + group * GROUP, there = afresh && *afresh ? 0 : this->cells_of(group);
            F::store(place(0, row / GROUP, group) + row % GROUP * GROUP, F::rounded(F::load(call->h + from, there)));
            F::store(carried(group, row), F::load((call->c ? call->c : call->h) + from, there));
        }
    }

    void row(const Unit &unit, int64_t row, const float *sums) const {
        const int64_t cells = shape.cells, there = unit.cells;
        const Number *from = unit.input + (unit.ids ? unit.ids[row] : row) * stride();
        const bool stays = !(unit.forgotten && unit.forgotten[row]);
        Values from_input[Cell::gates], from_hidden[Cell::gates], keep[Cell::kept];
        for (int g = 0; g < Cell::gates; ++g) {
            if (!unit.ids) prefetch_to_second_level(from + shape.rows * stride() + g * cells);
            from_input[g] = F::load(from + g * cells, there);
            from_hidden[g] = F::load(sums + g * SQUARE);
        }
        if constexpr (Cell::apart) from_hidden[2] = from_hidden[2] + F::load(unit.bias, there);
        float *carry_at = unit.carry + row * GROUP;
        Values carry = F::load(carry_at);
        const Values out = Cell::forward(from_input, from_hidden, carry, keep);
        F::store(carry_at, where(stays, carry));
        const Packed packed = F::rounded(out);
        F::store(unit.y + row * cells, packed, there);
        F::store(unit.next + row * GROUP, where(stays, packed));
        if (unit.h_after) F::store(unit.h_after + row * cells, out, there);
        if (unit.c_after) F::store(unit.c_after + row * cells, carry, there);
        if (!unit.kept) return;
        for (int k = 0; k < Cell::kept; ++k)
            F::store(unit.kept + (row * Cell::kept + k) * GROUP, F::rounded(keep[k]));
    }
};

// Its step 0 is the layer's last one; after the layer's first one comes a step for the state before.
template <class F, template <class> class CellOf> struct Backward : Common<F> {
    using Base = Common<F>;
    using typename Base::Number, typename Base::Packed;
    using Base::shape, Base::first, Base::place, Base::carried, Base::forgotten;
    using Cell = CellOf<F>;
    static constexpr int products = 1;
    const RecurrentBackward *call;

    // A group of cells of a group of rows in one step: where everything of the first row is.
    struct Unit {
        const Number *kept, *dy;
        const float *dh_after;
        const uint8_t *forgotten;
        float *carry, *dh, *dc;  // dh and dc only for the state before
        Number *dsums, *dhidden, *next;
        int64_t cells;
    };

    Unit unit(int64_t step, int64_t group, int64_t pair) const {
        const int64_t t = shape.steps - 1 - step, n = first + pair * GROUP, cell = group * GROUP;
        const int64_t in_state = n * shape.cells + cell, at = t * shape.rows + n, in_sums = at * Cell::gates * shape.cells;
        Unit unit{};
        unit.cells = this->cells_of(group);
        unit.carry = carried(group, pair * GROUP);
        if (t < 0) {
            unit.dh = call->dh + in_state;
            unit.dc = call->dc ? call->dc + in_state : nullptr;
            return unit;
        }
        unit.kept = static_cast<const Number *>(call->kept) +
                    ((t * shape.groups() + group) * shape.rows + n) * Cell::kept * GROUP;
        unit.dy = static_cast<const Number *>(call->dy) + at * shape.cells + cell;
        unit.dh_after = step ? nullptr : call->dh_after + in_state;
        unit.forgotten = forgotten(t, n);
        unit.dsums = static_cast<Number *>(call->dsums) + in_sums + cell;
        unit.dhidden = Cell::apart ? static_cast<Number *>(call->dhidden) + in_sums + cell : nullptr;
        unit.next = place(step + 1, pair, group);
        return unit;
    }

    // No gradient comes back through the products of what follows the last step.
    int64_t parts_in(int64_t step) const { return step ? this->parts : 0; }
    void read(int64_t, int64_t, const Member &) const {}

    void start(int64_t row, Range groups) const {
        for (int64_t group = groups.begin; group < groups.end; ++group) {
            const int64_t from = (first + row) * shape.cells + group * GROUP;
            F::store(carried(group, row), call->dc_after ? F::load(call->dc_after + from, this->cells_of(group)) : all(0.0f));
        }
    }

    void row(const Unit &unit, int64_t row, const float *sums) const {
        if (unit.dh) return before(unit, row, sums);
        const int64_t cells = shape.cells, groups = shape.groups(), there = unit.cells;
        const bool stays = !(unit.forgotten && unit.forgotten[row]);
        const Number *from = unit.kept + row * Cell::kept * GROUP, *dy = unit.dy + row * cells;
        Values keep[Cell::kept], dx[Cell::gates], du[Cell::gates];
        for (int k = 0; k < Cell::kept; ++k) {
            prefetch_to_second_level(from + k * GROUP - groups * shape.rows * Cell::kept * GROUP);
            keep[k] = F::load(from + k * GROUP);
        }
        prefetch_to_second_level(dy - shape.rows * cells);
        Values out = F::load(sums) + F::load(dy, there);
        if (unit.dh_after) out = out + F::load(unit.dh_after + row * cells, there);
        float *carry_at = unit.carry + row * GROUP;
        Values carry = F::load(carry_at);
        Cell::backward(out, carry, keep, dx, du);
        F::store(carry_at, where(stays, carry));
        Number *next = unit.next + row * GROUP;
        for (int g = 0; g < Cell::gates; ++g, next += groups * SQUARE) {
            const int64_t to = (row * Cell::gates + g) * cells;
            prefetch(unit.dsums + to + AHEAD * Cell::gates * cells);
            Packed packed = F::rounded(dx[g]);
            F::store(unit.dsums + to, packed, there);
            if constexpr (Cell::apart) {
                packed = F::rounded(du[g]);
                F::store(unit.dhidden + to, packed, there);
            }
            F::store(next, where(stays, packed));
        }
    }

    void before(const Unit &unit, int64_t row, const float *sums) const {
        const Values carry = F::load(unit.carry + row * GROUP), out = F::load(sums);
        F::store(unit.dh + row * shape.cells, Cell::apart ? out + carry : out, unit.cells);
        if (unit.dc) F::store(unit.dc + row * shape.cells, carry, unit.cells);
    }
};

// The right factors of the steps forwards: a group's are its cells' rows of the weights (gates * H, H) and
// (gates * H, D), gate after gate.
template <class F>
void pack_weights(const RecurrentForward *call, int64_t gates, Shape shape, Range groups, typename F::Number *right) {
    const int64_t from_state = shape.groups() * SQUARE, one = from_state + groups_of(shape.inputs) * SQUARE;
    for (int64_t gate = 0; gate < gates; ++gate, right += one) {
        const int64_t row = gate * shape.cells;
        pack_weight<F>(call->weight + row * shape.cells, shape.cells, shape.cells, true, groups, right, gates * one);
        if (call->x)
            pack_weight<F>(call->weight_x + row * shape.inputs, shape.cells, shape.inputs, true, groups,
                           right + from_state, gates * one);
    }
}

// Those of the steps backwards: a group's are its cells' columns of the weight, all gates of them.
template <class F>
void pack_weights(const RecurrentBackward *call, int64_t gates, Shape shape, Range groups, typename F::Number *right) {
    const int64_t cells = shape.cells, square = shape.groups() * SQUARE;
    for (int64_t gate = 0; gate < gates; ++gate)
        pack_weight<F>(call->weight + gate * cells * cells, cells, cells, false, groups, right + gate * square,
                       gates * square);
}

// All rows and steps of a pass, shared among threads. `parts` are those of a left factor. There are two sets of left
// factors, of this step and of the next one, and one of what goes from step to step; of these, one for each member that has
// rows of its own, or one for all.
template <class F, class Pass, class Call>
Status pass_over(const Call *call, Shape shape, int64_t steps, int64_t parts) {
    const int64_t groups = shape.groups();
    const bool by_rows = !F::tiles && call->threads > 1 && shape.rows >= FEWEST * call->threads;  // tiles take whole groups
    const int64_t members = by_rows ? call->threads : smaller_of(call->threads, groups), sets = by_rows ? members : 1;
    const int64_t each_left = 2 * ROWS / GROUP * parts * SQUARE, each_carry = ROWS * groups * GROUP;
    const int64_t each_sums = 2 * Pass::products * SQUARE;
    const Buffer<typename F::Number> left(sets * each_left), right(groups * Pass::products * parts * SQUARE);
    const Buffer<float> carry(sets * each_carry), sums(members * each_sums);  // carry: (groups, ROWS, GROUP)
    if (!left || !right || !carry || !sums) return no_memory;
    std::memset(left, 0, sizeof(typename F::Number) * static_cast<size_t>(sets * each_left));  // no cells, no numbers
    run(members, [&](const Member &member) {
        const typename F::Registers registers;
        pack_weights<F>(call, Pass::Cell::gates, shape, member.share(groups), right);
        if (by_rows) member.wait();
        const Member team = by_rows ? Member{0, 1, nullptr} : member;
        const Range all_rows = by_rows ? member.share(shape.rows) : Range{0, shape.rows}, own = team.share(groups);
        const int64_t set = by_rows ? member.index : 0;
        for (int64_t first = all_rows.begin; first < all_rows.end; first += ROWS) {
            const int64_t rows = smaller_of(all_rows.end - first, ROWS);
            const Pass pass{{shape, call->fresh, first, parts, left + set * each_left, carry + set * each_carry, right}, call};
            if (first) team.wait();  // until nobody reads the left factors of the rows before
            for (int64_t row = 0; row < rows; ++row) pass.start(row, own);
            pass.read(0, rows, team);
            sweep<F>(pass, team, steps, own, rows, sums + member.index * each_sums);
        }
    });
    return ok;
}

template <class F, template <class> class Cell> Status pass(const RecurrentForward *call, Shape shape) {
    const int64_t parts = shape.groups() + groups_of(shape.inputs);
    return pass_over<F, Forward<F, Cell>>(call, shape, shape.steps, parts);
}

template <class F, template <class> class Cell> Status pass(const RecurrentBackward *call, Shape shape) {
    return pass_over<F, Backward<F, Cell>>(call, shape, shape.steps + 1, Cell<F>::gates * shape.groups());
}

enum CellNumber : int64_t { rnn = 0, gru = 1, lstm = 2 };

template <class Call> Status pass_of(const Call *call, Shape shape) {
    return in_format(call->bf16, [&](auto format) {
        using F = decltype(format);
        if (call->cell == lstm) return pass<F, Lstm>(call, shape);
        if (call->cell == gru) return pass<F, Gru>(call, shape);
        return call->cell == rnn ? pass<F, Rnn>(call, shape) : bad_argument;
    });
}

}  // namespace
}  // namespace scriven

SCRIVEN_API int64_t scriven_recurrent_forward(const scriven::RecurrentForward *call) {
    using namespace scriven;
    const Shape shape{call->steps, call->rows, call->cells, call->inputs};
    if (!shape.possible() || (call->cell == gru && !call->bias) || !call->x != !call->inputs ||
        !call->x != !call->weight_x || (call->x && call->ids) || (call->cell == lstm && !call->c))
        return bad_argument;
    for (int64_t i = 0; call->ids && i < shape.steps * shape.rows; ++i)
        if (call->ids[i] < 0 || call->ids[i] >= call->symbols) return bad_argument;
    return pass_of(call, shape);
}

SCRIVEN_API int64_t scriven_recurrent_backward(const scriven::RecurrentBackward *call) {
    using namespace scriven;
    const Shape shape{call->steps, call->rows, call->cells, 0};
    if (!shape.possible() || (call->cell == gru && !call->dhidden) || (call->cell == lstm && !call->dc)) return bad_argument;
    return pass_of(call, shape);
}
