// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `sharded_store`: many stores as one. Each page is on one node; nodes join, drain and leave.
///
///     sharded_store<redis_store> remote({.set_count = 4'096});
///     remote.join(hash_of_address, std::make_unique<redis_store>(...));
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/circuit_breaker.hpp>
#include <oriel/tier/detail/shard_nodes.hpp>
#include <oriel/tier/detail/shard_table.hpp>
#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/listing_store.hpp>
#include <oriel/tier/placement.hpp>
#include <oriel/tier/store_clock.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

struct sharded_store_options {
  std::uint32_t set_count = 1'024;  ///< many per node, and fewer than sessions
  std::uint32_t points_per_node = 64;
  std::size_t queue_items = 1'024;  ///< pending at most
  breaker_options breaker = {};     ///< of each node
  /// For so long after a change of nodes a miss also asks where the page was before.
  std::uint64_t look_back_us = 600'000'000;
  /// What is not at home is moved there, at this rate, where nodes can list; 0: nothing moves.
  std::uint64_t move_bytes_per_s = std::uint64_t{256} << 20;
};

/// A `kv_store` over nodes that are stores.
///
/// One copy of each page (it is a cache: a node that dies costs recomputing). `Placement` and the
/// names of the nodes say where (placement.hpp). A batch is split; items on one key keep their
/// order. `erase` and the drops go to every node and are `done` when all have done them: while a
/// node is out they end as `failed`, with EHOSTDOWN, and should be repeated.
///
/// A node that fails, or is late though it had a millisecond, `failures_max` times in a row is out:
/// its gets are misses at once, puts to it are refused, and one item now and then probes it.
///
///  - `join` moves the node's share of the sets to it; what is there already is found where it was
///    for `look_back_us`, and moved in the background where nodes can list.
///  - `drain` gives a node's sets to others; it is asked as long as `look_back_us`, and emptied.
///  - `leave` forgets a node with all that it has. Its store ends here. A node that was away has to
///    be emptied before it joins again: it missed what was erased.
///
/// *Thread safety* none. *Memory* allocates while nodes change, and what its deques need.
template <kv_store Store,
          page_placement Placement = place_by_key,
          store_clock Clock = monotonic_clock>
class sharded_store {
 public:
  static constexpr std::size_t nodes_max = detail::shard_nodes<Store>::nodes_max;

  /// @pre set_count, points_per_node, queue_items > 0
  explicit sharded_store(const sharded_store_options& options,
                         Placement placement = {},
                         Clock clock = {})
      : options_(options),
        placement_(placement),
        clock_(clock),
        nodes_(options.breaker),
        table_(options.set_count, options.points_per_node, options.look_back_us),
        flights_(options.queue_items + 1) {
    ORIEL_EXPECTS(options.set_count > 0 && options.points_per_node > 0 && options.queue_items > 0);
    for (std::uint32_t i = 0; i < flights_.size(); ++i) {
      free_flights_.push_back(i);
    }
  }
  sharded_store(const sharded_store&) = delete;
  sharded_store& operator=(const sharded_store&) = delete;

  // ---- nodes

  /// @param name  what everyone calls this node: a hash of its address
  /// @pre no node has that name; fewer than nodes_max
  void join(std::uint64_t name, std::unique_ptr<Store> store) {
    nodes_.add(name, std::move(store));
    change_table();
  }

  /// Its sets go to the others. @pre there is such a node
  void drain(std::uint64_t name) {
    nodes_[nodes_.place_of(name)].is_draining = true;
    change_table();
  }
  /// Has a draining node nothing left?
  [[nodiscard]] bool is_drained(std::uint64_t name) const {
    const auto& n = nodes_[nodes_.place_of(name)];
    return n.is_draining && n.outbox.empty() && n.store->pending() == 0 &&
           n.store->stats().pages == 0;
  }

  /// What waits for it goes on elsewhere or ends as `failed`. @pre there is such a node
  void leave(std::uint64_t name) {
    const std::uint32_t at = nodes_.place_of(name);
    auto& n = nodes_[at];
    n.store.reset();  // Nothing touches slices from here on.
    n.outbox.clear();
    table_.forget(static_cast<std::uint8_t>(at));
    change_table();
    for (std::uint32_t f = 0; f < flights_.size(); ++f) {
      if ((flights_[f].waits_for >> at & 1u) != 0) {
        finish_leg(at, {.user = f, .outcome = store_outcome::failed, .native = EHOSTDOWN});
      }
    }
  }

  [[nodiscard]] std::size_t nodes() const noexcept { return nodes_.count(); }
  /// The name of the node that has an item's page. @pre there is one that does not drain
  [[nodiscard]] std::uint64_t home_of(const store_item& item) const {
    return nodes_[table_.home(set_of(item))].name;
  }
  /// Is the node out of use? @pre there is such a node
  [[nodiscard]] bool is_out(std::uint64_t name) const {
    return nodes_[nodes_.place_of(name)].breaker.is_open();
  }
  /// @pre there is such a node
  [[nodiscard]] store_stats node_stats(std::uint64_t name) const {
    return nodes_[nodes_.place_of(name)].store->stats();
  }
  [[nodiscard]] std::uint64_t moved_pages() const noexcept { return moved_pages_; }

  // ---- kv_store

  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    const std::size_t taken = std::min(items.size(), options_.queue_items - pending_);
    for (std::size_t i = 0; i < taken; ++i) {
      waiting_.push_back({items[i], deadline_us});
    }
    pending_ += taken;
    is_in_use_ = is_in_use_ || taken != 0;
    start_waiting(clock_.now_us());
    flush_all();
    return taken;
  }

  std::size_t poll(std::span<store_completion> done) {
    pump();
    std::size_t count = 0;
    for (; count < done.size() && !ready_.empty(); ++count) {
      done[count] = ready_.front();
      ready_.pop_front();
    }
    pending_ -= count;
    return count;
  }

  /// Where several nodes are busy it looks after them in turn, 200 us each.
  bool wait(std::uint64_t until_us) {
    while (pending_ != 0) {
      pump();
      if (!ready_.empty()) {
        return true;
      }
      const std::uint64_t now = clock_.now_us();
      if (now >= until_us || (!nodes_.wait(now, until_us, is_moving_) && clock_.now_us() == now)) {
        break;
      }
    }
    return false;
  }

  [[nodiscard]] std::size_t pending() const noexcept { return pending_; }

  /// Operations are those of this store; bytes, pages and faults are summed over the nodes.
  [[nodiscard]] store_stats stats() const {
    store_stats sum = stats_;
    nodes_.add_stats(sum);
    return sum;
  }
  /// Of the node with the most faults.
  [[nodiscard]] store_fault last_fault() const { return nodes_.worst_fault(); }

 private:
  static constexpr std::uint64_t fair_chance_us = 1'000;
  static constexpr std::uint32_t look_at_max = 256;  // Pages listed in one poll.
  static constexpr std::uint64_t move_deadline_us = 100'000;

  enum class stage : std::uint8_t { idle, looking_up, everywhere, move_get, move_put, move_erase };
  // An item on its way through one node after another, or through many at once.
  struct flight {
    store_item item;
    std::uint64_t deadline_us = 0, sent_us = 0;
    std::uint64_t waits_for = 0;  // A bit per node.
    detail::shard_table::owners owners;
    std::uint8_t next_owner = 0;
    stage at = stage::idle;
    store_completion worst;
  };

  [[nodiscard]] std::uint32_t set_of(const store_item& item) const noexcept {
    return table_.set_of(placement_(item));
  }

  void change_table() {
    std::vector<detail::shard_table::member> members;
    for (std::uint32_t i = 0; i < nodes_.size(); ++i) {
      auto& n = nodes_[i];
      if (n.store != nullptr && !n.is_draining) {
        members.push_back({.name = n.name, .node = static_cast<std::uint8_t>(i)});
      }
      n.cursor = 0;
      n.is_swept = n.store == nullptr;
    }
    table_.change(members, clock_.now_us(), is_in_use_);
  }

  // ---- items

  /// After a change one key may concern two nodes, which know nothing of each other's order: then
  /// an item waits for those on the same key, and one on many keys for all.
  [[nodiscard]] bool may_start(const store_item& item) const noexcept {
    if (!table_.looks_back() && !is_moving_) {
      return true;
    }
    if (free_flights_.size() == flights_.size()) {
      return true;
    }
    return item.op < store_op::drop_space && is_free(item.key);
  }
  [[nodiscard]] bool is_free(const page_key& key) const noexcept {
    return ORIEL_MUTANT(shard_keys_overlap) || std::ranges::none_of(flights_, [&](const flight& f) {
             return f.at != stage::idle && (f.item.key == key || f.item.op >= store_op::drop_space);
           });
  }

  void start_waiting(std::uint64_t now) {
    std::erase_if(waiting_, [&](const detail::queued_item& q) {
      const bool is_overdue = q.deadline_us <= now && q.deadline_us != no_deadline;
      if (is_overdue) {
        finish({.user = q.item.user, .op = q.item.op, .outcome = store_outcome::late});
      }
      return is_overdue;
    });
    while (!waiting_.empty() && may_start(waiting_.front().item)) {
      const detail::queued_item q = waiting_.front();
      waiting_.pop_front();
      const std::uint32_t f = free_flights_.back();
      free_flights_.pop_back();
      flight& it = flights_[f] = {};
      it.item = q.item;
      it.deadline_us = q.deadline_us;
      it.worst = {.user = q.item.user, .op = q.item.op, .outcome = store_outcome::done};
      if (q.item.op >= store_op::erase) {
        it.at = stage::everywhere;
        start_everywhere(f, now);
      } else {
        it.at = stage::looking_up;
        it.owners = table_.owners_of(set_of(q.item));
        if (q.item.op == store_op::put) {
          it.owners.count = std::min<std::uint8_t>(it.owners.count, 1);  // At home, or nowhere.
        }
        it.worst.outcome =
            q.item.op == store_op::put ? store_outcome::refused : store_outcome::miss;
        look_further(f, now);
      }
    }
  }

  /// Asks the next of the nodes that may have the page, or ends with the worst answer so far.
  void look_further(std::uint32_t f, std::uint64_t now) {
    flight& it = flights_[f];
    while (it.next_owner < it.owners.count) {
      const std::uint32_t n = it.owners.node[it.next_owner++];
      if (nodes_[n].store != nullptr && nodes_[n].breaker.try_pass(now)) {
        send(f, n, it.item, now);
        return;
      }
    }
    complete(f, it.worst);
  }

  void start_everywhere(std::uint32_t f, std::uint64_t now) {
    flight& it = flights_[f];
    for (std::uint32_t n = 0; n < nodes_.size(); ++n) {
      if (nodes_[n].store == nullptr) {
        continue;
      }
      if (nodes_[n].breaker.try_pass(now)) {
        send(f, n, it.item, now);
      } else {
        it.worst.outcome = store_outcome::failed;
        it.worst.native = EHOSTDOWN;
      }
    }
    if (it.waits_for == 0) {
      complete(f, it.worst);
    }
  }

  void send(std::uint32_t f, std::uint32_t n, const store_item& item, std::uint64_t now) {
    flights_[f].waits_for |= std::uint64_t{1} << n;
    flights_[f].sent_us = now;
    store_item sent = item;
    sent.user = f;
    nodes_.send(n, sent, flights_[f].deadline_us);
  }

  void complete(std::uint32_t f, store_completion c) {
    flights_[f] = {};
    free_flights_.push_back(f);
    finish(c);
  }
  void finish(const store_completion& c) {
    detail::count_completion(stats_, c);
    ready_.push_back(c);
  }

  void finish_leg(std::uint32_t n, const store_completion& c) {
    const auto f = static_cast<std::uint32_t>(c.user);
    flight& it = flights_[f];
    const std::uint64_t now = clock_.now_us();
    const bool is_late = c.outcome == store_outcome::late;
    if (is_late && it.deadline_us < it.sent_us + fair_chance_us) {
      nodes_[n].breaker.tell_nothing();
    } else {
      nodes_[n].breaker.tell(!is_late && c.outcome != store_outcome::failed, now);
    }
    it.waits_for &= ~(std::uint64_t{1} << n);
    switch (it.at) {
      case stage::looking_up:
        if (c.outcome == store_outcome::done) {
          it.worst.outcome = c.outcome;
          it.worst.bytes = c.bytes;
          complete(f, it.worst);
          return;
        }
        detail::keep_worst(it.worst, c);
        if (it.item.op == store_op::put || c.outcome == store_outcome::late) {
          it.worst.outcome = c.outcome;
          complete(f, it.worst);
          return;
        }
        look_further(f, now);
        return;
      case stage::everywhere:
        detail::keep_worst(it.worst, c);
        if (it.waits_for == 0) {
          complete(f, it.worst);
        }
        return;
      default:
        go_on_moving(f, c, now);
    }
  }

  // ---- nodes at work

  void pump() {
    const std::uint64_t now = clock_.now_us();
    table_.expire(now, is_all_swept());
    const auto finish = [&](std::uint32_t n, const store_completion& c) { finish_leg(n, c); };
    for (bool is_busy = true; is_busy;) {
      flush_all();
      is_busy = nodes_.poll(finish);
      start_waiting(now);
    }
    start_move(now);
    flush_all();
  }

  void flush_all() {
    nodes_.flush(clock_, [&](std::uint32_t n, const store_completion& c) { finish_leg(n, c); });
  }

  // ---- moving what is not at home

  [[nodiscard]] bool is_all_swept() const noexcept {
    return !listing_store<Store> || options_.move_bytes_per_s == 0 || nodes_.is_all_swept();
  }

  /// One page at a time: read, put at home, erased where it was. It is a flight like others, so
  /// that what is erased meanwhile does not come back.
  void start_move(std::uint64_t now) {
    if constexpr (listing_store<Store>) {
      if (is_moving_ || now < next_move_us_ || !waiting_.empty() || is_all_swept()) {
        return;
      }
      for (std::uint32_t n = 0, looked = 0; n < nodes_.size() && looked < look_at_max; ++n) {
        for (page_listing page; !nodes_[n].is_swept && looked < look_at_max; ++looked) {
          const std::uint64_t before = nodes_[n].cursor;
          if (nodes_[n].breaker.is_open() || !nodes_[n].store->next_page(nodes_[n].cursor, page)) {
            nodes_[n].is_swept = true;  // Of a node that is out: found by looking back, or not.
            break;
          }
          const store_item item{.op = store_op::get, .key = page.key, .owner = page.owner};
          const std::uint32_t home = table_.home(set_of(item));
          if (home == n || home >= nodes_.size()) {
            continue;
          }
          if (!is_free(page.key)) {
            nodes_[n].cursor = before;
            return;
          }
          begin_move(page, n, home, now);
          return;
        }
      }
    }
  }

  void begin_move(const page_listing& page,
                  std::uint32_t from,
                  std::uint32_t to,
                  std::uint64_t now) {
    moved_.assign(page);
    move_from_ = nodes_[from].name;
    move_to_ = nodes_[to].name;
    is_moving_ = true;
    if (options_.move_bytes_per_s != 0) {
      const double us = 1e6 * static_cast<double>(moved_.size_bytes()) /
                        static_cast<double>(options_.move_bytes_per_s);
      next_move_us_ = std::max(next_move_us_, now) + static_cast<std::uint64_t>(us);
    }
    const std::uint32_t f = free_flights_.back();
    free_flights_.pop_back();
    flight& it = flights_[f] = {};
    it.item = moved_.item(store_op::get);
    it.deadline_us = now + move_deadline_us;
    it.at = stage::move_get;
    send(f, from, it.item, now);
  }

  void go_on_moving(std::uint32_t f, const store_completion& c, std::uint64_t now) {
    flight& it = flights_[f];
    const bool is_put = it.at == stage::move_get;
    const auto next = nodes_.find(is_put ? move_to_ : move_from_);
    if (it.at != stage::move_erase && c.outcome == store_outcome::done && next &&
        nodes_[*next].breaker.try_pass(now)) {
      it.at = is_put ? stage::move_put : stage::move_erase;
      it.deadline_us = now + move_deadline_us;
      send(f, *next, moved_.item(is_put ? store_op::put : store_op::erase), now);
      return;
    }
    moved_pages_ += it.at == stage::move_erase;
    flights_[f] = {};
    free_flights_.push_back(f);
    is_moving_ = false;
  }

  const sharded_store_options options_;
  const Placement placement_;
  const Clock clock_;
  detail::page_copy moved_;  // Before the nodes, which may copy from and to it until they are gone.
  detail::shard_nodes<Store> nodes_;
  detail::shard_table table_;
  std::vector<flight> flights_;  // [queue_items + 1]: the last one is for moves
  std::vector<std::uint32_t> free_flights_;
  std::deque<detail::queued_item> waiting_;
  std::deque<store_completion> ready_;
  std::size_t pending_ = 0;
  store_stats stats_;

  std::uint64_t move_from_ = 0, move_to_ = 0;  // Names.
  std::uint64_t next_move_us_ = 0;
  std::uint64_t moved_pages_ = 0;
  bool is_moving_ = false;
  bool is_in_use_ = false;  // Until then nodes that join are those that were always there.
};

}  // namespace oriel
