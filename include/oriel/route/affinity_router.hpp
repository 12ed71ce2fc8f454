// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `affinity_router<Score>`: the index says what each worker has, the table what each has to do,
/// the score which one is best, the book what becomes of the request.
///
///     affinity_router<predicted_seconds> router(
///         {.index = {.page_size = 64, .windows = {128}, .workers = 8}});
///     router.join(worker_id{0}, {}, now_s);
///     const route_answer answer = router.route(request, now_s);        // router.hpp has the rest
///
/// *Of equals* (the score says who is) the next after the last choice is taken. Every router starts
/// at another worker, by its number: idle workers are not all number 0, and routers that see the
/// same reports do not all take the same one.
///
/// *Degraded* (the router was told that its view is old, `set_degraded`) sessions go by
/// session_hash until it is well again.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/detail/expected_prefixes.hpp>
#include <oriel/route/prefix_index.hpp>
#include <oriel/route/request_book.hpp>
#include <oriel/route/router.hpp>
#include <oriel/route/score.hpp>
#include <oriel/route/worker_table.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

struct router_options {
  prefix_index_options index = {};
  work_model work = {};
  health_options health = {};
  life_options life = {};
  std::uint64_t router = 0;  ///< its number: where its turns begin
  /// The number in the index of a store that all workers share. It tells of its pages as workers do
  /// of theirs, as of tier 3, and never joins: everybody has them at that tier's price. no_worker:
  /// there is none.
  worker_id shared = no_worker;
  /// Sessions of which a placement is remembered, and for how long, until events tell of it.
  std::uint32_t expected_slots = 4096;
  double expect_s = 60.0;
};

/// Why workers were chosen; plain counts of decisions.
struct choice_counters {
  std::uint64_t affine = 0;    ///< nobody has a longer safe prefix, and it has some
  std::uint64_t balanced = 0;  ///< somebody has a longer one
  std::uint64_t cold = 0;      ///< nobody has anything
  std::uint64_t followed = 0;  ///< an earlier request to the worker that is computing its prefix
  std::uint64_t degraded = 0;  ///< by session_hash, for the view was old
};

/// A `router`. Nothing blocks, nothing throws but `bad_alloc`. Workers have numbers below
/// index.workers: another one breaks the contract, and is ignored in what others send (apply,
/// report, note_placed).
///
/// *Thread safety* none: one thread, or one lock. *Cost* of a decision: a look-up (prefix_index),
/// and O(workers); no allocation but for the request's place in the book. *Memory* that of the
/// index, the table and the book.
template <route_score Score>
class affinity_router {
 public:
  /// @pre options as documented by their types @throws std::bad_alloc
  explicit affinity_router(const router_options& options, Score score = {})
      : options_(options),
        index_(options.index),
        table_(options.index.workers, options.health),
        book_(table_, options.life),
        expected_(options.expected_slots, options.expect_s),
        score_(std::move(score)),
        cursor_(static_cast<std::uint32_t>(detail::mix64(options.router) % options.index.workers)) {
    ORIEL_EXPECTS(options.shared == no_worker || to_index(options.shared) < options.index.workers);
    candidates_.reserve(options.index.workers);
    totals_.reserve(options.index.workers);
  }

  route_answer route(const route_request& request, double now_s) {
    route_answer answer;
    if (book_.begin(request, answer)) {
      return answer;
    }
    look(request, now_s);
    if (candidates_.empty()) {
      return book_.no_worker_for(request, now_s);
    }
    const route_decision decision =
        is_degraded_ ? choose(by_session_, request, now_s) : choose(score_, request, now_s);
    answer = book_.settle(request, decision, now_s);
    if (answer.kind == route_kind::placed) {
      note_placed_here(request, decision, now_s);
    }
    return answer;
  }

  /// All workers' terms, in the order of their numbers, as route() would see them now: degraded,
  /// they are session_hash's. O(workers); allocates only when `out` grows.
  void explain(const route_request& request, double now_s, std::vector<route_candidate>& out) {
    look(request, now_s);
    const std::size_t first = out.size();
    for (std::uint32_t w = 0; w < table_.workers(); ++w) {
      out.push_back({.worker = worker_id{w}, .prefix = row(w)});
    }
    const auto candidates = std::span(out).subspan(first);
    is_degraded_ && !ORIEL_MUTANT(explains_what_did_not_decide)
        ? show_terms(by_session_, request, candidates)
        : show_terms(score_, request, candidates);
  }

  event_outcome apply(const worker_event& event) { return index_.apply(event); }
  bool report(const load_report& load, double now_s) { return table_.report(load, now_s); }
  void note_placed(worker_id worker, double seconds, double at_s) {
    table_.note_placed(worker, seconds, at_s);
  }

  bool started(std::uint64_t id, std::uint32_t attempt, double now_s) {
    return book_.started(id, attempt, now_s);
  }
  bool prefilled(std::uint64_t id, std::uint32_t attempt, double actual_s, double) {
    return book_.prefilled(id, attempt, actual_s);
  }
  bool finished(std::uint64_t id, std::uint32_t attempt, double) {
    return book_.finished(id, attempt);
  }
  bool failed(std::uint64_t id, std::uint32_t attempt, double now_s) {
    return book_.failed(id, attempt, now_s);
  }
  bool cancel(std::uint64_t id, double) { return book_.cancel(id); }

  /// One that takes part already has started anew: what it had is tried elsewhere.
  void join(worker_id worker, const worker_profile& profile, double now_s) {
    if (table_.is_member(worker)) {
      lose(worker);
    }
    table_.join(worker, profile, now_s);
  }
  void drain(worker_id worker, double) { table_.drain(worker); }
  /// What it had in its cache is forgotten: it comes back with a larger epoch.
  void leave(worker_id worker, double) {
    table_.leave(worker);
    index_.remove(worker);
    lose(worker);
  }
  void tick(double now_s, std::vector<route_action>& actions) {
    ejected_.clear();
    if (is_degraded_ && !ORIEL_MUTANT(silence_counts_while_degraded)) {
      table_.excuse_silence(now_s);  // What is not heard is the store's fault.
    }
    table_.tick(now_s, ejected_);
    for (const worker_id worker : ejected_) {
      lose(worker);
    }
    book_.tick(now_s, actions);
  }

  /// Is the view too old to go by?
  void set_degraded(bool is_degraded) noexcept { is_degraded_ = is_degraded; }
  [[nodiscard]] bool is_degraded() const noexcept { return is_degraded_; }
  void set_tenant(tenant_id tenant, const tenant_options& options, double now_s) {
    book_.set_tenant(tenant, options, now_s);
  }

  [[nodiscard]] double queue_s(worker_id worker, double now_s) const noexcept {
    return table_.queue_s(worker, now_s);
  }
  /// Of all workers that take part, and of what waits here: what scaling goes by. O(workers).
  [[nodiscard]] double queue_s(double now_s) const noexcept {
    double sum = book_.waiting_s();
    for (std::uint32_t w = 0; w < table_.workers(); ++w) {
      sum += table_.is_member(worker_id{w}) ? table_.queue_s(worker_id{w}, now_s) : 0.0;
    }
    return sum;
  }
  [[nodiscard]] const prefix_index& index() const noexcept { return index_; }
  [[nodiscard]] const worker_table& table() const noexcept { return table_; }
  [[nodiscard]] const request_book& book() const noexcept { return book_; }
  [[nodiscard]] const choice_counters& choices() const noexcept { return choices_; }
  [[nodiscard]] const router_options& options() const noexcept { return options_; }

 private:
  struct candidate {
    std::uint32_t worker;
    worker_load load;
  };

  // Fills answer_, expected rows, candidates_ and view_.
  void look(const route_request& request, double now_s) {
    index_.look_up(request.links, answer_);
    rows_ = answer_.rows();
    if (options_.shared != no_worker && !ORIEL_MUTANT(shared_store_is_not_seen)) {
      add_shared();
    }
    const auto expected = expected_.find(key_of(request), request.links, now_s);
    expected_worker_ = to_index(expected.worker);
    if (expected.worker != no_worker) {
      expected_row_ = rows_[expected_worker_];
      for (std::size_t t = 0; t < page_tiers; ++t) {
        expected_row_.full_pages[t] = std::max(expected_row_.full_pages[t], expected.pages);
        expected_row_.safe_pages[t] = std::max(expected_row_.safe_pages[t], expected.pages);
      }
    }
    gather(request, now_s, options_.life.ahead_max_s);
    if (candidates_.empty()) {  // All have too much: the book refuses, for the least of them.
      gather(request, now_s, std::numeric_limits<double>::infinity());
    }
  }
  // What the store and a worker have together is not known: the larger is a lower bound.
  void add_shared() {
    constexpr std::size_t remote = page_tiers - 1;
    const worker_prefix store = rows_[to_index(options_.shared)];
    all_rows_.assign(rows_.begin(), rows_.end());
    for (worker_prefix& r : all_rows_) {
      r.full_pages[remote] = std::max(r.full_pages[remote], store.full_pages[remote]);
      r.safe_pages[remote] = std::max(r.safe_pages[remote], store.safe_pages[remote]);
    }
    rows_ = all_rows_;
  }
  void gather(const route_request& request, double now_s, double ahead_max_s) {
    candidates_.clear();
    longest_pages_ = 0;
    view_ = {
        .model = &options_.work,
        .page_tokens = ORIEL_MUTANT(prices_are_of_one_page_size) ? 64u : options_.index.page_size,
        .workers = table_.workers(),
        .requests_min = std::numeric_limits<std::uint32_t>::max()};
    for (std::uint32_t w = 0; w < table_.workers(); ++w) {
      if (!table_.is_eligible(worker_id{w}, request.needs)) {
        continue;
      }
      const worker_load load = table_.load(worker_id{w}, now_s);
      if (load.queue_s > ahead_max_s && table_.queue_s(worker_id{w}, now_s) > ahead_max_s) {
        continue;
      }
      candidates_.push_back({w, load});
      view_.queue_max_s = std::max(view_.queue_max_s, load.queue_s);
      view_.queue_sum_s += load.queue_s;
      view_.requests_min = std::min(view_.requests_min, load.requests);
      view_.requests_max = std::max(view_.requests_max, load.requests);
      view_.requests_sum += load.requests;
      longest_pages_ = std::max(longest_pages_, row(w).safe_pages[page_tiers - 1]);
      view_.local_pages =
          std::max(view_.local_pages, local_pages_of(options_.work, view_.page_tokens, row(w)));
      view_.match_pages = std::max(view_.match_pages, row(w).full_pages[1]);
    }
    view_.eligible = static_cast<std::uint32_t>(candidates_.size());
  }
  [[nodiscard]] const worker_prefix& row(std::uint32_t w) const noexcept {
    return w == expected_worker_ ? expected_row_ : rows_[w];
  }

  template <class S>
  void show_terms(S& score, const route_request& request, std::span<route_candidate> out) {
    if (!candidates_.empty()) {
      score.begin(request, view_);
    }
    for (const candidate& c : candidates_) {
      route_candidate& r = out[c.worker];
      r.is_eligible = true;
      r.terms = score.terms(worker_id{c.worker}, r.prefix, c.load);
    }
  }
  template <class S>
  route_decision choose(S& score, const route_request& request, double now_s) {
    score.begin(request, view_);
    totals_.clear();
    double least = std::numeric_limits<double>::infinity();
    std::size_t best = 0;
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      const candidate& c = candidates_[i];
      const double total = score.terms(worker_id{c.worker}, row(c.worker), c.load).total;
      totals_.push_back(total);
      if (total < least) {
        least = total;
        best = i;
      }
    }
    best = take_turns(score, best);
    if (request.deadline_s != std::numeric_limits<double>::infinity()) {
      best = in_time(score, best, request, now_s);
    }
    const candidate& c = candidates_[best];
    route_decision d{.worker = worker_id{c.worker},
                     .decode = table_.choose_decode(worker_id{c.worker}, request.needs),
                     .prefix = row(c.worker),
                     .terms = score.terms(worker_id{c.worker}, row(c.worker), c.load)};
    d.estimate_s = d.terms.prefill_s + d.terms.fetch_s + d.terms.heal_s;
    return d;
  }
  // Of those that are as good as the best, the first after the last choice.
  template <class S>
  [[nodiscard]] std::size_t take_turns(const S& score, std::size_t best) const {
    if (ORIEL_MUTANT(ties_go_to_the_first)) {
      return best;
    }
    const candidate& b = candidates_[best];
    const score_terms terms = score.terms(worker_id{b.worker}, row(b.worker), b.load);
    const auto distance = [&](std::size_t i) {  // around the ring, from the cursor
      const std::uint32_t w = candidates_[i].worker;
      return w >= cursor_ ? w - cursor_ : w + table_.workers() - cursor_;
    };
    std::size_t chosen = best;
    const double bound = score.near_total(terms);
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      const candidate& c = candidates_[i];
      if (totals_[i] <= bound && distance(i) < distance(chosen) &&
          score.is_near(terms, score.terms(worker_id{c.worker}, row(c.worker), c.load))) {
        chosen = i;
      }
    }
    return chosen;
  }
  // Would the first token come too late there? Then where it would come first.
  template <class S>
  [[nodiscard]] std::size_t in_time(const S& score,
                                    std::size_t best,
                                    const route_request& request,
                                    double now_s) const {
    const auto first_token_s = [&](std::size_t i) {
      const candidate& c = candidates_[i];
      const score_terms t = score.terms(worker_id{c.worker}, row(c.worker), c.load);
      return t.queue_s + t.prefill_s + t.fetch_s + t.heal_s;
    };
    double least = first_token_s(best);
    if (now_s + least <= request.deadline_s) {
      return best;
    }
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      if (const double seconds = first_token_s(i); seconds < least) {
        least = seconds;
        best = i;
      }
    }
    return best;
  }

  void note_placed_here(const route_request& request, const route_decision& d, double now_s) {
    cursor_ = (to_index(d.worker) + 1) % table_.workers();
    score_.placed(d.worker);
    choices_.degraded += is_degraded_;
    choices_.followed += to_index(d.worker) == expected_worker_;
    const std::uint32_t longest = longest_pages_;
    const std::uint32_t here = d.prefix.safe_pages[page_tiers - 1];
    ++(longest == 0 ? choices_.cold : here == longest ? choices_.affine : choices_.balanced);
    expected_.expect(key_of(request), d.worker, request.links, now_s);
  }
  void lose(worker_id worker) {
    expected_.forget(worker);
    book_.lose_worker(worker);
  }
  // Requests that may share a prefix: those of a session, or else with the same first page.
  [[nodiscard]] static std::uint64_t key_of(const route_request& request) noexcept {
    return request.session != 0    ? request.session
           : request.links.empty() ? 0
                                   : request.links.front().low;
  }

  router_options options_;
  prefix_index index_;
  worker_table table_;
  request_book book_;
  detail::expected_prefixes expected_;
  Score score_;
  session_hash by_session_;  // while degraded
  bool is_degraded_ = false;
  std::uint32_t cursor_;  // turns begin here
  choice_counters choices_;
  // Of the request that is looked at.
  prefix_answer answer_;
  std::span<const worker_prefix> rows_;  // [workers] of answer_, or all_rows_
  std::vector<worker_prefix> all_rows_;  // with the shared store's
  std::uint32_t expected_worker_ = 0;
  worker_prefix expected_row_;
  std::vector<candidate> candidates_;
  fleet_view view_;
  std::uint32_t longest_pages_ = 0;  // of the candidates, on any tier
  std::vector<double> totals_;       // [candidates]
  std::vector<worker_id> ejected_;
};

static_assert(router<affinity_router<predicted_seconds>>);

}  // namespace oriel
