// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `s3_fifo_order`: a small queue on probation before a main one, after J. Yang et al., "FIFO
/// Queues Are All You Need for Cache Eviction", SOSP'23.
#pragma once

#include <oriel/prefix/detail/run_queues.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <algorithm>
#include <cstdint>

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
/// id used.
class s3_fifo_order {
 public:
  static constexpr std::uint32_t spared_runs = 64;

  /// @throws std::bad_alloc
  explicit s3_fifo_order(std::uint32_t max_runs) : runs_(max_runs) {}

  [[nodiscard]] bool contains(run_id run) const noexcept { return runs_.contains(run); }

  void insert(run_id run, const run_facts& facts) noexcept {
    record& r = runs_[run];
    if (facts.turn == 0 && facts.gap_us == no_gap) {
      r.uses = 0;  // What `inherit` may have left for an earlier run of this id.
    }
    append(run, facts.pages, r.uses != 0 ? main : small);
  }

  void erase(run_id run) noexcept {
    if (contains(run)) {
      remove(run);
    }
  }

  void on_hit(run_id run, std::uint32_t pages, std::uint64_t) noexcept { lose(run, pages); }
  void on_evict(run_id run, std::uint32_t pages, std::uint64_t) noexcept { lose(run, pages); }

  void inherit(run_id to, run_id from) noexcept {
    runs_[to].uses =
        static_cast<std::uint8_t>(std::min<std::uint32_t>(runs_[from].uses + 1u, uses_max));
  }

  [[nodiscard]] run_id victim(std::uint64_t) noexcept {
    const std::uint64_t small_pages = runs_.of_queue(small).pages;
    const bool is_small_over = small_pages * small_part > small_pages + runs_.of_queue(main).pages;
    const run_id on_probation = runs_.oldest(small);
    if (on_probation != null_run && (is_small_over || runs_.oldest(main) == null_run)) {
      return on_probation;
    }
    run_id head = runs_.oldest(main);
    for (std::uint32_t i = 0; i < spared_runs && head != null_run && runs_[head].uses != 0; ++i) {
      --runs_[head].uses;
      const std::uint32_t pages = runs_[head].pages;
      remove(head);
      append(head, pages, main);
      head = runs_.oldest(main);
    }
    return head;
  }

 private:
  static constexpr std::uint32_t small = 0, main = 1, queues = 2;
  static constexpr std::uint32_t uses_max = 3;
  static constexpr std::uint32_t small_part = 4;  // The small queue's aim is 1 / small_part.
  struct record : detail::run_link {
    std::uint32_t pages;  // of the run, or of all in the queue
    std::uint8_t uses;
    std::uint8_t queue;
  };

  void append(run_id run, std::uint32_t pages, std::uint32_t queue) noexcept {
    runs_.append(run, queue);
    runs_[run].pages = pages;
    runs_[run].queue = static_cast<std::uint8_t>(queue);
    runs_.of_queue(queue).pages += pages;
  }

  void remove(run_id run) noexcept {
    runs_.of_queue(runs_[run].queue).pages -= runs_[run].pages;
    runs_.remove(run);
  }

  void lose(run_id run, std::uint32_t pages) noexcept {
    if (contains(run)) {
      record& r = runs_[run];
      pages = std::min(pages, r.pages);
      r.pages -= pages;
      runs_.of_queue(r.queue).pages -= pages;
    }
  }

  detail::run_queues<record, queues> runs_;
};

static_assert(evict_order<s3_fifo_order>);

}  // namespace oriel
