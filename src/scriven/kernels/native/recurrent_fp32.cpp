// All steps of a recurrent layer in fp32, forwards and backwards, in vectors.
//
// The sums that come from the input are made before, by one product. Cells are worked on in groups of two vectors. A
// group's sums of one gate are a product of some rows of h with the gate's weights of the group, which stay in registers
// until they are whole; the weights are packed before, in the order in which they are multiplied, and come from the
// second level of the cache.
#include <utility>

#include "calls.h"
#include "fp32_vectors.h"
#include "thread_team.h"

#include "recurrent_cells.h"

namespace scriven {
namespace {

enum CellNumber : int64_t { rnn = 0, gru = 1, lstm = 2 };

struct StepsShape {
    int64_t steps, rows, cells, threads;
};

struct ForwardArguments {
    const float *input;    // (T, N, gates * H), or with ids (V, gates * H)
    const int64_t *ids;    // (T, N) or null
    const float *weight;   // (gates * H, H)
    const float *bias;     // (H,), of the GRU's new value from the hidden state, or null
    const float *h, *c;    // (N, H) before; c is null but for the LSTM
    const uint8_t *fresh;  // (T, N) or null: where a row's state is zeroed before a step
    float *y;              // (T, N, H)
    float *kept;           // (T, H / 32 rounded up, N, kept, 32), or null where nobody asks for gradients
    float *h_after, *c_after;
};

struct BackwardArguments {
    const float *weight;
    const uint8_t *fresh;
    const float *kept;
    const float *dy;                   // (T, N, H)
    const float *dh_after, *dc_after;  // (N, H); dc is null but for the LSTM
    float *dinput, *dhidden;           // (T, N, gates * H); dhidden is null where it is the same
    float *dh, *dc;                    // (N, H)
};

constexpr int64_t GROUP = 2 * lanes;
constexpr int64_t ROWS = 48;             // worked on at a time, so that what they need stays in the cache
constexpr int64_t SQUARE = ROWS * GROUP;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int IN_REGISTERS = 12;  // rows whose sums are: 24 of 32 registers
#else
constexpr int IN_REGISTERS = 6;  // 12 of 16
#endif

constexpr int64_t groups_of(int64_t cells) { return (cells + GROUP - 1) / GROUP; }

// sums (rows, GROUP) = left right: a left factor has parts of (ROWS, GROUP), a right one parts of (GROUP, GROUP).
template <int rows> void product(const float *left, const float *right, int64_t parts, float *sums) {
    Floats low[rows] = {}, high[rows] = {};
    for (int64_t part = 0; part < parts; ++part, left += SQUARE)
        for (int64_t k = 0; k < GROUP; ++k, right += GROUP) {
            const Floats right_low = load(right), right_high = load(right + lanes);
#pragma GCC unroll 12
            for (int row = 0; row < rows; ++row) {
                const Floats x = spread(left[row * GROUP + k]);
                low[row] = multiply_add(x, right_low, low[row]);
                high[row] = multiply_add(x, right_high, high[row]);
            }
        }
    for (int row = 0; row < rows; ++row) {
        store(sums + row * GROUP, low[row]);
        store(sums + row * GROUP + lanes, high[row]);
    }
}

using Product = void (*)(const float *, const float *, int64_t, float *);

template <int... rows> constexpr Product product_of(int count, std::integer_sequence<int, rows...>) {
    constexpr Product products[] = {product<rows + 1>...};
    return products[count - 1];
}

// A product of any number of rows, in shares that differ by one row at most.
void multiply(const float *left, const float *right, int64_t parts, int64_t rows, float *sums) {
    const int64_t shares = (rows + IN_REGISTERS - 1) / IN_REGISTERS;
    for (int64_t share = 0, row = 0; share < shares; ++share) {
        const int64_t end = (share + 1) * rows / shares;
        const Product function = product_of(static_cast<int>(end - row), std::make_integer_sequence<int, IN_REGISTERS>());
        function(left + row * GROUP, right, parts, sums + row * GROUP);
        row = end;
    }
}

// Right factors for x W^T: for each group of rows of each of the gates' weights (H, H).
void pack_turned(const float *weight, int64_t gates, int64_t cells, Range groups, float *to) {
    const int64_t depth = groups_of(cells) * GROUP;
    for (int64_t place = groups.begin * gates; place < groups.end * gates; ++place) {
        const int64_t cell = place / gates * GROUP, there = cells - cell < GROUP ? cells - cell : GROUP;
        const float *from = weight + (place % gates * cells + cell) * cells;
        float *own = to + place * depth * GROUP;
        std::memset(own, 0, sizeof(float) * depth * GROUP);
        for (int64_t k = 0; k < cells; ++k)
            for (int64_t i = 0; i < there; ++i) own[k * GROUP + i] = from[i * cells + k];
    }
}

// Right factors for x W: for each group of columns, of all gates' weights.
void pack_straight(const float *weight, int64_t gates, int64_t cells, Range groups, float *to) {
    const int64_t depth = groups_of(cells) * GROUP;
    for (int64_t place = groups.begin * gates; place < groups.end * gates; ++place) {
        const int64_t cell = place / gates * GROUP, there = cells - cell < GROUP ? cells - cell : GROUP;
        const float *from = weight + place % gates * cells * cells + cell;
        float *own = to + place * depth * GROUP;
        std::memset(own, 0, sizeof(float) * depth * GROUP);
        for (int64_t k = 0; k < cells; ++k) std::memcpy(own + k * GROUP, from + k * cells, sizeof(float) * there);
    }
}

// How members of a team share the work: by rows where each then has enough of them, and by groups of cells.
struct Grid {
    static constexpr int64_t enough = 12;
    int64_t by_rows, by_groups;

    Grid(int64_t threads, int64_t rows) : by_rows(1) {
        for (int64_t shares = 2; shares <= threads; ++shares)
            if (threads % shares == 0 && rows / shares >= enough) by_rows = shares;
        by_groups = threads / by_rows;
    }
};

constexpr Range part_of(Range whole, int64_t index, int64_t count) {
    const int64_t size = whole.end - whole.begin;
    return {whole.begin + index * size / count, whole.begin + (index + 1) * size / count};
}

// What all members of a team hold together.
struct Scratch {
    Scratch(int64_t threads, int64_t gates, int64_t cells, int64_t parts_of_left)
        : parts(parts_of_left), groups(groups_of(cells)), left(threads * 2 * parts * SQUARE),
          carry(threads * groups * SQUARE), sums(threads * gates * SQUARE), right(gates * groups * groups * GROUP * GROUP) {
        if (left) std::memset(left, 0, sizeof(float) * static_cast<size_t>(threads * 2 * parts * SQUARE));
    }
    bool made() const { return left && carry && sums && right; }
    int64_t parts, groups;
    Buffer<float> left, carry, sums, right;
};

// Some rows, that a pass goes through all steps with. Left factors are of this step and of the next one.
struct Rows {
    StepsShape shape;
    const uint8_t *fresh;
    int64_t first, count, parts;
    float *factors, *carry;

    float *left(int64_t step) const { return factors + step % 2 * parts * SQUARE; }
    bool forgets(int64_t t, int64_t row) const {
        return fresh && t < shape.steps && fresh[t * shape.rows + first + row];
    }
    // Where what is kept of a row's cells stands, `each` values a cell.
    int64_t kept_at(int64_t t, int64_t group, int64_t row, int64_t each) const {
        return ((t * groups_of(shape.cells) + group) * shape.rows + first + row) * each * GROUP;
    }
    // Calls work(half, cell) for the vectors of a group, which begin in it and in the layer at these places.
    template <class Work> void each_vector(int64_t group, Work &&work) const {
        for (int64_t half = 0; half < GROUP && group * GROUP + half < shape.cells; half += lanes)
            work(half, group * GROUP + half);
    }
};

template <class Cell> struct Forward : Rows, ForwardArguments {
    static constexpr int64_t products = Cell::gates;
    int64_t parts_in(int64_t) const { return parts; }

    void start(int64_t group, int64_t row) const {
        each_vector(group, [&](int64_t half, int64_t cell) {
            const int64_t from = (first + row) * shape.cells + cell, there = forgets(0, row) ? 0 : shape.cells - cell;
            const int64_t here = group * SQUARE + row * GROUP + half;
            store(left(0) + here, load(h + from, there));
            store(carry + here, load((c ? c : h) + from, there));
        });
    }

    void cells(int64_t t, int64_t group, int64_t row, const float *sums) const {
        const int64_t wide = shape.cells, n = first + row, at = t * shape.rows + n;
        const float *x = input + (ids ? ids[at] : at) * Cell::gates * wide;
        const bool stays = !forgets(t + 1, row), last = t == shape.steps - 1;
        each_vector(group, [&](int64_t half, int64_t cell) {
            const int64_t there = wide - cell, here = group * SQUARE + row * GROUP + half;
            Values from_input[Cell::gates], from_hidden[Cell::gates], keep[Cell::kept];
            for (int g = 0; g < Cell::gates; ++g) from_input[g] = load(x + g * wide + cell, there);
            for (int g = 0; g < Cell::gates; ++g) from_hidden[g] = load(sums + g * SQUARE + row * GROUP + half);
            if constexpr (Cell::apart) from_hidden[2] += load(bias + cell, there);
            Values carried = load(carry + here);
            const Values out = Cell::forward(from_input, from_hidden, carried, keep);
            store(carry + here, stays ? carried : Values{});
            store(left(t + 1) + here, stays ? out : Values{});
            store(y + at * wide + cell, there, out);
            if (last) store(h_after + n * wide + cell, there, out);
            if (last && c_after) store(c_after + n * wide + cell, there, carried);
            for (int k = 0; kept && k < Cell::kept; ++k)
                store(kept + kept_at(t, group, row, Cell::kept) + k * GROUP + half, lanes, keep[k]);
        });
    }
};

// Its step 0 is the layer's last one; after the layer's first one comes a step for the state before.
template <class Cell> struct Backward : Rows, BackwardArguments {
    static constexpr int64_t products = 1;
    int64_t parts_in(int64_t step) const { return step ? parts : 0; }

    void start(int64_t group, int64_t row) const {
        each_vector(group, [&](int64_t half, int64_t cell) {
            const float *from = dc_after + (first + row) * shape.cells + cell;
            store(carry + group * SQUARE + row * GROUP + half, dc_after ? load(from, shape.cells - cell) : Values{});
        });
    }

    void cells(int64_t step, int64_t group, int64_t row, const float *sums) const {
        const int64_t t = shape.steps - 1 - step, wide = shape.cells, n = first + row;
        each_vector(group, [&](int64_t half, int64_t cell) {
            const int64_t there = wide - cell, in_state = n * wide + cell;
            float *carried = carry + group * SQUARE + row * GROUP + half;
            Values bypass = load(carried), out = load(sums + row * GROUP + half);
            if (t < 0) {
                store(dh + in_state, there, Cell::apart ? out + bypass : out);
                if (dc) store(dc + in_state, there, bypass);
                return;
            }
            out += load(dy + t * shape.rows * wide + in_state, there);
            if (step == 0) out += load(dh_after + in_state, there);
            step_back(t, group, row, half, out, bypass);
            store(carried, forgets(t, row) ? Values{} : bypass);
        });
    }

    void step_back(int64_t t, int64_t group, int64_t row, int64_t half, Values out, Values &bypass) const {
        const int64_t cell = group * GROUP + half, there = shape.cells - cell;
        const int64_t to = (t * shape.rows + first + row) * Cell::gates * shape.cells + cell;
        Values keep[Cell::kept], dx[Cell::gates], du[Cell::gates];
        const float *from = kept + kept_at(t, group, row, Cell::kept) + half;
        for (int k = 0; k < Cell::kept; ++k) keep[k] = load(from + k * GROUP, lanes);
        Cell::backward(out, bypass, keep, dx, du);
        float *next = left(shape.steps - t) + group * SQUARE + row * GROUP + half;
        for (int g = 0; g < Cell::gates; ++g, next += groups_of(shape.cells) * SQUARE) {
            const Values hidden = Cell::apart ? du[g] : dx[g];
            store(dinput + to + g * shape.cells, there, dx[g]);
            if (Cell::apart) store(dhidden + to + g * shape.cells, there, hidden);
            store(next, forgets(t, row) ? Values{} : hidden);
        }
    }
};

// All steps of a pass, of a member's groups: the products of each group, and then its cells. `wait` is for the others.
template <class Pass, class Wait>
void sweep(const Pass &pass, int64_t steps, Range groups, const float *right, float *sums, Wait &&wait) {
    const int64_t factor = pass.parts * GROUP * GROUP;
    for (int64_t step = -1; step < steps; ++step, wait())
        for (int64_t place = groups.begin; place < groups.end; ++place) {
            // There and back again, so that the weights used last are used next and still in the cache.
            const int64_t group = step % 2 ? place : groups.end - 1 - (place - groups.begin);
            for (int64_t row = 0; step < 0 && row < pass.count; ++row) pass.start(group, row);
            if (step < 0) continue;
            for (int64_t p = 0; p < Pass::products; ++p)
                multiply(pass.left(step), right + (group * Pass::products + p) * factor, pass.parts_in(step), pass.count,
                         sums + p * SQUARE);
            for (int64_t row = 0; row < pass.count; ++row) pass.cells(step, group, row, sums);
        }
}

// A pass over all rows, in a team: each member has some rows and some groups of them, whose weights it packs.
template <class Pass, class Arguments, class Pack>
Status run_pass(const StepsShape &shape, const Arguments &arguments, int64_t gates, int64_t parts, int64_t steps,
                Pack &&pack) {
    const Scratch scratch(shape.threads, gates, shape.cells, parts);
    if (!scratch.made()) return no_memory;
    run(shape.threads, [&](const Member &member) {
        const Grid grid(member.count, shape.rows);
        pack(member.share(scratch.groups), scratch.right);
        member.wait();
        const int64_t share = member.index / grid.by_groups, most = (shape.rows + grid.by_rows - 1) / grid.by_rows;
        const Range all = part_of({0, shape.rows}, share, grid.by_rows);
        const Range groups = part_of({0, scratch.groups}, member.index % grid.by_groups, grid.by_groups);
        float *left = scratch.left + share * 2 * parts * SQUARE, *carry = scratch.carry + share * scratch.groups * SQUARE;
        for (int64_t piece = 0, pieces = (most + ROWS - 1) / ROWS; piece < pieces; ++piece) {
            const Range rows = part_of(all, piece, pieces);
            const Pass pass{{shape, arguments.fresh, rows.begin, rows.end - rows.begin, parts, left, carry}, arguments};
            sweep(pass, steps, groups, scratch.right, scratch.sums + member.index * gates * SQUARE,
                  [&] { if (grid.by_groups > 1) member.wait(); });
        }
    });
    return ok;
}

template <class Cell> Status forward_of(const StepsShape &shape, const ForwardArguments &arguments) {
    return run_pass<Forward<Cell>>(shape, arguments, Cell::gates, groups_of(shape.cells), shape.steps,
                                   [&](Range groups, float *right) {
                                       pack_turned(arguments.weight, Cell::gates, shape.cells, groups, right);
                                   });
}

template <class Cell> Status backward_of(const StepsShape &shape, const BackwardArguments &arguments) {
    return run_pass<Backward<Cell>>(shape, arguments, Cell::gates, Cell::gates * groups_of(shape.cells), shape.steps + 1,
                                    [&](Range groups, float *right) {
                                        pack_straight(arguments.weight, Cell::gates, shape.cells, groups, right);
                                    });
}

Status forward(int64_t cell, const StepsShape &shape, const ForwardArguments &arguments) {
    if (cell == lstm) return forward_of<Lstm>(shape, arguments);
    if (cell == gru) return forward_of<Gru>(shape, arguments);
    return cell == rnn ? forward_of<Rnn>(shape, arguments) : bad_argument;
}

Status backward(int64_t cell, const StepsShape &shape, const BackwardArguments &arguments) {
    if (cell == lstm) return backward_of<Lstm>(shape, arguments);
    if (cell == gru) return backward_of<Gru>(shape, arguments);
    return cell == rnn ? backward_of<Rnn>(shape, arguments) : bad_argument;
}

bool possible(const StepsShape &shape) {
    return shape.steps > 0 && shape.rows > 0 && shape.cells > 0 && shape.threads > 0;
}

}  // namespace
}  // namespace scriven

SCRIVEN_API int64_t scriven_steps_forward(const scriven::StepsForward *call) {
    using namespace scriven;
    const StepsShape shape{call->steps, call->rows, call->cells, call->threads};
    if (!possible(shape) || (call->cell == gru && !call->bias) || (call->cell == lstm && !call->c)) return bad_argument;
    for (int64_t i = 0; call->ids && i < shape.steps * shape.rows; ++i)
        if (call->ids[i] < 0 || call->ids[i] >= call->symbols) return bad_argument;
    return forward(call->cell, shape,
                   {call->sums, call->ids, call->weight, call->bias, call->h, call->c, call->fresh, call->y, call->kept,
                    call->h_after, call->c_after});
}

SCRIVEN_API int64_t scriven_steps_backward(const scriven::StepsBackward *call) {
    using namespace scriven;
    const StepsShape shape{call->steps, call->rows, call->cells, call->threads};
    if (!possible(shape) || (call->cell == gru && !call->dhidden) || (call->cell == lstm && !call->dc))
        return bad_argument;
    return backward(call->cell, shape,
                    {call->weight, call->fresh, call->kept, call->dy, call->dh_after, call->dc_after, call->dsums,
                     call->dhidden, call->dh, call->dc});
}

// The ids are ones that a pass has seen.
SCRIVEN_API int64_t scriven_steps_add_rows(const scriven::StepsAddRows *call) {
    using namespace scriven;
    if (call->threads < 1) return bad_argument;
    run(call->threads, [&](const Member &member) {
        const Range columns = member.share(call->width);
        for (int64_t i = 0; i < call->count; ++i) {
            const float *from = call->dy + i * call->width;
            float *sums = call->dtable + call->ids[i] * call->width;
            for (int64_t column = columns.begin; column < columns.end; ++column) sums[column] += from[column];
        }
    });
    return ok;
}
