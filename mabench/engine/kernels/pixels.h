// 32 channels of one pixel in two registers, float32, and what is computed with them; shared by the programs beside this file.

#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

using bfloat16 = uint16_t;

// 32 channels of a pixel, in order.
struct Pixel {
    __m512 low, high;
};

inline __m512 widened(const bfloat16* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16));
}
inline Pixel read(const bfloat16* from) { return {widened(from), widened(from + 16)}; }
inline void write(bfloat16* to, Pixel p) { _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(p.high, p.low)); }
inline Pixel load(const float* from) { return {_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16)}; }
inline void store(float* to, Pixel p) {
    _mm512_storeu_ps(to, p.low);
    _mm512_storeu_ps(to + 16, p.high);
}
inline Pixel operator+(Pixel a, Pixel b) { return {_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)}; }
inline Pixel operator-(Pixel a, Pixel b) { return {_mm512_sub_ps(a.low, b.low), _mm512_sub_ps(a.high, b.high)}; }
inline Pixel operator*(Pixel a, Pixel b) { return {_mm512_mul_ps(a.low, b.low), _mm512_mul_ps(a.high, b.high)}; }
inline Pixel fused(Pixel a, Pixel b, Pixel c) {  // a * b + c
    return {_mm512_fmadd_ps(a.low, b.low, c.low), _mm512_fmadd_ps(a.high, b.high, c.high)};
}
inline Pixel one_over_root(Pixel p) {
    return {_mm512_div_ps(_mm512_set1_ps(1), _mm512_sqrt_ps(p.low)), _mm512_div_ps(_mm512_set1_ps(1), _mm512_sqrt_ps(p.high))};
}
inline __m256i narrowed(__m512 numbers) { return (__m256i)_mm512_cvtneps_pbh(numbers); }
inline Pixel all(float value) { return {_mm512_set1_ps(value), _mm512_set1_ps(value)}; }
inline Pixel positive(Pixel p) {  // NaN stays
    const __m512 zero = _mm512_setzero_ps();
    return {_mm512_max_ps(zero, p.low), _mm512_max_ps(zero, p.high)};
}
inline Pixel where_positive(Pixel p, Pixel value) {
    const __m512 zero = _mm512_setzero_ps();
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(p.low, zero, _CMP_GT_OQ), value.low),
            _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(p.high, zero, _CMP_GT_OQ), value.high)};
}

// Whether a is larger than b, NaN above all.
inline __mmask16 above(__m512 a, __m512 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) | _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
}
inline Pixel larger(Pixel a, Pixel b) {
    return {_mm512_mask_blend_ps(above(b.low, a.low), a.low, b.low), _mm512_mask_blend_ps(above(b.high, a.high), a.high, b.high)};
}
// Which of four is the first of the largest.
inline void winner(const __m512 (&values)[4], __mmask16 (&won)[4]) {
    won[0] = 0xffff;
    __m512 most = values[0];
    for (int k = 1; k < 4; ++k) {
        won[k] = above(values[k], most);
        for (int before = 0; before < k; ++before) won[before] &= ~won[k];
        most = _mm512_mask_blend_ps(won[k], most, values[k]);
    }
}

}  // namespace
