// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What calls a router's choice a near tie (tests/support/router_gap.hpp) is right: smaller changes of scores take the
// same experts, and without groups one as large as the gap takes others.
#include "support/router_gap.hpp"

#include <oriel/core/random.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace router_gap_test {

using namespace oriel;

namespace {

std::vector<std::uint32_t> experts_of(const moe_route_shape& shape,
                                      const std::vector<float>& logits,
                                      const std::vector<float>& bias) {
  std::vector<std::uint32_t> ids(shape.top_k);
  std::vector<float> weights(shape.top_k);
  reference::moe_route(shape,
                       {.ids = ids.data(),
                        .weights = weights.data(),
                        .logits = logits.data(),
                        .logits_stride = logits.size(),
                        .correction_bias = bias.data(),
                        .tokens = 1});
  return ids;
}

}  // namespace

TEST_CASE("a router's gap is what has to change before other experts are taken") {
  const std::uint64_t seed = GENERATE(range(std::uint64_t{0}, std::uint64_t{40}));
  CAPTURE(seed);
  random_stream random(seed, 140);
  const std::uint32_t groups = seed % 2 == 0 ? 1 : 4;
  const moe_route_shape shape{.experts = 16,
                              .top_k = 1 + random.next_below(4),
                              .groups = groups,
                              .kept_groups = groups == 1 ? 1 : 1 + random.next_below(3)};
  const auto between = [&](float limit) {
    return limit * (2.0f * static_cast<float>(random.next_below(10'001)) / 10'000.0f - 1.0f);
  };
  std::vector<float> logits(shape.experts), bias(shape.experts);
  for (std::size_t e = 0; e < logits.size(); ++e) {
    logits[e] = between(3.0f);
    bias[e] = between(0.2f);
  }
  const std::vector<std::uint32_t> taken = experts_of(shape, logits, bias);
  const float gap = test::router_gap(shape, logits.data(), bias.data());
  REQUIRE(gap > 0.0f);
  for (int i = 0; i < 50; ++i) {
    std::vector<float> changed = bias;  // A sum of two changes by half the gap at most.
    for (float& b : changed) {
      b += between(0.24f * gap);
    }
    CHECK(experts_of(shape, logits, changed) == taken);
  }
  if (groups > 1) {
    return;  // Of another group perhaps none is taken.
  }
  bool others_are_taken = false;
  for (std::size_t e = 0; e < bias.size(); ++e) {
    for (const float by : {gap, -gap}) {
      std::vector<float> changed = bias;
      changed[e] += 1.01f * by;
      others_are_taken = others_are_taken || experts_of(shape, logits, changed) != taken;
    }
  }
  CHECK(others_are_taken);
}

TEST_CASE("a router that takes every expert has no near tie") {
  const std::vector<float> logits{0.5f, 0.5f};
  CHECK(test::router_gap({.experts = 2, .top_k = 2}, logits.data(), nullptr) ==
        std::numeric_limits<float>::infinity());
}

}  // namespace router_gap_test
