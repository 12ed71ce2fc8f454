// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/thread_pool.hpp>
#include <oriel/output/sampler.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>

#include <stdexcept>

using oriel::sampled_token;
using oriel::sampler_row;
using oriel::sampling_options;

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
