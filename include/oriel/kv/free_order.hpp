// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `free_order`: which free page is handed out next.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace oriel {

/// A bounded sequence of free pages. `pop()` gives the page to hand out next.
///
///  - Constructed from a capacity in pages; then holds all pages [0, capacity), and gives them in
///    ascending order as long as none is pushed (memory committed on demand grows from the front).
///  - Never allocates afterwards.
///  - `push(id)`  @pre `id` is not inside.
///  - `pop()`     @pre size() > 0.
///
/// Models: `lifo_order`, `fifo_order`.
// clang-format off
template <class F>
concept free_order =
    std::movable<F> && std::constructible_from<F, std::uint32_t> &&  // capacity, in pages
    requires(F f, const F& cf, page_id id) {
      { cf.size() } noexcept -> std::same_as<std::uint32_t>;  // pages
      { f.push(id) } noexcept -> std::same_as<void>;
      { f.pop() } noexcept -> std::same_as<page_id>;
    };
// clang-format on

/// Last released, first reused: the page most likely still in a cache. The default.
///
/// Memory: 4 bytes per page.
class lifo_order {
 public:
  /// @throws std::bad_alloc
  explicit lifo_order(std::uint32_t capacity_pages)
      : stack_(capacity_pages), size_(capacity_pages) {
    for (std::uint32_t i = 0; i < capacity_pages; ++i) {
      stack_[i] = page_id{capacity_pages - 1 - i};
    }
  }

  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }

  void push(page_id id) noexcept {
    ORIEL_ASSERT(size_ < stack_.size());
    stack_[size_++] = id;
  }

  page_id pop() noexcept {
    ORIEL_ASSERT(size_ > 0);
    return stack_[--size_];
  }

 private:
  std::vector<page_id> stack_;  // [capacity]; the free pages are [0, size_), the top is last.
  std::uint32_t size_;
};

/// First released, first reused: a page rests as long as possible before its bytes change, which
/// makes a use after release easier to catch and spreads wear on a tier that has it.
///
/// Memory: 4 bytes per page.
class fifo_order {
 public:
  /// @throws std::bad_alloc
  explicit fifo_order(std::uint32_t capacity_pages)
      : queue_(capacity_pages), size_(capacity_pages) {
    for (std::uint32_t i = 0; i < capacity_pages; ++i) {
      queue_[i] = page_id{i};
    }
  }

  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }

  void push(page_id id) noexcept {
    ORIEL_ASSERT(size_ < queue_.size());
    const std::size_t end = std::size_t{head_} + size_;
    queue_[end < queue_.size() ? end : end - queue_.size()] = id;
    ++size_;
  }

  page_id pop() noexcept {
    ORIEL_ASSERT(size_ > 0);
    const page_id id = queue_[head_];
    head_ = head_ + 1 < queue_.size() ? head_ + 1 : 0;
    --size_;
    return id;
  }

 private:
  std::vector<page_id> queue_;  // [capacity]; the free pages are [head_, head_ + size_), wrapped.
  std::uint32_t head_ = 0;
  std::uint32_t size_;
};

static_assert(free_order<lifo_order>);
static_assert(free_order<fifo_order>);

}  // namespace oriel
