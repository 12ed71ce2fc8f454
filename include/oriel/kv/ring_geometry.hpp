// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `ring_geometry`: how many pages a sequence keeps of a sliding-window layer, and which.
///
/// The one convention: a window of W tokens counts the query itself, so the query at position p
/// sees keys max(0, p - W + 1) .. p, and computing position L needs the W - 1 positions before it.
#pragma once

#include <oriel/core/mutation.hpp>

#include <cstdint>

namespace oriel {

/// Numbers that fix a window ring. P = page_size, W = window_tokens.
struct ring_geometry {
  std::uint32_t page_size = 16;     ///< tokens per page; > 0
  std::uint32_t window_tokens = 1;  ///< keys a query sees, itself included; > 0
  std::uint32_t step_tokens = 1;    ///< rows one step appends at most: a chunk, or 1 + drafts; > 0
  std::uint32_t slack_pages = 1;    ///< boundaries kept before the last one

  /// Entries of the ring: R = ceil((W - 1) / P) + 1 + slack + ceil(step / P).
  [[nodiscard]] constexpr std::uint32_t ring_pages() const noexcept {
    return ceil_pages(window_tokens - 1) + (ORIEL_MUTANT(ring_is_one_page_short) ? 0 : 1) +
           slack_pages + ceil_pages(step_tokens);
  }

  /// The first logical page that a sequence of `length` committed tokens keeps; everything before
  /// it may go. The sequence may end now and publish the boundary L = floor_P(length), so what L
  /// needs is kept, and what `slack_pages` boundaries before L need:
  ///
  ///     floor_P(L - slack * P - (W - 1)) / P
  ///
  /// Counting from `length` instead of L, or W instead of max(W - 1, ...), loses the boundary
  /// whenever P does not divide W. Never decreases when `length` grows. O(1).
  [[nodiscard]] constexpr std::uint32_t first_kept_page(std::uint32_t length) const noexcept {
    const std::uint64_t boundary = ORIEL_MUTANT(release_counts_from_the_length)
                                       ? length
                                       : length / page_size * std::uint64_t{page_size};
    const std::uint64_t behind =
        std::uint64_t{slack_pages} * page_size + (std::uint64_t{window_tokens} - 1);
    return boundary <= behind ? 0 : static_cast<std::uint32_t>((boundary - behind) / page_size);
  }

  /// Whole pages that hold `tokens` tokens.
  [[nodiscard]] constexpr std::uint32_t ceil_pages(std::uint32_t tokens) const noexcept {
    return tokens / page_size + (tokens % page_size != 0 ? 1u : 0u);
  }

  friend constexpr bool operator==(const ring_geometry&, const ring_geometry&) noexcept = default;
};

}  // namespace oriel
