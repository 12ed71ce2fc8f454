// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `shard_nodes`: the nodes of a `sharded_store`, and what is on its way to each.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/tier/circuit_breaker.hpp>
#include <oriel/tier/detail/shard_table.hpp>
#include <oriel/tier/kv_store.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace oriel::detail {

/// An item and its deadline.
struct queued_item {
  store_item item;
  std::uint64_t deadline_us = 0;
};

template <kv_store Store>
class shard_nodes {
 public:
  static constexpr std::size_t nodes_max = 64;

  struct node {
    explicit node(const breaker_options& options) : breaker(options) {}
    std::uint64_t name = 0;
    std::unique_ptr<Store> store;  ///< null: the place is free
    circuit_breaker breaker;
    bool is_draining = false;
    std::deque<queued_item> outbox;  ///< for what the store has no room yet
    std::uint64_t cursor = 0;        ///< of the look for pages that are not at home
    bool is_swept = true;
  };

  explicit shard_nodes(const breaker_options& options) : options_(options) {}

  [[nodiscard]] std::uint32_t size() const noexcept {
    return static_cast<std::uint32_t>(nodes_.size());
  }
  [[nodiscard]] node& operator[](std::size_t n) noexcept { return nodes_[n]; }
  [[nodiscard]] const node& operator[](std::size_t n) const noexcept { return nodes_[n]; }
  [[nodiscard]] std::optional<std::uint32_t> find(std::uint64_t name) const noexcept {
    for (std::uint32_t n = 0; n < size(); ++n) {
      if (nodes_[n].store != nullptr && nodes_[n].name == name) {
        return n;
      }
    }
    return std::nullopt;
  }
  [[nodiscard]] std::uint32_t place_of(std::uint64_t name) const noexcept {
    const auto n = find(name);
    ORIEL_EXPECTS(n.has_value());
    return *n;
  }
  [[nodiscard]] std::size_t count() const noexcept {
    return static_cast<std::size_t>(
        std::ranges::count_if(nodes_, [](const node& n) { return n.store != nullptr; }));
  }
  [[nodiscard]] bool is_all_swept() const noexcept {
    return std::ranges::all_of(nodes_, &node::is_swept);
  }

  void add(std::uint64_t name, std::unique_ptr<Store> store) {
    ORIEL_EXPECTS(store != nullptr && !find(name));
    std::size_t at = 0;
    while (at < nodes_.size() && nodes_[at].store != nullptr) {
      ++at;
    }
    ORIEL_EXPECTS(at < nodes_max);
    if (at == nodes_.size()) {
      nodes_.emplace_back(options_);
    }
    nodes_[at] = node(options_);
    nodes_[at].name = name;
    nodes_[at].store = std::move(store);
  }

  void send(std::uint32_t n, const store_item& item, std::uint64_t deadline_us) {
    nodes_[n].outbox.push_back({item, deadline_us});
  }

  /// Hands over as much as there is room for. finish(n, completion) gets what is `late` because
  /// there was none in time: a node that is full of slow items delays nobody beyond his deadline.
  template <class Clock, class Finish>
  void flush(const Clock& clock, Finish finish) {
    for (std::uint32_t n = 0; n < size(); ++n) {
      std::deque<queued_item>& outbox = nodes_[n].outbox;
      while (!outbox.empty() && hand_over(n)) {
      }
      const std::uint64_t now = outbox.empty() ? 0 : clock.now_us();
      for (std::size_t i = 0; i < outbox.size();) {
        if (now < outbox[i].deadline_us) {
          ++i;
          continue;
        }
        const std::uint64_t user = outbox[i].item.user;
        outbox.erase(outbox.begin() + static_cast<std::ptrdiff_t>(i));
        finish(n, store_completion{.user = user, .outcome = store_outcome::late});
      }
    }
  }

  /// Polls each once. @returns was there anything?
  template <class Finish>
  bool poll(Finish finish) {
    bool is_busy = false;
    for (std::uint32_t n = 0; n < size(); ++n) {
      store_completion done[batch_items];
      const std::size_t count = nodes_[n].store == nullptr ? 0 : nodes_[n].store->poll(done);
      for (std::size_t i = 0; i < count; ++i) {
        finish(n, done[i]);
      }
      is_busy = is_busy || count != 0;
    }
    return is_busy;
  }

  /// Where several nodes are busy, or there is more to look after, it waits for each `look_us` in
  /// turn. @returns whether one has something to poll
  bool wait(std::uint64_t now, std::uint64_t until_us, bool has_more) {
    std::size_t busy = 0;
    std::uint32_t chosen = 0;
    for (std::uint32_t i = 1; i <= size(); ++i) {
      const std::uint32_t n = (last_waited_ + i) % size();
      if (nodes_[n].store != nullptr && nodes_[n].store->pending() != 0) {
        chosen = busy++ == 0 ? n : chosen;
      }
    }
    if (busy == 0) {
      return false;
    }
    last_waited_ = chosen;
    const bool is_alone = busy == 1 && !has_more && nodes_[chosen].outbox.empty();
    return nodes_[chosen].store->wait(is_alone ? until_us : std::min(until_us, now + look_us));
  }

  /// Adds what the nodes have, and says whether any is in use.
  void add_stats(store_stats& sum) const {
    sum.health = store_health::degraded;
    for (const node& n : nodes_) {
      if (n.store != nullptr) {
        add_node_stats(sum, n.store->stats());
        sum.health = n.breaker.is_open() ? sum.health : store_health::healthy;
      }
    }
  }
  /// Of the node with the most faults.
  [[nodiscard]] store_fault worst_fault() const {
    store_fault worst;
    for (const node& n : nodes_) {
      if (n.store != nullptr) {
        store_fault fault = n.store->last_fault();
        worst = fault.count > worst.count ? std::move(fault) : std::move(worst);
      }
    }
    return worst;
  }

 private:
  static constexpr std::size_t batch_items = 64;
  static constexpr std::uint64_t look_us = 200;

  /// The first items of one deadline. @returns were all of them taken?
  bool hand_over(std::uint32_t n) {
    std::deque<queued_item>& outbox = nodes_[n].outbox;
    const std::uint64_t deadline = outbox.front().deadline_us;
    store_item batch[batch_items];
    std::size_t count = 0;
    while (count < std::min(batch_items, outbox.size()) && outbox[count].deadline_us == deadline) {
      batch[count] = outbox[count].item;
      ++count;
    }
    const std::size_t taken = nodes_[n].store->submit({batch, count}, deadline);
    outbox.erase(outbox.begin(), outbox.begin() + static_cast<std::ptrdiff_t>(taken));
    return taken == count;
  }

  breaker_options options_;
  std::vector<node> nodes_;
  std::uint32_t last_waited_ = 0;
};

}  // namespace oriel::detail
