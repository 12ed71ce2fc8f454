// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The pages of all workers as strands: consecutive pages of one chain.
///
///     page         0 1 2 3 4 5 6 7 8 9
///     strand 0    [# # # # # # # # # #]       prompt A
///     strand 1               [# # # # #]      prompt B, which leaves A after page 4
///
/// A strand has its links, a count for each page, and for each worker with a page in it a holder:
/// how far its full pages reach without a gap, its last safe boundary, and exactly what it has
/// (tier_steps).
///
/// Every page of a strand is held by somebody: a page that nobody has any more ends its strand, or
/// splits it. A page is in one strand only, and the table finds it. Links commit to all pages
/// before them, so a prompt that agrees with a strand at one page agrees with it everywhere below:
/// a look-up compares one link for a whole strand, and looks for the place only where the prompt
/// leaves it.
#pragma once

#include <oriel/core/hash.hpp>
#include <oriel/route/detail/link_table.hpp>
#include <oriel/route/detail/tier_steps.hpp>
#include <oriel/route/prefix_answer.hpp>
#include <oriel/route/worker_event.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel::detail {

/// What one worker has of one strand. The figures are positions, for "on tier t or nearer".
struct page_holder {
  /// Where the full pages that begin with the strand end.
  std::uint32_t full_end[page_tiers] = {};
  /// The last boundary at or below full_end whose windows lie in this strand; 0: there is none.
  std::uint32_t safe_top[page_tiers] = {};
  std::uint32_t place = 0;   ///< in the worker's list of strands
  std::uint16_t worker = 0;  ///< holders of a strand are sorted by it
  tier_mask tiers = 0;       ///< at least those that it uses
  /// Bit t: windows of some kind are there from the start of the strand on, so that a boundary that
  /// needs windows of the strand before may be safe.
  tier_mask reaches_back = 0;
  tier_steps steps = {};
};
static_assert(sizeof(page_holder) == 64, "a cache line for each worker that a look-up passes");

struct page_strand {
  std::uint32_t base = 0;         ///< position of links[0]
  std::uint32_t begin = 0;        ///< first position that is still there, >= base
  std::uint32_t last_branch = 0;  ///< where another strand left this one last
  std::vector<chain_hash> links = {};
  std::vector<std::uint16_t> counts = {};  ///< [links] how many (worker, tier, pool) have it
  std::vector<page_holder> holders = {};

  [[nodiscard]] std::uint32_t end() const noexcept {
    return base + static_cast<std::uint32_t>(links.size());
  }
  [[nodiscard]] const chain_hash& link(std::uint32_t position) const noexcept {
    return links[position - base];
  }
  [[nodiscard]] const page_holder* find(std::uint32_t worker) const noexcept;
  [[nodiscard]] page_holder* find(std::uint32_t worker) noexcept {
    return const_cast<page_holder*>(static_cast<const page_strand*>(this)->find(worker));
  }
};

/// One pool on one tier of one worker.
struct worker_place {
  std::uint32_t worker = 0;
  std::uint8_t tier = 0;
  std::uint32_t pool = 0;
};

struct strand_memory {
  std::size_t fixed_bytes = 0, link_bytes = 0, holder_bytes = 0;
  std::uint32_t holders = 0;
};

/// Positions and pools are checked by the caller.
class page_strands {
 public:
  /// @param needed_pages  [window kinds] pages before a boundary that it needs
  /// @throws std::bad_alloc
  page_strands(std::uint32_t workers,
               std::uint32_t capacity_pages,
               std::vector<std::uint32_t> needed_pages);

  /// @returns pages for which there was no room @throws std::bad_alloc
  std::uint32_t store(const worker_place& to,
                      std::uint32_t first_page,
                      chain_hash parent,
                      std::span<const chain_hash> links);
  void remove(const worker_place& from,
              std::uint32_t first_page,
              std::span<const chain_hash> links);
  void clear_tier(std::uint32_t worker, std::uint8_t tier);
  void clear(std::uint32_t worker);
  void look_up(std::span<const chain_hash> prompt, prefix_answer& answer) const;

  [[nodiscard]] std::uint32_t pages() const noexcept { return pages_; }
  [[nodiscard]] std::uint32_t strands() const noexcept {
    return static_cast<std::uint32_t>(strands_.size() - free_.size());
  }
  [[nodiscard]] strand_memory memory() const noexcept;
  /// Is all of it consistent? O(everything), for tests.
  [[nodiscard]] bool is_sound() const;

 private:
  using segment = prefix_answer::segment;

  // page_strands.cpp: strands and the table
  [[nodiscard]] strand_id find(chain_hash link, std::uint32_t position) const noexcept;
  [[nodiscard]] bool has_page(strand_id id,
                              chain_hash link,
                              std::uint32_t position) const noexcept {
    return id < strands_.size() && strands_[id].begin <= position &&
           position < strands_[id].end() && strands_[id].link(position) == link;
  }
  [[nodiscard]] strand_id find_near(chain_hash link, std::uint32_t position) noexcept;
  [[nodiscard]] strand_id new_strand(std::uint32_t position, std::size_t links);
  std::uint32_t append(strand_id id, std::span<const chain_hash> links);
  void forget_unused(strand_id id, page_stretch pages);
  strand_id drop(strand_id id, page_stretch pages);
  strand_id split(strand_id id, page_stretch hole);
  void erase_links(const page_strand& strand, page_stretch pages) noexcept;
  void release_strand(strand_id id) noexcept;
  // page_holders.cpp: who has what of a strand
  void add(strand_id id, const worker_place& to, page_stretch pages);
  bool take(strand_id id, page_holder& holder, const worker_place& from, page_stretch pages);
  page_holder& holder_of(strand_id id, std::uint32_t worker);
  void drop_holder(strand_id id, std::uint32_t worker) noexcept;
  void list(strand_id id, page_holder& holder);
  void refresh(const page_strand& strand, page_holder& holder) const noexcept;
  // page_lookup.cpp
  [[nodiscard]] std::uint32_t last_safe(const page_holder& holder,
                                        std::uint32_t tier,
                                        std::uint32_t begin,
                                        std::uint32_t limit,
                                        std::span<const segment> before) const noexcept;
  [[nodiscard]] std::uint32_t covered_down(std::uint32_t worker,
                                           std::uint32_t pool,
                                           std::uint32_t end,
                                           tier_mask tiers,
                                           std::span<const segment> path) const noexcept;
  void look_up_safe(prefix_answer& answer) const noexcept;

  link_table table_;
  std::uint32_t capacity_pages_;
  std::vector<std::uint32_t> needed_pages_;  // [window kinds]
  std::uint32_t needed_pages_max_ = 0;
  std::uint32_t pages_ = 0;
  std::vector<page_strand> strands_;
  std::vector<strand_id> free_;
  std::vector<std::vector<strand_id>> strands_of_;  // [workers]
  strand_id last_ = 0;                              // of the last event
  std::vector<page_stretch> changed_;               // scratch
};

/// The tiers up to and including `tier`.
[[nodiscard]] constexpr tier_mask tiers_up_to(std::uint32_t tier) noexcept {
  return static_cast<tier_mask>(ORIEL_MUTANT(far_tiers_count_as_device) ? 0xFF : (2u << tier) - 1);
}

}  // namespace oriel::detail
