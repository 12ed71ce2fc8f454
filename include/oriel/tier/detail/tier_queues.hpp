// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Items on their way to several stores, and their completions on the way back.
#pragma once

#include <oriel/tier/tier.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace oriel::detail {

/// Whom a completion is for: travels in store_item::user.
enum class tier_errand : std::uint8_t { copy, look_up, fetch, other };

struct errand_tag {
  tier_errand errand = tier_errand::other;
  std::uint32_t number = 0;  ///< of the copy, or of the fetch
  std::uint32_t item = 0;    ///< in the fetch; below 2^30

  /// Items of others: an order, a touch of page `number` of pool item - touch_item. 0: nobody asks.
  static constexpr std::uint32_t order_item = 1, touch_item = 2;

  [[nodiscard]] std::uint64_t packed() const noexcept {
    return std::uint64_t{static_cast<std::uint8_t>(errand)} << 62 | std::uint64_t{item} << 32 |
           number;
  }
  [[nodiscard]] static errand_tag unpacked(std::uint64_t user) noexcept {
    return {static_cast<tier_errand>(user >> 62),
            static_cast<std::uint32_t>(user),
            static_cast<std::uint32_t>(user >> 32 & 0x3FFF'FFFFu)};
  }
};

/// Items of one kind in the order in which they came. Dropping from the front is O(1), amortised.
class tier_line {
 public:
  struct waiting {
    store_item item;
    std::uint64_t deadline_us = 0;
  };

  /// @throws std::bad_alloc
  void push(const store_item& item, std::uint64_t deadline_us) {
    items_.push_back({item, deadline_us});
  }
  [[nodiscard]] std::span<const waiting> all() const noexcept {
    return std::span(items_).subspan(first_);
  }
  void drop(std::size_t count) noexcept {
    first_ += count;
    if (2 * first_ >= items_.size()) {  // As many are moved as were dropped, at most.
      items_.erase(items_.begin(), items_.begin() + static_cast<std::ptrdiff_t>(first_));
      first_ = 0;
    }
  }

 private:
  std::vector<waiting> items_;
  std::size_t first_ = 0;
};

/// Two lines in front of each store, since a store may take less than it is given: gets and
/// look-ups, which somebody waits for, and the rest. What waits in the second does not keep the
/// first:
///
///  - a store has at most `writes_max` of the second, and beyond `writes_min` of them no more than
///    `write_bytes_max` in all;
///  - the first goes first; but after `reads_in_a_row` of it the second has a turn;
///  - a store that takes nothing of one line is asked for the other all the same.
///
/// A read keeps its place behind a put of its key, and behind orders (drops, erases, a sync): it
/// waits in the second line then.
class tier_queues {
 public:
  static constexpr std::size_t writes_min = 16, writes_max = 256, reads_in_a_row = 256;
  static constexpr std::uint64_t write_bytes_max = std::uint64_t{64} << 20;

  explicit tier_queues(std::vector<tier> tiers)
      : tiers_(std::move(tiers)), queues_(tiers_.size()) {}

  [[nodiscard]] std::span<tier> tiers() noexcept { return tiers_; }
  [[nodiscard]] std::span<const tier> tiers() const noexcept { return tiers_; }

  /// @throws std::bad_alloc
  void push(std::uint8_t tier, const store_item& item, std::uint64_t deadline_us) {
    queue& q = queues_[tier];
    const bool is_first = is_read(item.op) && q.orders == 0 && !has_put_of(q, item.key);
    (is_first ? q.reads : q.writes).push(item, deadline_us);
    if (item.op == store_op::put) {
      ++q.puts_of[bucket_of(item.key)];
    }
    q.orders += is_order(item.op);
    ++unfinished_;
  }
  /// Ends the stores; each waits for what still touches slices. Nothing completes any more.
  void close() noexcept {
    tiers_.clear();
    queues_.clear();
    unfinished_ = 0;
  }
  /// Items that are queued or in a store.
  [[nodiscard]] std::size_t unfinished() const noexcept { return unfinished_; }

  /// Hands on what the stores take.
  void flush() {
    for (std::size_t t = 0; t < tiers_.size(); ++t) {
      flush(static_cast<std::uint8_t>(t));
    }
  }
  /// The same, then calls done(tier, completion) for all that came back.
  template <class Done>
  void turn(Done&& done) {
    for (std::size_t i = 0; i < tiers_.size(); ++i) {
      const auto t = static_cast<std::uint8_t>(i);
      flush(t);
      for (std::size_t got = batch_.size(); got == batch_.size();) {
        got = tiers_[t].store.poll(batch_);
        for (const store_completion& c : std::span(batch_).first(got)) {
          --unfinished_;
          if (!is_read(errand_tag::unpacked(c.user).errand)) {
            queues_[t].in_store.end(c.user);
          }
          done(t, c);
        }
      }
    }
  }

  /// Blocks until some store has something, or until then; with several busy stores for a moment
  /// only. @param now_us  by the stores' clock
  void wait(std::uint64_t now_us, std::uint64_t until_us) {
    std::size_t busy = 0;
    for (const tier& t : tiers_) {
      busy += t.store.pending() != 0;
    }
    for (tier& t : tiers_) {
      if (t.store.pending() != 0 &&
          t.store.wait(busy == 1 ? until_us : std::min(until_us, now_us + moment_us))) {
        return;
      }
    }
  }

 private:
  static constexpr std::uint64_t moment_us = 200;
  static constexpr std::size_t batch_max = 64;

  /// How much of the second line a store has.
  struct write_load {
    std::size_t count = 0;
    std::uint64_t bytes = 0;

    [[nodiscard]] bool may_have(std::uint64_t more_bytes) const noexcept {
      return count < writes_min || (count < writes_max && bytes + more_bytes <= write_bytes_max);
    }
    void add(std::uint64_t more_bytes) noexcept {
      ++count;
      bytes += more_bytes;
    }
  };
  /// The same, by the items: a completion does not say how large its item was.
  class writes_in_store {
   public:
    [[nodiscard]] const write_load& load() const noexcept { return load_; }
    void begin(std::uint64_t user, std::uint64_t bytes) noexcept {
      if (bytes != 0) {
        sizes_[sized_++] = {user, bytes};
      }
      load_.add(bytes);
    }
    void end(std::uint64_t user) noexcept {
      const auto all = std::span(sizes_).first(sized_);
      if (const auto found = std::ranges::find(all, user, &size::user); found != all.end()) {
        load_.bytes -= found->bytes;
        *found = sizes_[--sized_];
      }
      --load_.count;
    }

   private:
    struct size {
      std::uint64_t user = 0, bytes = 0;
    };
    std::array<size, writes_max> sizes_;  // of those that have bytes, in no order
    std::size_t sized_ = 0;
    write_load load_;
  };

  struct queue {
    tier_line reads, writes;
    writes_in_store in_store;
    std::size_t reads_since_writes = 0;
    std::size_t orders = 0;  // in the second line
    /// Puts in the second line, by a few bits of their keys: so that most reads need not look.
    std::vector<std::uint16_t> puts_of = std::vector<std::uint16_t>(buckets);
  };
  static constexpr std::size_t buckets = 1u << 14;

  [[nodiscard]] static bool is_read(store_op op) noexcept {
    return op == store_op::get || op == store_op::exists;
  }
  [[nodiscard]] static bool is_read(tier_errand errand) noexcept {
    return errand == tier_errand::fetch || errand == tier_errand::look_up;
  }
  [[nodiscard]] static bool is_order(store_op op) noexcept {
    return !is_read(op) && op != store_op::put && op != store_op::touch;
  }
  [[nodiscard]] static std::size_t bucket_of(const page_key& key) noexcept {
    std::uint32_t bits = 0;
    std::memcpy(&bits, key.link.bytes.data(), sizeof(bits));
    return (bits ^ key.pool) % buckets;
  }
  [[nodiscard]] static bool has_put_of(const queue& q, const page_key& key) noexcept {
    return q.puts_of[bucket_of(key)] != 0 &&
           std::ranges::any_of(q.writes.all(), [&](const tier_line::waiting& w) {
             return w.item.op == store_op::put && w.item.key == key;
           });
  }
  [[nodiscard]] static std::uint64_t bytes_of(const store_item& item) noexcept {
    std::uint64_t bytes = 0;
    for (const auto& slice : item.slices) {
      bytes += slice.size();
    }
    return bytes;
  }

  /// A read that waits in the second line counts for nothing.
  [[nodiscard]] static bool may_go(const write_load& load, const store_item& item) noexcept {
    return is_read(item.op) || load.may_have(bytes_of(item));
  }

  void flush(std::uint8_t t) {
    queue& q = queues_[t];
    bool takes_reads = true, takes_writes = true;  // It may have room for one and not the other.
    for (;;) {
      const bool reads_may = takes_reads && !q.reads.all().empty();
      const bool writes_may = takes_writes && !q.writes.all().empty() &&
                              may_go(q.in_store.load(), q.writes.all()[0].item);
      if (!writes_may && !reads_may) {
        return;
      }
      if (reads_may && (!writes_may || q.reads_since_writes < reads_in_a_row)) {
        const std::size_t taken = hand_on(t, q.reads);
        takes_reads = taken != 0;
        q.reads_since_writes += taken;
      } else if (hand_on(t, q.writes) != 0) {
        q.reads_since_writes = 0;
      } else {
        takes_writes = false;
      }
    }
  }

  /// Items with one deadline go together. @returns how many went; 0: the store has no room
  std::size_t hand_on(std::uint8_t t, tier_line& line) {
    queue& q = queues_[t];
    const std::span<const tier_line::waiting> all = line.all();
    const std::uint64_t deadline_us = all[0].deadline_us;
    write_load would_be = q.in_store.load();
    std::size_t count = 0;
    for (; count < std::min(batch_max, all.size()) && all[count].deadline_us == deadline_us &&
           may_go(would_be, all[count].item);
         ++count) {
      items_[count] = all[count].item;
      if (!is_read(items_[count].op)) {
        would_be.add(bytes_of(items_[count]));
      }
    }
    const std::size_t taken = tiers_[t].store.submit(std::span(items_).first(count), deadline_us);
    for (const store_item& item : std::span(items_).first(taken)) {
      if (!is_read(item.op)) {
        q.in_store.begin(item.user, bytes_of(item));
      }
      q.orders -= is_order(item.op);
      if (item.op == store_op::put) {
        --q.puts_of[bucket_of(item.key)];
      }
    }
    line.drop(taken);
    return taken;
  }

  std::vector<tier> tiers_;
  std::vector<queue> queues_;  // [tiers]
  std::array<store_item, batch_max> items_;
  std::array<store_completion, batch_max> batch_;
  std::size_t unfinished_ = 0;
};

}  // namespace oriel::detail
