// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `accept_rule`: whether a draft stays, and what stands in its place if not. Two rules, both
/// exact: the tokens are distributed as if nothing had been drafted (docs/speculation.md has the
/// proof).
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/spec/drafter.hpp>

#include <concepts>
#include <cstdint>

namespace oriel {

/// Where in which random stream a token is decided.
struct token_place {
  std::uint64_t seed;
  std::uint64_t position;  ///< of the token in its sequence, prompt included
};

/// What a rule says of one draft.
struct judgement {
  bool accepted;
  /// The token at this place: the draft, or what stands in for it. Probability: the target's, after
  /// the filters; 0: the row held no number, and there is no token.
  sampled_token token;
};

/// How drafts are judged. A rule is a pure function of its arguments; `row` is what it needs to
/// know of one row of the target.
template <class R>
concept accept_rule = requires(const R& rule,
                               const drafted_token& draft,
                               const typename R::row& row,
                               token_place place) {
  /// The draft, or another token.
  { rule.judge(draft, row, place) } -> std::same_as<judgement>;
  /// The token where nothing was drafted: what plain decoding would take.
  { rule.choose(row, place) } -> std::same_as<sampled_token>;
};

/// For greedy decoding: a draft stays if it is the target's own choice. The output is that of plain
/// decoding, token for token.
struct greedy_match {
  /// The first token of the row (host::greedy_token).
  using row = sampled_token;

  [[nodiscard]] static judgement judge(const drafted_token& draft,
                                       const row& first,
                                       token_place) noexcept {
    return {.accepted = first.probability > 0.0f && draft.id == first.id, .token = first};
  }
  [[nodiscard]] static sampled_token choose(const row& first, token_place) noexcept {
    return first;
  }
};

/// For sampling (Leviathan et al. 2023, Chen et al. 2023): a draft x, drawn from q where the target
/// wants p, stays with probability min(1, p(x) / q(x)); if it does not, a token is drawn from the
/// residual, max(0, p - q) scaled to one.
///
/// p and q are distributions after the same filters. All arithmetic is in integers, exact up to the
/// 2^-64 of a random number, and the same on every path.
///
/// A sure draft is judged by drawing the target's token as plain decoding would: it stays if the
/// two are equal. That is the same rule (p(x) / 1, residual p without x) with the random number of
/// plain decoding, so that with sure drafts the output is plain decoding's, token for token.
struct rejection_sampling {
  using row = token_distribution;

  /// @pre the draft is sure, or has mass in its own proposal
  [[nodiscard]] static judgement judge(const drafted_token& draft,
                                       const row& target,
                                       token_place place) noexcept;
  [[nodiscard]] static sampled_token choose(const row& target, token_place place) noexcept;
};

/// Is a token with `id`, drawn from `proposal`, kept for `target` by this `random`? Probability
/// min(1, p / q). O(log kept).
/// @pre both have mass, and `id` has mass in `proposal`
[[nodiscard]] bool keeps_draft(const token_distribution& target,
                               const token_distribution& proposal,
                               token_id id,
                               std::uint64_t random) noexcept;

/// The token that `random` falls on in max(0, target - proposal). O(kept by the two).
/// @pre the two differ, and both have mass
[[nodiscard]] token_id draw_residual(const token_distribution& target,
                                     const token_distribution& proposal,
                                     std::uint64_t random) noexcept;

static_assert(accept_rule<greedy_match>);
static_assert(accept_rule<rejection_sampling>);

}  // namespace oriel
