// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/dtype.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <limits>

using oriel::bf16;
using oriel::e4m3;

TEST_CASE("bf16 rounds to nearest, ties to even") {
  CHECK(oriel::round_to_bf16(1.0f) == 1.0f);
  CHECK(oriel::round_to_bf16(1.0f + 0x1p-8f) == 1.0f);            // tie, even below
  CHECK(oriel::round_to_bf16(1.0f + 0x3p-8f) == 1.0f + 0x1p-6f);  // tie, even above
  CHECK(oriel::round_to_bf16(1.0f + 0x1.1p-8f) == 1.0f + 0x1p-7f);
  CHECK(std::isinf(oriel::round_to_bf16(std::numeric_limits<float>::max())));
  CHECK(std::isnan(oriel::round_to_bf16(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("every bf16 survives a round trip") {
  for (std::uint32_t bits = 0; bits < 65'536; ++bits) {
    const auto x = static_cast<bf16>(bits);
    if (!std::isnan(oriel::to_float(x))) {
      REQUIRE(oriel::to_bf16(oriel::to_float(x)) == x);
    }
  }
}

TEST_CASE("e4m3 decodes the values of the OCP table") {
  CHECK(oriel::to_float(e4m3{0x00}) == 0.0f);
  CHECK(oriel::to_float(e4m3{0x01}) == 0x1p-9f);
  CHECK(oriel::to_float(e4m3{0x07}) == 7 * 0x1p-9f);
  CHECK(oriel::to_float(e4m3{0x08}) == 0x1p-6f);
  CHECK(oriel::to_float(e4m3{0x38}) == 1.0f);
  CHECK(oriel::to_float(e4m3{0x7E}) == 448.0f);
  CHECK(oriel::to_float(e4m3{0xFE}) == -448.0f);
  CHECK(std::isnan(oriel::to_float(e4m3{0x7F})));
  CHECK(std::isnan(oriel::to_float(e4m3{0xFF})));
}

TEST_CASE("e4m3 encodes to the nearest, ties to even") {
  const auto nearest = [](float x) {  // By its distance to all 127 finite magnitudes.
    std::uint32_t best = 0;
    const float magnitude = std::fabs(x);
    for (std::uint32_t bits = 1; bits < 0x7F; ++bits) {
      const float here = std::fabs(oriel::to_float(static_cast<e4m3>(bits)) - magnitude);
      const float before = std::fabs(oriel::to_float(static_cast<e4m3>(best)) - magnitude);
      best = here < before || (here == before && bits % 2 == 0) ? bits : best;
    }
    return static_cast<e4m3>(best | (std::signbit(x) ? 0x80u : 0u));
  };
  for (std::uint32_t bits = 0; bits < 0x7F; ++bits) {  // Every value, and what lies half-way.
    const float value = oriel::to_float(static_cast<e4m3>(bits));
    const float next = oriel::to_float(static_cast<e4m3>(bits + (bits < 0x7E ? 1 : 0)));
    const float half = (value + next) / 2;
    for (const float x : {value, half, std::nextafter(half, 0.0f), std::nextafter(half, 999.0f)}) {
      REQUIRE(oriel::to_e4m3(x) == nearest(x));
      REQUIRE(oriel::to_e4m3(-x) == nearest(-x));
    }
  }
  CHECK(oriel::to_e4m3(1e9f) == e4m3{0x7E});
  CHECK(oriel::to_e4m3(-std::numeric_limits<float>::infinity()) == e4m3{0xFE});
  CHECK(oriel::to_e4m3(-std::numeric_limits<float>::quiet_NaN()) == e4m3{0x7F});
  CHECK(oriel::to_e4m3(1e-9f) == e4m3{0x00});
}
