// The interface to adamw.h: which instructions do it, and how threads share the arrays.
#include "adamw.h"

#include <memory>
#include <new>

#include "team.h"

namespace scriven {
namespace {

constexpr int64_t CHUNK = 8192;  // values that one thread works on at a time

const AdamwKernels *kernels_of(int64_t level) {
#if SCRIVEN_HAS_AVX512
    if (level >= avx512) return &adamw_avx512;
#endif
#if SCRIVEN_HAS_AVX2
    if (level >= avx2) return &adamw_avx2;
#endif
    return level >= portable ? &adamw_portable : nullptr;
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

// The sum of the squares of all values of `count` arrays, to `sum`.
SCRIVEN_API int64_t scriven_squares(int64_t level, int64_t threads, int64_t count, const float *const *gradients,
                                    const int64_t *sizes, double *sum) {
    using namespace scriven;
    const AdamwKernels *kernels = kernels_of(level);
    if (!kernels) return no_such_level;
    const Arrays arrays{count, gradients, sizes};
    const int64_t chunks = arrays.chunks();
    const std::unique_ptr<double[]> sums(new (std::nothrow) double[chunks + 1]);
    if (!sums) return no_memory;
    run(threads, [&](const Member &member) {
        arrays.each(member.share(chunks), [&](int64_t number, const float *begin, int64_t, int64_t size) {
            sums[number] = kernels->squares(begin, size);
        });
    });
    *sum = 0;
    for (int64_t i = 0; i < chunks; ++i) *sum += sums[i];
    return ok;
}

// A step of values, mean and square (P,), the gradients of which are `count` arrays of P values in all.
SCRIVEN_API int64_t scriven_adamw(int64_t level, int64_t threads, int64_t count, const float *const *gradients,
                                  const int64_t *sizes, float *values, float *mean, float *square, float scale,
                                  float beta1, float beta2, float rate, float root, float epsilon) {
    using namespace scriven;
    const AdamwKernels *kernels = kernels_of(level);
    if (!kernels) return no_such_level;
    const Arrays arrays{count, gradients, sizes};
    const AdamwRule rule{scale, beta1, beta2, rate, root, epsilon};
    run(threads, [&](const Member &member) {
        arrays.each(member.share(arrays.chunks()), [&](int64_t, const float *begin, int64_t place, int64_t size) {
            kernels->step(rule, begin, values + place, mean + place, square + place, size);
        });
    });
    return ok;
}
