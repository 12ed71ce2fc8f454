// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a `prefix_index` answers: one row of 32 bytes a worker, in the order of their numbers, so
/// that a router scores all of them in one pass over one array.
#pragma once

#include <oriel/route/worker_event.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

namespace detail {
class page_strands;
}

/// How much of a prompt one worker has. Entry t counts what is on tier t or nearer: [0] is the
/// device alone, [page_tiers - 1] everything. Never falls with t, and safe <= full.
struct worker_prefix {
  std::uint32_t full_pages[page_tiers] = {};  ///< full pages from page 0 on, without a gap
  /// The largest boundary not above full_pages for which the window pages are there too, of every
  /// kind: a request resumes here at no cost. Between the two lies what a heal can win.
  std::uint32_t safe_pages[page_tiers] = {};

  friend bool operator==(const worker_prefix&, const worker_prefix&) noexcept = default;
};

/// Reuse one object to reuse its memory. It holds nothing of the index.
class prefix_answer {
 public:
  /// [workers]; a worker that has nothing has zeros.
  [[nodiscard]] std::span<const worker_prefix> rows() const noexcept { return rows_; }
  /// @pre the answer was filled, worker < workers
  [[nodiscard]] const worker_prefix& operator[](worker_id worker) const noexcept {
    return rows_[to_index(worker)];
  }

 private:
  friend class detail::page_strands;
  /// A strand on the path of the prompt, and the pages [begin, end) that they share.
  struct segment {
    std::uint32_t strand = 0, begin = 0, end = 0;
  };

  std::vector<worker_prefix> rows_;
  std::vector<std::uint8_t> tiers_;  // [workers] tiers that it uses on the path
  std::vector<segment> path_;
};

}  // namespace oriel
