// Square blocks of values as factors of products: how they are packed and multiplied, in each number format.
#pragma once

#include "numbers.h"

namespace scriven {
namespace {

// Some rows of a product, and two vectors of columns. The left factor has columns in the place of rows with `columns`: it
// is packed as a right one.
template <class F, bool columns, int rows = F::in_registers>
__attribute__((noinline))  // within another function GCC 12 makes code of it that is 5 % slower
void rows_of_product(int64_t count, const typename F::Number *left, const typename F::Number *right, int64_t parts,
                     float *sums, bool add) {
    if constexpr (rows > 1)
        if (count < rows) return rows_of_product<F, columns, rows - 1>(count, left, right, parts, sums, add);
    constexpr int64_t next = columns ? GROUP : F::word, below = columns ? F::word : GROUP;
    Floats low[rows], high[rows];
    for (int row = 0; row < rows; ++row) {
        low[row] = add ? load(sums + row * GROUP) : Floats{};
        high[row] = add ? load(sums + row * GROUP + lanes) : Floats{};
    }
    for (int64_t part = 0; part < parts; ++part, left += SQUARE, right += SQUARE) {
#pragma GCC unroll 4
        for (int64_t k = 0; k < GROUP / F::word; ++k) {
            const auto *words = right + k * GROUP;
            const Floats first = *reinterpret_cast<const Floats *>(words);
            const Floats second = *reinterpret_cast<const Floats *>(words + F::next_vector);
#pragma GCC unroll 12
            for (int row = 0; row < rows; ++row) {
                const typename F::Word x = F::spread_word(left + k * next + row * below);
                low[row] = F::dot(x, first, low[row]);
                high[row] = F::dot(x, second, high[row]);
            }
        }
    }
    for (int row = 0; row < rows; ++row) {
        store(sums + row * GROUP, low[row]);
        store(sums + row * GROUP + lanes, high[row]);
    }
}

// A product in vectors: its rows in shares that differ by one at most.
template <class F, bool columns>
void product_in_vectors(const typename F::Number *left, const typename F::Number *right, int64_t parts, float *sums,
                        bool add, int64_t rows) {
    constexpr int64_t run = columns ? F::run : GROUP;  // rows that follow each other
    for (int64_t first = 0; first < rows; first += run) {
        const int64_t height = smaller_of(run, rows - first), shares = (height + F::in_registers - 1) / F::in_registers;
        for (int64_t share = 0, row = 0; share < shares; ++share) {
            const int64_t end = (share + 1) * height / shares, at = first + row;
            rows_of_product<F, columns>(end - row, left + (columns ? F::column_at(at) : at * GROUP), right, parts,
                                        sums + at * GROUP, add);
            row = end;
        }
    }
}

#if defined(__AMX_BF16__)

// The same in tiles, of all rows. After each of the parts `work()` is done, whose instructions the processor mixes with
// those of the tiles.
template <class Work>
inline void product_in_tiles(const bf16 *left, const bf16 *right, int64_t parts, float *sums, bool add, Work &&work) {
    constexpr int64_t stride = GROUP * sizeof(float);
    if (add) {
        __asm__ volatile("" ::: "memory");  // compilers do not know that tile loads read memory
        _tile_loadd(0, sums, stride);
        _tile_loadd(1, sums + 16, stride);
        _tile_loadd(2, sums + 16 * GROUP, stride);
        _tile_loadd(3, sums + 16 * GROUP + 16, stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    __asm__ volatile("" ::: "memory");
    for (int64_t k = 0; k < parts; ++k, left += 2 * TILE, right += 2 * TILE) {
        _tile_loadd(4, left, 64);
        _tile_loadd(6, right, 64);
        _tile_loadd(7, right + TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, left + TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        work();
    }
    _tile_stored(0, sums, stride);
    _tile_stored(1, sums + 16, stride);
    _tile_stored(2, sums + 16 * GROUP, stride);
    _tile_stored(3, sums + 16 * GROUP + 16, stride);
}

#endif

inline void no_work() {}

// sums (GROUP, GROUP) = left (GROUP, GROUP parts) right (GROUP parts, GROUP), added to what was there before, if `add`. The
// first `rows` are wanted; others may get any values. `work()` is done meanwhile, or left to the caller, who finishes it after
// the product. With `columns` the left factor's rows are columns of what was read: vectors take it packed as a right factor,
// tiles turned.
template <class F, bool columns = false, class Work = void()>
void product(const typename F::Number *left, const typename F::Number *right, int64_t parts, float *sums, bool add = false,
             int64_t rows = GROUP, Work &&work = no_work) {
    if constexpr (F::tiles) product_in_tiles(left, right, parts, sums, add, work);
    else product_in_vectors<F, columns>(left, right, parts, sums, add, rows);
}

// Matrices (rows, columns) in memory, row after row, as factors of products, which are rounded to the number format; rows
// where `skip` is not zero count as zeros.
template <class F, class Source = typename F::Number> struct Rows {
    using Number = typename F::Number;
    const Source *values;
    int64_t rows, columns;
    const uint8_t *skip = nullptr;

    const Source *at(int64_t row, int64_t column) const { return values + row * columns + column; }
    typename F::Packed part(int64_t row, int64_t column) const {  // of a group
        const bool there = row < rows && !(skip && skip[row]);
        return F::packed(at(row, column), there ? columns - column : 0);
    }
    // A block as a left or as a right factor; zeros where there is no more.
    void to_left(int64_t row, int64_t column, Number *to) const {
        for (int64_t i = 0; i < GROUP; ++i) F::store(to + i * GROUP, part(row + i, column));
    }
    void pack(int64_t group, Number *to) const {  // all left factors of a group of rows
        for (int64_t column = 0; column < columns; column += GROUP, to += SQUARE) to_left(group * GROUP, column, to);
    }
    void to_right(int64_t row, int64_t column, Number *to) const {
        for (int64_t i = 0; i < GROUP / 2; ++i)
            F::put_pair(part(row + 2 * i, column), part(row + 2 * i + 1, column), to, i);
    }
};

// Values, rounded.
template <class F> void round_values(const float *from, int64_t count, typename F::Number *to) {
    for (int64_t at = 0; at < count; at += GROUP) F::store(to + at, F::rounded(F::load(from + at, count - at)), count - at);
}

// A left factor of a block as the right one.
template <class F> void to_right(const typename F::Number *block, typename F::Number *to) {
    Rows<F>{block, GROUP, GROUP}.to_right(0, 0, to);
}

// Right factors of x W, or with `turned` of x W^T: for groups of columns of a weight, or of its rows, their parts. A group's
// factors begin `stride` values after those of the group before.
template <class F>
void pack_weight(const Rows<F, float> &weight, bool turned, Range groups, typename F::Number *to, int64_t stride) {
    alignas(64) typename F::Number block[SQUARE];
    for (int64_t group = groups.begin; group < groups.end; ++group)
        for (int64_t part = 0; part < groups_of(turned ? weight.columns : weight.rows); ++part) {
            typename F::Number *own = to + group * stride + part * SQUARE;
            if (turned) weight.to_left(group * GROUP, part * GROUP, block), F::turn(block, own);
            else weight.to_right(part * GROUP, group * GROUP, own);
        }
}

// Groups of a weight's columns, of so many, whose part for so many inputs has so many bytes.
template <class F> int64_t chunk_of(int64_t inputs, int64_t columns, int64_t bytes) {
    const int64_t most = bytes / (inputs * LANES * static_cast<int64_t>(sizeof(typename F::Number)));
    return smaller_of((most < 1 ? 1 : most) * LANES / GROUP, columns);
}

// x W, or with `turned` x W^T, by a team of threads that shares the rows of x. All rows of a member pass a chunk of so many
// groups of columns before the next one: for each it calls pack(group of rows, left factors) and, when it has the sums
// (columns, GROUP, GROUP), finish(group of rows, columns, sums).
template <class F, class Pack, class Finish>
Status times_weight(int64_t threads, int64_t rows, const Rows<F, float> &weight, bool turned, int64_t chunk, Pack &&pack,
                    Finish &&finish) {
    const int64_t wide = groups_of(turned ? weight.rows : weight.columns);
    const int64_t part = groups_of(turned ? weight.columns : weight.rows) * SQUARE;
    const Buffer<typename F::Number> right(wide * part), all_left(threads * part);
    const Buffer<float> all_sums(threads * chunk * SQUARE);
    if (!right || !all_left || !all_sums) return no_memory;
    run(threads, [&](const Member &member) {
        pack_weight(weight, turned, member.share(wide), right, part);
        member.wait();
        const typename F::Registers registers;
        const Range groups = member.share(groups_of(rows));
        typename F::Number *left = all_left + member.index * part;
        float *sums = all_sums + member.index * chunk * SQUARE;
        for (Range columns{0, 0}; columns.begin < wide; columns.begin = columns.end) {
            columns.end = smaller_of(columns.begin + chunk, wide);
            for (int64_t group = groups.begin; group < groups.end; ++group) {
                pack(group, left);
                for (int64_t column = columns.begin; column < columns.end; ++column)
                    product<F>(left, right + column * part, part / SQUARE, sums + (column - columns.begin) * SQUARE);
                finish(group, columns, sums);
            }
        }
    });
    return ok;
}

// What products become: out (rows, columns), times `scale`, after a bias (columns) or null is added.
template <class F> struct Out {
    typename F::Number *values;
    int64_t rows, columns;
    const float *bias = nullptr;

    void put(const float *sums, int64_t row, int64_t column, float scale = 1.0f) const {  // (GROUP, GROUP)
        const int64_t there = columns - column;
        const Values first = bias ? F::load(bias + column, there) : all(0.0f);
        for (int64_t i = 0; i < GROUP && row + i < rows; ++i)
            F::store(values + (row + i) * columns + column, F::rounded(F::load(sums + i * GROUP) * all(scale) + first), there);
    }
};

}  // namespace
}  // namespace scriven
