// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// AVX-512 without the bf16 dot product: bf16 weights are widened by shifting.
#include <host/detail/gemm_avx512.hpp>

namespace oriel::host::detail {
namespace {

struct avx512_f32 : avx512_base {
  static constexpr std::uint32_t rows_max = 14;  // 28 accumulators, two weights, one x.
  static constexpr std::size_t panels_together(std::size_t rows) noexcept {
    return rows <= 2 ? 4 : rows <= 6 ? 2 : 1;
  }
  static constexpr std::uint32_t k_per_step = 1;
  static constexpr std::uint32_t x_lanes_per_step = 1;
  using weights = __m512;
  using operand = __m512;

  static weights load_weights(const std::byte* from) noexcept { return _mm512_load_ps(from); }
  static operand broadcast(const std::uint32_t* x) noexcept { return splat(x); }
  static vec mac(vec acc, operand x, weights w) noexcept { return _mm512_fmadd_ps(x, w, acc); }
  static void pack_lanes(const float* x, std::uint32_t* lanes) noexcept {
    _mm512_storeu_ps(lanes, _mm512_loadu_ps(x));
  }
};

struct avx512_bf16 : avx512_base {
  static constexpr std::uint32_t rows_max =
      12;  // 24 accumulators, four half-pairs of weights, two of x.
  static constexpr std::size_t panels_together(std::size_t rows) noexcept {
    return rows <= 2 ? 4 : rows <= 5 ? 2 : 1;
  }
  static constexpr std::uint32_t k_per_step = 2;
  static constexpr std::uint32_t x_lanes_per_step = 2;
  struct weights {
    __m512 even, odd;
  };
  struct operand {
    __m512 even, odd;
  };

  static weights load_weights(const std::byte* from) noexcept {
    const __m512i pairs = _mm512_load_si512(from);
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xFFFF'0000u));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, upper))};
  }
  static operand broadcast(const std::uint32_t* x) noexcept { return {splat(x), splat(x + 1)}; }
  static vec mac(vec acc, const operand& x, const weights& w) noexcept {
    return _mm512_fmadd_ps(x.odd, w.odd, _mm512_fmadd_ps(x.even, w.even, acc));
  }
  static void pack_lanes(const float* x, std::uint32_t* lanes) noexcept {
    const __m512 value = _mm512_loadu_ps(x);
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040'0000));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i chosen = _mm512_mask_mov_epi32(rounded, is_nan, quiet);
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xFFFF'0000u));
    _mm512_storeu_si512(lanes, _mm512_and_si512(chosen, upper));
  }
};

}  // namespace

constexpr gemm_kernel gemm_f32_avx512 = make_gemm_kernel<avx512_f32>();
constexpr gemm_kernel gemm_bf16_avx512 = make_gemm_kernel<avx512_bf16>();

}  // namespace oriel::host::detail
