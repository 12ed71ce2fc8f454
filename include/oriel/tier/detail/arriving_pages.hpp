// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Device pages that a fetch fills: taken from the pools, in the hands of stores, whole or a hole.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/prefix/prefix_cache.hpp>
#include <oriel/tier/detail/page_copies.hpp>
#include <oriel/tier/fetch_plan.hpp>
#include <oriel/tier/layer_load.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace oriel::detail {

/// Two ways to fill them. Whole: an item for each page, all at once; a page that fails is a hole,
/// the others come. By layers: in the order in which a step needs them, as a `layer_load`; after
/// the first failure no more is asked for.
///
/// Pages of the soft kind come whole, before the others are asked for; nobody waits for them, and
/// one that fails costs those before it alone.
///
/// A page that a store may write to keeps its reference until the store has answered.
template <class Pools>
class arriving_pages {
 public:
  /// @param soft_pool  of the soft kind; 0: there is none
  arriving_pages(Pools& pools, std::uint32_t soft_pool) : pools_(pools), soft_pool_(soft_pool) {}

  /// Takes a page for all that the plan moves. False: there are too few, and none is taken.
  /// @throws std::bad_alloc
  bool take(const fetch_plan& plan) {
    std::size_t count = plan.full.end - plan.full.first;
    for (const page_range& range : plan.windows) {
      count += range.end - range.first;
    }
    pages_.reserve(count);  // From here on nothing throws.
    bool has_all = true;
    for (std::uint32_t pool = 0; pool < plan.windows.size() + 1 && has_all; ++pool) {
      has_all = pool == soft_pool_ && pool != 0 ? true : take(plan, pool);
    }
    firm_ = static_cast<std::uint32_t>(pages_.size());
    if (!has_all || (soft_pool_ != 0 && !take(plan, soft_pool_))) {
      end(0);
      pages_.clear();
      return false;
    }
    return true;
  }

  /// Says who each page is: identity(page, out). @pre taken @throws std::bad_alloc
  template <class Identity>
  void name(Identity&& identity) {
    for (arriving& a : pages_) {
      identity(a.page, a.identity);
      slices_of(pools_.pool(pool_id{a.pool}), a.handle, a.slices);
    }
  }

  /// Asks for whole pages: push(index, tier, item) for each. @pre named @throws as push
  template <class TierOf, class KeyOf, class Push>
  void ask_whole(TierOf&& tier_of, KeyOf&& key_of, Push&& push) {
    ask_soft(tier_of, key_of, push);
    ask_whole(0, firm_, tier_of, key_of, push);
  }
  /// The same for those of the soft kind alone.
  template <class TierOf, class KeyOf, class Push>
  void ask_soft(TierOf&& tier_of, KeyOf&& key_of, Push&& push) {
    ask_whole(firm_, static_cast<std::uint32_t>(pages_.size()), tier_of, key_of, push);
  }

  /// Plans to ask for the others by layers; `hand_out` asks. @pre named @throws std::bad_alloc
  template <class TierOf, class KeyOf>
  void plan_layers(std::span<const layer_home> homes,
                   const layer_load_options& options,
                   TierOf&& tier_of,
                   KeyOf&& key_of,
                   std::uint64_t now_us) {
    std::vector<layer_page> list;
    list.reserve(firm_);
    for (arriving& a : std::span(pages_).first(firm_)) {
      list.push_back({.key = key_of(a.pool, a.page),
                      .identity = &a.identity,
                      .tier = tier_of(a.pool, a.page),
                      .slices = a.slices});
    }
    layer_plan plan = plan_layer_reads(homes, list, options);
    reads_left_.assign(firm_, 0);
    for (const layer_read& r : plan.reads) {
      ++reads_left_[r.page];
    }
    waiting_ += plan.reads.size();
    load_.emplace(std::move(plan), std::move(list), options, now_us);
    for (arriving& a : std::span(pages_).first(firm_)) {
      a.state = page_state::under_way;
    }
  }
  /// Asks for as much as may be in flight: push(read, tier, item). @throws as push
  template <class Push>
  void hand_out(Push&& push) {
    std::array<store_item, 64> items;
    std::uint8_t tier = 0;
    for (std::size_t count = 1; load_ && count != 0;) {
      count = load_->offer(items, tier);
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t read = std::exchange(items[i].user, 0);
        push(soft_items() + static_cast<std::uint32_t>(read), tier, items[i]);
        load_->on_taken(1);
      }
    }
  }

  /// An item that was pushed is back. @param item  its number there @returns whether it came
  bool on_completion(std::uint32_t item, store_completion c, std::uint64_t now_us) noexcept {
    if (ORIEL_MUTANT(failed_fetch_is_published)) {
      c.outcome = store_outcome::done;
    }
    const bool came = c.outcome == store_outcome::done;
    if (item < soft_items()) {
      settle(firm_ + item, came);
      if (!came && ORIEL_MUTANT(soft_failure_ends_a_fetch)) {
        give_up(now_us);
      }
      return came;
    }
    std::uint32_t page = item - soft_items();
    if (load_) {
      c.user = page;  // The read's number.
      page = load_->plan().reads[page].page;
      reads_left_[page] -= came;
      load_->on_completion(c, now_us);
    }
    waiting_ -= waiting_ != 0;
    if (load_ && !came) {
      has_failed_ = true;
      waiting_ = 0;  // Nothing behind it is asked for, and nobody waits for what is.
      settle_all();
    } else {
      settle(page, came);
    }
    return came;
  }

  /// Lets go of all pages, each at once or when its store has answered. Idempotent.
  void end(std::uint64_t now_us) noexcept {
    has_ended_ = true;
    waiting_ = 0;
    if (load_) {
      load_->give_up(now_us);
      settle_all();
    }
    for (arriving& a : pages_) {
      release_if_back(a);
    }
  }
  /// No store writes any more. @pre it has ended
  void let_go() noexcept {
    for (arriving& a : pages_) {
      if (std::exchange(a.state, page_state::released) != page_state::released) {
        pools_.pool(pool_id{a.pool}).release(a.handle);
      }
    }
  }
  /// Waits no longer: what has not come by now is a hole. Layers that are not there have failed.
  void give_up(std::uint64_t now_us) noexcept {
    waiting_ = 0;
    if (load_) {
      has_failed_ = has_failed_ || load_->settled() < load_->plan().layers();
      load_->give_up(now_us);
      settle_all();
    }
  }

  [[nodiscard]] bool empty() const noexcept { return pages_.empty(); }
  /// Items that are waited for.
  [[nodiscard]] std::size_t waiting() const noexcept { return waiting_; }
  /// The layers on their way; null: pages come whole.
  [[nodiscard]] const layer_load* load() const noexcept { return load_ ? &*load_ : nullptr; }
  /// Of the layers, one did not come: none is to be waited for.
  [[nodiscard]] bool has_failed() const noexcept { return has_failed_; }

  /// Pages of the full pool before this one are whole. @param end  of the plan
  [[nodiscard]] std::uint32_t first_hole(std::uint32_t end) const noexcept {
    for (const arriving& a : pages_) {
      if (a.pool == 0 && a.state != page_state::filled &&
          !ORIEL_MUTANT(fetch_publishes_past_a_hole)) {
        end = std::min(end, a.page);
      }
    }
    return end;
  }
  /// Those of a pool before `end`, whatever they hold, in order. @throws std::bad_alloc
  void handles_of(std::uint32_t pool, std::uint32_t end, std::vector<page_handle>& out) const {
    for (const arriving& a : pages_) {
      if (a.pool == pool && a.page < end) {
        out.push_back(a.handle);
      }
    }
  }
  /// Those of the soft kind before `end` that are whole already and have no hole behind them.
  /// @throws std::bad_alloc
  void soft_handles_of(std::uint32_t end, std::vector<page_handle>& out) const {
    (void)windows_behind_holes(soft_pool_, 0, end, out);
  }
  /// The window pages before `end` that are whole and have no hole behind them. @throws
  /// std::bad_alloc
  window_page_span windows_behind_holes(std::uint32_t pool,
                                        std::uint32_t first,
                                        std::uint32_t end,
                                        std::vector<page_handle>& handles) const {
    window_page_span span{.first_page = first};
    for (const arriving& a : pages_) {
      if (a.pool != pool || a.page >= end) {
        continue;
      }
      if (a.state != page_state::filled &&
          !ORIEL_MUTANT(
              window_hole_is_published)) {  // What comes behind a hole is nearer to the boundary.
        handles.clear();
        span.first_page = a.page + 1;
      } else {
        handles.push_back(a.handle);
      }
    }
    span.pages = handles;
    return span;
  }

  /// Calls visit(pool, handle) for every page that is held.
  template <class Visit>
  void visit_pages(Visit&& visit) const {
    for (const arriving& a : pages_) {
      if (a.state != page_state::released) {
        visit(a.pool, a.handle);
      }
    }
  }

 private:
  // Items are numbered: pages of the soft kind, then the others, or the reads of their layers.
  [[nodiscard]] std::uint32_t soft_items() const noexcept {
    return static_cast<std::uint32_t>(pages_.size()) - firm_;
  }

  enum class page_state : std::uint8_t { hole, under_way, filled, released };
  struct arriving {
    std::uint32_t pool = 0, page = 0;  // logical page
    page_handle handle = {};
    page_state state = page_state::hole;
    page_identity identity = {};
    std::vector<std::span<std::byte>> slices = {};
  };

  /// Takes the pages of one pool. False: there are too few.
  bool take(const fetch_plan& plan, std::uint32_t pool) noexcept {
    const page_range range = pool == 0 ? plan.full : plan.windows[pool - 1];
    for (std::uint32_t page = range.first; page < range.end; ++page) {
      arriving a{.pool = pool, .page = page};
      if (!pools_.pool(pool_id{pool}).try_allocate(std::span(&a.handle, 1))) {
        return false;
      }
      pages_.push_back(std::move(a));
    }
    return true;
  }
  template <class TierOf, class KeyOf, class Push>
  void ask_whole(
      std::uint32_t first, std::uint32_t end, TierOf&& tier_of, KeyOf&& key_of, Push&& push) {
    for (std::uint32_t i = first; i < end; ++i) {
      arriving& a = pages_[i];
      push(i < firm_ ? soft_items() + i : i - firm_,
           tier_of(a.pool, a.page),
           store_item{.op = store_op::get,
                      .key = key_of(a.pool, a.page),
                      .identity = &a.identity,
                      .slices = a.slices});
      a.state = page_state::under_way;
      waiting_ += i < firm_ || ORIEL_MUTANT(soft_pages_are_waited_for);
    }
  }

  /// No store has anything of the page any more. @param came  of a page that comes whole
  void settle(std::uint32_t page, bool came) noexcept {
    arriving& a = pages_[page];
    const bool by_layers = load_ && page < firm_;
    if (a.state != page_state::under_way || (by_layers && load_->is_held(page))) {
      return;
    }
    a.state = (by_layers ? reads_left_[page] == 0 : came) ? page_state::filled : page_state::hole;
    if (has_ended_) {  // Nobody waited for it.
      release_if_back(a);
    }
  }
  /// Pages whose reads will not be handed out any more.
  void settle_all() noexcept {
    for (std::uint32_t page = 0; page < firm_; ++page) {
      settle(page, false);
    }
  }
  void release_if_back(arriving& a) noexcept {
    if (a.state == page_state::hole || a.state == page_state::filled ||
        (a.state == page_state::under_way && ORIEL_MUTANT(ended_fetch_lets_go_at_once))) {
      pools_.pool(pool_id{a.pool}).release(a.handle);
      a.state = page_state::released;
    }
  }

  Pools& pools_;
  std::uint32_t soft_pool_;
  std::uint32_t firm_ = 0;       // pages that are not of the soft kind: the first ones
  std::vector<arriving> pages_;  // does not change while items refer to it
  std::optional<layer_load> load_;
  std::vector<std::uint32_t> reads_left_;  // [pages] by layers: that have not come
  std::size_t waiting_ = 0;
  bool has_failed_ = false, has_ended_ = false;
};

}  // namespace oriel::detail
