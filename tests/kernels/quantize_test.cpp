// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/random.hpp>
#include <oriel/kernels/quantize.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <limits>
#include <vector>

namespace quantize_test {

using oriel::bf16;
using oriel::e4m3;

namespace {

// The bf16 nearest to `exact`, found by trying the neighbours of a guess: slow and obvious.
bf16 nearest_bf16(double exact) {
  const auto guess = static_cast<std::uint32_t>(oriel::to_bf16(static_cast<float>(exact)));
  bf16 best{};
  double best_distance = std::numeric_limits<double>::infinity();
  for (const std::uint32_t bits : {guess - 1, guess, guess + 1}) {
    const auto candidate = static_cast<bf16>(bits & 0xFFFFu);
    const double value = static_cast<double>(oriel::to_float(candidate));
    const double distance = std::abs(value - exact);
    if (std::isfinite(value) &&
        (distance < best_distance || (distance == best_distance && (bits & 1u) == 0))) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

bf16 dequantize_one(e4m3 code, float scale) {
  bf16 out{};
  oriel::host::dequantize_block_scaled({.values = &code,
                                        .value_stride = 1,
                                        .scales = &scale,
                                        .scale_stride = 1,
                                        .grid_row = 0,
                                        .rows = 1,
                                        .columns = 1},
                                       &out,
                                       1);
  return out;
}

}  // namespace

TEST_CASE("all 256 codes times many scales are rounded once", "[quantize]") {
  oriel::random_stream random(1);
  for (std::uint32_t i = 0; i < 500; ++i) {
    // Few significant bits beyond bf16's make ties; 24 make double roundings.
    float scale =
        std::ldexp(random.next_uniform(1.0f, 2.0f), static_cast<int>(random.next_below(60)) - 40);
    if (i % 2 == 0) {
      scale = std::ldexp(1.0f + static_cast<float>(random.next_below(1024)) / 1024, -5);
    }
    for (std::uint32_t code = 0; code < 256; ++code) {
      const auto value = static_cast<e4m3>(code);
      const bf16 got = dequantize_one(value, scale);
      INFO("code " << code << " scale " << scale);
      if (std::isnan(oriel::to_float(value))) {
        REQUIRE(std::isnan(oriel::to_float(got)));
      } else {
        const double exact =
            static_cast<double>(oriel::to_float(value)) * static_cast<double>(scale);
        REQUIRE(oriel::to_float(got) == oriel::to_float(nearest_bf16(exact)));
        REQUIRE(std::signbit(oriel::to_float(got)) == ((code & 0x80u) != 0));
      }
    }
  }
}

TEST_CASE("a product that f32 would round into a tie is rounded by its true value", "[quantize]") {
  // 1.875 * (1 + 2^-8 * 17/15 + tiny) is found by search: f32 then bf16 differs from bf16 at once.
  oriel::random_stream random(2);
  std::uint32_t differing = 0;
  for (std::uint32_t i = 0; i < 2'000'000 && differing < 3; ++i) {
    const auto code = static_cast<e4m3>(0x3Fu);  // 1.875
    const float scale = 1.0f + static_cast<float>(random.next_below(1u << 23)) * 0x1p-23f;
    if (oriel::to_bf16(oriel::to_float(code) * scale) !=
        nearest_bf16(static_cast<double>(oriel::to_float(code)) * static_cast<double>(scale))) {
      ++differing;
      CHECK(dequantize_one(code, scale) ==
            nearest_bf16(static_cast<double>(oriel::to_float(code)) * static_cast<double>(scale)));
    }
  }
  CHECK(differing > 0);
}

TEST_CASE("the bits of the reference, for scales of any size", "[quantize]") {
  constexpr std::uint32_t rows = 130, columns = 258, grid_columns = 3;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float largest = std::numeric_limits<float>::max();
  oriel::random_stream random(4);
  std::vector<e4m3> values(rows * columns);
  for (e4m3& value : values) {
    value = static_cast<e4m3>(random.next_below(256));
  }
  // Products that overflow, that are subnormal or zero in bf16, and that nobody should ask for.
  std::vector<float> scales = {largest, 0x1p119f, 0x1.ffp120f, 0x1.234p-130f, 0x1p-149f, infinity};
  for (int i = 0; i < 40; ++i) {
    const oriel::block_scaled_rows from{.values = values.data(),
                                        .value_stride = columns,
                                        .scales = scales.data(),
                                        .scale_stride = grid_columns,
                                        .grid_row = 0,
                                        .rows = rows,
                                        .columns = columns};
    std::vector<bf16> got(rows * columns), want(rows * columns);
    oriel::host::dequantize_block_scaled(from, got.data(), columns);
    oriel::reference::dequantize_block_scaled(from, want.data(), columns);
    std::size_t wrong = 0;
    for (std::size_t e = 0; e < got.size(); ++e) {
      const bool both_nan =
          std::isnan(oriel::to_float(got[e])) && std::isnan(oriel::to_float(want[e]));
      wrong += got[e] != want[e] && !both_nan ? 1u : 0u;
    }
    REQUIRE(wrong == 0);
    for (float& scale : scales) {
      scale = std::ldexp(random.next_uniform(-2.0f, 2.0f),
                         static_cast<int>(random.next_below(250)) - 130);
    }
  }
}

TEST_CASE("blocks, ragged edges, strides and an offset in the grid", "[quantize]") {
  constexpr std::uint32_t matrix_rows = 300, columns = 200, grid_columns = 2;
  constexpr std::size_t stride = 211;
  oriel::random_stream random(3);
  std::vector<e4m3> values(matrix_rows * stride);
  for (e4m3& value : values) {
    value = static_cast<e4m3>(random.next_below(256));
  }
  std::vector<float> scales(3 * grid_columns);
  for (float& scale : scales) {
    scale = random.next_uniform(0.01f, 1.0f);
  }
  for (const std::uint32_t first : {0u, 1u, 27u, 127u, 128u, 250u}) {
    for (const std::uint32_t rows : {1u, 2u, 27u, 50u}) {
      std::vector<bf16> out(rows * stride, static_cast<bf16>(0x1234));
      oriel::host::dequantize_block_scaled({.values = &values[first * stride],
                                            .value_stride = stride,
                                            .scales = scales.data(),
                                            .scale_stride = grid_columns,
                                            .grid_row = first,
                                            .rows = rows,
                                            .columns = columns},
                                           out.data(),
                                           stride);
      for (std::uint32_t r = 0; r < rows; ++r) {
        for (std::uint32_t c = 0; c < stride; ++c) {
          const float scale =
              scales[(first + r) / 128 * grid_columns + std::min(c, columns - 1) / 128];
          const bf16 want = c < columns ? dequantize_one(values[(first + r) * stride + c], scale)
                                        : static_cast<bf16>(0x1234);
          REQUIRE(out[r * stride + c] == want);
        }
      }
    }
  }
}

}  // namespace quantize_test
