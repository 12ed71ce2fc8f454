// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Who has what of a strand.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/detail/page_strands.hpp>

#include <algorithm>

namespace oriel::detail {

const page_holder* page_strand::find(std::uint32_t worker) const noexcept {
  const auto at = std::ranges::lower_bound(holders, worker, {}, &page_holder::worker);
  return at != holders.end() && at->worker == worker ? &*at : nullptr;
}

page_holder& page_strands::holder_of(strand_id id, std::uint32_t worker) {
  page_strand& strand = strands_[id];
  const auto at = std::ranges::lower_bound(strand.holders, worker, {}, &page_holder::worker);
  if (at != strand.holders.end() && at->worker == worker) {
    return *at;
  }
  page_holder& holder =
      *strand.holders.insert(at, page_holder{.worker = static_cast<std::uint16_t>(worker)});
  list(id, holder);
  return holder;
}

void page_strands::list(strand_id id, page_holder& holder) {
  holder.place = static_cast<std::uint32_t>(strands_of_[holder.worker].size());
  strands_of_[holder.worker].push_back(id);
}

void page_strands::drop_holder(strand_id id, std::uint32_t worker) noexcept {
  page_strand& strand = strands_[id];
  std::vector<strand_id>& strands = strands_of_[worker];
  const std::uint32_t place = strand.find(worker)->place;
  strands[place] = strands.back();
  strands_[strands[place]].find(worker)->place = place;
  strands.pop_back();
  strand.holders.erase(strand.holders.begin() + (strand.find(worker) - strand.holders.data()));
  if (strand.holders.empty() && strand.holders.capacity() > 4) {
    std::vector<page_holder>().swap(strand.holders);
  }
}

void page_strands::add(strand_id id, const worker_place& to, page_stretch pages) {
  page_holder& holder = holder_of(id, to.worker);
  page_strand& strand = strands_[id];
  changed_.clear();
  holder.steps.change(to.pool, pages, to.tier, true, changed_);
  if (ORIEL_MUTANT(stored_twice_counts_twice)) {
    changed_.assign(1, pages);
  }
  for (const page_stretch fresh : changed_) {
    for (std::uint32_t at = fresh.first - strand.base; at < fresh.end - strand.base; ++at) {
      ++strand.counts[at];
    }
  }
  holder.tiers = static_cast<tier_mask>(holder.tiers | 1u << to.tier);
  if (!changed_.empty()) {
    refresh(strand, holder);
  }
}

/// @returns some page has nobody left; then the holder may be gone too
bool page_strands::take(strand_id id,
                        page_holder& holder,
                        const worker_place& from,
                        page_stretch pages) {
  page_strand& strand = strands_[id];
  changed_.clear();
  holder.steps.change(from.pool, pages, from.tier, false, changed_);
  bool is_unused = false;
  for (const page_stretch gone : changed_) {
    for (std::uint32_t at = gone.first - strand.base; at < gone.end - strand.base; ++at) {
      is_unused = --strand.counts[at] == 0 || is_unused;
    }
  }
  if (holder.steps.empty()) {
    drop_holder(id, from.worker);
  } else if (!changed_.empty() && !ORIEL_MUTANT(removal_leaves_the_summary)) {
    refresh(strand, holder);
  }
  return is_unused;
}

void page_strands::refresh(const page_strand& strand, page_holder& holder) const noexcept {
  holder.reaches_back = 0;
  for (std::uint32_t tier = 0; tier < page_tiers; ++tier) {
    const tier_mask tiers = tiers_up_to(tier);
    if (tier > 0 && !is_in(holder.tiers, tier)) {
      holder.full_end[tier] = holder.full_end[tier - 1];
      holder.safe_top[tier] = holder.safe_top[tier - 1];
      holder.reaches_back |=
          static_cast<tier_mask>(std::uint32_t{is_in(holder.reaches_back, tier - 1)} << tier);
      continue;
    }
    holder.full_end[tier] = holder.steps.covered_up(0, strand.begin, tiers);
    bool reaches_back = false;
    for (std::uint32_t kind = 0; kind < needed_pages_.size() && strand.begin > 0; ++kind) {
      reaches_back |= holder.steps.covered_up(1 + kind, strand.begin, tiers) > strand.begin;
    }
    holder.reaches_back |= static_cast<tier_mask>(std::uint32_t{reaches_back} << tier);
    holder.safe_top[tier] = last_safe(holder, tier, strand.begin, holder.full_end[tier], {});
  }
}

bool page_strands::is_sound() const {
  std::uint32_t pages = 0;
  std::vector<std::size_t> listed(strands_of_.size());
  for (strand_id id = 0; id < strands_.size(); ++id) {
    const page_strand& strand = strands_[id];
    std::vector<std::uint16_t> counts(strand.links.size());
    for (const page_holder& holder : strand.holders) {
      if (holder.steps.empty() || holder.place >= strands_of_[holder.worker].size() ||
          strands_of_[holder.worker][holder.place] != id || strand.find(holder.worker) != &holder) {
        return false;
      }
      ++listed[holder.worker];
      holder.steps.for_each([&](std::uint32_t, page_stretch held, tier_mask mask) {
        for (std::uint32_t tier = 0; tier < page_tiers; ++tier) {
          for (std::uint32_t at = held.first; at < held.end && is_in(mask, tier); ++at) {
            ++counts[at - strand.base];
          }
        }
      });
      page_holder anew = holder;
      refresh(strand, anew);
      if (!std::ranges::equal(anew.full_end, holder.full_end) ||
          !std::ranges::equal(anew.safe_top, holder.safe_top) ||
          anew.reaches_back != holder.reaches_back) {
        return false;
      }
    }
    if (counts != strand.counts || (strand.end() == strand.begin) != strand.holders.empty()) {
      return false;
    }
    for (std::uint32_t at = strand.begin; at < strand.end(); ++at) {
      if (counts[at - strand.base] == 0 || find(strand.link(at), at) != id) {
        return false;
      }
    }
    pages += strand.end() - strand.begin;
  }
  for (std::size_t worker = 0; worker < strands_of_.size(); ++worker) {
    if (listed[worker] != strands_of_[worker].size()) {
      return false;
    }
  }
  return pages == pages_;
}

}  // namespace oriel::detail
