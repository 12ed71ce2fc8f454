// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Random lives of a segment store over a `sim_disk`: operations, faults, restarts, and a slow
/// model beside it. A life is a function of its seed.
#pragma once

#include "tier/segment_world.hpp"

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace oriel_test {

/// What a life is made of; drawn from the seed by make_life.
struct life_plan {
  std::uint64_t seed = 0;
  std::uint64_t steps = 20;  ///< between restarts
  std::uint64_t restarts = 10;
  bool loses_power = false;  ///< else kill -9
  bool has_faults = false;
  bool lies = false;  ///< and faults that nothing can undo
  std::uint64_t keys = 24;
  segment_store_options options;
};

inline life_plan make_life(std::uint64_t seed, bool has_faults, bool loses_power) {
  life_plan p;
  p.seed = seed;
  std::uint64_t drawn = 0;
  const auto draw = [&](std::uint64_t bound) { return mixed(seed, ++drawn) % bound; };
  p.has_faults = has_faults;
  p.lies = has_faults && draw(3) == 0;
  p.loses_power = loses_power;
  p.keys = 4 + draw(28);
  p.options = tiny_options(3 + draw(draw(2) == 0 ? 3 : 14), 32'768 + 16'384 * draw(4));
  p.options.saves_snapshot = draw(2) == 0;
  p.options.carry_share_max = draw(4) == 0 ? 0.0 : 0.25 * static_cast<double>(1 + draw(3));
  p.options.tenant_share_max = draw(3) == 0 ? 0.5 : 1.0;
  p.options.batches_in_flight = static_cast<std::uint32_t>(1 + draw(3));
  p.options.reads_in_flight = static_cast<std::uint32_t>(1 + draw(8));
  p.options.carries_in_flight = static_cast<std::uint32_t>(1 + draw(3));
  p.options.batch_bytes = 4096 * (1 + draw(12));
  p.options.scan_chunk_bytes = static_cast<std::uint32_t>(4096 * (1 + draw(16)));
  p.options.bounce_bytes = 4096 * (32 + draw(32));
  p.options.queue_items = static_cast<std::uint32_t>(4 + draw(60));
  p.options.pages_max = draw(4) == 0 ? 16 : 256;
  p.options.initial_generation = draw(8) == 0 ? (std::uint64_t{1} << 32) - draw(64) : draw(1000);
  return p;
}

class segment_life {
 public:
  explicit segment_life(const life_plan& plan)
      : plan_(plan), disk_(mixed(plan.seed, 1), 1 + mixed(plan.seed, 2) % 200) {
    for (std::uint64_t k = 0; k < plan.keys; ++k) {
      // Every third page has a window page of the same link.
      pages_.push_back(k % 3 == 2 ? toy_page{k - 1, 1} : toy_page{k, 0});
      models_.emplace_back();
    }
  }

  /// Empty, or what went wrong.
  std::string run() {
    for (std::uint64_t r = 0; r < plan_.restarts && why_.empty(); ++r) {
      draw_faults();
      open(plan_.has_faults);
      if (why_.empty()) {
        check_all("after a restart");
      }
      for (std::uint64_t step = 0; step < plan_.steps && why_.empty(); ++step) {
        act();
      }
      if (why_.empty()) {
        end();
      }
    }
    if (why_.empty()) {
      heal();
    }
    return why_.empty() ? "" : "seed " + std::to_string(plan_.seed) + ": " + why_;
  }

  [[nodiscard]] const sim_disk& disk() const noexcept { return disk_; }
  [[nodiscard]] std::uint64_t hits() const noexcept { return hits_; }
  [[nodiscard]] std::uint64_t operations() const noexcept { return operations_; }
  [[nodiscard]] std::uint64_t must_hits() const noexcept { return must_hits_; }

 private:
  /// What may be said of one page. Operations on it are taken in the order of submission.
  struct page_model {
    bool may_hit = false;     ///< it was put, and no deletion since ended done
    bool is_deleted = false;  ///< a deletion took effect in this process
    bool must_hit = false;    ///< acknowledged, and nothing may have taken it
    bool is_durable = false;  ///< must_hit, and a sync ended done since
  };
  struct sent_item {
    std::size_t page = 0;
    store_item item;
    std::unique_ptr<page_buffer> buffer;
  };

  std::uint64_t draw(std::uint64_t bound) { return mixed(plan_.seed, 1'000 + ++draws_) % bound; }
  void fail(const std::string& why) { why_ = why_.empty() ? why : why_; }

  void draw_faults() {
    sim_faults f;
    if (plan_.has_faults) {
      const auto odds = [&] { return draw(3) == 0 ? static_cast<std::uint32_t>(draw(6'000)) : 0; };
      f.read_error = odds();
      f.write_error = odds();
      f.sync_failure = odds();
      f.flipped_read = odds();
      f.no_room = odds();
      f.slow = odds() / 8;
      if (plan_.lies) {
        f.misdirected_read = odds();
        f.stale_read = odds();
        f.flipped_at_rest = odds();
        f.misdirected_write = odds();
        f.lost_write = odds();
      }
    }
    disk_.faults = f;
  }

  /// Is nothing lost but by eviction?
  [[nodiscard]] bool is_strict() const noexcept { return !plan_.has_faults; }

  void open(bool may_fail_to_read) {
    if (draw(4) == 0) {  // what is there stays of the size that it has
      plan_.options.segment_bytes = 32'768 + 16'384 * draw(4);
      plan_.options.capacity_bytes = plan_.options.segment_bytes * (3 + draw(14));
    }
    if (may_fail_to_read && disk_.file_count() != 0 && draw(3) == 0) {
      disk_.unreadable.push_back(disk_.some_bytes());  // as long as it opens
    }
    store_ = std::make_unique<sim_store>(disk_, plan_.options);
    disk_.unreadable.clear();
    evicted_ = 0;
    if (!store_->is_consistent()) {
      fail("accounts differ from the index after a restart");
    }
  }

  /// Sends items and, unless the end comes first, waits for all of them.
  void send(std::vector<sent_item>& items, bool is_the_end) {
    std::vector<store_item> plain;
    for (std::size_t i = 0; i < items.size(); ++i) {
      items[i].item.user = i;
      plain.push_back(items[i].item);
    }
    std::map<std::uint64_t, store_completion> done;
    std::size_t taken = 0;
    store_completion some[8];
    const std::uint64_t polls = is_the_end ? draw(40) : 1'000'000;
    for (std::uint64_t n = 0; n < polls && done.size() < items.size(); ++n) {
      taken += store_->submit(std::span(plain).subspan(taken), no_deadline);
      const std::size_t count = store_->poll(some);
      for (std::size_t i = 0; i < count; ++i) {
        done[some[i].user] = some[i];
      }
      if (!is_the_end && count == 0) {
        store_->wait(no_deadline);
      }
      if (n + 1 == 1'000'000) {
        fail("a hang");
      }
    }
    operations_ += taken;
    judge(items, done, taken);
    if (!disk_.broken_contract.empty()) {
      fail(disk_.broken_contract);
    }
  }

  void judge(const std::vector<sent_item>& items,
             const std::map<std::uint64_t, store_completion>& done,
             std::size_t taken) {
    if (store_->stats().evicted_pages != evicted_) {  // which ones is the store's choice
      evicted_ = store_->stats().evicted_pages;
      for (page_model& m : models_) {
        m.must_hit = m.is_durable = false;
      }
      may_miss_now_ = true;
    }
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto found = done.find(i);
      if (found != done.end()) {
        judge_one(items[i], found->second.outcome);
      } else if (i < taken) {
        judge_unknown(items[i]);
      }
    }
    may_miss_now_ = false;
  }

  void judge_one(const sent_item& s, store_outcome outcome) {
    page_model& m = models_[s.page];
    const bool is_done = outcome == store_outcome::done;
    if (is_strict() && outcome == store_outcome::failed) {  // corrupt: a torn record, after a crash
      fail("a failure without a fault");
    }
    switch (s.item.op) {
      case store_op::get:
        return judge_get(s, m, outcome);
      case store_op::put:
        m.may_hit = true;  // even if it failed: its record may lie there
        m.is_deleted = m.is_deleted && !is_done;
        m.must_hit = is_done && is_strict() && !may_miss_now_ && plan_.options.pages_max > 64;
        m.is_durable = false;
        return;
      case store_op::erase:
      case store_op::drop_space:
      case store_op::drop_tenant:
      case store_op::drop_session:
        for (std::size_t k = 0; k < pages_.size(); ++k) {
          if (dies(s.item, k)) {
            models_[k].may_hit = models_[k].may_hit && (!is_done || plan_.lies);
            models_[k].is_deleted = true;
            models_[k].must_hit = models_[k].is_durable = false;
          }
        }
        return;
      case store_op::sync:
        for (page_model& page : models_) {
          page.is_durable = page.must_hit && (page.is_durable || is_done);
        }
        return;
      default:
        if (s.item.op == store_op::exists && is_done && m.is_deleted) {
          fail("exists says yes to a deleted page");
        }
        return;
    }
  }

  void judge_get(const sent_item& s, page_model& m, store_outcome outcome) {
    const std::string page = "page " + std::to_string(s.page) + ": ";
    if (outcome == store_outcome::done) {
      ++hits_;
      if (!s.buffer->is_right(s.item.first_slice)) {
        fail(page + "wrong bytes");
      }
      if (!m.may_hit && !plan_.lies) {
        fail(page + "a hit on what was deleted, or never put");
      }
      if (m.is_deleted) {
        fail(page + "a hit after a deletion");
      }
      return;
    }
    must_hits_ += m.must_hit ? 1 : 0;
    if (m.must_hit && !may_miss_now_) {
      fail(page + "an acknowledged page is a miss (" + name_of(outcome) + ")");
    }
  }

  /// It was sent, and nobody knows what became of it.
  void judge_unknown(const sent_item& s) {
    const store_op what = s.item.op;
    if (what == store_op::put) {
      models_[s.page].may_hit = true;
      models_[s.page].is_deleted = false;
    } else if (what != store_op::get && what != store_op::exists && what != store_op::touch &&
               what != store_op::sync) {
      for (std::size_t k = 0; k < pages_.size(); ++k) {
        if (dies(s.item, k)) {
          models_[k].must_hit = models_[k].is_durable = false;
        }
      }
    }
  }

  [[nodiscard]] bool dies(const store_item& item, std::size_t k) const {
    switch (item.op) {
      case store_op::erase:
        return pages_[k].key() == item.key;
      case store_op::drop_space:
        return pages_[k].name_space() == item.key.link;
      case store_op::drop_tenant:
        return pages_[k].owner().tenant == item.owner.tenant;
      default:
        return pages_[k].owner() == item.owner;
    }
  }

  sent_item make_item(store_op what, std::size_t page) {
    sent_item s;
    s.page = page;
    s.buffer = std::make_unique<page_buffer>(pages_[page]);
    what == store_op::put ? s.buffer->fill() : s.buffer->poison();
    s.item = s.buffer->item(what);
    if (what == store_op::get && pages_[page].pool == 0 && draw(3) == 0) {
      s.item.first_slice = 1;
      s.item.slices = s.item.slices.subspan(1);
    }
    if (what == store_op::drop_space) {
      s.item.key.link = pages_[page].name_space();
    }
    return s;
  }

  store_op draw_op() {
    const std::uint64_t n = draw(100);
    if (n < 40) {
      return store_op::put;
    }
    if (n < 75) {
      return store_op::get;
    }
    if (n < 80) {
      return store_op::exists;
    }
    if (n < 84) {
      return store_op::touch;
    }
    if (n < 91) {
      return store_op::erase;
    }
    if (n < 93) {
      constexpr store_op drops[] = {store_op::drop_session,
                                    store_op::drop_session,
                                    store_op::drop_tenant,
                                    store_op::drop_space};
      return drops[draw(4)];
    }
    return store_op::sync;
  }

  std::vector<sent_item> draw_items(std::uint64_t most) {
    std::vector<sent_item> items;
    const std::uint64_t count = 1 + draw(most);
    for (std::uint64_t i = 0; i < count; ++i) {
      items.push_back(make_item(draw_op(), draw(pages_.size())));
    }
    return items;
  }

  void act() {
    std::vector<sent_item> items = draw_items(8);
    send(items, false);
    if (draw(8) == 0) {
      disk_.pass(draw(3'000));
    }
    const store_stats s = store_->stats();
    if (!store_->is_consistent() || s.used_bytes > s.capacity_bytes ||
        store_->state().segment_bytes != disk_.file_bytes() ||
        disk_.file_bytes() > s.capacity_bytes) {
      fail("accounts or budgets are wrong");
    }
  }

  /// Some operations under way, and then nothing.
  void end() {
    if (draw(4) == 0) {  // in good order
      store_.reset();
      for (page_model& m : models_) {
        m.is_deleted = m.is_deleted && !m.may_hit;  // a deletion that failed may be undone
      }
      return;
    }
    std::vector<sent_item> items = draw_items(12);
    send(items, true);
    plan_.loses_power ? disk_.lose_power() : disk_.crash();
    store_.reset();
    disk_.revive();
    for (page_model& m : models_) {
      m.is_deleted = m.is_deleted && !m.may_hit;  // an unfinished deletion may be undone
      m.must_hit = plan_.loses_power ? m.is_durable : m.must_hit;
      m.is_durable = m.is_durable && m.must_hit;
    }
  }

  void check_all(const std::string& when) {
    std::vector<sent_item> items;
    for (std::size_t k = 0; k < pages_.size(); ++k) {
      items.push_back(make_item(store_op::get, k));
    }
    send(items, false);
    why_ = why_.empty() ? why_ : when + ": " + why_;
  }

  /// All faults end: within a few probes everything that is put is hit again.
  void heal() {
    disk_.faults = {};
    open(false);
    for (int round = 0; round < 3 && why_.empty(); ++round) {
      disk_.pass(2'000);
      for (std::size_t k = 0; k < pages_.size() && why_.empty(); ++k) {
        std::vector<sent_item> items;
        items.push_back(make_item(store_op::put, k));
        send(items, false);
      }
    }
    const store_stats before = store_->stats();
    check_all("after healing");
    const store_stats after = store_->stats();
    if (why_.empty() && before.health != store_health::healthy) {
      fail("not healthy after healing");
    }
    // What fits without eviction must be there.
    const bool fits =
        pages_.size() * 12'288 * 3 < plan_.options.capacity_bytes && plan_.options.pages_max > 64;
    if (why_.empty() && fits && plan_.options.tenant_share_max == 1.0 &&
        after.hits - before.hits < pages_.size()) {
      fail("after healing, " + std::to_string(after.hits - before.hits) + " of " +
           std::to_string(pages_.size()) + " pages hit");
    }
    store_.reset();
  }

  life_plan plan_;
  sim_disk disk_;
  std::unique_ptr<sim_store> store_;
  std::vector<toy_page> pages_;
  std::vector<page_model> models_;
  std::uint64_t draws_ = 0, evicted_ = 0, hits_ = 0, operations_ = 0, must_hits_ = 0;
  bool may_miss_now_ = false;
  std::string why_;
};

}  // namespace oriel_test
