// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `cost_aware_order`: pages that are dear to recompute stay longer.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/prefix/detail/sampled_set.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <utility>

namespace oriel {

/// Seconds to recompute one page, by the number of pages before it. All pages have the same bytes,
/// so seconds per page rank as seconds per byte do.
template <class C>
concept page_cost = std::movable<C> && requires(const C& c, std::uint32_t pages_before) {
  { c(pages_before) }
  noexcept->std::convertible_to<double>;
};

/// Linear work, and attention over what is before. The default: a page costs twice as much behind
/// 150,000 tokens (of 64-token pages) as at the start; only ratios matter.
struct affine_page_cost {
  double seconds_first = 1.0;
  double seconds_more_per_page = 1.0 / 2344;

  [[nodiscard]] double operator()(std::uint32_t pages_before) const noexcept {
    return seconds_first + seconds_more_per_page * pages_before;
  }
};

/// GreedyDual (N. Young, 1994) over runs: a run is worth the floor at which it was inserted plus
/// the seconds that its deepest page costs; the run worth least goes, among `sampled_runs` drawn
/// at random, and raises the floor to its worth. So a page that costs twice as much survives twice
/// as many evictions without a hit. With a constant cost it is LRU, but for the sampling.
///
/// Every call is O(1); `victim` looks at `sampled_runs` runs. Memory: 4 bytes per run id used, 16
/// per run inside.
template <page_cost Cost = affine_page_cost>
class cost_aware_order {
  struct entry {
    double floor = 0;
    run_id run = null_run;
    std::uint32_t end_page = 0;
  };
  using set = detail::sampled_set<entry>;

 public:
  static constexpr std::uint32_t sampled_runs = set::sampled_runs;

  /// @throws std::bad_alloc
  explicit cost_aware_order(std::uint32_t max_runs,
                            Cost cost = {},
                            std::uint64_t seed = 0x4F52'4945'4C00'0002u)
      : cost_(std::move(cost)), inside_(max_runs, seed) {}

  [[nodiscard]] bool contains(run_id run) const noexcept { return inside_.contains(run); }
  void insert(run_id run, const run_facts& facts) noexcept {
    inside_.insert({.floor = floor_, .run = run, .end_page = facts.end_page});
  }
  void erase(run_id run) noexcept { inside_.erase(run); }
  void on_hit(run_id, std::uint32_t, std::uint64_t) noexcept {}
  void on_evict(run_id run, std::uint32_t pages, std::uint64_t) noexcept {
    ORIEL_EXPECTS(contains(run));
    entry& e = inside_[run];
    floor_ = std::max(floor_, worth(e));
    e.end_page -= std::min(pages, e.end_page);
  }
  void inherit(run_id, run_id) noexcept {}
  [[nodiscard]] run_id victim(std::uint64_t) noexcept {
    return inside_.lowest([this](const entry& e) { return worth(e); });
  }

 private:
  [[nodiscard]] double worth(const entry& e) const noexcept {
    return e.floor + cost_(e.end_page == 0 ? 0 : e.end_page - 1);
  }

  [[no_unique_address]] Cost cost_;
  set inside_;
  double floor_ = 0;
};

static_assert(evict_order<cost_aware_order<>>);

}  // namespace oriel
