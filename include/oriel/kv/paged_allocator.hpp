// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `paged_allocator`: fixed-size KV pages from one pool, handed out in a chosen order and shared by
/// reference count.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kv/free_order.hpp>
#include <oriel/kv/page_allocator.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// Hands out the pages of one KV pool; keeps no KV bytes itself.
///
/// All memory is taken in the constructor; no later call allocates or throws. A handle is checked
/// wherever it is used: a stale one aborts there instead of touching the page's next owner. The
/// generation has 32 bits, so this holds as long as nobody keeps a stale handle while its page is
/// released 2^32 times.
///
/// @tparam Order  which free page goes next (see free_order.hpp).
///
/// Invariant:     free pages + referenced pages == capacity(), and no page is both.
/// Thread safety: none. One thread owns pools and tree.
/// Memory:        8 bytes per page, and the order's 4.
template <free_order Order = lifo_order>
class paged_allocator {
 public:
  /// Builds a pool whose pages are all free. O(capacity_pages).
  /// @pre    0 < capacity_pages < to_index(null_page)
  /// @throws std::bad_alloc
  explicit paged_allocator(std::uint32_t capacity_pages)
      : free_(checked(capacity_pages)), slots_(capacity_pages) {}

  /// Pages in the pool.
  [[nodiscard]] std::uint32_t capacity() const noexcept {
    return static_cast<std::uint32_t>(slots_.size());
  }

  /// Pages that `try_allocate` could hand out now.
  [[nodiscard]] std::uint32_t available() const noexcept { return free_.size(); }

  /// Does `handle` name a page in the generation that is now referenced? O(1), never aborts.
  [[nodiscard]] bool is_live(page_handle handle) const noexcept {
    if (to_index(handle.id) >= capacity()) {
      return false;
    }
    const slot& s = slots_[to_index(handle.id)];
    return s.references != 0 &&
           (s.generation == handle.generation || ORIEL_MUTANT(generation_is_ignored));
  }

  /// References to the page. O(1).
  /// @pre is_live(handle)
  [[nodiscard]] std::uint32_t ref_count(page_handle handle) const noexcept {
    ORIEL_EXPECTS(is_live(handle));
    return slots_[to_index(handle.id)].references;
  }

  /// Fills `out` with pages of one reference each, or returns false and changes nothing.
  /// O(out.size()).
  [[nodiscard]] bool try_allocate(std::span<page_handle> out) noexcept {
    if (out.size() > available()) {
      return false;
    }
    for (page_handle& handle : out) {
      const page_id id = free_.pop();
      slot& s = slots_[to_index(id)];
      ORIEL_ASSERT(s.references == 0);
      s.references = 1;
      handle = {id, s.generation};
    }
    return true;
  }

  /// Adds a reference: one more owner, who releases it. O(1).
  /// @pre is_live(handle)
  void add_ref(page_handle handle) noexcept { ++live_slot(handle).references; }

  /// Takes one reference from each page; a page left with none becomes free. O(pages.size()).
  /// @pre every handle is live, and named at most as often as its page has references. Checked: a
  ///      double release aborts here, not later.
  void release(std::span<const page_handle> pages) noexcept {
    for (const page_handle handle : pages) {
      slot& s = live_slot(handle);
      if (--s.references == 0) {
        ++s.generation;
        free_.push(handle.id);
      }
    }
  }

  /// One page, as above.
  void release(page_handle handle) noexcept { release(std::span(&handle, 1)); }

  /// The page stays with its only owner but stands for other tokens from now on: `handle` becomes
  /// stale and a new one takes its place. O(1), and no free list is touched.
  /// @pre is_live(handle) and ref_count(handle) == 1
  [[nodiscard]] page_handle renew(page_handle handle) noexcept {
    slot& s = live_slot(handle);
    ORIEL_EXPECTS(s.references == 1);
    return {handle.id, ORIEL_MUTANT(reused_page_keeps_its_handle) ? s.generation : ++s.generation};
  }

 private:
  struct slot {
    std::uint32_t generation = 1;  // 0 is never live: a zeroed handle is stale.
    std::uint32_t references = 0;  // 0 = free
  };

  static std::uint32_t checked(std::uint32_t capacity_pages) {
    ORIEL_EXPECTS(0 < capacity_pages && capacity_pages < to_index(null_page));
    return capacity_pages;
  }

  slot& live_slot(page_handle handle) noexcept {
    ORIEL_EXPECTS(is_live(handle));
    return slots_[to_index(handle.id)];
  }

  Order free_;
  std::vector<slot> slots_;  // [capacity]
};

static_assert(page_allocator<paged_allocator<lifo_order>>);
static_assert(page_allocator<paged_allocator<fifo_order>>);

}  // namespace oriel
