// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A look-up: down the path of the prompt for the full pages, and up again for the windows.
#include <oriel/core/mutation.hpp>
#include <oriel/route/detail/page_strands.hpp>

#include <algorithm>

namespace oriel::detail {
namespace {

/// Where the prompt leaves the strand; it agrees with it at `from`. A link commits to everything
/// before it, so agreement is monotone: compare at the end, where others left, then by halves.
std::uint32_t leave(const page_strand& strand,
                    std::uint32_t from,
                    std::span<const chain_hash> prompt) noexcept {
  const auto agrees = [&](std::uint32_t at) { return strand.link(at) == prompt[at]; };
  const auto end = std::min<std::uint32_t>(strand.end(), static_cast<std::uint32_t>(prompt.size()));
  if (agrees(end - 1) || ORIEL_MUTANT(strand_is_taken_whole)) {
    return end;
  }
  std::uint32_t low = from + 1, high = end - 1;  // The place is in [low, high].
  if (const std::uint32_t branch = strand.last_branch; low <= branch && branch <= high) {
    if (agrees(branch - 1)) {
      low = branch;
      if (!agrees(branch) || ORIEL_MUTANT(branch_hint_is_believed)) {
        return branch;
      }
    } else {
      high = branch - 1;
    }
  }
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2;
    if (agrees(middle)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace

void page_strands::look_up(std::span<const chain_hash> prompt, prefix_answer& answer) const {
  answer.rows_.assign(strands_of_.size(), {});
  answer.tiers_.assign(strands_of_.size(), 0);
  answer.path_.clear();
  const auto pages = static_cast<std::uint32_t>(std::min<std::size_t>(prompt.size(), end_page));
  for (std::uint32_t at = 0; at < pages;) {
    const strand_id id = find(prompt[at], at);
    if (id == no_strand || strands_[id].begin != at) {
      break;  // The second: two chains with one link; believe neither.
    }
    const page_strand& strand = strands_[id];
    const std::uint32_t end = leave(strand, at, prompt.first(pages));
    bool goes_on = false;
    for (const page_holder& holder : strand.holders) {
      worker_prefix& row = answer.rows_[holder.worker];
      for (std::uint32_t tier = 0; tier < page_tiers; ++tier) {
        const std::uint32_t reached = std::min(holder.full_end[tier], end);
        row.full_pages[tier] = row.full_pages[tier] == at || ORIEL_MUTANT(gap_is_jumped)
                                   ? reached
                                   : row.full_pages[tier];
      }
      answer.tiers_[holder.worker] |= holder.tiers;
      goes_on |= row.full_pages[page_tiers - 1] == end;
    }
    answer.path_.push_back({id, at, end});
    if (!goes_on) {
      break;
    }
    at = end;
  }
  look_up_safe(answer);
}

void page_strands::look_up_safe(prefix_answer& answer) const noexcept {
  const std::span<const segment> path = answer.path_;
  for (std::size_t i = path.size(); i-- > 0;) {
    const auto [id, begin, end] = path[i];
    for (const page_holder& holder : strands_[id].holders) {
      worker_prefix& row = answer.rows_[holder.worker];
      for (std::uint32_t tier = 0; tier < page_tiers; ++tier) {
        if (tier > 0 && !is_in(answer.tiers_[holder.worker], tier)) {
          row.safe_pages[tier] = row.safe_pages[tier - 1];
          continue;
        }
        if (row.safe_pages[tier] != 0 || row.full_pages[tier] <= begin) {
          continue;
        }
        const std::uint32_t limit = std::min(row.full_pages[tier], end);
        if (tier > 0 && row.safe_pages[tier - 1] == limit) {
          row.safe_pages[tier] = limit;  // Nothing is larger, and more tiers have no less.
          continue;
        }
        const std::uint32_t top = holder.safe_top[tier];
        if (top != 0 && (top <= limit || ORIEL_MUTANT(safe_beyond_the_prompt))) {
          row.safe_pages[tier] = top;
        } else if (top != 0) {
          row.safe_pages[tier] = last_safe(holder, tier, begin, limit, path.first(i));
        } else if (begin > 0 && is_in(holder.reaches_back, tier)) {
          const std::uint32_t reach = std::min(limit, begin + needed_pages_max_);
          row.safe_pages[tier] = last_safe(holder, tier, begin, reach, path.first(i));
        }
      }
    }
  }
}

/// The largest safe boundary in (begin, limit] of a strand that starts at `begin`; 0: there is
/// none. Windows may begin in the strands `before`, which end there; without these only what lies
/// in the strand counts.
std::uint32_t page_strands::last_safe(const page_holder& holder,
                                      std::uint32_t tier,
                                      std::uint32_t begin,
                                      std::uint32_t limit,
                                      std::span<const segment> before) const noexcept {
  const tier_mask tiers = tiers_up_to(tier);
  std::uint32_t boundary = limit;
  if (ORIEL_MUTANT(boundary_is_the_full_length)) {
    return limit;
  }
  for (std::uint32_t agreeing = 0, kind = 0; agreeing < needed_pages_.size();) {
    // Kinds take turns to lower the boundary until all of them agree to one.
    if (boundary <= begin) {
      return 0;
    }
    const std::uint32_t needed = needed_pages_[kind];
    const std::uint32_t from = boundary > needed ? boundary - needed : 0;
    std::uint32_t start =
        needed == 0 ? boundary : holder.steps.covered_down(1 + kind, boundary, tiers);
    if (start == begin && start > from && ORIEL_MUTANT(window_crosses_any_strand)) {
      start = from;
    } else if (start == begin && start > from && !before.empty() &&
               !ORIEL_MUTANT(window_stops_at_its_strand)) {
      start = covered_down(holder.worker, 1 + kind, begin, tiers, before);
    }
    if (start <= from) {
      ++agreeing;
    } else {
      // All smaller boundaries in this stretch of windows need more before it, too.
      boundary = start < boundary ? std::max(start, begin) : boundary;
      boundary = std::min(boundary, holder.steps.last_covered(1 + kind, boundary, tiers));
      agreeing = ORIEL_MUTANT(index_kinds_agree_in_one_pass) ? agreeing : 0;
    }
    kind = kind + 1 == needed_pages_.size() ? 0 : kind + 1;
  }
  return boundary > begin ? boundary : 0;
}

/// Start of the window pages below `end` along the path, which ends there.
std::uint32_t page_strands::covered_down(std::uint32_t worker,
                                         std::uint32_t pool,
                                         std::uint32_t end,
                                         tier_mask tiers,
                                         std::span<const segment> path) const noexcept {
  for (std::size_t i = path.size(); i-- > 0;) {
    const page_holder* const holder = strands_[path[i].strand].find(worker);
    if (holder == nullptr) {
      break;
    }
    const std::uint32_t start = holder->steps.covered_down(pool, end, tiers);
    if (start > path[i].begin) {
      return start;
    }
    end = start;
  }
  return end;
}

}  // namespace oriel::detail
