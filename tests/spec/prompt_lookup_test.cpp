// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/spec/prompt_lookup.hpp>

#include <catch2/catch.hpp>
#include <conformance/drafter_suite.hpp>
#include <support/death.hpp>
#include <support/scale.hpp>

#include <algorithm>
#include <vector>

namespace prompt_lookup_test {

using namespace oriel;

namespace {

using ids = std::vector<std::uint32_t>;

std::vector<token_id> tokens_of(const ids& text) {
  std::vector<token_id> tokens;
  for (const std::uint32_t id : text) {
    tokens.push_back(token_id{id});
  }
  return tokens;
}

ids draft(const prompt_lookup& d, std::size_t count) {
  std::vector<drafted_token> out(count);
  out.resize(d.draft(out));
  ids drafted;
  for (const drafted_token& t : out) {
    REQUIRE(t.is_sure());
    drafted.push_back(to_index(t.id));
  }
  return drafted;
}

ids draft_after(const ids& text, std::size_t count, const lookup_options& options = {}) {
  prompt_lookup d(options);
  d.accept(tokens_of(text));
  return draft(d, count);
}

/// The definition, in as many steps as it takes.
ids obvious_draft(ids text, std::size_t count, const lookup_options& o) {
  for (std::size_t n = o.match_tokens_max; n >= o.match_tokens_min; --n) {
    for (std::size_t end = text.size(); end-- > n;) {
      if (text.size() >= n && std::equal(text.end() - static_cast<std::ptrdiff_t>(n),
                                         text.end(),
                                         text.begin() + static_cast<std::ptrdiff_t>(end - n))) {
        ids drafted;
        for (std::size_t i = 0; i < std::min<std::size_t>(count, o.drafts_max); ++i) {
          drafted.push_back(text[end + i]);
          text.push_back(text[end + i]);
        }
        return drafted;
      }
    }
  }
  return {};
}

}  // namespace

TEST_CASE("prompt_lookup is a drafter") {
  check_drafter([] { return prompt_lookup(); }, 50);
  check_drafter(
      [] { return prompt_lookup({.match_tokens_max = 1, .match_tokens_min = 1, .drafts_max = 1}); },
      3);
}

TEST_CASE("what followed the last time follows again") {
  CHECK(draft_after({}, 3).empty());
  CHECK(draft_after({1}, 3).empty());
  CHECK(draft_after({1, 2, 3, 4, 5}, 3).empty());
  CHECK(draft_after({1, 2, 3, 4, 1, 2}, 3) == ids{3, 4, 1});
  CHECK(draft_after({1, 2, 3, 4, 1, 2}, 0).empty());
  // One token is not enough by default.
  CHECK(draft_after({1, 2, 3, 1}, 3).empty());
  // The most recent occurrence of equally long ones; but a longer one before it.
  CHECK(draft_after({1, 2, 7, 1, 2, 8, 1, 2}, 1) == ids{8});
  CHECK(draft_after({9, 1, 2, 7, 0, 1, 2, 8, 9, 1, 2}, 1) == ids{7});
  // A period shorter than the chain.
  CHECK(draft_after({5, 5, 5}, 7) == ids{5, 5, 5, 5, 5, 5, 5});
  CHECK(draft_after({1, 2, 3, 1, 2, 3, 1}, 7) == ids{2, 3, 1, 2, 3, 1, 2});
  CHECK(draft_after({1, 2, 3, 1, 2}, 100).size() == 7);
}

TEST_CASE("prompt_lookup drafts what the obvious search finds") {
  random_stream random(11);
  for (std::uint64_t round = 0; round < scaled(150); ++round) {
    const std::uint32_t most = 1 + random.next_below(6);
    const lookup_options o{.match_tokens_max = most,
                           .match_tokens_min = 1 + random.next_below(most),
                           .drafts_max = 1 + random.next_below(draft_tokens_max)};
    const std::uint32_t vocabulary = 2 + random.next_below(round % 3 == 0 ? 100 : 6);
    const auto text = drafter_law::text(round, 120, vocabulary);
    INFO("round " << round << ": match " << o.match_tokens_min << " to " << o.match_tokens_max
                  << ", vocabulary " << vocabulary);
    prompt_lookup d(o);
    ids told;
    for (const token_id t : text) {
      d.accept({&t, 1});
      told.push_back(to_index(t));
      REQUIRE(draft(d, 8) == obvious_draft(told, 8, o));
    }
  }
}

TEST_CASE("prompt_lookup at 200,000 tokens: tables grow, the last occurrence stays findable") {
  random_stream random(12);
  std::vector<token_id> text(200'000);
  for (token_id& t : text) {
    t = token_id{random.next_below(100'000)};
  }
  prompt_lookup d;
  d.accept(text);
  for (int round = 0; round < 200; ++round) {
    const std::uint32_t at = random.next_below(199'000);
    prompt_lookup asked = round == 0 ? d : prompt_lookup();
    const std::vector<token_id> pair{text[at], text[at + 1]};
    if (round == 0) {
      asked.accept(pair);
      CHECK(draft(asked, 2) == ids{to_index(text[at + 2]), to_index(text[at + 3])});
    }
    d.accept(pair);
    CHECK(draft(d, 1) == ids{to_index(text[at + 2])});
  }
}

TEST_CASE("prompt_lookup refuses options out of their ranges") {
  CHECK(aborts([] { prompt_lookup({.match_tokens_min = 0}); }));
  CHECK(aborts([] { prompt_lookup({.match_tokens_max = 2, .match_tokens_min = 3}); }));
  CHECK(aborts([] { prompt_lookup({.match_tokens_max = 17}); }));
  CHECK(aborts([] { prompt_lookup({.drafts_max = 0}); }));
  CHECK(aborts([] { prompt_lookup({.drafts_max = draft_tokens_max + 1}); }));
}

}  // namespace prompt_lookup_test
