// What every translation unit of the native kernels shares.
//
// A source is compiled for the instruction set that ends its name (lstm_amx.cpp, sampler_avx2.cpp; others are portable;
// the table is in hatch_build.py). SCRIVEN_HAS_AVX2, _AVXVNNI, _AVX512, _AVX512BF16 and _AMX are 1 where the compiler
// knows that set, and undefined where it does not: sources of that set are then left out.
//
// Everything here that is not a type has internal linkage, and so must be every helper in a header that sources of
// several sets include (`static`, or an unnamed namespace): the linker would keep only one copy of an inline function,
// perhaps the one with AVX-512 in it, for all of them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__x86_64__)
#include <xmmintrin.h>
#endif

#if defined(_WIN32)
#define SCRIVEN_API extern "C" __declspec(dllexport)
#else
#define SCRIVEN_API extern "C" __attribute__((visibility("default")))
#endif

namespace scriven {

// In the order of library.LEVELS; kernels are given one of these as an int64_t.
// Each level has all of the ones below it. avx2 includes FMA; avx512 is F, BW, DQ, VL and VNNI; amx is TILE, BF16 and
// INT8 with AVX512_BF16.
enum Level : int64_t { portable = 0, avx2 = 1, avx512 = 2, amx = 3 };

// What a function gives: library.py makes an error of anything but `ok`.
enum Status : int64_t { ok = 0, bad_argument = 1, no_memory = 2, no_such_level = 3 };

// Bits of scriven_features(), in the order of library.FEATURES.
enum Feature : int64_t {
    has_avx2 = 1,
    has_avx_vnni = 2,
    has_avx512 = 4,
    has_avx512_vnni = 8,
    has_avx512_bf16 = 16,
    has_amx = 32,
};

namespace {

// Treats denormal numbers as zero while it lives, in this thread: they cost a hundred times a normal one.
class FlushDenormals {
  public:
    FlushDenormals() : before_(read()) { write(before_ | flush); }
    ~FlushDenormals() { write(before_); }
    FlushDenormals(const FlushDenormals &) = delete;
    FlushDenormals &operator=(const FlushDenormals &) = delete;

  private:
#if defined(__x86_64__)
    using Word = unsigned;
    static constexpr Word flush = 0x8040;  // FTZ (results) and DAZ (operands) of MXCSR
    static Word read() { return _mm_getcsr(); }
    static void write(Word word) { _mm_setcsr(word); }
#elif defined(__aarch64__)
    using Word = uint64_t;
    static constexpr Word flush = 1u << 24;  // FZ of FPCR
    static Word read() {
        Word word;
        __asm__ volatile("mrs %0, fpcr" : "=r"(word));
        return word;
    }
    static void write(Word word) { __asm__ volatile("msr fpcr, %0" ::"r"(word)); }
#else
    using Word = unsigned;
    static constexpr Word flush = 0;
    static Word read() { return 0; }
    static void write(Word) {}
#endif
    Word before_;
};

[[maybe_unused]] inline float float_of_bf16(uint16_t value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

// Rounds to the nearest, ties to even, as torch does; NaN stays NaN.
[[maybe_unused]] inline uint16_t bf16_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace
}  // namespace scriven
