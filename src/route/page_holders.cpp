// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Who has what of a run.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/detail/page_runs.hpp>

#include <algorithm>

namespace oriel::detail {

const page_holder* page_run::find(std::uint32_t worker) const noexcept {
  const auto at = std::ranges::lower_bound(holders, worker, {}, &page_holder::worker);
  return at != holders.end() && at->worker == worker ? &*at : nullptr;
}

page_holder& page_runs::holder_of(run_id id, std::uint32_t worker) {
  page_run& run = runs_[id];
  const auto at = std::ranges::lower_bound(run.holders, worker, {}, &page_holder::worker);
  if (at != run.holders.end() && at->worker == worker) {
    return *at;
  }
  page_holder& holder =
      *run.holders.insert(at, page_holder{.worker = static_cast<std::uint16_t>(worker)});
  list(id, holder);
  return holder;
}

void page_runs::list(run_id id, page_holder& holder) {
  holder.place = static_cast<std::uint32_t>(runs_of_[holder.worker].size());
  runs_of_[holder.worker].push_back(id);
}

void page_runs::drop_holder(run_id id, std::uint32_t worker) noexcept {
  page_run& run = runs_[id];
  std::vector<run_id>& runs = runs_of_[worker];
  const std::uint32_t place = run.find(worker)->place;
  runs[place] = runs.back();
  runs_[runs[place]].find(worker)->place = place;
  runs.pop_back();
  run.holders.erase(run.holders.begin() + (run.find(worker) - run.holders.data()));
  if (run.holders.empty() && run.holders.capacity() > 4) {
    std::vector<page_holder>().swap(run.holders);
  }
}

void page_runs::add(run_id id, const page_place& to, page_stretch pages) {
  page_holder& holder = holder_of(id, to.worker);
  page_run& run = runs_[id];
  changed_.clear();
  holder.steps.change(to.pool, pages, to.tier, true, changed_);
  if (ORIEL_MUTANT(stored_twice_counts_twice)) {
    changed_.assign(1, pages);
  }
  for (const page_stretch fresh : changed_) {
    for (std::uint32_t at = fresh.first - run.base; at < fresh.end - run.base; ++at) {
      ++run.counts[at];
    }
  }
  holder.tiers = static_cast<tier_mask>(holder.tiers | 1u << to.tier);
  if (!changed_.empty()) {
    refresh(run, holder);
  }
}

/// @returns some page has nobody left; then the holder may be gone too
bool page_runs::take(run_id id, page_holder& holder, const page_place& from, page_stretch pages) {
  page_run& run = runs_[id];
  changed_.clear();
  holder.steps.change(from.pool, pages, from.tier, false, changed_);
  bool is_unused = false;
  for (const page_stretch gone : changed_) {
    for (std::uint32_t at = gone.first - run.base; at < gone.end - run.base; ++at) {
      is_unused = --run.counts[at] == 0 || is_unused;
    }
  }
  if (holder.steps.empty()) {
    drop_holder(id, from.worker);
  } else if (!changed_.empty() && !ORIEL_MUTANT(removal_leaves_the_summary)) {
    refresh(run, holder);
  }
  return is_unused;
}

void page_runs::refresh(const page_run& run, page_holder& holder) const noexcept {
  holder.reaches_back = 0;
  for (std::uint32_t tier = 0; tier < page_tiers; ++tier) {
    const tier_mask tiers = tiers_up_to(tier);
    if (tier > 0 && (holder.tiers >> tier & 1u) == 0) {
      holder.full_end[tier] = holder.full_end[tier - 1];
      holder.safe_top[tier] = holder.safe_top[tier - 1];
      holder.reaches_back |=
          static_cast<tier_mask>((holder.reaches_back >> (tier - 1) & 1u) << tier);
      continue;
    }
    holder.full_end[tier] = holder.steps.covered_up(0, run.begin, tiers);
    bool reaches_back = false;
    for (std::uint32_t kind = 0; kind < needed_pages_.size() && run.begin > 0; ++kind) {
      reaches_back |= holder.steps.covered_up(1 + kind, run.begin, tiers) > run.begin;
    }
    holder.reaches_back |= static_cast<tier_mask>(std::uint32_t{reaches_back} << tier);
    holder.safe_top[tier] = last_safe(holder, tier, run.begin, holder.full_end[tier], {});
  }
}

bool page_runs::is_sound() const {
  std::uint32_t pages = 0;
  std::vector<std::size_t> listed(runs_of_.size());
  for (run_id id = 0; id < runs_.size(); ++id) {
    const page_run& run = runs_[id];
    std::vector<std::uint16_t> counts(run.links.size());
    for (const page_holder& holder : run.holders) {
      if (holder.steps.empty() || holder.place >= runs_of_[holder.worker].size() ||
          runs_of_[holder.worker][holder.place] != id || run.find(holder.worker) != &holder) {
        return false;
      }
      ++listed[holder.worker];
      holder.steps.for_each([&](std::uint32_t, page_stretch held, tier_mask mask) {
        for (std::uint32_t tier = 0; tier < page_tiers; ++tier) {
          for (std::uint32_t at = held.first; at < held.end && (mask >> tier & 1u) != 0; ++at) {
            ++counts[at - run.base];
          }
        }
      });
      page_holder anew = holder;
      refresh(run, anew);
      if (!std::ranges::equal(anew.full_end, holder.full_end) ||
          !std::ranges::equal(anew.safe_top, holder.safe_top) ||
          anew.reaches_back != holder.reaches_back) {
        return false;
      }
    }
    if (counts != run.counts || (run.end() == run.begin) != run.holders.empty()) {
      return false;
    }
    for (std::uint32_t at = run.begin; at < run.end(); ++at) {
      if (counts[at - run.base] == 0 || find(run.link(at), at) != id) {
        return false;
      }
    }
    pages += run.end() - run.begin;
  }
  for (std::size_t worker = 0; worker < runs_of_.size(); ++worker) {
    if (listed[worker] != runs_of_[worker].size()) {
      return false;
    }
  }
  return pages == pages_;
}

}  // namespace oriel::detail
