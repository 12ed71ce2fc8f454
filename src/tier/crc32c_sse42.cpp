// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Built for SSE4.2 and entered only after has_crc32c_instruction() has seen it on the CPU.
//
//     |------ lane_bytes ------|------ lane_bytes ------|------ lane_bytes ------|
//        crc0 (with what was)          crc1 from 0              crc2 from 0
//     crc = shift(shift(crc0) ^ crc1) ^ crc2,   shift: as if lane_bytes zeros followed
//
// The checksum is linear over bits, so that shift is a product with a 32 x 32 matrix; four tables
// of 256 words hold it by bytes (after M. Adler's crc32c.c).
#include <oriel/tier/crc32c.hpp>

#if defined(__x86_64__)
#include <array>
#include <cstring>

#include <nmmintrin.h>

namespace oriel::detail {
namespace {

using bit_matrix = std::array<std::uint32_t, 32>;  // [bit of the operand]: what it adds

constexpr std::uint32_t times(const bit_matrix& m, std::uint32_t vector) {
  std::uint32_t sum = 0;
  for (std::size_t bit = 0; vector != 0; vector >>= 1, ++bit) {
    sum ^= (vector & 1u) != 0 ? m[bit] : 0u;
  }
  return sum;
}

constexpr bit_matrix square(const bit_matrix& m) {
  bit_matrix result = {};
  for (std::size_t bit = 0; bit < 32; ++bit) {
    result[bit] = times(m, m[bit]);
  }
  return result;
}

/// Tables that append 2^log2_bytes zero bytes.
class zeros_operator {
 public:
  constexpr explicit zeros_operator(int log2_bytes) {
    bit_matrix m = {};  // one zero bit
    m[0] = 0x82F6'3B78u;
    for (std::size_t bit = 1; bit < 32; ++bit) {
      m[bit] = std::uint32_t{1} << (bit - 1);
    }
    for (int i = 0; i < log2_bytes + 3; ++i) {
      m = square(m);
    }
    for (std::uint32_t b = 0; b < 256; ++b) {
      for (std::size_t k = 0; k < 4; ++k) {
        tables_[k][b] = times(m, b << (8 * k));
      }
    }
  }
  [[nodiscard]] std::uint64_t operator()(std::uint64_t crc) const noexcept {
    return tables_[0][crc & 0xFFu] ^ tables_[1][(crc >> 8) & 0xFFu] ^
           tables_[2][(crc >> 16) & 0xFFu] ^ tables_[3][(crc >> 24) & 0xFFu];
  }

 private:
  std::array<std::array<std::uint32_t, 256>, 4> tables_ = {};
};

constexpr zeros_operator after_8192(13);
constexpr zeros_operator after_256(8);

std::uint64_t word_at(const std::byte* at) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

/// Takes as many triples of lanes as there are.
template <std::size_t LaneBytes>
std::uint64_t three_lanes(std::uint64_t crc,
                          const std::byte*& at,
                          std::size_t& left,
                          const zeros_operator& shift) noexcept {
  while (left >= 3 * LaneBytes) {
    std::uint64_t crc1 = 0, crc2 = 0;
    for (std::size_t i = 0; i < LaneBytes; i += 8) {
      crc = _mm_crc32_u64(crc, word_at(at + i));
      crc1 = _mm_crc32_u64(crc1, word_at(at + LaneBytes + i));
      crc2 = _mm_crc32_u64(crc2, word_at(at + 2 * LaneBytes + i));
    }
    crc = shift(shift(crc) ^ crc1) ^ crc2;
    at += 3 * LaneBytes;
    left -= 3 * LaneBytes;
  }
  return crc;
}

}  // namespace

std::uint32_t crc32c_sse42(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
  std::uint64_t crc = static_cast<std::uint32_t>(~before);
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  crc = three_lanes<8192>(crc, at, left, after_8192);
  crc = three_lanes<256>(crc, at, left, after_256);
  for (; left >= 8; at += 8, left -= 8) {
    crc = _mm_crc32_u64(crc, word_at(at));
  }
  for (; left > 0; ++at, --left) {
    crc = _mm_crc32_u8(static_cast<std::uint32_t>(crc), static_cast<std::uint8_t>(*at));
  }
  return ~static_cast<std::uint32_t>(crc);
}

}  // namespace oriel::detail
#endif
