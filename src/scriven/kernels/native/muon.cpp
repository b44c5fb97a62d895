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
    int64_t bands() const { return (downs() + BAND - 1) / BAND; }
    int64_t squares() const { return parts() * parts(); }
    int64_t uppers() const {  // blocks in the bands on and above the diagonal
        int64_t count = 0;
        for (int64_t i = 0; i < parts(); ++i) count += parts() - i / BAND * BAND;
        return count;
    }
};

// A symmetric matrix of blocks: [i][k] as left factors, and [j][k] as right ones, which hold block (k, j).
template <class F> struct Symmetric {
    typename F::Number *left, *right;
};
enum Form { as_left = 1, as_right = 2, as_both = 3 };

// What one matrix needs while it is worked on.
template <class F> struct Room {
    using Number = typename F::Number;
    Number *x;                  // (downs, parts) blocks
    Number *lefts, *rights;     // (parts, DEPTH) blocks of X' and of X
    float *sums;                // (uppers) blocks
    double *squares;            // (downs / BAND rounded up)
    Symmetric<F> small[5];
    Number *rows;               // (threads, parts) blocks

    static int64_t values(const Sizes &size, int64_t threads) {
        return ((size.downs() + 2 * DEPTH + threads) * size.parts() + 2 * 5 * size.squares()) * SQUARE;
    }
    Room(const Sizes &size, int64_t threads, Number *values, float *all_sums, double *norms)
        : sums(all_sums), squares(norms) {
        const auto taken = [&](int64_t blocks) {
            Number *before = values;
            values += blocks * SQUARE;
            return before;
        };
        x = taken(size.downs() * size.parts());
        lefts = taken(size.parts() * DEPTH);
        rights = taken(size.parts() * DEPTH);
        for (Symmetric<F> &each : small) {
            each.left = taken(size.squares());
            each.right = taken(size.squares());
        }
        rows = taken(threads * size.parts());
    }
};

// A block of sums times `scale`, rounded.
template <class F> void round_block(const float *sums, float scale, typename F::Number *to) {
    for (int64_t at = 0; at < SQUARE; at += GROUP) F::store(to + at, F::rounded(F::load(sums + at) * all(scale)));
}

// A block turned, from its rows and to its rows.
template <class F> void turn_block(const typename F::Number *block, typename F::Number *to) {
    alignas(64) typename F::Number right[SQUARE];
    to_right<F>(block, right);
    F::turn(right, to);
}

// Block (i, j) of a symmetric matrix and block (j, i), in the forms that are wanted, from the block's rows. Rounding makes
// products not quite symmetric, so that the one is made from the other in whole bands alone, at every level.
template <class F>
void put_both(const typename F::Number *block, int64_t i, int64_t j, int64_t parts, Form form, const Symmetric<F> &to) {
    const int64_t here = (i * parts + j) * SQUARE, there = (j * parts + i) * SQUARE;
    alignas(64) typename F::Number room[SQUARE];
    typename F::Number *right = form & as_right ? to.right + there : room;
    to_right<F>(block, right);
    const bool mirrored = i / BAND != j / BAND;
    if (form & as_left) {
        std::memcpy(to.left + here, block, SQUARE * sizeof(*block));
        if (mirrored) F::turn(right, to.left + there);
    }
    if (form & as_right && mirrored) F::turn(block, to.right + here);
}

// Calls work(number, i, j) for a range of the blocks in the bands on and above the diagonal.
template <class Work> void each_upper(Range range, int64_t parts, Work &&work) {
    int64_t number = 0;
    for (int64_t i = 0; i < parts; ++i)
        for (int64_t j = i / BAND * BAND; j < parts; ++j, ++number)
            if (number >= range.begin && number < range.end) work(number, i, j);
}

// One matrix and a member of the team that works on it.
template <class F> class Work {
  public:
    using Number = typename F::Number;

    Work(const MuonUpdate &call, const Sizes &sizes, int64_t number, const Room<F> &room, const Member &member)
        : call_(call), sizes_(sizes), gradient_(call.gradients[number]), momentum_(call.momenta[number]),
          update_(static_cast<Number *>(call.updates[number])), room_(room), member_(member), parts_(sizes.parts()) {}

    void update() {
        move();
        if (!update_) return;
        member_.wait();
        const double norm = this->norm();
        if (!(norm < TOO_LARGE)) return give_nothing();
        const typename F::Registers registers;
        float scale = 1.0f / (static_cast<float>(norm) + call_.epsilon);  // X is divided by its norm in its products
        for (int64_t turn = 0; turn < call_.turns; ++turn, scale = 1.0f) {
            multiply(scale * scale);
            advance(polynomials(call_.steps[turn]), scale, turn + 1 == call_.turns);
            member_.wait();
        }
    }

  private:
    const MuonUpdate &call_;  // P = aI + bA + cA^2
    const Sizes &sizes_;
    const float *const gradient_;
    float *const momentum_;
    Number *const update_;  // null where only the momentum is wanted
    const Room<F> &room_;
    const Member &member_;
    const int64_t parts_;

    // The momentum, and X = its Nesterov form with the sums of its squares, of bands of X's rows.
    void move() const {
        const Range bands = member_.share(sizes_.bands());
        for (int64_t band = bands.begin; band < bands.end; ++band) {
            Lanes squares;
            for (int64_t across = 0; across < (parts_ + BAND - 1) / BAND; ++across)
                move(sizes_.tall() ? band : across, sizes_.tall() ? across : band, squares);
            room_.squares[band] = squares.total();
        }
    }

    // The same for LANES x LANES values of the matrix. The order of sums is the same for blocks of any size.
    void move(int64_t down, int64_t across, Lanes &squares) const {
        const Values fresh = all(call_.scale * (1.0f - call_.momentum)), stays = all(call_.momentum);
        alignas(64) Number blocks[BAND * BAND][SQUARE];
        for (int64_t i = 0; i < LANES; ++i)
            for (int64_t j = 0; j < LANES; j += GROUP) {
                const int64_t row = down * LANES + i, column = across * LANES + j, at = row * sizes_.columns + column;
                const int64_t there = row < sizes_.rows ? sizes_.columns - column : 0;
                const Values news = F::load(gradient_ + at, there) * fresh;
                const Values moved = fused(F::load(momentum_ + at, there), stays, news);
                F::store(momentum_ + at, moved, there);
                const Values value = fused(moved, stays, news);
                squares[j] = fused(value, value, squares[j]);
                F::store(blocks[i / GROUP * BAND + j / GROUP] + i % GROUP * GROUP, F::rounded(value));
            }
        for (int64_t i = 0; i < BAND; ++i)
            for (int64_t j = 0; j < BAND; ++j) put(blocks[i * BAND + j], down * BAND + i, across * BAND + j);
    }

    // A block of the matrix as one of X.
    void put(const Number *block, int64_t down, int64_t part) const {
        if (!sizes_.tall()) std::swap(down, part);
        if (down >= sizes_.downs() || part >= parts_) return;
        Number *to = room_.x + (down * parts_ + part) * SQUARE;
        sizes_.tall() ? void(std::memcpy(to, block, SQUARE * sizeof(Number))) : turn_block<F>(block, to);
    }

    double norm() const {
        double sum = 0;
        for (int64_t band = 0; band < sizes_.bands(); ++band) sum += room_.squares[band];
        return std::sqrt(sum);
    }

    void give_nothing() const {
        const Range rows = member_.share(sizes_.rows);
        std::memset(update_ + rows.begin * sizes_.columns, 0, (rows.end - rows.begin) * sizes_.columns * sizeof(Number));
    }

    // A = X'X times `scale`, a panel of X's rows after the other.
    void multiply(float scale) const {
        for (int64_t begin = 0; begin < sizes_.downs(); begin += DEPTH) {
            const int64_t left = sizes_.downs() - begin, depth = left < DEPTH ? left : DEPTH;
            pack(begin, depth);
            member_.wait();
            each_upper(member_.share(sizes_.uppers()), parts_, [&](int64_t number, int64_t i, int64_t j) {
                float *sums = room_.sums + number * SQUARE;
                product<F>(room_.lefts + i * DEPTH * SQUARE, room_.rights + j * DEPTH * SQUARE, depth, sums, begin > 0);
                if (left > DEPTH) return;
                alignas(64) Number block[SQUARE];
                round_block<F>(sums, scale, block);
                put_both<F>(block, i, j, parts_, as_both, room_.small[0]);
            });
            member_.wait();
        }
    }

    // Some groups of X's rows as factors of X'X.
    void pack(int64_t begin, int64_t depth) const {
        const Range share = member_.share(parts_ * depth);
        for (int64_t number = share.begin; number < share.end; ++number) {
            const int64_t k = number / parts_, part = number % parts_, to = (part * DEPTH + k) * SQUARE;
            to_right<F>(room_.x + ((begin + k) * parts_ + part) * SQUARE, room_.rights + to);
            F::turn(room_.rights + to, room_.lefts + to);
        }
    }

    // The product of the P of so many steps, as a right factor: A <- APP from one to the next.
    Symmetric<F> polynomials(int64_t steps) const {
        const Symmetric<F> *small = room_.small;
        const Symmetric<F> &gram = small[0], &between = small[1];
        Symmetric<F> factor = small[2], other = small[3], power = factor;
        polynomial(gram, factor, steps > 1 ? as_both : as_right);
        for (int64_t step = 1; step < steps; ++step) {
            times(gram, power, between, as_left);
            times(between, power, gram, as_both);
            power = small[4];
            polynomial(gram, power, as_right);
            times(factor, power, other, step + 1 < steps ? as_left : as_right);
            const Symmetric<F> before = factor;
            factor = other, other = before;
        }
        return factor;
    }

    void polynomial(const Symmetric<F> &gram, const Symmetric<F> &to, Form form) const {
        products(gram, gram, to, form, [&](const float *sums, int64_t i, int64_t j, Number *block) {
            alignas(64) float values[SQUARE];
            const Number *first = gram.left + (i * parts_ + j) * SQUARE;
            for (int64_t at = 0; at < SQUARE; at += GROUP)
                F::store(values + at, fused(F::load(sums + at), all(call_.c), F::load(first + at) * all(call_.b)));
            for (int64_t row = 0; i == j && row < GROUP; ++row) values[row * GROUP + row] += call_.a;
            round_block<F>(values, 1.0f, block);
        });
    }

    void times(const Symmetric<F> &left, const Symmetric<F> &right, const Symmetric<F> &to, Form form) const {
        products(left, right, to, form,
                 [](const float *sums, int64_t, int64_t, Number *block) { round_block<F>(sums, 1.0f, block); });
    }

    // to = left times right, where finish(sums, i, j, block) rounds the sums of a block.
    template <class Finish>
    void products(const Symmetric<F> &left, const Symmetric<F> &right, const Symmetric<F> &to, Form form,
                  Finish &&finish) const {
        each_upper(member_.share(sizes_.uppers()), parts_, [&](int64_t, int64_t i, int64_t j) {
            alignas(64) float sums[SQUARE];
            alignas(64) Number block[SQUARE];
            product<F>(left.left + i * parts_ * SQUARE, right.right + j * parts_ * SQUARE, parts_, sums, false);
            finish(sums, i, j, block);
            put_both<F>(block, i, j, parts_, form, to);
        });
        member_.wait();
    }

    // X <- X times the factor and `scale`, in its place; or the `last` time, the update.
    void advance(const Symmetric<F> &factor, float scale, bool last) const {
        Number *made = room_.rows + member_.index * parts_ * SQUARE;
        const Range downs = member_.share(sizes_.downs());
        for (int64_t down = downs.begin; down < downs.end; ++down) {
            Number *own = room_.x + down * parts_ * SQUARE;
            for (int64_t part = 0; part < parts_; ++part) {
                alignas(64) float sums[SQUARE];
                product<F>(own, factor.right + part * parts_ * SQUARE, parts_, sums, false);
                round_block<F>(sums, scale, made + part * SQUARE);
                if (last) give(made + part * SQUARE, down, part);
            }
            if (!last) std::memcpy(own, made, parts_ * SQUARE * sizeof(Number));
        }
    }

    // A block of X times its factor as one of the update.
    void give(const Number *block, int64_t down, int64_t part) const {
        alignas(64) Number turned[SQUARE];
        if (!sizes_.tall()) {
            turn_block<F>(block, turned);
            block = turned;
            std::swap(down, part);
        }
        for (int64_t i = 0; i < GROUP && down * GROUP + i < sizes_.rows; ++i)
            F::store(update_ + (down * GROUP + i) * sizes_.columns + part * GROUP, F::packed(block + i * GROUP),
                     sizes_.columns - part * GROUP);
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
            const Room<F> room(sizes, threads, values + place * each, sums + place * blocks, squares + place * bands);
            Work<F>(*call, sizes, number, room, team).update();
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
