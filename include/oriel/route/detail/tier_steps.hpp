// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// On which tiers a worker has each page of a strand, for every pool: a step function, because
/// pages come and go in stretches.
///
///     position      0         100       180   200
///     device        ##########
///     host          ####################      ####
///     steps         0:11      100:10    180:00 200:10 ...      (masks of tiers, bit 0: device)
///
/// All pools lie in one sorted array of 8-byte steps. What is not said has no tier; the last step
/// of a pool has none.
#pragma once

#include <oriel/route/worker_event.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel::detail {

using tier_mask = std::uint8_t;

[[nodiscard]] constexpr bool is_in(tier_mask tiers, std::uint32_t tier) noexcept {
  return (std::uint32_t{tiers} >> tier & 1u) != 0;
}

/// Pages [first, end).
struct page_stretch {
  std::uint32_t first = 0, end = 0;
};

class tier_steps {
 public:
  [[nodiscard]] bool empty() const noexcept { return steps_.empty(); }
  [[nodiscard]] std::size_t size_bytes() const noexcept {
    return steps_.capacity() * sizeof(std::uint64_t);
  }

  /// Sets or clears one tier on [first, end) and writes down where that changed anything.
  /// O(steps). @throws std::bad_alloc
  void change(std::uint32_t pool,
              page_stretch pages,
              std::uint8_t tier,
              bool is_there,
              std::vector<page_stretch>& changed);

  /// End of the pages from `from` on that are on one of `tiers`; `from` if that one is not.
  [[nodiscard]] std::uint32_t covered_up(std::uint32_t pool,
                                         std::uint32_t from,
                                         tier_mask tiers) const noexcept;
  /// Start of the pages below `end` that are on one of `tiers`; `end` if the one before is not.
  [[nodiscard]] std::uint32_t covered_down(std::uint32_t pool,
                                           std::uint32_t end,
                                           tier_mask tiers) const noexcept;
  /// The largest e <= end such that page e - 1 is on one of `tiers`; 0: none is.
  [[nodiscard]] std::uint32_t last_covered(std::uint32_t pool,
                                           std::uint32_t end,
                                           tier_mask tiers) const noexcept;

  /// Gives away everything from `at` on. @pre nothing is there at page at - 1
  [[nodiscard]] tier_steps cut(std::uint32_t at);

  /// Calls visit(pool, stretch, mask) for all pages that are anywhere.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (std::size_t i = 0; i + 1 < steps_.size(); ++i) {
      if (mask_of(steps_[i]) != 0) {
        visit(pool_of(steps_[i]),
              page_stretch{position_of(steps_[i]), position_of(steps_[i + 1])},
              mask_of(steps_[i]));
      }
    }
  }

 private:
  // Pool, position and mask, so that steps sort by the number they are.
  [[nodiscard]] static constexpr std::uint64_t step(std::uint32_t pool,
                                                    std::uint32_t position,
                                                    tier_mask mask) noexcept {
    return (std::uint64_t{pool} << 32 | position) << 8 | mask;
  }
  [[nodiscard]] static constexpr std::uint32_t pool_of(std::uint64_t s) noexcept {
    return static_cast<std::uint32_t>(s >> 40);
  }
  [[nodiscard]] static constexpr std::uint32_t position_of(std::uint64_t s) noexcept {
    return static_cast<std::uint32_t>(s >> 8);
  }
  [[nodiscard]] static constexpr tier_mask mask_of(std::uint64_t s) noexcept {
    return static_cast<tier_mask>(s);
  }
  /// The first step of (pool, position) or behind it.
  [[nodiscard]] std::size_t lower(std::uint32_t pool, std::uint32_t position) const noexcept;
  void replace(std::size_t first, std::size_t end, std::span<const std::uint64_t> by);

  std::vector<std::uint64_t> steps_;
};

}  // namespace oriel::detail
