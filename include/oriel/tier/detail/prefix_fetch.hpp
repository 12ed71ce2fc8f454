// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// One prompt on its way up from lower tiers: looked for, planned, filled, published.
///
///     looking    each tier in turn is asked for what the faster ones do not have; first for one
///                page, since most prompts that the device does not know are known nowhere
///     taking     pages are evicted for it; those that a tier still copies come free later
///     moving     pages are allocated and filled: whole, and what fails is a hole; or layer by
///                layer, and a step may join, that computes while they come
///     ended      published up to the first hole, or cancelled; pages whose stores still write
///                into them are kept until they let go
///
/// Completions only take down what happened; whatever allocates is done in `turn`.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kv/sequence_kv.hpp>
#include <oriel/prefix/prefix_cache.hpp>
#include <oriel/prefix/sequence_prefix.hpp>
#include <oriel/tier/detail/arriving_pages.hpp>
#include <oriel/tier/detail/tier_queues.hpp>
#include <oriel/tier/fetch_plan.hpp>
#include <oriel/tier/tier.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace oriel::detail {

template <prefix_cache Cache, class Pools>
class prefix_fetch {
 public:
  prefix_fetch(Cache& cache,
               Pools& pools,
               tier_queues& queues,
               const page_copies<Pools>& copies,
               bool hands_over,
               const fetch_model& model,
               const tier_limits& limits,
               std::span<const double> least_rates,
               tier_counters& counters,
               std::uint32_t id,
               fetch_request request)
      : cache_(cache),
        pools_(pools),
        queues_(queues),
        copies_(copies),
        hands_over_(hands_over),
        model_(model),
        limits_(limits),
        least_rates_(least_rates),
        counters_(counters),
        id_(id),
        request_(std::move(request)),
        device_(cache_.match(request_.space, request_.tokens)),
        arriving_(pools, model.soft_kind ? 1 + *model.soft_kind : 0) {
    const auto pages = static_cast<std::uint32_t>(request_.links.size());
    coverage_.full.assign(pages, no_tier);
    coverage_.windows.assign(model_.windows.size(), std::vector<std::uint8_t>(pages, no_tier));
    // Longer than to compute the prompt, nobody needs to wait; and looking gets a part of it.
    const auto tokens = static_cast<std::uint32_t>(request_.tokens.size());
    const double compute_s = seconds_of(
        recompute_flops(*model_.model, device_.window_safe_tokens, tokens), request_.rates);
    const double wait_us = std::clamp(1e6 * compute_s,
                                      static_cast<double>(limits_.fetch_us_min),
                                      static_cast<double>(limits_.fetch_us_max));
    const std::uint64_t now_us = limits_.now_us();
    deadline_us_ = now_us + static_cast<std::uint64_t>(wait_us);
    if (request_.whole_until_us != 0) {
      deadline_us_ = std::min(deadline_us_, request_.whole_until_us);
    }
    look_until_us_ = now_us + static_cast<std::uint64_t>(wait_us) / 2;
  }
  prefix_fetch(const prefix_fetch&) = delete;
  prefix_fetch& operator=(const prefix_fetch&) = delete;

  [[nodiscard]] std::uint32_t id() const noexcept { return id_; }
  [[nodiscard]] const fetch_request& request() const noexcept { return request_; }
  /// Pages may still come.
  [[nodiscard]] bool is_busy() const noexcept {
    return state_ == state::looking || state_ == state::taking ||
           (state_ == state::moving && arriving_.waiting() != 0);
  }
  [[nodiscard]] bool has_ended() const noexcept { return state_ == state::ended; }
  /// It has ended and no store refers to its pages.
  [[nodiscard]] bool is_over() const noexcept { return state_ == state::ended && in_stores_ == 0; }
  /// The tier, as a bit, that a page of the publish came from: it has it.
  [[nodiscard]] std::uint32_t tiers_with(std::uint32_t pool, std::uint32_t page) const noexcept {
    const std::vector<std::uint8_t>& in = pool == 0 ? coverage_.full : coverage_.windows[pool - 1];
    const bool fetched = state_ != state::looking && page < in.size() && is_in_plan(pool, page);
    return fetched ? 1u << in[page] : 0u;
  }

  void on_completion(std::uint8_t tier, const errand_tag& tag, const store_completion& c) noexcept {
    --in_stores_;
    if (tag.errand == tier_errand::look_up) {
      if (state_ == state::looking) {
        unanswered_ -= unanswered_ != 0 && is_waited_for(pool_of(tag.item));
        if (c.outcome == store_outcome::done) {
          entry(tag.item) = tier;
        }
      }
      return;
    }
    const std::uint64_t now_us = limits_.now_us();
    note_end(c, now_us);
    const bool came = arriving_.on_completion(tag.item, c, now_us);
    const auto role = static_cast<std::size_t>(queues_.tiers()[tier].role);
    ++(came ? counters_.fetched_reads : counters_.failed_reads)[role];
    counters_.fetched_bytes[role] += came ? c.bytes : 0;
    moved_bytes_ += came ? c.bytes : 0;
    if (state_ == state::moving && arriving_.waiting() == 0) {
      learn_rate();
    }
  }

  /// Goes on where it can, and looks at the clock: what has not come by now is not waited for.
  /// @throws std::bad_alloc
  void turn() {
    const std::uint64_t now_us = limits_.now_us();  // Once: what follows must agree on the time.
    if (state_ == state::looking && now_us >= look_until_us_) {
      counters_.fetches_late += unanswered_ != 0;
      unanswered_ = 0;  // The faster tiers have answered: what they have will do.
      next_tier_ = queues_.tiers().size();
    }
    if (state_ == state::looking && unanswered_ == 0) {
      look_on(now_us);
    }
    if (state_ == state::taking) {
      take_pages();
    }
    if (state_ == state::moving) {
      hand_out();
    }
    if (state_ == state::moving && arriving_.waiting() != 0 && now_us >= deadline_us_ &&
        !ORIEL_MUTANT(fetch_has_no_deadline)) {
      give_up();
    }
  }

  /// Gives the cache what has come, and lets go of the rest. Returns the tokens of full pages that
  /// came into use, by role of their tier. @throws std::bad_alloc
  std::array<std::uint32_t, tier_roles> publish() {
    std::array<std::uint32_t, tier_roles> tokens = {};
    if (state_ == state::moving && lease_ && !arriving_.empty()) {
      const std::uint32_t size = model_.healing.page_size;
      const std::uint32_t end = arriving_.first_hole(plan_.full.end);
      const std::uint32_t first = std::min(plan_.full.first, end);
      std::vector<page_handle> full;
      arriving_.handles_of(0, end, full);
      for (std::uint32_t page = first; page < end; ++page) {
        tokens[static_cast<std::size_t>(queues_.tiers()[coverage_.full[page]].role)] += size;
      }
      std::vector<std::vector<page_handle>> windows(model_.windows.size());
      std::vector<window_page_span> spans(model_.windows.size());
      for (std::uint32_t kind = 0; kind < windows.size(); ++kind) {
        spans[kind] =
            arriving_.windows_behind_holes(kind + 1, plan_.windows[kind].first, end, windows[kind]);
      }
      auto fresh = cache_.reserve({.first_page = first, .full = full, .windows = spans});
      cache_.commit(lease_, fresh, request_.tokens, limits_.now_us());
      for (std::size_t role = 0; role < tier_roles; ++role) {
        counters_.fetched_tokens[role] += tokens[role];
      }
      counters_.fetches_useless +=
          full.empty() && std::ranges::all_of(windows, [](const auto& w) { return w.empty(); });
    }
    end();
    return tokens;
  }

  // --- A step that computes while the pages come ------------------------------------------------

  /// Its pages are on their way layer by layer, none has failed, and some may still come.
  [[nodiscard]] bool is_arriving() const noexcept {
    return state_ == state::moving && arriving_.load() != nullptr && !arriving_.has_failed() &&
           arriving_.waiting() != 0;
  }
  /// A layer did not come and there is time to fetch whole pages: until then. Else 0.
  [[nodiscard]] std::uint64_t retry_until_us() const noexcept {
    const bool has_time = limits_.now_us() < deadline_us_ || ORIEL_MUTANT(late_fetch_is_retried);
    return arriving_.has_failed() && has_time ? deadline_us_ : 0;
  }
  /// Tokens that a step may start behind. @pre is_arriving()
  [[nodiscard]] std::uint32_t length() const noexcept { return plan_.length; }
  /// Seconds that a step which starts now would wait, at the rate that is expected.
  /// @pre is_arriving() @param layer_seconds  [layers]
  [[nodiscard]] double predicted_stall_s(std::span<const double> layer_seconds) const noexcept {
    transfer_rates slowest{.bytes_per_s = 1e30};
    for (std::size_t t = 0; t < queues_.tiers().size(); ++t) {
      const transfer_rates& rates = queues_.tiers()[t].rates;
      if ((from_tiers_ >> t & 1u) != 0 && rates.bytes_per_s < slowest.bytes_per_s) {
        slowest = rates;
      }
    }
    const std::uint64_t done = arriving_.load()->done_bytes();
    const double lead_s =
        done == 0 ? 0.0 : slowest.latency_s + static_cast<double>(done) / slowest.bytes_per_s;
    return predict_stall(arriving_.load()->plan().arrival_bytes, layer_seconds, slowest, lead_s);
  }
  /// What a sequence starts on: the device's own pages, and those that come. Valid until the next
  /// call. @pre is_arriving() @throws std::bad_alloc
  [[nodiscard]] borrowed_prefix lend() {
    cache_.borrow(lease_, own_);
    lent_full_.clear();
    if (!ORIEL_MUTANT(lent_prefix_forgets_the_device)) {
      lent_full_.assign(own_.full.begin(), own_.full.end());
    }
    arriving_.handles_of(0, plan_.full.end, lent_full_);
    lent_windows_.resize(plan_.windows.size());
    window_spans_.clear();
    for (std::uint32_t kind = 0; kind < lent_windows_.size(); ++kind) {
      lent_windows_[kind].clear();
      if (is_waited_for(kind + 1)) {
        arriving_.handles_of(kind + 1, plan_.full.end, lent_windows_[kind]);
      } else {
        arriving_.soft_handles_of(plan_.full.end, lent_windows_[kind]);
      }
      window_spans_.emplace_back(lent_windows_[kind]);
    }
    return {.length = plan_.length, .full = lent_full_, .windows = window_spans_};
  }
  /// The step asks for layers from now on.
  void join() { meter_.begin(arriving_.load()->plan()); }
  [[nodiscard]] layer_state state_of(std::uint32_t layer) const noexcept {
    return arriving_.load()->state(layer);
  }
  /// The step passed a layer. @pre state_of(layer) != loading
  void pass(std::uint32_t layer, std::uint64_t asked_us, std::uint64_t passed_us) noexcept {
    meter_.pass(*arriving_.load(), layer, asked_us, passed_us);
  }
  [[nodiscard]] std::uint64_t deadline_us() const noexcept { return deadline_us_; }
  /// What has not come by now is not waited for.
  void give_up() noexcept {
    ++counters_.fetches_late;
    is_late_ = true;
    learn_rate();
    arriving_.give_up(limits_.now_us());
  }
  [[nodiscard]] const layer_counters& waits() const noexcept { return meter_.counters(); }
  /// Layer by layer: asks for what may go now. @throws std::bad_alloc
  void hand_out() {
    arriving_.hand_out([&](std::uint32_t read, std::uint8_t tier, const store_item& item) {
      ask_for(read, tier, item);
    });
  }

  /// Calls visit(pool, handle) for every page that it holds, or that a store may still write to.
  template <class Visit>
  void visit_pages(Visit&& visit) const {
    arriving_.visit_pages(visit);
  }

  /// It has ended, and no store writes any more.
  void let_go() noexcept { arriving_.let_go(); }

  /// Lets go of everything, at once or when its store answers. Again: nothing.
  void end() noexcept {
    if (state_ == state::ended) {
      return;
    }
    arriving_.end(limits_.now_us());
    cache_.release(lease_, {.ended = request_end::aborted}, limits_.now_us());
    lease_ = {};
    state_ = state::ended;
    unanswered_ = 0;
  }

 private:
  enum class state : std::uint8_t { looking, taking, moving, ended };
  /// A fetch of enough bytes from one tier tells how fast it is just now, and so does one that was
  /// cut off. Once for each fetch.
  void learn_rate() {
    constexpr std::uint64_t enough_bytes = 1 << 20;
    const std::uint64_t unended_us = reads_in_stores_ != 0 ? limits_.now_us() - busy_since_us_ : 0;
    const double took_s = 1e-6 * static_cast<double>(busy_us_ + unended_us);
    if (has_learned_ || !std::has_single_bit(from_tiers_)) {
      return;
    }
    has_learned_ = true;
    const auto tier = static_cast<std::size_t>(std::countr_zero(from_tiers_));
    transfer_rates& known = queues_.tiers()[tier].rates;
    if ((moved_bytes_ >= enough_bytes || is_late_) && took_s > known.latency_s) {
      const double rate = static_cast<double>(moved_bytes_) / (took_s - known.latency_s);
      known.bytes_per_s =
          std::max(known.bytes_per_s + 0.25 * (rate - known.bytes_per_s), least_rates_[tier]);
    }
  }

  /// Nobody waits for pages of the soft kind, nor for whether there are any.
  [[nodiscard]] bool is_waited_for(std::uint32_t pool) const noexcept {
    return pool == 0 || pool - 1 != model_.soft_kind || ORIEL_MUTANT(soft_looks_are_waited_for);
  }
  /// A store has reads of it from when it was given the first until it had done the last, whenever
  /// that was looked at: a step that computes meanwhile makes no tier slow.
  void note_begin() noexcept {
    if (reads_in_stores_++ == 0) {
      busy_since_us_ = limits_.now_us();
    }
  }
  void note_end(const store_completion& c, std::uint64_t now_us) noexcept {
    const bool is_told = c.done_us != 0 && !ORIEL_MUTANT(rate_counts_the_steps);
    ended_us_ = std::max(ended_us_, is_told ? std::min(c.done_us, now_us) : now_us);
    if (--reads_in_stores_ == 0) {
      busy_us_ += ended_us_ - std::min(ended_us_, busy_since_us_);
    }
  }

  // Look-ups are numbered pool by pool, page by page.
  [[nodiscard]] std::uint32_t pool_of(std::uint32_t item) const noexcept {
    return item / static_cast<std::uint32_t>(request_.links.size());
  }
  [[nodiscard]] std::uint8_t& entry(std::uint32_t item) {
    const auto pages = static_cast<std::uint32_t>(request_.links.size());
    return item < pages ? coverage_.full[item] : coverage_.windows[item / pages - 1][item % pages];
  }

  /// Asks the next tier that can have something; after the last one, plans.
  void look_on(std::uint64_t now_us) {
    const auto pages = static_cast<std::uint32_t>(request_.links.size());
    const std::uint32_t device_pages = device_.full_tokens / model_.healing.page_size;
    const bool has_time = now_us < look_until_us_ || ORIEL_MUTANT(fetch_asks_on_without_time);
    const bool has_next = device_pages < pages;
    if (probes_ && has_time && (!has_next || coverage_.full[device_pages] != no_tier)) {
      probes_ = false;
      next_tier_ = 0;
    }
    for (; next_tier_ < queues_.tiers().size() && unanswered_ == 0; ++next_tier_) {
      const auto tier = static_cast<std::uint8_t>(next_tier_);
      if (probes_) {
        if (has_next) {
          ask(tier, 0, device_pages);
        }
        continue;
      }
      for (const bool waits : {false, true}) {  // What is not waited for is answered first.
        for (std::uint32_t pool = 0; pool <= model_.windows.size(); ++pool) {
          for (std::uint32_t page = first_wanted(pool);
               page < pages && is_waited_for(pool) == waits;
               ++page) {
            ask(tier, pool, page);
          }
        }
      }
    }
    if (unanswered_ != 0) {
      return;
    }
    if (probes_ && has_time && device_.full_tokens > device_.window_safe_tokens) {
      probes_ = false;  // No further full page is anywhere; the windows of the device's own may be.
      next_tier_ = 0;
      look_on(now_us);
      return;
    }
    plan();
  }
  void ask(std::uint8_t tier, std::uint32_t pool, std::uint32_t page) {
    const auto pages = static_cast<std::uint32_t>(request_.links.size());
    const std::uint32_t item = pool * pages + page;
    if (entry(item) == no_tier) {
      queues_.push(tier,
                   {.op = store_op::exists,
                    .key = {request_.links[page], pool},
                    .user = errand_tag{tier_errand::look_up, id_, item}.packed()},
                   look_until_us_);
      unanswered_ += is_waited_for(pool);
      ++in_stores_;
    }
  }
  /// Of full pages the first that the device lacks. A boundary that it cannot resume at may need
  /// windows before that.
  [[nodiscard]] std::uint32_t first_wanted(std::uint32_t pool) const noexcept {
    const std::uint32_t size = model_.healing.page_size;
    return pool == 0 ? device_.full_tokens / size
                     : needed_windows(model_.windows[pool - 1],
                                      size,
                                      model_.healing.slack_pages,
                                      device_.window_safe_tokens / size)
                           .first;
  }

  /// Plans, and pins what the device has. Where nothing is to be moved, nothing is under way.
  void plan() {
    std::vector<transfer_rates> rates;
    for (const tier& t : queues_.tiers()) {
      rates.push_back(t.rates);
    }
    device_ = cache_.match(request_.space, request_.tokens);
    plan_ = plan_fetch(model_,
                       request_.rates,
                       device_,
                       static_cast<std::uint32_t>(request_.tokens.size()),
                       coverage_,
                       rates);
    state_ = state::moving;
    if (plan_.way == fetch_way::nothing) {
      return;
    }
    const std::uint32_t first = plan_.full.first * model_.healing.page_size;
    const std::uint32_t kept = std::min(device_.heal_tokens, first);
    lease_ =
        cache_.pin(request_.space, request_.tokens, device_, {kept, kept, false}, limits_.now_us());
    if (lease_ && lease_.full_tokens() == first) {
      state_ = state::taking;
      take_pages();
    }
  }

  /// Takes the pages that the plan fills, as soon as there are enough; there may never be.
  void take_pages() {
    std::vector<std::uint32_t> missing(pools_.pools());
    missing[0] = plan_.full.end - plan_.full.first;
    for (std::uint32_t kind = 0; kind < plan_.windows.size(); ++kind) {
      missing[kind + 1] = plan_.windows[kind].end - plan_.windows[kind].first;
    }
    const std::uint64_t now_us = limits_.now_us();
    if (make_room(cache_, pools_, missing, now_us, copies_.leaving(hands_over_))) {
      state_ = state::moving;
      if (arriving_.take(plan_)) {
        ask_for_pages();
      }
    } else if (now_us >= look_until_us_ || copies_.under_way() == 0) {
      state_ = state::moving;  // It does without.
    }
  }

  /// Says who each page is, and asks its tier.
  void ask_for_pages() {
    const std::uint32_t size = model_.healing.page_size;
    arriving_.name([&](std::uint32_t page, page_identity& out) {
      out = {.name_space = request_.start,
             .parent = page == 0 ? request_.start : request_.links[page - 1],
             .first_token = page * size,
             .tokens = std::span(request_.tokens).subspan(std::size_t{page} * size, size)};
    });
    const auto tier_of = [&](std::uint32_t pool, std::uint32_t page) {
      const std::uint8_t tier =
          pool == 0 ? coverage_.full[page] : coverage_.windows[pool - 1][page];
      from_tiers_ |= 1u << tier;
      return tier;
    };
    const auto key_of = [&](std::uint32_t pool, std::uint32_t page) {
      return page_key{request_.links[page], pool};
    };
    if (model_.layers.empty() || request_.whole_until_us != 0 ||
        plan_.way != fetch_way::window_safe) {
      arriving_.ask_whole(
          tier_of, key_of, [&](std::uint32_t page, std::uint8_t tier, const store_item& item) {
            ask_for(page, tier, item);
          });
    } else {
      arriving_.ask_soft(
          tier_of, key_of, [&](std::uint32_t page, std::uint8_t tier, const store_item& item) {
            ask_for(page, tier, item);
          });
      arriving_.plan_layers(model_.layers, limits_.layers, tier_of, key_of, limits_.now_us());
      hand_out();
    }
    ++counters_.fetches;
  }

  void ask_for(std::uint32_t item, std::uint8_t tier, store_item what) {
    what.user = errand_tag{tier_errand::fetch, id_, item}.packed();
    queues_.push(tier, what, deadline_us_);
    ++in_stores_;
    note_begin();
  }

  [[nodiscard]] bool is_in_plan(std::uint32_t pool, std::uint32_t page) const noexcept {
    const page_range range =
        pool == 0 ? plan_.full
                  : (pool - 1 < plan_.windows.size() ? plan_.windows[pool - 1] : page_range{});
    return range.first <= page && page < range.end;
  }

  Cache& cache_;
  Pools& pools_;
  tier_queues& queues_;
  const page_copies<Pools>& copies_;
  bool hands_over_;  // evictions do, to tiers that write back
  const fetch_model& model_;
  const tier_limits& limits_;
  std::span<const double> least_rates_;  // [tiers] bytes/s
  tier_counters& counters_;
  std::uint32_t id_;
  fetch_request request_;
  prefix_match device_;
  std::uint64_t deadline_us_ = 0, look_until_us_ = 0;
  state state_ = state::looking;
  bool probes_ = true;         // looks for the first page alone
  std::size_t next_tier_ = 0;  // to be asked
  tier_coverage coverage_;
  fetch_plan plan_;
  typename Cache::lease lease_;
  arriving_pages<Pools> arriving_;
  std::size_t unanswered_ = 0;  // look-ups that are waited for
  std::size_t in_stores_ = 0;   // items that stores may still touch
  std::size_t reads_in_stores_ = 0;
  std::uint64_t busy_since_us_ = 0, ended_us_ = 0;  // while stores have reads of it
  std::uint64_t busy_us_ = 0;                       // before that
  std::uint64_t moved_bytes_ = 0;
  std::uint32_t from_tiers_ = 0;  // as bits
  bool has_learned_ = false, is_late_ = false;
  layer_meter meter_;
  borrowed_pages own_;  // these four: what the last lend() returned
  std::vector<page_handle> lent_full_;
  std::vector<std::vector<page_handle>> lent_windows_;
  std::vector<std::span<const page_handle>> window_spans_;
};

}  // namespace oriel::detail
