// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `lanes_avx512`: sixteen f32 in a register. See lanes_scalar.hpp for what each function means.
#pragma once

#include <cstddef>
#include <cstdint>

#include <immintrin.h>

namespace oriel::host::detail {

struct lanes_avx512 {
  static constexpr std::uint32_t width = 16;
  static constexpr std::uint32_t rows_max = 8;
  static constexpr std::uint32_t accumulators_max = 16;

  using vec = __m512;
  struct pair {
    vec first;
    vec second;
  };

  static __mmask16 first_lanes(std::uint32_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

  static vec set1(float x) { return _mm512_set1_ps(x); }
  static vec load(const void* p) { return _mm512_loadu_ps(p); }
  static vec load_first(const void* p, std::uint32_t n) {
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
  }
  static void store(float* p, vec x) { _mm512_storeu_ps(p, x); }
  static void store_first(float* p, vec x, std::uint32_t n) {
    _mm512_mask_storeu_ps(p, first_lanes(n), x);
  }

  static vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
  static vec sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
  static vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
  static vec div(vec a, vec b) { return _mm512_div_ps(a, b); }
  static vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
  static vec max(vec a, vec b) { return _mm512_max_ps(a, b); }
  static vec power_of_two(vec biased) {
    const __m512i n = _mm512_add_epi32(_mm512_castps_si512(biased), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(n, 23));
  }
  static vec keep(vec x, std::uint32_t first, std::uint32_t last, float other) {
    const auto kept = static_cast<__mmask16>(first_lanes(last) & ~first_lanes(first));
    return _mm512_mask_mov_ps(_mm512_set1_ps(other), kept, x);
  }
  static vec round_to_bf16(vec x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    return _mm512_castsi512_ps(_mm512_and_si512(up, upper_half()));
  }
  static pair load_pairs(const void* p) { return widen(_mm512_loadu_si512(p)); }
  static pair load_pairs_first(const void* p, std::uint32_t n, std::uint32_t mask) {
    return widen(load_words_first(p, n, mask));
  }
  /// The first `n` words, each after an AND with `mask`; the others are zero.
  static __m512i load_words_first(const void* p, std::uint32_t n, std::uint32_t mask) {
    const __m512i words = _mm512_maskz_loadu_epi32(first_lanes(n), p);
    return _mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(mask)));
  }
  /// Halves against halves, four times: the tree is fixed here, not by the compiler.
  static float reduce_max(vec x) {
    return fold(
        x,
        [](auto a, auto b) { return _mm_max_ps(a, b); },
        [](auto a, auto b) { return _mm256_max_ps(a, b); });
  }
  static float reduce_add(vec x) {
    return fold(
        x,
        [](auto a, auto b) { return _mm_add_ps(a, b); },
        [](auto a, auto b) { return _mm256_add_ps(a, b); });
  }

 private:
  static __m512i upper_half() { return _mm512_set1_epi32(static_cast<int>(0xFFFF'0000u)); }
  static pair widen(__m512i words) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(words, upper_half()))};
  }
  template <class F4, class F8>
  static float fold(vec x, F4 f4, F8 f8) {
    const __m256 a = f8(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 b = f4(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = f4(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(f4(c, _mm_movehdup_ps(c)));
  }
};

}  // namespace oriel::host::detail
