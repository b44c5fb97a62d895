// The interface to the steps of recurrent_fp32.h: which instructions do them, and whether the arguments can be.
#include "recurrent_fp32.h"

#include "team.h"

namespace scriven {
namespace {

const StepsKernels *kernels_of(int64_t level) {
#if SCRIVEN_HAS_AVX512
    if (level >= avx512) return &steps_avx512;
#endif
#if SCRIVEN_HAS_AVX2
    if (level >= avx2) return &steps_avx2;
#endif
    return level >= portable ? &steps_portable : nullptr;
}

bool possible(const StepsShape &shape) {
    return shape.steps > 0 && shape.rows > 0 && shape.cells > 0 && shape.threads > 0;
}

}  // namespace
}  // namespace scriven

// Arguments as in StepsForward; `symbols` is V, or 0 where there are no ids.
SCRIVEN_API int64_t scriven_steps_forward(int64_t level, int64_t threads, int64_t cell, int64_t steps, int64_t rows,
                                          int64_t cells, const float *input, const int64_t *ids, int64_t symbols,
                                          const float *weight, const float *bias, const float *h, const float *c,
                                          const uint8_t *fresh, float *y, float *kept, float *h_after, float *c_after) {
    using namespace scriven;
    const StepsKernels *kernels = kernels_of(level);
    const StepsShape shape{steps, rows, cells, threads};
    if (!kernels) return no_such_level;
    if (!possible(shape) || (cell == gru && !bias) || (cell == lstm && !c)) return bad_argument;
    for (int64_t i = 0; ids && i < steps * rows; ++i)
        if (ids[i] < 0 || ids[i] >= symbols) return bad_argument;
    return kernels->forward(cell, shape, {input, ids, weight, bias, h, c, fresh, y, kept, h_after, c_after});
}

// Arguments as in StepsBackward.
SCRIVEN_API int64_t scriven_steps_backward(int64_t level, int64_t threads, int64_t cell, int64_t steps, int64_t rows,
                                           int64_t cells, const float *weight, const uint8_t *fresh, const float *kept,
                                           const float *dy, const float *dh_after, const float *dc_after,
                                           float *dinput, float *dhidden, float *dh, float *dc) {
    using namespace scriven;
    const StepsKernels *kernels = kernels_of(level);
    const StepsShape shape{steps, rows, cells, threads};
    if (!kernels) return no_such_level;
    if (!possible(shape) || (cell == gru && !dhidden) || (cell == lstm && !dc)) return bad_argument;
    return kernels->backward(cell, shape, {weight, fresh, kept, dy, dh_after, dc_after, dinput, dhidden, dh, dc});
}

// Adds rows x (count, width) to the rows of `to` (V, width) that ids (count,) name; ids are ones that a pass has seen.
SCRIVEN_API int64_t scriven_steps_add_rows(int64_t threads, int64_t count, int64_t width, const int64_t *ids,
                                           const float *x, float *to) {
    using namespace scriven;
    if (threads < 1) return bad_argument;
    run(threads, [&](const Member &member) {
        const Range columns = member.share(width);
        for (int64_t i = 0; i < count; ++i) {
            const float *from = x + i * width;
            float *sums = to + ids[i] * width;
            for (int64_t column = columns.begin; column < columns.end; ++column) sums[column] += from[column];
        }
    });
    return ok;
}
