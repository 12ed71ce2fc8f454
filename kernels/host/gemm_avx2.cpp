// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// AVX2 + FMA. bf16 weights are widened by shifting; both halves of a pair meet f32 fused adds.
#include <host/detail/gemm_tile.hpp>

#include <immintrin.h>

namespace oriel::host::detail {
namespace {

struct avx2_base {
  using vec = __m256;
  static constexpr std::uint32_t width = 8;
  static constexpr std::uint32_t panel_vectors = 2;

  static vec zero() noexcept { return _mm256_setzero_ps(); }
  static vec load(const float* from) noexcept { return _mm256_loadu_ps(from); }
  static void store(float* to, vec a) noexcept { _mm256_storeu_ps(to, a); }
  static vec add(vec a, vec b) noexcept { return _mm256_add_ps(a, b); }
  static vec splat(const std::uint32_t* x) noexcept {
    return _mm256_broadcast_ss(reinterpret_cast<const float*>(x));
  }
};

struct avx2_f32 : avx2_base {
  static constexpr std::uint32_t rows_max = 6;
  static constexpr std::size_t panels_together(std::size_t rows) noexcept {
    return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
  }
  static constexpr std::uint32_t k_per_step = 1;
  static constexpr std::uint32_t x_lanes_per_step = 1;
  using weights = __m256;
  using operand = __m256;

  static weights load_weights(const std::byte* from) noexcept {
    return _mm256_load_ps(reinterpret_cast<const float*>(from));
  }
  static operand broadcast(const std::uint32_t* x) noexcept { return splat(x); }
  static vec mac(vec acc, operand x, weights w) noexcept { return _mm256_fmadd_ps(x, w, acc); }
  static void pack_lanes(const float* x, std::uint32_t* lanes) noexcept {
    std::memcpy(lanes, x, chunk_lanes * sizeof(float));
  }
};

struct avx2_bf16 : avx2_base {
  static constexpr std::uint32_t rows_max = 4;
  static constexpr std::size_t panels_together(std::size_t rows) noexcept {
    return rows == 1 ? 4 : rows == 2 ? 2 : 1;
  }
  static constexpr std::uint32_t k_per_step = 2;
  static constexpr std::uint32_t x_lanes_per_step = 2;
  struct weights {
    __m256 even, odd;
  };
  struct operand {
    __m256 even, odd;
  };

  static weights load_weights(const std::byte* from) noexcept {
    const __m256i pairs = _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
    const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xFFFF'0000u));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(pairs, upper))};
  }
  static operand broadcast(const std::uint32_t* x) noexcept { return {splat(x), splat(x + 1)}; }
  static vec mac(vec acc, const operand& x, const weights& w) noexcept {
    return _mm256_fmadd_ps(x.odd, w.odd, _mm256_fmadd_ps(x.even, w.even, acc));
  }
  static __m256i round_to_bf16(__m256 x) noexcept {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040'0000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_and_si256(_mm256_blendv_epi8(rounded, quiet, is_nan),
                            _mm256_set1_epi32(static_cast<int>(0xFFFF'0000u)));
  }
  static void pack_lanes(const float* x, std::uint32_t* lanes) noexcept {
    for (std::uint32_t i = 0; i < chunk_lanes; i += 8) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + i),
                          round_to_bf16(_mm256_loadu_ps(x + i)));
    }
  }
};

}  // namespace

constexpr gemm_kernel gemm_f32_avx2 = make_gemm_kernel<avx2_f32>();
constexpr gemm_kernel gemm_bf16_avx2 = make_gemm_kernel<avx2_bf16>();

}  // namespace oriel::host::detail
