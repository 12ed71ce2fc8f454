// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `memory_index`: which page of `memory_store` is in which slot, who pays for it, and which goes
/// next. It knows no bytes: slots are numbers, so all of it can be tested without memory.
///
///     slots_   [slots of pool 0 | slots of pool 1 | ...]     28 bytes each
///     cells_   open addressing by 32 bits of the key -> slot  8 bytes, 1.5 per slot
///     ghosts_  32 bits of keys that left lately               4 bytes per slot (s3_fifo)
///     records  what a page says of itself, beside its bytes: the store's, not the index's
///
/// A page is in one queue (small or main) of one lane, and in one group. A lane is a tenant with a
/// share of its own; lane 0 is everyone else. A group is the pages of one (tenant, session,
/// namespace): to drop any of the three is to drop its groups.
#pragma once

#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/memory_options.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace oriel::detail {

inline constexpr std::uint32_t no_slot = ~std::uint32_t{0};

/// What a page in memory says of itself, besides its token ids.
struct memory_record {
  page_digest link, parent;
  std::uint64_t expires_us = 0;
  std::uint32_t first_token = 0, token_count = 0;
};

class memory_index {
 public:
  struct pool_size {
    std::uint32_t slots = 0;
    std::uint64_t page_bytes = 0;  ///< what one page costs its tenant
  };
  struct rules {
    memory_order order = memory_order::s3_fifo;
    std::span<const tenant_share> tenants = {};
    std::uint64_t other_tenant_bytes_max = ~std::uint64_t{0};  ///< of each tenant not named
  };

  /// @throws std::bad_alloc  @pre 1 to 15 pools, fewer than 2^16 tenants and 2^31 slots
  memory_index(std::span<const pool_size> pools, const rules& by);

  /// Where the store keeps the records; one per slot. Read by `find` and by the eviction order.
  void set_records(const memory_record* records) noexcept { records_ = records; }

  [[nodiscard]] std::uint32_t slots() const noexcept {
    return static_cast<std::uint32_t>(slots_.size());
  }
  [[nodiscard]] std::uint32_t first_slot(std::uint32_t pool) const noexcept {
    return pools_[pool].first;
  }
  /// The slot of a page, or no_slot. O(1) expected.
  [[nodiscard]] std::uint32_t find(const page_key& key) const noexcept;
  [[nodiscard]] bool is_page(std::uint32_t slot) const noexcept {
    return slots_[slot].group != no_slot;
  }
  [[nodiscard]] std::uint32_t pool_of(std::uint32_t slot) const noexcept {
    return slots_[slot].pool;
  }
  /// @pre is_page(slot)
  [[nodiscard]] page_owner owner(std::uint32_t slot) const noexcept;
  [[nodiscard]] const page_digest& name_space(std::uint32_t slot) const noexcept;

  /// A slot that nobody has, for a page that `insert` will put there; evicts where it must.
  /// no_slot: shares leave no page that could go. O(1) amortised, and O(tenants with shares).
  [[nodiscard]] std::uint32_t allocate(std::uint32_t pool,
                                       std::uint64_t tenant,
                                       std::uint64_t now_us) noexcept;
  /// The page in `slot`, whose record is written, can be found from now on.
  /// @pre from allocate; the key is not there
  /// @returns false, and the slot is free again, if there was no memory for a new session
  [[nodiscard]] bool insert(std::uint32_t slot,
                            const page_key& key,
                            const page_digest& name_space,
                            page_owner owner,
                            std::uint64_t now_us) noexcept;
  /// An allocated slot that will not be used. @pre not inserted
  void give_back(std::uint32_t slot) noexcept;
  /// The page was used. O(1).
  void use(std::uint32_t slot, std::uint64_t now_us) noexcept;
  /// The page goes. O(1). @pre inserted
  void erase(std::uint32_t slot) noexcept;

  /// Erases up to `pages_max` of the pages that a drop_* names. O(pages + log groups).
  /// @returns whether none is left
  bool drop(store_op op, const page_digest& name_space, page_owner owner, std::uint32_t pages_max);

  /// Slots from a hand that goes round: erases those whose time has come. O(slots looked at).
  void expire(std::uint32_t look_at, std::uint64_t now_us) noexcept;

  [[nodiscard]] std::uint64_t pages() const noexcept { return pages_count_; }
  [[nodiscard]] std::uint64_t used_bytes() const noexcept { return used_bytes_; }
  [[nodiscard]] std::uint64_t used_bytes(std::uint64_t tenant) const noexcept;
  [[nodiscard]] std::uint64_t evicted_pages() const noexcept { return evicted_pages_; }
  [[nodiscard]] std::uint64_t evicted_age_us_sum() const noexcept { return evicted_age_us_sum_; }
  /// Memory of the index itself; records and token ids are not counted.
  [[nodiscard]] std::uint64_t size_bytes() const noexcept;
  /// Checks every link and every sum. O(slots). For tests.
  [[nodiscard]] bool is_consistent() const;

 private:
  enum queue_name : std::uint8_t { small, main, free_list };
  static constexpr std::uint8_t uses_max = 3;
  static constexpr std::uint32_t small_part = 10;  // Probation is a tenth of a lane's pages.

  struct slot_entry {
    std::uint32_t older = no_slot, newer = no_slot;  // In its queue.
    std::uint32_t group = no_slot;                   // no_slot: not inserted.
    std::uint32_t group_older = no_slot, group_newer = no_slot;
    std::uint32_t used_low = 0;  // When it was used last: 40 bits of microseconds, 12 days,
    std::uint16_t lane = 0;
    std::uint8_t used_high = 0;  // after which an age in the statistics starts over.
    std::uint8_t pool : 4 = 0, uses : 2 = 0, queue : 2 = free_list;
  };
  static_assert(sizeof(slot_entry) == 28);
  struct cell {
    std::uint32_t slot = no_slot;
    std::uint32_t tag = 0;  // 32 bits of the key's hash; also where it would like to be
  };
  struct queue {
    std::uint32_t oldest = no_slot, newest = no_slot;
    std::uint32_t last = no_slot;  // Inserted last, if it is still there.
    std::uint32_t pages = 0;
  };
  struct lane {
    tenant_share share;
    std::uint64_t used_bytes = 0;
    std::vector<std::array<queue, 2>> queues;  // [pools][small, main]
  };
  struct pool_slots {
    std::uint32_t first = 0, slots = 0;
    std::uint32_t fresh = 0;       // Slots below were handed out once: memory grows on demand.
    std::uint32_t free = no_slot;  // Chain by `newer`.
    std::uint64_t page_bytes = 0;
  };
  struct tenant_use {
    std::uint64_t used_bytes = 0;
    std::uint32_t groups = 0;
  };
  struct group_name {
    page_owner owner;
    page_digest name_space;
  };
  struct group {
    group_name name;
    tenant_use* tenant = nullptr;
    std::uint32_t oldest = no_slot, newest = no_slot;
    std::uint32_t next_free = no_slot;
  };
  struct owner_first {
    bool operator()(const group_name& a, const group_name& b) const noexcept;
  };
  struct space_first {
    bool operator()(const group_name& a, const group_name& b) const noexcept;
  };

  [[nodiscard]] static std::uint32_t tag_of(const page_key& key) noexcept;
  [[nodiscard]] std::size_t home(std::uint32_t tag) const noexcept;
  [[nodiscard]] std::size_t cell_of(std::uint32_t slot) const noexcept;
  void remove_cell(std::size_t at) noexcept;
  [[nodiscard]] std::size_t slot_of_ghost(std::uint32_t tag) const noexcept {
    return static_cast<std::size_t>((std::uint64_t{tag} * ghosts_.size()) >> 32);
  }

  [[nodiscard]] queue& queue_of(const slot_entry& e) noexcept {
    return lanes_[e.lane].queues[e.pool][e.queue];
  }
  void append(std::uint32_t slot, queue_name to) noexcept;
  void remove(std::uint32_t slot) noexcept;

  [[nodiscard]] std::uint16_t lane_of(std::uint64_t tenant) const noexcept;
  [[nodiscard]] std::uint32_t enter_group(const group_name& name);
  void leave_group(std::uint32_t slot) noexcept;
  void take_out(std::uint32_t slot) noexcept;
  void free_slot(std::uint32_t slot) noexcept;

  [[nodiscard]] std::uint32_t peek(const lane& of, std::uint32_t pool) const noexcept;
  [[nodiscard]] std::uint32_t choose(lane& of, std::uint32_t pool) noexcept;
  [[nodiscard]] std::uint32_t victim_of_all(std::uint32_t pool,
                                            std::uint16_t own,
                                            std::uint64_t now_us) noexcept;
  [[nodiscard]] std::uint32_t victim_of_tenant(std::uint32_t pool, std::uint64_t tenant) noexcept;
  void evict(std::uint32_t slot, std::uint64_t now_us) noexcept;
  void evict_one(std::uint32_t slot, std::uint64_t now_us) noexcept;
  [[nodiscard]] bool is_full_for(std::uint32_t pool, std::uint64_t tenant) const noexcept;

  [[nodiscard]] std::uint64_t age_us(const slot_entry& e, std::uint64_t now_us) const noexcept;
  static void stamp(slot_entry& e, std::uint64_t now_us) noexcept;

  const memory_record* records_ = nullptr;
  std::vector<pool_slots> pools_;
  std::vector<slot_entry> slots_;
  std::vector<cell> cells_;
  std::vector<std::uint32_t> ghosts_;
  std::vector<lane> lanes_;
  std::vector<group> groups_;
  std::uint32_t free_group_ = no_slot;
  std::map<group_name, std::uint32_t, owner_first> by_owner_;
  std::map<group_name, std::uint32_t, space_first> by_space_;
  std::map<std::uint64_t, tenant_use> tenants_;
  memory_order order_;
  std::uint64_t other_tenant_bytes_max_;
  std::uint64_t pages_count_ = 0, used_bytes_ = 0;
  std::uint64_t evicted_pages_ = 0, evicted_age_us_sum_ = 0;
  std::uint32_t hand_ = 0;
};

}  // namespace oriel::detail
