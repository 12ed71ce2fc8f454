// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `block_table`: which page holds logical page j of one sequence, and `block_table_view`, what the
/// kernels read of it.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/kernels/paged_kv.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// A borrowed table of page ids, flat or circular. Two words; copy it. Valid until its owner takes
/// or returns pages.
///
///     flat      pages [logical pages of the sequence]     logical page j in pages[j]
///     circular  pages [ring_pages]                        logical page j in pages[j % ring_pages]
struct block_table_view {
  std::span<const std::uint32_t> pages;  ///< ids as kernels take them
  std::uint32_t ring_pages = 0;          ///< entries of a ring; 0 = flat

  /// The page of logical page `logical`. @pre the table has that page
  [[nodiscard]] page_id page_of(std::uint32_t logical) const noexcept {
    return page_id{pages[ring_pages != 0 ? logical % ring_pages : logical]};
  }

  /// A kernel's view of `rows` rows from `first_position` on.
  [[nodiscard]] paged_sequence rows_at(std::uint32_t first_position,
                                       std::uint32_t rows) const noexcept {
    return {pages.data(), ring_pages, first_position, rows};
  }
};

/// The flat table of one sequence in a full pool: handles for the owner, bare ids for kernels.
/// It keeps the handles; who owns the table owns one reference to each page.
///
/// Invariant: ids()[j] == to_index((*this)[j].id).
/// Memory:    12 bytes per page of capacity, taken in the constructor.
class block_table {
 public:
  /// @throws std::bad_alloc
  explicit block_table(std::uint32_t capacity_pages);

  [[nodiscard]] std::uint32_t capacity_pages() const noexcept {
    return static_cast<std::uint32_t>(ids_.size());
  }
  [[nodiscard]] std::uint32_t size_pages() const noexcept { return size_pages_; }

  /// @pre logical < size_pages()
  [[nodiscard]] page_handle operator[](std::uint32_t logical) const noexcept {
    ORIEL_EXPECTS(logical < size_pages_);
    return handles_[logical];
  }
  [[nodiscard]] std::span<const page_handle> handles() const noexcept {
    return {handles_.data(), size_pages_};
  }
  [[nodiscard]] block_table_view view() const noexcept { return {{ids_.data(), size_pages_}, 0}; }

  /// Adds logical pages at the end. O(pages.size()).
  /// @pre size_pages() + pages.size() <= capacity_pages()
  void append(std::span<const page_handle> pages) noexcept;

  /// The next `count` entries, to be filled by an allocator and then taken in by
  /// `append_tail(count)`, which saves a copy. @pre count <= capacity_pages() - size_pages()
  [[nodiscard]] std::span<page_handle> tail(std::uint32_t count) noexcept {
    ORIEL_EXPECTS(count <= capacity_pages() - size_pages_);
    return {handles_.data() + size_pages_, count};
  }
  /// Takes in what was written to `tail(count)`. O(count).
  void append_tail(std::uint32_t count) noexcept { append(tail(count)); }

  /// Puts another page in the place of a logical page; the caller holds its reference and releases
  /// the old one's. O(1). @pre logical < size_pages()
  void replace(std::uint32_t logical, page_handle page) noexcept {
    ORIEL_EXPECTS(logical < size_pages_);
    handles_[logical] = page;
    ids_[logical] = to_index(page.id);
  }

  /// Forgets the logical pages from `size_pages` on; the caller releases them. O(1).
  /// @pre size_pages <= this->size_pages()
  void truncate(std::uint32_t size_pages) noexcept {
    ORIEL_EXPECTS(size_pages <= size_pages_);
    size_pages_ = size_pages;
  }

 private:
  std::vector<page_handle> handles_;  // [capacity]
  std::vector<std::uint32_t> ids_;    // [capacity]
  std::uint32_t size_pages_ = 0;
};

}  // namespace oriel
