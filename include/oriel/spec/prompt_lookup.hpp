// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `prompt_lookup`: drafts without a model. What followed the last time that the sequence ended
/// like this probably follows again (A. Saxena, "Prompt Lookup Decoding", 2023).
///
///     tokens   ... the cat sat on the mat . the cat | sat on the mat
///                  ^^^^^^^                  ^^^^^^^ | ^^^^^^^^^^^^^^ drafts
///                  the most recent occurrence before the end
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/spec/draft_length.hpp>
#include <oriel/spec/drafter.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

struct lookup_options {
  std::uint32_t match_tokens_max = 4;  ///< of the end that must have occurred; tried first
  std::uint32_t match_tokens_min = 2;  ///< tried last; >= 1
  std::uint32_t drafts_max = 7;        ///< of one chain, in [1, draft_tokens_max]
};

/// A sure drafter over the tokens of its own sequence. The longest match wins, of equally long ones
/// the most recent. A chain that reaches the end of the sequence goes on with its own beginning, so
/// that a text with a short period is drafted at full length.
///
/// *Memory* 4 bytes for each token, and 8 to 16 for each token and match length.
class prompt_lookup {
 public:
  /// @pre 1 <= match_tokens_min <= match_tokens_max <= 16, options are in their ranges
  explicit prompt_lookup(const lookup_options& options = {});

  [[nodiscard]] std::uint32_t max_draft_tokens() const noexcept { return options_.drafts_max; }

  /// O(1) amortised for each token (match_tokens_max squared steps). @throws std::bad_alloc
  void accept(std::span<const token_id> tokens);

  /// O(out.size() + 1), whatever the length of the sequence.
  [[nodiscard]] std::size_t draft(std::span<drafted_token> out) const noexcept;

 private:
  /// Where n tokens occurred last: open addressing, by their hash. The tokens themselves decide.
  class occurrences {
   public:
    explicit occurrences(std::uint32_t match_tokens) : match_tokens_(match_tokens) {}
    /// The last match_tokens before `end` occurred there.
    void add(std::span<const token_id> tokens, std::uint32_t end);
    /// @returns the end of the last occurrence of the last match_tokens of `tokens`, or 0
    [[nodiscard]] std::uint32_t find(std::span<const token_id> tokens) const noexcept;

   private:
    [[nodiscard]] std::size_t place_of(std::span<const token_id> tokens,
                                       std::span<const token_id> match) const noexcept;
    void grow(std::span<const token_id> tokens);

    std::uint32_t match_tokens_;
    std::uint32_t used_ = 0;
    std::vector<std::uint32_t> ends_;  ///< [a power of two]; 0: free
  };

  lookup_options options_;
  std::vector<token_id> tokens_;
  std::vector<occurrences> occurrences_;  ///< by match length, the longest first
};

static_assert(drafter<prompt_lookup>);

}  // namespace oriel
