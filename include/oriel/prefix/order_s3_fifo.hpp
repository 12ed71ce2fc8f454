// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `s3_fifo_order`: a small queue on probation before a main one, after J. Yang et al., "FIFO
/// Queues Are All You Need for Cache Eviction", SOSP'23.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace oriel {

/// S3-FIFO over runs. A run that continued none is on probation in the small queue, which gives
/// victims while it holds more than a quarter of the pages; a run that continued another goes to
/// the main queue, with one use more than that one had (at most 3). The head of the main queue is
/// spared once for each of its uses.
///
/// What differs from the original: the small queue is a quarter, not a tenth, since a tenth of a
/// cache that is short of room holds no whole run; a request makes a new run of the pages it hit,
/// so a used page moves to the tail of the main queue instead of waiting for the head; and there is
/// no ghost queue, since nothing of an evicted run is left by which it could be recognised.
///
/// Every call is O(1): `victim` spares at most `spared_runs` in one call. Memory: 16 bytes per run
/// id.
class s3_fifo_order {
 public:
  static constexpr std::uint32_t spared_runs = 64;

  /// @throws std::bad_alloc
  explicit s3_fifo_order(std::uint32_t max_runs) : runs_(std::size_t{max_runs} + queues) {
    for (std::uint32_t queue = 0; queue < queues; ++queue) {
      runs_[queue] = {.older = queue, .newer = queue};
    }
  }

  [[nodiscard]] bool contains(run_id run) const noexcept { return runs_[slot(run)].newer != none; }

  void insert(run_id run, const run_facts& facts) noexcept {
    ORIEL_EXPECTS(!contains(run));
    record& r = runs_[slot(run)];
    r.pages = facts.pages;
    if (facts.turn == 0 && facts.gap_us == no_gap) {
      r.uses = 0;  // What `inherit` may have left for an earlier run of this id.
    }
    append(slot(run), r.uses != 0 ? main : small);
  }

  void erase(run_id run) noexcept {
    if (contains(run)) {
      remove(slot(run));
    }
  }

  void on_hit(run_id run, std::uint32_t pages, std::uint64_t) noexcept { lose(run, pages); }
  void on_evict(run_id run, std::uint32_t pages, std::uint64_t) noexcept { lose(run, pages); }

  void inherit(run_id to, run_id from) noexcept {
    runs_[slot(to)].uses =
        static_cast<std::uint8_t>(std::min<std::uint32_t>(runs_[slot(from)].uses + 1u, uses_max));
  }

  [[nodiscard]] run_id victim(std::uint64_t) noexcept {
    const bool is_small_over =
        std::uint64_t{pages_[small]} * small_part > pages_[small] + pages_[main];
    if (runs_[small].newer != small && (is_small_over || runs_[main].newer == main)) {
      return run_id{runs_[small].newer - queues};
    }
    for (std::uint32_t i = 0; i < spared_runs && runs_[runs_[main].newer].uses != 0; ++i) {
      const std::uint32_t head = runs_[main].newer;
      --runs_[head].uses;
      remove(head);
      append(head, main);
    }
    return runs_[main].newer == main ? null_run : run_id{runs_[main].newer - queues};
  }

 private:
  static constexpr std::uint32_t none = 0xFFFF'FFFFu;
  static constexpr std::uint32_t small = 0, main = 1, queues = 2;
  static constexpr std::uint32_t uses_max = 3;
  static constexpr std::uint32_t small_part = 4;  // The small queue's aim is 1 / small_part.
  struct record {
    std::uint32_t older = 0, newer = none;
    std::uint32_t pages = 0;
    std::uint8_t uses = 0;
    std::uint8_t queue = small;
  };

  [[nodiscard]] static std::uint32_t slot(run_id run) noexcept { return to_index(run) + queues; }

  void append(std::uint32_t at, std::uint32_t queue) noexcept {
    record& r = runs_[at];
    r.queue = static_cast<std::uint8_t>(queue);
    r.older = runs_[queue].older;
    r.newer = queue;
    runs_[r.older].newer = at;
    runs_[queue].older = at;
    pages_[queue] += r.pages;
  }

  void remove(std::uint32_t at) noexcept {
    record& r = runs_[at];
    runs_[r.older].newer = r.newer;
    runs_[r.newer].older = r.older;
    r.newer = none;
    pages_[r.queue] -= r.pages;
  }

  void lose(run_id run, std::uint32_t pages) noexcept {
    if (contains(run)) {
      record& r = runs_[slot(run)];
      pages = std::min(pages, r.pages);
      r.pages -= pages;
      pages_[r.queue] -= pages;
    }
  }

  // Rings through the first `queues` slots: `newer` of such a slot is the head, `older` the tail.
  std::vector<record> runs_;  // [queues + max_runs]
  std::array<std::uint32_t, queues> pages_{};
};

static_assert(evict_order<s3_fifo_order>);

}  // namespace oriel
