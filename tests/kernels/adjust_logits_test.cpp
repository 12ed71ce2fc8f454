// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/adjust_logits.hpp>
#include <oriel/kernels/sample.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>
#include <support/death.hpp>

#include <limits>
#include <vector>

namespace adjust_logits_test {

using oriel::logit_adjustments;
using oriel::token_bias;
using oriel::token_id;
using oriel::token_use;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> adjusted(const std::vector<float>& logits, const logit_adjustments& a) {
  std::vector<float> out(logits.size());
  oriel::host::adjust_logits(logits, a, out);
  return out;
}

}  // namespace

TEST_CASE("penalties and biases do what their formulas say") {
  const std::vector<float> logits{2.0f, -2.0f, 2.0f, -2.0f, 1.0f};
  const std::vector<token_use> uses{{token_id{1}, 0}, {token_id{0}, 3}, {token_id{3}, 1}};
  CHECK(adjusted(logits, {.repetition = 2.0f, .uses = uses}) ==
        std::vector<float>{1.0f, -4.0f, 2.0f, -4.0f, 1.0f});
  CHECK(adjusted(logits, {.frequency = 0.5f, .uses = uses}) ==
        std::vector<float>{0.5f, -2.0f, 2.0f, -2.5f, 1.0f});
  CHECK(adjusted(logits, {.presence = 0.25f, .uses = uses}) ==
        std::vector<float>{1.75f, -2.0f, 2.0f, -2.25f, 1.0f});
  const std::vector<token_bias> biases{
      {token_id{2}, -1.0f}, {token_id{4}, -infinity}, {token_id{2}, 0.5f}};
  CHECK(adjusted(logits, {.biases = biases}) ==
        std::vector<float>{2.0f, -2.0f, 1.5f, -2.0f, -infinity});
  // All together: repetition, frequency, presence, bias.
  const std::vector<token_bias> on_zero{{token_id{0}, 10.0f}};
  CHECK(adjusted(logits,
                 {.repetition = 4.0f,
                  .frequency = 0.5f,
                  .presence = 0.25f,
                  .uses = uses,
                  .biases = on_zero})[0] == 2.0f / 4.0f - 1.5f - 0.25f + 10.0f);
}

TEST_CASE("what changes nothing is known") {
  const std::vector<token_use> uses{{token_id{1}, 1}};
  const std::vector<token_bias> biases{{token_id{1}, 0.0f}};
  CHECK(logit_adjustments{}.change_nothing());
  CHECK(logit_adjustments{.uses = uses}.change_nothing());
  CHECK(logit_adjustments{.repetition = 2.0f}.change_nothing());
  CHECK_FALSE(logit_adjustments{.repetition = 2.0f, .uses = uses}.change_nothing());
  CHECK_FALSE(logit_adjustments{.frequency = 1.0f, .uses = uses}.change_nothing());
  CHECK_FALSE(logit_adjustments{.presence = 1.0f, .uses = uses}.change_nothing());
  CHECK_FALSE(logit_adjustments{.biases = biases}.change_nothing());
}

TEST_CASE("adjusted rows have the reference's bits") {
  oriel::random_stream random(1);
  for (int round = 0; round < 200; ++round) {
    const std::uint32_t vocabulary = 1 + random.next_below(300);
    std::vector<float> logits = random_floats(vocabulary, random, -9.0f, 9.0f);
    logits[random.next_below(vocabulary)] = std::numeric_limits<float>::quiet_NaN();
    logits[random.next_below(vocabulary)] = -infinity;
    std::vector<token_use> uses;
    std::vector<token_bias> biases;
    for (std::uint32_t id = 0; id < vocabulary; ++id) {
      if (random.next_below(3) == 0) {
        uses.push_back({token_id{id}, random.next_below(4)});
      }
      if (random.next_below(9) == 0) {
        biases.push_back({token_id{random.next_below(vocabulary)},
                          random.next_below(5) == 0 ? -infinity : random.next_uniform(-5, 5)});
      }
    }
    const logit_adjustments a{.repetition = random.next_uniform(0.5f, 2.0f),
                              .frequency = random.next_uniform(-2.0f, 2.0f),
                              .presence = random.next_uniform(-2.0f, 2.0f),
                              .uses = uses,
                              .biases = biases};
    std::vector<float> expected(vocabulary);
    oriel::reference::adjust_logits(logits, a, expected);
    INFO("round " << round << ", vocabulary " << vocabulary);
    REQUIRE(same_bits(adjusted(logits, a), expected));
  }
}

TEST_CASE("a token outside the row is refused") {
  const std::vector<float> logits(3);
  const std::vector<token_use> uses{{token_id{3}, 1}};
  const std::vector<token_bias> biases{{token_id{3}, 1.0f}};
  CHECK(aborts([&] { (void)adjusted(logits, {.uses = uses}); }));
  CHECK(aborts([&] { (void)adjusted(logits, {.biases = biases}); }));
}

}  // namespace adjust_logits_test
