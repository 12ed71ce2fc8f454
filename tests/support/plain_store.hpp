// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The obvious kv_store: a map, whose answers come late, out of order, or not as hoped. For tests
/// of those who use stores.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/tier/kv_store.hpp>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

/// What outlives a store: a disk, another machine.
struct plain_medium {
  struct page {
    std::vector<std::vector<std::byte>> slices;
    oriel::page_digest name_space, parent;
    std::uint32_t first_token = 0;
    std::vector<oriel::token_id> tokens;
    oriel::page_owner owner;
  };
  std::map<oriel::page_key, page> pages;
};

/// How badly it behaves, in per mille of items.
struct plain_faults {
  std::uint32_t misses = 0;     ///< a get of what is there
  std::uint32_t fails = 0;      ///< a get or put; a get leaves garbage in its slices
  std::uint32_t refuses = 0;    ///< a put
  std::uint32_t stuck = 0;      ///< completes only after `stuck_polls` polls
  std::uint32_t turns_max = 3;  ///< polls until an item completes, at most
  std::uint32_t stuck_polls = 40;
  std::uint32_t queue_max = 1000;  ///< items at once
  bool only_gets_stick = false;
  bool fails_orders = false;   ///< drops and syncs: EIO
  bool knows_no_sync = false;  ///< refuses it: EOPNOTSUPP
  /// Not 0: gets come one after another at this rate, by `now_us`, whoever looks, and say when.
  double bytes_per_us = 0.0;
  std::uint64_t (*now_us)() = nullptr;
};

class plain_store {
 public:
  plain_store(std::shared_ptr<plain_medium> medium, plain_faults faults, std::uint64_t seed)
      : medium_(std::move(medium)), faults_(faults), draw_(seed, 7) {}

  std::size_t submit(std::span<const oriel::store_item> items, std::uint64_t) {
    std::size_t taken = 0;
    const double now_us = static_cast<double>(now());
    for (; taken < items.size() && queue_.size() < faults_.queue_max; ++taken) {
      const bool may_stick = !faults_.only_gets_stick || items[taken].op == oriel::store_op::get;
      const bool stuck = may_stick && chance(faults_.stuck);
      queue_.push_back(
          {items[taken],
           polls_ + draw_.next_below(faults_.turns_max + 1) + (stuck ? faults_.stuck_polls : 0),
           end_us(items[taken], now_us)});
    }
    return taken;
  }

  std::size_t poll(std::span<oriel::store_completion> done) {
    ++polls_;
    std::size_t count = 0;
    const std::uint64_t now_us = now();
    for (auto next = queue_.begin(); next != queue_.end() && count < done.size();) {
      if (next->due > polls_ || next->end_us > now_us || comes_after_another(next)) {
        ++next;
        continue;
      }
      done[count] = carry_out(next->item);
      done[count++].done_us = next->end_us;
      next = queue_.erase(next);
    }
    return count;
  }

  bool wait(std::uint64_t) { return !queue_.empty(); }
  [[nodiscard]] std::size_t pending() const { return queue_.size(); }
  [[nodiscard]] oriel::store_stats stats() const { return {.pages = medium_->pages.size()}; }
  [[nodiscard]] oriel::store_fault last_fault() const { return {}; }

 private:
  struct waiting {
    oriel::store_item item;
    std::uint64_t due;
    std::uint64_t end_us;  // 0: not told
  };

  [[nodiscard]] std::uint64_t now() const {
    return faults_.bytes_per_us > 0 ? faults_.now_us() : 0;
  }
  std::uint64_t end_us(const oriel::store_item& item, double now_us) {
    if (faults_.bytes_per_us <= 0 || item.op != oriel::store_op::get) {
      return 0;
    }
    free_us_ = std::max(free_us_, now_us);
    for (const auto& slice : item.slices) {
      free_us_ += static_cast<double>(slice.size()) / faults_.bytes_per_us;
    }
    return static_cast<std::uint64_t>(free_us_);
  }

  bool chance(std::uint32_t per_mille) {
    return per_mille != 0 && draw_.next_below(1000) < per_mille;
  }
  /// Items on one key take effect in order; a drop or a sync after all before it, and before the
  /// rest.
  bool comes_after_another(std::deque<waiting>::iterator at) {
    const bool is_order = at->item.op > oriel::store_op::erase;
    return std::any_of(queue_.begin(), at, [&](const waiting& w) {
      return is_order || w.item.key == at->item.key || w.item.op > oriel::store_op::erase;
    });
  }

  oriel::store_completion carry_out(const oriel::store_item& item) {
    using oriel::store_op, oriel::store_outcome;
    oriel::store_completion c{.user = item.user, .op = item.op, .outcome = store_outcome::done};
    auto& pages = medium_->pages;
    const auto found = pages.find(item.key);
    const bool moves = item.op == store_op::get || item.op == store_op::put;
    if (moves && chance(faults_.fails)) {
      for (std::size_t i = 0; item.op == store_op::get && i < item.slices.size(); ++i) {
        std::memset(item.slices[i].data(), 0x5A, item.slices[i].size());
      }
      c.outcome = store_outcome::failed;
      c.native = EIO;
      return c;
    }
    if (item.op > store_op::erase && faults_.fails_orders) {
      c.outcome = store_outcome::failed;
      c.native = EIO;
      return c;
    }
    switch (item.op) {
      case store_op::exists:
      case store_op::touch:
        c.outcome = found != pages.end() ? store_outcome::done : store_outcome::miss;
        break;
      case store_op::get:
        c.outcome = found != pages.end() && !chance(faults_.misses)
                        ? get(item, found->second, c.bytes)
                        : store_outcome::miss;
        break;
      case store_op::put:
        if (chance(faults_.refuses)) {
          c.outcome = store_outcome::refused;
        } else {
          put(item, pages[item.key], c.bytes);
        }
        break;
      case store_op::erase:
        pages.erase(item.key);
        break;
      case store_op::drop_space:
        std::erase_if(pages, [&](const auto& p) { return p.second.name_space == item.key.link; });
        break;
      case store_op::drop_tenant:
        std::erase_if(pages,
                      [&](const auto& p) { return p.second.owner.tenant == item.owner.tenant; });
        break;
      case store_op::drop_session:
        std::erase_if(pages, [&](const auto& p) { return p.second.owner == item.owner; });
        break;
      case store_op::sync:
        if (faults_.knows_no_sync) {
          c.outcome = store_outcome::refused;
          c.native = EOPNOTSUPP;
        }
        break;
    }
    return c;
  }

  static oriel::store_outcome get(const oriel::store_item& item,
                                  const plain_medium::page& page,
                                  std::uint64_t& bytes) {
    const oriel::page_identity& id = *item.identity;
    if (id.name_space != page.name_space || id.parent != page.parent ||
        id.first_token != page.first_token || !std::ranges::equal(id.tokens, page.tokens)) {
      return oriel::store_outcome::miss;
    }
    for (std::size_t i = 0; i < item.slices.size(); ++i) {
      const auto& from = page.slices.at(item.first_slice + i);
      std::memcpy(item.slices[i].data(), from.data(), from.size());
      bytes += from.size();
    }
    return oriel::store_outcome::done;
  }
  static void put(const oriel::store_item& item, plain_medium::page& page, std::uint64_t& bytes) {
    const oriel::page_identity& id = *item.identity;
    page = {.slices = {},
            .name_space = id.name_space,
            .parent = id.parent,
            .first_token = id.first_token,
            .tokens = {id.tokens.begin(), id.tokens.end()},
            .owner = item.owner};
    for (const std::span<std::byte> slice : item.slices) {
      page.slices.emplace_back(slice.begin(), slice.end());
      bytes += slice.size();
    }
  }

  std::shared_ptr<plain_medium> medium_;
  plain_faults faults_;
  oriel::random_stream draw_;
  std::deque<waiting> queue_;
  double free_us_ = 0.0;
  std::uint64_t polls_ = 0;
};

static_assert(oriel::kv_store<plain_store>);
