// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What `sharded_store` is made of: the table of sets with its past, a page on the move, and sums.
#pragma once

#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/listing_store.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel::detail {

/// Which node has a set, and which had it before the last changes.
class shard_table {
 public:
  static constexpr std::size_t tables_max = 4;  ///< now, and before the last three changes
  static constexpr std::uint8_t none = 0xFF;

  struct member {
    std::uint64_t name = 0;
    std::uint8_t node = none;
  };
  struct owners {
    std::array<std::uint8_t, tables_max> node = {};
    std::uint8_t count = 0;
  };

  shard_table(std::uint32_t set_count, std::uint32_t points, std::uint64_t look_back_us);

  [[nodiscard]] std::uint32_t set_of(std::uint64_t placement) const noexcept;
  [[nodiscard]] std::uint8_t home(std::uint32_t set) const noexcept {
    return tables_.front().node_of[set];
  }
  /// The home of a set, then where it was before, each node once.
  [[nodiscard]] owners owners_of(std::uint32_t set) const noexcept;
  [[nodiscard]] bool looks_back() const noexcept { return tables_.size() > 1; }

  /// @param keeps_past  what is in place now may hold pages
  void change(std::span<const member> members, std::uint64_t now_us, bool keeps_past);
  /// Forgets the past whose time has come, once everything is where it belongs.
  void expire(std::uint64_t now_us, bool is_settled);
  /// Nothing is on this node any more, nor was.
  void forget(std::uint8_t node) noexcept;

 private:
  struct table {
    std::vector<std::uint8_t> node_of;  // [set_count]
    std::uint64_t until_us = 0;         // Of a past one.
  };
  std::uint32_t set_count_, points_;
  std::uint64_t look_back_us_;
  std::vector<table> tables_;  // The newest first.
};

/// A page in memory of its own, on its way from one node to another.
class page_copy {
 public:
  void assign(const page_listing& page);
  /// The spans are valid until the next `assign`.
  [[nodiscard]] store_item item(store_op op) const noexcept;
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }

 private:
  store_item item_;
  page_identity identity_;
  std::vector<token_id> tokens_;
  std::vector<std::byte> memory_;
  std::vector<std::span<std::byte>> slices_;
  std::uint64_t size_bytes_ = 0;
};

/// What one node has and has moved, added to a sum whose operations are counted elsewhere.
void add_node_stats(store_stats& sum, const store_stats& of) noexcept;

/// One operation that has ended.
void count_completion(store_stats& stats, const store_completion& c) noexcept;

/// The worse of two answers about one item; a miss of one node is none where another did it.
void keep_worst(store_completion& worst, const store_completion& c) noexcept;

}  // namespace oriel::detail
