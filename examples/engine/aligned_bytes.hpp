// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `aligned_bytes`: an owned, zeroed, 64-byte aligned run of bytes for packed weights.
#pragma once

#include <oriel/kv/memory.hpp>

#include <cstddef>
#include <span>
#include <utility>

namespace oriel::engine {

/// Owns `size()` bytes; move only. Fresh bytes are zero.
///
/// Memory: from 4 MiB on, a `huge_page_memory` (weights are read in long runs, so the TLB matters);
/// it becomes resident as it is written.
class aligned_bytes {
 public:
  static constexpr std::size_t alignment = 64;

  aligned_bytes() noexcept = default;
  /// @throws std::bad_alloc
  explicit aligned_bytes(std::size_t size_bytes);
  aligned_bytes(aligned_bytes&& other) noexcept
      : mapped_(std::move(other.mapped_)),
        first_(std::exchange(other.first_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  aligned_bytes& operator=(aligned_bytes&& other) noexcept {
    std::swap(mapped_, other.mapped_);
    std::swap(first_, other.first_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~aligned_bytes();

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] std::byte* data() noexcept { return first_; }
  [[nodiscard]] const std::byte* data() const noexcept { return first_; }
  [[nodiscard]] std::span<const std::byte> span() const noexcept { return {first_, size_}; }

 private:
  huge_page_memory mapped_;  // the bytes, if there are many; else they are from operator new
  std::byte* first_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace oriel::engine
