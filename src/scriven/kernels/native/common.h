// What every translation unit of the native kernels shares.
//
// All sources are compiled once for each set of instructions, into a library of its own (the table is in hatch_build.py).
// A source that differs between libraries asks the compiler for its instructions: __AVX512F__, __ARM_FEATURE_DOTPROD. cpu.cpp is
// portable in every library, since it says what the processor has.
//
// Everything in headers that is not a type has internal linkage (an unnamed namespace): sources define helpers of the
// same names, and a library keeps to its own.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__x86_64__)
#include <xmmintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#if defined(_WIN32)
#define SCRIVEN_API extern "C" __declspec(dllexport)
#else
#define SCRIVEN_API extern "C" __attribute__((visibility("default")))
#endif

namespace scriven {

// What a function returns: native_library.py makes an error of anything but `ok`.
enum Status : int64_t { ok = 0, bad_argument = 1, no_memory = 2 };

// Bits of scriven_features(), in the order of native_library.FEATURES. avx2 includes FMA; avx512 is F, BW, DQ and VL; amx
// is TILE, BF16 and INT8; the last two are DotProd and BF16 of arm64.
enum Feature : int64_t {
    has_avx2 = 1,
    has_avx_vnni = 2,
    has_avx512 = 4,
    has_avx512_vnni = 8,
    has_avx512_bf16 = 16,
    has_amx = 32,
    has_neon_dot = 64,
    has_neon_bf16 = 128,
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

// Memory at the start of a cache line, not zeroed; null where there is none left.
template <class T> class Buffer {
  public:
    explicit Buffer(int64_t count) : count_(count) {
        data_.reset(static_cast<T *>(::operator new(static_cast<size_t>(count) * sizeof(T), line, std::nothrow)));
    }
    Buffer(const Buffer &other) : Buffer(other.count_) {  // null, too, where the other is
        static_assert(std::is_trivially_copyable<T>::value, "only values are copied");
        if (!other.data_) data_.reset();
        else if (data_) std::memcpy(data_.get(), other.data_.get(), static_cast<size_t>(count_) * sizeof(T));
    }
    Buffer(Buffer &&) = default;
    Buffer &operator=(Buffer &&) = default;
    operator T *() const { return data_.get(); }

  private:
    int64_t count_;
    static constexpr std::align_val_t line{64};
    struct Free {
        void operator()(T *data) const { ::operator delete(data, line); }
    };
    std::unique_ptr<T, Free> data_;
};

}  // namespace
}  // namespace scriven
