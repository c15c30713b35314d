// Convolutions in bfloat16 on a processor that multiplies matrices in tiles (Intel AMX): the products that PyTorch's library is
// slow at. Built and called by tiles.py, which checks every argument; sums are float32.
//
// A tile product adds to a 16 x 16 tile of sums the product of 16 rows of 32 numbers with 32 rows of 16, of which the second
// factor wants each pair of rows interleaved. Everything here copies its operands into such tiles, one kilobyte each, and then
// multiplies without looking at borders, strides or numbers of images again. Along images a map has no neighbours: what lies beside a
// pixel is a matter of which tiles meet.
//
// Arrays: images [N][H*W][C], gradients of the result [N][H'*W'][D], weights [D][K*K][C].

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include <sys/syscall.h>
#include <unistd.h>

namespace {

using bfloat16 = uint16_t;

constexpr int64_t TILE = 512;         // bfloat16 numbers in a tile
constexpr int64_t BAND = 1024 * 1024;  // bytes of gradients in tiles at a time: with their images they fit the second cache
constexpr int64_t SLICE = 128 * 1024;  // up to these many bytes of 32 channels, several times 32 images are taken at a time

struct Shape {
    int64_t images, height, width, channels, down, across, filters, side, stride, padding;
};

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

// Two rows of 32 numbers interleaved: the first 16 of each, then the last 16.
inline void interleave(__m512i even, __m512i odd, __m512i& low, __m512i& high) {
    const __m512i mask = _mm512_set1_epi32(0xffff);
    __m512i a = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(even));
    __m512i b = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(odd));
    low = _mm512_or_si512(_mm512_and_si512(a, mask), _mm512_slli_epi32(b, 16));
    a = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(even, 1));
    b = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(odd, 1));
    high = _mm512_or_si512(_mm512_and_si512(a, mask), _mm512_slli_epi32(b, 16));
}

// 32 images (fewer: zeros), 32 channels of one pixel: pairs of images interleaved in two tiles of 16 channels, or the
// same with rows and columns exchanged.
template <bool exchanged>
void pack_images(const bfloat16* from, int64_t between, int64_t count, bfloat16* first, bfloat16* second) {
    __m512i low[16], high[16];
    for (int64_t i = 0; i < 16; ++i) {
        __m512i even = 2 * i < count ? _mm512_loadu_si512(from + 2 * i * between) : _mm512_setzero_si512();
        __m512i odd = 2 * i + 1 < count ? _mm512_loadu_si512(from + (2 * i + 1) * between) : _mm512_setzero_si512();
        interleave(even, odd, low[i], high[i]);
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

// The pixels of a row of `count` results that see a pixel of the other map's row through column `tap` of the filters.
struct Range {
    int64_t begin, end;
    Range(int64_t tap, int64_t count, int64_t other, const Shape& s) {
        int64_t offset = tap - s.padding;  // result i sees pixel i * stride + offset
        begin = offset >= 0 ? 0 : (-offset + s.stride - 1) / s.stride;
        end = std::min(count, offset >= other ? 0 : (other - 1 - offset) / s.stride + 1);
    }
};

}  // namespace

// Ask the system for the tiles, once per process; 0 where it grants them.
extern "C" int mabench_request_tiles() {
    return static_cast<int>(syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XFEATURE_XTILEDATA */));
}

// Gradient of the weights, [D][K*K][C] float32.
extern "C" void mabench_weight_gradient(const bfloat16* images, const bfloat16* gradient, float* weights, const Shape* shape,
                                        int threads) {
    const Shape s = *shape;
    const int64_t taps = s.side * s.side, seen = s.height * s.width, made = s.down * s.across;
    // bands of results that fit the second cache; where the whole map is small, several times 32 images at a time
    const int64_t rows = std::clamp<int64_t>(BAND / (s.filters * 64 * s.across), 1, s.down);
    const int64_t groups = std::clamp<int64_t>(rows < s.down ? 1 : SLICE / (2048 * made), 1, (s.images + 31) / 32);
    const int64_t most = std::min(s.height, (rows - 1) * s.stride + s.side);  // rows of images that a band sees
    const int64_t wide = s.filters / 32, deep = s.channels / 32;
    const int64_t line = taps * s.channels * sizeof(float);
    Tiles left = tiles(2 * wide * rows * s.across * groups), right = tiles(2 * deep * most * s.width * groups);

#pragma omp parallel num_threads(threads)
    {
        Configured configured;
        for (int64_t start = 0; start < s.images; start += 32 * groups) {
            const int64_t here = std::min(groups, (s.images - start + 31) / 32);
            for (int64_t top = 0; top < s.down; top += rows) {
                const int64_t bottom = std::min(s.down, top + rows);
                const int64_t first = std::max<int64_t>(0, top * s.stride - s.padding);
                const int64_t last = std::min(s.height, (bottom - 1) * s.stride - s.padding + s.side);
                const int64_t results = (bottom - top) * s.across, pixels = (last - first) * s.width;
                // tiles lie [D/16][groups][results] and [C/16][groups][pixels]
#pragma omp for schedule(static) nowait
                for (int64_t item = 0; item < here * results; ++item) {
                    const int64_t n = start + item / results * 32, p = item % results;
                    for (int64_t d = 0; d < wide; ++d)
                        pack_images<true>(gradient + (n * made + top * s.across + p) * s.filters + 32 * d, made * s.filters,
                                          s.images - n, &left[(2 * d * here * results + item) * TILE],
                                          &left[((2 * d + 1) * here * results + item) * TILE]);
                }
#pragma omp for schedule(static)
                for (int64_t item = 0; item < here * pixels; ++item) {
                    const int64_t n = start + item / pixels * 32, p = item % pixels;
                    for (int64_t c = 0; c < deep; ++c)
                        pack_images<false>(images + (n * seen + first * s.width + p) * s.channels + 32 * c, seen * s.channels,
                                           s.images - n, &right[(2 * c * here * pixels + item) * TILE],
                                           &right[((2 * c + 1) * here * pixels + item) * TILE]);
                }
#pragma omp for schedule(static)
                for (int64_t block = 0; block < wide * deep; ++block) {
                    const int64_t c = block / wide, d = block % wide;
                    for (int64_t tap = 0; tap < taps; ++tap) {
                        const Range x(tap % s.side, s.across, s.width, s), y(tap / s.side, s.down, s.height, s);
                        const int64_t from = std::max(y.begin, top), to = x.begin < x.end ? std::min(y.end, bottom) : 0;
                        const bool untouched = start == 0 && (top == 0 || y.begin >= top);  // no band before had a say
                        if (from >= to && !(untouched && top == 0)) continue;
                        float* sums = weights + (32 * d * taps + tap) * s.channels + 32 * c;
                        float* lower = sums + 16 * taps * s.channels;
                        if (untouched) {
                            _tile_zero(0);
                            _tile_zero(1);
                            _tile_zero(2);
                            _tile_zero(3);
                        } else {
                            _tile_loadd(0, sums, line);
                            _tile_loadd(1, sums + 16, line);
                            _tile_loadd(2, lower, line);
                            _tile_loadd(3, lower + 16, line);
                        }
                        for (int64_t group = 0; group < here; ++group)
                            for (int64_t i = from; i < to; ++i) {
                                const int64_t row = i * s.stride + tap / s.side - s.padding - first;
                                const int64_t column = x.begin * s.stride + tap % s.side - s.padding;
                                const bfloat16* a =
                                    &left[((2 * d * here + group) * results + (i - top) * s.across + x.begin) * TILE];
                                const bfloat16* b =
                                    &right[((2 * c * here + group) * pixels + row * s.width + column) * TILE];
                                for (int64_t j = x.begin; j < x.end; ++j, a += TILE, b += s.stride * TILE) {
                                    _tile_loadd(4, a, 64);
                                    _tile_loadd(6, b, 64);
                                    _tile_dpbf16ps(0, 4, 6);
                                    _tile_loadd(7, b + here * pixels * TILE, 64);
                                    _tile_dpbf16ps(1, 4, 7);
                                    _tile_loadd(5, a + here * results * TILE, 64);
                                    _tile_dpbf16ps(2, 5, 6);
                                    _tile_dpbf16ps(3, 5, 7);
                                }
                            }
                        _tile_stored(0, sums, line);
                        _tile_stored(1, sums + 16, line);
                        _tile_stored(2, lower, line);
                        _tile_stored(3, lower + 16, line);
                    }
                }
            }
        }
    }
}

namespace {

struct Meeting {
    int64_t source, tap;
};

// `to` [N][targets][T] from `from` [N][sources][S]: for every target pixel the sum over its meetings of source times filter.
// `filters`: tiles [T/16][taps][S/32].
void gather(const bfloat16* from, int64_t sources, int64_t deep, const bfloat16* filters, int64_t taps, bfloat16* to,
            const std::vector<std::vector<Meeting>>& meetings, int64_t wide, int64_t images, int threads) {
    const int64_t targets = meetings.size(), inner = deep / 32, groups = (images + 31) / 32;
#pragma omp parallel num_threads(threads)
    {
        Configured configured;
        Tiles left = tiles(2 * sources * inner);
        alignas(64) float sums[32 * 32];
        const bfloat16 *held = nullptr;
#pragma omp for schedule(static)
        for (int64_t item = 0; item < groups * (wide / 32); ++item) {
            const int64_t start = item / (wide / 32) * 32, t = item % (wide / 32);
            const int64_t count = std::min<int64_t>(32, images - start);
            const bool two = count > 16;
            if (held != from + start * sources * deep) {
                held = from + start * sources * deep;
                for (int64_t p = 0; p < sources; ++p)
                    for (int64_t n = 0; n < 32; ++n)
                        for (int64_t c = 0; c < inner; ++c) {
                            __m512i row = n < count ? _mm512_loadu_si512(held + (n * sources + p) * deep + 32 * c)
                                                    : _mm512_setzero_si512();
                            _mm512_store_si512(&left[((2 * p + n / 16) * inner + c) * TILE + n % 16 * 32], row);
                        }
            }
            for (int64_t p = 0; p < targets; ++p) {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
                for (const Meeting& m : meetings[p]) {
                    const bfloat16* a = &left[2 * m.source * inner * TILE];
                    const bfloat16* b = filters + (2 * t * taps + m.tap) * inner * TILE;
                    if (two)
                        for (int64_t c = 0; c < inner; ++c, a += TILE, b += TILE) {
                            _tile_loadd(4, a, 64);
                            _tile_loadd(6, b, 64);
                            _tile_dpbf16ps(0, 4, 6);
                            _tile_loadd(7, b + taps * inner * TILE, 64);
                            _tile_dpbf16ps(1, 4, 7);
                            _tile_loadd(5, a + inner * TILE, 64);
                            _tile_dpbf16ps(2, 5, 6);
                            _tile_dpbf16ps(3, 5, 7);
                        }
                    else
                        for (int64_t c = 0; c < inner; ++c, a += TILE, b += TILE) {
                            _tile_loadd(4, a, 64);
                            _tile_loadd(6, b, 64);
                            _tile_dpbf16ps(0, 4, 6);
                            _tile_loadd(7, b + taps * inner * TILE, 64);
                            _tile_dpbf16ps(1, 4, 7);
                        }
                }
                _tile_stored(0, sums, 128);
                _tile_stored(1, sums + 16, 128);
                if (two) {
                    _tile_stored(2, sums + 16 * 32, 128);
                    _tile_stored(3, sums + 16 * 32 + 16, 128);
                }
                for (int64_t n = 0; n < count; ++n) {
                    __m512bh row = _mm512_cvtne2ps_pbh(_mm512_load_ps(sums + 32 * n + 16), _mm512_load_ps(sums + 32 * n));
                    _mm512_storeu_si512(to + ((start + n) * targets + p) * wide + 32 * t, (__m512i)row);
                }
            }
        }
    }
}

}  // namespace

// The convolution: [N][H'*W'][D].
extern "C" void mabench_convolution(const bfloat16* images, const bfloat16* weights, bfloat16* result, const Shape* shape,
                                    int threads) {
    const Shape s = *shape;
    const int64_t taps = s.side * s.side, inner = s.channels / 32;
    Tiles filters = tiles(s.filters / 16 * taps * inner);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t d = 0; d < s.filters / 16; ++d)
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t c = 0; c < inner; ++c) {
                __m512i rows[16];
                for (int64_t i = 0; i < 16; ++i)
                    rows[i] = _mm512_loadu_si512(weights + ((16 * d + i) * taps + tap) * s.channels + 32 * c);
                transpose(rows);
                for (int64_t i = 0; i < 16; ++i)
                    _mm512_store_si512(&filters[((d * taps + tap) * inner + c) * TILE + 32 * i], rows[i]);
            }
    std::vector<std::vector<Meeting>> meetings(s.down * s.across);
    for (int64_t tap = 0; tap < taps; ++tap) {
        const Range x(tap % s.side, s.across, s.width, s), y(tap / s.side, s.down, s.height, s);
        for (int64_t i = y.begin; i < y.end; ++i)
            for (int64_t j = x.begin; j < x.end; ++j) {
                const int64_t row = i * s.stride + tap / s.side - s.padding, column = j * s.stride + tap % s.side - s.padding;
                meetings[i * s.across + j].push_back({row * s.width + column, tap});
            }
    }
    gather(images, s.height * s.width, s.channels, filters.get(), taps, result, meetings, s.filters, s.images, threads);
}

// Gradient of the images: [N][H*W][C].
extern "C" void mabench_image_gradient(const bfloat16* gradient, const bfloat16* weights, bfloat16* result, const Shape* shape,
                                       int threads) {
    const Shape s = *shape;
    const int64_t taps = s.side * s.side, inner = s.filters / 32;
    Tiles filters = tiles(s.channels / 16 * taps * inner);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t d = 0; d < inner; ++d)
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t c = 0; c < s.channels / 32; ++c)
                for (int64_t i = 0; i < 16; ++i) {
                    const bfloat16* row = weights + ((32 * d + 2 * i) * taps + tap) * s.channels + 32 * c;
                    __m512i low, high;
                    interleave(_mm512_loadu_si512(row), _mm512_loadu_si512(row + taps * s.channels), low, high);
                    _mm512_store_si512(&filters[((2 * c * taps + tap) * inner + d) * TILE + 32 * i], low);
                    _mm512_store_si512(&filters[(((2 * c + 1) * taps + tap) * inner + d) * TILE + 32 * i], high);
                }
    std::vector<std::vector<Meeting>> meetings(s.height * s.width);
    for (int64_t tap = 0; tap < taps; ++tap) {
        const Range x(tap % s.side, s.across, s.width, s), y(tap / s.side, s.down, s.height, s);
        for (int64_t i = y.begin; i < y.end; ++i)
            for (int64_t j = x.begin; j < x.end; ++j) {
                const int64_t row = i * s.stride + tap / s.side - s.padding, column = j * s.stride + tap % s.side - s.padding;
                meetings[row * s.width + column].push_back({i * s.across + j, tap});
            }
    }
    gather(gradient, s.down * s.across, s.filters, filters.get(), taps, result, meetings, s.channels, s.images, threads);
}

// Gradient of `images` [N][H][W][C] from that of their 2 x 2 maxima: to the first of equals, and NaN is above all.
extern "C" void mabench_pool_gradient(const bfloat16* images, const bfloat16* gradient, bfloat16* result, int64_t count,
                                      int64_t height, int64_t width, int64_t channels, int threads) {
    const int64_t down = height / 2, across = width / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < count * height; ++row) {
        const int64_t n = row / height, i = row % height / 2;
        bfloat16* own = result + row * width * channels;
        if (i == down) {  // an odd row below
            std::memset(own, 0, width * channels * sizeof(bfloat16));
            continue;
        }
        if (row % height % 2) continue;  // made with the row above
        const bfloat16* seen = images + row * width * channels;
        const bfloat16* given = gradient + (n * down + i) * across * channels;
        for (int64_t j = 0; j < across; ++j)
            for (int64_t c = 0; c < channels; c += 16) {
                const int64_t at[4] = {2 * j * channels + c, (2 * j + 1) * channels + c, (2 * j + width) * channels + c,
                                       (2 * j + width + 1) * channels + c};
                __mmask16 won[4] = {0xffff, 0, 0, 0};
                __m512 most;
                for (int k = 0; k < 4; ++k) {
                    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(seen + at[k]));
                    const __m512 value = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
                    if (k == 0) {
                        most = value;
                        continue;
                    }
                    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
                    won[k] = _mm512_cmp_ps_mask(value, most, _CMP_GT_OQ) | nan;
                    for (int before = 0; before < k; ++before) won[before] &= ~won[k];
                    most = _mm512_mask_blend_ps(won[k], most, value);
                }
                const __m256i given16 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(given + j * channels + c));
                for (int k = 0; k < 4; ++k)
                    _mm256_storeu_si256(reinterpret_cast<__m256i*>(own + at[k]), _mm256_maskz_mov_epi16(won[k], given16));
            }
        if (width % 2)
            for (int64_t below = 0; below < 2; ++below)
                std::memset(own + ((below + 1) * width - 1) * channels, 0, channels * sizeof(bfloat16));
    }
}
