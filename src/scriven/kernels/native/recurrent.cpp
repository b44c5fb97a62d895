// All steps of a recurrent layer, forwards and backwards, in any number format, with sums and states in fp32.
//
// The left factor of a step is the state, and beside it what the layer reads, where its sums were not made before: by
// one product, or in a table with a row a symbol. A team of threads shares the rows where each thread gets enough of
// them; with tiles, where each gets the same number of groups of 32. The threads then go through all steps without
// waiting. Otherwise they share the groups of cells, so that each keeps its part of the packed weights in its own cache;
// they meet after every step then, since a product needs the whole state. 64 rows are worked on at a time, so that what
// they need stays in the cache as well. The cells of one group are computed during or after the products of the next one.
#include <optional>

#include "blocks.h"
#include "linear.h"
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
template <class Unit> struct Pending {
    std::optional<Unit> unit;  // does one row
    int64_t rows = 0, parts = 1, next = 0, credit = 0;
    const float *sums = nullptr;

    void operator()() {
        for (credit += rows; credit >= parts; credit -= parts) one();
    }
    void finish() {
        while (next < rows) one();
        rows = next = 0;
    }
    void one() {
        (*unit)(next, sums + next * GROUP);
        ++next;
    }
};

// Every step of a pass over `rows` rows: the products of each of this member's groups of cells with each group of
// rows, and then the cells.
template <class F, class Pass>
void sweep(const Pass &pass, const Member &member, Range groups, int64_t rows, float *sums) {
    const int64_t pairs = groups_of(rows), places = (groups.end - groups.begin) * pairs, parts = pass.parts;
    Pending<decltype(pass.unit(0, 0, 0))> pending;
    float *own = sums, *other = sums + Pass::products * SQUARE;
    for (int64_t step = 0; step < pass.shape.steps + Pass::more_steps; ++step) {
        member.wait();  // for the left factors, of which all members have made a part
        pass.read(step + 1, rows, member);
        for (int64_t place = 0; place < places; ++place) {
            // There and back again, so that the weights used last are used next and still in the cache.
            const int64_t row = place % pairs * GROUP, past = place / pairs, here = smaller_of(rows - row, GROUP);
            const int64_t group = step % 2 ? groups.end - 1 - past : groups.begin + past;
            const auto *left = pass.place(step, row, 0), *right = pass.right + group * Pass::products * parts * SQUARE;
            for (int64_t p = 0; p < Pass::products; ++p, right += parts * SQUARE)
                product<F>(left, right, pass.parts_in(step), own + p * SQUARE, false, here, pending);
            pending.finish();
            pending.unit.emplace(pass.unit(step, group, row));
            pending.rows = here, pending.parts = Pass::products * parts, pending.credit = 0, pending.sums = own;
            std::swap(own, other);
        }
        pending.finish();
    }
}

template <class F> struct Common {
    using Number = typename F::Number;
    Shape shape;
    const uint8_t *fresh;  // (T, N) or null
    int64_t parts;         // of a left factor
    Number *left, *right;
    float *carry;
    int64_t first;  // row of the layer that is row 0 here

    // Where a row stands in part `part` of the left factor of a step.
    Number *place(int64_t step, int64_t row, int64_t part) const {
        return left + ((step % 2 * ROWS + row) / GROUP * parts + part) * SQUARE + row % GROUP * GROUP;
    }
    float *carried(int64_t group, int64_t row) const { return carry + (group * ROWS + row) * GROUP; }
    // Of the rows of the layer from n on, which ones start afresh at t; null where none does.
    const uint8_t *forgotten(int64_t t, int64_t n) const {
        return fresh && t < shape.steps ? fresh + t * shape.rows + n : nullptr;
    }
};

template <class F, class Cell> struct Forward : Common<F> {
    using Base = Common<F>;
    using typename Base::Number;
    using Base::shape, Base::parts, Base::right, Base::first, Base::place, Base::carried, Base::forgotten;
    static constexpr int64_t products = Cell::gates, more_steps = 0, KEPT = Cell::kept * GROUP;
    const RecurrentForward *call;

    static int64_t parts_of(const Shape &shape) { return shape.groups() + groups_of(shape.inputs); }
    int64_t parts_in(int64_t) const { return parts; }

    // The right factors: a group's are its cells' rows of the weights (gates * H, H) and (gates * H, D), gate after gate.
    void pack(Range groups) const {
        const int64_t cells = shape.cells, inputs = shape.inputs, one = parts * SQUARE, stride = Cell::gates * one;
        for (int64_t g = 0; g < Cell::gates; ++g) {
            Number *to = right + g * one, *beside = to + shape.groups() * SQUARE;
            pack_weight<F>({call->weight + g * cells * cells, cells, cells}, true, groups, to, stride);
            pack_weight<F>({call->weight_x + g * cells * inputs, cells, inputs}, true, groups, beside, stride);
        }
    }

    // This member's part of what is read at t, as left factors beside those of the state.
    void read(int64_t t, int64_t rows, const Member &member) const {
        const Range groups = member.share(groups_of(shape.inputs));
        const Rows<F> x{static_cast<const Number *>(call->x), shape.steps * shape.rows, shape.inputs};
        for (int64_t row = 0; t < shape.steps && row < rows; ++row)
            for (int64_t group = groups.begin; group < groups.end; ++group)
                F::store(place(t, row, shape.groups() + group), x.part(t * shape.rows + first + row, group * GROUP));
    }

    void start(int64_t group, int64_t row) const {
        const int64_t n = first + row, cell = group * GROUP, from = n * shape.cells + cell;
        const uint8_t *afresh = forgotten(0, n);
        const int64_t there = afresh && *afresh ? 0 : shape.cells - cell;
        F::store(place(0, row, group), F::rounded(F::load(call->h + from, there)));
        F::store(carried(group, row), F::load((call->c ? call->c : call->h) + from, there));
    }

    // What does a step of a group of cells for one of the rows from `row` on, given the sums of its gates.
    auto unit(int64_t t, int64_t group, int64_t row) const {
        const int64_t cells = shape.cells, cell = group * GROUP, there = cells - cell, n = first + row;
        const int64_t at = t * shape.rows + n, stride = call->x ? 0 : Cell::gates * cells, next_step = shape.rows * stride;
        const int64_t *ids = call->ids ? call->ids + at : nullptr;
        const Number *input = static_cast<const Number *>(call->sums) + (ids ? 0 : at * stride) + cell;
        const float *bias = Cell::apart ? call->bias + cell : nullptr;
        const bool relu = call->relu;
        const uint8_t *afresh = forgotten(t + 1, n);
        float *carries = carried(group, row), *h_after = nullptr, *c_after = nullptr;
        if (t == shape.steps - 1) h_after = call->h_after + n * cells + cell;
        if (h_after && call->c_after) c_after = call->c_after + n * cells + cell;
        Number *y = static_cast<Number *>(call->y) + at * cells + cell, *next = place(t + 1, row, group), *keeps = nullptr;
        if (call->kept) keeps = static_cast<Number *>(call->kept) + ((t * shape.groups() + group) * shape.rows + n) * KEPT;
        return [=](int64_t i, const float *sums) {
            const Number *from = input + (ids ? ids[i] : i) * stride;
            const bool stays = !(afresh && afresh[i]);
            Values from_input[Cell::gates], from_hidden[Cell::gates], keep[Cell::kept];
            for (int g = 0; g < Cell::gates; ++g) {
                if (!ids) prefetch_to_second_level(from + next_step + g * cells);
                from_input[g] = F::load(from + g * cells, there);
                from_hidden[g] = F::load(sums + g * SQUARE);
            }
            if constexpr (Cell::apart) from_hidden[2] = from_hidden[2] + F::load(bias, there);
            Values carry = F::load(carries + i * GROUP);
            const Values out = Cell::forward(from_input, from_hidden, carry, keep, relu);
            F::store(carries + i * GROUP, where(stays, carry));
            const auto packed = F::rounded(out);
            F::store(y + i * cells, packed, there);
            F::store(next + i * GROUP, where(stays, packed));
            if (h_after) F::store(h_after + i * cells, out, there);
            if (c_after) F::store(c_after + i * cells, carry, there);
            if (!keeps) return;
            for (int k = 0; k < Cell::kept; ++k) F::store(keeps + i * KEPT + k * GROUP, F::rounded(keep[k]));
        };
    }
};

struct BackwardPass : RecurrentBackward {
    void *dhidden;  // (T, N, gates * H): as dsums, of the sums from the hidden state
};

// Its step 0 is the layer's last one; after the layer's first one comes a step for the state before.
template <class F, class Cell> struct Backward : Common<F> {
    using Base = Common<F>;
    using typename Base::Number;
    using Base::shape, Base::parts, Base::right, Base::first, Base::place, Base::carried, Base::forgotten;
    static constexpr int64_t products = 1, more_steps = 1, KEPT = Cell::kept * GROUP;
    const BackwardPass *call;

    static int64_t parts_of(const Shape &shape) { return Cell::gates * shape.groups(); }
    // No gradient comes back through the products of what follows the last step.
    int64_t parts_in(int64_t step) const { return step ? parts : 0; }

    // The right factors: a group's are its cells' columns of the weight, all gates of them.
    void pack(Range groups) const {
        const int64_t cells = shape.cells, stride = parts * SQUARE;
        for (int64_t g = 0; g < Cell::gates; ++g)
            pack_weight<F>({call->weight + g * cells * cells, cells, cells}, false, groups,
                           right + g * shape.groups() * SQUARE, stride);
    }

    void read(int64_t, int64_t, const Member &) const {}

    void start(int64_t group, int64_t row) const {
        const int64_t cell = group * GROUP, from = (first + row) * shape.cells + cell;
        F::store(carried(group, row), call->dc_after ? F::load(call->dc_after + from, shape.cells - cell) : all(0.0f));
    }

    auto unit(int64_t step, int64_t group, int64_t row) const {
        const int64_t cells = shape.cells, cell = group * GROUP, there = cells - cell, n = first + row;
        const int64_t t = shape.steps - 1 - step, at = t * shape.rows + n, in_state = n * cells + cell;
        const int64_t squares = shape.groups() * SQUARE, step_of_dy = shape.rows * cells;
        const int64_t step_of_kept = shape.groups() * shape.rows * KEPT;
        const bool before = t < 0, relu = call->relu;
        const Number *keeps = nullptr, *dy = nullptr;
        const float *dh_after = step ? nullptr : call->dh_after + in_state;
        const uint8_t *afresh = before ? nullptr : forgotten(t, n);
        float *carries = carried(group, row), *dh = call->dh + in_state, *dc = call->dc ? call->dc + in_state : nullptr;
        Number *dsums = nullptr, *dhidden = nullptr, *next = place(step + 1, row, group);
        if (!before) {
            keeps = static_cast<const Number *>(call->kept) + t * step_of_kept + (group * shape.rows + n) * KEPT;
            dy = static_cast<const Number *>(call->dy) + at * cells + cell;
            dsums = static_cast<Number *>(call->dsums) + at * Cell::gates * cells + cell;
            if (Cell::apart) dhidden = static_cast<Number *>(call->dhidden) + at * Cell::gates * cells + cell;
        }
        return [=](int64_t i, const float *sums) {
            Values out = F::load(sums), carry = F::load(carries + i * GROUP);
            if (before) {
                F::store(dh + i * cells, Cell::apart ? out + carry : out, there);
                if (dc) F::store(dc + i * cells, carry, there);
                return;
            }
            const bool stays = !(afresh && afresh[i]);
            const Number *kept = keeps + i * KEPT, *from = dy + i * cells;
            Values keep[Cell::kept], dx[Cell::gates], du[Cell::gates];
            for (int k = 0; k < Cell::kept; ++k) {
                prefetch_to_second_level(kept + k * GROUP - step_of_kept);
                keep[k] = F::load(kept + k * GROUP);
            }
            prefetch_to_second_level(from - step_of_dy);
            out = out + F::load(from, there);
            if (dh_after) out = out + F::load(dh_after + i * cells, there);
            Cell::backward(out, carry, keep, dx, du, relu);
            F::store(carries + i * GROUP, where(stays, carry));
            Number *left = next + i * GROUP;
            for (int g = 0; g < Cell::gates; ++g, left += squares) {
                const int64_t to = (i * Cell::gates + g) * cells;
                prefetch(dsums + to + AHEAD * Cell::gates * cells);
                auto packed = F::rounded(dx[g]);
                F::store(dsums + to, packed, there);
                if constexpr (Cell::apart) {
                    packed = F::rounded(du[g]);
                    F::store(dhidden + to, packed, there);
                }
                F::store(left, where(stays, packed));
            }
        };
    }
};

// A member's rows, where a team shares them: whole groups of them for tiles, which take no fewer.
template <class F> Range share_of_rows(const Member &member, int64_t rows) {
    if (!F::tiles) return member.share(rows);
    const Range share = member.share(groups_of(rows));
    return {share.begin * GROUP, smaller_of(share.end * GROUP, rows)};
}

// All rows and steps of a pass, shared among threads. There are two sets of left factors, of this step and of the next one,
// and one of what goes from step to step; of these, one for each member that has rows of its own, or one for all.
template <class F, class Pass, class Call> Status pass_over(const Call *call, Shape shape) {
    const int64_t groups = shape.groups(), parts = Pass::parts_of(shape);
    const int64_t threads = call->threads, row_groups = groups_of(shape.rows);
    const bool by_rows = threads > 1 && (F::tiles ? row_groups % threads == 0 : shape.rows >= FEWEST * threads);
    const int64_t members = by_rows ? threads : smaller_of(threads, groups), sets = by_rows ? members : 1;
    const int64_t each_left = 2 * ROWS / GROUP * parts * SQUARE, each_carry = ROWS * groups * GROUP;
    const int64_t each_sums = 2 * Pass::products * SQUARE;
    const Buffer<typename F::Number> left(sets * each_left), right(groups * Pass::products * parts * SQUARE);
    const Buffer<float> carry(sets * each_carry), sums(members * each_sums);  // carry: (groups, ROWS, GROUP)
    if (!left || !right || !carry || !sums) return no_memory;
    std::memset(left, 0, sizeof(typename F::Number) * static_cast<size_t>(sets * each_left));  // no cells, no numbers
    run(members, [&](const Member &member) {
        const typename F::Registers registers;
        const int64_t set = by_rows ? member.index : 0;
        Pass pass{{shape, call->fresh, parts, left + set * each_left, right, carry + set * each_carry, 0}, call};
        pass.pack(member.share(groups));
        if (by_rows) member.wait();
        const Member team = by_rows ? Member{0, 1, nullptr} : member;
        const Range all_rows = by_rows ? share_of_rows<F>(member, shape.rows) : Range{0, shape.rows}, own = team.share(groups);
        for (pass.first = all_rows.begin; pass.first < all_rows.end; pass.first += ROWS) {
            const int64_t rows = smaller_of(all_rows.end - pass.first, ROWS);
            if (pass.first) team.wait();  // until nobody reads the left factors of the rows before
            for (int64_t row = 0; row < rows; ++row)
                for (int64_t group = own.begin; group < own.end; ++group) pass.start(group, row);
            pass.read(0, rows, team);
            sweep<F>(pass, team, own, rows, sums + member.index * each_sums);
        }
    });
    return ok;
}

// Forwards. The sums of a table, and of a cell whose reset gate multiplies only those from the state, are made first.
template <class F, class Cell> Status pass(const RecurrentForward *given, Shape shape) {
    RecurrentForward call = *given;
    const int64_t wide = Cell::gates * shape.cells, rows = call.ids ? call.symbols : shape.steps * shape.rows;
    const bool before = call.x && (call.ids || Cell::apart);
    const Buffer<typename F::Number> sums(before ? rows * wide : wide);
    if (!sums) return no_memory;
    if (before) {
        const Status made = project({call.threads, call.bf16, rows, shape.inputs, wide, true, call.x, call.weight_x, call.bias_x, sums});
        if (made) return made;
        call.x = nullptr, shape.inputs = 0;
    } else if (call.x) round_values<F>(call.bias_x, wide, sums);
    if (given->x) call.sums = sums;
    return pass_over<F, Forward<F, Cell>>(&call, shape);
}

// Backwards: the gradients of all sums, and from them those of the weights and of what is read.
template <class F, class Cell> Status pass(const RecurrentBackward *given, Shape shape) {
    using Number = typename F::Number;
    BackwardPass call{*given, given->dsums};
    const int64_t wide = Cell::gates * shape.cells, all = shape.steps * shape.rows;
    const bool inside = call.x || call.ids, both = call.x && call.ids;
    const Buffer<Number> dsums(inside ? all * wide : 0), dhidden(Cell::apart ? all * wide : 0);
    const Buffer<Number> rounded(both ? call.symbols * wide : 0);
    const Buffer<float> dtable(both ? call.symbols * wide : 0);
    if (!dsums || !dhidden || !rounded || !dtable) return no_memory;
    if (inside) call.dsums = call.dhidden = dsums;
    if (Cell::apart) call.dhidden = dhidden;
    Status made = pass_over<F, Backward<F, Cell>>(&call, shape);
    if (made) return made;
    made = weight_gradient({call.threads, call.bf16, all, shape.cells, wide, call.h, call.dhidden, call.fresh, call.dweight, call.dbias});
    if (made || !inside) return made;
    if (call.ids) {
        float *sums = both ? static_cast<float *>(dtable) : static_cast<float *>(given->dsums);
        made = sum_rows(call.threads, call.bf16, call.ids, all, wide, call.symbols, dsums, sums);
        if (made || !both) return made;
        round_values<F>(dtable, call.symbols * wide, rounded);
    }
    const Number *dy = call.ids ? rounded : dsums;
    const int64_t rows = call.ids ? call.symbols : all, inputs = call.inputs;
    if (call.dx) made = project({call.threads, call.bf16, rows, wide, inputs, false, dy, call.weight_x, nullptr, call.dx});
    if (made) return made;
    return weight_gradient({call.threads, call.bf16, rows, inputs, wide, call.x, dy, nullptr, call.dweight_x, call.dbias_x});
}

enum CellNumber : int64_t { rnn = 0, gru = 1, lstm = 2 };

template <class Call> Status pass_of(const Call *call, Shape shape) {
    return in_format(call->bf16, [&](auto format) {
        using F = decltype(format);
        if (call->cell == lstm) return pass<F, Lstm<F>>(call, shape);
        if (call->cell == gru) return pass<F, Gru<F>>(call, shape);
        return call->cell == rnn ? pass<F, Rnn<F>>(call, shape) : bad_argument;
    });
}

}  // namespace
}  // namespace scriven

SCRIVEN_API int64_t scriven_recurrent_forward(const scriven::RecurrentForward *call) {
    using namespace scriven;
    const Shape shape{call->steps, call->rows, call->cells, call->inputs};
    if (!shape.possible() || (call->cell == gru && !call->bias) || !call->x != !call->inputs ||
        !call->x != !call->weight_x || !call->x != !call->bias_x || !call->x == !call->sums || (call->cell == lstm && !call->c))
        return bad_argument;
    for (int64_t i = 0; call->ids && i < shape.steps * shape.rows; ++i)
        if (call->ids[i] < 0 || call->ids[i] >= call->symbols) return bad_argument;
    return pass_of(call, shape);
}

SCRIVEN_API int64_t scriven_recurrent_backward(const scriven::RecurrentBackward *call) {
    using namespace scriven;
    const Shape shape{call->steps, call->rows, call->cells, 0};
    if (!shape.possible() || !call->x == !call->dsums || !call->x != !call->inputs || (call->cell == lstm && !call->dc))
        return bad_argument;
    return pass_of(call, shape);
}
