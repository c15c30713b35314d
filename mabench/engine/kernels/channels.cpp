// What happens to every channel of every image between two convolutions: instance norm, ReLU and pooling, and their gradients.
// Built and called by native.py and channels.py. A channel is read from memory once; its second reading finds it in the cache.
//
// Threads take the next few channels as they come, since their cores may not be equally fast; no sum depends on which takes what.
//
// Arrays: images [N][H][W][C] in bfloat16, C a multiple of 32; everything else in float32.

#include "pixels.h"

#include <cstring>

namespace {

constexpr int64_t AHEAD = 32;  // pixels: a channel's numbers lie too far apart for the processor to guess what comes next

inline void expect(const bfloat16* from) { _mm_prefetch(reinterpret_cast<const char*>(from), _MM_HINT_T0); }

}  // namespace

struct Map {
    int64_t images, height, width, channels;
    int64_t at(int64_t i, int64_t j) const { return (i * width + j) * channels; }  // within an image
};

struct Norm {
    int64_t images, height, width, channels, rectifies, pools;  // the last two: whether ReLU, whether the mean of 2 x 2 follow
};

namespace {

template <bool rectifies, bool pools>
void forward(const bfloat16* images, const float* weight, const float* bias, float eps, bfloat16* result, float* mean,
             float* inverse, const Norm& s, int threads) {
    const Map whole{s.images, s.height, s.width, s.channels}, made = pools ? Map{s.images, s.height / 2, s.width / 2, s.channels} : whole;
    const int64_t blocks = s.channels / 32, pixels = s.height * s.width;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t item = 0; item < s.images * blocks; ++item) {
        const int64_t n = item / blocks, c = item % blocks * 32;
        const bfloat16* x = images + n * pixels * s.channels + c;
        bfloat16* y = result + n * made.height * made.width * s.channels + c;
        // differences from a pixel in the middle, so that a large mean does not drown a small variance
        const Pixel middle = read(x + whole.at(s.height / 2, s.width / 2));
        Pixel sum[2] = {all(0), all(0)}, squares[2] = {all(0), all(0)};
        for (int64_t p = 0; p < pixels; ++p) {
            expect(x + (p + AHEAD) * s.channels);
            const Pixel apart = read(x + p * s.channels) - middle;
            sum[p % 2] = sum[p % 2] + apart;
            squares[p % 2] = fused(apart, apart, squares[p % 2]);
        }
        const Pixel share = all(1.0f / pixels), away = (sum[0] + sum[1]) * share;
        const Pixel variance = positive((squares[0] + squares[1]) * share - away * away) + all(eps);
        const Pixel own = middle + away;
        const Pixel root = one_over_root(variance);
        store(mean + n * s.channels + c, own);
        store(inverse + n * s.channels + c, root);
        const Pixel scale = root * load(weight + c), shift = load(bias + c) - own * scale;
        auto value = [&](int64_t i, int64_t j) {
            const Pixel normed = fused(read(x + whole.at(i, j)), scale, shift);
            return rectifies ? positive(normed) : normed;
        };
        for (int64_t i = 0; i < made.height; ++i)
            for (int64_t j = 0; j < made.width; ++j)
                if (pools)
                    write(y + made.at(i, j), (value(2 * i, 2 * j) + value(2 * i, 2 * j + 1) + value(2 * i + 1, 2 * j) +
                                              value(2 * i + 1, 2 * j + 1)) * all(0.25f));
                else
                    write(y + made.at(i, j), value(i, j));
    }
}

template <bool rectifies, bool pools>
void backward(const bfloat16* gradient, const bfloat16* images, const float* weight, const float* bias, const float* mean,
              const float* inverse, bfloat16* of_images, float* of_weight, float* of_bias, const Norm& s, int threads) {
    const Map whole{s.images, s.height, s.width, s.channels}, made = pools ? Map{s.images, s.height / 2, s.width / 2, s.channels} : whole;
    const int64_t blocks = s.channels / 32, pixels = s.height * s.width;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t item = 0; item < s.images * blocks; ++item) {
        const int64_t n = item / blocks, c = item % blocks * 32;
        const bfloat16* x = images + n * pixels * s.channels + c;
        const bfloat16* g = gradient + n * made.height * made.width * s.channels + c;
        bfloat16* y = of_images + n * pixels * s.channels + c;
        const Pixel own = load(mean + n * s.channels + c), root = load(inverse + n * s.channels + c);
        const Pixel scale = root * load(weight + c), shift = load(bias + c) - own * scale;
        // what the pixel's normed value gets
        auto given = [&](int64_t i, int64_t j, Pixel seen) {
            Pixel value = all(0);
            if (!pools)
                value = read(g + made.at(i, j));
            else if (i / 2 < made.height && j / 2 < made.width)
                value = read(g + made.at(i / 2, j / 2)) * all(0.25f);
            return rectifies ? where_positive(fused(seen, scale, shift), value) : value;
        };
        Pixel sum[2] = {all(0), all(0)}, product[2] = {all(0), all(0)};
        for (int64_t i = 0; i < s.height; ++i)
            for (int64_t j = 0; j < s.width; ++j) {
                expect(x + whole.at(i, j + AHEAD));
                expect(g + made.at(i, j + AHEAD));
                const Pixel seen = read(x + whole.at(i, j)), value = given(i, j, seen);
                sum[j % 2] = sum[j % 2] + value;
                product[j % 2] = fused(value, seen - own, product[j % 2]);
            }
        const Pixel total = sum[0] + sum[1], slope = (product[0] + product[1]) * root, share = all(-1.0f / pixels);
        store(of_bias + n * s.channels + c, total);
        store(of_weight + n * s.channels + c, slope);
        // the gradient is linear in the given one and in x, with coefficients of the channel
        const Pixel by_x = share * scale * root * slope, rest = share * scale * total - by_x * own;
        for (int64_t i = 0; i < s.height; ++i)
            for (int64_t j = 0; j < s.width; ++j) {
                const Pixel seen = read(x + whole.at(i, j));
                write(y + whole.at(i, j), fused(scale, given(i, j, seen), fused(by_x, seen, rest)));
            }
    }
}

}  // namespace

// `result` [N][H][W][C], pooled [N][H/2][W/2][C]; `mean` and `inverse` of the standard deviation [N][C].
extern "C" void mabench_instance_norm(const bfloat16* images, const float* weight, const float* bias, float eps, bfloat16* result,
                                      float* mean, float* inverse, const Norm* norm, int threads) {
    auto way = norm->pools ? (norm->rectifies ? forward<true, true> : forward<false, true>)
                           : (norm->rectifies ? forward<true, false> : forward<false, false>);
    way(images, weight, bias, eps, result, mean, inverse, *norm, threads);
}

// From the gradient of the result: that of the images, and those of weight and bias for every image, [N][C].
extern "C" void mabench_instance_norm_gradient(const bfloat16* gradient, const bfloat16* images, const float* weight,
                                               const float* bias, const float* mean, const float* inverse, bfloat16* of_images,
                                               float* of_weight, float* of_bias, const Norm* norm, int threads) {
    auto way = norm->pools ? (norm->rectifies ? backward<true, true> : backward<false, true>)
                           : (norm->rectifies ? backward<true, false> : backward<false, false>);
    way(gradient, images, weight, bias, mean, inverse, of_images, of_weight, of_bias, *norm, threads);
}

// Gradient of `images` [N][H][W][C] from that of their 2 x 2 maxima: to the first of equals, and NaN is above all.
extern "C" void mabench_pool_gradient(const bfloat16* images, const bfloat16* gradient, bfloat16* result, const Map* map,
                                      int threads) {
    const auto [count, height, width, channels] = *map;
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
                const __m512 values[4] = {widened(seen + at[0]), widened(seen + at[1]), widened(seen + at[2]), widened(seen + at[3])};
                __mmask16 won[4];
                winner(values, won);
                const __m256i given16 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(given + j * channels + c));
                for (int k = 0; k < 4; ++k)
                    _mm256_storeu_si256(reinterpret_cast<__m256i*>(own + at[k]), _mm256_maskz_mov_epi16(won[k], given16));
            }
        if (width % 2)
            for (int64_t below = 0; below < 2; ++below)
                std::memset(own + ((below + 1) * width - 1) * channels, 0, channels * sizeof(bfloat16));
    }
}
