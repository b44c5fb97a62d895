// The values of a vector of cells of one row, and functions of them to 4e-7 of their values.
#pragma once

#include "vectors.h"

namespace scriven {
namespace {

using Values = Floats;

inline Values all(float value) { return spread(value); }
inline Values fused(Values a, Values b, Values c) { return multiply_add(a, b, c); }
inline Values less(Values a, Values b, Values c) { return multiply_add(-a, b, c); }  // c - a * b

// The first `count` values; zeros for the others.
inline Values load(const float *from, int64_t count) {
    Values x{};
    if (count >= lanes) {
        std::memcpy(&x, from, sizeof x);
        return x;
    }
#if defined(__AVX512F__)
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#else
    for (int64_t i = 0; i < count; ++i) x[i] = from[i];
    return x;
#endif
}

inline void store(float *to, int64_t count, Values x) {
    if (count >= lanes) {
        std::memcpy(to, &x, sizeof x);
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), x);
#else
    for (int64_t i = 0; i < count; ++i) to[i] = x[i];
#endif
}

// 1 / x for normal numbers, by an estimate and one step of Newton's where there is one: exact to 3e-7.
inline Values inverse(Values x) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
    const Values estimate = _mm512_maskz_rcp14_ps(0xffff, x);
#else
    const Values estimate = _mm256_rcp_ps(x);
#endif
    return fused(estimate, less(x, estimate, all(1.0f)), estimate);
#else
    return 1.0f / x;
#endif
}

// 2^x - 1, for x from -120 to 120, which others are taken for. The polynomial is (2^r - 1) / r at the Chebyshev nodes of
// |r| <= 1/2, so that small results are as exact as large ones; the integer part of x is added to the exponent. In this
// order of arguments NaN stays.
template <int count> inline void exp2_less_1(Values *x) {
    constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which is the lowest bits
    constexpr float factors[] = {9.666368515e-03f, 5.550381014e-02f, 2.402234904e-01f, 6.931471806e-01f};
    Values shifted[count], r[count], p[count];
    for (int k = 0; k < count; ++k) x[k] = larger(all(-120.0f), smaller(all(120.0f), x[k]));
    for (int k = 0; k < count; ++k) shifted[k] = x[k] + to_integer;
    for (int k = 0; k < count; ++k) r[k] = x[k] - (shifted[k] - to_integer);
    for (int k = 0; k < count; ++k) p[k] = all(1.338130254e-03f);
    for (float factor : factors)
        for (int k = 0; k < count; ++k) p[k] = fused(p[k], r[k], all(factor));
    for (int k = 0; k < count; ++k) {
        const Values power = (Values)(((Words)shifted[k] << 23) + 0x3f800000u);
        x[k] = fused(power, p[k] * r[k], power - 1.0f);
    }
}

// The first `sigmoids` of `count` values to their sigmoids, the others to their hyperbolic tangents. NaN stays.
template <int count, int sigmoids> inline void bound(Values *x) {
    for (int k = 0; k < count; ++k) x[k] = x[k] * (k < sigmoids ? -1.44269504f : -2.88539008f);
    exp2_less_1<count>(x);
    for (int k = 0; k < count; ++k) x[k] = k < sigmoids ? inverse(x[k] + 2.0f) : -x[k] * inverse(x[k] + 2.0f);
}

}  // namespace
}  // namespace scriven
