// The first block of a ConvNet: convolution of images of few channels, instance norm, ReLU, mean of 2 x 2; and its gradients.
// Built and called by native.py and first_block.py.
//
// So few numbers enter a convolution of three channels that it costs less to compute it again than to read its result from memory,
// which is forty times larger than the images. It is never stored: the statistics of the norm, the result, and both passes of
// the gradient each compute it anew, two rows of 16 pixels at a time. Its bias is left out, as the norm takes it away again.
//
// Threads take the next image as they come, since their cores may not be equally fast; no sum depends on which takes what.
//
// Arrays: images [N][H][W][C] and weights [D][K][K][C] with K*K*C at most 32, D a multiple of 32; the result [N][H/2][W/2][D].

#include "pixels.h"
#include "tiles.h"

#include <algorithm>
#include <vector>

namespace {

struct Block {
    int64_t images, height, width, channels, filters, side;
    int64_t seen() const { return side * side * channels; }  // numbers that a result sees
    int64_t down() const { return (height + 1) / 2; }        // pairs of rows, and pieces of 16 pixels in them
    int64_t across() const { return (width + 15) / 16; }
    int64_t pieces() const { return down() * across(); }
};

constexpr int64_t SEEN = 32;    // numbers that a result sees, filled up with zeros
constexpr int64_t PIECE = 32;   // results computed at a time: 16 of a row, then the 16 below
constexpr int64_t SUMMED = 4;   // images whose gradients of the weights are summed in one place

// What every result of an image sees, a piece after the other: [pieces][32][32]. Results beyond the map see zeros.
class Patches {
  public:
    explicit Patches(const Block& block)
        : s(block), border(block.side / 2), line((16 * block.across() + block.side - 1) * block.channels),
          framed((2 * block.down() + block.side - 1) * line + 32), made(tiles(2 * block.pieces())) {}

    void of(const bfloat16* image) {
        for (int64_t i = 0; i < s.height; ++i)
            std::copy_n(image + i * s.width * s.channels, s.width * s.channels, &framed[(i + border) * line + border * s.channels]);
        const int64_t row = s.side * s.channels;
        const __mmask32 mask = (1ull << row) - 1;
        for (int64_t p = 0; p < s.pieces(); ++p)
            for (int64_t k = 0; k < PIECE; ++k) {
                const int64_t i = p / s.across() * 2 + k / 16, j = p % s.across() * 16 + k % 16;
                __m512i numbers = _mm512_setzero_si512();
                if (i < s.height && j < s.width)
                    for (int64_t r = 0; r < s.side; ++r) {
                        const bfloat16* from = &framed[(i + r) * line + j * s.channels];
                        numbers = _mm512_or_si512(numbers, _mm512_maskz_loadu_epi16(mask << (r * row), from - r * row));
                    }
                _mm512_store_si512(&made[(p * PIECE + k) * SEEN], numbers);
            }
    }
    const bfloat16* operator[](int64_t piece) const { return &made[piece * PIECE * SEEN]; }

  private:
    Block s;
    int64_t border, line;
    std::vector<bfloat16> framed;  // the image in a frame of zeros
    Tiles made;
};

// The filters as second factors, two tiles for 32 of them.
Tiles packed(const bfloat16* weights, const Block& s) {
    Tiles to = tiles(s.filters / 16);
    const __mmask32 mask = s.seen() == 32 ? ~0u : (1u << s.seen()) - 1;
    for (int64_t d = 0; d < s.filters; d += 16) {
        __m512i rows[16];
        for (int64_t i = 0; i < 16; ++i) rows[i] = _mm512_maskz_loadu_epi16(mask, weights + (d + i) * s.seen());
        transpose(rows);
        for (int64_t i = 0; i < 16; ++i) _mm512_store_si512(&to[d / 16 * TILE + 32 * i], rows[i]);
    }
    return to;
}

// 32 channels of one piece, [32][32]; uses tiles 4 to 7.
struct Results {
    alignas(64) float sums[PIECE * 32];

    void compute(const bfloat16* patches, const bfloat16* filters) {
        for (int64_t half = 0; half < 2; ++half) {
            _tile_zero(4);
            _tile_zero(5);
            _tile_loadd(6, patches + half * TILE, 64);
            _tile_loadd(7, filters, 64);
            _tile_dpbf16ps(4, 6, 7);
            _tile_loadd(7, filters + TILE, 64);
            _tile_dpbf16ps(5, 6, 7);
            _tile_stored(4, sums + half * 16 * 32, 128);
            _tile_stored(5, sums + half * 16 * 32 + 16, 128);
        }
    }
    Pixel at(int64_t row, int64_t column) const { return load(sums + (row * 16 + column) * 32); }
};

// A piece within the map.
struct Piece {
    int64_t index, top, left, rows, columns;
    Piece(int64_t p, const Block& s)
        : index(p), top(p / s.across() * 2), left(p % s.across() * 16), rows(std::min<int64_t>(2, s.height - top)),
          columns(std::min<int64_t>(16, s.width - left)) {}
    bool pools(int64_t column) const { return rows == 2 && column / 2 < columns / 2; }
};

// Of one channel of one image: what the norm does to it.
struct Scaled {
    Pixel mean, inverse, scale, shift;
    Scaled(Pixel mean, Pixel inverse, const float* weight, const float* bias)
        : mean(mean), inverse(inverse), scale(inverse * load(weight)), shift(load(bias) - mean * scale) {}
};

Scaled statistics(const Patches& patches, const bfloat16* filters, Results& results, const float* weight, const float* bias,
                  float eps, const Block& s) {
    // differences from a result in the middle, so that a large mean does not drown a small variance
    results.compute(patches[s.height / 2 / 2 * s.across() + s.width / 2 / 16], filters);
    const Pixel middle = results.at(s.height / 2 % 2, s.width / 2 % 16);
    Pixel sum[2] = {all(0), all(0)}, squares[2] = {all(0), all(0)};
    for (int64_t p = 0; p < s.pieces(); ++p) {
        const Piece piece(p, s);
        results.compute(patches[p], filters);
        for (int64_t i = 0; i < piece.rows; ++i)
            for (int64_t j = 0; j < piece.columns; ++j) {
                const Pixel apart = results.at(i, j) - middle;
                sum[j % 2] = sum[j % 2] + apart;
                squares[j % 2] = fused(apart, apart, squares[j % 2]);
            }
    }
    const Pixel share = all(1.0f / (s.height * s.width)), away = (sum[0] + sum[1]) * share;
    const Pixel variance = positive((squares[0] + squares[1]) * share - away * away) + all(eps);
    return Scaled(middle + away, one_over_root(variance), weight, bias);
}

}  // namespace

// `mean` and `inverse` of the standard deviation [N][D] of the convolution without its bias.
extern "C" void mabench_first_block(const bfloat16* images, const bfloat16* weights, const float* weight, const float* bias, float eps,
                                    bfloat16* result, float* mean, float* inverse, const Block* block, int threads) {
    const Block s = *block;
    const Tiles filters = packed(weights, s);
    const int64_t down = s.height / 2, across = s.width / 2;
#pragma omp parallel num_threads(threads)
    {
        const Configured configured;
        Patches patches(s);
        Results results;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < s.images; ++n) {
            patches.of(images + n * s.height * s.width * s.channels);
            for (int64_t d = 0; d < s.filters; d += 32) {
                const bfloat16* own = &filters[d / 16 * TILE];
                const Scaled to = statistics(patches, own, results, weight + d, bias + d, eps, s);
                store(mean + n * s.filters + d, to.mean);
                store(inverse + n * s.filters + d, to.inverse);
                auto value = [&](int64_t i, int64_t j) { return positive(fused(results.at(i, j), to.scale, to.shift)); };
                for (int64_t p = 0; p < s.pieces(); ++p) {
                    const Piece piece(p, s);
                    if (piece.rows < 2) continue;
                    results.compute(patches[p], own);
                    bfloat16* y = result + ((n * down + piece.top / 2) * across + piece.left / 2) * s.filters + d;
                    for (int64_t j = 0; j < piece.columns / 2; ++j)
                        write(y + j * s.filters, (value(0, 2 * j) + value(0, 2 * j + 1) + value(1, 2 * j) + value(1, 2 * j + 1)) *
                                                     all(0.25f));
                }
            }
        }
    }
}

// From the gradient of the result [N][H/2][W/2][D]: that of the filters, summed over every four images, [N/4][32][D], of which the
// first K*K*C rows count; and those of the norm's weight and bias for every image, [N][D].
extern "C" void mabench_first_block_gradient(const bfloat16* gradient, const bfloat16* images, const bfloat16* weights,
                                             const float* weight, const float* bias, const float* mean, const float* inverse,
                                             float* of_filters, float* of_weight, float* of_bias, const Block* block, int threads) {
    const Block s = *block;
    const Tiles filters = packed(weights, s);
    const int64_t down = s.height / 2, across = s.width / 2, line = s.filters * sizeof(float);
#pragma omp parallel num_threads(threads)
    {
        const Configured configured;
        Patches patches(s);
        Results results;
        const Tiles turned = tiles(2 * s.pieces()), given = tiles(2);  // patches with rows and columns exchanged; a piece's gradients
#pragma omp for schedule(dynamic)
        for (int64_t group = 0; group < (s.images + SUMMED - 1) / SUMMED; ++group) {
            float* const total = of_filters + group * SEEN * s.filters;
            for (int64_t n = group * SUMMED; n < std::min(s.images, (group + 1) * SUMMED); ++n) {
                patches.of(images + n * s.height * s.width * s.channels);
                for (int64_t p = 0; p < s.pieces(); ++p)
                    pack_images<true>(patches[p], SEEN, PIECE, &turned[2 * p * TILE], &turned[(2 * p + 1) * TILE]);
                for (int64_t d = 0; d < s.filters; d += 32) {
                    const bfloat16* own = &filters[d / 16 * TILE];
                    const Scaled to(load(mean + n * s.filters + d), load(inverse + n * s.filters + d), weight + d, bias + d);
                    // what the normed result at this place gets, whose own value is `seen`
                    auto gets = [&](const Piece& piece, int64_t i, int64_t j, Pixel seen) {
                        if (!piece.pools(j)) return all(0);
                        const bfloat16* g = gradient + ((n * down + piece.top / 2) * across + (piece.left + j) / 2) * s.filters + d;
                        return where_positive(fused(seen, to.scale, to.shift), read(g) * all(0.25f));
                    };
                    Pixel sum[2] = {all(0), all(0)}, product[2] = {all(0), all(0)};
                    for (int64_t p = 0; p < s.pieces(); ++p) {
                        const Piece piece(p, s);
                        results.compute(patches[p], own);
                        for (int64_t i = 0; i < piece.rows; ++i)
                            for (int64_t j = 0; j < piece.columns; ++j) {
                                const Pixel seen = results.at(i, j), value = gets(piece, i, j, seen);
                                sum[j % 2] = sum[j % 2] + value;
                                product[j % 2] = fused(value, seen - to.mean, product[j % 2]);
                            }
                    }
                    const Pixel shifts = sum[0] + sum[1], scales = (product[0] + product[1]) * to.inverse;
                    store(of_bias + n * s.filters + d, shifts);
                    store(of_weight + n * s.filters + d, scales);
                    // the gradient is linear in the given one and in the result, with coefficients of the channel
                    const Pixel share = all(-1.0f / (s.height * s.width));
                    const Pixel by_seen = share * to.scale * to.inverse * scales, rest = share * to.scale * shifts - by_seen * to.mean;
                    float* const place = total + d;
                    if (n % SUMMED == 0) {
                        _tile_zero(0);
                        _tile_zero(1);
                        _tile_zero(2);
                        _tile_zero(3);
                    } else {
                        _tile_loadd(0, place, line);
                        _tile_loadd(1, place + 16, line);
                        _tile_loadd(2, place + 16 * s.filters, line);
                        _tile_loadd(3, place + 16 * s.filters + 16, line);
                    }
                    for (int64_t p = 0; p < s.pieces(); ++p) {
                        const Piece piece(p, s);
                        results.compute(patches[p], own);
                        auto of_result = [&](int64_t i, int64_t j) {  // beyond the map the patches are zeros, whatever is here
                            const Pixel seen = results.at(i, j);
                            return fused(to.scale, gets(piece, i, j, seen), fused(by_seen, seen, rest));
                        };
                        for (int64_t i = 0; i < 2; ++i)
                            for (int64_t j = 0; j < 16; j += 2) {
                                const Pixel even = of_result(i, j), odd = of_result(i, j + 1);
                                bfloat16* to_tile = &given[(8 * i + j / 2) * 32];
                                _mm512_store_si512(to_tile, interleaved(narrowed(even.low), narrowed(odd.low)));
                                _mm512_store_si512(to_tile + TILE, interleaved(narrowed(even.high), narrowed(odd.high)));
                            }
                        const bfloat16* patch = &turned[2 * p * TILE];
                        _tile_loadd(6, patch, 64);
                        _tile_loadd(7, &given[0], 64);
                        _tile_dpbf16ps(0, 6, 7);
                        _tile_loadd(4, &given[TILE], 64);
                        _tile_dpbf16ps(1, 6, 4);
                        _tile_loadd(5, patch + TILE, 64);
                        _tile_dpbf16ps(2, 5, 7);
                        _tile_dpbf16ps(3, 5, 4);
                    }
                    _tile_stored(0, place, line);
                    _tile_stored(1, place + 16, line);
                    _tile_stored(2, place + 16 * s.filters, line);
                    _tile_stored(3, place + 16 * s.filters + 16, line);
                }
            }
        }
    }
}
