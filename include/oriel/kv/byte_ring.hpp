// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `byte_ring`: the plain circular buffer, slot = position mod capacity. The second window policy,
/// for engines that never share a prefix.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/kv/block_table.hpp>
#include <oriel/kv/ring_geometry.hpp>

#include <cstdint>
#include <vector>

namespace oriel {

/// A fixed run of pages that one sequence overwrites in a circle. It takes no page after the
/// constructor and gives none back; the bytes of a page change while the sequence runs, so nothing
/// of it may ever be published. That is a matter of type: a byte_ring has no page handles, and does
/// not model `publishable` (window_ring.hpp).
///
///     position   0 .. S-1 | S .. 2S-1 | ...      S = capacity_tokens()
///     slot       0 .. S-1 | 0 ..  S-1 | ...      page = first page + slot / page_size
///
/// S is the smallest multiple of page_size that holds W - 1 earlier keys and the rows of one step:
/// no boundary is kept for another turn, so neither slack nor a straddling page is needed.
///
/// Thread safety: none.
/// Memory:        4 bytes per page.
class byte_ring {
 public:
  /// Pages that a ring of this geometry occupies; slack_pages is ignored.
  [[nodiscard]] static constexpr std::uint32_t pages_needed(const ring_geometry& g) noexcept {
    return g.ceil_pages(g.window_tokens - 1 + g.step_tokens);
  }

  /// A ring over the pages [first_page, first_page + pages_needed(geometry)) of some memory, which
  /// belong to it alone.
  /// @throws std::bad_alloc
  byte_ring(const ring_geometry& geometry, std::uint32_t first_page)
      : geometry_(geometry), ids_(pages_needed(geometry)) {
    ORIEL_EXPECTS(geometry.page_size > 0 && geometry.window_tokens > 0 && geometry.step_tokens > 0);
    for (std::uint32_t i = 0; i < ids_.size(); ++i) {
      ids_[i] = first_page + i;
    }
  }

  [[nodiscard]] const ring_geometry& geometry() const noexcept { return geometry_; }
  /// Tokens the ring holds, S.
  [[nodiscard]] std::uint32_t capacity_tokens() const noexcept {
    return static_cast<std::uint32_t>(ids_.size()) * geometry_.page_size;
  }
  /// Committed tokens.
  [[nodiscard]] std::uint32_t length() const noexcept { return length_; }
  /// The slot of a position, in [0, capacity_tokens()).
  [[nodiscard]] std::uint32_t slot_of(std::uint32_t position) const noexcept {
    return position % capacity_tokens();
  }
  /// What kernels read: a circular table.
  [[nodiscard]] block_table_view view() const noexcept {
    return {ids_, static_cast<std::uint32_t>(ids_.size())};
  }

  /// There is always room for a step. @pre rows <= geometry().step_tokens
  void reserve(std::uint32_t rows) noexcept {
    ORIEL_EXPECTS(rows <= geometry_.step_tokens);
    reserved_ = rows;
  }
  /// Takes in the first `rows` reserved rows; the others are rolled back. @pre they were reserved
  void commit(std::uint32_t rows) noexcept {
    ORIEL_EXPECTS(rows <= reserved_);
    length_ += rows;
    reserved_ = 0;
  }
  /// Back to length 0. The bytes stay as they are.
  void release() noexcept { length_ = reserved_ = 0; }

 private:
  ring_geometry geometry_;
  std::vector<std::uint32_t> ids_;  // [pages]
  std::uint32_t length_ = 0;        // tokens
  std::uint32_t reserved_ = 0;      // rows
};

}  // namespace oriel
