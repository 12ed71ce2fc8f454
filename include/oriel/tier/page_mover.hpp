// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `page_mover`: between pools whose bytes the host cannot touch and memory of the host that stores
/// can. A *stage* is room for one layer of one page in that memory.
///
///     pages of a device    <-- down, up -->    stages    <-- put, get -->    stores
#pragma once

#include <oriel/core/result.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace oriel {

enum class move_way : std::uint8_t { up, down };

/// One layer of a page, and its stage.
struct page_slice {
  std::uint32_t pool = 0;
  std::uint32_t page = 0;   ///< index in the pool
  std::uint32_t slot = 0;   ///< of the page's layout: its layer
  std::uint32_t stage = 0;  ///< of the way
};

/// Names a move.
struct page_move {
  move_way way = move_way::up;
  std::uint32_t set = 0;
  std::uint64_t number = 0;
  bool is_whole = true;  ///< false: not all of it could be enqueued, so none of it counts
};

/// Semantics:
///
///  - Pages are named by the addresses that their bytes would have in the host's pools, as
///    `store_item::slices` has them.
///  - `begin` enqueues a move of all the slices, and returns at once: stage -> page up, page ->
///    stage down; layers in the order of the model. It runs behind all that the compute was given
///    before the last `mark`: whose pages they are now must not have been given to a later step.
///  - Up and down have stages of their own, and moves of their own.
///  - Pages and stages of a move are nobody else's until it `is_done`, a slice's until it
///    `is_in_place`. What was enqueued is not taken back.
///  - A move that is not whole moved some slices and not others: it fails, and is waited for.
///  - A device that is lost moves nothing more: each move on its way, and each that begins later,
///    fails, its pages and stages are the caller's again, and all questions about it are answered
///    with that errc::device_failure. It stays lost: nothing is moved by a device of which nobody
///    knows what it still writes.
///
/// Models: `stream_mover`. *Thread safety* none: that of the pools' owner.
class page_mover {
 public:
  virtual ~page_mover() = default;

  /// Of a way. Who shares them agrees on who has how many.
  [[nodiscard]] virtual std::uint32_t stages() const noexcept = 0;
  /// Stages that one page takes, at most: who has fewer moves no page of the largest pool.
  [[nodiscard]] virtual std::uint32_t page_stages() const noexcept = 0;
  /// Takes a stage for each, or none.
  [[nodiscard]] virtual bool try_take(move_way way, std::span<std::uint32_t> stages) noexcept = 0;
  virtual void give_back(move_way way, std::span<const std::uint32_t> stages) noexcept = 0;
  /// Where a stage has the slice's bytes.
  [[nodiscard]] virtual std::span<std::byte> bytes_of(move_way way,
                                                      const page_slice& slice) const noexcept = 0;
  /// Which page of a pool, and which layer of it, an address names; without a stage.
  [[nodiscard]] virtual page_slice slice_at(std::uint32_t pool,
                                            const std::byte* address) const noexcept = 0;

  /// There is room for another move. Never blocks.
  [[nodiscard]] virtual bool can_begin(move_way way) noexcept = 0;
  /// Blocks until can_begin(way), whoever began what is in the way.
  virtual void make_room(move_way way) noexcept = 0;
  /// @pre can_begin(way); slices.size() <= stages(), each page and stage once
  [[nodiscard]] virtual page_move begin(move_way way,
                                        std::span<const page_slice> slices) noexcept = 0;
  /// Nothing of it is on its way. Never blocks. @returns errc::device_failure: the device is lost
  [[nodiscard]] virtual result<bool> is_done(const page_move& move) noexcept = 0;
  /// The slice is where it should be. Never blocks. @pre move.is_whole @returns as is_done
  [[nodiscard]] virtual result<bool> is_in_place(const page_move& move,
                                                 const page_slice& slice) noexcept = 0;
  /// Blocks until it is done: then is_done says yes, or the same failure. @returns as is_done
  virtual status finish(const page_move& move) noexcept = 0;

  /// Moves that begin afterwards run behind all that the compute was given so far.
  /// @returns errc::device_failure
  virtual status mark() noexcept = 0;

 protected:
  page_mover() = default;
  page_mover(const page_mover&) = default;
  page_mover& operator=(const page_mover&) = default;
};

}  // namespace oriel
