// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A device whose streams do what they were given at random later times, in order within a stream.
/// Its memory is the pools' own: what was not written yet, or is nobody's, holds poison.
#pragma once

#include "sim/fake_model.hpp"
#include "sim/kv_rows.hpp"

#include <oriel/core/random.hpp>
#include <oriel/kv/dual_pool.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <set>
#include <utility>
#include <vector>

namespace sim {

using tier_pools = oriel::dual_pool<>;

/// The words of the fake model in real pools: the first of each layer's slice are its rows.
class device_memory {
 public:
  explicit device_memory(tier_pools& pools) : pools_(pools) {
    for (std::uint32_t i = 0; i < pools.pools(); ++i) {
      touched_.emplace_back(pools.pool(oriel::pool_id{i}).capacity());
      for (std::uint32_t page = 0; page < pools.pool(oriel::pool_id{i}).capacity(); ++page) {
        forget(i, page);
      }
    }
  }
  [[nodiscard]] word& at(std::uint32_t pool,
                         std::uint32_t page,
                         std::uint32_t slot,
                         std::uint32_t row) {
    touched_[pool][page] = true;
    return words(
        pool,
        page)[pools_.pool(oriel::pool_id{pool}).layout().k_offset_bytes(slot) / sizeof(word) + row];
  }
  void forget(std::uint32_t pool, std::uint32_t page) {
    std::fill_n(words(pool, page), words_of(pool), poison);
  }
  /// Somebody was given this memory to write to.
  void touch(std::uint32_t pool, const std::byte* where) {
    const auto offset = where - reinterpret_cast<const std::byte*>(words(pool, 0));
    touched_[pool][static_cast<std::size_t>(offset) / sizeof(word) / words_of(pool)] = true;
  }
  /// Was it touched since the last `forget_touches`?
  [[nodiscard]] bool is_touched(std::uint32_t pool, std::uint32_t page) const {
    return touched_[pool][page];
  }
  void forget_touches(std::uint32_t pool) { touched_[pool].assign(touched_[pool].size(), false); }
  [[nodiscard]] bool is_forgotten(std::uint32_t pool, std::uint32_t page) {
    const word* first = words(pool, page);
    return std::all_of(first, first + words_of(pool), [](word w) { return w == poison; });
  }

 private:
  [[nodiscard]] std::size_t words_of(std::uint32_t pool) const {
    return pools_.pool(oriel::pool_id{pool}).layout().page_bytes() / sizeof(word);
  }
  [[nodiscard]] word* words(std::uint32_t pool, std::uint32_t page) {
    const auto first = pools_.pool(oriel::pool_id{pool}).layer(0);
    return reinterpret_cast<word*>(first.k) + page * words_of(pool);
  }

  tier_pools& pools_;
  std::vector<std::vector<bool>> touched_;  // [pools][pages]
};

class sim_device {
 public:
  using task = std::function<void()>;
  using ticket = std::uint64_t;

  sim_device(std::uint64_t seed, std::uint32_t streams, std::uint32_t latency_us_max)
      : draw_(seed, 0xDE), streams_(streams), latency_us_max_(latency_us_max) {}

  /// Puts tasks into a stream. They run one after the other, each when its time has come.
  ticket launch(std::vector<task> tasks) {
    std::deque<queued>& stream = streams_[draw_.next_below(streams())];
    std::uint64_t due = std::max(now_us_, stream.empty() ? 0 : stream.back().due_us);
    ++last_;
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      due += 1 + draw_.next_below(latency_us_max_ + 1);
      stream.push_back({due, last_, i + 1 == tasks.size(), std::move(tasks[i])});
    }
    if (is_broken_) {
      fail();
    }
    return last_;
  }
  /// The fence: has all of it run?
  [[nodiscard]] bool is_done(ticket t) const { return done_.contains(t); }
  [[nodiscard]] bool has_failed(ticket t) const { return failed_.contains(t); }

  void pass(std::uint64_t us) {
    now_us_ += us;
    for (;;) {  // The earliest over all streams first.
      std::deque<queued>* next = nullptr;
      for (std::deque<queued>& s : streams_) {
        if (!s.empty() && s.front().due_us <= now_us_ &&
            (next == nullptr || s.front().due_us < next->front().due_us)) {
          next = &s;
        }
      }
      if (next == nullptr) {
        return;
      }
      const queued now = std::move(next->front());
      next->pop_front();
      now.run();
      if (now.is_last) {
        done_.insert(now.of);
      }
    }
  }
  /// A sticky error: nothing that has not run yet ever will, nor anything launched later.
  void fail() {
    is_broken_ = true;
    for (std::deque<queued>& s : streams_) {
      for (const queued& q : s) {
        failed_.insert(q.of);
      }
      s.clear();
    }
  }
  [[nodiscard]] bool is_broken() const { return is_broken_; }

 private:
  struct queued {
    std::uint64_t due_us = 0;
    ticket of = 0;
    bool is_last = false;
    task run;
  };
  [[nodiscard]] std::uint32_t streams() const {
    return static_cast<std::uint32_t>(streams_.size());
  }

  oriel::random_stream draw_;
  std::vector<std::deque<queued>> streams_;
  std::uint32_t latency_us_max_;
  std::uint64_t now_us_ = 0;
  ticket last_ = 0;
  std::set<ticket> done_, failed_;
  bool is_broken_ = false;
};

}  // namespace sim
