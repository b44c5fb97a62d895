// Products of a group of weights with one or several rows, in each precision.
//
// The order of a sum does not depend on the level or the number of rows: first the even and the odd inputs (in int8:
// chunks) each for itself, then both together. So a row's text does not depend on the other rows.
#pragma once

#include "emulated_tiles.h"
#include "vector_math.h"

namespace scriven {
namespace {

template <typename Word>
inline Word word_at(const char *from, int64_t place) {
    return reinterpret_cast<const Word *>(from)[place];
}

struct Fp32 {
    using Sums = Floats;
    using Out = float;
    static constexpr int rows = lanes == 16 ? 2 : 1;  // as the registers allow
    static constexpr bool exact = false;
    struct Spread {
        Floats even, odd;
    };
    static Spread spread(const char *x, int64_t chunk) {
        return {scriven::spread(word_at<float>(x, chunk)), scriven::spread(word_at<float>(x, chunk + 1))};
    }
    static void add(Sums &even, Sums &odd, Ints first, Ints second, const Spread &x) {
        even = multiply_add((Floats)first, x.even, even);
        odd = multiply_add((Floats)second, x.odd, odd);
    }
    static int64_t inputs(const PackedMatrix &matrix) { return matrix.chunks; }
    static void pack(const float *x, int64_t count, char *to, float *) { memcpy(to, x, count * sizeof(float)); }
    static Floats value(const Out *sums, const float *, int64_t at, float) { return load(sums + at); }
};

// Weights in bf16; operands and sums in fp32.
struct Bf16 : Fp32 {
    struct Spread {
        Floats x[4];
    };
    static Spread spread(const char *x, int64_t chunk) {
        Spread result;
        for (int i = 0; i < 4; i++) result.x[i] = scriven::spread(word_at<float>(x, 2 * chunk + i));
        return result;
    }
    static void add(Sums &even, Sums &odd, Ints first, Ints second, const Spread &x) {
        even = multiply_add((Floats)((Words)first << 16), x.x[0], even);
        odd = multiply_add((Floats)((Words)first & 0xffff0000u), x.x[1], odd);
        even = multiply_add((Floats)((Words)second << 16), x.x[2], even);
        odd = multiply_add((Floats)((Words)second & 0xffff0000u), x.x[3], odd);
    }
    static int64_t inputs(const PackedMatrix &matrix) { return 2 * matrix.chunks; }
};

// Weights in int8 with a scale for each output, operands in int8 with a scale for each row, from -127 to 127. The sums
// of products are exact.
struct Int8 {
    using Sums = Ints;
    using Out = int32_t;
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
    static constexpr bool shifted = true;  // the instruction takes one side unsigned: 128 is added, and subtracted below
#else
    static constexpr bool shifted = false;
#endif
#if defined(__ARM_FEATURE_DOTPROD)
    static constexpr int rows = 4;
#else
    static constexpr int rows = lanes == 16 ? 4 : lanes == 8 ? 2 : 1;
#endif
    static constexpr bool exact = true;

    struct Four {  // the next 4 inputs, in every lane
#if defined(__AVX2__)
        explicit Four(int32_t x) : x(scriven::spread(shifted ? x ^ int32_t(0x80808080) : x)) {
#if !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
            size = (Ints)_mm256_abs_epi8((__m256i)this->x);
#endif
        }
        Ints x;
#if !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
        Ints size;
#endif
#elif defined(__SSE2__) && !defined(SCRIVEN_GENERIC)
        explicit Four(int32_t x) : even(scriven::spread(x)), odd(scriven::spread(x)) {
            even = (Ints)_mm_srai_epi16(_mm_slli_epi16((__m128i)even, 8), 8);
            odd = (Ints)_mm_srai_epi16((__m128i)odd, 8);
        }
        Ints even, odd;
#elif defined(__ARM_FEATURE_DOTPROD)
        explicit Four(int32_t x) : x(scriven::spread(x)) {}
        Ints x;
#else
        explicit Four(int32_t x) {
            for (int i = 0; i < 4; i++) part[i] = scriven::spread(int32_t(int8_t(x >> (8 * i))));
        }
        Ints part[4];
#endif
    };
    struct Spread {
        Four first, second;
    };
    static Spread spread(const char *x, int64_t chunk) {
        return {Four(word_at<int32_t>(x, chunk)), Four(word_at<int32_t>(x, chunk + 1))};
    }
    static Ints dot(Ints sums, Ints w, const Four &x) {
#if defined(__AVX512VNNI__)
        return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x.x, (__m512i)w);
#elif defined(__AVXVNNI__)
        return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)x.x, (__m256i)w);
#elif defined(__AVX2__)
        // |x| times the weights with x's signs: pairs reach 2 * 127 * 127, which int16 holds.
        const __m256i pairs = _mm256_maddubs_epi16((__m256i)x.size, _mm256_sign_epi8((__m256i)w, (__m256i)x.x));
        return sums + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__SSE2__) && !defined(SCRIVEN_GENERIC)
        const __m128i even = _mm_srai_epi16(_mm_slli_epi16((__m128i)w, 8), 8), odd = _mm_srai_epi16((__m128i)w, 8);
        return sums + (Ints)_mm_madd_epi16(even, (__m128i)x.even) + (Ints)_mm_madd_epi16(odd, (__m128i)x.odd);
#elif defined(__ARM_FEATURE_DOTPROD)
        return (Ints)vdotq_s32((int32x4_t)sums, (int8x16_t)w, (int8x16_t)x.x);
#else
        for (int i = 0; i < 4; i++) sums += ((Ints)((Words)w << (24 - 8 * i)) >> 24) * x.part[i];
        return sums;
#endif
    }
    static void add(Sums &even, Sums &odd, Ints first, Ints second, const Spread &x) {
        even = dot(even, first, x.first);
        odd = dot(odd, second, x.second);
    }
    static int64_t inputs(const PackedMatrix &matrix) { return 4 * matrix.chunks; }

    static void pack(const float *x, int64_t count, char *to, float *scale) {
        Floats sizes = {};
        for (int64_t i = 0; i < count; i += lanes) sizes = larger(size_of(load(x + i)), sizes);
        const float largest = largest_of(sizes);
        const float factor = largest > 1e-30f ? 127.0f / largest : 0.0f;
        *scale = largest / 127.0f;
        for (int64_t i = 0; i < count; i += lanes) store_bytes(to + i, (Ints)(load(x + i) * factor + to_integer));
    }
    static Floats value(const Out *sums, const float *scale, int64_t at, float row_scale) {
        const Floats sum = __builtin_convertvector(*reinterpret_cast<const Ints *>(sums + at), Floats);
        return sum * load(scale + at) * row_scale;
    }
};

// The products of `vectors` vectors of outputs with `count` rows. Weights of one chunk are `step` bytes apart.
template <class P, int vectors, int count>
inline void multiply(const char *weights, int64_t step, int64_t chunks, const char *x, int64_t x_stride,
                     const int32_t *offset, typename P::Out *to, int64_t to_stride) {
    constexpr int64_t bytes = lanes * 4;
    typename P::Sums even[count][vectors] = {}, odd[count][vectors] = {};
    for (int64_t chunk = 0; chunk < chunks; chunk += 2, weights += 2 * step) {
#pragma GCC unroll 4
        for (int row = 0; row < count; row++) {
            const auto spread = P::spread(x + row * x_stride, chunk);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                const Ints first = *reinterpret_cast<const Ints *>(weights + v * bytes);
                const Ints second = *reinterpret_cast<const Ints *>(weights + step + v * bytes);
                P::add(even[row][v], count > 1 && P::exact ? even[row][v] : odd[row][v], first, second, spread);
            }
        }
    }
#pragma GCC unroll 4
    for (int row = 0; row < count; row++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            typename P::Sums sums = even[row][v] + odd[row][v];
            if (offset) sums = sums - *reinterpret_cast<const typename P::Sums *>(offset + v * lanes);
            *reinterpret_cast<typename P::Sums *>(to + row * to_stride + v * lanes) = sums;
        }
    }
}

template <class P, int vectors>
inline void multiply_rows(const char *weights, int64_t step, int64_t chunks, const char *x, int64_t x_stride,
                          const int32_t *offset, typename P::Out *to, int64_t to_stride, int64_t rows) {
    int64_t row = 0;
    for (; row + P::rows <= rows; row += P::rows)
        multiply<P, vectors, P::rows>(weights, step, chunks, x + row * x_stride, x_stride, offset, to + row * to_stride,
                                      to_stride);
    for (; P::rows > 1 && row < rows; row++)
        multiply<P, vectors, 1>(weights, step, chunks, x + row * x_stride, x_stride, offset, to + row * to_stride,
                                to_stride);
}

#if defined(__AMX_INT8__)
// The same for up to 16 rows at once. If there are fewer, the missing ones are computed too, and ignored.
template <int width>
inline void multiply_tiles(const char *weights, int64_t chunks, const char *x, int64_t x_stride, int32_t *to) {
    constexpr int64_t step = width * block * 4;
    __asm__ volatile("" ::: "memory");  // GCC does not know that loading a tile reads memory
    _tile_zero(0);
    if (width > 1) _tile_zero(1);
    if (width > 2) _tile_zero(2);
    if (width > 3) _tile_zero(3);
    for (int64_t chunk = 0; chunk < chunks; chunk += 16, weights += 16 * step) {
        _tile_loadd(4, x + chunk * 4, x_stride);
        _tile_loadd(5, weights, step);
        _tile_dpbssd(0, 4, 5);
        if (width > 1) {
            _tile_loadd(6, weights + 64, step);
            _tile_dpbssd(1, 4, 6);
        }
        if (width > 2) {
            _tile_loadd(7, weights + 128, step);
            _tile_dpbssd(2, 4, 7);
        }
        if (width > 3) {
            _tile_loadd(5, weights + 192, step);
            _tile_dpbssd(3, 4, 5);
        }
    }
    _tile_stored(0, to, step);
    if (width > 1) _tile_stored(1, to + block, step);
    if (width > 2) _tile_stored(2, to + 2 * block, step);
    if (width > 3) _tile_stored(3, to + 3 * block, step);
}

struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
#endif

// The products of a group with `rows` rows, at most rows_together: to[row][output of the group].
template <class P>
inline void product(const PackedMatrix &matrix, int64_t group, const char *x, int64_t x_stride, int64_t rows, void *to) {
    constexpr int64_t per_block = block / lanes, at_once = widest / per_block;  // vectors in a block, blocks in a pass
    const int64_t outputs = matrix.width * block, step = outputs * 4;
    const char *weights = static_cast<const char *>(matrix.data) + group * matrix.chunks * step;
    auto *sums = static_cast<typename P::Out *>(to);
    const int32_t *offset = nullptr;
#if defined(__AMX_INT8__)
    if (P::exact && rows >= worth_tiles) {
        auto *words = static_cast<int32_t *>(to);
        switch (matrix.width) {
            case 1: return multiply_tiles<1>(weights, matrix.chunks, x, x_stride, words);
            case 2: return multiply_tiles<2>(weights, matrix.chunks, x, x_stride, words);
            case 3: return multiply_tiles<3>(weights, matrix.chunks, x, x_stride, words);
            default: return multiply_tiles<4>(weights, matrix.chunks, x, x_stride, words);
        }
    }
#endif
    if (Int8::shifted && matrix.offset) offset = matrix.offset + group * outputs;
    for (int64_t first = 0; first < matrix.width; first += at_once) {
        const int64_t blocks = matrix.width - first < at_once ? matrix.width - first : at_once, done = first * block;
        const char *from = weights + done * 4;
        const int32_t *shift = offset ? offset + done : nullptr;
        switch (blocks * per_block) {
            case 1: multiply_rows<P, 1>(from, step, matrix.chunks, x, x_stride, shift, sums + done, outputs, rows); break;
            case 2: multiply_rows<P, 2>(from, step, matrix.chunks, x, x_stride, shift, sums + done, outputs, rows); break;
            case 3: multiply_rows<P, 3>(from, step, matrix.chunks, x, x_stride, shift, sums + done, outputs, rows); break;
            default: multiply_rows<P, 4>(from, step, matrix.chunks, x, x_stride, shift, sums + done, outputs, rows);
        }
    }
}

}  // namespace
}  // namespace scriven
