// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `tiered_prefix`: lower tiers behind a prefix cache. Pages that the cache takes in are copied
/// down; a prompt's pages that only lower tiers have are brought up, and are then the cache's like
/// any others.
///
///     using tree_type = radix_tree<Pool, Order, Retention, unhashed_forwarder>;
///     tree_type tree(pools.all(), tree_options_of(plan));
///     tiered_prefix tiers(tree, pools, std::move(list), fetch_model_of(model, plan), {});
///     tree.events().forward_to(tiers);
///
///     {
///       const auto scope = tiers.publishing(sequence);
///       publish_sequence(tree, ...);                                          // copies go down
///     }
///
///     const auto id = tiers.begin_fetch({space, start, prompt, links, ...});  // queued request
///     while (tiers.is_fetching(id)) { tiers.turn(); ... other work ... }
///     tiers.end_fetch(id);                                                    // the tree has them
///
/// Everything here happens in the thread that owns pools and tree; a store that would make it wait
/// has a thread of its own (store_thread).
///
/// Tiers come and go asynchronously, so what they have diverges. Four cases:
///
///     1  the device has it, a tier lacks it           align_down, at each hit
///     2  a tier has it, the device lacks it           nothing; the next fetch brings it
///     3  hot above, so never asked for below          keep_warm
///     4  short prompts that many share                tiers get the windows that the cache's
///                                                     retention keeps, dense heads included
///
/// A page that is being copied is referred to until all tiers have answered; a page that is being
/// filled is nobody's until its bytes are verified.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/prefix/prefix_cache.hpp>
#include <oriel/tier/detail/page_copies.hpp>
#include <oriel/tier/detail/page_placement.hpp>
#include <oriel/tier/detail/prefix_fetch.hpp>
#include <oriel/tier/detail/tier_queues.hpp>
#include <oriel/tier/tier.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <list>
#include <new>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

/// @tparam Cache  a prefix tree whose events are forwarded here; it outlives the tiers
/// @tparam Pools  its dual_pool; it outlives both
///
/// Thread safety: none.
/// Memory:        5 bytes for each page of the pools; with placement::selective 1 more for each
///                full page, with write_back 68. A fetch holds its prompt; a copy its tokens and
///                slices.
template <prefix_cache Cache, class Pools>
class tiered_prefix {
  using fetch_type = detail::prefix_fetch<Cache, Pools>;

 public:
  static constexpr bool needs_hashes = false;  ///< of events (unhashed_forwarder)

  /// @param tiers  faster first; at most 8
  /// @pre   model.model != nullptr, and it outlives this; limits.now_us != nullptr
  /// @throws std::bad_alloc
  tiered_prefix(Cache& cache,
                Pools& pools,
                std::vector<tier> tiers,
                fetch_model model,
                const tier_limits& limits)
      : cache_(cache),
        pools_(pools),
        limits_(limits),
        model_(std::move(model)),
        queues_(std::move(tiers)),
        copies_(pools_, queues_, limits_, counters_),
        placement_(pools_, queues_, copies_, limits_, model_, counters_) {
    ORIEL_EXPECTS(queues_.tiers().size() <= 8 && limits.now_us != nullptr);
    ORIEL_EXPECTS(model_.model != nullptr);
    for (const tier& t : queues_.tiers()) {
      least_rates_.push_back(t.rates.bytes_per_s / 8);
    }
  }
  tiered_prefix(const tiered_prefix&) = delete;
  tiered_prefix& operator=(const tiered_prefix&) = delete;
  /// Takes itself out of the cache's forwarder of events, if that forwards here; who forwards
  /// through others takes those out before. Waits for what is under way, limits.drain_us_max at
  /// most; then for what stores have begun, since they must not touch pages that are somebody
  /// else's. What they have not begun is dropped.
  ~tiered_prefix() {
    if constexpr (requires { cache_.events().stop_forwarding_to(*this); }) {
      if (!ORIEL_MUTANT(tiers_stay_listeners)) {
        cache_.events().stop_forwarding_to(*this);
      }
    }
    for (fetch_type& f : fetches_) {
      f.end();
    }
    if (!finish(limits_.now_us() + limits_.drain_us_max)) {
      queues_.close();
      copies_.let_go();
      for (fetch_type& f : fetches_) {
        f.let_go();
      }
    }
  }

  // --- Down --------------------------------------------------------------------------------------

  /// While it lives, what the tree stores is of this sequence.
  class publishing_scope {
   public:
    publishing_scope(const publishing_scope&) = delete;
    publishing_scope& operator=(const publishing_scope&) = delete;
    ~publishing_scope() {
      tiers_.publishing_ = nullptr;
      tiers_.fetched_by_ = nullptr;
    }

   private:
    friend tiered_prefix;
    publishing_scope(tiered_prefix& tiers, const tiered_sequence& sequence) noexcept
        : tiers_(tiers) {
      tiers.publishing_ = &sequence;
    }
    tiered_prefix& tiers_;
  };
  /// Whose pages the next publish brings. @pre `sequence` outlives the scope
  [[nodiscard]] publishing_scope publishing(const tiered_sequence& sequence) noexcept {
    return publishing_scope(*this, sequence);
  }

  /// Takes the tree's events: copies what is new to the tiers that write through, and what is about
  /// to go to those that write back.
  void on_event(const cache_event& event) noexcept {
    if (event.kind == cache_event_kind::stored) {
      const std::uint32_t has =
          fetched_by_ == nullptr ? 0 : fetched_by_->tiers_with(event.pool, event.page);
      placement_.on_stored(event, publishing_, has);
    } else if (event.kind == cache_event_kind::removed && !event.is_drop) {
      placement_.on_removed(event);
    }
  }

  /// The tree let go of a page that others hold: only copies do, and those end (events.hpp).
  [[nodiscard]] bool lets_go_soon(std::uint32_t pool, page_handle page) noexcept {
    return copies_.lets_go_soon(pool, page);
  }
  /// Evicted pages that come free when their copies end: who makes room need not evict others for
  /// them. With tiers that write back no more are evicted at once than may be copied.
  [[nodiscard]] leaving_pages leaving() const noexcept {
    return copies_.leaving(placement_.writes_back());
  }

  /// A request resumes on these pages: align_down, then keep_warm. O(pages). @throws std::bad_alloc
  void on_hit(const tiered_sequence& sequence, const borrowed_prefix& lent) {
    placement_.count_hit(lent);
    align_down(sequence, lent);
    keep_warm(sequence, lent);
  }

  /// Consistency, case 1: the device has pages that a tier lacks which should have them, since it
  /// refused them, lost them, or waits for more hits. O(pages). @throws std::bad_alloc
  void align_down(const tiered_sequence& sequence, const borrowed_prefix& lent) {
    placement_.align_down(sequence, lent);
  }

  /// Consistency, case 3: a prefix that is hot above is never asked for below, and would be evicted
  /// there. Tells the tiers now and then that it is in use; so it hears what they have lost.
  /// O(pages). @throws std::bad_alloc
  void keep_warm(const tiered_sequence& sequence, const borrowed_prefix& lent) {
    placement_.keep_warm(sequence, lent);
  }

  // --- Up ----------------------------------------------------------------------------------------

  [[nodiscard]] bool can_fetch() const noexcept {
    return !queues_.tiers().empty() &&
           (fetches_.size() < limits_.fetches_max || ORIEL_MUTANT(fetches_have_no_bound));
  }

  /// Starts to look for what the device lacks of a prompt. Returns its number.
  /// @pre can_fetch(); request.links are those of all whole pages of request.tokens; its rates > 0
  /// @throws std::bad_alloc
  std::uint32_t begin_fetch(fetch_request request) {
    ORIEL_EXPECTS(can_fetch());
    ORIEL_EXPECTS(request.rates.linear_flops_per_s > 0.0 &&
                  request.rates.attention_flops_per_s > 0.0);
    const std::uint32_t id = next_fetch_++;
    fetches_.emplace_back(cache_,
                          pools_,
                          queues_,
                          copies_,
                          placement_.writes_back(),
                          model_,
                          limits_,
                          least_rates_,
                          counters_,
                          id,
                          std::move(request));
    try {
      fetches_.back().turn();
      queues_.flush();
    } catch (...) {
      if (!ORIEL_MUTANT(failed_begin_is_kept)) {
        cancel_fetch(id);  // Nobody would know its number.
      }
      throw;
    }
    return id;
  }

  /// Pages may still come in time.
  [[nodiscard]] bool is_fetching(std::uint32_t id) noexcept {
    const fetch_type* f = find(id);
    return f != nullptr && f->is_busy();
  }

  /// The pages that came are the cache's now; what is late is given back when its store lets go.
  /// Returns the tokens of full pages that came into use, by role of the tier.
  /// @throws std::bad_alloc
  std::array<std::uint32_t, tier_roles> end_fetch(std::uint32_t id) {
    fetch_type& f = at(id);
    const fetch_request& r = f.request();
    const tiered_sequence sequence{r.start, r.tokens, r.links, r.owner};
    std::array<std::uint32_t, tier_roles> tokens = {};
    {
      const publishing_scope scope = publishing(sequence);
      fetched_by_ = &f;
      tokens = f.publish();
    }
    waits_ += f.waits();
    drop_over();
    return tokens;
  }

  /// Nobody wants it any more.
  void cancel_fetch(std::uint32_t id) noexcept {
    if (fetch_type* f = find(id); f != nullptr && !ORIEL_MUTANT(cancelled_fetch_is_kept)) {
      waits_ += f->waits();
      f->end();
      drop_over();
    }
  }

  // --- Up, while a step computes -----------------------------------------------------------------

  /// What a forward pass asks for the layers of a joined fetch. It copies; the fetch must not have
  /// ended.
  class gate {
   public:
    /// Blocks until the layer's KV is there; false: it does not come (see layer_gate).
    bool wait(std::uint32_t layer) { return tiers_->wait_for_layer(*fetch_, layer); }

   private:
    friend tiered_prefix;
    gate(tiered_prefix& tiers, fetch_type& fetch) noexcept : tiers_(&tiers), fetch_(&fetch) {}
    tiered_prefix* tiers_;
    fetch_type* fetch_;
  };

  /// Pages come layer by layer, none has failed and some are missing: a step may join.
  [[nodiscard]] bool can_join(std::uint32_t id) noexcept {
    const fetch_type* f = find(id);
    return f != nullptr && f->is_arriving();
  }
  /// Tokens that it would start behind. @pre can_join(id)
  [[nodiscard]] std::uint32_t length_of(std::uint32_t id) noexcept { return at(id).length(); }
  /// Seconds that it would wait if it started now, at the rates that are known. O(layers).
  /// @param layer_seconds  [layers] of its compute @pre can_join(id)
  [[nodiscard]] double predict_stall_s(std::uint32_t id,
                                       std::span<const double> layer_seconds) noexcept {
    return at(id).predicted_stall_s(layer_seconds);
  }
  /// The pages of a fetch for a sequence that takes references of its own: it starts on them before
  /// they are filled, and reads a layer of them only behind the gate. Valid until the next call.
  /// @pre can_join(id) @throws std::bad_alloc
  [[nodiscard]] borrowed_prefix lend(std::uint32_t id) { return at(id).lend(); }
  /// The gate of a step that starts on what was lent. Afterwards end_fetch, as without: if the gate
  /// was passed in all layers, all has come. @throws std::bad_alloc
  [[nodiscard]] gate join(std::uint32_t id) {
    fetch_type& f = at(id);
    f.join();
    return gate(*this, f);
  }
  /// A fetch failed in a layer early enough to fetch what is whole once more: its
  /// fetch_request::whole_until_us. Else 0. Ask before it ends.
  [[nodiscard]] std::uint64_t retry_until_us(std::uint32_t id) noexcept {
    const fetch_type* f = find(id);
    return f == nullptr ? 0 : f->retry_until_us();
  }
  /// What joined steps saw of their layers.
  [[nodiscard]] const layer_counters& waits() const noexcept { return waits_; }

  // --- Both --------------------------------------------------------------------------------------

  /// Takes in what the stores have done, and goes on. Never blocks. @throws std::bad_alloc
  void turn() {
    take_in();
    for (fetch_type& f : fetches_) {
      f.turn();
    }
    queues_.flush();  // Who calls may compute a whole step before the next turn.
    drop_over();
  }
  /// Blocks until a store has something, or until then. It may return early.
  void wait(std::uint64_t until_us) { queues_.wait(limits_.now_us(), until_us); }

  /// Nothing is under way.
  [[nodiscard]] bool idle() const noexcept { return queues_.unfinished() == 0; }
  /// Device pages that copies refer to: they come free when their tiers have answered.
  [[nodiscard]] std::uint32_t copies_under_way() const noexcept { return copies_.under_way(); }
  /// Turns and waits until nothing is under way, or until then. Returns idle().
  bool finish(std::uint64_t until_us) noexcept {
    for (;;) {
      try {
        turn();
      } catch (const std::bad_alloc&) {
        ++counters_.dropped_copies;
      }
      if (idle() || limits_.now_us() >= until_us) {
        return idle();
      }
      wait(until_us);
    }
  }

  /// Gives every tier an order; returns its number, for `take_result`. It takes effect after the
  /// copies that were begun before, and before those after.
  ///
  ///  - a drop forgets pages for good: of a namespace, a tenant, a session. The device's own are
  ///    the caller's to drop. A tier that failed may have them yet: repeat the order.
  ///  - a sync: what tiers have acknowledged survives a loss of power.
  ///
  /// @pre op is a drop or sync @throws std::bad_alloc
  std::uint32_t begin_order(store_op op, const page_digest& space = {}, page_owner owner = {}) {
    ORIEL_EXPECTS(op >= store_op::drop_space);
    const auto tiers = static_cast<std::uint8_t>(queues_.tiers().size());
    const std::uint32_t number = next_order_++;
    orders_.push_back({number, {.unanswered = tiers}});
    try {
      for (std::uint8_t t = ORIEL_MUTANT(drop_skips_a_tier) ? 1 : 0; t < tiers; ++t) {
        queues_.push(
            t,
            {.op = op,
             .key = {space, 0},
             .owner = owner,
             .user = detail::errand_tag{.number = number, .item = detail::errand_tag::order_item}
                         .packed()},
            no_deadline);
      }
    } catch (...) {
      orders_.pop_back();  // Nobody would know its number; what tiers answer is not waited for.
      throw;
    }
    return number;
  }
  /// What came of an order; forgotten once all tiers have answered. Nothing: it was forgotten.
  [[nodiscard]] std::optional<order_result> take_result(std::uint32_t order) noexcept {
    const auto found = std::ranges::find(orders_, order, &under_order::number);
    if (found == orders_.end()) {
      return std::nullopt;
    }
    const order_result result = found->result;
    if (result.unanswered == 0) {
      orders_.erase(found);
    }
    return result;
  }

  /// Nobody asks for the result of this order any more.
  void forget_order(std::uint32_t order) noexcept {
    std::erase_if(orders_, [&](const under_order& o) { return o.number == order; });
  }

  /// Calls visit(pool, handle) for every device page that copies and fetches hold. For accounts.
  template <class Visit>
  void visit_pages(Visit&& visit) const {
    copies_.visit_pages(visit);
    for (const fetch_type& f : fetches_) {
      f.visit_pages(visit);
    }
  }
  /// Fetches that have not ended, or whose pages a store may still write to.
  [[nodiscard]] std::size_t fetches() const noexcept { return fetches_.size(); }
  /// Pages of a pool that nobody waits for any more and that a store may still write to. O(pages of
  /// such fetches).
  [[nodiscard]] std::uint32_t late_pages(std::uint32_t pool) const noexcept {
    std::uint32_t pages = 0;
    for (const fetch_type& f : fetches_) {
      if (f.has_ended()) {
        f.visit_pages([&](std::uint32_t of, page_handle) { pages += of == pool; });
      }
    }
    return pages;
  }
  [[nodiscard]] const tier_counters& counters() const noexcept { return counters_; }
  [[nodiscard]] std::span<const tier> tiers() const noexcept { return queues_.tiers(); }

 private:
  struct under_order {
    std::uint32_t number;
    order_result result;
  };
  /// What the stores have done. Starts nothing but what is queued.
  void take_in() {
    queues_.turn([&](std::uint8_t tier, const store_completion& c) {
      const auto tag = detail::errand_tag::unpacked(c.user);
      if (tag.errand == detail::tier_errand::copy) {
        placement_.on_answer(tier, copies_.on_completion(tier, tag.number, c));
      } else if (tag.errand == detail::tier_errand::other) {
        if (tag.item == detail::errand_tag::order_item) {
          on_order(tier, tag, c);
        } else if (tag.item >= detail::errand_tag::touch_item) {
          placement_.on_touched(tier, tag, c);
        }
      } else {
        at(tag.number).on_completion(tier, tag, c);  // It is kept until its last item is back.
      }
    });
  }

  /// In the middle of a forward pass: neither pools nor tree change but for what stores let go of.
  bool wait_for_layer(fetch_type& f, std::uint32_t layer) {
    f.hand_out();
    take_in();
    const std::uint64_t asked_us = limits_.now_us();
    std::uint64_t now_us = asked_us;
    while (f.state_of(layer) == layer_state::loading && !ORIEL_MUTANT(joined_gate_does_not_wait)) {
      if (now_us >= f.deadline_us()) {
        f.give_up();
        break;
      }
      queues_.wait(now_us, f.deadline_us());
      f.hand_out();
      take_in();
      now_us = limits_.now_us();
    }
    f.pass(layer, asked_us, now_us);
    return f.state_of(layer) == layer_state::ready || ORIEL_MUTANT(joined_gate_does_not_wait);
  }

  void on_order(std::uint8_t tier,
                const detail::errand_tag& tag,
                const store_completion& c) noexcept {
    const auto found = std::ranges::find(orders_, tag.number, &under_order::number);
    if (found == orders_.end()) {
      return;
    }
    order_result& result = found->result;
    --result.unanswered;
    if (c.outcome == store_outcome::refused && c.native == EOPNOTSUPP) {
      ++result.unsupported;
    } else if (c.outcome != store_outcome::done && result.failed_tier == no_tier &&
               !ORIEL_MUTANT(failed_drop_is_not_told)) {
      result.failed_tier = tier;
      result.outcome = c.outcome;
      result.native = c.native;
    }
  }

  [[nodiscard]] fetch_type* find(std::uint32_t id) noexcept {
    const auto found = std::ranges::find(fetches_, id, &fetch_type::id);
    return found == fetches_.end() ? nullptr : &*found;
  }
  [[nodiscard]] fetch_type& at(std::uint32_t id) noexcept {
    fetch_type* const f = find(id);
    ORIEL_EXPECTS(f != nullptr);
    return *f;
  }
  void drop_over() noexcept {
    fetches_.remove_if([](const fetch_type& f) { return f.is_over(); });
  }

  Cache& cache_;
  Pools& pools_;
  tier_limits limits_;
  fetch_model model_;
  tier_counters counters_;
  detail::tier_queues queues_;
  detail::page_copies<Pools> copies_;
  detail::page_placement<Pools> placement_;
  std::list<fetch_type> fetches_;
  std::vector<under_order> orders_;
  std::uint32_t next_fetch_ = 0, next_order_ = 0;
  const tiered_sequence* publishing_ = nullptr;
  const fetch_type* fetched_by_ = nullptr;  // whose pages are being published
  std::vector<double> least_rates_;         // [tiers]
  layer_counters waits_;
};

}  // namespace oriel
