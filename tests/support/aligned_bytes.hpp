// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Memory for a test, aligned as a cache line and filled with something that shows.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <span>
#include <utility>

namespace oriel::test {

inline constexpr std::byte poison{0xFF};  // Four of them are a NaN in f32, two in bf16.

/// `n` bytes from a multiple of 64 on. Const as a pointer is: what it points to may change.
class aligned_bytes {
 public:
  explicit aligned_bytes(std::size_t n, std::byte fill = poison)
      : data_(static_cast<std::byte*>(::operator new (n + 1, std::align_val_t{line}))), size_(n) {
    std::memset(data_, static_cast<int>(fill), n);
  }
  aligned_bytes(const aligned_bytes& other) : aligned_bytes(other.size_) {
    if (size_ != 0) {
      std::memcpy(data_, other.data_, size_);
    }
  }
  aligned_bytes(aligned_bytes&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  aligned_bytes& operator=(aligned_bytes other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~aligned_bytes() { ::operator delete (data_, std::align_val_t{line}); }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<std::byte> span() const { return {data_, size_}; }

 private:
  static constexpr std::size_t line = 64;

  std::byte* data_;
  std::size_t size_;
};

}  // namespace oriel::test
