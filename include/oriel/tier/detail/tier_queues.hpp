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

/// One queue in front of each store, since a store may take less than it is given.
class tier_queues {
 public:
  explicit tier_queues(std::vector<tier> tiers)
      : tiers_(std::move(tiers)), queues_(tiers_.size()) {}

  [[nodiscard]] std::span<tier> tiers() noexcept { return tiers_; }
  [[nodiscard]] std::span<const tier> tiers() const noexcept { return tiers_; }

  /// @throws std::bad_alloc
  void push(std::uint8_t tier, const store_item& item, std::uint64_t deadline_us) {
    queues_[tier].push_back({item, deadline_us});
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

  /// Hands on what the stores take, then calls done(tier, completion) for all that came back.
  template <class Done>
  void turn(Done&& done) {
    for (std::size_t i = 0; i < tiers_.size(); ++i) {
      const auto t = static_cast<std::uint8_t>(i);
      flush(t);
      for (std::size_t got = batch_.size(); got == batch_.size();) {
        got = tiers_[t].store.poll(batch_);
        for (const store_completion& c : std::span(batch_).first(got)) {
          --unfinished_;
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

  struct waiting {
    store_item item;
    std::uint64_t deadline_us;
  };

  /// Items with one deadline go together.
  void flush(std::uint8_t t) {
    std::vector<waiting>& queue = queues_[t];
    std::size_t sent = 0;
    while (sent < queue.size()) {
      const std::uint64_t deadline_us = queue[sent].deadline_us;
      std::size_t count = 0;
      while (count < batch_max && sent + count < queue.size() &&
             queue[sent + count].deadline_us == deadline_us) {
        items_[count] = queue[sent + count].item;
        ++count;
      }
      const std::size_t taken = tiers_[t].store.submit(std::span(items_).first(count), deadline_us);
      sent += taken;
      if (taken < count) {
        break;
      }
    }
    queue.erase(queue.begin(), queue.begin() + static_cast<std::ptrdiff_t>(sent));
  }

  std::vector<tier> tiers_;
  std::vector<std::vector<waiting>> queues_;  // [tiers]
  std::array<store_item, batch_max> items_;
  std::array<store_completion, batch_max> batch_;
  std::size_t unfinished_ = 0;
};

}  // namespace oriel::detail
