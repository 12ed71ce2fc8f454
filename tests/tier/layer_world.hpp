// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A made-up step for tests of layer loaders: a model's layers in pools, pages with bytes, and a
/// store on the same clock that says when each read is done, in what order and with what outcome.
#pragma once

#include "tier/hand_clock.hpp"
#include "tier/page_maker.hpp"

#include <oriel/core/random.hpp>
#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/layer_plan.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <utility>
#include <vector>

/// Layers, and pages of them with room for their bytes.
struct layer_world {
  static constexpr std::byte poison{0xCB};

  struct room {
    page_maker::page page;
    oriel::page_identity identity = {};
    std::vector<std::vector<std::byte>> bytes = {};  // [slots]
    std::vector<std::span<std::byte>> slices = {};   // [slots]
    std::uint8_t tier = 0;
  };

  /// @param pool_of      the pool of each layer
  /// @param slice_bytes  of each layer
  layer_world(const std::vector<std::uint32_t>& pool_of,
              const std::vector<std::uint32_t>& slice_bytes,
              const std::vector<std::uint32_t>& pages_in) {
    layer_in.resize(pages_in.size());
    for (std::uint32_t l = 0; l < pool_of.size(); ++l) {
      const auto slot = static_cast<std::uint32_t>(layer_in[pool_of[l]].size());
      homes.push_back({oriel::pool_id{pool_of[l]}, slot});
      layer_in[pool_of[l]].push_back(l);
    }
    for (std::uint32_t pool = 0; pool < pages_in.size(); ++pool) {
      const std::uint32_t count = layer_in[pool].empty() ? 0 : pages_in[pool];
      for (page_maker::page& p : page_maker::chain(pool + 1, count)) {
        p.key.pool = pool;
        room& r = rooms.emplace_back(room{.page = std::move(p)});
        r.identity = r.page.identity();
        for (const std::uint32_t l : layer_in[pool]) {
          r.bytes.emplace_back(slice_bytes[l], poison);
        }
        r.slices.assign(r.bytes.begin(), r.bytes.end());
      }
    }
  }

  [[nodiscard]] std::vector<oriel::layer_page> pages() const {
    std::vector<oriel::layer_page> pages;
    for (const room& r : rooms) {
      pages.push_back({r.page.key, &r.identity, r.tier, r.slices});
    }
    return pages;
  }

  /// Poison everywhere, as in the beginning.
  void wipe() {
    for (room& r : rooms) {
      for (auto& slice : r.bytes) {
        std::ranges::fill(slice, poison);
      }
    }
  }

  /// What a slice of a record holds.
  [[nodiscard]] static std::byte content(const oriel::page_key& key, std::uint32_t slot) {
    return std::byte(static_cast<std::uint8_t>((key.link.prefix64() + 7 * key.pool + slot) % 0xC8));
  }

  /// Every byte that a layer reads is there.
  [[nodiscard]] bool has_layer(std::uint32_t layer) const {
    const auto [pool, slot] = homes[layer];
    return std::ranges::all_of(rooms, [&, p = to_index(pool), s = slot](const room& r) {
      const std::byte want = content(r.page.key, s);
      return r.page.key.pool != p ||
             std::ranges::all_of(r.bytes[s], [&](std::byte b) { return b == want; });
    });
  }

  [[nodiscard]] std::uint32_t layers() const { return static_cast<std::uint32_t>(homes.size()); }

  std::vector<oriel::layer_home> homes;
  std::vector<std::vector<std::uint32_t>> layer_in;  // [pools][slots]
  std::deque<room> rooms;
};

/// How a `scripted_store` behaves; the test may change it while it works.
struct store_script {
  std::uint64_t latency_us = 0;
  std::uint64_t us_per_byte = 0;  ///< one read after another
  std::uint64_t jitter_us = 0;    ///< each read later by up to so much: they overtake each other
  std::size_t queue_items = 1'000;
  std::set<std::uint64_t> failing = {};  ///< reads, by store_item::user
  oriel::store_outcome failure = oriel::store_outcome::miss;
  std::uint64_t seed = 1;
};

/// A store on a hand-turned clock. It writes into pages as freely as it may: poison when it takes
/// an item, the bytes when it is done, and never afterwards.
class scripted_store {
 public:
  struct order {
    oriel::store_item item;
    std::uint64_t done_us = 0;
    oriel::store_outcome outcome = oriel::store_outcome::done;
  };

  scripted_store(std::shared_ptr<std::uint64_t> now_us, const store_script& script)
      : now_us_(std::move(now_us)), script_(script), draw_(script.seed, 41) {}

  std::size_t submit(std::span<const oriel::store_item> items, std::uint64_t deadline_us) {
    std::size_t taken = 0;
    for (; taken < items.size() && orders_.size() < script_.queue_items; ++taken) {
      const oriel::store_item& item = items[taken];
      order o{.item = item};
      std::uint64_t bytes = 0;
      for (const auto& slice : item.slices) {
        bytes += slice.size();
      }
      lane_free_us_ = std::max(lane_free_us_, *now_us_) + bytes * script_.us_per_byte;
      o.done_us = lane_free_us_ + script_.latency_us;
      if (script_.jitter_us != 0) {
        o.done_us += draw_.next_below(static_cast<std::uint32_t>(script_.jitter_us));
      }
      if (script_.failing.contains(item.user)) {
        o.outcome = script_.failure;
      }
      if (deadline_us < o.done_us) {
        o.done_us = std::max(deadline_us, *now_us_);
        o.outcome = oriel::store_outcome::late;
      }
      fill(item, [](std::uint32_t) { return layer_world::poison; });
      in_flight_bytes_ += bytes;
      in_flight_bytes_max = std::max(in_flight_bytes_max, in_flight_bytes_);
      orders_.push_back(o);
      log.push_back(item);
    }
    return taken;
  }

  std::size_t poll(std::span<oriel::store_completion> done) {
    std::size_t count = 0;
    for (; count < done.size(); ++count) {
      const auto first = std::ranges::min_element(orders_, {}, &order::done_us);
      if (first == orders_.end() || first->done_us > *now_us_) {
        break;
      }
      const order o = *first;
      orders_.erase(first);
      done[count] = {.user = o.item.user, .op = o.item.op, .outcome = o.outcome};
      const bool is_done = o.outcome == oriel::store_outcome::done;
      fill(o.item, [&](std::uint32_t slot) {
        return is_done ? layer_world::content(o.item.key, slot) : layer_world::poison;
      });
      for (std::size_t i = 0; i < o.item.slices.size(); ++i) {
        done[count].bytes += is_done ? o.item.slices[i].size() : 0;
        in_flight_bytes_ -= o.item.slices[i].size();
        if (is_done) {
          arrived.insert({o.item.key, o.item.first_slice + static_cast<std::uint32_t>(i)});
        }
      }
    }
    return count;
  }

  /// Turns the clock to when the next read is done, or to then.
  bool wait(std::uint64_t until_us) {
    if (orders_.empty()) {
      return false;
    }
    *now_us_ = std::max(*now_us_, std::min(next_us(), until_us));
    return next_us() <= *now_us_;
  }
  [[nodiscard]] std::size_t pending() const { return orders_.size(); }
  [[nodiscard]] oriel::store_stats stats() const { return {}; }
  [[nodiscard]] oriel::store_fault last_fault() const { return {}; }

  /// When the next read is done; ~0: none is under way.
  [[nodiscard]] std::uint64_t next_us() const {
    const auto first = std::ranges::min_element(orders_, {}, &order::done_us);
    return first == orders_.end() ? oriel::no_deadline : first->done_us;
  }

  std::vector<oriel::store_item> log;                           // in the order it took them
  std::set<std::pair<oriel::page_key, std::uint32_t>> arrived;  // pages and slots, done
  std::uint64_t in_flight_bytes_max = 0;
  /// Pages that were given back: a write to one of them fails the test.
  std::set<oriel::page_key> released;

 private:
  template <class Byte>
  void fill(const oriel::store_item& item, Byte&& byte_of) {
    if (released.contains(item.key)) {
      FAIL("a store writes into a page that was given back");
    }
    for (std::uint32_t i = 0; i < item.slices.size(); ++i) {
      std::ranges::fill(item.slices[i], byte_of(item.first_slice + i));
    }
  }

  std::shared_ptr<std::uint64_t> now_us_;
  store_script script_;
  oriel::random_stream draw_;
  std::vector<order> orders_;
  std::uint64_t lane_free_us_ = 0, in_flight_bytes_ = 0;
};

static_assert(oriel::kv_store<scripted_store>);
