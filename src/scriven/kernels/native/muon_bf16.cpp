// Muon's update of matrices: momentum, and its Newton-Schulz iteration in bf16 tiles with sums in fp32.
//
// A matrix is held in blocks of 32 x 32 values, its longer side downwards: X. The iteration goes on with the small
// A = X'X, whose polynomials P all commute and are symmetric: blocks below the diagonal are those above it, turned. X
// itself is multiplied a few times only. Where there are as many matrices as threads, each is one thread's; else all threads
// share one. Each block is made by one thread in one order either way: the results are the same bits.
#include <cmath>
#include <new>

#include "bf16_vectors.h"
#include "calls.h"
#include "thread_team.h"

namespace scriven {
namespace {

constexpr int64_t DEPTH = 16;  // groups of rows of X whose products are made together
constexpr double TOO_LARGE = 1e18;  // a norm whose square fp32 does not hold

struct Rule {
    float scale, momentum, epsilon;  // of the gradients; the share that stays; what is added to the norm
    float a, b, c;                   // P = aI + bA + cA^2
    int64_t turns;                   // how often A is made anew
    const int64_t *steps;            // that are taken with it each time
};

struct Sizes {
    int64_t rows, columns;  // of the matrix

    bool tall() const { return rows >= columns; }
    int64_t downs() const { return groups_of(tall() ? rows : columns); }  // groups of X's rows
    int64_t parts() const { return groups_of(tall() ? columns : rows); }  // groups of X's columns
    int64_t squares() const { return parts() * parts(); }
    int64_t uppers() const { return parts() * (parts() + 1) / 2; }  // blocks on and above the diagonal
};

struct Matrix {
    const float *gradient;
    float *momentum;
    bf16 *update;  // null where only the momentum is wanted
};

// A symmetric matrix of blocks: [i][k] as left factors, and [j][k] as right ones, which hold block (k, j).
struct Symmetric {
    bf16 *left, *right;
};
enum Form { as_left = 1, as_right = 2, as_both = 3 };

// What one matrix needs while it is worked on.
struct Room {
    bf16 *x;                    // (downs, parts) blocks
    bf16 *lefts, *rights;       // (parts, DEPTH) blocks of X' and of X
    float *sums;                // (uppers) blocks
    double *squares;            // (downs)
    Symmetric small[5];
    bf16 *rows;                 // (threads, parts) blocks

    static int64_t values(const Sizes &size, int64_t threads) {
        return ((size.downs() + 2 * DEPTH + threads) * size.parts() + 2 * 5 * size.squares()) * SQUARE;
    }
    Room(const Sizes &size, int64_t threads, bf16 *values, float *all_sums, double *norms)
        : sums(all_sums), squares(norms) {
        const auto taken = [&](int64_t blocks) {
            bf16 *before = values;
            values += blocks * SQUARE;
            return before;
        };
        x = taken(size.downs() * size.parts());
        lefts = taken(size.parts() * DEPTH);
        rights = taken(size.parts() * DEPTH);
        for (Symmetric &each : small) {
            each.left = taken(size.squares());
            each.right = taken(size.squares());
        }
        rows = taken(threads * size.parts());
    }
};

// A block as a right factor: pairs of its rows, in two tiles.
inline void pair_rows(const bf16 *block, bf16 *to) {
    for (int64_t i = 0; i < 16; ++i) {
        const __m512i first = _mm512_load_si512(block + 2 * i * GROUP);
        const __m512i second = _mm512_load_si512(block + 2 * i * GROUP + GROUP);
        _mm512_store_si512(to + i * GROUP, pairs_of(_mm512_inserti64x4(first, _mm512_castsi512_si256(second), 1)));
        _mm512_store_si512(to + TILE + i * GROUP, pairs_of(_mm512_shuffle_i64x2(first, second, 0xee)));
    }
}

// The 16 x 16 pairs of both tiles of a block, turned: of a right factor it makes the left one of the block turned, and
// of a left factor the right one.
inline void turn_pairs(const bf16 *block, bf16 *to) {
    for (int64_t tile = 0; tile < 2 * TILE; tile += TILE) {
        __m512i rows[16];
        for (int64_t i = 0; i < 16; ++i) rows[i] = _mm512_load_si512(block + tile + i * GROUP);
        transpose(rows);
        for (int64_t i = 0; i < 16; ++i) _mm512_store_si512(to + tile + i * GROUP, rows[i]);
    }
}

// Block (i, j) of a symmetric matrix and block (j, i), in the forms that are wanted, from the block's rows.
inline void put(const bf16 *block, int64_t i, int64_t j, int64_t parts, Form form, const Symmetric &to) {
    const int64_t here = (i * parts + j) * SQUARE, there = (j * parts + i) * SQUARE;
    alignas(64) bf16 room[SQUARE];
    bf16 *pairs = form & as_right ? to.right + there : room;
    pair_rows(block, pairs);
    if (form & as_left) {
        std::memcpy(to.left + here, block, SQUARE * sizeof(bf16));
        if (i != j) turn_pairs(pairs, to.left + there);
    }
    if (form & as_right && i != j) turn_pairs(block, to.right + here);
}

// Calls work(number, i, j) for a range of the blocks on and above the diagonal.
template <class Work> void each_upper(Range range, int64_t parts, Work &&work) {
    int64_t number = 0;
    for (int64_t i = 0; i < parts; ++i)
        for (int64_t j = i; j < parts; ++j, ++number)
            if (number >= range.begin && number < range.end) work(number, i, j);
}

// One matrix and a member of the team that works on it.
class Work {
  public:
    Work(const Rule &rule, const Sizes &sizes, const Matrix &matrix, const Room &room, const Member &member)
        : rule_(rule), sizes_(sizes), matrix_(matrix), room_(room), member_(member), parts_(sizes.parts()) {}

    void update() {
        move();
        if (!matrix_.update) return;
        member_.wait();
        const double norm = this->norm();
        if (!(norm < TOO_LARGE)) return give_nothing();
        const Tiles tiles;
        float scale = 1.0f / (static_cast<float>(norm) + rule_.epsilon);  // X is divided by its norm in its products
        for (int64_t turn = 0; turn < rule_.turns; ++turn, scale = 1.0f) {
            multiply(scale * scale);
            const Symmetric factor = polynomials(rule_.steps[turn]);
            turn + 1 < rule_.turns ? advance(factor, scale) : finish(factor, scale);
            member_.wait();
        }
    }

  private:
    const Rule &rule_;
    const Sizes &sizes_;
    const Matrix &matrix_;
    const Room &room_;
    const Member &member_;
    const int64_t parts_;

    // The momentum, and X = its Nesterov form with the sums of its squares, of groups of X's rows.
    void move() const {
        const Range downs = member_.share(sizes_.downs());
        for (int64_t down = downs.begin; down < downs.end; ++down) {
            Values squares = all(0.0f);
            for (int64_t part = 0; part < parts_; ++part) {
                alignas(64) bf16 block[SQUARE], pairs[SQUARE];
                bf16 *to = room_.x + (down * parts_ + part) * SQUARE;
                if (sizes_.tall()) {
                    move(down, part, to, &squares);
                    continue;
                }
                move(part, down, block, &squares);
                pair_rows(block, pairs);
                turn_pairs(pairs, to);
            }
            room_.squares[down] = _mm512_reduce_add_ps(_mm512_add_ps(squares.low, squares.high));
        }
    }

    // The same for one block of the matrix, whose rows go to `to`.
    void move(int64_t down, int64_t part, bf16 *to, Values *squares) const {
        const Values fresh = all(rule_.scale * (1.0f - rule_.momentum)), stays = all(rule_.momentum);
        const __mmask32 lanes = lanes32(sizes_.columns - part * GROUP);
        for (int64_t i = 0; i < GROUP; ++i) {
            const int64_t row = down * GROUP + i, at = row * sizes_.columns + part * GROUP;
            if (row >= sizes_.rows) {
                _mm512_store_si512(to + i * GROUP, _mm512_setzero_si512());
                continue;
            }
            const Values news = load(matrix_.gradient + at, lanes) * fresh;
            const Values moved = fused(load(matrix_.momentum + at, lanes), stays, news);
            store(matrix_.momentum + at, lanes, moved);
            const Values value = fused(moved, stays, news);
            *squares = fused(value, value, *squares);
            _mm512_store_si512(to + i * GROUP, rounded(value));
        }
    }

    double norm() const {
        double sum = 0;
        for (int64_t down = 0; down < sizes_.downs(); ++down) sum += room_.squares[down];
        return std::sqrt(sum);
    }

    void give_nothing() const {
        const Range rows = member_.share(sizes_.rows);
        std::memset(matrix_.update + rows.begin * sizes_.columns, 0,
                    (rows.end - rows.begin) * sizes_.columns * sizeof(bf16));
    }

    // A = X'X times `scale`, a panel of X's rows after the other.
    void multiply(float scale) const {
        for (int64_t begin = 0; begin < sizes_.downs(); begin += DEPTH) {
            const int64_t left = sizes_.downs() - begin, depth = left < DEPTH ? left : DEPTH;
            pack(begin, depth);
            member_.wait();
            each_upper(member_.share(sizes_.uppers()), parts_, [&](int64_t number, int64_t i, int64_t j) {
                float *sums = room_.sums + number * SQUARE;
                product(room_.lefts + i * DEPTH * SQUARE, room_.rights + j * DEPTH * SQUARE, depth, sums, begin > 0);
                if (left > DEPTH) return;
                alignas(64) bf16 block[SQUARE];
                for (int64_t row = 0; row < SQUARE; row += GROUP)
                    _mm512_store_si512(block + row, rounded(load(sums + row) * all(scale)));
                put(block, i, j, parts_, as_both, room_.small[0]);
            });
            member_.wait();
        }
    }

    // Some groups of X's rows as factors of X'X.
    void pack(int64_t begin, int64_t depth) const {
        const Range share = member_.share(parts_ * depth);
        for (int64_t number = share.begin; number < share.end; ++number) {
            const int64_t k = number / parts_, part = number % parts_, to = (part * DEPTH + k) * SQUARE;
            pair_rows(room_.x + ((begin + k) * parts_ + part) * SQUARE, room_.rights + to);
            turn_pairs(room_.rights + to, room_.lefts + to);
        }
    }

    // The product of the P of so many steps, as a right factor: A <- APP from one to the next.
    Symmetric polynomials(int64_t steps) const {
        const Symmetric *small = room_.small;
        const Symmetric &gram = small[0], &between = small[1];
        Symmetric factor = small[2], other = small[3], power = factor;
        polynomial(gram, factor, steps > 1 ? as_both : as_right);
        for (int64_t step = 1; step < steps; ++step) {
            times(gram, power, between, as_left);
            times(between, power, gram, as_both);
            power = small[4];
            polynomial(gram, power, as_right);
            times(factor, power, other, step + 1 < steps ? as_left : as_right);
            const Symmetric before = factor;
            factor = other, other = before;
        }
        return factor;
    }

    void polynomial(const Symmetric &gram, const Symmetric &to, Form form) const {
        products(gram, gram, to, form, [&](const float *sums, int64_t i, int64_t j, bf16 *block) {
            const bf16 *first = gram.left + (i * parts_ + j) * SQUARE;
            for (int64_t row = 0; row < GROUP; ++row, sums += GROUP, first += GROUP, block += GROUP) {
                Values values = fused(load(sums), all(rule_.c), fp32(_mm512_load_si512(first)) * all(rule_.b));
                if (i == j) {
                    const Values diagonal = {_mm512_maskz_mov_ps(lane(row), _mm512_set1_ps(rule_.a)),
                                             _mm512_maskz_mov_ps(lane(row - 16), _mm512_set1_ps(rule_.a))};
                    values = values + diagonal;
                }
                _mm512_store_si512(block, rounded(values));
            }
        });
    }

    static __mmask16 lane(int64_t place) { return static_cast<__mmask16>(place >= 0 && place < 16 ? 1u << place : 0u); }

    void times(const Symmetric &left, const Symmetric &right, const Symmetric &to, Form form) const {
        products(left, right, to, form, [](const float *sums, int64_t, int64_t, bf16 *block) {
            for (int64_t row = 0; row < SQUARE; row += GROUP)
                _mm512_store_si512(block + row, rounded(load(sums + row)));
        });
    }

    // to = left times right, where finish(sums, i, j, block) rounds the sums of a block.
    template <class Finish>
    void products(const Symmetric &left, const Symmetric &right, const Symmetric &to, Form form,
                  Finish &&finish) const {
        each_upper(member_.share(sizes_.uppers()), parts_, [&](int64_t, int64_t i, int64_t j) {
            alignas(64) float sums[SQUARE];
            alignas(64) bf16 block[SQUARE];
            one(left.left + i * parts_ * SQUARE, right.right + j * parts_ * SQUARE, sums);
            finish(sums, i, j, block);
            put(block, i, j, parts_, form, to);
        });
        member_.wait();
    }

    void one(const bf16 *left, const bf16 *right, float *sums) const {
        product(left, right, parts_, sums, false);
    }

    // X <- X times the factor and `scale`, in its place.
    void advance(const Symmetric &factor, float scale) const {
        bf16 *made = room_.rows + member_.index * parts_ * SQUARE;
        by_rows(factor, scale, made, [&](int64_t down) {
            std::memcpy(room_.x + down * parts_ * SQUARE, made, parts_ * SQUARE * sizeof(bf16));
        });
    }

    // The update: X times the factor and `scale`.
    void finish(const Symmetric &factor, float scale) const {
        bf16 *made = room_.rows + member_.index * parts_ * SQUARE;
        by_rows(factor, scale, made, [&](int64_t down) {
            for (int64_t part = 0; part < parts_; ++part) {
                const bf16 *block = made + part * SQUARE;
                if (sizes_.tall()) {
                    give(block, down, part);
                    continue;
                }
                alignas(64) bf16 pairs[SQUARE], turned[SQUARE];
                pair_rows(block, pairs);
                turn_pairs(pairs, turned);
                give(turned, part, down);
            }
        });
    }

    // Calls work(down) for this member's groups of X's rows, when `made` has their blocks times the factor and `scale`.
    template <class Function>
    void by_rows(const Symmetric &factor, float scale, bf16 *made, Function &&work) const {
        const Range downs = member_.share(sizes_.downs());
        for (int64_t down = downs.begin; down < downs.end; ++down) {
            for (int64_t part = 0; part < parts_; ++part) {
                alignas(64) float sums[SQUARE];
                one(room_.x + down * parts_ * SQUARE, factor.right + part * parts_ * SQUARE, sums);
                for (int64_t row = 0; row < SQUARE; row += GROUP)
                    _mm512_store_si512(made + part * SQUARE + row, rounded(load(sums + row) * all(scale)));
            }
            work(down);
        }
    }

    void give(const bf16 *block, int64_t down, int64_t part) const {
        const __mmask32 lanes = lanes32(sizes_.columns - part * GROUP);
        for (int64_t i = 0; i < GROUP && down * GROUP + i < sizes_.rows; ++i)
            _mm512_mask_storeu_epi16(matrix_.update + (down * GROUP + i) * sizes_.columns + part * GROUP, lanes,
                                     _mm512_load_si512(block + i * GROUP));
    }
};

// Some matrices of one size: as many as go into the members evenly are each one member's, the others are all members'.
void update(const Rule &rule, const Sizes &sizes, int64_t count, const Matrix *matrices, const Room *rooms,
            const Member &member) {
    const Member alone{0, 1, nullptr};
    const int64_t single = count / member.count * member.count;
    for (int64_t i = member.index; i < single; i += member.count)
        Work(rule, sizes, matrices[i], rooms[member.index], alone).update();
    for (int64_t i = single; i < count; ++i) {
        member.wait();
        Work(rule, sizes, matrices[i], rooms[0], member).update();
    }
}

}  // namespace
}  // namespace scriven

// The momenta of matrices, from their gradients times `scale`, and their updates.
SCRIVEN_API int64_t scriven_muon_update(const scriven::MuonUpdate *call) {
    using namespace scriven;
    const int64_t threads = call->threads, count = call->count;
    if (threads < 1 || count < 1 || call->rows < 1 || call->columns < 1 || call->turns < 1) return bad_argument;
    const Rule rule{call->scale, call->momentum, call->epsilon, call->a, call->b, call->c, call->turns, call->steps};
    const Sizes sizes{call->rows, call->columns};
    const int64_t each = Room::values(sizes, threads), sums = sizes.uppers() * SQUARE;
    const int64_t rooms = count < threads ? count : threads;
    const Buffer<bf16> values(rooms * each);
    const Buffer<float> all_sums(rooms * sums);
    const Buffer<double> squares(rooms * sizes.downs());
    const Buffer<Room> own(rooms);
    const Buffer<Matrix> matrices(count);
    if (!values || !all_sums || !squares || !own || !matrices) return no_memory;
    for (int64_t i = 0; i < rooms; ++i)
        new (own + i) Room(sizes, threads, values + i * each, all_sums + i * sums, squares + i * sizes.downs());
    for (int64_t i = 0; i < count; ++i) matrices[i] = {call->gradients[i], call->momenta[i], call->updates[i]};
    run(threads, [&](const Member &member) { update(rule, sizes, count, matrices, own, member); });
    return ok;
}

// Weights of matrices: times `keep`, less `rate` times their updates in bf16.
SCRIVEN_API int64_t scriven_muon_apply(const scriven::MuonApply *call) {
    using namespace scriven;
    const int64_t groups = groups_of(call->size);
    run(call->threads, [&](const Member &member) {
        const Range share = member.share(call->count * groups);
        for (int64_t number = share.begin; number < share.end; ++number) {
            const int64_t at = number % groups * GROUP;
            const __mmask32 lanes = lanes32(call->size - at);
            float *to = call->weights[number / groups] + at;
            const __m512i update = _mm512_maskz_loadu_epi16(lanes, call->updates[number / groups] + at);
            store(to, lanes, less(fp32(update), all(call->rate), load(to, lanes) * all(call->keep)));
        }
    });
    return ok;
}
