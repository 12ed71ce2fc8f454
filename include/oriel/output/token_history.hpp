// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `token_history`: which tokens a sequence has used, and how often. What penalties look at.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/kernels/adjust_logits.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// Counts the tokens of one sequence. Only sequences with penalties need one.
///
/// *Memory* 16 to 24 bytes for each different token.
class token_history {
 public:
  token_history() = default;

  /// O(tokens) amortised. @throws std::bad_alloc
  void add_prompt(std::span<const token_id> tokens);
  /// O(1) amortised. @throws std::bad_alloc
  void add_output(token_id id);

  /// Each token once, in the order of their first use. Valid until the history changes.
  [[nodiscard]] std::span<const token_use> uses() const noexcept { return uses_; }

 private:
  token_use& use_of(token_id id);
  void grow();

  std::vector<token_use> uses_;
  std::vector<std::uint32_t> places_;  ///< [a power of two] of uses_, plus 1; 0: free
};

}  // namespace oriel
