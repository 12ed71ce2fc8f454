// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `drafter`, as Catch2 checks:
///
///     TEST_CASE("prompt_lookup is a drafter") {
///       check_drafter([] { return oriel::prompt_lookup({}); }, 50);
///     }
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/spec/drafter.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace drafter_law {

/// A text that repeats itself, so that there is something to guess.
inline std::vector<oriel::token_id> text(std::uint64_t seed,
                                         std::size_t count,
                                         std::uint32_t vocabulary) {
  oriel::random_stream random(seed);
  std::vector<oriel::token_id> tokens;
  while (tokens.size() < count) {
    const bool repeats = tokens.size() > 8 && random.next_below(4) != 0;
    const std::size_t from =
        repeats ? random.next_below(static_cast<std::uint32_t>(tokens.size())) : 0;
    for (std::uint32_t i = 0, run = 1 + random.next_below(12); i < run; ++i) {
      tokens.push_back(repeats ? tokens[from + i] : oriel::token_id{random.next_below(vocabulary)});
    }
  }
  tokens.resize(count);
  return tokens;
}

/// A draft without its view: the id, the id's probability in the proposal, whether it is sure.
struct plain_draft {
  oriel::token_id id;
  float probability;
  bool is_sure;

  friend bool operator==(const plain_draft&, const plain_draft&) = default;
};

template <oriel::drafter Drafter>
std::vector<plain_draft> draft(Drafter& d, std::size_t at_most, std::uint32_t vocabulary) {
  std::vector<oriel::drafted_token> out(at_most);
  const std::size_t count = d.draft(out);
  REQUIRE(count <= std::min<std::size_t>(at_most, d.max_draft_tokens()));
  std::vector<plain_draft> drafts;
  for (const oriel::drafted_token& t : std::span(out).first(count)) {
    REQUIRE(to_index(t.id) < vocabulary);
    // What was drawn can be drawn.
    REQUIRE((t.is_sure() || probability_of(t.proposal, t.id) > 0.0f));
    drafts.push_back(
        {.id = t.id, .probability = probability_of(t.proposal, t.id), .is_sure = t.is_sure()});
  }
  return drafts;
}

}  // namespace drafter_law

/// @param make  makes a drafter of a sequence without tokens; equal drafters every time
/// @param vocabulary  ids below it may be told, and only such are drafted
template <class Make>
void check_drafter(const Make& make, std::uint32_t vocabulary) {
  using drafter_law::draft;
  const std::uint32_t most = make().max_draft_tokens();
  REQUIRE(most > 0);

  SECTION("without tokens it need not guess, but may be asked") {
    auto d = make();
    d.accept({});
    (void)draft(d, most, vocabulary);
    CHECK(draft(d, 0, vocabulary).empty());
  }
  SECTION("drafts depend on the tokens alone, and short chains begin long ones") {
    oriel::random_stream random(1);
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      const auto text = drafter_law::text(seed, 150, vocabulary);
      auto steady = make(), asked = make();
      std::size_t told = 0;
      while (told < text.size()) {
        const std::size_t piece = std::min<std::size_t>(text.size() - told, random.next_below(9));
        for (std::size_t i = 0; i < piece; ++i) {
          steady.accept(std::span(text).subspan(told + i, 1));
        }
        asked.accept(std::span(text).subspan(told, piece));
        told += piece;
        INFO("seed " << seed << ", after " << told << " tokens");
        const auto longest = draft(asked, most + 3, vocabulary);
        CHECK(draft(asked, most + 3, vocabulary) == longest);
        for (std::size_t k = 0; k <= most; ++k) {
          auto beginning = longest;
          beginning.resize(std::min(k, longest.size()));
          REQUIRE(draft(asked, k, vocabulary) == beginning);
        }
        if (random.next_below(3) == 0) {
          REQUIRE(draft(steady, most + 3, vocabulary) == longest);
        }
      }
      auto at_once = make();
      at_once.accept(text);
      CHECK(draft(at_once, most, vocabulary) == draft(asked, most, vocabulary));
    }
  }
  SECTION("a drafter that was moved goes on") {
    const auto text = drafter_law::text(7, 100, vocabulary);
    auto first = make();
    first.accept(std::span(text).first(60));
    auto moved = std::move(first);
    moved.accept(std::span(text).subspan(60));
    auto other = make();
    other.accept(text);
    CHECK(draft(moved, most, vocabulary) == draft(other, most, vocabulary));
  }
}
