// Muon's update of matrices: momentum, and its Newton-Schulz iteration in any number format, with sums in fp32.
//
// A matrix is held in square blocks, its longer side downwards: X. The iteration goes on with the small
// A = X'X, whose polynomials P all commute and are symmetric: blocks below the diagonal are those above it, turned. X
// itself is multiplied a few times only. Where there are as many matrices as threads, each is one thread's; else all threads
// share one. Each block is made by one thread in one order either way: the results are the same bits.
#include <cmath>

#include "blocks.h"
#include "calls.h"

namespace scriven {
namespace {

constexpr int64_t DEPTH = 512 / GROUP;  // groups of rows of X whose products are made together
constexpr int64_t BAND = LANES / GROUP;  // groups of rows whose squares are summed together
constexpr double TOO_LARGE = 1e18;  // a norm whose square fp32 does not hold

struct Sizes {
    int64_t rows, columns;  // of the matrix

    bool tall() const { return rows >= columns; }
    int64_t downs() const { return groups_of(tall() ? rows : columns); }  // groups of X's rows
    int64_t parts() const { return groups_of(tall() ? columns : rows); }  // groups of X's columns
    int64_t bands() const { return bands_of(downs()); }
    int64_t uppers() const {  // blocks in the bands on and above the diagonal
        int64_t count = 0;
        for (int64_t i = 0; i < parts(); ++i) count += parts() - i / BAND * BAND;
        return count;
    }
    static int64_t bands_of(int64_t groups) { return (groups + BAND - 1) / BAND; }
};

// The blocks of a matrix as factors of products: [i][k] as left ones, and [j][k] as right ones, which hold block (k, j).
template <class F> struct Factors {
    typename F::Number *left, *right;
};

enum Form { as_left = 1, as_right = 2, as_both = 3 };

// What one matrix needs while it is worked on.
template <class F> struct Room {
    using Number = typename F::Number;
    float *sums;          // (uppers) blocks
    double *squares;      // (bands)
    Number *rows;         // (threads, parts) blocks
    Factors<F> panel;     // (parts, DEPTH) blocks of X' and of X
    Factors<F> small[5];  // symmetric (parts, parts)
    Number *x;            // (downs, parts) blocks

    static int64_t values(const Sizes &size, int64_t threads) {
        return (threads + 2 * DEPTH + 2 * 5 * size.parts() + size.downs()) * size.parts() * SQUARE;
    }
    Room(const Sizes &size, int64_t threads, float *all_sums, double *norms, Number *values)
        : sums(all_sums), squares(norms), rows(values) {
        const int64_t row = size.parts() * SQUARE, square = size.parts() * row;
        panel = {rows + threads * row, rows + (threads + DEPTH) * row};
        x = panel.right + DEPTH * row;
        for (Factors<F> &each : small) each = {x, x + square}, x += 2 * square;
    }
};

// A block of sums times `scale`, rounded.
template <class F> void round_block(const float *sums, float scale, typename F::Number *to) {
    for (int64_t at = 0; at < SQUARE; at += GROUP) F::store(to + at, F::rounded(F::load(sums + at) * all(scale)));
}

// Calls work(number, i, j) for a range of the blocks in the bands on and above the diagonal.
template <class Work> void each_upper(Range range, int64_t parts, Work &&work) {
    int64_t number = 0;
    for (int64_t i = 0; i < parts; ++i)
        for (int64_t j = i / BAND * BAND; j < parts; ++j, ++number)
            if (number >= range.begin && number < range.end) work(number, i, j);
}

// One matrix and a member of the team that works on it.
template <class F> struct Work {
    using Number = typename F::Number;
    const MuonUpdate &call;  // P = aI + bA + cA^2
    const Sizes sizes;
    const int64_t number;
    const Member &member;
    Room<F> room;

    void update() {
        move();
        if (!call.updates[number]) return;  // only the momentum is wanted
        member.wait();
        double sum = 0;
        for (int64_t band = 0; band < sizes.bands(); ++band) sum += room.squares[band];
        const double norm = std::sqrt(sum);
        if (!(norm < TOO_LARGE)) return give_nothing();
        const typename F::Registers registers;
        float scale = 1.0f / (static_cast<float>(norm) + call.epsilon);  // X is divided by its norm in its products
        for (int64_t turn = 0; turn < call.turns; ++turn, scale = 1.0f) {
            multiply(scale * scale);
            advance(polynomials(call.steps[turn]), scale, turn + 1 == call.turns);
        }
    }

    // The momentum, and X = its Nesterov form with the sums of its squares, of bands of X's rows. The order of sums is the
    // same for blocks of any size.
    void move() const {
        const Range bands = member.share(sizes.bands());
        for (int64_t band = bands.begin; band < bands.end; ++band) {
            Lanes squares;
            for (int64_t other = 0; other < Sizes::bands_of(sizes.parts()); ++other)
                for (int64_t i = 0; i < BAND; ++i)
                    for (int64_t j = 0; j < BAND; ++j)
                        move((sizes.tall() ? band : other) * BAND + i, (sizes.tall() ? other : band) * BAND + j,
                             squares.values[j]);
            room.squares[band] = squares.total();
        }
    }

    // The same for a block of the matrix.
    void move(int64_t down, int64_t across, Values &squares) const {
        const Values fresh = all(call.scale * (1.0f - call.momentum)), stays = all(call.momentum);
        alignas(64) float block[SQUARE], turned[SQUARE];
        for (int64_t i = 0; i < GROUP; ++i) {
            const int64_t row = down * GROUP + i, at = row * sizes.columns + across * GROUP;
            const int64_t there = row < sizes.rows ? sizes.columns - across * GROUP : 0;
            float *momentum = call.momenta[number] + at;
            const Values news = F::load(call.gradients[number] + at, there) * fresh;
            const Values moved = fused(F::load(momentum, there), stays, news), value = fused(moved, stays, news);
            F::store(momentum, moved, there);
            squares = fused(value, value, squares);
            F::store(block + i * GROUP, value);
        }
        if (!sizes.tall()) Fp32::turn(block, turned), std::swap(down, across);
        if (down < sizes.downs() && across < sizes.parts())
            round_block<F>(sizes.tall() ? block : turned, 1.0f, room.x + (down * sizes.parts() + across) * SQUARE);
    }

    void give_nothing() const {
        const Range rows = member.share(sizes.rows);
        std::memset(static_cast<Number *>(call.updates[number]) + rows.begin * sizes.columns, 0,
                    (rows.end - rows.begin) * sizes.columns * sizeof(Number));
    }

    // A = X'X times `scale`, a panel of X's rows after the other.
    void multiply(float scale) const {
        const int64_t parts = sizes.parts();
        for (int64_t begin = 0; begin < sizes.downs(); begin += DEPTH) {
            const int64_t left = sizes.downs() - begin, depth = smaller_of(left, DEPTH);
            const Range share = member.share(parts * depth);
            for (int64_t place = share.begin; place < share.end; ++place) {
                const int64_t to = (place % parts * DEPTH + place / parts) * SQUARE;
                to_right<F>(room.x + (begin * parts + place) * SQUARE, room.panel.right + to);
                F::turn(room.panel.right + to, room.panel.left + to);
            }
            member.wait();
            each_upper(member.share(sizes.uppers()), parts, [&](int64_t number, int64_t i, int64_t j) {
                float *sums = room.sums + number * SQUARE;
                product<F>(room.panel.left + i * DEPTH * SQUARE, room.panel.right + j * DEPTH * SQUARE, depth, sums, begin > 0);
                if (left <= DEPTH) put_both(sums, scale, i, j, as_both, room.small[0]);
            });
            member.wait();
        }
    }

    // The product of the P of so many steps: A <- APP from one to the next.
    Factors<F> polynomials(int64_t steps) const {
        const Factors<F> &gram = room.small[0], &between = room.small[1];
        Factors<F> factor = room.small[2], other = room.small[3], power = factor;
        polynomial(gram, factor, steps > 1 ? as_both : as_right);
        for (int64_t step = 1; step < steps; ++step) {
            times(gram, power, between, as_left);
            times(between, power, gram, as_both);
            power = room.small[4];
            polynomial(gram, power, as_right);
            times(factor, power, other, step + 1 < steps ? as_left : as_right);
            std::swap(factor, other);
        }
        return factor;
    }

    void polynomial(const Factors<F> &gram, const Factors<F> &to, Form form) const {
        products(gram, gram, to, form, [&](float *sums, int64_t i, int64_t j) {
            const Number *first = gram.left + (i * sizes.parts() + j) * SQUARE;
            for (int64_t at = 0; at < SQUARE; at += GROUP)
                F::store(sums + at, fused(F::load(sums + at), all(call.c), F::load(first + at) * all(call.b)));
            for (int64_t row = 0; i == j && row < GROUP; ++row) sums[row * GROUP + row] += call.a;
        });
    }

    void times(const Factors<F> &left, const Factors<F> &right, const Factors<F> &to, Form form) const {
        products(left, right, to, form, [](float *, int64_t, int64_t) {});
    }

    // to = left times right, symmetric, after finish(sums, i, j) of each block.
    template <class Finish>
    void products(const Factors<F> &left, const Factors<F> &right, const Factors<F> &to, Form form, Finish &&finish) const {
        const int64_t parts = sizes.parts();
        each_upper(member.share(sizes.uppers()), parts, [&](int64_t, int64_t i, int64_t j) {
            alignas(64) float sums[SQUARE];
            product<F>(left.left + i * parts * SQUARE, right.right + j * parts * SQUARE, parts, sums);
            finish(sums, i, j);
            put_both(sums, 1.0f, i, j, form, to);
        });
        member.wait();
    }

    // Block (i, j) of a symmetric matrix, its sums times `scale`, and block (j, i), in the forms that are wanted. Rounding
    // makes products not quite symmetric, so that the one is made from the other in whole bands alone, at every level.
    void put_both(const float *sums, float scale, int64_t i, int64_t j, Form form, const Factors<F> &to) const {
        const int64_t here = (i * sizes.parts() + j) * SQUARE, there = (j * sizes.parts() + i) * SQUARE;
        alignas(64) Number rooms[2][SQUARE];
        Number *left = form & as_left ? to.left + here : rooms[0], *right = form & as_right ? to.right + there : rooms[1];
        round_block<F>(sums, scale, left);
        to_right<F>(left, right);
        if (i / BAND == j / BAND) return;
        if (form & as_left) F::turn(right, to.left + there);
        if (form & as_right) F::turn(left, to.right + here);
    }

    // X <- X times the factor and `scale`, in its place; or the `last` time, the update.
    void advance(const Factors<F> &factor, float scale, bool last) {
        const int64_t parts = sizes.parts();
        const Out<F> update{static_cast<Number *>(call.updates[number]), sizes.rows, sizes.columns};
        const Range downs = member.share(sizes.downs());
        Number *made = room.rows + member.index * parts * SQUARE;
        for (int64_t down = downs.begin; down < downs.end; ++down) {
            for (int64_t part = 0; part < parts; ++part) {
                alignas(64) float sums[SQUARE], turned[SQUARE];
                product<F>(room.x + down * parts * SQUARE, factor.right + part * parts * SQUARE, parts, sums);
                if (!last) round_block<F>(sums, scale, made + part * SQUARE);
                else if (sizes.tall()) update.put(sums, down * GROUP, part * GROUP, scale);
                else Fp32::turn(sums, turned), update.put(turned, part * GROUP, down * GROUP, scale);
            }
            if (!last) std::memcpy(room.x + down * parts * SQUARE, made, parts * SQUARE * sizeof(Number));
        }
        member.wait();
    }
};

// Matrices of one size: as many as go into the members evenly are each one member's, the others are all members'.
template <class F> Status update(const MuonUpdate *call) {
    const int64_t threads = call->threads, count = call->count, rooms = smaller_of(count, threads);
    const Sizes sizes{call->rows, call->columns};
    const int64_t each = Room<F>::values(sizes, threads), blocks = sizes.uppers() * SQUARE, bands = sizes.bands();
    const Buffer<typename F::Number> values(rooms * each);
    const Buffer<float> sums(rooms * blocks);
    const Buffer<double> squares(rooms * bands);
    if (!values || !sums || !squares) return no_memory;
    run(threads, [&](const Member &member) {
        const auto work = [&](int64_t number, int64_t place, const Member &team) {
            const Room<F> room(sizes, threads, sums + place * blocks, squares + place * bands, values + place * each);
            Work<F>{*call, sizes, number, team, room}.update();
        };
        const int64_t single = count / member.count * member.count;
        for (int64_t i = member.index; i < single; i += member.count) work(i, member.index, Member{0, 1, nullptr});
        for (int64_t i = single; i < count; ++i) {
            member.wait();
            work(i, 0, member);
        }
    });
    return ok;
}

}  // namespace
}  // namespace scriven

// The momenta of matrices, from their gradients times `scale`, and their updates.
SCRIVEN_API int64_t scriven_muon_update(const scriven::MuonUpdate *call) {
    using namespace scriven;
    if (call->threads < 1 || call->count < 1 || call->rows < 1 || call->columns < 1 || call->turns < 1) return bad_argument;
    return in_format(call->bf16, [&](auto format) { return update<decltype(format)>(call); });
}

// Weights of matrices: times `keep`, less `rate` times their updates.
SCRIVEN_API int64_t scriven_muon_apply(const scriven::MuonApply *call) {
    using namespace scriven;
    const int64_t groups = groups_of(call->size);
    return in_format(call->bf16, [&](auto format) {
        using F = decltype(format);
        run(call->threads, [&](const Member &member) {
            const Range share = member.share(call->count * groups);
            for (int64_t number = share.begin; number < share.end; ++number) {
                const int64_t at = number % groups * GROUP, there = call->size - at;
                float *to = call->weights[number / groups] + at;
                const auto *from = static_cast<const typename F::Number *>(call->updates[number / groups]) + at;
                F::store(to, less(F::load(from, there), all(call->rate), F::load(to, there) * all(call->keep)), there);
            }
        });
        return ok;
    });
}
