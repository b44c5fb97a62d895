// Matrix products of bf16 with sums in fp32, 32 x 32 at a time. Only for sources that are compiled for AVX-512 with bf16.
//
// Everything is cut into groups of 32 values and pairs of 16 rows, in tiles as AMX takes them. A tile of bf16 is 16 rows
// of 32 values, 1 KB; of fp32, 16 rows of 16. The right factor holds pairs of values that follow each other downwards
// (VNNI). Where there is AMX, a product fills four of the eight tiles with sums, from two tiles of each factor. Elsewhere
// its sums are in vectors, eight rows at a time.
#pragma once

// GCC 12 warns of the values that its own intrinsics leave undefined on purpose.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "emulated_tiles.h"
#include "thread_team.h"

namespace scriven {
namespace {

using bf16 = uint16_t;

constexpr int64_t GROUP = 32;        // cells, columns or rows that are worked on together
constexpr int64_t TILE = 512;        // bf16 values in a tile
constexpr int64_t SQUARE = 32 * 32;  // sums of one product

constexpr int64_t groups_of(int64_t size) { return (size + GROUP - 1) / GROUP; }

// Fetches a cache line that is wanted soon; it may lie outside of everything.
inline void prefetch(const void *line) { _mm_prefetch(static_cast<const char *>(line), _MM_HINT_T0); }

#if defined(__AMX_BF16__)

constexpr int64_t ROWS_AT_ONCE = GROUP;  // rows of a left factor that are multiplied together

// Eight tiles of 16 rows of 64 bytes, while it lives. A thread that makes products needs it.
class Tiles {
  public:
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } config;
        __asm__ volatile("" ::"r"(&config) : "memory");  // GCC's intrinsic tells it of the first 8 bytes only
        _tile_loadconfig(&config);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles &) = delete;
    Tiles &operator=(const Tiles &) = delete;
};

// sums (32, 32) = left (32 x 32 parts) right (32 parts x 32), and what was there before, if `add`; both factors in
// tiles: for each part two of the one and two of the other. The first `rows` are wanted; others may get any values.
// After each of the parts `work()` is done, whose instructions the processor mixes with those of the tiles.
template <class Work>
inline void product(const bf16 *left, const bf16 *right, int64_t parts, float *sums, bool add, int64_t, Work &&work) {
    constexpr int64_t stride = GROUP * sizeof(float);
    if (add) {
        __asm__ volatile("" ::: "memory");  // compilers do not know that tile loads read memory
        _tile_loadd(0, sums, stride);
        _tile_loadd(1, sums + 16, stride);
        _tile_loadd(2, sums + 16 * GROUP, stride);
        _tile_loadd(3, sums + 16 * GROUP + 16, stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    __asm__ volatile("" ::: "memory");
    for (int64_t k = 0; k < parts; ++k, left += 2 * TILE, right += 2 * TILE) {
        _tile_loadd(4, left, 64);
        _tile_loadd(6, right, 64);
        _tile_loadd(7, right + TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, left + TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        work();
    }
    _tile_stored(0, sums, stride);
    _tile_stored(1, sums + 16, stride);
    _tile_stored(2, sums + 16 * GROUP, stride);
    _tile_stored(3, sums + 16 * GROUP + 16, stride);
}

// The same without other work.
template <class Fetch>
inline void product(const bf16 *left, const bf16 *right, int64_t parts, float *sums, bool add, Fetch &&) {
    product(left, right, parts, sums, add, GROUP, [] {});
}

// Tiles need left factors whose rows are columns of what was read: who packs them turns them.
constexpr bool packing_turns = true;

template <class Fetch>
inline void product_of_columns(const bf16 *left, const bf16 *right, int64_t parts, float *sums, bool add, Fetch &&) {
    product(left, right, parts, sums, add, GROUP, [] {});
}

#else

// What AMX needs of a thread; nothing here.
class Tiles {
  public:
    Tiles() {}
};

constexpr int64_t ROWS_AT_ONCE = 8;  // multiplied together: 16 sums in registers hide how long one takes

inline __m512bh pairs_at(const bf16 *from) { return (__m512bh)_mm512_load_si512(from); }

// Eight rows of a product. Left pairs follow each other by `next` values, and those of a row below by `below`. Before
// each part `fetch()` is done.
template <int64_t next, int64_t below, class Fetch>
inline void rows_of_product(const bf16 *left, const bf16 *right, int64_t parts, float *sums, bool add, Fetch &&fetch) {
    __m512 low[ROWS_AT_ONCE], high[ROWS_AT_ONCE];
    for (int row = 0; row < ROWS_AT_ONCE; ++row) {
        low[row] = add ? _mm512_load_ps(sums + row * GROUP) : _mm512_setzero_ps();
        high[row] = add ? _mm512_load_ps(sums + row * GROUP + 16) : _mm512_setzero_ps();
    }
    for (int64_t part = 0; part < parts; ++part, left += 2 * TILE, right += 2 * TILE) {
        fetch();
#pragma GCC unroll 4
        for (int64_t k = 0; k < 16; ++k) {
            const __m512bh first = pairs_at(right + k * GROUP), second = pairs_at(right + TILE + k * GROUP);
#pragma GCC unroll 8
            for (int row = 0; row < ROWS_AT_ONCE; ++row) {
                int32_t pair;
                std::memcpy(&pair, left + k * next + row * below, sizeof pair);
                const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
                low[row] = _mm512_dpbf16_ps(low[row], first, x);
                high[row] = _mm512_dpbf16_ps(high[row], second, x);
            }
        }
    }
    for (int row = 0; row < ROWS_AT_ONCE; ++row) {
        _mm512_store_ps(sums + row * GROUP, low[row]);
        _mm512_store_ps(sums + row * GROUP + 16, high[row]);
    }
}

// sums (32, 32) = left (32 x 32 parts) right (32 parts x 32), and what was there before, if `add`; both factors in
// tiles: for each part two of the one and two of the other. The first `rows` are wanted; others may get any values.
// `work()` is left to the caller, who finishes it after the product.
template <class Work>
inline void product(const bf16 *left, const bf16 *right, int64_t parts, float *sums, bool add, int64_t rows, Work &&) {
    for (int64_t row = 0; row < rows; row += ROWS_AT_ONCE)
        rows_of_product<2, GROUP>(left + row * GROUP, right, parts, sums + row * GROUP, add, [] {});
}

// The same, with `fetch()` four times for each part, to bring into the cache what is wanted next.
template <class Fetch>
inline void product(const bf16 *left, const bf16 *right, int64_t parts, float *sums, bool add, Fetch &&fetch) {
    for (int64_t row = 0; row < GROUP; row += ROWS_AT_ONCE)
        rows_of_product<2, GROUP>(left + row * GROUP, right, parts, sums + row * GROUP, add, fetch);
}

// The same, where the left factor is packed as a right one: its rows are columns of what was read.
constexpr bool packing_turns = false;

template <class Fetch>
inline void product_of_columns(const bf16 *left, const bf16 *right, int64_t parts, float *sums, bool add, Fetch &&fetch) {
    for (int64_t row = 0; row < GROUP; row += ROWS_AT_ONCE)
        rows_of_product<GROUP, 2>(left + row / 16 * TILE + row % 16 * 2, right, parts, sums + row * GROUP, add, fetch);
}

#endif

inline void product(const bf16 *left, const bf16 *right, int64_t parts, float *sums, bool add) {
    product(left, right, parts, sums, add, [] {});
}

// The first `count` of 32 or 16 lanes; all, where there are more.
inline __mmask32 lanes32(int64_t count) { return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1; }
inline __mmask16 lanes16(int64_t count) { return static_cast<__mmask16>(lanes32(count < 16 ? count : 16)); }

inline __m512 fp32_of(__m256i values) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

// The lower and the upper 16 of 32 values.
inline __m512 lower(__m512i values) { return fp32_of(_mm512_castsi512_si256(values)); }
inline __m512 upper(__m512i values) { return fp32_of(_mm512_extracti64x4_epi64(values, 1)); }
inline __m512i joined(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// Row i of 16 x 16 values of 32 bits becomes column i.
inline void transpose(__m512i *rows) {
    __m512i a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {  // rows[i + j]: column j of every 4 columns, of rows i to i + 3
        rows[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int j = 0; j < 4; ++j) {
        a[j] = _mm512_shuffle_i32x4(rows[j], rows[j + 4], 0x88);
        a[j + 4] = _mm512_shuffle_i32x4(rows[j], rows[j + 4], 0xdd);
        a[j + 8] = _mm512_shuffle_i32x4(rows[j + 8], rows[j + 12], 0x88);
        a[j + 12] = _mm512_shuffle_i32x4(rows[j + 8], rows[j + 12], 0xdd);
    }
    for (int j = 0; j < 4; ++j) {
        rows[j] = _mm512_shuffle_i32x4(a[j], a[j + 8], 0x88);
        rows[j + 8] = _mm512_shuffle_i32x4(a[j], a[j + 8], 0xdd);
        rows[j + 4] = _mm512_shuffle_i32x4(a[j + 4], a[j + 12], 0x88);
        rows[j + 12] = _mm512_shuffle_i32x4(a[j + 4], a[j + 12], 0xdd);
    }
}

// 16 values and the 16 that stand below them, as the 16 pairs of a row of a right factor's tile.
inline __m512i pairs_of(__m512i values) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, values);
}

// Right factors of x W^T: for groups of 32 rows of a weight (rows, columns), their parts of 32 columns, in two tiles.
// A group's factors begin `stride` values after those of the group before.
[[maybe_unused]] void pack_turned(const float *weight, int64_t rows, int64_t columns, Range groups, bf16 *to,
                                  int64_t stride) {
    for (int64_t group = groups.begin; group < groups.end; ++group) {
        bf16 *own = to + group * stride;
        for (int64_t column = 0; column < columns; column += GROUP)
            for (int64_t side = group * GROUP; side < (group + 1) * GROUP; side += 16, own += TILE) {
                __m512i values[16];
                for (int64_t i = 0; i < 16; ++i) {
                    const int64_t count = side + i < rows ? columns - column : 0;
                    const float *from = weight + (side + i) * columns + column;
                    values[i] = joined(_mm512_maskz_loadu_ps(lanes16(count), from),
                                       _mm512_maskz_loadu_ps(lanes16(count - 16), from + 16));
                }
                transpose(values);
                for (int64_t i = 0; i < 16; ++i) _mm512_store_si512(own + i * GROUP, values[i]);
            }
    }
}

// Right factors of x W, likewise: for groups of 32 columns of a weight, their parts of 32 rows.
[[maybe_unused]] void pack_straight(const float *weight, int64_t rows, int64_t columns, Range groups, bf16 *to,
                                    int64_t stride) {
    for (int64_t group = groups.begin; group < groups.end; ++group) {
        bf16 *own = to + group * stride;
        for (int64_t row = 0; row < rows; row += GROUP)
            for (int64_t side = group * GROUP; side < (group + 1) * GROUP; side += 16, own += TILE)
                for (int64_t i = 0; i < 16; ++i) {
                    const int64_t at = row + 2 * i;
                    const float *from = weight + at * columns + side;
                    const __mmask16 lanes = lanes16(columns - side);
                    const __m512i two = joined(_mm512_maskz_loadu_ps(at < rows ? lanes : 0, from),
                                               _mm512_maskz_loadu_ps(at + 1 < rows ? lanes : 0, from + columns));
                    _mm512_store_si512(own + i * GROUP, pairs_of(two));
                }
    }
}

}  // namespace
}  // namespace scriven
