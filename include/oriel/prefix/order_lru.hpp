// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `lru_order`: the run whose request ended first goes first. With runs this is page LRU.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <cstdint>
#include <vector>

namespace oriel {

/// An intrusive list over run ids. Every call is O(1). Memory: 8 bytes per run id.
class lru_order {
 public:
  /// @throws std::bad_alloc
  explicit lru_order(std::uint32_t max_runs) : links_(std::size_t{max_runs} + 1) {
    links_[0] = {0, 0};
  }

  [[nodiscard]] bool contains(run_id run) const noexcept { return links_[slot(run)].newer != none; }
  void insert(run_id run, const run_facts&) noexcept {
    ORIEL_EXPECTS(!contains(run));
    link& head = links_[0];
    links_[slot(run)] = {head.older, 0};
    links_[head.older].newer = slot(run);
    head.older = slot(run);
  }
  void erase(run_id run) noexcept {
    if (contains(run)) {
      link& l = links_[slot(run)];
      links_[l.older].newer = l.newer;
      links_[l.newer].older = l.older;
      l.newer = none;
    }
  }
  void on_hit(run_id, std::uint32_t, std::uint64_t) noexcept {}
  void on_evict(run_id, std::uint32_t, std::uint64_t) noexcept {}
  void inherit(run_id, run_id) noexcept {}
  [[nodiscard]] run_id victim(std::uint64_t) noexcept {
    const std::uint32_t next =
        ORIEL_MUTANT(newest_run_goes_first) ? links_[0].older : links_[0].newer;
    return next == 0 ? null_run : run_id{next - 1};
  }

 private:
  // A ring through slot 0: its `newer` is the oldest run, its `older` the newest.
  static constexpr std::uint32_t none = 0xFFFF'FFFFu;
  struct link {
    std::uint32_t older = 0, newer = none;
  };
  [[nodiscard]] static std::uint32_t slot(run_id run) noexcept { return to_index(run) + 1; }

  std::vector<link> links_;  // [max_runs + 1]
};

static_assert(evict_order<lru_order>);

}  // namespace oriel
