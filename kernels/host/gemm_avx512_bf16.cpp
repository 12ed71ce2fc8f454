// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The bf16 dot product, vdpbf16ps: acc += x0 * w0 + x1 * w1 per 32-bit lane.
#include <host/detail/gemm_avx512.hpp>

namespace oriel::host::detail {
namespace {

struct avx512_dot : avx512_base {
  static constexpr std::uint32_t rows_max = 14;
  static constexpr std::size_t panels_together(std::size_t rows) noexcept {
    return rows <= 2 ? 4 : rows <= 6 ? 2 : 1;
  }
  static constexpr std::uint32_t k_per_step = 2;
  static constexpr std::uint32_t x_lanes_per_step = 1;
  using weights = __m512i;
  using operand = __m512i;

  static weights load_weights(const std::byte* from) noexcept { return _mm512_load_si512(from); }
  static operand broadcast(const std::uint32_t* x) noexcept {
    return _mm512_set1_epi32(static_cast<int>(*x));
  }
  static vec mac(vec acc, operand x, weights w) noexcept {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w));
  }
  static void pack_lanes(const float* x, std::uint32_t* lanes) noexcept {
    const __m512bh pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
    _mm512_storeu_si512(lanes, reinterpret_cast<__m512i>(pairs));
  }
};

}  // namespace

constexpr gemm_kernel gemm_bf16_avx512_bf16 = make_gemm_kernel<avx512_dot>();

}  // namespace oriel::host::detail
