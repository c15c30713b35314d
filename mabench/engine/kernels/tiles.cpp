// Convolutions in bfloat16 on a processor that multiplies matrices in tiles (Intel AMX): the products that PyTorch's library is
// slow at. Built by native.py, called by tiles.py; sums are float32.
//
// Everything here copies its operands into tiles, one kilobyte each, and then multiplies without looking at borders, strides or
// numbers of images again. Along images a map has no neighbours: what lies beside a pixel is a matter of which tiles meet.
//
// Arrays: images [N][H*W][C], gradients of the result [N][H'*W'][D], weights [D][K*K][C].

#include "tiles.h"

#include <algorithm>
#include <vector>

#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int64_t BAND = 1024 * 1024;  // bytes of gradients in tiles at a time: with their images they fit the second cache
constexpr int64_t SLICE = 128 * 1024;  // up to these many bytes of 32 channels, several times 32 images are taken at a time

struct Shape {
    int64_t images, height, width, channels, down, across, filters, side, stride, padding;
};

// Which part of `first` and `second` many blocks the calling thread computes. Each packs for itself what it multiplies: what another
// core has just written comes from there, which takes longer than packing it twice.
struct Part {
    int64_t first[2], second[2];
    Part(int64_t blocks, int64_t others) {
        const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        const int64_t rows = std::min(threads, blocks), columns = std::min(threads / rows, others);
        const int64_t row = thread % rows, column = thread / rows;
        for (int64_t end = 0; end < 2; ++end) {
            first[end] = blocks * (row + end) / rows;
            second[end] = column < columns ? others * (column + end) / columns : 0;
        }
    }
};

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

namespace {

// Gradient of the weights, tiles of one pixel of 32 images.
void gradient_along_images(const bfloat16* images, const bfloat16* gradient, float* weights, const Shape& s, int threads) {
    const int64_t taps = s.side * s.side, seen = s.height * s.width, made = s.down * s.across;
    // bands of results that fit the second cache; where the whole map is small, several times 32 images at a time
    const int64_t rows = std::clamp<int64_t>(BAND / (s.filters * 64 * s.across), 1, s.down);
    const int64_t groups = std::clamp<int64_t>(rows < s.down ? 1 : SLICE / (2048 * made), 1, (s.images + 31) / 32);
    const int64_t most = std::min(s.height, (rows - 1) * s.stride + s.side);  // rows of images that a band sees
    const int64_t wide = s.filters / 32, deep = s.channels / 32;
    const int64_t line = taps * s.channels * sizeof(float);

#pragma omp parallel num_threads(threads)
    {
        const Configured configured;
        const Part own(wide, deep);
        const int64_t across = own.first[1] - own.first[0], along = own.second[1] - own.second[0];
        // [D/16][groups][results] and [C/16][groups][pixels]
        const Tiles left = tiles(2 * across * groups * rows * s.across), right = tiles(2 * along * groups * most * s.width);
        for (int64_t start = 0; start < s.images; start += 32 * groups) {
            const int64_t here = std::min(groups, (s.images - start + 31) / 32);
            for (int64_t top = 0; top < s.down; top += rows) {
                const int64_t bottom = std::min(s.down, top + rows);
                const int64_t first = std::max<int64_t>(0, top * s.stride - s.padding);
                const int64_t last = std::min(s.height, (bottom - 1) * s.stride - s.padding + s.side);
                const int64_t results = (bottom - top) * s.across, pixels = (last - first) * s.width;
                for (int64_t item = 0; item < here * results; ++item) {
                    const int64_t n = start + item / results * 32, p = top * s.across + item % results;
                    for (int64_t d = 0; d < across; ++d)
                        pack_images<true>(gradient + (n * made + p) * s.filters + 32 * (own.first[0] + d), made * s.filters,
                                          s.images - n, &left[(2 * d * here * results + item) * TILE],
                                          &left[((2 * d + 1) * here * results + item) * TILE]);
                }
                for (int64_t item = 0; item < here * pixels; ++item) {
                    const int64_t n = start + item / pixels * 32, p = first * s.width + item % pixels;
                    for (int64_t c = 0; c < along; ++c)
                        pack_images<false>(images + (n * seen + p) * s.channels + 32 * (own.second[0] + c), seen * s.channels,
                                           s.images - n, &right[(2 * c * here * pixels + item) * TILE],
                                           &right[((2 * c + 1) * here * pixels + item) * TILE]);
                }
                for (int64_t block = 0; block < across * along * taps; ++block) {
                    const int64_t c = block / taps / across, d = block / taps % across, tap = block % taps;
                    const Range x(tap % s.side, s.across, s.width, s), y(tap / s.side, s.down, s.height, s);
                    const int64_t from = std::max(y.begin, top), to = x.begin < x.end ? std::min(y.end, bottom) : 0;
                    const bool untouched = start == 0 && (top == 0 || y.begin >= top);  // no band before had a say
                    if (from >= to && !(untouched && top == 0)) continue;
                    float* sums = weights + (32 * (own.first[0] + d) * taps + tap) * s.channels + 32 * (own.second[0] + c);
                    if (untouched)
                        clear_sums();
                    else
                        load_sums(sums, line);
                    for (int64_t group = 0; group < here; ++group)
                        for (int64_t i = from; i < to; ++i) {
                            const int64_t row = i * s.stride + tap / s.side - s.padding - first;
                            const int64_t column = x.begin * s.stride + tap % s.side - s.padding;
                            const bfloat16* a = &left[((2 * d * here + group) * results + (i - top) * s.across + x.begin) * TILE];
                            const bfloat16* b = &right[((2 * c * here + group) * pixels + row * s.width + column) * TILE];
                            for (int64_t j = x.begin; j < x.end; ++j, a += TILE, b += s.stride * TILE)
                                add_products(a, a + here * results * TILE, b, b + here * pixels * TILE);
                        }
                    store_sums(sums, line);
                }
            }
        }
    }
}

// Pixels `from` and the next of a row of `width`, 32 channels of each, interleaved; zeros beside the row.
inline void pack_pair(const bfloat16* row, int64_t from, int64_t width, int64_t between, bfloat16* first, bfloat16* second) {
    auto pixel = [=](int64_t x) { return x >= 0 && x < width ? _mm512_loadu_si512(row + x * between) : _mm512_setzero_si512(); };
    const __m512i even = pixel(from), odd = pixel(from + 1);
    _mm512_store_si512(first, interleaved(_mm512_castsi512_si256(even), _mm512_castsi512_si256(odd)));
    _mm512_store_si512(second, interleaved(_mm512_extracti64x4_epi64(even, 1), _mm512_extracti64x4_epi64(odd, 1)));
}

// The same in tiles of 32 pixels of one image, where no stride and no border changes their number; `adds` to what is there already.
// A column of the filters moves the images by a pixel, for which they are packed anew; a row moves where a tile begins.
void gradient_along_pixels(const bfloat16* images, const bfloat16* gradient, float* weights, const Shape& s, bool adds, int threads) {
    const int64_t taps = s.side * s.side, pixels = s.height * s.width, steps = (pixels + 31) / 32;
    const int64_t pairs = (s.height + 2 * s.padding) * s.width / 2 + 16;  // with the rows around an image, and a tile to end in
    const int64_t wide = s.filters / 32, deep = s.channels / 32;
    const int64_t line = taps * s.channels * sizeof(float);

#pragma omp parallel num_threads(threads)
    {
        const Configured configured;
        const Part own(wide, deep);
        const int64_t across = own.first[1] - own.first[0], along = own.second[1] - own.second[0];
        const int64_t bytes = 2048 * across * steps + 128 * along * s.side * pairs;  // of an image
        const int64_t group = std::clamp<int64_t>(BAND / std::max<int64_t>(bytes, 1), 1, s.images);
        // [D/16][images][steps] tiles; [columns][C/16][images][pairs] of 32 numbers
        const int64_t below = group * steps * TILE, beside = group * pairs * 32, packed = 2 * s.side * along * beside;
        const Tiles left = tiles(2 * across * group * steps), right = tiles((packed + TILE - 1) / TILE);
        std::fill_n(right.get(), packed, bfloat16{0});
        for (int64_t start = 0; start < s.images; start += group) {
            const int64_t here = std::min(group, s.images - start);
            for (int64_t n = 0; n < here; ++n) {
                const bfloat16* given = gradient + (start + n) * pixels * s.filters + 32 * own.first[0];
                const bfloat16* seen = images + (start + n) * pixels * s.channels + 32 * own.second[0];
                for (int64_t step = 0; step < steps; ++step)
                    for (int64_t d = 0; d < across; ++d) {
                        bfloat16* to = &left[2 * d * below + (n * steps + step) * TILE];
                        pack_images<true>(given + 32 * step * s.filters + 32 * d, s.filters, pixels - 32 * step, to, to + below);
                    }
                for (int64_t i = 0; i < s.height; ++i)
                    for (int64_t tap = 0; tap < s.side; ++tap)
                        for (int64_t j = 0; j < s.width; j += 2)
                            for (int64_t c = 0; c < along; ++c) {
                                const int64_t pair = n * pairs + ((i + s.padding) * s.width + j) / 2;
                                bfloat16* to = &right[2 * (tap * along + c) * beside + pair * 32];
                                const bfloat16* row = seen + i * s.width * s.channels + 32 * c;
                                pack_pair(row, j + tap - s.padding, s.width, s.channels, to, to + beside);
                            }
            }
            for (int64_t block = 0; block < across * along * taps; ++block) {
                const int64_t c = block / taps / across, d = block / taps % across, tap = block % taps;
                float* sums = weights + (32 * (own.first[0] + d) * taps + tap) * s.channels + 32 * (own.second[0] + c);
                if (start == 0 && !adds)
                    clear_sums();
                else
                    load_sums(sums, line);
                for (int64_t n = 0; n < here; ++n) {
                    const bfloat16* a = &left[2 * d * below + n * steps * TILE];
                    const int64_t pair = n * pairs + tap / s.side * s.width / 2;
                    const bfloat16* b = &right[2 * (tap % s.side * along + c) * beside + pair * 32];
                    for (int64_t step = 0; step < steps; ++step, a += TILE, b += TILE) add_products(a, a + below, b, b + beside);
                }
                store_sums(sums, line);
            }
        }
    }
}

}  // namespace

// Gradient of the weights, [D][K*K][C] float32. Images left over from the last 32 go by pixels, unless the map is small: then reading
// the sums once more takes longer than tiles that are half empty.
extern "C" void mabench_weight_gradient(const bfloat16* images, const bfloat16* gradient, float* weights, const Shape* shape,
                                        int threads) {
    const int64_t pixels = shape->height * shape->width, last = shape->images % 32;
    Shape s = *shape;
    const bool keeps = s.stride == 1 && s.down == s.height && s.across == s.width && s.width % 2 == 0;
    const int64_t over = keeps && pixels >= 64 && last <= 16 ? last : 0, whole = s.images - over;
    s.images = whole;
    if (whole) gradient_along_images(images, gradient, weights, s, threads);
    s.images = over;
    images += whole * pixels * s.channels;
    gradient += whole * pixels * s.filters;
    if (over) gradient_along_pixels(images, gradient, weights, s, whole > 0, threads);
}

namespace {

struct Meeting {
    int64_t source, tap;
};

// Call `note` with every pixel of the result, every pixel of the images that it sees, and the filters' pixel between them.
template <typename Note>
void meet(const Shape& s, Note note) {
    for (int64_t tap = 0; tap < s.side * s.side; ++tap) {
        const Range x(tap % s.side, s.across, s.width, s), y(tap / s.side, s.down, s.height, s);
        for (int64_t i = y.begin; i < y.end; ++i)
            for (int64_t j = x.begin; j < x.end; ++j) {
                const int64_t row = i * s.stride + tap / s.side - s.padding, column = j * s.stride + tap % s.side - s.padding;
                note(i * s.across + j, row * s.width + column, tap);
            }
    }
}

// `to` [N][targets][T] from `from` [N][sources][S]: for every target pixel the sum over its meetings of source times filter.
// `bias` [T], or none, is added. `pack(t, tiles)` fills the filters' tiles [taps][S/32] of the 16 channels from 16 * t on.
template <typename Pack>
void gather(const bfloat16* from, int64_t sources, int64_t deep, Pack pack, int64_t taps, const float* bias, bfloat16* to,
            const std::vector<std::vector<Meeting>>& meetings, int64_t wide, int64_t images, int threads) {
    const int64_t targets = meetings.size(), inner = deep / 32;
#pragma omp parallel num_threads(threads)
    {
        const Configured configured;
        const Part own(wide / 32, (images + 31) / 32);
        const Tiles left = tiles(2 * sources * inner), filters = tiles(2 * (own.first[1] - own.first[0]) * taps * inner);
        alignas(64) float sums[32 * 32];
        for (int64_t t = 2 * own.first[0]; t < 2 * own.first[1]; ++t)
            pack(t, &filters[(t - 2 * own.first[0]) * taps * inner * TILE]);
        for (int64_t group = own.second[0]; group < own.second[1]; ++group) {
            const int64_t start = 32 * group, count = std::min<int64_t>(32, images - start);
            const bool two = count > 16;
            for (int64_t p = 0; p < sources; ++p)
                for (int64_t n = 0; n < 32; ++n)
                    for (int64_t c = 0; c < inner; ++c) {
                        const bfloat16* row = from + ((start + n) * sources + p) * deep + 32 * c;
                        _mm512_store_si512(&left[((2 * p + n / 16) * inner + c) * TILE + n % 16 * 32],
                                           n < count ? _mm512_loadu_si512(row) : _mm512_setzero_si512());
                    }
            for (int64_t t = own.first[0]; t < own.first[1]; ++t) {
                const __m512 low = bias ? _mm512_loadu_ps(bias + 32 * t) : _mm512_setzero_ps();
                const __m512 high = bias ? _mm512_loadu_ps(bias + 32 * t + 16) : _mm512_setzero_ps();
                for (int64_t p = 0; p < targets; ++p) {
                    clear_sums();
                    for (const Meeting& m : meetings[p]) {
                        const bfloat16* a = &left[2 * m.source * inner * TILE];
                        const bfloat16* b = &filters[(2 * (t - own.first[0]) * taps + m.tap) * inner * TILE];
                        for (int64_t c = 0; c < inner; ++c, a += TILE, b += TILE)
                            add_products(a, a + inner * TILE, b, b + taps * inner * TILE, two);
                    }
                    store_sums(sums, 128);
                    for (int64_t n = 0; n < count; ++n) {
                        const __m512bh row = _mm512_cvtne2ps_pbh(_mm512_add_ps(_mm512_load_ps(sums + 32 * n + 16), high),
                                                                 _mm512_add_ps(_mm512_load_ps(sums + 32 * n), low));
                        _mm512_storeu_si512(to + ((start + n) * targets + p) * wide + 32 * t, (__m512i)row);
                    }
                }
            }
        }
    }
}

}  // namespace

// The convolution: [N][H'*W'][D]; `bias` [D] float32, or none.
extern "C" void mabench_convolution(const bfloat16* images, const bfloat16* weights, const float* bias, bfloat16* result,
                                    const Shape* shape, int threads) {
    const Shape s = *shape;
    const int64_t taps = s.side * s.side, inner = s.channels / 32;
    auto pack = [=](int64_t d, bfloat16* filters) {
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t c = 0; c < inner; ++c) {
                __m512i rows[16];
                for (int64_t i = 0; i < 16; ++i)
                    rows[i] = _mm512_loadu_si512(weights + ((16 * d + i) * taps + tap) * s.channels + 32 * c);
                transpose(rows);
                for (int64_t i = 0; i < 16; ++i)
                    _mm512_store_si512(filters + (tap * inner + c) * TILE + 32 * i, rows[i]);
            }
    };
    std::vector<std::vector<Meeting>> meetings(s.down * s.across);
    meet(s, [&](int64_t result, int64_t seen, int64_t tap) { meetings[result].push_back({seen, tap}); });
    gather(images, s.height * s.width, s.channels, pack, taps, bias, result, meetings, s.filters, s.images, threads);
}

// Gradient of the images: [N][H*W][C].
extern "C" void mabench_image_gradient(const bfloat16* gradient, const bfloat16* weights, bfloat16* result, const Shape* shape,
                                       int threads) {
    const Shape s = *shape;
    const int64_t taps = s.side * s.side, inner = s.filters / 32;
    auto pack = [=](int64_t c, bfloat16* filters) {
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t d = 0; d < inner; ++d)
                for (int64_t i = 0; i < 16; ++i) {
                    const bfloat16* row = weights + ((32 * d + 2 * i) * taps + tap) * s.channels + 16 * c;
                    _mm512_store_si512(filters + (tap * inner + d) * TILE + 32 * i, interleaved(row, row + taps * s.channels));
                }
    };
    std::vector<std::vector<Meeting>> meetings(s.height * s.width);
    meet(s, [&](int64_t result, int64_t seen, int64_t tap) { meetings[seen].push_back({result, tap}); });
    gather(gradient, s.down * s.across, s.filters, pack, taps, nullptr, result, meetings, s.channels, s.images, threads);
}
