// The first block of a network: convolution of images of few channels, instance norm or none, ReLU, pooling over 2 x 2 or none; and its
// gradients. Built and called by native.py and first_block.py.
//
// So few numbers enter a convolution of three channels that it costs less to compute it again than to read its result from memory,
// which is forty times larger than the images. It is never stored: the statistics of the norm, the result, and both passes of
// the gradient each compute it anew, two rows of 16 pixels at a time. Where a norm follows its bias is left out, as the norm takes
// it away again.
//
// Threads take the next image as they come, since their cores may not be equally fast; no sum depends on which takes what.
//
// Arrays: images [N][H][W][C] and weights [D][K][K][C] with K*K*C at most 96 and K*C at most 32, D a multiple of 32; the result
// [N][H'][W'][D], halved where it is pooled.

#include "pixels.h"
#include "tiles.h"

#include <algorithm>
#include <vector>

namespace {

enum Pooling { NONE, MEAN, LARGEST };

struct Block {
    int64_t images, height, width, channels, filters, side, norms, pooling;
    int64_t seen() const { return side * side * channels; }  // numbers that a result sees, and in how many tiles they lie
    int64_t deep() const { return (seen() + 31) / 32; }
    int64_t across() const { return (width + 15) / 16; }  // pieces of 16 pixels in a row
    int64_t pieces() const { return (height + 1) / 2 * across(); }
    int64_t made_down() const { return pooling == NONE ? height : height / 2; }
    int64_t made_across() const { return pooling == NONE ? width : width / 2; }
};

constexpr int64_t PIECE = 32;    // results computed at a time: 16 of a row, then the 16 below
constexpr int64_t SUMMED = 4;    // images whose gradients of the weights are summed in one place

// What every result of an image sees, a piece after the other: [pieces][deep][32][32]. Results beyond the map see zeros.
class Patches {
  public:
    explicit Patches(const Block& block)
        : s(block), border(block.side / 2), line((16 * block.across() + block.side - 1) * block.channels),
          framed((block.height + 1 + block.side) * line + 32), made(tiles(2 * block.pieces() * block.deep())), parts(block.deep()) {
        const int64_t row = s.side * s.channels;
        for (int64_t r = 0; r < s.side; ++r)
            for (int64_t t = r * row / 32; 32 * t < (r + 1) * row; ++t) {
                const int64_t at = r * row - 32 * t;  // of this row of the filter in this tile
                const uint64_t mask = (1ull << row) - 1;
                parts[t].push_back({static_cast<__mmask32>(at < 0 ? mask >> -at : mask << at), r * line - at});
            }
    }
    void of(const bfloat16* image) {
        for (int64_t i = 0; i < s.height; ++i)
            std::copy_n(image + i * s.width * s.channels, s.width * s.channels, &framed[(i + border) * line + border * s.channels]);
        for (int64_t p = 0; p < s.pieces(); ++p)
            for (int64_t t = 0; t < s.deep(); ++t)
                for (int64_t k = 0; k < PIECE; ++k) {
                    const int64_t i = p / s.across() * 2 + k / 16, j = p % s.across() * 16 + k % 16;
                    __m512i numbers = _mm512_setzero_si512();
                    if (i < s.height && j < s.width)
                        for (const Part& part : parts[t])
                            numbers = _mm512_or_si512(
                                numbers, _mm512_maskz_loadu_epi16(part.mask, framed.data() + i * line + j * s.channels + part.from));
                    _mm512_store_si512(&made[((p * s.deep() + t) * PIECE + k) * 32], numbers);
                }
    }
    const bfloat16* operator[](int64_t piece) const { return &made[piece * 2 * s.deep() * TILE]; }

  private:
    struct Part {
        __mmask32 mask;
        int64_t from;
    };
    Block s;
    int64_t border, line;
    std::vector<bfloat16> framed;  // the image in a frame of zeros
    Tiles made;
    std::vector<std::vector<Part>> parts;  // of every tile: which numbers come from where
};

// The filters as second factors: [D/16][deep] tiles.
Tiles packed(const bfloat16* weights, const Block& s) {
    Tiles to = tiles(s.filters / 16 * s.deep());
    for (int64_t d = 0; d < s.filters; d += 16)
        for (int64_t t = 0; t < s.deep(); ++t) {
            const int64_t count = std::min<int64_t>(32, s.seen() - 32 * t);
            __m512i rows[16];
            for (int64_t i = 0; i < 16; ++i)
                rows[i] = _mm512_maskz_loadu_epi16((1ull << count) - 1, weights + (d + i) * s.seen() + 32 * t);
            transpose(rows);
            for (int64_t i = 0; i < 16; ++i) _mm512_store_si512(&to[(d / 16 * s.deep() + t) * TILE + 32 * i], rows[i]);
        }
    return to;
}

// 32 channels of the results of one image, a piece at a time.
struct Results {
    const Block& s;
    const Patches& patches;
    const bfloat16* filters;  // of these channels
    alignas(64) float sums[PIECE * 32];

    Results(const Block& s, const Patches& patches) : s(s), patches(patches) {}

    void compute(int64_t piece) {
        const bfloat16* patch = patches[piece];
        clear_sums();
        for (int64_t t = 0; t < s.deep(); ++t)
            add_products(patch + 2 * t * TILE, patch + (2 * t + 1) * TILE, filters + t * TILE, filters + (s.deep() + t) * TILE);
        store_sums(sums, 128);
    }
    Pixel at(int64_t row, int64_t column) const { return load(sums + (row * 16 + column) * 32); }
};

// What lies within the map, of a piece.
struct Place {
    int64_t top, left, rows, columns;
    Place(int64_t piece, const Block& s)
        : top(piece / s.across() * 2), left(piece % s.across() * 16), rows(std::min<int64_t>(2, s.height - top)),
          columns(std::min<int64_t>(16, s.width - left)) {}
};

// What happens to a channel of an image before its ReLU.
struct Scaled {
    Pixel mean, inverse, scale, shift;
    explicit Scaled(Pixel shift) : mean(all(0)), inverse(all(1)), scale(all(1)), shift(shift) {}
    Scaled(Pixel mean, Pixel inverse, Pixel weight, Pixel bias)
        : mean(mean), inverse(inverse), scale(inverse * weight), shift(bias - mean * scale) {}
    Pixel operator()(Pixel seen) const { return fused(seen, scale, shift); }
};

Scaled normed(Results& results, Pixel weight, Pixel bias, float eps, const Block& s) {
    // differences from a result in the middle, so that a large mean does not drown a small variance
    results.compute(s.height / 2 / 2 * s.across() + s.width / 2 / 16);
    const Pixel middle = results.at(s.height / 2 % 2, s.width / 2 % 16);
    Pixel sum[2] = {all(0), all(0)}, squares[2] = {all(0), all(0)};
    for (int64_t p = 0; p < s.pieces(); ++p) {
        const Place place(p, s);
        results.compute(p);
        for (int64_t i = 0; i < place.rows; ++i)
            for (int64_t j = 0; j < place.columns; ++j) {
                const Pixel apart = results.at(i, j) - middle;
                sum[j % 2] = sum[j % 2] + apart;
                squares[j % 2] = fused(apart, apart, squares[j % 2]);
            }
    }
    const Pixel share = all(1.0f / (s.height * s.width)), away = (sum[0] + sum[1]) * share;
    const Pixel variance = positive((squares[0] + squares[1]) * share - away * away) + all(eps);
    return Scaled(middle + away, one_over_root(variance), weight, bias);
}

template <Pooling pooling>
void forward(const bfloat16* images, const bfloat16* weights, const float* weight, const float* bias, float eps, bfloat16* result,
             float* mean, float* inverse, const Block& s, int threads) {
    const Tiles filters = packed(weights, s);
    const int64_t down = s.made_down(), across = s.made_across();
#pragma omp parallel num_threads(threads)
    {
        const Configured configured;
        Patches patches(s);
        Results results(s, patches);
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < s.images; ++n) {
            patches.of(images + n * s.height * s.width * s.channels);
            for (int64_t d = 0; d < s.filters; d += 32) {
                results.filters = &filters[d / 16 * s.deep() * TILE];
                const Scaled scaled = s.norms ? normed(results, load(weight + d), load(bias + d), eps, s) : Scaled(load(bias + d));
                if (s.norms) {
                    store(mean + n * s.filters + d, scaled.mean);
                    store(inverse + n * s.filters + d, scaled.inverse);
                }
                auto value = [&](int64_t i, int64_t j) { return positive(scaled(results.at(i, j))); };
                auto to = [&](int64_t i, int64_t j) { return result + ((n * down + i) * across + j) * s.filters + d; };
                for (int64_t p = 0; p < s.pieces(); ++p) {
                    const Place at(p, s);
                    if (pooling == NONE) {
                        results.compute(p);
                        for (int64_t i = 0; i < at.rows; ++i)
                            for (int64_t j = 0; j < at.columns; ++j) write(to(at.top + i, at.left + j), value(i, j));
                    } else if (at.rows == 2) {
                        results.compute(p);
                        for (int64_t j = 0; j < at.columns / 2; ++j) {
                            const Pixel four[4] = {value(0, 2 * j), value(0, 2 * j + 1), value(1, 2 * j), value(1, 2 * j + 1)};
                            write(to(at.top / 2, at.left / 2 + j),
                                  pooling == MEAN ? (four[0] + four[1] + four[2] + four[3]) * all(0.25f)
                                                  : larger(larger(larger(four[0], four[1]), four[2]), four[3]));
                        }
                    }
                }
            }
        }
    }
}

// What four results get from their pooled one: the first of the largest everything, if it is positive.
inline void to_largest(const Pixel (&values)[4], Pixel pooled, Pixel (&gets)[4]) {
    __mmask16 low[4], high[4];
    winner({values[0].low, values[1].low, values[2].low, values[3].low}, low);
    winner({values[0].high, values[1].high, values[2].high, values[3].high}, high);
    for (int k = 0; k < 4; ++k) {
        const Pixel passes = where_positive(values[k], pooled);
        gets[k] = {_mm512_maskz_mov_ps(low[k], passes.low), _mm512_maskz_mov_ps(high[k], passes.high)};
    }
}

template <Pooling pooling>
void backward(const bfloat16* gradient, const bfloat16* images, const bfloat16* weights, const float* weight, const float* bias,
              const float* mean, const float* inverse, float* of_filters, float* of_weight, float* of_bias, const Block& s,
              int threads) {
    const Tiles filters = packed(weights, s);
    const int64_t down = s.made_down(), across = s.made_across(), deep = s.deep(), line = s.filters * sizeof(float);
#pragma omp parallel num_threads(threads)
    {
        const Configured configured;
        Patches patches(s);
        Results results(s, patches);
        // patches with rows and columns exchanged [pieces][deep][2], and the gradients of 32 channels of the convolution [pieces][2]
        const Tiles turned = tiles(2 * s.pieces() * deep), given = tiles(2 * s.pieces());
#pragma omp for schedule(dynamic)
        for (int64_t group = 0; group < (s.images + SUMMED - 1) / SUMMED; ++group)
            for (int64_t n = group * SUMMED; n < std::min(s.images, (group + 1) * SUMMED); ++n) {
                patches.of(images + n * s.height * s.width * s.channels);
                for (int64_t p = 0; p < s.pieces() * deep; ++p)
                    pack_images<true>(patches[0] + 2 * p * TILE, 32, PIECE, &turned[2 * p * TILE], &turned[(2 * p + 1) * TILE]);
                for (int64_t d = 0; d < s.filters; d += 32) {
                    results.filters = &filters[d / 16 * deep * TILE];
                    const int64_t own = n * s.filters + d;
                    const Scaled scaled = s.norms ? Scaled(load(mean + own), load(inverse + own), load(weight + d), load(bias + d))
                                                  : Scaled(load(bias + d));
                    auto from = [&](int64_t i, int64_t j) { return read(gradient + ((n * down + i) * across + j) * s.filters + d); };
                    // Call `note(piece, column, the four results from there on, what each gets after norm or bias)` everywhere.
                    auto each = [&](auto note) {
                        for (int64_t p = 0; p < s.pieces(); ++p) {
                            const Place at(p, s);
                            results.compute(p);
                            for (int64_t j = 0; j < 16; j += 2) {
                                const Pixel seen[4] = {results.at(0, j), results.at(0, j + 1), results.at(1, j), results.at(1, j + 1)};
                                Pixel gets[4] = {all(0), all(0), all(0), all(0)};
                                if (pooling == NONE) {
                                    for (int64_t k = 0; k < 4; ++k)
                                        if (k / 2 < at.rows && j + k % 2 < at.columns)
                                            gets[k] = where_positive(scaled(seen[k]), from(at.top + k / 2, at.left + j + k % 2));
                                } else if (at.rows == 2 && j + 1 < at.columns) {
                                    const Pixel pooled = from(at.top / 2, (at.left + j) / 2);
                                    const Pixel values[4] = {scaled(seen[0]), scaled(seen[1]), scaled(seen[2]), scaled(seen[3])};
                                    if (pooling == MEAN)
                                        for (int64_t k = 0; k < 4; ++k) gets[k] = where_positive(values[k], pooled * all(0.25f));
                                    else
                                        to_largest(values, pooled, gets);
                                }
                                note(p, j, seen, gets);
                            }
                        }
                    };
                    Pixel sum[2] = {all(0), all(0)}, product[2] = {all(0), all(0)};
                    auto add = [&](int64_t, int64_t, const Pixel(&seen)[4], const Pixel(&gets)[4]) {
                        for (int64_t k = 0; k < 4; ++k) {
                            sum[k % 2] = sum[k % 2] + gets[k];
                            if (s.norms) product[k % 2] = fused(gets[k], seen[k] - scaled.mean, product[k % 2]);
                        }
                    };
                    // the convolution's gradient is linear in what its results get and in themselves, with coefficients of the channel
                    Pixel by_seen = all(0), rest = all(0);
                    auto keep = [&](int64_t p, int64_t j, const Pixel(&seen)[4], const Pixel(&gets)[4]) {
                        Pixel of[4];  // beyond the map the patches are zeros, whatever is here
                        for (int64_t k = 0; k < 4; ++k)
                            of[k] = s.norms ? fused(scaled.scale, gets[k], fused(by_seen, seen[k], rest)) : gets[k];
                        for (int64_t i = 0; i < 2; ++i) {
                            bfloat16* row = &given[2 * p * TILE + (8 * i + j / 2) * 32];
                            _mm512_store_si512(row, interleaved(narrowed(of[2 * i].low), narrowed(of[2 * i + 1].low)));
                            _mm512_store_si512(row + TILE, interleaved(narrowed(of[2 * i].high), narrowed(of[2 * i + 1].high)));
                        }
                    };
                    if (s.norms) {
                        each(add);
                        const Pixel shifts = sum[0] + sum[1], scales = (product[0] + product[1]) * scaled.inverse;
                        const Pixel share = all(-1.0f / (s.height * s.width));
                        by_seen = share * scaled.scale * scaled.inverse * scales;
                        rest = share * scaled.scale * shifts - by_seen * scaled.mean;
                        store(of_weight + own, scales);
                        each(keep);
                    } else
                        each([&](int64_t p, int64_t j, const Pixel(&seen)[4], const Pixel(&gets)[4]) {
                            add(p, j, seen, gets);
                            keep(p, j, seen, gets);
                        });
                    store(of_bias + own, sum[0] + sum[1]);
                    for (int64_t t = 0; t < deep; ++t) {
                        float* const total = of_filters + (group * deep + t) * 32 * s.filters + d;
                        if (n % SUMMED == 0)
                            clear_sums();
                        else
                            load_sums(total, line);
                        for (int64_t p = 0; p < s.pieces(); ++p) {
                            const bfloat16 *patch = &turned[2 * (p * deep + t) * TILE], *gets = &given[2 * p * TILE];
                            add_products(patch, patch + TILE, gets, gets + TILE);
                        }
                        store_sums(total, line);
                    }
                }
            }
    }
}

}  // namespace

// Where a norm follows: its `weight` and `bias` [D], and of the convolution `mean` and `inverse` of the standard deviation [N][D]. Else `bias`
// is the convolution's and the other three are not touched.
extern "C" void mabench_first_block(const bfloat16* images, const bfloat16* weights, const float* weight, const float* bias, float eps,
                                    bfloat16* result, float* mean, float* inverse, const Block* block, int threads) {
    auto way = block->pooling == NONE ? forward<NONE> : block->pooling == MEAN ? forward<MEAN> : forward<LARGEST>;
    way(images, weights, weight, bias, eps, result, mean, inverse, *block, threads);
}

// From the gradient of the result: that of the filters, summed over every four images, [N/4][32*deep][D], of which the first K*K*C
// rows count; and those of the weight, where there is one, and the bias for every image, [N][D].
extern "C" void mabench_first_block_gradient(const bfloat16* gradient, const bfloat16* images, const bfloat16* weights,
                                             const float* weight, const float* bias, const float* mean, const float* inverse,
                                             float* of_filters, float* of_weight, float* of_bias, const Block* block, int threads) {
    auto way = block->pooling == NONE ? backward<NONE> : block->pooling == MEAN ? backward<MEAN> : backward<LARGEST>;
    way(gradient, images, weights, weight, bias, mean, inverse, of_filters, of_weight, of_bias, *block, threads);
}
