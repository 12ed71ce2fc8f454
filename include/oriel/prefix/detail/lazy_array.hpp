// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `lazy_array`: a fixed array of zeros whose memory the system commits as it is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

namespace oriel::detail {

/// Sized once for the largest index; what is never touched costs address space only, so an index
/// over a large pool starts small and nothing allocates later. Starts at a cache line.
template <class T>
class lazy_array {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  lazy_array() = default;
  /// @throws std::bad_alloc
  explicit lazy_array(std::size_t size)
      : memory_(std::calloc(size * sizeof(T) + line_bytes, 1)), size_(size) {
    if (memory_ == nullptr) {
      throw std::bad_alloc();
    }
    const auto address = reinterpret_cast<std::uintptr_t>(memory_);
    const std::size_t to_line = (line_bytes - address % line_bytes) % line_bytes;
    data_ = reinterpret_cast<T*>(static_cast<std::byte*>(memory_) + to_line);
  }
  lazy_array(lazy_array&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  lazy_array& operator=(lazy_array&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~lazy_array() { std::free(memory_); }

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] T* data() noexcept { return data_; }
  [[nodiscard]] const T* data() const noexcept { return data_; }
  [[nodiscard]] T& operator[](std::size_t i) noexcept { return data_[i]; }
  [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  static constexpr std::size_t line_bytes = 64;

  void* memory_ = nullptr;  // what calloc gave
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace oriel::detail
