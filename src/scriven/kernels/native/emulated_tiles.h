// The tile instructions of AMX that are used here, in AVX-512, for builds that check the kernels.
//
// With them the library for AMX runs on processors without it, and sanitizers see what tiles read and write. Everything
// is computed in the order of Intel's Software Developer's Manual, volume 2 (TDPBF16PS, TDPBSSD).
#pragma once

#include "vectors.h"

#if defined(SCRIVEN_EMULATE_TILES) && defined(__AMX_TILE__)

namespace scriven {
namespace {

thread_local Words emulated_tiles[8][16];  // rows

inline void emulate_zero(int tile) { std::memset(emulated_tiles[tile], 0, sizeof emulated_tiles[tile]); }

inline void emulate_load(int tile, const void *from, int64_t stride) {
    for (int row = 0; row < 16; ++row)
        std::memcpy(emulated_tiles[tile] + row, static_cast<const char *>(from) + row * stride, 64);
}

inline void emulate_store(int tile, void *to, int64_t stride) {
    for (int row = 0; row < 16; ++row)
        std::memcpy(static_cast<char *>(to) + row * stride, emulated_tiles[tile] + row, 64);
}

// Word k of a row, in every lane.
inline Words emulated_word(int tile, int row, int k) { return emulated_tiles[tile][row][k] + Words{}; }

// sums += left right, of pairs of bf16. Even and odd places are summed apart; denormal numbers are zero.
inline void emulate_bf16(int sums, int left, int right) {
    const FlushDenormals flushed;
    for (int row = 0; row < 16; ++row) {
        Floats evens{}, odds{};
        for (int k = 0; k < 16; ++k) {
            const Words x = emulated_word(left, row, k), w = emulated_tiles[right][k];
            evens = multiply_add((Floats)(x << 16), (Floats)(w << 16), evens);
            odds = multiply_add((Floats)(x & 0xffff0000u), (Floats)(w & 0xffff0000u), odds);
        }
        Words &sum = emulated_tiles[sums][row];
        sum = (Words)((Floats)sum + (evens + odds));
    }
}

// sums += left right, of four signed bytes a place. Sanitizers leave it out, for whom it was most of the work: its
// places are fixed, and vectors do not overflow.
__attribute__((no_sanitize("address", "undefined"))) inline void emulate_int8(int sums, int left, int right) {
    for (int row = 0; row < 16; ++row) {
        Words sum = emulated_tiles[sums][row];
        for (int k = 0; k < 16; ++k) {
            const Words x = emulated_tiles[left][row][k] + Words{}, w = emulated_tiles[right][k];
            for (int above = 0; above < 32; above += 8)  // bits above a byte
                sum += (Words)(((Ints)(x << above) >> 24) * ((Ints)(w << above) >> 24));
        }
        emulated_tiles[sums][row] = sum;
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
