// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/attention_body.hpp"
#include "detail/lanes_avx512.hpp"

#include <cstring>

namespace oriel::host::detail {
namespace {

/// bf16 storage, multiplied in pairs by one instruction (vdpbf16ps), which flushes denormals.
struct unit_bf16_dot {
  using lanes = lanes_avx512;
  using vec = __m512;
  using loaded = __m512bh;
  using factor = __m512bh;
  static constexpr std::uint32_t elements = 2;
  static constexpr std::uint32_t words = 1;

  static loaded load(const std::byte* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static loaded load_first(const std::byte* p, std::uint32_t n, std::uint32_t mask) {
    return (__m512bh)lanes::load_words_first(p, n, mask);
  }
  static factor broadcast(const float* y) { return (__m512bh)_mm512_set1_ps(*y); }
  static vec step(vec acc, loaded x, factor y) { return _mm512_dpbf16_ps(acc, x, y); }
  static void pack(float* words_out, const float* x, std::uint32_t n) {
    const bf16 pair[2] = {to_bf16(x[0]), n > 1 ? to_bf16(x[1]) : bf16{}};
    std::memcpy(words_out, pair, sizeof pair);
  }
  static void store(float* row, std::uint32_t v, vec p) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(p);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + v * (lanes::width / 2)), rounded);
  }
};

}  // namespace

attention_steps attention_steps_avx512_bf16(dtype kv) noexcept {
  return kv == dtype::bf16 ? attention_body<unit_bf16_dot>::steps() : attention_steps_avx512(kv);
}

}  // namespace oriel::host::detail
