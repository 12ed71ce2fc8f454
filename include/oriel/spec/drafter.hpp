// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `drafter`: guesses the next tokens of one sequence, for a verifier to judge.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/kernels/sample.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace oriel {

/// One guess, and what it was drawn from.
struct drafted_token {
  token_id id;
  /// The drafter's distribution after the filters of the request, of which `id` was drawn by
  /// random_purpose::draft. Total 0: the drafter was *sure*, nothing was drawn, and all mass is on
  /// `id`. A view: it stays valid until the drafter is called again.
  token_distribution proposal{.ids = {}, .weights = {}, .total = 0};

  [[nodiscard]] bool is_sure() const noexcept { return proposal.total == 0; }
};

/// Guesses for one sequence. It is told every token of the sequence, and drafts what may follow.
///
///     d.accept(prompt);
///     const std::size_t count = d.draft(drafts);  // at most drafts.size()
///     ...verify...
///     d.accept(emitted);                          // accepted drafts and the token after them
///
/// Drafts are a chain: number i follows the tokens told and the drafts before it. What a drafter
/// proposes depends on the tokens it was told alone: not on how they were cut into calls, not on
/// earlier drafts, and a shorter chain is the beginning of a longer one. Nothing is ever taken
/// back: a rejected draft was never told.
///
/// One duty a test cannot see: a chain may end for any reason that was known before its next token
/// was drawn, but a token that *was* drawn must be handed over. To drop it because it looks
/// unlikely would leave a distribution that is not `proposal`, and the output would no longer be
/// the target's. (A sure drafter draws nothing and is free.)
///
/// Neither call may throw, or allocate beyond what accept() needs to remember its tokens.
template <class D>
concept drafter = std::movable<D> &&
    requires(D& d, const D& c, std::span<const token_id> tokens, std::span<drafted_token> out) {
  /// The most tokens of one chain.
  { c.max_draft_tokens() } -> std::same_as<std::uint32_t>;
  /// The next tokens of the sequence, the prompt first.
  { d.accept(tokens) } -> std::same_as<void>;
  /// Fills the beginning of `out`. @returns how many tokens, 0 when there is nothing to guess
  { d.draft(out) } -> std::same_as<std::size_t>;
};

}  // namespace oriel
