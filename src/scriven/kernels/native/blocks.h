// Square blocks of values as factors of products: how they are packed and multiplied, in each number format.
#pragma once

#include "numbers.h"

namespace scriven {
namespace {

// Brings lines into the second-level cache, some at each call, while products are made: of rows that follow each other by
// `stride` bytes, and of `packed` ones.
class Fetch {
  public:
    Fetch(const void *rows, int64_t count, int64_t stride, int64_t bytes, int64_t calls)
        : row_(static_cast<const char *>(rows)), stride_(stride), bytes_(bytes), left_(bytes > 0 ? count : 0),
          each_(calls ? (left_ * ((bytes + LINE - 1) / LINE) + calls - 1) / calls : 0) {}
    void also(const void *packed, int64_t bytes) { packed_ = static_cast<const char *>(packed), packed_left_ = bytes; }

    void operator()() {
        for (int64_t i = 0; i < each_; ++i) one();
    }

  private:
    static constexpr int64_t LINE = 64;
    const char *row_, *packed_ = nullptr;
    const int64_t stride_, bytes_;
    int64_t left_, at_ = 0, packed_left_ = 0;
    const int64_t each_;

    void one() {
        if (packed_left_ > 0) prefetch_to_second_level(packed_), packed_ += LINE, packed_left_ -= LINE;
        if (left_ <= 0) return;
        prefetch_to_second_level(row_ + at_);
        if ((at_ += LINE) >= bytes_) at_ = 0, row_ += stride_, --left_;
    }
};

// Some rows of a product, and two vectors of columns. The left factor has columns in the place of rows with `columns`: it
// is packed as a right one.
template <class F, bool columns, int rows>
void rows_of_product(const typename F::Number *left, const typename F::Number *right, int64_t parts, float *sums,
                     bool add, Fetch *fetch) {
    constexpr int64_t next = columns ? GROUP : F::word, below = columns ? F::word : GROUP;
    Floats low[rows], high[rows];
    for (int row = 0; row < rows; ++row) {
        low[row] = add ? load(sums + row * GROUP) : Floats{};
        high[row] = add ? load(sums + row * GROUP + lanes) : Floats{};
    }
    for (int64_t part = 0; part < parts; ++part, left += SQUARE, right += SQUARE) {
        if (fetch) (*fetch)();
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

template <class F>
using RowsOfProduct = void (*)(const typename F::Number *, const typename F::Number *, int64_t, float *, bool, Fetch *);

template <class F, bool columns, int... rows>
RowsOfProduct<F> function_for(int64_t count, std::integer_sequence<int, rows...>) {
    static constexpr RowsOfProduct<F> functions[] = {rows_of_product<F, columns, rows + 1>...};
    return functions[count - 1];
}

template <class F, bool columns> constexpr int64_t run_of = columns ? F::run : GROUP;  // rows that follow each other

// How often `fetch` is called for each part of a product in vectors.
template <class F, bool columns>
constexpr int64_t calls = GROUP / run_of<F, columns> * ((run_of<F, columns> + F::in_registers - 1) / F::in_registers);

// A product in vectors: its rows in shares that differ by one at most.
template <class F, bool columns>
void product_in_vectors(const typename F::Number *left, const typename F::Number *right, int64_t parts, float *sums,
                        bool add, int64_t rows, Fetch *fetch) {
    constexpr int64_t run = run_of<F, columns>;
    for (int64_t first = 0; first < rows; first += run) {
        const int64_t height = smaller_of(run, rows - first), shares = (height + F::in_registers - 1) / F::in_registers;
        for (int64_t share = 0, row = 0; share < shares; ++share) {
            const int64_t end = (share + 1) * height / shares, at = first + row;
            const auto function = function_for<F, columns>(end - row, std::make_integer_sequence<int, F::in_registers>());
            function(left + (columns ? F::column_at(at) : at * GROUP), right, parts, sums + at * GROUP, add, fetch);
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

// sums (GROUP, GROUP) = left (GROUP, GROUP parts) right (GROUP parts, GROUP). The first `rows` are wanted; others may get any
// values. `work()` is done meanwhile, or left to the caller, who finishes it after the product.
template <class F, class Work>
void product_with(const typename F::Number *left, const typename F::Number *right, int64_t parts, float *sums,
                  int64_t rows, Work &&work) {
    if constexpr (F::tiles) product_in_tiles(left, right, parts, sums, false, work);
    else product_in_vectors<F, false>(left, right, parts, sums, false, rows, nullptr);
}

// The same of all rows, added to what was there before, if `add`. `fetch` is done meanwhile where products are in vectors.
template <class F>
void product(const typename F::Number *left, const typename F::Number *right, int64_t parts, float *sums, bool add,
             Fetch *fetch = nullptr) {
    if constexpr (F::tiles) product_in_tiles(left, right, parts, sums, add, [] {});
    else product_in_vectors<F, false>(left, right, parts, sums, add, GROUP, fetch);
}

// The same, where the left factor's rows are columns of what was read. Vectors take it as a right factor; for tiles, who
// packs it turns it.
template <class F>
void product_of_columns(const typename F::Number *left, const typename F::Number *right, int64_t parts, float *sums,
                        bool add, Fetch *fetch) {
    if constexpr (F::tiles) product_in_tiles(left, right, parts, sums, add, [] {});
    else product_in_vectors<F, true>(left, right, parts, sums, add, GROUP, fetch);
}

// A block as a right factor.
template <class F> void to_right(const typename F::Number *block, typename F::Number *to) {
    for (int64_t i = 0; i < GROUP / 2; ++i)
        F::put_pair(F::packed(block + 2 * i * GROUP), F::packed(block + (2 * i + 1) * GROUP), to, i);
}

// A block of a weight (rows, columns), rounded; zeros where there is no more.
template <class F>
void block_of(const float *weight, int64_t rows, int64_t columns, int64_t row, int64_t column, typename F::Number *to) {
    for (int64_t i = 0; i < GROUP; ++i) {
        const int64_t there = row + i < rows ? columns - column : 0;
        F::store(to + i * GROUP, F::rounded(F::load(weight + (row + i) * columns + column, there)));
    }
}

// Right factors of x W, or with `turned` of x W^T: for groups of columns of a weight (rows, columns), or of its rows, their
// parts. A group's factors begin `stride` values after those of the group before.
template <class F>
void pack_weight(const float *weight, int64_t rows, int64_t columns, bool turned, Range groups, typename F::Number *to,
                 int64_t stride) {
    alignas(64) typename F::Number block[SQUARE];
    for (int64_t group = groups.begin; group < groups.end; ++group)
        for (int64_t part = 0; part < groups_of(turned ? columns : rows); ++part) {
            const int64_t row = turned ? group : part, column = turned ? part : group;
            typename F::Number *own = to + group * stride + part * SQUARE;
            block_of<F>(weight, rows, columns, row * GROUP, column * GROUP, block);
            turned ? F::turn(block, own) : to_right<F>(block, own);
        }
}

// Matrices (rows, columns), row after row; rows where `skip` is not zero count as zeros.
template <class F> struct Rows {
    const typename F::Number *values;
    int64_t rows, columns;
    const uint8_t *skip;

    const typename F::Number *at(int64_t row, int64_t column) const { return values + row * columns + column; }
    typename F::Packed part(int64_t row, int64_t column) const {  // of a group
        const bool there = row < rows && !(skip && skip[row]);
        return F::packed(at(row, column), there ? columns - column : 0);
    }
    // A left factor: groups of rows, (groups, parts, GROUP, GROUP); zeros where there are no more.
    void pack(Range groups, typename F::Number *to) const {
        for (int64_t row = groups.begin * GROUP; row < groups.end * GROUP; row += GROUP)
            for (int64_t column = 0; column < columns; column += GROUP, to += SQUARE)
                for (int64_t i = 0; i < GROUP; ++i) F::store(to + i * GROUP, part(row + i, column));
    }
};

// What products become: out (rows, columns), after a bias (columns) or null is added.
template <class F> struct Out {
    typename F::Number *values;
    int64_t rows, columns;
    const float *bias;

    void put(const float *sums, int64_t row, int64_t column) const {  // (GROUP, GROUP)
        const int64_t there = columns - column;
        const Values first = bias ? F::load(bias + column, there) : all(0.0f);
        for (int64_t i = 0; i < GROUP && row + i < rows; ++i)
            F::store(values + (row + i) * columns + column, F::rounded(F::load(sums + i * GROUP) + first), there);
    }
};

}  // namespace
}  // namespace scriven
