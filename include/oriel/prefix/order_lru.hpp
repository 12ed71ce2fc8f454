// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `lru_order`: the run whose request ended first goes first. With runs this is page LRU.
#pragma once

#include <oriel/core/mutation.hpp>
#include <oriel/prefix/detail/run_queues.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <cstdint>

namespace oriel {

/// One queue. Every call is O(1). Memory: 8 bytes per run id used.
class lru_order {
 public:
  /// @throws std::bad_alloc
  explicit lru_order(std::uint32_t max_runs) : queue_(max_runs) {}

  [[nodiscard]] bool contains(run_id run) const noexcept { return queue_.contains(run); }
  void insert(run_id run, const run_facts&) noexcept { queue_.append(run, 0); }
  void erase(run_id run) noexcept {
    if (contains(run)) {
      queue_.remove(run);
    }
  }
  void on_hit(run_id, std::uint32_t, std::uint64_t) noexcept {}
  void on_evict(run_id, std::uint32_t, std::uint64_t) noexcept {}
  void inherit(run_id, run_id) noexcept {}
  [[nodiscard]] run_id victim(std::uint64_t) noexcept {
    return ORIEL_MUTANT(newest_run_goes_first) ? queue_.newest(0) : queue_.oldest(0);
  }

 private:
  detail::run_queues<detail::run_link, 1> queue_;
};

static_assert(evict_order<lru_order>);

}  // namespace oriel
