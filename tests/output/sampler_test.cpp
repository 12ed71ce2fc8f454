// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/thread_pool.hpp>
#include <oriel/output/sampler.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>
#include <support/death.hpp>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

using oriel::sampled_token;
using oriel::sampler_row;
using oriel::sampling_options;
using oriel::token_history;
using oriel::token_id;

TEST_CASE("a sampler draws every row with its own request's options") {
  oriel::thread_pool pool(2);
  oriel::random_stream random(1);
  const std::uint32_t vocabulary = 500;
  const auto logits = random_floats(3 * vocabulary, random, -5.0f, 5.0f);
  const sampling_options greedy{.temperature = 0.0f}, one{.seed = 1}, two{.top_k = 20, .seed = 2};
  const sampler_row rows[] = {{.options = &greedy, .position = 4},
                              {.options = &one, .position = 9},
                              {.options = &two, .position = 9}};

  oriel::sampler choose(vocabulary, pool.concurrency());
  std::vector<sampled_token> out(3);
  choose(logits.data(), vocabulary, rows, out, pool);

  CHECK(out[0].probability == 1.0f);
  for (std::size_t r = 0; r < 3; ++r) {
    const auto d = choose.distribution(logits.data() + r * vocabulary, *rows[r].options);
    CHECK(probability_of(d, out[r].id) == out[r].probability);
    if (r > 0) {
      CHECK(draw(d, oriel::sample_random(rows[r].options->seed, 9)) == out[r].id);
    }
  }
  // Alone, at the same place: the same token.
  oriel::serial_executor serial;
  oriel::sampler other(vocabulary, 1, oriel::isa::scalar);
  sampled_token alone{};
  other(logits.data() + vocabulary, vocabulary, {rows + 1, 1}, {&alone, 1}, serial);
  CHECK(alone.id == out[1].id);
  CHECK(alone.probability == out[1].probability);
}

TEST_CASE("a sampler for a vocabulary that no kernel serves cannot be made") {
  CHECK_THROWS_AS(oriel::sampler(0, 1), std::invalid_argument);
  CHECK_THROWS_AS(oriel::sampler(1u << 30, 1), std::invalid_argument);
}

TEST_CASE("penalties and biases act before everything else, drawn, asked for, or greedy") {
  oriel::thread_pool pool(2);
  oriel::random_stream random(2);
  const std::uint32_t vocabulary = 300, count = 40;
  const auto logits = random_floats(std::size_t{count} * vocabulary, random, -3.0f, 3.0f);
  std::vector<token_history> histories(count);
  std::vector<sampling_options> options(count);
  std::vector<sampler_row> rows(count);
  for (std::uint32_t r = 0; r < count; ++r) {
    for (int i = 0; i < 100; ++i) {
      const token_id id{random.next_below(vocabulary)};
      i < 50 ? histories[r].add_prompt({&id, 1}) : histories[r].add_output(id);
    }
    options[r] = {.temperature = r % 4 == 0 ? 0.0f : 1.0f,
                  .top_k = r % 3 == 0 ? 0 : 9u,
                  .seed = r,
                  .repetition_penalty = r % 2 == 0 ? 1.0f : 1.3f,
                  .frequency_penalty = 0.7f,
                  .presence_penalty = -0.2f};
    options[r].logit_bias = {{token_id{r}, 2.0f},
                             {token_id{r + 1}, -std::numeric_limits<float>::infinity()}};
    rows[r] = {.options = &options[r], .position = r, .history = &histories[r]};
  }
  oriel::sampler choose(vocabulary, pool.concurrency());
  std::vector<sampled_token> out(count);
  choose(logits.data(), vocabulary, rows, out, pool);

  oriel::sampler plain(vocabulary, 1);
  for (std::uint32_t r = 0; r < count; ++r) {
    const float* const row = logits.data() + std::size_t{r} * vocabulary;
    std::vector<float> expected(vocabulary);
    oriel::reference::adjust_logits(
        {row, vocabulary}, adjustments_of(options[r], histories[r].uses()), expected);
    INFO("row " << r);
    CHECK(out[r].id != token_id{r + 1});
    const sampled_token greedy = choose.greedy(row, options[r], &histories[r]);
    CHECK(greedy.id == plain.greedy(expected.data(), {}).id);
    if (options[r].temperature == 0.0f) {
      CHECK(out[r].id == greedy.id);
    }
    sampling_options filters_only = options[r];
    filters_only.repetition_penalty = 1.0f;
    filters_only.frequency_penalty = filters_only.presence_penalty = 0.0f;
    filters_only.logit_bias.clear();
    const auto asked = choose.distribution(row, options[r], &histories[r]);
    const auto wanted = plain.distribution(expected.data(), filters_only);
    CHECK(asked.total == wanted.total);
    for (std::uint32_t id = 0; id < vocabulary; ++id) {
      REQUIRE(probability_of(asked, token_id{id}) == probability_of(wanted, token_id{id}));
    }
    CHECK(probability_of(asked, out[r].id) == out[r].probability);
  }
  // Without its history a row with penalties cannot be sampled.
  CHECK(aborts([&] { (void)choose.greedy(logits.data(), options[1]); }));
}

TEST_CASE("log-probabilities are the model's own, whatever the options do") {
  oriel::sampler choose(4, 1);
  const float two = std::log(2.0f);
  const std::vector<float> logits{0.0f, 3 * two, 2 * two, 0.0f};  // 1 : 8 : 4 : 1
  oriel::token_logprobs found;
  choose.logprobs(logits.data(), token_id{3}, 2, found);
  CHECK(found.chosen == Approx(std::log(1.0f / 14)));
  REQUIRE(found.top.size() == 2);
  CHECK(found.top[0].id == token_id{1});
  CHECK(found.top[0].logprob == Approx(std::log(8.0f / 14)));
  CHECK(found.top[1].id == token_id{2});
  choose.logprobs(logits.data(), token_id{1}, 20, found);
  CHECK(found.top.size() == 4);
  choose.logprobs(logits.data(), token_id{1}, 0, found);
  CHECK(found.top.empty());
  CHECK(aborts([&] { choose.logprobs(logits.data(), token_id{1}, 21, found); }));
}
