// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Carries the reads of a `layer_load` to stores and their completions back.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/tier/layer_load.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace oriel::detail {

/// The stores of one loader, by tier. While a load runs they are its alone.
template <kv_store Store>
class layer_lanes {
 public:
  explicit layer_lanes(std::vector<Store*> stores) : stores_(std::move(stores)) {}

  /// Takes in what the stores have done, then hands on what they take. Returns whether anything
  /// moved. Never blocks.
  template <class Clock>
  bool turn(layer_load& load, std::uint64_t deadline_us, const Clock& clock) {
    bool moved = false;
    for (Store* store : stores_) {
      for (std::size_t got = done_.size(); got == done_.size();) {
        got = store->poll(done_);
        const std::uint64_t now_us = got == 0 ? 0 : clock.now_us();
        for (const store_completion& c : std::span(done_).first(got)) {
          const bool is_mine = load.on_completion(c, now_us);
          ORIEL_EXPECTS(is_mine);
        }
        moved |= got != 0;
      }
    }
    return hand_out(load, deadline_us) || moved;
  }

  /// Blocks until some store has something, or until then; with several busy ones for a moment.
  void wait(std::uint64_t now_us, std::uint64_t until_us) {
    std::size_t busy = 0;
    for (const Store* store : stores_) {
      busy += store->pending() != 0;
    }
    for (Store* store : stores_) {
      if (store->pending() != 0 &&
          store->wait(busy == 1 ? until_us : std::min(until_us, now_us + moment_us))) {
        return;
      }
    }
  }

 private:
  static constexpr std::uint64_t moment_us = 200;
  static constexpr std::size_t batch_max = 64;

  bool hand_out(layer_load& load, std::uint64_t deadline_us) {
    bool moved = false;
    for (;;) {
      std::uint8_t tier = 0;
      const std::size_t offered = load.offer(items_, tier);
      if (offered == 0) {
        return moved;
      }
      ORIEL_EXPECTS(tier < stores_.size());
      const std::size_t taken =
          stores_[tier]->submit(std::span(items_).first(offered), deadline_us);
      load.on_taken(taken);
      moved |= taken != 0;
      if (taken < offered) {
        return moved;
      }
    }
  }

  std::vector<Store*> stores_;  // [tiers]
  std::array<store_item, batch_max> items_;
  std::array<store_completion, batch_max> done_;
};

}  // namespace oriel::detail
