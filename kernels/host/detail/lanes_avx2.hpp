// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `lanes_avx2`: eight f32 in a register. See lanes_scalar.hpp for what each function means.
#pragma once

#include <cstddef>
#include <cstdint>

#include <immintrin.h>

namespace oriel::host::detail {

struct lanes_avx2 {
  static constexpr std::uint32_t width = 8;
  static constexpr std::uint32_t rows_max = 4;
  static constexpr std::uint32_t accumulators_max = 8;

  using vec = __m256;
  struct pair {
    vec first;
    vec second;
  };

  /// All ones in the first `n` lanes.
  static __m256i first_lanes(std::uint32_t n) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), index);
  }

  static vec set1(float x) { return _mm256_set1_ps(x); }
  static vec load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
  static vec load_first(const void* p, std::uint32_t n) {
    return _mm256_maskload_ps(static_cast<const float*>(p), first_lanes(n));
  }
  static void store(float* p, vec x) { _mm256_storeu_ps(p, x); }
  static void store_first(float* p, vec x, std::uint32_t n) {
    _mm256_maskstore_ps(p, first_lanes(n), x);
  }

  static vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
  static vec sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
  static vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
  static vec div(vec a, vec b) { return _mm256_div_ps(a, b); }
  static vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
  static vec max(vec a, vec b) { return _mm256_max_ps(a, b); }
  static vec power_of_two(vec biased) {
    const __m256i n = _mm256_add_epi32(_mm256_castps_si256(biased), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
  }
  static vec keep(vec x, std::uint32_t first, std::uint32_t last, float other) {
    const __m256i kept = _mm256_andnot_si256(first_lanes(first), first_lanes(last));
    return _mm256_blendv_ps(_mm256_set1_ps(other), x, _mm256_castsi256_ps(kept));
  }
  static vec round_to_bf16(vec x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    return _mm256_castsi256_ps(_mm256_and_si256(up, upper_half()));
  }
  static pair load_pairs(const void* p) {
    return widen(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static pair load_pairs_first(const void* p, std::uint32_t n, std::uint32_t mask) {
    const __m256i words = _mm256_maskload_epi32(static_cast<const int*>(p), first_lanes(n));
    return widen(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(mask))));
  }
  static float reduce_max(vec x) {
    const __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
  }
  static float reduce_add(vec x) {
    const __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
  }

 private:
  static __m256i upper_half() { return _mm256_set1_epi32(static_cast<int>(0xFFFF'0000u)); }
  static pair widen(__m256i words) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(words, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(words, upper_half()))};
  }
};

}  // namespace oriel::host::detail
