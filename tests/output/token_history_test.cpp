// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/random.hpp>
#include <oriel/output/token_history.hpp>

#include <catch2/catch.hpp>

#include <map>
#include <vector>

using oriel::token_history;
using oriel::token_id;
using oriel::token_use;

TEST_CASE("a new history has used nothing") {
  CHECK(token_history().uses().empty());
}

TEST_CASE("a history counts what the answer used, and knows what the prompt did") {
  oriel::random_stream random(1);
  for (int round = 0; round < 40; ++round) {
    const std::uint32_t vocabulary = 1 + random.next_below(round % 2 == 0 ? 20 : 100'000);
    token_history history;
    std::map<std::uint32_t, std::uint32_t> expected;
    for (std::uint32_t i = 0; i < 600; ++i) {
      const token_id id{random.next_below(vocabulary)};
      if (random.next_below(2) == 0) {
        history.add_prompt({&id, 1});
        expected.try_emplace(to_index(id), 0u);
      } else {
        history.add_output(id);
        ++expected[to_index(id)];
      }
    }
    INFO("round " << round << ", vocabulary " << vocabulary);
    REQUIRE(history.uses().size() == expected.size());
    for (const token_use& use : history.uses()) {
      REQUIRE(expected.count(to_index(use.id)) == 1);
      REQUIRE(use.outputs == expected[to_index(use.id)]);
    }
  }
}
