// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/random.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cstdint>

using words = std::array<std::uint32_t, 4>;

TEST_CASE("philox4x32 gives the published answers") {
  // The known-answer vectors that the authors publish with their Random123 library.
  static_assert(oriel::philox4x32({0, 0, 0, 0}, {0, 0}) ==
                words{0x6627'e8d5, 0xe169'c58d, 0xbc57'ac4c, 0x9b00'dbd8});
  constexpr std::uint32_t ones = 0xffff'ffff;
  static_assert(oriel::philox4x32({ones, ones, ones, ones}, {ones, ones}) ==
                words{0x408f'276d, 0x41c8'3b0e, 0xa20b'c7c6, 0x6d54'51fd});
  CHECK(oriel::philox4x32({0x243f'6a88, 0x85a3'08d3, 0x1319'8a2e, 0x0370'7344},
                          {0xa409'3822, 0x299f'31d0}) ==
        words{0xd16c'fe09, 0x94fd'cceb, 0x5001'e420, 0x2412'6ea1});
}

TEST_CASE("unit floats are at least 0 and below 1") {
  CHECK(oriel::to_unit_float(0) == 0.0f);
  CHECK(oriel::to_unit_float(0xffff'ffff) == 1.0f - 0x1p-24f);
  CHECK(oriel::to_unit_float(0x8000'0000) == 0.5f);
}

TEST_CASE("a draw depends on seed, stream and index alone") {
  const oriel::random_stream a(7, 1), b(7, 2), c(8, 1);
  CHECK(a.bits(5) == oriel::random_stream(7, 1).bits(5));
  CHECK(a.bits(5) != b.bits(5));
  CHECK(a.bits(5) != c.bits(5));
  oriel::random_stream in_order(7, 1);
  for (std::uint64_t i = 0; i < 20; ++i) {
    CHECK(in_order.next_bits() == a.bits(i));
  }
}

TEST_CASE("a copy goes on from the middle of a block of four draws") {
  oriel::random_stream stream(7, 1);
  for (std::uint64_t i = 0; i < 11; ++i) {
    oriel::random_stream copy = stream;
    CHECK(copy.next_bits() == stream.bits(i));
    CHECK(stream.next_bits() == stream.bits(i));
  }
  CHECK(stream.next_uniform() == stream.uniform(11));
}

TEST_CASE("uniform draws have the moments of the uniform distribution") {
  oriel::random_stream stream(123);
  constexpr int count = 100'000;
  double sum = 0, squares = 0;
  std::array<int, 10> bins{};
  for (int i = 0; i < count; ++i) {
    const float u = stream.next_uniform();
    sum += u;
    squares += static_cast<double>(u) * u;
    ++bins[static_cast<std::size_t>(u * 10)];
  }
  CHECK(sum / count == Approx(0.5).margin(0.005));
  CHECK(squares / count == Approx(1.0 / 3).margin(0.005));
  for (const int bin : bins) {
    CHECK(bin == Approx(count / 10).margin(500));
  }
}

TEST_CASE("next_below stays below and reaches every value") {
  oriel::random_stream stream(5);
  std::array<int, 7> seen{};
  for (int i = 0; i < 1000; ++i) {
    ++seen.at(stream.next_below(7));
  }
  for (const int count : seen) {
    CHECK(count > 0);
  }
}
