// The values of 32 cells of one row, as two vectors, and functions of them as exact as bf16 needs. Only for sources that
// are compiled for AVX-512 with bf16.
//
// Everything is done to two vectors at once, and to all gates at once where it can be: one chain of dependent
// instructions would keep the processor waiting.
#pragma once

#include "bf16_tiles.h"

namespace scriven {
namespace {

struct Values {
    __m512 low, high;
};

inline Values all(float value) { return {_mm512_set1_ps(value), _mm512_set1_ps(value)}; }
inline Values operator+(Values a, Values b) { return {_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)}; }
inline Values operator-(Values a, Values b) { return {_mm512_sub_ps(a.low, b.low), _mm512_sub_ps(a.high, b.high)}; }
inline Values operator*(Values a, Values b) { return {_mm512_mul_ps(a.low, b.low), _mm512_mul_ps(a.high, b.high)}; }

// a * b + c, rounded once.
inline Values fused(Values a, Values b, Values c) {
    return {_mm512_fmadd_ps(a.low, b.low, c.low), _mm512_fmadd_ps(a.high, b.high, c.high)};
}

// c - a * b, rounded once.
inline Values less(Values a, Values b, Values c) {
    return {_mm512_fnmadd_ps(a.low, b.low, c.low), _mm512_fnmadd_ps(a.high, b.high, c.high)};
}

inline Values fp32(__m512i values) { return {lower(values), upper(values)}; }
inline __m512i rounded(Values values) { return joined(values.low, values.high); }
inline Values load(const float *from) { return {_mm512_load_ps(from), _mm512_load_ps(from + 16)}; }
inline Values load(const float *from, __mmask32 lanes) {
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), from),
            _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes >> 16), from + 16)};
}
inline void store(float *to, Values values) {
    _mm512_store_ps(to, values.low);
    _mm512_store_ps(to + 16, values.high);
}
inline void store(float *to, __mmask32 lanes, Values values) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>(lanes), values.low);
    _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(lanes >> 16), values.high);
}
inline Values where(__mmask16 lanes, Values values) {  // the same lanes of both halves
    return {_mm512_maskz_mov_ps(lanes, values.low), _mm512_maskz_mov_ps(lanes, values.high)};
}

// 2^x to 3e-6, by a polynomial that is exact at 0 and 1; from 0 to infinity.
template <int count> inline void exp2(Values *x) {
    Values r[count], p[count];
    for (int k = 0; k < count; ++k)
        r[k] = {_mm512_reduce_ps(x[k].low, _MM_FROUND_TO_NEG_INF), _mm512_reduce_ps(x[k].high, _MM_FROUND_TO_NEG_INF)};
    for (int k = 0; k < count; ++k) p[k] = fused(r[k], all(0.013555747f), all(0.05203237f));
    constexpr float factors[] = {0.24137977f, 0.69303215f, 1.0f};
    for (float factor : factors)
        for (int k = 0; k < count; ++k) p[k] = fused(p[k], r[k], all(factor));
    for (int k = 0; k < count; ++k)
        x[k] = {_mm512_scalef_ps(p[k].low, x[k].low), _mm512_scalef_ps(p[k].high, x[k].high)};
}

// The first `sigmoids` of `count` values to their sigmoids, the others to their hyperbolic tangents: to 7e-5 of their
// values, a fiftieth of what rounding them to bf16 costs. NaN stays.
template <int count, int sigmoids> inline void bound(Values *x) {
    for (int k = 0; k < count; ++k) x[k] = x[k] * all(k < sigmoids ? -1.442695f : -2.88539f);
    for (int k = sigmoids; k < count; ++k)  // in this order of arguments NaN stays
        x[k] = {_mm512_min_ps(_mm512_set1_ps(60.0f), x[k].low), _mm512_min_ps(_mm512_set1_ps(60.0f), x[k].high)};
    exp2<count>(x);
    Values inverse[count];
    for (int k = 0; k < count; ++k) inverse[k] = x[k] + all(1.0f);
    for (int k = 0; k < count; ++k) inverse[k] = {_mm512_rcp14_ps(inverse[k].low), _mm512_rcp14_ps(inverse[k].high)};
    for (int k = 0; k < count; ++k) x[k] = k < sigmoids ? inverse[k] : (all(1.0f) - x[k]) * inverse[k];
}

}  // namespace
}  // namespace scriven
