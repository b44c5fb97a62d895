// What a processor must have for the library SCRIVEN_VARIANT, as native_library.VARIANTS says.
#include "../../src/scriven/kernels/native/common.h"

namespace {
using namespace scriven;
[[maybe_unused]] constexpr int64_t portable = 0, avx2 = has_avx2, avxvnni = avx2 | has_avx_vnni;
[[maybe_unused]] constexpr int64_t avx512 = avx2 | has_avx512 | has_avx512_vnni;
[[maybe_unused]] constexpr int64_t avx512bf16 = avx512 | has_avx512_bf16, amx = avx512bf16 | has_amx;
[[maybe_unused]] constexpr int64_t neondot = has_neon_dot, neonbf16 = neondot | has_neon_bf16;
}  // namespace

extern const int64_t needed_features;  // a constant would have no name outside
const int64_t needed_features = SCRIVEN_VARIANT;
