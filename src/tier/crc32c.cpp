// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/crc32c.hpp>

#include <array>
#include <bit>
#include <cstring>

namespace oriel {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as they lie in memory");

constexpr std::uint32_t polynomial = 0x82F6'3B78u;  // reflected

using byte_table = std::array<std::uint32_t, 256>;

/// tables[k][b]: what byte b does to the checksum when k more bytes follow it.
constexpr std::array<byte_table, 8> make_tables() {
  std::array<byte_table, 8> tables = {};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1u) != 0 ? polynomial : 0u);
    }
    tables[0][b] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t b = 0; b < 256; ++b) {
      tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 0xFFu];
    }
  }
  return tables;
}

constexpr std::array<byte_table, 8> tables = make_tables();

}  // namespace

namespace detail {

std::uint32_t crc32c_portable(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
  std::uint32_t crc = ~before;
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= 8; at += 8, left -= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof(word));
    word ^= crc;
    crc = 0;
    for (std::size_t k = 0; k < 8; ++k) {
      crc ^= tables[7 - k][(word >> (8 * k)) & 0xFFu];
    }
  }
  for (; left > 0; ++at, --left) {
    crc = (crc >> 8) ^ tables[0][(crc ^ static_cast<std::uint32_t>(*at)) & 0xFFu];
  }
  return ~crc;
}

#if !defined(__x86_64__)
bool has_crc32c_instruction() noexcept {
  return false;
}
std::uint32_t crc32c_sse42(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
  return crc32c_portable(bytes, before);
}
bool has_vpclmul() noexcept {
  return false;
}
std::uint32_t crc32c_vpclmul(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
  return crc32c_portable(bytes, before);
}
#else
bool has_crc32c_instruction() noexcept {
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse4.2") != 0;
}
bool has_vpclmul() noexcept {
  __builtin_cpu_init();
  return has_crc32c_instruction() && __builtin_cpu_supports("avx512f") != 0 &&
         __builtin_cpu_supports("pclmul") != 0 && __builtin_cpu_supports("vpclmulqdq") != 0;
}
#endif

}  // namespace detail

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
  static const auto best = detail::has_vpclmul()              ? detail::crc32c_vpclmul
                           : detail::has_crc32c_instruction() ? detail::crc32c_sse42
                                                              : detail::crc32c_portable;
  return best(bytes, before);
}

}  // namespace oriel
