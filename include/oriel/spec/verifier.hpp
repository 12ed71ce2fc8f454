// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `verifier<AcceptRule>`: judges a chain of drafts by the target's rows over them.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/spec/accept_rule.hpp>
#include <oriel/spec/drafter.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace oriel {

/// What came of one chain.
struct verified {
  std::uint32_t accepted_drafts;  ///< of the chain, from its first
  /// Tokens that the sequence gains: the accepted drafts, and the token after them (the bonus token
  /// if all were accepted). One less only where `has_failed`.
  std::uint32_t accept_length;
  bool has_failed;  ///< the row after the accepted drafts held no number: there is no token
};

/// Judges chains; stateless but for its rule. A pure function of its arguments.
///
/// The target has computed one row more than there are drafts: row 0 after the last known token,
/// row i after draft i - 1. Row i is asked for only when all drafts before it were accepted, in
/// ascending order, each at most once: so that a caller filters no row in vain, and can let
/// penalties see the drafts before it.
///
///     const verified v = verifier<rejection_sampling>()(
///         drafts, {.seed = seed, .position = length}, [&](std::uint32_t row) {
///           return choose.distribution(logits + row * stride, options);
///         }, out);
///
/// Of the rows of a step the caller keeps 1 + v.accepted_drafts and rolls the others back; the last
/// token of `out` has no row yet.
template <accept_rule AcceptRule>
class verifier {
 public:
  using row = typename AcceptRule::row;

  explicit verifier(AcceptRule rule = {}) noexcept : rule_(rule) {}

  /// O(drafts) judgements.
  /// @tparam Target  row index -> row; a view it returns must live until its next call
  /// @param first  seed, and the position of the first draft in its sequence
  /// @param out  [drafts + 1] at least; filled up to accept_length
  template <class Target>
  verified operator()(std::span<const drafted_token> drafts,
                      token_place first,
                      Target&& target,
                      std::span<sampled_token> out) const {
    ORIEL_EXPECTS(out.size() > drafts.size());
    const auto count = static_cast<std::uint32_t>(drafts.size());
    for (std::uint32_t i = 0; i < count; ++i) {
      const judgement j = rule_.judge(drafts[i], target(i), place_after(first, i));
      if (!j.accepted) {
        return end(i, j.token, out);
      }
      out[i] = j.token;
    }
    const std::uint32_t bonus_row =
        ORIEL_MUTANT(bonus_from_the_row_before) && count > 0 ? count - 1 : count;
    return end(count, rule_.choose(target(bonus_row), place_after(first, count)), out);
  }

 private:
  static token_place place_after(token_place first, std::uint32_t drafts) noexcept {
    return {.seed = first.seed,
            .position = first.position + (ORIEL_MUTANT(one_random_for_a_chain) ? 0 : drafts)};
  }

  static verified end(std::uint32_t accepted,
                      const sampled_token& token,
                      std::span<sampled_token> out) noexcept {
    if (!(token.probability > 0.0f)) {
      return {.accepted_drafts = accepted, .accept_length = accepted, .has_failed = true};
    }
    out[accepted] = token;
    return {.accepted_drafts = accepted,
            .accept_length = accepted + (ORIEL_MUTANT(bonus_is_not_counted) ? 0u : 1u),
            .has_failed = false};
  }

  [[no_unique_address]] AcceptRule rule_;
};

}  // namespace oriel
