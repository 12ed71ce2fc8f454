// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `page_index`: where the records of a segment store lie. Structure and accounts only.
///
///     buckets[hash of link] -> entry -> entry ...      all pools of a link are in one chain
///     segment slot          -> entry <-> entry ...     what goes when the segment goes
///     entry -> origin {tenant, session, name space}    dropping one drops its entries at once
///
/// 56 bytes an entry and 4 to 8 of buckets. The first 16 bytes of a link find; the record decides.
#pragma once

#include <oriel/prefix/detail/lazy_array.hpp>
#include <oriel/tier/page_record.hpp>

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace oriel::detail {

using entry_id = std::uint32_t;
inline constexpr entry_id null_entry = 0xFFFF'FFFFu;
inline constexpr std::uint32_t index_pools_max = 256;
inline constexpr std::uint32_t index_blocks_max = 0xFFFF;  ///< of 4 KiB, in one record

/// Where a record is and which one it must be.
struct entry_place {
  std::uint16_t slot = 0;            ///< of the segment
  std::uint16_t blocks = 0;          ///< record_bytes / 4096
  std::uint32_t offset_blocks = 0;   ///< in the segment
  std::uint32_t generation_low = 0;  ///< generation - the segment's first one
  std::uint8_t header_blocks = 1;

  friend bool operator==(const entry_place&, const entry_place&) noexcept = default;
  [[nodiscard]] std::uint64_t offset() const noexcept {
    return std::uint64_t{offset_blocks} * record_alignment_bytes;
  }
  [[nodiscard]] std::uint64_t bytes() const noexcept {
    return std::uint64_t{blocks} * record_alignment_bytes;
  }
};

struct page_entry {
  std::uint64_t link[2];  // its first 16 bytes
  std::uint32_t offset_blocks;
  std::uint32_t generation_low;
  std::uint32_t origin;
  entry_id next_in_bucket;
  entry_id next_in_segment, previous_in_segment;
  std::uint32_t used_ms;      // last use, now_us >> 10, wraps
  std::uint32_t expires_low;  // expiry / 16 us, rounded down, by the store's clock; 0: never
  std::uint16_t expires_high;
  std::uint16_t slot;
  std::uint16_t blocks;
  std::uint8_t pool;
  bool was_hit : 1;       // since it was written, or carried over
  bool is_proven : 1;     // written or read whole by this process
  bool is_surviving : 1;  // while the survivors of its segment are chosen
  std::uint8_t header_blocks : 4;

  [[nodiscard]] entry_place place() const noexcept {
    return {slot, blocks, offset_blocks, generation_low, header_blocks};
  }
  [[nodiscard]] std::uint64_t bytes() const noexcept {
    return std::uint64_t{blocks} * record_alignment_bytes;
  }
  /// Up to 16 us early; 0: never.
  [[nodiscard]] std::uint64_t expires_us() const noexcept {
    return ((std::uint64_t{expires_high} << 32) | expires_low) * 16;
  }
  [[nodiscard]] bool is_expired(std::uint64_t now_us) const noexcept {
    return expires_us() != 0 && expires_us() <= now_us;
  }
  /// What expires_us() makes of a time: never 0 of one that is not, and never a wrapped one.
  [[nodiscard]] static std::uint64_t kept_expiry(std::uint64_t us) noexcept {
    constexpr std::uint64_t most = (std::uint64_t{1} << 52) - 16;  // 142 years after the start
    return us == 0 ? 0 : us < 16 ? 16 : us > most ? most : us / 16 * 16;
  }
};
static_assert(sizeof(page_entry) == 56, "the budget is 64 bytes a page, buckets included");

/// Entries whose owner and name space are the same.
struct page_origin {
  page_owner owner;
  page_digest name_space;
  std::uint64_t bytes = 0;
  std::uint32_t entries = 0;  // also those of a dropped origin that nobody has met yet
  bool is_dropped = false;
  bool is_used = false;
};

/// What an entry is made of.
struct entry_spec {
  page_key key;
  entry_place place;
  page_owner owner;
  page_digest name_space;
  std::uint64_t expires_us = 0;  ///< by the store's clock; 0: never
  std::uint64_t now_us = 0;
};

class page_index {
 public:
  /// @throws std::bad_alloc
  explicit page_index(std::uint32_t pages_max);
  /// So many segments. @throws std::bad_alloc
  void set_slots(std::size_t slots) { heads_.assign(slots, null_entry); }

  /// The entry of a key, or null_entry. O(1) expected.
  [[nodiscard]] entry_id find(const page_key& key) noexcept;
  /// The full page of the same link, or null_entry.
  [[nodiscard]] entry_id find_full_of(entry_id of) noexcept;
  /// Some window page of the same link, or null_entry.
  [[nodiscard]] entry_id find_window_of(const std::uint64_t* link) noexcept;
  [[nodiscard]] page_entry& entry(entry_id id) noexcept { return entries_[id]; }
  [[nodiscard]] const page_entry& entry(entry_id id) const noexcept { return entries_[id]; }
  [[nodiscard]] const page_origin& origin_of(entry_id id) const noexcept {
    return origins_[entries_[id].origin];
  }
  [[nodiscard]] bool is_dropped(entry_id id) const noexcept { return origin_of(id).is_dropped; }

  /// Adds an entry, in place of one of the same key. null_entry: the index is full.
  /// @pre key.pool < index_pools_max @throws std::bad_alloc for a new origin
  entry_id insert(const entry_spec& spec);
  void remove(entry_id id) noexcept;
  /// The same record at another place. @pre `to` holds it
  void move(entry_id id, const entry_place& to) noexcept;

  /// The head of a segment's list, newest first.
  [[nodiscard]] entry_id first_of(std::uint16_t slot) const noexcept { return heads_[slot]; }

  /// Forgets all entries of the origins that `dies(origin)` names. O(origins); the entries
  /// themselves are freed when met.
  template <class Dies>
  void drop(Dies&& dies) {
    for (page_origin& o : origins_) {
      if (o.is_used && !o.is_dropped && dies(o)) {
        drop_origin(o);
      }
    }
  }

  [[nodiscard]] std::uint64_t pages() const noexcept { return pages_; }
  [[nodiscard]] std::uint64_t used_bytes() const noexcept { return used_bytes_; }
  [[nodiscard]] std::uint64_t tenant_bytes(std::uint64_t tenant) const noexcept;
  [[nodiscard]] std::uint64_t index_bytes() const noexcept;
  [[nodiscard]] std::uint32_t pages_max() const noexcept { return pages_max_; }
  [[nodiscard]] bool is_full() const noexcept { return free_ == null_entry && next_ == pages_max_; }
  /// Do counters and structure agree? O(pages); for tests.
  [[nodiscard]] bool is_consistent() const;

 private:
  [[nodiscard]] std::uint32_t& bucket_of(const std::uint64_t* link) noexcept {
    return buckets_[link[0] & bucket_mask_];
  }
  template <class IsPool>
  [[nodiscard]] entry_id find_link(const std::uint64_t* link, IsPool&& is_pool) noexcept;
  [[nodiscard]] std::uint32_t open_origin(page_owner owner, const page_digest& name_space);
  void drop_origin(page_origin& origin) noexcept;
  void close_origin(std::uint32_t id) noexcept;
  void account(const page_entry& e, bool adds) noexcept;
  void link_into_segment(entry_id id) noexcept;
  void unlink_from_segment(entry_id id) noexcept;

  struct origin_name {
    page_owner owner;
    page_digest name_space;
    friend bool operator==(const origin_name&, const origin_name&) noexcept = default;
  };
  struct origin_hash {
    [[nodiscard]] std::size_t operator()(const origin_name& n) const noexcept {
      return n.name_space.prefix64() ^ (n.owner.tenant * 0x9E37'79B9'7F4A'7C15u) ^
             (n.owner.session * 0xC2B2'AE3D'27D4'EB4Fu);
    }
  };

  std::uint32_t pages_max_;
  std::uint64_t bucket_mask_ = 0;
  lazy_array<std::uint32_t> buckets_;  // [pow2], entry id + 1; 0: empty
  lazy_array<page_entry> entries_;     // [pages_max]
  std::vector<entry_id> heads_;        // [slots_max]
  entry_id free_ = null_entry;         // chained by next_in_bucket
  entry_id next_ = 0;                  // entries from here on were never used
  std::vector<page_origin> origins_;
  std::vector<std::uint32_t> free_origins_;
  std::unordered_map<origin_name, std::uint32_t, origin_hash> origin_ids_;
  std::unordered_map<std::uint64_t, std::uint64_t> tenant_bytes_;
  std::uint64_t pages_ = 0, used_bytes_ = 0;
};

}  // namespace oriel::detail
