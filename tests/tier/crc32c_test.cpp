// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/crc32c.hpp>

#include <catch2/catch.hpp>

#include <random>
#include <string_view>
#include <vector>

namespace crc32c_test {

using namespace oriel;

namespace {

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> counting(int from, int step) {
  std::vector<std::byte> bytes;
  for (int i = 0; i < 32; ++i) {
    bytes.push_back(static_cast<std::byte>(from + i * step));
  }
  return bytes;
}

}  // namespace

TEST_CASE("crc32c gives the vectors of RFC 3720, on every path", "[tier]") {
  const struct {
    std::vector<std::byte> bytes;
    std::uint32_t crc;
  } vectors[] = {
      {{}, 0},
      {bytes_of("123456789"), 0xE306'9283u},
      {std::vector<std::byte>(32), 0x8A91'36AAu},
      {std::vector<std::byte>(32, std::byte{0xFF}), 0x62A8'AB43u},
      {counting(0, 1), 0x46DD'794Eu},
      {counting(31, -1), 0x113F'DB5Cu},
  };
  for (const auto& v : vectors) {
    CHECK(crc32c(v.bytes) == v.crc);
    CHECK(detail::crc32c_portable(v.bytes, 0) == v.crc);
    if (detail::has_crc32c_instruction()) {
      CHECK(detail::crc32c_sse42(v.bytes, 0) == v.crc);
    }
    if (detail::has_vpclmul()) {
      CHECK(detail::crc32c_vpclmul(v.bytes, 0) == v.crc);
    }
  }
}

TEST_CASE("all paths agree at every length and address, and checksums chain", "[tier]") {
  std::mt19937_64 random(1);
  std::vector<std::byte> bytes(3 * 8192 + 3 * 256 + 64);
  for (std::byte& b : bytes) {
    b = static_cast<std::byte>(random());
  }
  for (std::size_t length = 0; length < 1600; ++length) {
    const auto part = std::span(bytes).subspan(length % 13, length);
    const std::uint32_t expected = detail::crc32c_portable(part, 7);
    INFO(length << " bytes");
    REQUIRE(crc32c(part, 7) == expected);
    REQUIRE((!detail::has_crc32c_instruction() || detail::crc32c_sse42(part, 7) == expected));
    REQUIRE((!detail::has_vpclmul() || detail::crc32c_vpclmul(part, 7) == expected));
  }
  const std::uint32_t whole = detail::crc32c_portable(bytes, 0);
  for (std::size_t cut = 0; cut <= bytes.size(); cut += 97) {
    const auto all = std::span<const std::byte>(bytes);
    REQUIRE(crc32c(all.subspan(cut), crc32c(all.first(cut))) == whole);
  }
}

}  // namespace crc32c_test
