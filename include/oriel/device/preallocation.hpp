// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `preallocation`: everything that captured graphs will touch, taken at once, so that no address
/// changes between replays and an operator sees beforehand what it takes.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kv/memory.hpp>

#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

/// What is asked for, for reports.
struct memory_piece {
  const char* what = "";  ///< a static string
  std::size_t size_bytes = 0;
};

/// Pieces of one range, side by side, each at a multiple of 256 bytes.
template <kv_memory Memory>
class preallocation {
 public:
  static constexpr std::size_t alignment_bytes = 256;

  /// Takes and commits all pieces, or nothing. O(pieces).
  /// @returns what `Memory` refuses with, errc::out_of_memory when the sum is no number
  /// @throws  std::bad_alloc
  [[nodiscard]] static result<preallocation> make(std::span<const memory_piece> pieces) {
    std::vector<std::size_t> offsets;
    std::size_t end = 0;
    for (const memory_piece& piece : pieces) {
      constexpr std::size_t most = std::numeric_limits<std::size_t>::max() - 2 * alignment_bytes;
      if (piece.size_bytes > most - end) {
        return failure{errc::out_of_memory, 0, "more than any address space"};
      }
      offsets.push_back(end);
      end += (piece.size_bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
    }
    result<Memory> memory = Memory::reserve(end);
    if (!memory) {
      return memory.error();
    }
    if (const status committed = memory->commit(end); !committed) {
      return committed.error();
    }
    return preallocation({pieces.begin(), pieces.end()}, std::move(offsets), std::move(*memory));
  }

  /// The bytes of a piece. @pre index < pieces().size()
  [[nodiscard]] std::span<std::byte> bytes(std::size_t index) const noexcept {
    ORIEL_EXPECTS(index < pieces_.size());
    return {memory_.base() + offsets_[index], pieces_[index].size_bytes};
  }
  /// What was asked for, in order.
  [[nodiscard]] std::span<const memory_piece> pieces() const noexcept { return pieces_; }
  /// Bytes of all pieces, with what aligns them.
  [[nodiscard]] std::size_t size_bytes() const noexcept { return memory_.size_bytes(); }

 private:
  preallocation(std::vector<memory_piece> pieces,
                std::vector<std::size_t> offsets,
                Memory memory) noexcept
      : pieces_(std::move(pieces)), offsets_(std::move(offsets)), memory_(std::move(memory)) {}

  std::vector<memory_piece> pieces_;
  std::vector<std::size_t> offsets_;  // [pieces]
  Memory memory_;
};

}  // namespace oriel
