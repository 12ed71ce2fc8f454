// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the AVX-512 units share: the accumulator's operations.
#pragma once

#include <host/detail/gemm_tile.hpp>

#include <immintrin.h>

namespace oriel::host::detail {
namespace {

struct avx512_base {
  using vec = __m512;
  static constexpr std::uint32_t width = 16;
  static constexpr std::uint32_t panel_vectors = 2;

  static vec zero() noexcept { return _mm512_setzero_ps(); }
  static vec load(const float* from) noexcept { return _mm512_loadu_ps(from); }
  static void store(float* to, vec a) noexcept { _mm512_storeu_ps(to, a); }
  static vec add(vec a, vec b) noexcept { return _mm512_add_ps(a, b); }
  static vec splat(const std::uint32_t* x) noexcept {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*x)));
  }
};

}  // namespace
}  // namespace oriel::host::detail
