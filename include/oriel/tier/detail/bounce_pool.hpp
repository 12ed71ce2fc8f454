// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `bounce_pool`: a bounded amount of memory that a disk can read into and write from, for headers
/// and for slices that are not aligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel::detail {

/// Runs of 4 KiB blocks out of one piece, first fit by a bitmap. Empty span: not now.
class bounce_pool {
 public:
  /// @throws std::bad_alloc
  explicit bounce_pool(std::size_t bytes);
  ~bounce_pool();
  bounce_pool(const bounce_pool&) = delete;
  bounce_pool& operator=(const bounce_pool&) = delete;

  /// A run of at least `bytes`, aligned to 4 KiB; empty if there is none now. O(blocks / 64).
  [[nodiscard]] std::span<std::byte> acquire(std::size_t bytes) noexcept;
  /// @pre `run` is what acquire gave
  void release(std::span<std::byte> run) noexcept;

  [[nodiscard]] std::size_t capacity_bytes() const noexcept;
  [[nodiscard]] std::size_t used_bytes() const noexcept;

 private:
  std::byte* memory_ = nullptr;
  std::vector<bool> is_used_;  // [blocks]
  std::size_t used_blocks_ = 0;
  std::size_t next_ = 0;  // where the last search ended
};

}  // namespace oriel::detail
