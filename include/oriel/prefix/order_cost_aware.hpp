// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `cost_aware_order`: pages that are dear to recompute stay longer.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <utility>
#include <vector>

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
/// Every call is O(1); `victim` looks at `sampled_runs` runs. Memory: 20 bytes per run
/// id.
template <page_cost Cost = affine_page_cost>
class cost_aware_order {
 public:
  static constexpr std::uint32_t sampled_runs = 64;

  /// @throws std::bad_alloc
  explicit cost_aware_order(std::uint32_t max_runs,
                            Cost cost = {},
                            std::uint64_t seed = 0x4F52'4945'4C00'0002u)
      : cost_(std::move(cost)), runs_(max_runs), inside_(max_runs), random_(seed != 0 ? seed : 1) {}

  [[nodiscard]] bool contains(run_id run) const noexcept {
    return runs_[to_index(run)].place != nowhere;
  }

  void insert(run_id run, const run_facts& facts) noexcept {
    ORIEL_EXPECTS(!contains(run));
    runs_[to_index(run)] = {.floor = floor_, .place = inside_count_, .end_page = facts.end_page};
    inside_[inside_count_++] = to_index(run);
  }

  void erase(run_id run) noexcept {
    if (contains(run)) {
      record& r = runs_[to_index(run)];
      const std::uint32_t last = inside_[--inside_count_];
      inside_[r.place] = last;
      runs_[last].place = r.place;
      r.place = nowhere;
    }
  }

  void on_hit(run_id, std::uint32_t, std::uint64_t) noexcept {}

  void on_evict(run_id run, std::uint32_t pages, std::uint64_t) noexcept {
    ORIEL_EXPECTS(contains(run));
    record& r = runs_[to_index(run)];
    floor_ = std::max(floor_, worth(r));
    r.end_page -= std::min(pages, r.end_page);
  }

  void inherit(run_id, run_id) noexcept {}

  [[nodiscard]] run_id victim(std::uint64_t) noexcept {
    run_id least = null_run;
    for (std::uint32_t i = 0; i < std::min(inside_count_, sampled_runs); ++i) {
      const bool sees_all = inside_count_ <= sampled_runs;
      const run_id run{inside_[sees_all ? i : draw_below(inside_count_)]};
      if (least == null_run || worth(runs_[to_index(run)]) < worth(runs_[to_index(least)])) {
        least = run;
      }
    }
    return least;
  }

 private:
  static constexpr std::uint32_t nowhere = 0xFFFF'FFFFu;
  struct record {
    double floor = 0;
    std::uint32_t place = nowhere;  // in inside_
    std::uint32_t end_page = 0;
  };

  [[nodiscard]] double worth(const record& r) const noexcept {
    return r.floor + cost_(r.end_page == 0 ? 0 : r.end_page - 1);
  }

  [[nodiscard]] std::uint32_t draw_below(std::uint32_t bound) noexcept {
    random_ ^= random_ << 13;  // xorshift64, G. Marsaglia 2003.
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return static_cast<std::uint32_t>(((random_ >> 32) * bound) >> 32);
  }

  [[no_unique_address]] Cost cost_;
  std::vector<record> runs_;           // [max_runs]
  std::vector<std::uint32_t> inside_;  // [runs inside], in no order
  std::uint32_t inside_count_ = 0;
  double floor_ = 0;
  std::uint64_t random_;
};

static_assert(evict_order<cost_aware_order<>>);

}  // namespace oriel
