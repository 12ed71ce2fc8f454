// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `window_index`: the window pages of one kind that hang below full pages of a prefix tree, and
/// the order in which they may go.
///
///     full page id -> window page id                (valid where the node's bit says so)
///     window page id -> owner, generation, pins, and its place in one of two lists:
///
///         loose:  pages of no boundary worth keeping; they go first, oldest first
///         tail:   the last window of a branch, or of a checkpoint
///
/// A pinned page is in neither list. Each tenant has lists of its own.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/prefix/detail/lazy_array.hpp>

#include <cstdint>
#include <vector>

namespace oriel::detail {

enum class window_list : std::uint8_t { loose, tail };

/// Every operation is O(1), `next_victim` O(tenants). Memory: 4 bytes per full page, 28 per window
/// page, as touched.
class window_index {
 public:
  /// @throws std::bad_alloc
  window_index(std::uint32_t window_pages, std::uint32_t full_pages, std::uint32_t tenants)
      : pages_(window_pages), of_full_(full_pages), tenants_(tenants) {}

  /// @pre a window page hangs below `full`
  [[nodiscard]] page_handle at(std::uint32_t full) const noexcept {
    const std::uint32_t id = of_full_[full];
    return {page_id{id}, pages_[id].generation};
  }
  [[nodiscard]] bool is_pinned(std::uint32_t full) const noexcept { return page(full).pins != 0; }
  [[nodiscard]] window_list list_of(std::uint32_t full) const noexcept { return page(full).list; }

  /// Hangs `window` below `full`, newest of the tenant's `list`.
  void attach(std::uint32_t full,
              page_handle window,
              window_list list,
              std::uint32_t tenant) noexcept {
    const std::uint32_t id = to_index(window.id);
    ORIEL_EXPECTS(id < pages_.size() && pages_[id].owner == 0);  // It hangs in one place.
    of_full_[full] = id;
    pages_[id].owner = full + 1;
    pages_[id].generation = window.generation;
    pages_[id].pins = 0;
    pages_[id].tenant = tenant;
    push_back(id, list);
    ++attached_;
    ++tenants_[tenant].attached;
  }

  /// Takes it away again. @pre not pinned
  page_handle detach(std::uint32_t full) noexcept {
    ORIEL_EXPECTS(!is_pinned(full));
    unlink(of_full_[full]);
    --attached_;
    --tenants_[page(full).tenant].attached;
    page(full).owner = 0;
    return at(full);
  }

  /// It cannot be chosen while it has pins.
  void pin(std::uint32_t full) noexcept {
    record& p = page(full);
    if (p.pins++ == 0 && !ORIEL_MUTANT(pinned_window_can_be_evicted)) {
      unlink(of_full_[full]);
      ++pinned_;
    }
  }
  /// The last unpin makes it the newest of `list`.
  void unpin(std::uint32_t full, window_list list) noexcept {
    record& p = page(full);
    ORIEL_EXPECTS(p.pins != 0);
    p.list = list;
    if (--p.pins == 0) {
      push_back(of_full_[full], list);
      --pinned_;
    }
  }
  /// The newest of `list` now; while pinned, once it is unpinned.
  void refresh(std::uint32_t full, window_list list) noexcept {
    if (is_pinned(full)) {
      page(full).list = list;
    } else {
      unlink(of_full_[full]);
      push_back(of_full_[full], list);
    }
  }

  /// The full page whose window page goes next: of the tenant that holds most, of those that can
  /// spare one. @pre evictable() > 0
  [[nodiscard]] std::uint32_t next_victim() const noexcept {
    std::uint32_t most = 0, victim = 0;
    for (const tenant_pages& tenant : tenants_) {
      const std::uint32_t loose = tenant.ends[0].oldest, tail = tenant.ends[1].oldest;
      if ((loose | tail) != 0 && tenant.attached > most) {
        most = tenant.attached;
        victim = tail == 0 || (loose != 0 && !ORIEL_MUTANT(tail_goes_before_loose)) ? loose : tail;
      }
    }
    ORIEL_EXPECTS(victim != 0);
    return pages_[victim - 1].owner - 1;
  }

  [[nodiscard]] std::uint32_t attached() const noexcept { return attached_; }
  [[nodiscard]] std::uint32_t pinned() const noexcept { return pinned_; }
  [[nodiscard]] std::uint32_t evictable() const noexcept { return attached_ - pinned_; }
  /// Bytes of one record, for accounts of memory.
  [[nodiscard]] static constexpr std::uint32_t bytes_per_page() noexcept { return sizeof(record); }

 private:
  struct record {
    std::uint32_t owner;         // full page + 1, or 0: not attached
    std::uint32_t generation;    // of the handle
    std::uint32_t older, newer;  // window page + 1, or 0
    std::uint32_t pins;
    std::uint32_t tenant;
    window_list list;
  };
  struct list_ends {
    std::uint32_t oldest = 0, newest = 0;  // window page + 1, or 0
  };
  struct tenant_pages {
    list_ends ends[2];  // by window_list
    std::uint32_t attached = 0;
  };

  [[nodiscard]] record& page(std::uint32_t full) noexcept { return pages_[of_full_[full]]; }
  [[nodiscard]] const record& page(std::uint32_t full) const noexcept {
    return pages_[of_full_[full]];
  }

  void push_back(std::uint32_t id, window_list list) noexcept {
    record& p = pages_[id];
    list_ends& ends = tenants_[p.tenant].ends[static_cast<std::uint8_t>(list)];
    p.list = list;
    p.older = ends.newest;
    p.newer = 0;
    (ends.newest != 0 ? pages_[ends.newest - 1].newer : ends.oldest) = id + 1;
    ends.newest = id + 1;
  }

  void unlink(std::uint32_t id) noexcept {
    const record& p = pages_[id];
    list_ends& ends = tenants_[p.tenant].ends[static_cast<std::uint8_t>(p.list)];
    (p.older != 0 ? pages_[p.older - 1].newer : ends.oldest) = p.newer;
    (p.newer != 0 ? pages_[p.newer - 1].older : ends.newest) = p.older;
  }

  lazy_array<record> pages_;           // [window pages]
  lazy_array<std::uint32_t> of_full_;  // [full pages]
  std::vector<tenant_pages> tenants_;
  std::uint32_t attached_ = 0, pinned_ = 0;
};

}  // namespace oriel::detail
