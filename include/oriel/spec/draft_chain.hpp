// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `draft_chain`: the drafts of one sequence, with the distributions they were drawn from. For
/// drafters that sample: a distribution is a view into a workspace that the next one overwrites.
#pragma once

#include <oriel/spec/accept_rule.hpp>
#include <oriel/spec/drafter.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// Owns its tokens and copies of their proposals. Allocates only when a chain needs more room than
/// any before.
///
///     chain.clear();
///     for (...) {
///       chain.draw(choose.distribution(draft_logits, options), {.seed = seed, .position = at++});
///     }
///     verify(chain.drafts(), ...);
class draft_chain {
 public:
  [[nodiscard]] std::size_t size() const noexcept { return drafts_.size(); }

  /// Valid until the chain changes.
  [[nodiscard]] std::span<const drafted_token> drafts() noexcept;

  void clear() noexcept;
  /// Adds a draft that nothing was drawn for.
  void push_sure(token_id id);
  /// Draws a token by random_purpose::draft and adds it with a copy of `proposal`. O(kept).
  /// @pre proposal.total > 0
  token_id draw(const token_distribution& proposal, token_place place);

 private:
  struct extent {
    std::size_t first_id, ids;  ///< 0 ids: a dense proposal
    std::size_t first_weight, weights;
  };

  std::vector<drafted_token> drafts_;
  std::vector<extent> extents_;  ///< of each draft
  std::vector<std::uint32_t> ids_;
  std::vector<float> weights_;
};

}  // namespace oriel
