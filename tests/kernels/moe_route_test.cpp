// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/thread_pool.hpp>
#include <oriel/kernels/moe_route.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>

#include <algorithm>
#include <cmath>

namespace moe_route_test {

using oriel::isa;
using oriel::moe_route_shape;

namespace {

constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

struct routes {
  std::vector<std::uint32_t> ids;
  std::vector<float> weights;
};

oriel::moe_route_args args_of(const moe_route_shape& shape,
                              const std::vector<float>& logits,
                              const std::vector<float>& bias,
                              routes& r) {
  const auto tokens = static_cast<std::uint32_t>(logits.size() / shape.experts);
  r.ids.assign(std::size_t{tokens} * shape.top_k, UINT32_MAX);
  r.weights = poisoned_floats(r.ids.size());
  return {.ids = r.ids.data(),
          .weights = r.weights.data(),
          .logits = logits.data(),
          .logits_stride = shape.experts,
          .correction_bias = bias.empty() ? nullptr : bias.data(),
          .tokens = tokens};
}

routes run(const moe_route_shape& shape,
           const std::vector<float>& logits,
           const std::vector<float>& bias,
           isa path,
           oriel::executor_ref executor) {
  routes r;
  const auto plan = oriel::host::plan_moe_route(shape, path);
  REQUIRE(plan);
  oriel::host::run_moe_route(*plan, args_of(shape, logits, bias, r), executor);
  return r;
}

routes expected_of(const moe_route_shape& shape,
                   const std::vector<float>& logits,
                   const std::vector<float>& bias) {
  routes r;
  oriel::reference::moe_route(shape, args_of(shape, logits, bias, r));
  return r;
}

moe_route_shape random_shape(oriel::random_stream& random) {
  moe_route_shape shape{.experts = 1 + random.next_below(400), .top_k = 1};
  if (random.next_below(2) == 0) {
    shape.groups = 1 + random.next_below(8);
    shape.experts = shape.groups * (1 + random.next_below(40));
    shape.kept_groups = 1 + random.next_below(shape.groups);
  }
  const std::uint32_t eligible = shape.experts / shape.groups * shape.kept_groups;
  shape.top_k = 1 + random.next_below(std::min(eligible, 10u));
  shape.normalize = random.next_below(2) == 0;
  shape.scale = random.next_below(2) == 0 ? 1.0f : 2.5f;
  return shape;
}

void check_well_formed(const moe_route_shape& shape, const routes& r) {
  for (std::size_t i = 0; i < r.ids.size(); ++i) {
    REQUIRE(r.ids[i] < shape.experts);
    REQUIRE((i % shape.top_k == 0 || r.ids[i - 1] < r.ids[i]));
    REQUIRE(r.weights[i] >= 0.0f);
  }
}

}  // namespace

// Scores of the two differ by some 1e-7; these seeds have no choice as close as that.
TEST_CASE("moe_route meets the reference and gives one set of bits on every path") {
  oriel::serial_executor serial;
  oriel::random_stream random(31);
  for (int round = 0; round < 300; ++round) {
    const moe_route_shape shape = random_shape(random);
    const auto logits = random_floats(std::size_t{shape.experts} * 4, random, -4.0f, 4.0f);
    const auto bias =
        round % 3 == 0 ? std::vector<float>{} : random_floats(shape.experts, random, -0.5f, 0.5f);
    const routes expected = expected_of(shape, logits, bias);
    const routes scalar = run(shape, logits, bias, isa::scalar, serial);
    INFO("round " << round << ", experts " << shape.experts << ", top_k " << shape.top_k);
    check_well_formed(shape, scalar);
    REQUIRE(scalar.ids == expected.ids);
    for (std::size_t i = 0; i < expected.weights.size(); ++i) {
      REQUIRE(scalar.weights[i] == Approx(expected.weights[i]).epsilon(2e-6));
    }
    for (const isa path : supported_paths()) {
      const routes other = run(shape, logits, bias, path, serial);
      REQUIRE(other.ids == scalar.ids);
      REQUIRE(same_bits(other.weights, scalar.weights));
    }
  }
}

TEST_CASE("ties go to the lowest expert, and to the lowest group") {
  oriel::serial_executor serial;
  for (const isa path : supported_paths()) {
    const std::vector<float> equal(100, 0.25f);
    const routes r = run({.experts = 100, .top_k = 8}, equal, {}, path, serial);
    CHECK(r.ids == std::vector<std::uint32_t>{0, 1, 2, 3, 4, 5, 6, 7});
    CHECK(r.weights[0] == Approx(0.125f));

    // -0 and 0 are one choice.
    std::vector<float> zeros(40, 0.0f), bias(40, -0.5f);
    const routes z = run({.experts = 40, .top_k = 3}, zeros, bias, path, serial);
    CHECK(z.ids == std::vector<std::uint32_t>{0, 1, 2});

    const routes grouped = run({.experts = 64, .top_k = 4, .groups = 4, .kept_groups = 2},
                               std::vector<float>(64, 1.0f),
                               {},
                               path,
                               serial);
    CHECK(grouped.ids == std::vector<std::uint32_t>{0, 1, 2, 3});
  }
}

TEST_CASE("few distinct logits: the order among equals is the reference's") {
  oriel::serial_executor serial;
  oriel::random_stream random(77);
  for (int round = 0; round < 100; ++round) {
    const moe_route_shape shape = random_shape(random);
    std::vector<float> logits(std::size_t{shape.experts} * 3);
    for (float& l : logits) {
      l = static_cast<float>(random.next_below(4)) - 1.0f;
    }
    INFO("round " << round);
    REQUIRE(run(shape, logits, {}, oriel::best_isa(), serial).ids ==
            expected_of(shape, logits, {}).ids);
  }
}

TEST_CASE("the bias chooses but does not weigh") {
  oriel::serial_executor serial;
  const std::vector<float> logits{0.0f, 0.0f, 3.0f, 0.0f};
  const std::vector<float> bias{0.0f, 5.0f, 0.0f, 5.0f};
  const routes r = run({.experts = 4, .top_k = 2}, logits, bias, oriel::best_isa(), serial);
  CHECK(r.ids == std::vector<std::uint32_t>{1, 3});
  CHECK(r.weights == std::vector<float>{0.5f, 0.5f});
}

TEST_CASE("only the experts of the kept groups are chosen") {
  oriel::serial_executor serial;
  // The best expert stands in group 0, but groups 1 and 2 have the better pairs.
  const std::vector<float> logits{4.0f, -4.0f, 2.0f, 2.0f, 2.5f, 1.0f};
  const routes r = run({.experts = 6, .top_k = 3, .groups = 3, .kept_groups = 2},
                       logits,
                       {},
                       oriel::best_isa(),
                       serial);
  CHECK(r.ids == std::vector<std::uint32_t>{2, 3, 4});
}

TEST_CASE("NaN and infinite logits never crash, repeat an expert or leave the range") {
  oriel::serial_executor serial;
  oriel::random_stream random(3);
  for (int round = 0; round < 200; ++round) {
    const moe_route_shape shape = random_shape(random);
    auto logits = random_floats(std::size_t{shape.experts} * 2, random);
    auto bias = random_floats(shape.experts, random);
    const float special[] = {quiet_nan, -quiet_nan, infinity, -infinity};
    for (float& l : logits) {
      l = random.next_below(3) == 0 ? special[random.next_below(4)] : l;
    }
    for (float& b : bias) {
      b = random.next_below(8) == 0 ? special[random.next_below(4)] : b;
    }
    const routes first = run(shape, logits, bias, isa::scalar, serial);
    check_well_formed(shape, first);
    for (const isa path : supported_paths()) {
      const routes other = run(shape, logits, bias, path, serial);
      REQUIRE(other.ids == first.ids);
      REQUIRE(same_bits(other.weights, first.weights));
    }
  }
  std::vector<float> logits(10, quiet_nan);
  logits[7] = -20.0f;
  const routes r = run({.experts = 10, .top_k = 3}, logits, {}, oriel::best_isa(), serial);
  CHECK(r.ids == std::vector<std::uint32_t>{0, 1, 7});
  CHECK(r.weights[0] == 0.0f);
  CHECK(r.weights[2] == Approx(1.0f));
}

TEST_CASE("a token's route knows neither its companions nor the threads") {
  oriel::thread_pool pool(2);
  oriel::serial_executor serial;
  oriel::random_stream random(8);
  const moe_route_shape shape{.experts = 256, .top_k = 8};
  const auto logits = random_floats(256 * 500, random, -5.0f, 5.0f);
  const routes all = run(shape, logits, {}, oriel::best_isa(), pool);
  for (const std::size_t token : {0u, 17u, 499u}) {
    const std::vector<float> one(logits.begin() + static_cast<std::ptrdiff_t>(token * 256),
                                 logits.begin() + static_cast<std::ptrdiff_t>((token + 1) * 256));
    const routes alone = run(shape, one, {}, oriel::best_isa(), serial);
    CHECK(std::ranges::equal(alone.ids, std::span(all.ids).subspan(token * 8, 8)));
    CHECK(same_bits(alone.weights, std::span(all.weights).subspan(token * 8, 8)));
  }
}

TEST_CASE("moe_route refuses what it cannot do") {
  using oriel::host::plan_moe_route;
  CHECK_FALSE(plan_moe_route({.experts = 0, .top_k = 1}));
  CHECK_FALSE(plan_moe_route({.experts = 1025, .top_k = 1}));
  CHECK_FALSE(plan_moe_route({.experts = 8, .top_k = 0}));
  CHECK_FALSE(plan_moe_route({.experts = 8, .top_k = 9}));
  CHECK_FALSE(plan_moe_route({.experts = 8, .top_k = 1, .groups = 3}));
  CHECK_FALSE(plan_moe_route({.experts = 8, .top_k = 1, .groups = 2, .kept_groups = 3}));
  CHECK_FALSE(plan_moe_route({.experts = 8, .top_k = 5, .groups = 2, .kept_groups = 1}));
  CHECK(plan_moe_route({.experts = 1024, .top_k = 64}));
}

}  // namespace moe_route_test
