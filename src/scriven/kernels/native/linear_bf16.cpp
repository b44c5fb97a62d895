// A layer's products with what it reads, and their gradients, in bf16 tiles.
//
// Those with a weight go over some rows at a time, whose packed values and sums stay in the second-level cache. For the
// gradient of a weight, product[m, n] = sum over k of a[k, m] b[k, n], where k counts steps and rows (a few thousand),
// a is what a layer read and b the gradients of its gates' sums. Both come row after row, so that tiles of a must be
// turned. Half a thousand rows are packed at a time, and as many columns of b as keep the sums, and what they are made of,
// in the second-level cache. While they are multiplied, the next ones are fetched. A team of threads shares the columns
// of b.
#include "bf16_vectors.h"
#include "calls.h"

namespace scriven {
namespace {

constexpr int64_t DEPTH = 16, WIDTH = 8;  // rows and columns worked on together, in groups of 32
constexpr int64_t AHEAD = 8;              // rows between the one that is read and the one that is fetched: columns of
                                          // a long row are too far apart for the processor to guess the next ones

// A matrix (rows, columns) of bf16, row after row; rows where `skip` is not zero count as zeros.
struct Matrix {
    const bf16 *values;
    int64_t rows, columns;
    const uint8_t *skip;

    void fetch(int64_t row, int64_t column) const { prefetch(values + row * columns + column); }
    __m512i part(int64_t row, int64_t column) const {  // 32 values
        if (row >= rows || (skip && skip[row])) return _mm512_setzero_si512();
        return _mm512_maskz_loadu_epi16(lanes32(columns - column), values + row * columns + column);
    }
};

inline int64_t panels_of(const Matrix &a) { return (a.rows + DEPTH * GROUP - 1) / (DEPTH * GROUP); }

// Groups of rows in a panel: DEPTH but in the last one.
inline int64_t depth_of(const Matrix &a, int64_t panel) {
    const int64_t left = groups_of(a.rows) - panel * DEPTH;
    return left < DEPTH ? left : DEPTH;
}

// Two rows of 32 values as two rows of pairs.
inline void pair(__m512i first, __m512i second, __m512i *to) {
    to[0] = pairs_of(_mm512_inserti64x4(first, _mm512_castsi512_si256(second), 1));
    to[1] = pairs_of(_mm512_shuffle_i64x2(first, second, 0xee));
}

// The 16 x 16 pairs of a tile, turned.
inline void turn(bf16 *tile) {
    __m512i rows[16];
    for (int64_t i = 0; i < 16; ++i) rows[i] = _mm512_load_si512(tile + i * GROUP);
    transpose(rows);
    for (int64_t i = 0; i < 16; ++i) _mm512_store_si512(tile + i * GROUP, rows[i]);
}

// Factors: a panel's groups of rows and some groups of columns, in pairs; (groups of columns, DEPTH, 2 tiles), turned for
// left factors where they need it. Adds the columns' own sums to `sums` where it is given.
void pack(const Matrix &a, int64_t panel, Range groups, bf16 *to, bool turned, float *sums) {
    const int64_t row = panel * DEPTH * GROUP;
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    for (int64_t column = groups.begin * GROUP; column < groups.end * GROUP; column += GROUP) {
        bf16 *own = to + (column / GROUP - groups.begin) * DEPTH * 2 * TILE;
        __m512 left = _mm512_setzero_ps(), right = left;
        for (int64_t k = 0; k < depth_of(a, panel); ++k, own += 2 * TILE) {
            for (int64_t i = 0; i < 16; ++i) {
                const int64_t first = row + k * GROUP + 2 * i;
                a.fetch(first + AHEAD, column);
                a.fetch(first + AHEAD + 1, column);
                __m512i two[2];
                pair(a.part(first, column), a.part(first + 1, column), two);
                _mm512_store_si512(own + i * GROUP, two[0]);
                _mm512_store_si512(own + TILE + i * GROUP, two[1]);
                left = _mm512_dpbf16_ps(left, (__m512bh)two[0], ones);
                right = _mm512_dpbf16_ps(right, (__m512bh)two[1], ones);
            }
            if (turned) turn(own), turn(own + TILE);
        }
        if (!sums) continue;
        const Values own_sums = load(sums + column, lanes32(a.columns - column));
        store(sums + column, lanes32(a.columns - column), own_sums + Values{left, right});
    }
}

// Fetches lines of a matrix, and of packed factors, one at each call: rows from `row` on, from `column` on.
class Fetch {
  public:
    Fetch(const Matrix &matrix, int64_t row, Range columns, int64_t rows, const bf16 *packed, int64_t lines, int64_t calls)
        : matrix_(matrix), columns_(columns), row_(row), end_(row + rows), column_(columns.begin), packed_(packed),
          packed_end_(packed + lines * GROUP), each_(calls ? (rows * (columns.end - columns.begin) + calls - 1) / calls : 0) {}

    void operator()() {
        for (int64_t i = 0; i < each_; ++i) one();
    }

  private:
    const Matrix &matrix_;
    const Range columns_;  // in groups
    int64_t row_, end_, column_;
    const bf16 *packed_, *packed_end_;
    const int64_t each_;

    void one() {
        if (packed_ < packed_end_) to_second_level(packed_), packed_ += GROUP;
        if (row_ >= end_) return;
        to_second_level(matrix_.values + row_ * matrix_.columns + column_ * GROUP);
        if (++column_ == columns_.end) column_ = columns_.begin, ++row_;
    }
    static void to_second_level(const bf16 *line) { _mm_prefetch(reinterpret_cast<const char *>(line), _MM_HINT_T1); }
};

// 32 x 32 sums, turned, to rows `column` and columns `row` of out (columns, rows).
void put_turned(const float *sums, int64_t row, int64_t column, int64_t rows, int64_t columns, float *out) {
    for (int64_t right = 0; right < GROUP; right += 16)
        for (int64_t down = 0; down < GROUP; down += 16) {
            __m512i values[16];
            for (int64_t i = 0; i < 16; ++i) values[i] = _mm512_load_si512(sums + (down + i) * GROUP + right);
            transpose(values);
            const __mmask16 lanes = lanes16(rows - row - down);
            for (int64_t i = 0; i < 16 && column + right + i < columns; ++i)
                _mm512_mask_storeu_epi32(out + (column + right + i) * rows + row + down, lanes, values[i]);
        }
}

// The columns of out that this member shares, of groups of b's columns. `lefts` are the packed left factors, panel
// after panel, and right and sums this member's own.
void columns_of_gradient(const Matrix &a, const Matrix &b, Range groups, const bf16 *lefts, bf16 *right, float *sums,
                         float *out, float *column_sums) {
    const int64_t panels = panels_of(a), downs = groups_of(a.columns), part = DEPTH * 2 * TILE;
    for (int64_t begin = groups.begin; begin < groups.end; begin += WIDTH) {
        const int64_t end = begin + WIDTH < groups.end ? begin + WIDTH : groups.end, width = end - begin;
        if (!panels) std::memset(sums, 0, sizeof(float) * downs * width * SQUARE);
        for (int64_t panel = 0; panel < panels; ++panel) {
            pack(b, panel, {begin, end}, right, false, column_sums);
            const bool last = panel + 1 == panels;  // then the first panel of the next columns follows
            const int64_t next = last ? 0 : panel + 1, calls = 4 * width * downs * depth_of(b, panel);
            Fetch fetch(b, next * DEPTH * GROUP, last ? Range{end, end + width} : Range{begin, end}, DEPTH * GROUP,
                        lefts + next * downs * part, downs * part / GROUP, calls);
            for (int64_t n = 0; n < width; ++n)
                for (int64_t m = 0; m < downs; ++m)
                    product_of_columns(lefts + (panel * downs + m) * part, right + n * part, depth_of(b, panel),
                                       sums + (n * downs + m) * SQUARE, panel > 0, fetch);
        }
        for (int64_t n = 0; n < width; ++n)
            for (int64_t m = 0; m < downs; ++m)
                put_turned(sums + (n * downs + m) * SQUARE, m * GROUP, (begin + n) * GROUP, a.columns, b.columns, out);
    }
}

Status gradient(int64_t threads, const Matrix &a, const Matrix &b, float *out, float *column_sums) {
    const int64_t panels = panels_of(a), downs = groups_of(a.columns), part = DEPTH * 2 * TILE;
    const int64_t rights = groups_of(b.columns), squares = downs * WIDTH * SQUARE;
    threads = threads < rights ? threads : rights;
    const Buffer<bf16> lefts(panels * downs * part), right(threads * WIDTH * part);
    const Buffer<float> sums(threads * squares);
    if (!lefts || !right || !sums) return no_memory;
    run(threads, [&](const Member &member) {
        const Tiles tiles;
        const Range own = member.share(downs);
        for (int64_t panel = 0; panel < panels; ++panel)
            pack(a, panel, own, lefts + (panel * downs + own.begin) * part, packing_turns, nullptr);
        member.wait();
        columns_of_gradient(a, b, member.share(rights), lefts, right + member.index * WIDTH * part,
                            sums + member.index * squares, out, column_sums);
    });
    return ok;
}

constexpr int64_t TALL = 4;  // groups of rows whose products with a part of a weight follow each other

// Left factors: groups of rows of a, (groups, parts, 2 tiles); zeros where there are no more.
void pack_rows(const Matrix &a, Range groups, bf16 *to) {
    for (int64_t row = groups.begin * GROUP; row < groups.end * GROUP; row += GROUP)
        for (int64_t column = 0; column < a.columns; column += GROUP)
            for (int64_t i = 0; i < GROUP; ++i, to += GROUP) _mm512_store_si512(to, a.part(row + i, column));
}

// What products with a weight become: out (rows, columns) in bf16, after a bias (columns) or null is added.
struct Out {
    bf16 *values;
    int64_t rows, columns;
    const float *bias;

    void put(const float *sums, int64_t row, int64_t column) const {  // (32, 32)
        __m512 left = _mm512_setzero_ps(), right = left;
        if (bias) {
            left = _mm512_maskz_loadu_ps(lanes16(columns - column), bias + column);
            right = _mm512_maskz_loadu_ps(lanes16(columns - column - 16), bias + column + 16);
        }
        for (int64_t i = 0; i < GROUP && row + i < rows; ++i, sums += GROUP) {
            const __m512i both = joined(_mm512_load_ps(sums) + left, _mm512_load_ps(sums + 16) + right);
            _mm512_mask_storeu_epi16(values + (row + i) * columns + column, lanes32(columns - column), both);
        }
    }
};

// Up to TALL groups of rows of out = a times packed right factors.
void rows_of_product(const Matrix &a, Range groups, const bf16 *right, bf16 *left, float *sums, const Out &out) {
    const int64_t parts = groups_of(a.columns), high = groups.end - groups.begin, wide = groups_of(out.columns);
    pack_rows(a, groups, left);
    Fetch fetch(a, groups.end * GROUP, {0, parts}, high * GROUP, nullptr, 0, 4 * wide * high * parts);
    for (int64_t part = 0; part < parts; part += DEPTH)
        for (int64_t n = 0; n < wide; ++n)
            for (int64_t m = 0; m < high; ++m) {
                float *own = sums + (n * TALL + m) * SQUARE;
                product(left + (m * parts + part) * 2 * TILE, right + (n * parts + part) * 2 * TILE,
                        parts - part < DEPTH ? parts - part : DEPTH, own, part > 0, fetch);
                if (part + DEPTH >= parts) out.put(own, (groups.begin + m) * GROUP, n * GROUP);
            }
}

// out = a times a weight, of which pack(groups, right, stride) makes the right factors of groups of columns.
template <class Pack> Status multiply(int64_t threads, const Matrix &a, const Out &out, Pack &&pack) {
    const int64_t parts = groups_of(a.columns), wide = groups_of(out.columns), rows = groups_of(a.rows);
    constexpr int64_t part = 2 * TILE;
    threads = threads < rows ? threads : rows;
    const Buffer<bf16> right(wide * parts * part), left(threads * TALL * parts * part);
    const Buffer<float> sums(threads * TALL * wide * SQUARE);
    if (!right || !left || !sums) return no_memory;
    run(threads, [&](const Member &member) {
        pack(member.share(wide), right, parts * part);
        member.wait();
        const Tiles tiles;
        const Range own = member.share(rows);
        for (int64_t begin = own.begin; begin < own.end; begin += TALL)
            rows_of_product(a, {begin, begin + TALL < own.end ? begin + TALL : own.end}, right,
                            left + member.index * TALL * parts * part, sums + member.index * TALL * wide * SQUARE, out);
    });
    return ok;
}

}  // namespace
}  // namespace scriven

// dweight (N, M) fp32 = dy (K, N) turned, times x (K, M), without the rows that are skipped.
SCRIVEN_API int64_t scriven_weight_gradient(const scriven::WeightGradient *call) {
    using namespace scriven;
    const int64_t k = call->k, m = call->m, n = call->n;
    if (k < 0 || m < 1 || n < 1) return bad_argument;
    return gradient(call->threads, {call->x, k, m, call->skip}, {call->dy, k, n, nullptr}, call->dweight, call->sums);
}

// y (K, N) bf16 = x (K, M) bf16 times weight (N, M) turned, fp32 but rounded to bf16, plus bias (N) fp32.
SCRIVEN_API int64_t scriven_projection_forward(const scriven::ProjectionForward *call) {
    using namespace scriven;
    const int64_t k = call->k, m = call->m, n = call->n;
    if (k < 0 || m < 1 || n < 1) return bad_argument;
    return multiply(call->threads, {call->x, k, m, nullptr}, {call->y, k, n, call->bias},
                    [&](Range groups, bf16 *right, int64_t stride) {
                        pack_turned(call->weight, n, m, groups, right, stride);
                    });
}

// dx (K, M) bf16 = dy (K, N) bf16 times weight (N, M) fp32, which is rounded to bf16.
SCRIVEN_API int64_t scriven_input_gradient(const scriven::InputGradient *call) {
    using namespace scriven;
    const int64_t k = call->k, m = call->m, n = call->n;
    if (k < 0 || m < 1 || n < 1) return bad_argument;
    return multiply(call->threads, {call->dy, k, n, nullptr}, {call->dx, k, m, nullptr},
                    [&](Range groups, bf16 *right, int64_t stride) {
                        pack_straight(call->weight, n, m, groups, right, stride);
                    });
}

SCRIVEN_API int64_t scriven_add_rows(const scriven::AddRows *call) {
    using namespace scriven;
    const int64_t k = call->k, n = call->n;
    for (int64_t row = 0; row < k; ++row)
        if (call->ids[row] < 0 || call->ids[row] >= call->symbols) return bad_argument;
    run(call->threads, [&](const Member &member) {
        const Range groups = member.share(groups_of(n));
        const int64_t end = groups.end * GROUP < n ? groups.end * GROUP : n;
        for (int64_t row = 0; row < k; ++row)
            for (int64_t i = groups.begin * GROUP; i < end; i += 16) {
                float *to = call->dtable + call->ids[row] * n + i;
                prefetch(call->dy + (row + AHEAD) * n + i);
                const __mmask16 lanes = lanes16(end - i);
                const __m512 more = fp32_of(_mm256_maskz_loadu_epi16(lanes, call->dy + row * n + i));
                _mm512_mask_storeu_ps(to, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to), more));
            }
    });
    return ok;
}
