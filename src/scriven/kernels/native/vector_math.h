// Functions of vectors.
//
// Each lane goes through the same operations on every level, each rounded once (nothing is contracted). So all levels
// give the same bits; the width only sets the number of lanes.
#pragma once

#include "double_math.h"
#include "sampler.h"

namespace scriven {
namespace {

inline float largest_of(Floats x) {
    alignas(64) float parts[lanes];
    store(parts, x);
#pragma GCC unroll 4
    for (int half = lanes / 2; half; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) parts[i] = parts[i] > parts[i + half] ? parts[i] : parts[i + half];
    return parts[0];
}

// The lowest byte of each lane. Compilers convert vectors of several registers lane by lane.
inline void store_bytes(char *to, Ints x) {
#if defined(__AVX512F__)
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)x));
#elif defined(__AVX2__)
    const __m128i low = _mm256_castsi256_si128((__m256i)x), high = _mm256_extracti128_si256((__m256i)x, 1);
    const __m128i lowest = _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m128i bytes = _mm_unpacklo_epi32(_mm_shuffle_epi8(low, lowest), _mm_shuffle_epi8(high, lowest));
    _mm_storel_epi64(reinterpret_cast<__m128i *>(to), bytes);
#else
    typedef int8_t Bytes __attribute__((vector_size(lanes), may_alias));
    *reinterpret_cast<Bytes *>(to) = __builtin_convertvector(x, Bytes);
#endif
}

inline Floats size_of(Floats x) { return (Floats)((Words)x & 0x7fffffffu); }

constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which is then the lowest bits
constexpr float log2_e = 1.44269504088896341f;

// 2 to the x, for |x| <= 120, with a relative error of 3e-7, and exact for 0. The polynomial is (2^r - 1) / r at the
// Chebyshev nodes of |r| <= 1/2; the integer part of x is added to the exponent.
inline Floats power_of_2(Floats x) {
    const Floats shifted = x + to_integer;
    const Floats r = x - (shifted - to_integer);
    Floats p = r * 1.338130254e-03f + 9.666368515e-03f;
    p = p * r + 5.550381014e-02f;
    p = p * r + 2.402234904e-01f;
    p = p * r + 6.931471806e-01f;
    p = p * r + 1.0f;
    return (Floats)((Words)p + ((Words)shifted << 23));
}

// e to the (scale * x). No result is above 2^40, so that the product of three is finite; a sigmoid of 1e-12 is 0.
inline Floats exponential(Floats x, float scale) {
    return power_of_2(larger(smaller(spread(40.0f), x * (scale * log2_e)), spread(-120.0f)));
}

inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(x, -1)); }

inline Floats tanh_of(Floats x) {
    const Floats e = exponential(x, -2);
    return (1.0f - e) / (1.0f + e);
}

template <bool relu>
inline Floats activation(Floats x) {
    return relu ? larger(x, Floats{}) : tanh_of(x);
}

// sigmoid(x) * activation(y), with one division.
template <bool relu>
inline Floats gated(Floats x, Floats y) {
    if (relu) return sigmoid(x) * larger(y, Floats{});
    const Floats gate = 1.0f + exponential(x, -1), e = exponential(y, -2);
    return (1.0f - e) / (gate * (1.0f + e));
}

// sigmoid(keep) * before + sigmoid(enter) * activation(fresh), with one division.
template <bool relu>
inline Floats remembered(Floats keep, Floats before, Floats enter, Floats fresh) {
    if (relu) return sigmoid(keep) * before + sigmoid(enter) * larger(fresh, Floats{});
    const Floats kept = 1.0f + exponential(keep, -1), entered = 1.0f + exponential(enter, -1);
    const Floats e = exponential(fresh, -2), others = entered * (1.0f + e);
    return (before * others + (1.0f - e) * kept) / (kept * others);
}

// Weights exp((logit - largest) / temperature), in doubles; both arrays have room for a multiple of 16.
inline void weigh(const float *logits, double *weights, int64_t count, double temperature) {
    float largest = logits[0];
    int64_t done = 0;
    if (count >= lanes) {
        Floats found = load(logits);
        for (; done + lanes <= count; done += lanes) found = larger(load(logits + done), found);
        largest = largest_of(found);
    }
    for (; done < count; done++) largest = logits[done] > largest ? logits[done] : largest;
    const int64_t padded = (count + block - 1) / block * block;
    for (int64_t i = 0; i < padded; i++) weights[i] = logits[i];
    for (int64_t i = 0; i < padded; i += lanes / 2) {
        Doubles *at = reinterpret_cast<Doubles *>(weights + i);
        *at = exponential((*at - double(largest)) / temperature);
    }
}

// places[i]: how many keys are larger than key i. It compares each with each, which is faster than any sort if there are
// few keys. Both arrays have room for a multiple of 32.
inline void rank(const int16_t *keys, int64_t count, int16_t *places) {
    for (int64_t i = 0; i < count; i += 2 * lanes) {
        const Shorts own = *reinterpret_cast<const Shorts *>(keys + i);
        Shorts before = {};
#pragma GCC unroll 4
        for (int64_t j = 0; j < count; j++) before -= keys[j] > own;
        *reinterpret_cast<Shorts *>(places + i) = before;
    }
}

}  // namespace
}  // namespace scriven
