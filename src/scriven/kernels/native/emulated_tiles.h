// The tile instructions of AMX that are used here, in AVX-512, for builds that check the kernels.
//
// With them the library for AMX runs on processors without it, and sanitizers see what tiles read and write. Everything
// is computed in the order of Intel's Software Developer's Manual, volume 2 (TDPBF16PS, TDPBSSD).
#pragma once

#include "common.h"

#if defined(SCRIVEN_EMULATE_TILES) && defined(__AMX_TILE__)

namespace scriven {
namespace {

struct alignas(64) EmulatedTile {
    char rows[16][64];
};
thread_local EmulatedTile emulated_tiles[8];

inline void emulate_zero(int tile) { emulated_tiles[tile] = {}; }

inline void emulate_load(int tile, const void *from, int64_t stride) {
    for (int row = 0; row < 16; ++row)
        std::memcpy(emulated_tiles[tile].rows[row], static_cast<const char *>(from) + row * stride, 64);
}

inline void emulate_store(int tile, void *to, int64_t stride) {
    for (int row = 0; row < 16; ++row)
        std::memcpy(static_cast<char *>(to) + row * stride, emulated_tiles[tile].rows[row], 64);
}

// sums += left right, of pairs of bf16. Even and odd places are summed apart; denormal numbers are zero.
inline void emulate_bf16(int sums, int left, int right) {
    const FlushDenormals flushed;
    const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    for (int row = 0; row < 16; ++row) {
        __m512 evens = _mm512_setzero_ps(), odds = evens;
        for (int k = 0; k < 16; ++k) {
            int32_t pair;
            std::memcpy(&pair, emulated_tiles[left].rows[row] + 4 * k, sizeof pair);
            const __m512i x = _mm512_set1_epi32(pair), w = _mm512_load_si512(emulated_tiles[right].rows[k]);
            evens = _mm512_fmadd_ps((__m512)_mm512_slli_epi32(x, 16), (__m512)_mm512_slli_epi32(w, 16), evens);
            odds = _mm512_fmadd_ps((__m512)_mm512_and_si512(x, odd), (__m512)_mm512_and_si512(w, odd), odds);
        }
        char *to = emulated_tiles[sums].rows[row];
        _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), _mm512_add_ps(evens, odds)));
    }
}

// Even and odd bytes of each word of 32 bits, as words of 16.
inline __m512i even_bytes(__m512i values) { return _mm512_srai_epi16(_mm512_slli_epi16(values, 8), 8); }
inline __m512i odd_bytes(__m512i values) { return _mm512_srai_epi16(values, 8); }

// sums += left right, of four signed bytes a place.
inline void emulate_int8(int sums, int left, int right) {
    for (int row = 0; row < 16; ++row) {
        char *to = emulated_tiles[sums].rows[row];
        __m512i sum = _mm512_load_si512(to);
        for (int k = 0; k < 16; ++k) {
            int32_t bytes;
            std::memcpy(&bytes, emulated_tiles[left].rows[row] + 4 * k, sizeof bytes);
            const __m512i x = _mm512_set1_epi32(bytes), w = _mm512_load_si512(emulated_tiles[right].rows[k]);
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(even_bytes(x), even_bytes(w)));
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(odd_bytes(x), odd_bytes(w)));
        }
        _mm512_store_si512(to, sum);
    }
}

}  // namespace
}  // namespace scriven

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_loadconfig(shapes) static_cast<void>(shapes)
#define _tile_release() static_cast<void>(0)
#define _tile_zero scriven::emulate_zero
#define _tile_loadd scriven::emulate_load
#define _tile_stored scriven::emulate_store
#define _tile_dpbf16ps scriven::emulate_bf16
#define _tile_dpbssd scriven::emulate_int8

#endif
