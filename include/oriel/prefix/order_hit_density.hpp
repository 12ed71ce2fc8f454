// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `hit_density_order`: the run goes first that promises the fewest hits for the room it takes.
#pragma once

#include <oriel/prefix/detail/lazy_array.hpp>
#include <oriel/prefix/detail/sampled_set.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace oriel {

/// Least hit density, learned online.
///
/// Every page that is kept costs page-seconds until it is hit or given up. The density of a run at
/// its age is the best ratio that any plan of the form "wait until age x, then give up" can expect:
/// hits by then over page-seconds until then (the Gittins index of its hazard). When the pool is
/// full, the run of lowest density goes, among `sampled_runs` drawn at random.
///
/// The hazard, how likely a run of this age is hit next, is counted per class of runs and age. The
/// class says how the request ended, how long it ran, and the gap before it (or, if the caller
/// forecasts, how far ahead); where a class has seen little, the wider class speaks: all runs >
/// same end > same duration > same gap. What is left of a run whose shallow part was taken over is
/// a class of its own, by the share that is left, and its age starts again: a compaction leaves a
/// branch that nobody wants, a side question leaves a conversation that goes on.
///
/// Nothing is tuned to a workload: durations, gaps and forecasts are told apart by powers of two or
/// four of seconds. docs/decisions/eviction_order.md has the figures and what else was tried.
///
/// Deterministic: a seed and the calls fix every victim. Every call is O(1): `victim` looks at
/// `sampled_runs` runs, `insert` brings `classes_refreshed` classes up to date.
/// Memory: 12 bytes per run id used, 16 per run inside, and 300 KiB.
class hit_density_order {
  // What ranks a run.
  struct entry {
    std::uint64_t since_us = 0;  // its age counts from here
    run_id run = null_run;
    std::uint16_t class_index = 0;
  };
  using set = detail::sampled_set<entry>;

 public:
  static constexpr std::uint32_t sampled_runs = set::sampled_runs;

  /// @throws std::bad_alloc
  explicit hit_density_order(std::uint32_t max_runs, std::uint64_t seed = 0x4F52'4945'4C00'0001u);

  [[nodiscard]] bool contains(run_id run) const noexcept { return inside_.contains(run); }
  void insert(run_id run, const run_facts& facts) noexcept;
  void erase(run_id run) noexcept { inside_.erase(run); }
  void on_hit(run_id run, std::uint32_t pages, std::uint64_t now_us) noexcept;
  void on_evict(run_id run, std::uint32_t pages, std::uint64_t now_us) noexcept;
  void inherit(run_id, run_id) noexcept {}
  [[nodiscard]] run_id victim(std::uint64_t now_us) noexcept;

  /// Hits per page-second to be expected of a run inside. @pre contains(run)
  [[nodiscard]] float density(run_id run, std::uint64_t now_us) const noexcept {
    return density(inside_[run], now_us);
  }

 private:
  static constexpr std::uint32_t classes_refreshed = 2;
  // Ages: [0, 2^18 us), then four bins to the octave, up to 76 h.
  static constexpr std::uint32_t bins = 81, first_bin_bits = 18;
  // The tree of classes, parents before children.
  static constexpr std::uint32_t ends = 4, durations = 5, gaps = 10, shares = 5;
  static constexpr std::uint32_t class_any = 0;
  static constexpr std::uint32_t class_rest = 1;                     // of a run taken over in part
  static constexpr std::uint32_t class_end = class_rest + 1;         // [ends]
  static constexpr std::uint32_t class_duration = class_end + ends;  // [ends, durations]
  static constexpr std::uint32_t class_gap = class_duration + ends * durations;      // [.., gaps]
  static constexpr std::uint32_t class_share = class_gap + ends * durations * gaps;  // [shares]
  static constexpr std::uint32_t classes = class_share + shares;

  // What is left of a run.
  struct remains {
    std::uint32_t pages;
    float page_weight;  // A whole request's pages weigh 1, so that long ones do not drown others.
  };
  // How pages left a class at an age, in runs: hit, or not (evicted, or changed class).
  struct exits {
    float hit = 0, other = 0;
  };

  [[nodiscard]] static std::uint32_t cell(std::uint32_t class_index, std::uint32_t bin) noexcept {
    return class_index * bins + bin;
  }
  [[nodiscard]] float density(const entry& e, std::uint64_t now_us) const noexcept {
    return density_[cell(e.class_index, bin_of(e.since_us, now_us))];
  }
  [[nodiscard]] static std::uint32_t bin_of(std::uint64_t since_us, std::uint64_t now_us) noexcept {
    const std::uint64_t age_us = now_us > since_us ? now_us - since_us : 0;
    const auto bits = static_cast<std::uint32_t>(std::bit_width(age_us >> first_bin_bits));
    if (bits == 0) {
      return 0;
    }
    const auto quarter = static_cast<std::uint32_t>(age_us >> (bits + first_bin_bits - 3)) & 3u;
    return std::min(1 + 4 * (bits - 1) + quarter, bins - 1);
  }
  [[nodiscard]] static double bin_begin_s(std::uint32_t bin) noexcept;
  [[nodiscard]] static std::uint32_t class_of(const run_facts& facts) noexcept;
  [[nodiscard]] static std::uint32_t parent_of(std::uint32_t class_index) noexcept;
  void count(const entry& e, std::uint32_t pages, bool is_hit, std::uint64_t now_us) noexcept;
  void refresh(std::uint32_t class_index) noexcept;
  void learn_hazards(std::uint32_t class_index) noexcept;

  set inside_;
  detail::lazy_array<remains> remains_;  // [max_runs]
  std::vector<exits> exits_;             // [classes, bins]
  std::vector<float> hazard_;            // [classes, bins]: probability of a hit within the bin
  std::vector<float> density_;           // [classes, bins]: hits per page-second
  std::uint32_t next_refresh_ = 0;
};

static_assert(evict_order<hit_density_order>);

}  // namespace oriel
