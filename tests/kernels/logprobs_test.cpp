// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/logprobs.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace logprobs_test {

using oriel::isa;
using oriel::token_id;
using oriel::token_logprob;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();

struct found {
  float chosen;
  std::vector<token_logprob> top;
};

found logprobs(const std::vector<float>& logits,
               std::uint32_t chosen,
               std::uint32_t top,
               isa path = oriel::best_isa()) {
  const auto plan = oriel::host::plan_sample(static_cast<std::uint32_t>(logits.size()), 1, path);
  REQUIRE(plan);
  workspace_bytes workspace(plan->filter_bytes);
  found f{.chosen = 0.0f, .top = std::vector<token_logprob>(top)};
  const auto result =
      oriel::host::run_logprobs(*plan, logits.data(), token_id{chosen}, f.top, workspace.span());
  f.chosen = result.chosen;
  f.top.resize(result.top);
  return f;
}

std::vector<std::uint32_t> first_tokens(const std::vector<float>& logits, std::uint32_t count) {
  std::vector<std::uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  std::erase_if(order, [&](std::uint32_t id) { return !(logits[id] > -infinity); });
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return logits[a] > logits[b];
  });
  order.resize(std::min<std::size_t>(count, order.size()));
  return order;
}

void check_row(const std::vector<float>& logits, std::uint32_t chosen, std::uint32_t top) {
  const std::vector<double> expected = oriel::reference::logprobs(logits);
  const auto near = [](float got, double wanted) {
    return std::isinf(wanted) ? double{got} == wanted
                              : std::abs(double{got} - wanted) <= 2e-6 * (1.0 + std::abs(wanted));
  };
  const found f = logprobs(logits, chosen, top);
  CHECK(near(f.chosen, expected[chosen]));
  const std::vector<std::uint32_t> order = first_tokens(logits, top);
  REQUIRE(f.top.size() == order.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    REQUIRE(to_index(f.top[i].id) == order[i]);
    REQUIRE(near(f.top[i].logprob, expected[order[i]]));
  }
  for (const isa path : supported_paths()) {
    const found other = logprobs(logits, chosen, top, path);
    REQUIRE(other.chosen == f.chosen);
    REQUIRE(other.top == f.top);
  }
}

}  // namespace

TEST_CASE("log-probabilities are those of the reference, with the same bits on every path") {
  oriel::random_stream random(1);
  for (int round = 0; round < 200; ++round) {
    const std::uint32_t vocabulary = 1 + random.next_below(round % 8 == 0 ? 9'000 : 200);
    std::vector<float> logits = random_floats(vocabulary, random, -12.0f, 12.0f);
    for (std::uint32_t i = 0; i < vocabulary / 4; ++i) {
      const float values[] = {3.0f, quiet_nan, -infinity, 11.9f};
      logits[random.next_below(vocabulary)] = values[random.next_below(4)];
    }
    logits[0] = 0.5f;
    const std::uint32_t top = random.next_below(std::min(vocabulary, 20u) + 1);
    INFO("round " << round << ", vocabulary " << vocabulary << ", top " << top);
    check_row(logits, random.next_below(vocabulary), top);
  }
}

TEST_CASE("log-probabilities of peaked, flat and full rows") {
  check_row({5.0f}, 0, 1);
  CHECK(logprobs({5.0f}, 0, 0).chosen == 0.0f);
  check_row(std::vector<float>(1'000, 2.0f), 999, 20);
  check_row({1.0f, 2.0f, 3.0f}, 2, 3);
  check_row({1e30f, -1e30f, 1.0f}, 1, 2);
  check_row({infinity, 1.0f, infinity, quiet_nan}, 1, 4);
  // A real vocabulary: small terms add up.
  oriel::random_stream random(2);
  check_row(random_floats(152'576, random, -1.0f, 1.0f), 7, 20);
}

TEST_CASE("a row without any number has no log-probabilities") {
  const found f = logprobs({quiet_nan, -infinity}, 1, 2);
  CHECK(f.top.empty());
  CHECK(f.chosen == -infinity);
}

}  // namespace logprobs_test
