// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The comparison that holds a device to the host (tests/cuda/engine) can fail: it sees each wrong
// token, behind near ties as well, and calls only near ties near ties.
#include "engine/with_blocks.hpp"
#include "support/greedy_comparison.hpp"

#include <oriel/core/random.hpp>

#include <catch2/catch.hpp>

#include <vector>

namespace greedy_comparison_test {

using namespace oriel;
using namespace oriel::engine;
using namespace oriel::test;
using namespace engine_life;

namespace {

std::vector<greedy_prompt> random_prompts(std::uint32_t vocabulary) {
  random_stream random(1, 127);
  std::vector<greedy_prompt> prompts(5);
  for (greedy_prompt& p : prompts) {
    p.new_tokens = 20;
    p.tokens.resize(1 + random.next_below(60));
    for (token_id& token : p.tokens) {
      token = token_id{random.next_below(vocabulary)};
    }
  }
  return prompts;
}

/// The host's answers, with the margin of each choice.
struct host_answers {
  std::vector<std::vector<token_id>> tokens;
  std::vector<std::vector<float>> margins;
};

engine_options small_engine() {
  return {.chunk_tokens = 32, .sequences_max = 3, .context_tokens = 128};
}

host_answers answer(const library& books, std::span<const greedy_prompt> prompts) {
  kept_logits kept;
  engine_options o = small_engine();
  o.observer = &kept;
  serial_executor serial;
  oriel::engine::engine e(books.model, books.weights, books.tokens, o, serial);
  host_answers made{.tokens = answer_greedily(e, prompts), .margins = {}};
  for (std::uint64_t id = 0; id < prompts.size(); ++id) {
    made.margins.emplace_back();
    for (const std::vector<float>& logits : kept.of.at(id)) {
      made.margins.back().push_back(top_margin(logits));
    }
  }
  return made;
}

answers_of engine_of(const library& books) {
  return [&books](std::span<const greedy_prompt> asked) {
    serial_executor serial;
    oriel::engine::engine e(books.model, books.weights, books.tokens, small_engine(), serial);
    return answer_greedily(e, asked);
  };
}

constexpr float limit = 4 * 0x1p-7f;  // As for a device.

}  // namespace

TEST_CASE("an engine agrees with itself, one of other roundings where the choice is clear") {
  library books = with_blocks({0, 16, 16, 0}, true, 16, 40);
  const std::vector<greedy_prompt> prompts = random_prompts(books.model.vocabulary);
  const host_answers expected = answer(books, prompts);
  const greedy_agreement self =
      compare_greedy(prompts, expected.tokens, expected.margins, limit, engine_of(books));
  CHECK(self.tokens == 100);
  CHECK(2 * self.clear > self.tokens);
  CHECK(self.ties == 0);
  CHECK(self.wrong == 0);

  library rounded = with_blocks({0, 16, 16, 0}, true, 16, 40);
  rounded.weights = random_weights(rounded.model, dtype::f32, 40);
  const greedy_agreement close =
      compare_greedy(prompts, expected.tokens, expected.margins, limit, engine_of(rounded));
  CHECK(close.wrong == 0);
}

TEST_CASE("an engine with other weights does not agree") {
  library books = with_blocks({0, 16, 16, 0}, true, 16, 40);
  const std::vector<greedy_prompt> prompts = random_prompts(books.model.vocabulary);
  const host_answers expected = answer(books, prompts);
  const library other = with_blocks({0, 16, 16, 0}, true, 16, 41);
  const greedy_agreement found =
      compare_greedy(prompts, expected.tokens, expected.margins, limit, engine_of(other));
  CHECK(found.wrong > found.clear / 2);
}

TEST_CASE("each wrong token is seen, wherever near ties are") {
  const std::vector<greedy_prompt> prompts{{{token_id{1}}, 6}, {{token_id{2}}, 3}};
  const std::vector<std::vector<token_id>> expected{
      {token_id{10}, token_id{11}, token_id{12}, token_id{13}, token_id{14}, token_id{15}},
      {token_id{20}, token_id{21}, token_id{22}}};
  const std::vector<std::vector<float>> margins{{1, 0, 1, 0, 1, 1}, {0, 0, 1}};
  // Says what is expected of it, but at these places of the first answer.
  const auto errs_at = [&](std::vector<std::size_t> places) -> answers_of {
    return [&, places](std::span<const greedy_prompt> asked) {
      std::vector<std::vector<token_id>> said;
      for (const greedy_prompt& p : asked) {
        const std::size_t which = p.tokens[0] == token_id{1} ? 0 : 1, known = p.tokens.size() - 1;
        said.emplace_back(expected[which].begin() + static_cast<std::ptrdiff_t>(known),
                          expected[which].end());
        REQUIRE(said.back().size() == p.new_tokens);
        for (const std::size_t place : places) {
          if (which == 0 && place >= known) {
            said.back()[place - known] = token_id{99};
          }
        }
      }
      return said;
    };
  };
  const auto compare = [&](const answers_of& other) {
    return compare_greedy(prompts, expected, margins, 0.5f, other);
  };
  CHECK(compare(errs_at({})).wrong == 0);
  CHECK(compare(errs_at({1, 3})).ties == 2);
  CHECK(compare(errs_at({1, 3})).wrong == 0);
  CHECK(compare(errs_at({1, 2, 3, 5})).ties == 2);
  CHECK(compare(errs_at({1, 2, 3, 5})).wrong == 2);
  CHECK(compare([](std::span<const greedy_prompt>) {
          return std::vector<std::vector<token_id>>();  // Nothing is no agreement.
        }).wrong == 5);
  CHECK(compare(errs_at({})).clear == 5);
}

}  // namespace greedy_comparison_test
