// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `spsc_ring`: a bounded queue from one thread to one other.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace oriel::detail {

/// One thread pushes, one pops; neither waits for the other. Each side keeps its last view of the
/// other's counter, and looks again only when that one says full or empty.
template <class T>
class spsc_ring {
 public:
  /// Room for at least `capacity`. @throws std::bad_alloc
  explicit spsc_ring(std::size_t capacity)
      : entries_(std::bit_ceil(capacity)), mask_(entries_.size() - 1) {}

  /// By the pushing thread. @returns false: full
  [[nodiscard]] bool try_push(const T& value) {
    const std::uint64_t at = pushed_.load(std::memory_order_relaxed);
    if (at - popped_seen_ > mask_) {
      popped_seen_ = popped_.load(std::memory_order_acquire);
      if (at - popped_seen_ > mask_) {
        return false;
      }
    }
    entries_[at & mask_] = value;
    pushed_.store(at + 1, std::memory_order_release);
    return true;
  }

  /// By the popping thread. @returns false: empty
  [[nodiscard]] bool try_pop(T& value) {
    if (is_empty()) {
      return false;
    }
    const std::uint64_t at = popped_.load(std::memory_order_relaxed);
    value = entries_[at & mask_];
    popped_.store(at + 1, std::memory_order_release);
    return true;
  }

  /// By the popping thread.
  [[nodiscard]] bool is_empty() {
    const std::uint64_t at = popped_.load(std::memory_order_relaxed);
    if (at == pushed_seen_) {
      pushed_seen_ = pushed_.load(std::memory_order_acquire);
    }
    return at == pushed_seen_;
  }

 private:
  std::vector<T> entries_;
  std::uint64_t mask_;
  alignas(64) std::atomic<std::uint64_t> pushed_{0};
  std::uint64_t popped_seen_ = 0;  // The pushing thread's.
  alignas(64) std::atomic<std::uint64_t> popped_{0};
  std::uint64_t pushed_seen_ = 0;  // The popping thread's.
};

}  // namespace oriel::detail
