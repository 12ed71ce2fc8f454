// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `obvious_store`: a map. The law is tried on it, and other tests use it where any store will do;
/// it can be told to be slow, to fail and to go away.
#pragma once

#include <oriel/tier/kv_store.hpp>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <vector>

/// What the test turns from outside while a store (or a thread of one) uses it.
struct obvious_switches {
  std::uint64_t now_us = 1'000;
  bool is_dead = false;   ///< everything fails
  bool is_stuck = false;  ///< nothing completes, deadlines do
};

class obvious_store {
 public:
  explicit obvious_store(std::shared_ptr<obvious_switches> switches = nullptr)
      : switches_(switches != nullptr ? std::move(switches)
                                      : std::make_shared<obvious_switches>()) {}

  std::size_t submit(std::span<const oriel::store_item> items, std::uint64_t deadline_us) {
    std::size_t taken = 0;
    for (; taken < items.size() && queue_.size() < 32; ++taken) {
      queue_.push_back({items[taken], deadline_us});
    }
    return taken;
  }

  std::size_t poll(std::span<oriel::store_completion> done) {
    std::size_t count = 0;
    while (count < done.size() && !queue_.empty()) {
      const auto& [item, deadline] = queue_.front();
      const bool is_late = switches_->now_us >= deadline;
      if (switches_->is_stuck && !is_late) {
        break;
      }
      oriel::store_completion& c = done[count++];
      c = {.user = item.user, .op = item.op};
      if (is_late) {
        c.outcome = oriel::store_outcome::late;
      } else if (switches_->is_dead) {
        c.outcome = oriel::store_outcome::failed;
        c.native = 111;
      } else {
        c.outcome = carry_out(item, c.bytes);
      }
      tell(c);
      queue_.pop_front();
    }
    return count;
  }

  bool wait(std::uint64_t until_us) {
    if (queue_.empty()) {
      return false;
    }
    if (switches_->is_stuck && switches_->now_us < queue_.front().deadline) {
      switches_->now_us = std::max(switches_->now_us, until_us);
      return switches_->now_us >= queue_.front().deadline;
    }
    return true;
  }
  [[nodiscard]] std::size_t pending() const { return queue_.size(); }
  [[nodiscard]] oriel::store_stats stats() const {
    oriel::store_stats s = stats_;
    s.pages = pages_.size();
    return s;
  }
  [[nodiscard]] oriel::store_fault last_fault() const { return {}; }

 private:
  struct page {
    oriel::page_identity identity;
    std::vector<oriel::token_id> tokens;
    std::vector<std::vector<std::byte>> slices;
    oriel::page_owner owner;
    std::uint64_t expires_us = 0;
  };
  struct queued {
    oriel::store_item item;
    std::uint64_t deadline = 0;
  };

  oriel::store_outcome carry_out(const oriel::store_item& item, std::uint64_t& bytes) {
    using enum oriel::store_op;
    using enum oriel::store_outcome;
    std::erase_if(pages_, [&](const auto& p) {
      return p.second.expires_us != 0 && switches_->now_us >= p.second.expires_us;
    });
    const auto found = pages_.find(item.key);
    switch (item.op) {
      case exists:
      case touch:
        return found != pages_.end() ? done : miss;
      case get:
        return found != pages_.end() ? get_page(item, found->second, bytes) : miss;
      case put:
        put_page(item, bytes);
        return done;
      case erase:
        pages_.erase(item.key);
        return done;
      case drop_space:
        std::erase_if(pages_,
                      [&](const auto& p) { return p.second.identity.name_space == item.key.link; });
        return done;
      case drop_tenant:
        std::erase_if(pages_,
                      [&](const auto& p) { return p.second.owner.tenant == item.owner.tenant; });
        return done;
      case drop_session:
        std::erase_if(pages_, [&](const auto& p) { return p.second.owner == item.owner; });
        return done;
      case sync:
        return done;
    }
    return failed;
  }

  static oriel::store_outcome get_page(const oriel::store_item& item,
                                       const page& p,
                                       std::uint64_t& bytes) {
    const oriel::page_identity& want = *item.identity;
    bool is_it = p.identity.name_space == want.name_space && p.identity.parent == want.parent &&
                 p.identity.first_token == want.first_token &&
                 std::ranges::equal(p.tokens, want.tokens) &&
                 item.first_slice + item.slices.size() <= p.slices.size();
    for (std::size_t i = 0; is_it && i < item.slices.size(); ++i) {
      is_it = item.slices[i].size() == p.slices[item.first_slice + i].size();
    }
    for (std::size_t i = 0; is_it && i < item.slices.size(); ++i) {
      std::ranges::copy(p.slices[item.first_slice + i], item.slices[i].begin());
      bytes += item.slices[i].size();
    }
    return is_it ? oriel::store_outcome::done : oriel::store_outcome::miss;
  }

  void put_page(const oriel::store_item& item, std::uint64_t& bytes) {
    page& p = pages_[item.key];
    p = {.identity = *item.identity,
         .tokens = {item.identity->tokens.begin(), item.identity->tokens.end()},
         .slices = {},
         .owner = item.owner,
         .expires_us = item.expires_us};
    for (const auto& slice : item.slices) {
      p.slices.emplace_back(slice.begin(), slice.end());
      bytes += slice.size();
    }
  }

  void tell(const oriel::store_completion& c) {
    using enum oriel::store_outcome;
    stats_.gets += c.op == oriel::store_op::get;
    stats_.hits += c.op == oriel::store_op::get && c.outcome == done;
    stats_.misses += c.op == oriel::store_op::get && c.outcome == miss;
    stats_.puts += c.op == oriel::store_op::put;
    stats_.puts_done += c.op == oriel::store_op::put && c.outcome == done;
    stats_.late += c.outcome == late;
    stats_.failed += c.outcome == failed;
  }

  std::shared_ptr<obvious_switches> switches_;
  std::deque<queued> queue_;
  std::map<oriel::page_key, page> pages_;
  oriel::store_stats stats_;
};
