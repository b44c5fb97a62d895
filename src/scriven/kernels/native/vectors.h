// Vectors as wide as the instruction set's registers.
#pragma once

#include "common.h"

namespace scriven {
namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

typedef float Floats __attribute__((vector_size(lanes * 4), may_alias));
typedef int32_t Ints __attribute__((vector_size(lanes * 4), may_alias));
typedef uint32_t Words __attribute__((vector_size(lanes * 4), may_alias));
typedef int16_t Shorts __attribute__((vector_size(lanes * 4), may_alias));
typedef double Doubles __attribute__((vector_size(lanes * 4), may_alias));
typedef uint64_t LongWords __attribute__((vector_size(lanes * 4), may_alias));

inline Floats load(const float *from) { return *reinterpret_cast<const Floats *>(from); }
inline void store(float *to, Floats x) { *reinterpret_cast<Floats *>(to) = x; }

inline Ints spread(int32_t x) {
#if defined(__AVX512F__)
    return (Ints)_mm512_set1_epi32(x);
#elif defined(__AVX2__)
    return (Ints)_mm256_set1_epi32(x);
#else
    return Ints{x, x, x, x};
#endif
}

inline Floats spread(float x) {
#if defined(__AVX512F__)
    return _mm512_set1_ps(x);
#elif defined(__AVX2__)
    return _mm256_set1_ps(x);
#else
    return Floats{x, x, x, x};
#endif
}

// a * b + c, rounded once if the processor can.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__FP_FAST_FMAF) || defined(__aarch64__)  // which clang 14 does not say for arm64
    for (int i = 0; i < lanes; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

#if defined(__AVX512F__)
// Not _mm512_min_ps and the like: GCC 12 warns that they use an uninitialised variable.
inline Floats smaller(Floats a, Floats b) { return _mm512_maskz_min_ps(0xffff, a, b); }
inline Floats larger(Floats a, Floats b) { return _mm512_maskz_max_ps(0xffff, a, b); }
#elif defined(__AVX2__)
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
#else
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }  // b if one is NaN
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
#endif

}  // namespace
}  // namespace scriven
