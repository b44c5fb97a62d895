// The interface to the steps of scan.h: which instructions do them, and whether the arguments can be.
#include "scan.h"

namespace scriven {
namespace {

const ScanKernels *kernels_of(int64_t level) {
#if SCRIVEN_HAS_AVX512
    if (level >= avx512) return &scan_avx512;
#endif
#if SCRIVEN_HAS_AVX2
    if (level >= avx2) return &scan_avx2;
#endif
    return level >= portable ? &scan_portable : nullptr;
}

bool possible(const ScanShape &shape) {
    return shape.steps > 0 && shape.rows > 0 && shape.begin >= 0 && shape.begin <= shape.end &&
           shape.end <= shape.cells;
}

}  // namespace
}  // namespace scriven

// Arrays as in ScanInput, `symbols` is V, or 0 where there are no ids; y (T, N, H) is what comes of every step. Works on
// the cells `begin` to `end`.
SCRIVEN_API int64_t scriven_scan_forward(int64_t level, int64_t steps, int64_t rows, int64_t cells, int64_t begin,
                                         int64_t end, int64_t bf16, const void *sums, const int64_t *ids,
                                         int64_t symbols, const uint8_t *fresh, const float *h, float *y) {
    using namespace scriven;
    const ScanKernels *kernels = kernels_of(level);
    const ScanShape shape{steps, rows, cells, begin, end};
    if (!kernels) return no_such_level;
    if (!possible(shape)) return bad_argument;
    for (int64_t i = 0; ids && i < steps * rows; ++i)
        if (ids[i] < 0 || ids[i] >= symbols) return bad_argument;
    const FlushDenormals flush;
    kernels->forward(shape, {sums, ids, fresh, h}, bf16, y);
    return ok;
}

// Arguments as in scriven_scan_forward and ScanGradients; ids are ones that it has seen.
SCRIVEN_API int64_t scriven_scan_backward(int64_t level, int64_t steps, int64_t rows, int64_t cells, int64_t begin,
                                          int64_t end, int64_t bf16, const void *sums, const int64_t *ids,
                                          const uint8_t *fresh, const float *h, const float *y, const float *dy,
                                          float *dh, void *dsums) {
    using namespace scriven;
    const ScanKernels *kernels = kernels_of(level);
    const ScanShape shape{steps, rows, cells, begin, end};
    if (!kernels) return no_such_level;
    if (!possible(shape)) return bad_argument;
    const FlushDenormals flush;
    kernels->backward(shape, {sums, ids, fresh, h}, bf16, {y, dy, dh, dsums});
    return ok;
}
