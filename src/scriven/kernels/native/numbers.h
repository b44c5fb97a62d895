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

inline Floats fused(Floats a, Floats b, Floats c) { return multiply_add(a, b, c); }
inline Floats less(Floats a, Floats b, Floats c) { return multiply_add(-a, b, c); }  // c - a * b

struct Fp32 {
    using Number = float;
    using Values = Floats;  // of `width` cells of one row
    using Packed = Floats;  // the same as they are in memory
    using Lanes = int64_t;  // how many of them are there
    using Word = Floats;    // in every lane
    struct Registers {
        Registers() {}
    };
    static constexpr bool tiles = false;
    static constexpr int64_t width = lanes;
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

    static Values all(float value) { return spread(value); }
    static Lanes lanes_of(int64_t count) { return count; }
    static Values rounded(Values values) { return values; }
    static float rounded(float value) { return value; }
    static float number(float value) { return value; }
    static Values where(bool stays, Values values) { return stays ? values : Values{}; }
    static Values load(const float *from) {
        Values x;
        std::memcpy(&x, from, sizeof x);
        return x;
    }
    static void store(float *to, Values x) { std::memcpy(to, &x, sizeof x); }
    // The first `count` values; zeros for the others.
    static Values load(const float *from, Lanes count) {
        if (count >= lanes) return load(from);
        if (count <= 0) return Values{};
#if defined(__AVX512F__)
        return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#else
        Values x{};
        for (int64_t i = 0; i < count; ++i) x[i] = from[i];
        return x;
#endif
    }
    static void store(float *to, Lanes count, Values x) {
        if (count >= lanes) return store(to, x);
        if (count <= 0) return;
#if defined(__AVX512F__)
        _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), x);
#else
        for (int64_t i = 0; i < count; ++i) to[i] = x[i];
#endif
    }
    static Packed packed(const float *from, Lanes count) { return load(from, count); }

    // Rows 2 i and 2 i + 1 of a block, from column `at` on, to where a right factor has them.
    static void put_pair(Packed first, Packed second, float *right, int64_t i, int64_t at) {
        store(right + 2 * i * GROUP + at, first);
        store(right + (2 * i + 1) * GROUP + at, second);
    }
    // A left factor of a block becomes the right one of the block turned, and the other way round.
    static void turn(const float *block, float *to) {
        for (int64_t row = 0; row < GROUP; row += lanes)
            for (int64_t column = 0; column < GROUP; column += lanes)
                turn_square(block + row * GROUP + column, to + column * GROUP + row, GROUP * sizeof(float));
    }
    // Adds the sums of the columns of a right factor.
    static void add_rows(const float *right, float *sums) {
        for (int64_t k = 0; k < GROUP; ++k)
            for (int64_t at = 0; at < GROUP; at += lanes) store(sums + at, load(sums + at) + load(right + k * GROUP + at));
    }

    // 2^x from a polynomial p of r, where x = r + an integer and p r = 2^r - 1: calls finish(k, 2^integer, p r). x is taken
    // for a number from -120 to 120. The polynomial is exact at the Chebyshev nodes of |r| <= 1/2; the integer is added to
    // the exponent. In this order of arguments NaN stays.
    template <int count, class Finish> static void raise(Values *x, Finish &&finish) {
        constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the lowest bits
        constexpr float factors[] = {9.666368515e-03f, 5.550381014e-02f, 2.402234904e-01f, 6.931471806e-01f};
        Values shifted[count], r[count], p[count];
        for (int k = 0; k < count; ++k) x[k] = larger(all(-120.0f), smaller(all(120.0f), x[k]));
        for (int k = 0; k < count; ++k) shifted[k] = x[k] + to_integer;
        for (int k = 0; k < count; ++k) r[k] = x[k] - (shifted[k] - to_integer);
        for (int k = 0; k < count; ++k) p[k] = all(1.338130254e-03f);
        for (float factor : factors)
            for (int k = 0; k < count; ++k) p[k] = fused(p[k], r[k], all(factor));
        for (int k = 0; k < count; ++k) finish(k, (Values)(((Words)shifted[k] << 23) + 0x3f800000u), p[k] * r[k]);
    }
    static Values exp2(Values x) {
        const Values given = x;
        raise<1>(&x, [&](int, Values power, Values rest) { x = fused(power, rest, power); });
        return given < -120.0f ? Values{} : x;
    }
    // The first `sigmoids` of `count` values to their sigmoids, the others to their hyperbolic tangents, to 4e-7 of their
    // values: from 2^x - 1, so that small results are as exact as large ones. NaN stays.
    template <int count, int sigmoids> static void bound(Values *x) {
        for (int k = 0; k < count; ++k) x[k] = x[k] * (k < sigmoids ? -1.44269504f : -2.88539008f);
        raise<count>(x, [&](int k, Values power, Values rest) { x[k] = fused(power, rest, power - 1.0f); });
        for (int k = 0; k < count; ++k) x[k] = (k < sigmoids ? all(1.0f) : -x[k]) / (x[k] + 2.0f);
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

// The values of a group of cells. Everything is done to two vectors at once, and to all gates at once where it can be: one
// chain of dependent instructions would keep the processor waiting.
struct TwoVectors {
    Floats low, high;
};

inline TwoVectors both(float value) { return {spread(value), spread(value)}; }
inline TwoVectors operator+(TwoVectors a, TwoVectors b) { return {a.low + b.low, a.high + b.high}; }
inline TwoVectors operator-(TwoVectors a, TwoVectors b) { return {a.low - b.low, a.high - b.high}; }
inline TwoVectors operator*(TwoVectors a, TwoVectors b) { return {a.low * b.low, a.high * b.high}; }
inline TwoVectors fused(TwoVectors a, TwoVectors b, TwoVectors c) {
    return {fused(a.low, b.low, c.low), fused(a.high, b.high, c.high)};
}
inline TwoVectors less(TwoVectors a, TwoVectors b, TwoVectors c) {
    return {less(a.low, b.low, c.low), less(a.high, b.high, c.high)};
}
inline TwoVectors larger(TwoVectors a, TwoVectors b) { return {larger(a.low, b.low), larger(a.high, b.high)}; }

#if defined(__AVX512BF16__)

// What bf16 needs of the processor: loads and stores, conversions, products of pairs, and the cells' functions.
struct Bf16Instructions {
    using Packed = __m512i;
    using Lanes = __mmask32;
    using Word = Floats;  // in every lane

    static Lanes lanes_of(int64_t count) { return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1; }
    static __mmask16 upper(Lanes lanes) { return static_cast<__mmask16>(lanes >> 16); }
    static TwoVectors load(const float *from, Lanes lanes) {
        return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), from),
                _mm512_maskz_loadu_ps(upper(lanes), from + 16)};
    }
    static void store(float *to, Lanes lanes, TwoVectors values) {
        _mm512_mask_storeu_ps(to, static_cast<__mmask16>(lanes), values.low);
        _mm512_mask_storeu_ps(to + 16, upper(lanes), values.high);
    }
    static Packed packed(const bf16 *from, Lanes lanes) { return _mm512_maskz_loadu_epi16(lanes, from); }
    static void store(bf16 *to, Lanes lanes, Packed values) { _mm512_mask_storeu_epi16(to, lanes, values); }

    static Packed rounded(TwoVectors values) { return (__m512i)_mm512_cvtne2ps_pbh(values.high, values.low); }
    static __m512 fp32_of(__m256i values) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
    }
    static TwoVectors fp32(Packed values) {
        return {fp32_of(_mm512_castsi512_si256(values)), fp32_of(_mm512_extracti64x4_epi64(values, 1))};
    }
    static Packed where(bool stays, Packed values) { return _mm512_maskz_mov_epi32(stays ? 0xffff : 0, values); }
    static TwoVectors where(bool stays, TwoVectors values) {
        const __mmask16 lanes = stays ? 0xffff : 0;
        return {_mm512_maskz_mov_ps(lanes, values.low), _mm512_maskz_mov_ps(lanes, values.high)};
    }

    static Packed pairs_of(Packed values) {  // 16 values and the 16 that stand below them
        const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                               21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        return _mm512_permutexvar_epi16(order, values);
    }
    static Packed lower_pairs(Packed first, Packed second) {
        return pairs_of(_mm512_inserti64x4(first, _mm512_castsi512_si256(second), 1));
    }
    static Packed upper_pairs(Packed first, Packed second) {
        return pairs_of(_mm512_shuffle_i64x2(first, second, 0xee));
    }
    static Word spread_word(const bf16 *from) {
        int32_t pair;
        std::memcpy(&pair, from, sizeof pair);
        return (Floats)_mm512_set1_epi32(pair);
    }
    static Floats dot(Word x, Floats right, Floats sum) { return _mm512_dpbf16_ps(sum, (__m512bh)right, (__m512bh)x); }

    // 2^x to 3e-6, by a polynomial that is exact at 0 and 1; from 0 to infinity.
    template <int count> static void raise(TwoVectors *x) {
        TwoVectors r[count], p[count];
        for (int k = 0; k < count; ++k)
            r[k] = {_mm512_reduce_ps(x[k].low, _MM_FROUND_TO_NEG_INF),
                    _mm512_reduce_ps(x[k].high, _MM_FROUND_TO_NEG_INF)};
        for (int k = 0; k < count; ++k) p[k] = fused(r[k], both(0.013555747f), both(0.05203237f));
        constexpr float factors[] = {0.24137977f, 0.69303215f, 1.0f};
        for (float factor : factors)
            for (int k = 0; k < count; ++k) p[k] = fused(p[k], r[k], both(factor));
        for (int k = 0; k < count; ++k)
            x[k] = {_mm512_scalef_ps(p[k].low, x[k].low), _mm512_scalef_ps(p[k].high, x[k].high)};
    }
    static TwoVectors exp2(TwoVectors x) {
        raise<1>(&x);
        return x;
    }
    // As in Fp32, to 7e-5 of the values: a fiftieth of what rounding them to bf16 costs.
    template <int count, int sigmoids> static void bound(TwoVectors *x) {
        for (int k = 0; k < count; ++k) x[k] = x[k] * both(k < sigmoids ? -1.442695f : -2.88539f);
        for (int k = sigmoids; k < count; ++k)  // in this order of arguments NaN stays
            x[k] = {smaller(spread(60.0f), x[k].low), smaller(spread(60.0f), x[k].high)};
        raise<count>(x);
        TwoVectors inverse[count];
        for (int k = 0; k < count; ++k) inverse[k] = x[k] + both(1.0f);
        for (int k = 0; k < count; ++k) inverse[k] = {_mm512_rcp14_ps(inverse[k].low), _mm512_rcp14_ps(inverse[k].high)};
        for (int k = 0; k < count; ++k) x[k] = k < sigmoids ? inverse[k] : (both(1.0f) - x[k]) * inverse[k];
    }
};

#else

// The same on arm64. BFDOT rounds each product and each sum to odd, as long as nobody sets FPCR.EBF, which nobody does: all
// processors give the same bits, which are not those of AVX-512.
struct Bf16Instructions {
    using Packed = uint16x8_t;
    using Lanes = int64_t;  // how many of them are there
    using Word = bfloat16x4_t;

    static Lanes lanes_of(int64_t count) { return count; }
    static TwoVectors load(const float *from, Lanes count) {
        return {Fp32::load(from, count), Fp32::load(from + lanes, count - lanes)};
    }
    static void store(float *to, Lanes count, TwoVectors values) {
        Fp32::store(to, count, values.low);
        Fp32::store(to + lanes, count - lanes, values.high);
    }
    static Packed packed(const bf16 *from, Lanes count) {
        Packed values{};
        if (count >= 2 * lanes) std::memcpy(&values, from, sizeof values);
        else if (count > 0) std::memcpy(&values, from, count * sizeof *from);
        return values;
    }
    static void store(bf16 *to, Lanes count, Packed values) {
        if (count >= 2 * lanes) std::memcpy(to, &values, sizeof values);
        else if (count > 0) std::memcpy(to, &values, count * sizeof *to);
    }

    static Packed rounded(TwoVectors values) {
        const bfloat16x8_t low = vcvtq_low_bf16_f32((float32x4_t)values.low);
        return vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(low, (float32x4_t)values.high));
    }
    static TwoVectors fp32(Packed values) {
        return {(Floats)lower_pairs(Packed{}, values), (Floats)upper_pairs(Packed{}, values)};
    }
    static Packed where(bool stays, Packed values) { return stays ? values : Packed{}; }
    static TwoVectors where(bool stays, TwoVectors values) { return stays ? values : TwoVectors{}; }

    static Packed lower_pairs(Packed first, Packed second) { return vzip1q_u16(first, second); }
    static Packed upper_pairs(Packed first, Packed second) { return vzip2q_u16(first, second); }
    static Word spread_word(const bf16 *from) {
        uint32_t pair;
        std::memcpy(&pair, from, sizeof pair);
        return vcreate_bf16(pair);
    }
    static Floats dot(Word x, Floats right, Floats sum) {
        return (Floats)vbfdotq_lane_f32((float32x4_t)sum, (bfloat16x8_t)right, x, 0);
    }

    static TwoVectors exp2(TwoVectors x) { return {Fp32::exp2(x.low), Fp32::exp2(x.high)}; }
    template <int count, int sigmoids> static void bound(TwoVectors *x) {
        for (Floats TwoVectors::*half : {&TwoVectors::low, &TwoVectors::high}) {
            Floats values[count];
            for (int k = 0; k < count; ++k) values[k] = x[k].*half;
            Fp32::bound<count, sigmoids>(values);
            for (int k = 0; k < count; ++k) x[k].*half = values[k];
        }
    }
};

#endif

// Values are bf16 with sums in fp32, for processors that multiply pairs of bf16 in vectors or in the tiles of AMX. A block
// of a right factor is two tiles of a vector's columns, whose rows have pairs of values that follow each other downwards.
struct Bf16 : Bf16Instructions {
    using Number = bf16;
    using Values = TwoVectors;
    using Bf16Instructions::load, Bf16Instructions::rounded, Bf16Instructions::store;
    static constexpr int64_t width = 2 * lanes;
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
    static constexpr bool tiles = false;
    using Registers = Fp32::Registers;
#endif

    static constexpr int64_t column_at(int64_t column) { return column / lanes * TILE + column % lanes * word; }

    static Values all(float value) { return both(value); }
    static bf16 rounded(float value) { return bf16_of_float(value); }
    static float number(bf16 value) { return float_of_bf16(value); }
    static Values load(const float *from) { return {Fp32::load(from), Fp32::load(from + lanes)}; }
    static Values load(const bf16 *from) { return fp32(packed(from, lanes_of(width))); }
    static Values load(const bf16 *from, Lanes there) { return fp32(packed(from, there)); }
    static void store(float *to, Values values) {
        Fp32::store(to, values.low);
        Fp32::store(to + lanes, values.high);
    }
    static void store(bf16 *to, Packed values) { std::memcpy(to, &values, sizeof values); }

    static void put_pair(Packed first, Packed second, bf16 *right, int64_t i, int64_t) {
        store(right + i * GROUP, lower_pairs(first, second));
        store(right + TILE + i * GROUP, upper_pairs(first, second));
    }
    static void turn(const bf16 *block, bf16 *to) {
        for (int64_t tile = 0; tile < 2 * TILE; tile += TILE) turn_square(block + tile, to + tile, GROUP * sizeof(bf16));
    }
    static void add_rows(const bf16 *right, float *sums) {
        constexpr bf16 ones[] = {0x3f80, 0x3f80};
        const Word one = spread_word(ones);
        Values total = load(sums);
        for (const bf16 *end = right + TILE; right < end; right += GROUP) {
            total.low = dot(one, words(right), total.low);
            total.high = dot(one, words(right + TILE), total.high);
        }
        store(sums, total);
    }

  private:
    static Floats words(const bf16 *from) {
        Floats found;
        std::memcpy(&found, from, sizeof found);
        return found;
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
template <class F> struct Lanes {
    typename F::Values values[LANES / F::width] = {};

    typename F::Values &operator[](int64_t column) { return values[column % LANES / F::width]; }
    float total() const {
        float sums[LANES];
        for (int64_t v = 0; v < LANES / F::width; ++v) F::store(sums + v * F::width, values[v]);
        for (int64_t half = LANES / 2; half; half /= 2)
            for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
        return sums[0];
    }
};

}  // namespace
}  // namespace scriven
