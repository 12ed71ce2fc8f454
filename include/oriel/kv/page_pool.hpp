// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `page_pool`: the pages of one layer kind: who owns them, how they are laid out, and their bytes.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kv/free_order.hpp>
#include <oriel/kv/memory.hpp>
#include <oriel/kv/page_allocator.hpp>
#include <oriel/kv/page_layout.hpp>
#include <oriel/kv/paged_allocator.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

namespace oriel {

/// A `page_allocator` with memory behind its pages. Bytes are committed when a page is first handed
/// out, never in the middle of a step that has its pages.
///
/// @tparam Memory  where the bytes live (memory.hpp).
/// @tparam Order   which free page goes next (free_order.hpp).
///
/// Invariant:     every referenced page lies inside the committed bytes.
/// Thread safety: none for the pages; the bytes of a page belong to whoever holds it.
template <kv_memory Memory = host_memory, free_order Order = lifo_order>
class page_pool {
 public:
  /// Reserves a pool of free pages. O(capacity_pages).
  /// @param   reserve  (bytes) -> result<Memory>, for policies that have several ways
  /// @pre     0 < capacity_pages < to_index(null_page)
  /// @returns errc::out_of_memory, with errno
  /// @throws  std::bad_alloc for the bookkeeping, 12 bytes per page
  template <class Reserve = result<Memory> (*)(std::size_t) noexcept>
  [[nodiscard]] static result<page_pool> make(page_layout layout,
                                              std::uint32_t capacity_pages,
                                              Reserve&& reserve = &Memory::reserve) {
    const std::size_t page_bytes = layout.page_bytes();
    if (page_bytes != 0 && capacity_pages > std::numeric_limits<std::size_t>::max() / page_bytes) {
      return failure{errc::out_of_memory, 0, "a pool larger than the address space"};
    }
    result<Memory> memory = reserve(page_bytes * capacity_pages);
    if (!memory) {
      return memory.error();
    }
    return page_pool(std::move(layout), capacity_pages, std::move(*memory));
  }

  [[nodiscard]] const page_layout& layout() const noexcept { return layout_; }
  [[nodiscard]] const Memory& memory() const noexcept { return memory_; }

  /// Pages in the pool.
  [[nodiscard]] std::uint32_t capacity() const noexcept { return pages_.capacity(); }
  /// Pages nobody holds.
  [[nodiscard]] std::uint32_t available() const noexcept { return pages_.available(); }
  /// Pages somebody holds.
  [[nodiscard]] std::uint32_t used() const noexcept { return capacity() - available(); }
  /// The most pages ever held at once.
  [[nodiscard]] std::uint32_t high_water() const noexcept { return high_water_; }
  /// Bytes of the pages somebody holds.
  [[nodiscard]] std::size_t used_bytes() const noexcept { return used() * layout_.page_bytes(); }

  /// Fills `out`, or returns false and changes nothing: there are too few pages, or the system
  /// refused to commit them. `refusal()` tells which. O(out.size()).
  [[nodiscard]] bool try_allocate(std::span<page_handle> out) noexcept {
    if (!pages_.try_allocate(out)) {
      refusal_ = {errc::out_of_pages, 0, "no free page"};
      return false;
    }
    if (Memory::stores_bytes && memory_.committed_bytes() < memory_.size_bytes() && !commit(out)) {
      // Backwards, so that the order of the free pages is as it was.
      for (std::size_t i = out.size(); i-- > 0;) {
        pages_.release(out[i]);
      }
      return false;
    }
    high_water_ = high_water_ < used() ? used() : high_water_;
    return true;
  }

  /// Why the last `try_allocate` that returned false did so: errc::out_of_pages, or
  /// errc::out_of_memory with errno.
  [[nodiscard]] const failure& refusal() const noexcept { return refusal_; }

  // The rest of page_allocator; see there.
  void add_ref(page_handle page) noexcept { pages_.add_ref(page); }
  void release(std::span<const page_handle> pages) noexcept { pages_.release(pages); }
  void release(page_handle page) noexcept { pages_.release(page); }
  [[nodiscard]] page_handle renew(page_handle page) noexcept { return pages_.renew(page); }
  [[nodiscard]] bool is_live(page_handle page) const noexcept { return pages_.is_live(page); }
  [[nodiscard]] std::uint32_t ref_count(page_handle page) const noexcept {
    return pages_.ref_count(page);
  }

  /// The bytes of one page, for copies between tiers: the one way from a handle to memory.
  /// @pre is_live(page): a stale handle never dereferences
  [[nodiscard]] std::span<std::byte> bytes(page_handle page) const noexcept
      requires(Memory::stores_bytes) {
    ORIEL_EXPECTS(is_live(page));
    const std::size_t page_bytes = layout_.page_bytes();
    return {memory_.base() + to_index(page.id) * page_bytes, page_bytes};
  }

  /// One layer's K and V in all pages, for kernels. @pre slot < layout().slots()
  [[nodiscard]] kv_layer_view layer(std::uint32_t slot) const noexcept
      requires(Memory::stores_bytes) {
    return layout_.layer(slot, memory_.base());
  }

 private:
  page_pool(page_layout layout, std::uint32_t capacity_pages, Memory memory)
      : layout_(std::move(layout)), pages_(capacity_pages), memory_(std::move(memory)) {}

  /// Makes the bytes of `pages` usable.
  [[nodiscard]] bool commit(std::span<const page_handle> pages) noexcept {
    std::size_t end_page = 0;
    for (const page_handle page : pages) {
      const std::size_t end = std::size_t{to_index(page.id)} + 1;
      end_page = end_page < end ? end : end_page;
    }
    if (const status done = memory_.commit(end_page * layout_.page_bytes()); !done) {
      refusal_ = done.error();
      return false;
    }
    return true;
  }

  page_layout layout_;
  paged_allocator<Order> pages_;
  Memory memory_;
  std::uint32_t high_water_ = 0;  // pages
  failure refusal_{errc::out_of_pages};
};

static_assert(page_allocator<page_pool<>>);

}  // namespace oriel
