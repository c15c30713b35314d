// Tiles of bfloat16 numbers (Intel AMX) and how to fill them; what the programs beside this file share.
//
// A tile product adds to a 16 x 16 tile of sums the product of 16 rows of 32 numbers with 32 rows of 16, of which the second
// factor wants each pair of rows interleaved.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace {

using bfloat16 = uint16_t;

constexpr int64_t TILE = 512;  // bfloat16 numbers in a tile

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
using Tiles = std::unique_ptr<bfloat16[], Free>;

Tiles tiles(int64_t count) { return Tiles(static_cast<bfloat16*>(std::aligned_alloc(64, count * TILE * sizeof(bfloat16)))); }

// Every thread describes its eight tiles once per call: 16 rows of 64 bytes each.
struct Configured {
    Configured() {
        alignas(64) uint8_t layout[64] = {};
        layout[0] = 1;
        for (int tile = 0; tile < 8; ++tile) {
            layout[16 + 2 * tile] = 64;
            layout[48 + tile] = 16;
        }
        _tile_loadconfig(layout);
    }
    ~Configured() { _tile_release(); }
};

// 16 x 16 numbers of 32 bits, rows to columns.
inline void transpose(__m512i (&row)[16]) {
    __m512i half[16];
    for (int i = 0; i < 8; ++i) {
        half[2 * i] = _mm512_unpacklo_epi32(row[2 * i], row[2 * i + 1]);
        half[2 * i + 1] = _mm512_unpackhi_epi32(row[2 * i], row[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {
        row[4 * i] = _mm512_unpacklo_epi64(half[4 * i], half[4 * i + 2]);
        row[4 * i + 1] = _mm512_unpackhi_epi64(half[4 * i], half[4 * i + 2]);
        row[4 * i + 2] = _mm512_unpacklo_epi64(half[4 * i + 1], half[4 * i + 3]);
        row[4 * i + 3] = _mm512_unpackhi_epi64(half[4 * i + 1], half[4 * i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        half[i] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0x88);
        half[i + 4] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0xdd);
        half[i + 8] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88);
        half[i + 12] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; ++i) {
        row[i] = _mm512_shuffle_i32x4(half[i], half[i + 8], 0x88);
        row[i + 8] = _mm512_shuffle_i32x4(half[i], half[i + 8], 0xdd);
    }
}

// Two rows of 16 numbers, in turn.
inline __m512i interleaved(__m256i even, __m256i odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}
inline __m512i interleaved(const bfloat16* even, const bfloat16* odd) {
    return interleaved(_mm256_loadu_si256((const __m256i*)even), _mm256_loadu_si256((const __m256i*)odd));
}

// 32 images (fewer: zeros), 32 channels of one pixel: pairs of images interleaved in two tiles of 16 channels, or the
// same with rows and columns exchanged.
template <bool exchanged>
void pack_images(const bfloat16* from, int64_t between, int64_t count, bfloat16* first, bfloat16* second) {
    __m512i low[16], high[16];
    for (int64_t i = 0; i < 16; ++i) {
        const __m512i even = 2 * i < count ? _mm512_loadu_si512(from + 2 * i * between) : _mm512_setzero_si512();
        const __m512i odd = 2 * i + 1 < count ? _mm512_loadu_si512(from + (2 * i + 1) * between) : _mm512_setzero_si512();
        low[i] = interleaved(_mm512_castsi512_si256(even), _mm512_castsi512_si256(odd));
        high[i] = interleaved(_mm512_extracti64x4_epi64(even, 1), _mm512_extracti64x4_epi64(odd, 1));
    }
    if (exchanged) {
        transpose(low);
        transpose(high);
    }
    for (int64_t i = 0; i < 16; ++i) {
        _mm512_store_si512(first + 32 * i, low[i]);
        _mm512_store_si512(second + 32 * i, high[i]);
    }
}

// Tiles 0 to 3 hold 32 x 32 sums, whose rows lie `line` bytes apart in memory.
inline void clear_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}
inline void load_sums(const float* from, int64_t line) {
    const float* lower = from + 16 * line / static_cast<int64_t>(sizeof(float));
    _tile_loadd(0, from, line);
    _tile_loadd(1, from + 16, line);
    _tile_loadd(2, lower, line);
    _tile_loadd(3, lower + 16, line);
}
inline void store_sums(float* to, int64_t line) {
    float* lower = to + 16 * line / static_cast<int64_t>(sizeof(float));
    _tile_stored(0, to, line);
    _tile_stored(1, to + 16, line);
    _tile_stored(2, lower, line);
    _tile_stored(3, lower + 16, line);
}

// Add the product of 32 rows, or of the upper 16, with 32 columns: two tiles of the one and two of the other factor.
inline void add_products(const bfloat16* upper, const bfloat16* lower, const bfloat16* left, const bfloat16* right, bool both = true) {
    _tile_loadd(4, upper, 64);
    _tile_loadd(6, left, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, right, 64);
    _tile_dpbf16ps(1, 4, 7);
    if (both) {
        _tile_loadd(5, lower, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

}  // namespace
