// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A store under watch: what it was given and what it answers is compared with what it may, must
/// and must never have (I4, I8, I14, I17).
#pragma once

#include "alloc_faults.hpp"

#include <oriel/tier/kv_store.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace sim {

/// What one tier was told, over all its lives.
struct tier_book {
  struct page {
    std::vector<oriel::page_owner>
        owners;  ///< of its puts: which of them counts the store says not
    oriel::page_digest space;
    std::uint64_t earliest_end = 0, latest_end = 0;  ///< expiries of its puts
    std::uint64_t last_put = 0, last_drop = 0;       ///< numbers of items
    std::uint64_t last_sure_drop = 0;                ///< one that concerns all its owners
    bool may_hit = false;                            ///< put, and not dropped since
    bool must_hit = false;                       ///< acknowledged, and nothing can have taken it
    bool was_done = false, was_refused = false;  ///< a put of it, ever: as far as is known
  };
  std::string name;
  bool is_strict = false;  ///< no fault ever strikes it: what it acknowledged it has
  bool may_lie = false;    ///< what it dropped may come back
  bool is_dead = false;    ///< the process ends here: nothing reaches the store any more
  std::map<oriel::page_key, page> pages;
  std::function<bool(const oriel::store_item&)>
      is_right;                                          ///< do its slices hold a cold run's bytes?
  std::function<void(const oriel::store_item&)> on_get;  ///< its slices will be written to
  std::function<std::uint64_t()> now_us;
  std::function<bool()> is_consistent = [] { return true; };

  std::uint64_t items = 0, drops = 0, drops_failed = 0, gets_done = 0, gets_missed = 0,
                puts_done = 0, evicted = 0;
  struct reads {
    std::uint32_t wanted = 0;     ///< under way
    std::uint64_t let_go_to = 0;  ///< items up to this number are for nobody any more
  };
  std::map<oriel::page_key, reads> being_read;
  std::uint32_t reads_of_one_page = 0;  ///< most at once, of full pages
  std::string failure;                  ///< the first thing that did not hold

  void fail(const char* what) { failure = failure.empty() ? name + ": " + what : failure; }
  /// Whoever fetched the full page was cancelled. The store may still read it (F21); who asks for it
  /// next does not wait for that.
  void let_go_of_reads(const oriel::page_digest& link) {
    if (const auto found = being_read.find({link, 0}); found != being_read.end()) {
      found->second = {.wanted = 0, .let_go_to = items};
    }
  }
  [[nodiscard]] const page* find(const oriel::page_key& key) const {
    const auto found = pages.find(key);
    return found == pages.end() ? nullptr : &found->second;
  }
  /// Would a get that is sent now have to succeed?
  [[nodiscard]] bool must_have(const oriel::page_key& key) const {
    const page* p = find(key);
    // An index may count in coarse units, downwards, and once more at each start.
    constexpr std::uint64_t early_us_max = 1'000;
    return p != nullptr && p->must_hit && now_us() + early_us_max < p->earliest_end;
  }
};

template <class Store>
class watched_store {
 public:
  template <class... Args>
  explicit watched_store(std::shared_ptr<tier_book> book, Args&&... args)
      : book_(std::move(book)), store_(std::forward<Args>(args)...) {
    book_->evicted = 0;
    book_->drops = book_->drops_failed = 0;
    if constexpr (requires { store_.is_consistent(); }) {
      book_->is_consistent = [this] {  // Between two items, that is.
        return store_.pending() != 0 || store_.is_consistent();
      };
    }
  }
  ~watched_store() {
    book_->is_consistent = [] { return true; };
  }
  watched_store(const watched_store&) = delete;
  watched_store& operator=(const watched_store&) = delete;

  std::size_t submit(std::span<const oriel::store_item> items, std::uint64_t deadline_us) {
    const no_alloc_faults pause;
    std::vector<oriel::store_item> numbered(items.begin(), items.end());
    for (std::size_t i = 0; i < numbered.size(); ++i) {
      numbered[i].user = book_->items + 1 + i;
    }
    const std::size_t taken = book_->is_dead ? items.size() : store_.submit(numbered, deadline_us);
    for (std::size_t i = 0; i < taken; ++i) {
      sent s{.item = items[i], .number = ++book_->items, .deadline_us = deadline_us};
      take_down(s);
      pending_.emplace(s.number, s);
    }
    return taken;
  }

  std::size_t poll(std::span<oriel::store_completion> done) {
    const no_alloc_faults pause;
    if (book_->is_dead) {
      return give_up(done);
    }
    const std::size_t count = store_.poll(done);
    // Which pages it evicts is its own choice.
    if (const std::uint64_t evicted = store_.stats().evicted_pages; evicted != book_->evicted) {
      book_->evicted = evicted;
      for (auto& [key, p] : book_->pages) {
        p.must_hit = false;
      }
      evicts_now_ = true;
    }
    for (oriel::store_completion& c : done.first(count)) {
      const auto found = pending_.find(c.user);
      if (found == pending_.end()) {
        book_->fail("a completion of nothing, or a second one");
        continue;
      }
      judge(found->second, c);
      c.user = found->second.item.user;
      pending_.erase(found);
    }
    evicts_now_ = false;
    return count;
  }
  bool wait(std::uint64_t until_us) {
    const no_alloc_faults pause;
    return book_->is_dead ? !pending_.empty() : store_.wait(until_us);
  }
  [[nodiscard]] std::size_t pending() const {
    return book_->is_dead ? pending_.size() : store_.pending();
  }
  [[nodiscard]] oriel::store_stats stats() const { return store_.stats(); }
  [[nodiscard]] oriel::store_fault last_fault() const { return store_.last_fault(); }

 private:
  struct sent {
    oriel::store_item item;
    std::uint64_t number = 0, deadline_us = 0;
    bool may_hit = false, must_hit = false;
  };

  [[nodiscard]] static bool is_drop(oriel::store_op op) {
    return op == oriel::store_op::drop_space || op == oriel::store_op::drop_tenant ||
           op == oriel::store_op::drop_session;
  }
  /// May the page be one of the drop's? And must it be?
  [[nodiscard]] static bool may_die(const oriel::store_item& drop, const tier_book::page& p) {
    return drop.op == oriel::store_op::drop_space
               ? p.space == drop.key.link
               : std::ranges::any_of(p.owners, [&](auto owner) { return is_of(drop, owner); });
  }
  [[nodiscard]] static bool must_die(const oriel::store_item& drop, const tier_book::page& p) {
    return drop.op == oriel::store_op::drop_space
               ? p.space == drop.key.link
               : std::ranges::all_of(p.owners, [&](auto owner) { return is_of(drop, owner); });
  }
  [[nodiscard]] static bool is_of(const oriel::store_item& drop, oriel::page_owner owner) {
    return drop.op == oriel::store_op::drop_tenant ? owner.tenant == drop.owner.tenant
                                                   : owner == drop.owner;
  }

  void take_down(sent& s) {
    const oriel::store_item& item = s.item;
    if (is_drop(item.op)) {
      ++book_->drops;
      for (auto& [key, p] : book_->pages) {
        if (may_die(item, p)) {
          p.must_hit = false;
          p.last_drop = s.number;
        }
        p.last_sure_drop = must_die(item, p) ? s.number : p.last_sure_drop;
      }
    } else if (item.op == oriel::store_op::put) {
      const std::uint64_t end = item.expires_us == 0 ? ~std::uint64_t{0} : item.expires_us;
      tier_book::page& p = book_->pages[item.key];
      p.earliest_end = p.may_hit ? std::min(p.earliest_end, end) : end;
      p.latest_end = p.may_hit ? std::max(p.latest_end, end) : end;
      if (!p.may_hit) {
        p.owners.clear();
      }
      if (std::ranges::find(p.owners, item.owner) == p.owners.end()) {
        p.owners.push_back(item.owner);
      }
      p.space = item.identity->name_space;
      p.last_put = s.number;
      p.may_hit = true;
    } else if (item.op == oriel::store_op::get || item.op == oriel::store_op::exists) {
      const tier_book::page* p = book_->find(item.key);
      s.may_hit = p != nullptr && p->may_hit && book_->now_us() < p->latest_end;
      s.must_hit = book_->must_have(item.key);
      if (item.op == oriel::store_op::get) {
        book_->on_get(item);
        const std::uint32_t reads = ++book_->being_read[item.key].wanted;
        book_->reads_of_one_page =
            std::max(book_->reads_of_one_page, item.key.pool == 0 ? reads : 0);
      }
    }
  }

  void judge(const sent& s, const oriel::store_completion& c) {
    const oriel::store_item& item = s.item;
    const bool is_done = c.outcome == oriel::store_outcome::done;
    if (is_drop(item.op)) {
      book_->drops_failed += !is_done;
      for (auto& [key, p] : book_->pages) {
        p.may_hit = p.may_hit && !(is_done && p.last_put < s.number && must_die(item, p));
      }
    } else if (item.op == oriel::store_op::put) {
      if (!book_->is_right(item)) {
        book_->fail("R1, R6: a page changed, or was not written, while it was copied");
      }
      tier_book::page& p = book_->pages[item.key];
      p.must_hit = is_done && book_->is_strict && !evicts_now_ && s.number > p.last_drop;
      p.was_done = p.was_done || is_done;
      p.was_refused = p.was_refused || !is_done;
      book_->puts_done += is_done;
    } else if (item.op == oriel::store_op::get) {
      tier_book::reads& reads = book_->being_read[item.key];
      reads.wanted -= s.number > reads.let_go_to;
      book_->gets_done += is_done;
      book_->gets_missed += !is_done;
      if (is_done && !book_->is_right(item)) {
        book_->fail("I4: a hit with other bytes than a cold run's");
      }
      judge_found(s, c.outcome);
    } else if (item.op == oriel::store_op::exists) {
      judge_found(s, c.outcome);
    }
  }

  void judge_found(const sent& s, oriel::store_outcome outcome) {
    if (outcome == oriel::store_outcome::done) {
      book_->pages[s.item.key].was_done = true;  // Of a put whose answer was lost, maybe.
      if (!s.may_hit && !book_->may_lie) {
        book_->fail("I17: a hit on what was never put, was dropped, or has expired");
      }
      return;
    }
    const bool is_late = outcome == oriel::store_outcome::late ||
                         (s.deadline_us != oriel::no_deadline && book_->now_us() >= s.deadline_us);
    if (s.must_hit && book_->must_have(s.item.key) && !is_late) {
      book_->fail("I17: an acknowledged page is not there");
    }
  }

  /// The process is dead: its items have no answer.
  std::size_t give_up(std::span<oriel::store_completion> done) {
    std::size_t count = 0;
    while (count < done.size() && !pending_.empty()) {
      const sent& s = pending_.begin()->second;
      done[count++] = {
          .user = s.item.user, .op = s.item.op, .outcome = oriel::store_outcome::failed};
      pending_.erase(pending_.begin());
    }
    return count;
  }

  std::shared_ptr<tier_book> book_;
  Store store_;
  std::map<std::uint64_t, sent> pending_;  // by number
  bool evicts_now_ = false;
};

}  // namespace sim
