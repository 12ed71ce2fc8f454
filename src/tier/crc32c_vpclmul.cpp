// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Built for AVX-512 with VPCLMULQDQ and entered only after has_vpclmul() has seen them on the CPU.
//
//     |-- x0: 64 bytes --|-- x1 --|-- x2 --|-- x3 --|-- 256 bytes more --| ...
//
// A checksum is a remainder, so 16 bytes may be replaced by any others that have the same one so
// much later: their two halves, each times the remainder of x^distance (Gopal et al., "Fast CRC
// computation using PCLMULQDQ"). Four registers of four such pieces go over the bytes in step; what
// is left in the end is 16 bytes, which the CRC instruction takes. One pass in order: beside the
// three lanes of crc32c_sse42 it is what memory likes, where a page has just come from a disk.
#include <oriel/tier/crc32c.hpp>

#if defined(__x86_64__)
#include <cstddef>

#include <immintrin.h>

namespace oriel::detail {
namespace {

/// x^n modulo the polynomial, as a factor of reflected operands.
constexpr std::uint64_t power_of_x(unsigned n) {
  std::uint32_t r = 0x8000'0000u;  // 1, reflected
  for (; n > 0; --n) {
    r = (r >> 1) ^ ((r & 1u) != 0 ? 0x82F6'3B78u : 0u);
  }
  return std::uint64_t{r} << 1;
}

/// Factors of the low and the high half of 16 bytes that are moved so many bytes on.
struct move_factors {
  constexpr explicit move_factors(unsigned bytes)
      : low(power_of_x(8 * bytes + 32)), high(power_of_x(8 * bytes - 32)) {}
  std::uint64_t low, high;
};

constexpr move_factors by_256(256), by_64(64), by_48(48), by_32(32), by_16(16);

__m512i wide(const move_factors& f) noexcept {
  return _mm512_broadcast_i32x4(
      _mm_set_epi64x(static_cast<long long>(f.high), static_cast<long long>(f.low)));
}

/// The four pieces of x, moved on, and added to y.
__m512i moved(__m512i x, __m512i factors, __m512i y) noexcept {
  constexpr int xor3 = 0x96;
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, factors, 0x00),
                                   _mm512_clmulepi64_epi128(x, factors, 0x11),
                                   y,
                                   xor3);
}

__m128i moved(__m128i x, const move_factors& f) noexcept {
  const __m128i factors =
      _mm_set_epi64x(static_cast<long long>(f.high), static_cast<long long>(f.low));
  return _mm_xor_si128(_mm_clmulepi64_si128(x, factors, 0x00),
                       _mm_clmulepi64_si128(x, factors, 0x11));
}

}  // namespace

std::uint32_t crc32c_vpclmul(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
  constexpr std::size_t step = 256;
  if (bytes.size() < 2 * step) {
    return crc32c_sse42(bytes, before);
  }
  const std::byte* at = bytes.data();
  __m512i x[4];
  for (std::size_t i = 0; i < 4; ++i) {
    x[i] = _mm512_loadu_si512(at + 64 * i);
  }
  // What came before is as if it were added to the first bytes.
  x[0] =
      _mm512_xor_si512(x[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(~before))));
  std::size_t left = bytes.size() - step;
  at += step;
  for (const __m512i factors = wide(by_256); left >= step; at += step, left -= step) {
    for (std::size_t i = 0; i < 4; ++i) {
      x[i] = moved(x[i], factors, _mm512_loadu_si512(at + 64 * i));
    }
  }
  const __m512i factors = wide(by_64);
  const __m512i last = moved(moved(moved(x[0], factors, x[1]), factors, x[2]), factors, x[3]);
  __m128i rest = _mm512_extracti32x4_epi32(last, 3);
  rest = _mm_xor_si128(rest, moved(_mm512_extracti32x4_epi32(last, 0), by_48));
  rest = _mm_xor_si128(rest, moved(_mm512_extracti32x4_epi32(last, 1), by_32));
  rest = _mm_xor_si128(rest, moved(_mm512_extracti32x4_epi32(last, 2), by_16));
  std::uint64_t crc = _mm_crc32_u64(0, static_cast<std::uint64_t>(_mm_extract_epi64(rest, 0)));
  crc = _mm_crc32_u64(crc, static_cast<std::uint64_t>(_mm_extract_epi64(rest, 1)));
  return crc32c_sse42({at, left}, ~static_cast<std::uint32_t>(crc));
}

}  // namespace oriel::detail
#endif
