// The number formats that layers are trained in: what a value is in memory, how vectors of values are loaded, computed and
// stored, and how values are laid out and multiplied.
//
// Everything is cut into square blocks of as many values as two vectors have lanes: 32 x 32 with AVX-512, 8 x 8 with NEON.
// The left factor of a product has the rows of a block one after the other; the right factor has them as the format's
// instructions want them, and so has a left factor that came as columns. A word of 32 bits is multiplied at once: one value
// of fp32, or two values of bf16 that follow each other in depth.
#pragma once

#include <utility>

#include "emulated_tiles.h"
#include "thread_team.h"
#include "vectors.h"

namespace scriven {
namespace {

constexpr int64_t GROUP = 2 * lanes;       // cells, columns or rows that are worked on together
constexpr int64_t SQUARE = GROUP * GROUP;  // values of a block, and sums of one product
constexpr int64_t LANES = 32;              // sums of long rows that are made apart, at every level

constexpr int64_t groups_of(int64_t size) { return (size + GROUP - 1) / GROUP; }
constexpr int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Fetches a cache line that is wanted soon; it may lie outside of everything.
inline void prefetch(const void *line) { __builtin_prefetch(line); }
inline void prefetch_to_second_level(const void *line) { __builtin_prefetch(line, 0, 2); }

// The lower halves of two vectors, or the upper ones, value by value: a, b, a, b.
inline Floats interleaved(Floats a, Floats b, bool upper) {
#if defined(__AVX512F__)
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a, upper ? _mm512_add_epi32(low, _mm512_set1_epi32(8)) : low, b);
#elif defined(__AVX2__)
    const __m256 low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    return upper ? _mm256_permute2f128_ps(low, high, 0x31) : _mm256_permute2f128_ps(low, high, 0x20);
#else
    return upper ? Floats{a[2], b[2], a[3], b[3]} : Floats{a[0], b[0], a[1], b[1]};
#endif
}

// Row i of as many rows as a vector has lanes becomes column i. Each of the rounds halves what is between neighbours.
inline void transpose(Floats *rows) {
    for (int round = 1; round < lanes; round *= 2) {
        Floats made[lanes];
        for (int i = 0; i < lanes / 2; ++i) {
            made[2 * i] = interleaved(rows[i], rows[i + lanes / 2], false);
            made[2 * i + 1] = interleaved(rows[i], rows[i + lanes / 2], true);
        }
        for (int i = 0; i < lanes; ++i) rows[i] = made[i];
    }
}

// A square of as many words as a vector has lanes, turned; rows follow each other by `stride` bytes.
inline void turn_square(const void *from, void *to, int64_t stride) {
    Floats rows[lanes];
    for (int i = 0; i < lanes; ++i) std::memcpy(rows + i, static_cast<const char *>(from) + i * stride, sizeof *rows);
    transpose(rows);
    for (int i = 0; i < lanes; ++i) std::memcpy(static_cast<char *>(to) + i * stride, rows + i, sizeof *rows);
}

// The values of a group of cells, in fp32: what is computed of one row at a time. Everything is done to two vectors at once,
// and to all gates at once where it can be: one chain of dependent instructions would keep the processor waiting.
struct Values {
    Floats low, high;
};

inline Values all(float value) { return {spread(value), spread(value)}; }
inline Values operator+(Values a, Values b) { return {a.low + b.low, a.high + b.high}; }
inline Values operator-(Values a) { return {-a.low, -a.high}; }
inline Values operator-(Values a, Values b) { return {a.low - b.low, a.high - b.high}; }
inline Values operator*(Values a, Values b) { return {a.low * b.low, a.high * b.high}; }
inline Values operator/(Values a, Values b) { return {a.low / b.low, a.high / b.high}; }
inline Values larger(Values a, Values b) { return {larger(a.low, b.low), larger(a.high, b.high)}; }
inline Values smaller(Values a, Values b) { return {smaller(a.low, b.low), smaller(a.high, b.high)}; }
inline Values fused(Values a, Values b, Values c) {
    return {multiply_add(a.low, b.low, c.low), multiply_add(a.high, b.high, c.high)};
}
inline Values less(Values a, Values b, Values c) { return fused(-a, b, c); }  // c - a * b
template <class Group> Group where(bool stays, Group values) { return stays ? values : Group{}; }

// A vector of the first `count` values from a place, and zeros where there are no more.
template <class Vector, class Number> Vector first_of(const Number *from, int64_t count) {
    constexpr int64_t whole = sizeof(Vector) / sizeof(Number);
    Vector x{};
    if (count >= whole) std::memcpy(&x, from, sizeof x);
    else if (count > 0) {
#if defined(__AVX512F__)
        if constexpr (whole == lanes) x = (Vector)_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1), from);
        else x = (Vector)_mm512_maskz_loadu_epi16((1u << count) - 1, from);
#else
        std::memcpy(&x, from, count * sizeof(Number));
#endif
    }
    return x;
}

template <class Vector, class Number> void put_first(Number *to, Vector x, int64_t count) {
    constexpr int64_t whole = sizeof(Vector) / sizeof(Number);
    if (count >= whole) std::memcpy(to, &x, sizeof x);
    else if (count > 0) {
#if defined(__AVX512F__)
        if constexpr (whole == lanes) _mm512_mask_storeu_epi32(to, static_cast<__mmask16>((1u << count) - 1), (__m512i)x);
        else _mm512_mask_storeu_epi16(to, (1u << count) - 1, (__m512i)x);
#else
        std::memcpy(to, &x, count * sizeof(Number));
#endif
    }
}

struct Fp32 {
    using Number = float;
    using Packed = Values;  // the values of a group as they are in memory
    using Word = Floats;    // in every lane
    struct Registers {
        Registers() {}
    };
    static constexpr bool tiles = false;
    static constexpr int64_t word = 1;              // values of a word
    static constexpr int64_t next_vector = lanes;   // in a row of words of a right factor
    static constexpr int64_t run = GROUP;           // columns that follow each other in a block of it
#if defined(__AVX512F__)
    static constexpr int in_registers = 12;  // rows of a product: 24 of 32 registers have sums
#elif defined(__aarch64__)
    static constexpr int in_registers = 8;  // with more, GCC 12 keeps some of them in memory
#else
    static constexpr int in_registers = 6;  // 12 of 16
#endif

    static constexpr int64_t column_at(int64_t column) { return column; }
    static Word spread_word(const float *from) { return spread(*from); }
    static Floats dot(Word x, Floats right, Floats sum) { return multiply_add(x, right, sum); }

    static Values load(const float *from, int64_t count = GROUP) {
        return {first_of<Floats>(from, count), first_of<Floats>(from + lanes, count - lanes)};
    }
    static void store(float *to, Values values, int64_t count = GROUP) {
        put_first(to, values.low, count);
        put_first(to + lanes, values.high, count - lanes);
    }
    static Packed packed(const float *from, int64_t count = GROUP) { return load(from, count); }
    static Packed rounded(Values values) { return values; }
    static float rounded(float value) { return value; }
    static float number(float value) { return value; }

    // Rows 2 i and 2 i + 1 of a block, to where a right factor has them.
    static void put_pair(Packed first, Packed second, float *right, int64_t i) {
        store(right + 2 * i * GROUP, first);
        store(right + (2 * i + 1) * GROUP, second);
    }
    // A left factor of a block becomes the right one of the block turned, and the other way round.
    static void turn(const float *block, float *to) {
        for (int64_t row = 0; row < GROUP; row += lanes)
            for (int64_t column = 0; column < GROUP; column += lanes)
                turn_square(block + row * GROUP + column, to + column * GROUP + row, GROUP * sizeof(float));
    }
    // Adds the sums of the columns of a right factor.
    static void add_rows(const float *right, float *sums) {
        Values total = load(sums);
        for (int64_t k = 0; k < GROUP; ++k) total = total + load(right + k * GROUP);
        store(sums, total);
    }

    // 2^x from a polynomial p of r, where x = r + an integer and p r = 2^r - 1: calls finish(k, 2^integer, p r). x is taken
    // for a number from -120 to 120. The polynomial is exact at the Chebyshev nodes of |r| <= 1/2; the integer is added to
    // the exponent. In this order of arguments NaN stays.
    template <int count, class Finish> static void raise(Values *x, Finish &&finish) {
        const Values to_integer = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, in the lowest bits
        constexpr float factors[] = {9.666368515e-03f, 5.550381014e-02f, 2.402234904e-01f, 6.931471806e-01f};
        Values shifted[count], r[count], p[count];
        for (int k = 0; k < count; ++k) x[k] = larger(all(-120.0f), smaller(all(120.0f), x[k]));
        for (int k = 0; k < count; ++k) shifted[k] = x[k] + to_integer;
        for (int k = 0; k < count; ++k) r[k] = x[k] - (shifted[k] - to_integer);
        for (int k = 0; k < count; ++k) p[k] = all(1.338130254e-03f);
        for (float factor : factors)
            for (int k = 0; k < count; ++k) p[k] = fused(p[k], r[k], all(factor));
        for (int k = 0; k < count; ++k) finish(k, Values{power(shifted[k].low), power(shifted[k].high)}, p[k] * r[k]);
    }
    static Floats power(Floats shifted) { return (Floats)(((Words)shifted << 23) + 0x3f800000u); }
    static Values exp2(Values x) {
        const Values given = x;
        raise<1>(&x, [&](int, Values power, Values rest) { x = fused(power, rest, power); });
        return {given.low < -120.0f ? Floats{} : x.low, given.high < -120.0f ? Floats{} : x.high};
    }
    // The first `sigmoids` of `count` values to their sigmoids, the others to their hyperbolic tangents, to 4e-7 of their
    // values: from 2^x - 1, so that small results are as exact as large ones. NaN stays.
    template <int count, int sigmoids> static void bound(Values *x) {
        for (int k = 0; k < count; ++k) x[k] = x[k] * all(k < sigmoids ? -1.44269504f : -2.88539008f);
        raise<count>(x, [&](int k, Values power, Values rest) { x[k] = fused(power, rest, power - all(1.0f)); });
        for (int k = 0; k < count; ++k) x[k] = (k < sigmoids ? all(1.0f) : -x[k]) / (x[k] + all(2.0f));
    }
};

#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define SCRIVEN_MULTIPLIES_BF16

// GCC 12 warns of the values that its own intrinsics leave undefined on purpose.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

using bf16 = uint16_t;

constexpr int64_t TILE = SQUARE / 2;  // bf16 values in a tile of a vector's columns: 16 rows of 32 values, 1 KB, for AMX

#if defined(__AVX512BF16__)

// What bf16 needs of the processor: conversions, products of pairs, and the cells' functions.
struct Bf16Instructions : Fp32 {
    using Packed = __m512i;

    static Packed rounded(Values values) { return (__m512i)_mm512_cvtne2ps_pbh(values.high, values.low); }
    // The lower halves of two rows, or the upper ones: values and those that stand below them.
    static Packed pairs(Packed first, Packed second, bool upper) {
        const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                             37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
        return _mm512_permutex2var_epi16(first, upper ? _mm512_add_epi16(low, _mm512_set1_epi16(16)) : low, second);
    }
    static Word spread_word(const bf16 *from) {
        int32_t pair;
        std::memcpy(&pair, from, sizeof pair);
        return (Floats)_mm512_set1_epi32(pair);
    }
    static Floats dot(Word x, Floats right, Floats sum) { return _mm512_dpbf16_ps(sum, (__m512bh)right, (__m512bh)x); }

    // 2^x to 3e-6, by a polynomial that is exact at 0 and 1; from 0 to infinity.
    template <int count> static void raise(Values *x) {
        Values r[count], p[count];
        for (int k = 0; k < count; ++k)
            r[k] = {_mm512_reduce_ps(x[k].low, _MM_FROUND_TO_NEG_INF),
                    _mm512_reduce_ps(x[k].high, _MM_FROUND_TO_NEG_INF)};
        for (int k = 0; k < count; ++k) p[k] = fused(r[k], all(0.013555747f), all(0.05203237f));
        constexpr float factors[] = {0.24137977f, 0.69303215f, 1.0f};
        for (float factor : factors)
            for (int k = 0; k < count; ++k) p[k] = fused(p[k], r[k], all(factor));
        for (int k = 0; k < count; ++k)
            x[k] = {_mm512_scalef_ps(p[k].low, x[k].low), _mm512_scalef_ps(p[k].high, x[k].high)};
    }
    static Values exp2(Values x) {
        raise<1>(&x);
        return x;
    }
    // As in Fp32, to 7e-5 of the values: a fiftieth of what rounding them to bf16 costs.
    template <int count, int sigmoids> static void bound(Values *x) {
        for (int k = 0; k < count; ++k) x[k] = x[k] * all(k < sigmoids ? -1.442695f : -2.88539f);
        for (int k = sigmoids; k < count; ++k) x[k] = smaller(all(60.0f), x[k]);  // in this order of arguments NaN stays
        raise<count>(x);
        Values inverse[count];
        for (int k = 0; k < count; ++k) inverse[k] = x[k] + all(1.0f);
        for (int k = 0; k < count; ++k) inverse[k] = {_mm512_rcp14_ps(inverse[k].low), _mm512_rcp14_ps(inverse[k].high)};
        for (int k = 0; k < count; ++k) x[k] = k < sigmoids ? inverse[k] : (all(1.0f) - x[k]) * inverse[k];
    }
};

#else

// The same on arm64, with the cells' functions of fp32. BFDOT rounds each product and each sum to odd, as long as nobody sets
// FPCR.EBF, which nobody does: all processors give the same bits, which are not those of AVX-512.
struct Bf16Instructions : Fp32 {
    using Packed = uint16x8_t;
    using Word = bfloat16x4_t;

    static Packed rounded(Values values) {
        const bfloat16x8_t low = vcvtq_low_bf16_f32((float32x4_t)values.low);
        return vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(low, (float32x4_t)values.high));
    }
    static Packed pairs(Packed first, Packed second, bool upper) {
        return upper ? vzip2q_u16(first, second) : vzip1q_u16(first, second);
    }
    static Word spread_word(const bf16 *from) {
        uint32_t pair;
        std::memcpy(&pair, from, sizeof pair);
        return vcreate_bf16(pair);
    }
    static Floats dot(Word x, Floats right, Floats sum) {
        return (Floats)vbfdotq_lane_f32((float32x4_t)sum, (bfloat16x8_t)right, x, 0);
    }
};

#endif

// Values are bf16 with sums in fp32, for processors that multiply pairs of bf16 in vectors or in the tiles of AMX. A block
// of a right factor is two tiles of a vector's columns, whose rows have pairs of values that follow each other downwards.
struct Bf16 : Bf16Instructions {
    using Number = bf16;
    using Bf16Instructions::load, Bf16Instructions::rounded, Bf16Instructions::store;
    static constexpr int64_t word = 2;
    static constexpr int64_t next_vector = TILE;
    static constexpr int64_t run = lanes;
    static constexpr int in_registers = 8;  // 16 sums hide how long one takes

#if defined(__AMX_BF16__)
    static constexpr bool tiles = true;
    // Eight tiles of 16 rows of 64 bytes, while it lives. A thread that makes products needs it.
    class Registers {
      public:
        Registers() {
            struct alignas(64) {
                uint8_t palette = 1, start_row = 0, reserved[14] = {};
                uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
                uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
            } config;
            __asm__ volatile("" ::"r"(&config) : "memory");  // GCC's intrinsic tells it of the first 8 bytes only
            _tile_loadconfig(&config);
        }
        ~Registers() { _tile_release(); }
        Registers(const Registers &) = delete;
        Registers &operator=(const Registers &) = delete;
    };
#else
#endif

    static constexpr int64_t column_at(int64_t column) { return column / lanes * TILE + column % lanes * word; }

    static bf16 rounded(float value) { return bf16_of_float(value); }
    static float number(bf16 value) { return float_of_bf16(value); }
    static Packed packed(const bf16 *from, int64_t count = GROUP) { return first_of<Packed>(from, count); }
    static Values load(const bf16 *from, int64_t count = GROUP) {  // a bf16 value is the upper half of an fp32 one
        const Packed values = packed(from, count);
        return {(Floats)pairs(Packed{}, values, false), (Floats)pairs(Packed{}, values, true)};
    }
    static Packed packed(const float *from, int64_t count) { return rounded(load(from, count)); }
    static void store(bf16 *to, Packed values, int64_t count = GROUP) { put_first(to, values, count); }

    static void put_pair(Packed first, Packed second, bf16 *right, int64_t i) {
        store(right + i * GROUP, pairs(first, second, false));
        store(right + TILE + i * GROUP, pairs(first, second, true));
    }
    static void turn(const bf16 *block, bf16 *to) {
        for (int64_t tile = 0; tile < 2 * TILE; tile += TILE) turn_square(block + tile, to + tile, GROUP * sizeof(bf16));
    }
    static void add_rows(const bf16 *right, float *sums) {
        constexpr bf16 ones[] = {0x3f80, 0x3f80};
        const Word one = spread_word(ones);
        Values total = load(sums);
        for (const bf16 *end = right + TILE; right < end; right += GROUP) {
            total.low = dot(one, first_of<Floats>(right, GROUP), total.low);
            total.high = dot(one, first_of<Floats>(right + TILE, GROUP), total.high);
        }
        store(sums, total);
    }
};

#endif

// Calls work(F{}) for the number format F; not all libraries have bf16.
template <class Work> Status in_format(int64_t bf16, Work &&work) {
#if defined(SCRIVEN_MULTIPLIES_BF16)
    if (bf16) return work(Bf16{});
#endif
    return bf16 ? bad_argument : work(Fp32{});
}

// Sums that are made apart, whose total does not depend on the width of vectors.
struct Lanes {
    Values values[LANES / GROUP] = {};

    Values &operator[](int64_t column) { return values[column % LANES / GROUP]; }
    float total() const {
        float sums[LANES];
        for (int64_t v = 0; v < LANES / GROUP; ++v) Fp32::store(sums + v * GROUP, values[v]);
        for (int64_t half = LANES / 2; half; half /= 2)
            for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
        return sums[0];
    }
};

}  // namespace
}  // namespace scriven
