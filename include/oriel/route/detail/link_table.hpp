// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// From (link, position) to the strand that holds the page: one cache line for most probes.
///
///     bucket, 64 bytes   entry 0 .. entry 6   entries used   entries that went past
///     entry, 8 bytes     16 bits of the hash  24 position  24 strand + 1
///
/// An entry goes into the first bucket with room from its home on, and every full bucket on the way
/// counts it. A probe ends at a bucket that nobody went past, so nothing is left behind by a
/// removal. Fixed size: nothing is ever moved to a larger table while a router waits.
#pragma once

#include <oriel/core/hash.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kv/memory.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace oriel::detail {

using strand_id = std::uint32_t;
inline constexpr strand_id no_strand = 0xFF'FFFFu;     // ids are below
inline constexpr std::uint32_t end_page = 0xFF'FFFFu;  // positions are below

class link_table {
 public:
  /// @throws std::bad_alloc
  explicit link_table(std::uint32_t capacity_pages);

  /// Links are good hashes already; positions are stirred in, so that a link is a page only where
  /// it stands.
  [[nodiscard]] static std::uint64_t hash(chain_hash link, std::uint32_t position) noexcept {
    const std::uint64_t mixed =
        (link.low ^ (std::uint64_t{position} * 0x9E37'79B9'7F4A'7C15u)) * 0xD6E8'FEB8'6659'FD93u;
    return mixed ^ (mixed >> 32);
  }
  void prefetch(std::uint64_t hash) const noexcept { __builtin_prefetch(&buckets_[home(hash)], 1); }

  /// The strand that has the page, or no_strand. `has_link(strand)` compares all 128 bits.
  template <class HasLink>
  [[nodiscard]] strand_id find(std::uint64_t hash,
                               std::uint32_t position,
                               HasLink&& has_link) const noexcept {
    const std::uint64_t wanted = key(hash, position);
    for (std::uint32_t at = home(hash);; at = next(at)) {
      const bucket& b = buckets_[at];
      for (std::uint32_t same = entries_of(b, wanted); same != 0; same &= same - 1) {
        const strand_id strand = strand_of(b.entries[std::countr_zero(same)]);
        if (has_link(strand) || ORIEL_MUTANT(table_believes_its_tags)) {
          return strand;
        }
      }
      if (b.went_past == 0) {
        return no_strand;
      }
    }
  }
  /// @pre it is not there, and fewer than the capacity are
  void insert(std::uint64_t hash, std::uint32_t position, strand_id strand) noexcept {
    std::uint32_t at = home(hash);
    for (; buckets_[at].used == entries_per_bucket; at = next(at)) {
      buckets_[at].went_past += ORIEL_MUTANT(table_forgets_what_went_past) ? 0u : 1u;
    }
    bucket& b = buckets_[at];
    b.entries[b.used++] = entry(hash, position, strand);
  }
  /// @pre it is there
  void erase(std::uint64_t hash, std::uint32_t position, strand_id strand) noexcept;
  void move(std::uint64_t hash, std::uint32_t position, strand_id from, strand_id to) noexcept;

  [[nodiscard]] std::size_t size_bytes() const noexcept { return memory_.size_bytes(); }

 private:
  static constexpr std::uint32_t entries_per_bucket = 7;
  static constexpr unsigned strand_bits = 24, position_bits = 24;
  static constexpr std::uint64_t strand_mask = (std::uint64_t{1} << strand_bits) - 1;

  struct alignas(64) bucket {
    std::uint64_t entries[entries_per_bucket];
    std::uint32_t used;
    std::uint32_t went_past;
  };
  static_assert(sizeof(bucket) == 64);

  /// What two entries with one link at one position share. Never 0, which is an unused entry.
  [[nodiscard]] static std::uint64_t key(std::uint64_t hash, std::uint32_t position) noexcept {
    return ((hash & 0xFFFF) | 1) << position_bits | position;
  }
  /// Bit i: entry i has the key. Looks at all of them: a loop that ends where the used ones do ends
  /// unpredictably, and that costs more.
  [[nodiscard]] static std::uint32_t entries_of(const bucket& b, std::uint64_t key) noexcept {
    std::uint32_t same = 0;
    for (std::uint32_t i = 0; i < entries_per_bucket; ++i) {
      same |= std::uint32_t{b.entries[i] >> strand_bits == key} << i;
    }
    return same;
  }
  [[nodiscard]] static strand_id strand_of(std::uint64_t entry) noexcept {
    return static_cast<strand_id>((entry & strand_mask) - 1);
  }
  /// Where the entry is; every bucket before it is told `passed`.
  template <class Passed>
  [[nodiscard]] std::uint64_t& place_of(std::uint64_t hash,
                                        std::uint32_t position,
                                        strand_id strand,
                                        Passed&& passed) noexcept;
  [[nodiscard]] static std::uint64_t entry(std::uint64_t hash,
                                           std::uint32_t position,
                                           strand_id strand) noexcept {
    return key(hash, position) << strand_bits | (strand + 1);
  }
  [[nodiscard]] std::uint32_t home(std::uint64_t hash) const noexcept {
    return static_cast<std::uint32_t>((hash >> 32) * bucket_count_ >> 32);
  }
  [[nodiscard]] std::uint32_t next(std::uint32_t at) const noexcept {
    return at + 1 == bucket_count_ ? 0 : at + 1;
  }

  huge_page_memory memory_;
  bucket* buckets_ = nullptr;
  std::uint32_t bucket_count_ = 0;
};

}  // namespace oriel::detail
