// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `memory_store`: the host tier. Pages that left the device wait in memory of the process, where
/// getting one back is a copy.
///
///     memory_store<> host({.page_size = 64, .slice_bytes = shape.slice_bytes,
///                          .capacity_bytes = std::uint64_t{64} << 30});
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kv/memory.hpp>
#include <oriel/tier/detail/memory_index.hpp>
#include <oriel/tier/detail/memory_layout.hpp>
#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/listing_store.hpp>
#include <oriel/tier/memory_options.hpp>
#include <oriel/tier/store_clock.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <vector>

namespace oriel {

/// A `kv_store` in memory. Items are carried out in order, within `poll`, on the calling thread: a
/// page that is longer than what one poll may copy takes several, and is found by none before it is
/// whole.
///
/// Each pool has a slab of equal slots; slices lie in a slot without gaps, so a layer's slice is
/// aligned to 4096 where the base and all slices are. What a full slab gives up is decided by
/// `order` among the pages of all tenants that are above what they are sure of; the end of a chain
/// goes before its head, and with a full page go the window pages of the same tokens.
///
/// It keeps nothing over the end of the process; a sync has nothing to do and says `done`.
///
/// @tparam Memory  where the slabs are (kv/memory.hpp, tier/numa_memory.hpp)
/// @tparam Clock   of deadlines, expiries and ages
/// *Thread safety* none: one thread drives it; `store_thread` gives it one. *Memory* allocates
/// after construction only what a new session's bookkeeping takes; where that fails a put is
/// refused. Index: 44 bytes per page of capacity, and some 350 per (session, namespace). Beside
/// each page lie its record of 80 bytes and its token ids.
template <kv_memory Memory = host_memory, store_clock Clock = monotonic_clock>
class memory_store {
  static_assert(Memory::stores_bytes);

 public:
  /// @throws std::invalid_argument for options that cannot work: no page_size, a pool without
  ///         slices, no capacity for a page of each pool; std::bad_alloc
  explicit memory_store(const memory_store_options& options, Clock clock = {})
      : options_(options),
        clock_(clock),
        layout_(options),
        index_(layout_.sizes(),
               {.order = options.order,
                .tenants = options.tenants,
                .other_tenant_bytes_max = options.other_tenant_bytes_max}),
        records_(index_.slots()),
        tokens_(records_.size() * options.page_size),
        ring_(options.queue_items) {
    index_.set_records(records_.data());
    for (const auto& pool : layout_.pools()) {
      auto slab = Memory::reserve(pool.slot_bytes * pool.slots);
      if (!slab) {
        throw std::bad_alloc();
      }
      slabs_.push_back(std::move(*slab));
    }
  }
  memory_store(const memory_store&) = delete;
  memory_store& operator=(const memory_store&) = delete;

  /// O(items taken).
  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    const std::size_t taken = std::min(items.size(), ring_.size() - queued_);
    for (std::size_t i = 0; i < taken; ++i) {
      const store_item& item = items[i];
      ORIEL_EXPECTS(item.identity != nullptr ||
                    (item.op != store_op::get && item.op != store_op::put));
      ring_[(head_ + queued_ + i) % ring_.size()] = {item, deadline_us};
    }
    queued_ += taken;
    return taken;
  }

  /// O(completions + copy_bytes_per_poll).
  std::size_t poll(std::span<store_completion> done) {
    if (has_expiries_ && !progress_.is_copying) {
      index_.expire(expire_per_poll, clock_.now_us());
    }
    budget_ = options_.copy_bytes_per_poll;
    std::size_t count = 0;
    while (count < done.size() && queued_ != 0 && go_on()) {
      done[count++] = ready_;
      is_ready_ = false;
      head_ = (head_ + 1) % ring_.size();
      --queued_;
    }
    return count;
  }

  /// Carries out the item at the head, if there is one and time for it.
  bool wait(std::uint64_t until_us) {
    while (queued_ != 0) {
      budget_ = options_.copy_bytes_per_poll;
      if (go_on()) {
        return true;
      }
      if (clock_.now_us() >= until_us) {
        break;
      }
    }
    return false;
  }
  [[nodiscard]] std::size_t pending() const noexcept { return queued_; }

  [[nodiscard]] store_stats stats() const {
    store_stats s = stats_;
    s.evicted_pages = index_.evicted_pages();
    s.evicted_age_us_sum = index_.evicted_age_us_sum();
    s.pages = index_.pages();
    s.used_bytes = index_.used_bytes();
    s.capacity_bytes = layout_.capacity_bytes();
    s.index_bytes = index_.size_bytes();
    return s;
  }
  [[nodiscard]] store_fault last_fault() const { return fault_; }

  /// See `listing_store`.
  bool next_page(std::uint64_t& cursor, page_listing& page) {
    const std::uint64_t now = clock_.now_us();
    for (; cursor < index_.slots(); ++cursor) {
      const auto slot = static_cast<std::uint32_t>(cursor);
      const detail::memory_record& r = records_[slot];
      if (!index_.is_page(slot) || (r.expires_us != 0 && r.expires_us <= now)) {
        continue;
      }
      const std::uint32_t pool = index_.pool_of(slot);
      page = {.key = {.link = r.link, .pool = pool},
              .identity = {.name_space = index_.name_space(slot),
                           .parent = r.parent,
                           .first_token = r.first_token,
                           .tokens = tokens_of(slot)},
              .owner = index_.owner(slot),
              .expires_us = r.expires_us,
              .slice_bytes = options_.slice_bytes[pool]};
      ++cursor;
      return true;
    }
    return false;
  }

  /// Bytes that a tenant's pages and their records take. O(log tenants).
  [[nodiscard]] std::uint64_t used_bytes(std::uint64_t tenant) const noexcept {
    return index_.used_bytes(tenant);
  }
  /// Does the bookkeeping agree with itself? O(capacity in pages). For tests.
  [[nodiscard]] bool is_consistent() const { return index_.is_consistent(); }

 private:
  static constexpr std::uint32_t drop_per_poll = 1'024, expire_per_poll = 16;

  struct queued {
    store_item item;
    std::uint64_t deadline_us = 0;
  };
  // How far the item at the head is.
  struct progress {
    bool is_copying = false;
    std::uint32_t slot = detail::no_slot;
    std::size_t slice = 0;
    std::uint64_t offset = 0;  // In the slice.
  };

  /// Goes on with the item at the head. @returns whether it is complete: then it is `ready_`
  bool go_on() {
    if (!is_ready_) {
      const queued& q = ring_[head_];
      ready_ = {.user = q.item.user, .op = q.item.op};
      if (carry_out(q, ready_)) {
        is_ready_ = true;
        progress_ = {};
        tell(ready_);
      }
    }
    return is_ready_;
  }

  bool carry_out(const queued& q, store_completion& c) {
    const std::uint64_t now = clock_.now_us();
    if (now >= q.deadline_us && q.deadline_us != no_deadline) {
      give_up(q.item);
      c.outcome = store_outcome::late;
      return true;
    }
    switch (q.item.op) {
      case store_op::get:
        return get(q.item, now, c);
      case store_op::put:
        return put(q.item, now, c);
      case store_op::exists:
      case store_op::touch: {
        const std::uint32_t slot = find(q.item.key, now);
        if (slot != detail::no_slot && q.item.op == store_op::touch) {
          index_.use(slot, now);
        }
        c.outcome = slot != detail::no_slot ? store_outcome::done : store_outcome::miss;
        return true;
      }
      case store_op::erase:
        if (const std::uint32_t slot = index_.find(q.item.key); slot != detail::no_slot) {
          index_.erase(slot);
        }
        c.outcome = store_outcome::done;
        return true;
      case store_op::drop_space:
      case store_op::drop_tenant:
      case store_op::drop_session:
        c.outcome = store_outcome::done;
        return index_.drop(q.item.op, q.item.key.link, q.item.owner, drop_per_poll);
      case store_op::sync:
        c.outcome = store_outcome::done;
        return true;
    }
    return true;
  }

  bool get(const store_item& item, std::uint64_t now, store_completion& c) {
    if (!progress_.is_copying) {
      const std::uint32_t slot = find(item.key, now);
      if (slot == detail::no_slot || !is_of(slot, *item.identity) || !layout_.has_layers(item)) {
        c.outcome = store_outcome::miss;
        return true;
      }
      progress_ = {.is_copying = true, .slot = slot};
    }
    if (!copy<true>(item, c)) {
      return false;
    }
    index_.use(progress_.slot, clock_.now_us());
    return true;
  }

  bool put(const store_item& item, std::uint64_t now, store_completion& c) {
    if (!progress_.is_copying) {
      c.outcome = begin_put(item, now);
      if (!progress_.is_copying) {
        return true;
      }
    }
    if (!copy<false>(item, c)) {
      return false;
    }
    if (!index_.insert(
            progress_.slot, item.key, item.identity->name_space, item.owner, clock_.now_us())) {
      c = {.user = item.user, .op = item.op, .outcome = store_outcome::refused};
    }
    return true;
  }

  /// Finds a slot for the page and writes its record; nobody finds it there yet.
  store_outcome begin_put(const store_item& item, std::uint64_t now) {
    const page_identity& identity = *item.identity;
    if (!layout_.is_whole(item) || identity.tokens.size() > options_.page_size) {
      return store_outcome::refused;
    }
    const std::uint64_t expires =
        item.expires_us != 0 ? item.expires_us : expiry_us(now, options_.ttl_us);
    if (expires != 0 && expires <= now) {
      return store_outcome::done;
    }
    if (const std::uint32_t there = find(item.key, now); there != detail::no_slot) {
      if (is_of(there, identity)) {
        std::uint64_t& ends = records_[there].expires_us;
        ends = ends == 0 || expires == 0 ? 0 : std::max(ends, expires);
        index_.use(there, now);
        return store_outcome::done;
      }
      index_.erase(there);  // One of the two is not what it says. Gets compare.
    }
    const std::uint32_t slot = index_.allocate(item.key.pool, item.owner.tenant, now);
    if (slot == detail::no_slot) {
      return store_outcome::refused;
    }
    const std::uint64_t end = slot_offset(slot) + layout_.pools()[item.key.pool].slot_bytes;
    if (const status committed = slabs_[item.key.pool].commit(end); !committed) {
      index_.give_back(slot);
      fault_ = {"commit", "host memory", committed.error().native, fault_.count + 1};
      stats_.health = store_health::write_paused;
      return store_outcome::refused;
    }
    stats_.health = store_health::healthy;
    records_[slot] = {.link = item.key.link,
                      .parent = identity.parent,
                      .expires_us = expires,
                      .first_token = identity.first_token,
                      .token_count = static_cast<std::uint32_t>(identity.tokens.size())};
    std::ranges::copy(identity.tokens, tokens_.data() + token_offset(slot));
    has_expiries_ = has_expiries_ || expires != 0;
    progress_ = {.is_copying = true, .slot = slot};
    return store_outcome::done;
  }

  /// Copies on until the page, or what this poll may copy, ends. @returns is the page complete?
  template <bool IsGet>
  bool copy(const store_item& item, store_completion& c) noexcept {
    const std::vector<std::uint64_t>& offsets = layout_.pools()[item.key.pool].offsets;
    std::byte* const base = slabs_[item.key.pool].base() + slot_offset(progress_.slot);
    for (; progress_.slice < item.slices.size(); ++progress_.slice, progress_.offset = 0) {
      const std::span<std::byte> slice = item.slices[progress_.slice];
      std::byte* const kept = base + offsets[item.first_slice + progress_.slice] + progress_.offset;
      std::byte* const lent =
          slice.data() + (ORIEL_MUTANT(memory_copy_starts_slice_over) ? 0 : progress_.offset);
      const std::uint64_t bytes = std::min(slice.size() - progress_.offset, budget_);
      std::memcpy(IsGet ? lent : kept, IsGet ? kept : lent, bytes);
      budget_ -= bytes;
      progress_.offset += bytes;
      if (progress_.offset != slice.size()) {
        return false;
      }
    }
    c.outcome = store_outcome::done;
    for (const auto& slice : item.slices) {
      c.bytes += slice.size();
    }
    return true;
  }

  /// A transfer that is cut short leaves no trace but bytes in the caller's slices.
  void give_up(const store_item& item) noexcept {
    if (progress_.is_copying && item.op == store_op::put &&
        !ORIEL_MUTANT(memory_late_put_keeps_its_slot)) {
      index_.give_back(progress_.slot);
    }
  }

  [[nodiscard]] std::uint32_t find(const page_key& key, std::uint64_t now) noexcept {
    const std::uint32_t slot = index_.find(key);
    if (slot == detail::no_slot || records_[slot].expires_us == 0 ||
        records_[slot].expires_us > now || ORIEL_MUTANT(memory_never_expires)) {
      return slot;
    }
    index_.erase(slot);
    return detail::no_slot;
  }

  [[nodiscard]] bool is_of(std::uint32_t slot, const page_identity& identity) const noexcept {
    const detail::memory_record& r = records_[slot];
    const auto kept = tokens_of(slot);
    return index_.name_space(slot) == identity.name_space && r.parent == identity.parent &&
           r.first_token == identity.first_token &&
           (std::ranges::equal(kept, identity.tokens) || ORIEL_MUTANT(memory_tokens_are_believed));
  }

  /// Where a slot begins in its slab.
  [[nodiscard]] std::uint64_t slot_offset(std::uint32_t slot) const noexcept {
    const std::uint32_t pool = index_.pool_of(slot);
    return (slot - index_.first_slot(pool)) * layout_.pools()[pool].slot_bytes;
  }
  [[nodiscard]] std::span<const token_id> tokens_of(std::uint32_t slot) const noexcept {
    return std::span(tokens_).subspan(token_offset(slot), records_[slot].token_count);
  }
  [[nodiscard]] std::size_t token_offset(std::uint32_t slot) const noexcept {
    return std::size_t{slot} * options_.page_size;
  }

  void tell(const store_completion& c) noexcept {
    const bool is_done = c.outcome == store_outcome::done;
    stats_.late += c.outcome == store_outcome::late;
    stats_.refused += c.outcome == store_outcome::refused;
    if (c.op == store_op::get) {
      ++stats_.gets;
      stats_.hits += is_done;
      stats_.misses += c.outcome == store_outcome::miss;
      stats_.bytes_read += c.bytes;
    } else if (c.op == store_op::put) {
      ++stats_.puts;
      stats_.puts_done += is_done;
      stats_.bytes_written += c.bytes;
    }
  }

  memory_store_options options_;
  Clock clock_;
  const detail::memory_layout layout_;
  std::vector<Memory> slabs_;  // [pools]
  detail::memory_index index_;
  std::vector<detail::memory_record> records_;  // [slots]
  std::vector<token_id> tokens_;                // [slots, page_size]
  std::vector<queued> ring_;
  std::size_t head_ = 0, queued_ = 0;
  progress progress_;
  store_completion ready_;  // Of the item at the head, which is complete and not polled.
  bool is_ready_ = false;
  std::uint64_t budget_ = 0;  // What this poll may still copy.
  bool has_expiries_ = false;
  store_stats stats_;
  store_fault fault_;
};

static_assert(listing_store<memory_store<>>);

}  // namespace oriel
