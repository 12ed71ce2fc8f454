// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/thread_pool.hpp>
#include <oriel/kernels/swiglu.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>

#include <cmath>

namespace swiglu_test {

using oriel::dtype;
using oriel::isa;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> run(const std::vector<float>& gate_up,
                       std::uint32_t inter,
                       dtype activation,
                       isa path,
                       oriel::executor_ref executor) {
  const auto plan = oriel::host::plan_swiglu({.inter = inter, .activation = activation}, path);
  REQUIRE(plan);
  const auto rows = static_cast<std::uint32_t>(gate_up.size() / (2 * inter));
  std::vector<float> out = poisoned_floats(std::size_t{rows} * inter);
  oriel::host::run_swiglu(*plan,
                          {.out = out.data(),
                           .out_stride = inter,
                           .gate_up = gate_up.data(),
                           .gate_up_stride = 2 * inter,
                           .rows = rows},
                          executor);
  return out;
}

std::vector<float> expected_of(const std::vector<float>& gate_up,
                               std::uint32_t inter,
                               dtype activation) {
  const auto rows = static_cast<std::uint32_t>(gate_up.size() / (2 * inter));
  std::vector<float> out = poisoned_floats(std::size_t{rows} * inter);
  oriel::reference::swiglu({.inter = inter, .activation = activation},
                           {.out = out.data(),
                            .out_stride = inter,
                            .gate_up = gate_up.data(),
                            .gate_up_stride = 2 * inter,
                            .rows = rows});
  return out;
}

}  // namespace

TEST_CASE("swiglu meets the reference and gives one set of bits on every path") {
  oriel::serial_executor serial;
  for (const dtype activation : {dtype::f32, dtype::bf16}) {
    for (const std::uint32_t inter : {1u, 3u, 16u, 31u, 64u, 250u, 2048u}) {
      oriel::random_stream random(inter);
      const auto gate_up = random_floats(std::size_t{inter} * 2 * 3, random, -12.0f, 12.0f);
      const auto expected = expected_of(gate_up, inter, activation);
      const auto scalar = run(gate_up, inter, activation, isa::scalar, serial);
      INFO("inter " << inter << ", " << oriel::name_of(activation));
      const float tolerance = activation == dtype::bf16 ? 0x1.1p-7f : 6e-7f;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        REQUIRE(std::abs(scalar[i] - expected[i]) <= tolerance * std::abs(expected[i]));
      }
      for (const isa path : supported_paths()) {
        CHECK(same_bits(run(gate_up, inter, activation, path, serial), scalar));
      }
    }
  }
}

TEST_CASE("silu is accurate from underflow to overflow") {
  oriel::serial_executor serial;
  for (float gate = -100.0f; gate < 100.0f; gate += 0.037f) {
    const std::vector<float> gate_up{gate, 1.0f};
    const double exact = double{gate} / (1.0 + std::exp(-double{gate}));
    const float got = run(gate_up, 1, dtype::f32, oriel::best_isa(), serial)[0];
    INFO("gate " << gate);
    REQUIRE(std::abs(got - exact) <= 5e-7 * std::abs(exact) + 1e-36);
  }
}

TEST_CASE("silu at the ends of the floats") {
  oriel::serial_executor serial;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> gate_up{infinity, -1e38f, 0.0f, -0.0f, nan, 1e38f, 1, 1, 1, 1, 1, 1};
  for (const isa path : supported_paths()) {
    const auto y = run(gate_up, 6, dtype::f32, path, serial);
    CHECK(y[0] == infinity);
    CHECK(y[1] == 0.0f);
    CHECK(y[2] == 0.0f);
    CHECK(y[3] == 0.0f);
    CHECK(std::isnan(y[4]));
    CHECK(y[5] == 1e38f);
  }
}

TEST_CASE("swiglu may overwrite its gate, and threads change nothing") {
  oriel::thread_pool pool(2);
  oriel::serial_executor serial;
  oriel::random_stream random(5);
  const std::uint32_t inter = 333, rows = 100;
  auto gate_up = random_floats(std::size_t{inter} * 2 * rows, random, -5.0f, 5.0f);
  const auto expected = run(gate_up, inter, dtype::bf16, oriel::best_isa(), serial);
  CHECK(same_bits(run(gate_up, inter, dtype::bf16, oriel::best_isa(), pool), expected));

  const auto plan = oriel::host::plan_swiglu({.inter = inter, .activation = dtype::bf16});
  oriel::host::run_swiglu(*plan,
                          {.out = gate_up.data(),
                           .out_stride = 2 * inter,
                           .gate_up = gate_up.data(),
                           .gate_up_stride = 2 * inter,
                           .rows = rows},
                          pool);
  for (std::size_t row = 0; row < rows; ++row) {
    REQUIRE(same_bits(std::span(gate_up).subspan(row * 2 * inter, inter),
                      std::span(expected).subspan(row * inter, inter)));
  }
}

TEST_CASE("swiglu refuses what it cannot do") {
  CHECK_FALSE(oriel::host::plan_swiglu({.inter = 0, .activation = dtype::f32}));
  CHECK_FALSE(oriel::host::plan_swiglu({.inter = 8, .activation = dtype::e4m3}));
}

}  // namespace swiglu_test
