// Functions of doubles.
//
// The same operations on every level and every system, each rounded once: those of the systems' own libraries differ in
// the last bit.
#pragma once

#include <limits>

#include "vectors.h"

namespace scriven {
namespace {

// e to the x, for x <= 0, with an error of about 1e-16; 0 below -708. Taylor's series around the nearest multiple of
// ln 2, which is subtracted in two parts.
inline Doubles exponential(Doubles x) {
    constexpr double to_integer = 6755399441055744.0;  // 1.5 * 2^52
    const Doubles shifted = x * 1.4426950408889634 + to_integer;
    const Doubles n = shifted - to_integer;
    const Doubles r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    Doubles p = r * (1.0 / 6227020800) + 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * (r * r) + r + 1.0;
    const Doubles result = p * (Doubles)(((LongWords)shifted << 52) + (1023ull << 52));
    return x < -708.0 ? Doubles{} : result;
}

// The same of one number.
inline double exponential(double x) { return exponential(Doubles{x})[0]; }

// The natural logarithm of a normal number, within 1e-15; infinity and NaN stay.
inline double logarithm(double x) {
    constexpr uint64_t half = 0x3fe6a09e667f3bcd, mantissa = (uint64_t(1) << 52) - 1;  // the square root of 1/2
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint64_t shifted = bits - half;
    const int64_t exponent = int64_t(shifted) >> 52;
    bits = (shifted & mantissa) + half;
    double m;  // from the root of 1/2 to that of 2
    std::memcpy(&m, &bits, sizeof m);
    const double s = (m - 1) / (m + 1), z = s * s;
    double sum = 1.0 / 23;
    sum = sum * z + 1.0 / 21;
    sum = sum * z + 1.0 / 19;
    sum = sum * z + 1.0 / 17;
    sum = sum * z + 1.0 / 15;
    sum = sum * z + 1.0 / 13;
    sum = sum * z + 1.0 / 11;
    sum = sum * z + 1.0 / 9;
    sum = sum * z + 1.0 / 7;
    sum = sum * z + 1.0 / 5;
    sum = sum * z + 1.0 / 3;
    sum = sum * z + 1.0;
    const double result = double(exponent) * 0.69314718055994531 + 2 * s * sum;
    return x <= std::numeric_limits<double>::max() ? result : x;
}

}  // namespace
}  // namespace scriven
