// AdamW's step, and the norm of a gradient, over arrays that stand one after another in the weights. Threads share them.
//
// Compilers turn the loops into vectors. Nothing is contracted: all levels give the same bits.
#include <cmath>
#include <memory>
#include <new>

#include "calls.h"
#include "thread_team.h"

namespace scriven {
namespace {

constexpr int64_t CHUNK = 8192;  // values that one thread works on at a time

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
void step(const AdamwStep &rule, const float *__restrict gradient, float *__restrict values, float *__restrict mean,
          float *__restrict square, int64_t count) {
    const AdamwStep own = rule;  // not read again for each value, as others might change it
    const float new1 = 1.0f - own.beta1, new2 = 1.0f - own.beta2;
    for (int64_t i = 0; i < count; ++i) {
        const float g = gradient[i] * own.scale;
        mean[i] += new1 * (g - mean[i]);
        square[i] = own.beta2 * square[i] + new2 * (g * g);
        values[i] -= own.rate * mean[i] / (std::sqrt(square[i]) * own.root + own.epsilon);
    }
}

// Arrays one after another, in chunks; a chunk lies in one array.
struct Arrays {
    int64_t count;
    const float *const *begins;
    const int64_t *sizes;

    static int64_t chunks(int64_t size) { return (size + CHUNK - 1) / CHUNK; }

    int64_t chunks() const {
        int64_t total = 0;
        for (int64_t i = 0; i < count; ++i) total += chunks(sizes[i]);
        return total;
    }

    // Calls work(number of the chunk, where it begins, its place among all values, its size) for a range of chunks.
    template <class Work> void each(Range range, Work &&work) const {
        int64_t number = 0, place = 0;
        for (int64_t i = 0; i < count; place += sizes[i++])
            for (int64_t at = 0; at < sizes[i]; at += CHUNK, ++number)
                if (number >= range.begin && number < range.end)
                    work(number, begins[i] + at, place + at, sizes[i] - at < CHUNK ? sizes[i] - at : CHUNK);
    }
};

}  // namespace
}  // namespace scriven

// The sum of the squares of all values of the gradients.
SCRIVEN_API int64_t scriven_sum_squares(const scriven::SumSquares *call) {
    using namespace scriven;
    const Arrays arrays{call->count, call->gradients, call->sizes};
    const int64_t chunks = arrays.chunks();
    const std::unique_ptr<double[]> sums(new (std::nothrow) double[chunks + 1]);
    if (!sums) return no_memory;
    run(call->threads, [&](const Member &member) {
        arrays.each(member.share(chunks), [&](int64_t number, const float *begin, int64_t, int64_t size) {
            sums[number] = squares(begin, size);
        });
    });
    *call->sum = 0;
    for (int64_t i = 0; i < chunks; ++i) *call->sum += sums[i];
    return ok;
}

// A step of values, mean and square.
SCRIVEN_API int64_t scriven_adamw_step(const scriven::AdamwStep *call) {
    using namespace scriven;
    const Arrays arrays{call->count, call->gradients, call->sizes};
    run(call->threads, [&](const Member &member) {
        arrays.each(member.share(arrays.chunks()), [&](int64_t, const float *begin, int64_t place, int64_t size) {
            step(*call, begin, call->values + place, call->mean + place, call->square + place, size);
        });
    });
    return ok;
}
