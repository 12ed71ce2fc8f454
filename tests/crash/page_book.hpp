// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The books of the kill loop: what a page must, may and must never show, and what was counted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace crash {

/// What a page's operations amount to, by what was told of them.
class page_book {
 public:
  void begun(std::uint64_t sequence, bool is_put) { log_.push_back({sequence, is_put, false}); }
  void acknowledged(std::uint64_t sequence) {
    for (logged& l : log_) {
      l.is_acknowledged |= l.sequence == sequence;
    }
  }

  /// The process is gone. Operations on one page took effect in their order; what was begun and not
  /// acknowledged may have happened or not.
  void close() {
    in_doubt_ = 0;
    for (const logged& l : log_) {
      if (l.is_put) {
        versions_.push_back(l.sequence);
        must_hit_ |= l.is_acknowledged;
        in_doubt_ = l.is_acknowledged ? 0 : l.sequence;
      } else {
        must_hit_ = false;
        if (l.is_acknowledged) {
          versions_.clear();  // Of what was put before, nothing may come back.
        }
      }
    }
    log_.clear();
  }

  [[nodiscard]] bool may_hit(std::uint64_t version) const {
    return std::ranges::find(versions_, version) != versions_.end();
  }
  [[nodiscard]] bool must_hit() const { return must_hit_; }
  [[nodiscard]] std::uint64_t in_doubt() const { return in_doubt_; }
  void found() { must_hit_ = true, in_doubt_ = 0; }
  void missed(bool for_good) {
    must_hit_ = false, in_doubt_ = 0;
    if (for_good) {
      versions_.clear();
    }
  }

 private:
  struct logged {
    std::uint64_t sequence;
    bool is_put, is_acknowledged;
  };
  std::vector<logged> log_;
  std::vector<std::uint64_t> versions_;  ///< that a hit may show
  bool must_hit_ = false;
  std::uint64_t in_doubt_ = 0;  ///< a put that was begun and not acknowledged when the process died
};

/// What happened in the lives of a test.
struct tally {
  std::uint64_t kills = 0, orderly_ends = 0;
  std::uint64_t early_kills = 0;  ///< while it opened, or answered
  std::uint64_t begun_kills = 0;  ///< a put or deletion was begun and not acknowledged
  std::uint64_t write_kills = 0;  ///< and it was submitted, and the disk was at work
  std::uint64_t hits = 0, must_hits = 0, gone = 0;
  std::uint64_t landed = 0;  ///< puts that nobody acknowledged, and were found whole
  std::uint64_t torn = 0;    ///< and found in parts
  std::uint64_t absent = 0;
  std::uint64_t damaged_blocks = 0;
  std::uint64_t acknowledged = 0;
  bool is_direct = true;
};

}  // namespace crash
