// The loops of adamw.h, which compilers turn into vectors. Nothing is contracted: all levels give the same bits.
#pragma once

#include <cmath>

#include "adamw.h"

namespace scriven {
namespace {

// The sum of squares, always added in the same order: of every 32nd value first.
double squares(const float *__restrict gradient, int64_t count) {
    constexpr int64_t lanes = 32;
    double sums[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes)
        for (int64_t lane = 0; lane < lanes; ++lane) {
            const double value = gradient[i + lane];
            sums[lane] += value * value;
        }
    for (; i < count; ++i) sums[0] += static_cast<double>(gradient[i]) * gradient[i];
    double sum = 0;
    for (const double each : sums) sum += each;
    return sum;
}

// Loshchilov & Hutter 2019, algorithm 2, with the decay done elsewhere.
void step(const AdamwRule &rule, const float *__restrict gradient, float *__restrict values, float *__restrict mean,
          float *__restrict square, int64_t count) {
    const AdamwRule own = rule;
    const float new1 = 1.0f - own.beta1, new2 = 1.0f - own.beta2;
    for (int64_t i = 0; i < count; ++i) {
        const float g = gradient[i] * own.scale;
        mean[i] += new1 * (g - mean[i]);
        square[i] = own.beta2 * square[i] + new2 * (g * g);
        values[i] -= own.rate * mean[i] / (std::sqrt(square[i]) * own.root + own.epsilon);
    }
}

}  // namespace
}  // namespace scriven
