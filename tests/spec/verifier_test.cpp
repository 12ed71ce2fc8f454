// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/spec/verifier.hpp>

#include <catch2/catch.hpp>
#include <support/death.hpp>

#include <vector>

namespace verifier_test {

using namespace oriel;

namespace {

constexpr token_place start{.seed = 3, .position = 10};

drafted_token sure(std::uint32_t id) {
  return {.id = token_id{id}};
}

sampled_token first(std::uint32_t id) {
  return {.id = token_id{id}, .probability = 1.0f};
}

/// What a chain came to, and which rows were asked for.
struct outcome {
  verified result;
  std::vector<std::uint32_t> tokens;
  std::vector<std::uint32_t> asked;
};

template <class Rule>
outcome verify(const std::vector<drafted_token>& drafts,
               const std::vector<typename Rule::row>& rows) {
  outcome o{};
  std::vector<sampled_token> out(drafts.size() + 1);
  o.result = verifier<Rule>()(
      drafts,
      start,
      [&](std::uint32_t row) {
        o.asked.push_back(row);
        return rows[row];
      },
      out);
  for (std::uint32_t i = 0; i < o.result.accept_length; ++i) {
    o.tokens.push_back(to_index(out[i].id));
  }
  return o;
}

using ids = std::vector<std::uint32_t>;

}  // namespace

TEST_CASE("greedy_match: the target's tokens come out, however many drafts agree") {
  const ids all{4, 5, 6, 7}, numbers{0, 1, 2, 3};
  const std::vector<sampled_token> rows{first(4), first(5), first(6), first(7)};
  for (std::uint32_t agree = 0; agree <= 3; ++agree) {
    std::vector<drafted_token> drafts{sure(4), sure(5), sure(6)};
    if (agree < 3) {
      drafts[agree] = sure(9);
    }
    const outcome o = verify<greedy_match>(drafts, rows);
    INFO(agree << " drafts agree");
    CHECK(o.result.accepted_drafts == agree);
    CHECK(o.result.accept_length == agree + 1);
    CHECK_FALSE(o.result.has_failed);
    CHECK(o.tokens == ids(all.begin(), all.begin() + agree + 1));
    // A row behind a rejected draft is nobody's: it is not even asked for.
    CHECK(o.asked == ids(numbers.begin(), numbers.begin() + agree + 1));
  }
}

TEST_CASE("without drafts a step is plain decoding") {
  const outcome greedy = verify<greedy_match>({}, {first(8)});
  CHECK(greedy.tokens == ids{8});
  CHECK(greedy.result.accepted_drafts == 0);

  const std::vector<float> weights{0.5f, 1.0f, 0.25f};
  const token_distribution d{.ids = {}, .weights = weights, .total = mass_of(1.75f)};
  const outcome sampled = verify<rejection_sampling>({}, {d});
  CHECK(sampled.tokens == ids{to_index(draw(d, sample_random(start.seed, start.position)))});
}

TEST_CASE("a row without any number ends the chain with the drafts before it") {
  const sampled_token none{.id = token_id{0}, .probability = 0.0f};
  const outcome middle = verify<greedy_match>({sure(4), sure(0)}, {first(4), none, first(6)});
  CHECK(middle.tokens == ids{4});
  CHECK(middle.result.accepted_drafts == 1);
  CHECK(middle.result.has_failed);
  const outcome bonus = verify<greedy_match>({sure(4)}, {first(4), none});
  CHECK(bonus.tokens == ids{4});
  CHECK(bonus.result.has_failed);

  const std::vector<float> weights{0.5f, 1.0f};
  const token_distribution q{.ids = {}, .weights = weights, .total = mass_of(1.5f)};
  const token_distribution dead{.ids = {}, .weights = {}, .total = 0};
  for (const drafted_token& draft : {sure(0), drafted_token{.id = token_id{0}, .proposal = q}}) {
    const outcome o = verify<rejection_sampling>({draft}, {dead, q});
    CHECK(o.tokens.empty());
    CHECK(o.result.accepted_drafts == 0);
    CHECK(o.result.has_failed);
  }
}

TEST_CASE("a draft stays with probability min(1, p / q), to the last number") {
  // p = 1/4, q = 1/2: kept by exactly the lower half of the random numbers.
  const std::vector<float> p_weights{0.5f, 1.0f, 0.5f}, q_weights{1.0f, 1.0f, 0.0f};
  const token_distribution p{.ids = {}, .weights = p_weights, .total = mass_of(1.0f) * 2};
  const token_distribution q{.ids = {}, .weights = q_weights, .total = mass_of(1.0f) * 2};
  CHECK(keeps_draft(p, q, token_id{0}, 0));
  CHECK(keeps_draft(p, q, token_id{0}, (1ull << 63) - 1));
  CHECK_FALSE(keeps_draft(p, q, token_id{0}, 1ull << 63));
  // p = q: always. p = 0: never.
  CHECK(keeps_draft(p, q, token_id{1}, UINT64_MAX));
  CHECK_FALSE(keeps_draft(q, p, token_id{2}, 0));
  // What p has more of is at token 2 alone.
  for (const std::uint64_t random : {std::uint64_t{0}, UINT64_MAX}) {
    CHECK(draw_residual(p, q, random) == token_id{2});
  }
  CHECK(aborts([&] { (void)keeps_draft(p, q, token_id{2}, 0); }));
  CHECK(aborts([&] { (void)draw_residual(p, p, 0); }));
}

TEST_CASE("fractions of the largest totals do not overflow") {
  // 2^19 equal tokens: totals of 2^63, products of 2^126.
  const std::vector<float> equal(1u << 19, 1.0f);
  std::vector<std::uint32_t> half_ids;
  for (std::uint32_t id = 0; id < (1u << 18); ++id) {
    half_ids.push_back(2 * id);
  }
  const std::vector<float> half(1u << 18, 1.0f);
  const token_distribution all{.ids = {}, .weights = equal, .total = 1ull << 63};
  const token_distribution even{.ids = half_ids, .weights = half, .total = 1ull << 62};
  CHECK(keeps_draft(even, all, token_id{4}, UINT64_MAX));
  CHECK_FALSE(keeps_draft(even, all, token_id{5}, 0));
  CHECK(keeps_draft(all, even, token_id{4}, (1ull << 63) - 1));
  CHECK_FALSE(keeps_draft(all, even, token_id{4}, 1ull << 63));
  CHECK(draw_residual(all, even, 0) == token_id{1});
  CHECK(draw_residual(all, even, UINT64_MAX) == token_id{(1u << 19) - 1});
  CHECK(draw_residual(all, even, 1ull << 63) == token_id{(1u << 18) + 1});
}

TEST_CASE("an output too short for the bonus token is refused") {
  const std::vector<drafted_token> drafts{sure(1)};
  std::vector<sampled_token> out(1);
  CHECK(aborts([&] {
    (void)verifier<greedy_match>()(
        drafts, start, [](std::uint32_t) { return first(1); }, out);
  }));
}

}  // namespace verifier_test
