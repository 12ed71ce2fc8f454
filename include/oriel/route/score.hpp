// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `route_score`: how good a worker is for a request; the least total wins. The six that are here
/// are what docs/routing.md compares; all read the same row, load and fleet.
///
///     predicted_seconds   queue + compute + fetch + heal, and what a second copy costs
///     match_minus_load    weight * share of the prompt - share of the largest load
///     session_hash        rendezvous hashing of the session, with bounded load
///     threshold_gate      least load where loads differ much, else the longest match that is long
///     least_load, round_robin
#pragma once

#include <oriel/core/mutation.hpp>
#include <oriel/route/router.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace oriel {

/// What work costs on a worker. A chunk of u tokens behind c takes
/// u * (token_s + pair_s * (c + u / 2)) seconds, as in sched/rank_packer.hpp.
///
/// The defaults are MiMo-V2.5-Pro on a node of 8 H200, fitted to published speeds
/// (docs/simulator.md): they decide placement, so give your own model's and machine's.
struct work_model {
  double token_s = 3.1e-5;  ///< > 0
  double pair_s = 2e-10;    ///< >= 0
  double request_s = 0.0;   ///< of every request, whatever it has
  /// Of a token that comes from a tier, and of the first one. [0], the device's, are not used.
  double fetch_token_s[page_tiers] = {};
  double fetch_begin_s[page_tiers] = {};
  /// Of a heal; infinity: workers do not heal.
  double heal_s = std::numeric_limits<double>::infinity();

  /// Of the tokens [from, end). O(1). @pre from <= end
  [[nodiscard]] double compute_s(double from, double end) const noexcept {
    return (end - from) * (token_s + 0.5 * pair_s * (from + end));
  }
};

/// The cheapest way to a prompt's first token on one worker.
struct prefix_work {
  double prefill_s = 0.0;
  double fetch_s = 0.0;
  double heal_s = 0.0;

  [[nodiscard]] double total() const noexcept { return prefill_s + fetch_s + heal_s; }
};

/// The least, over the tiers, of: fetch up to a boundary, heal if that is past the safe one, and
/// compute the rest. O(tiers).
[[nodiscard]] inline prefix_work work_of(const work_model& model,
                                         std::uint32_t page_tokens,
                                         const worker_prefix& row,
                                         std::uint32_t prompt_tokens) noexcept {
  const double end = prompt_tokens, page = page_tokens;
  prefix_work best{.prefill_s = model.compute_s(0.0, end)};
  if (row.full_pages[page_tiers - 1] == 0) {
    return best.prefill_s += model.request_s, best;
  }
  double least = best.total();
  const auto try_from = [&](std::uint32_t pages, std::size_t tier, double heal_s) {
    prefix_work work{.heal_s = heal_s};
    for (std::size_t t = 1; t <= tier; ++t) {
      const std::uint32_t above = std::min(row.full_pages[t - 1], pages);
      if (const std::uint32_t here = std::min(row.full_pages[t], pages) - above; here > 0) {
        work.fetch_s += model.fetch_begin_s[t] + model.fetch_token_s[t] * page * here;
      }
    }
    work.prefill_s = model.compute_s(std::min(page * pages, end), end);
    if (work.total() < least) {
      least = work.total();
      best = work;
    }
  };
  for (std::size_t tier = 0; tier < page_tiers; ++tier) {
    const std::uint32_t safe =
        ORIEL_MUTANT(score_counts_plain_overlap) ? row.full_pages[tier] : row.safe_pages[tier];
    if (tier == 0 || safe > row.safe_pages[tier - 1]) {
      try_from(safe, tier, 0.0);
    }
    const std::uint32_t full = row.full_pages[tier];
    if (full > safe && model.heal_s < model.compute_s(page * safe, page * full)) {
      try_from(full, tier, model.heal_s);
    }
  }
  best.prefill_s += model.request_s;
  return best;
}

/// Pages that a worker has on its device or in host memory and can resume behind: with windows that
/// are there or further away, or healed. O(1).
[[nodiscard]] inline std::uint32_t local_pages_of(const work_model& model,
                                                  std::uint32_t page_tokens,
                                                  const worker_prefix& row) noexcept {
  const std::uint32_t full = row.full_pages[1];
  const std::uint32_t safe = std::min(full, row.safe_pages[page_tiers - 1]);
  if (full == safe) {
    return full;
  }
  const double page = page_tokens;
  return model.heal_s < model.compute_s(page * safe, page * full) ? full : safe;
}

/// What is known of a worker's load, from this router's decisions, reports, and what other routers
/// said.
struct worker_load {
  double queue_s = 0.0;        ///< estimated seconds of prefill ahead
  std::uint32_t requests = 0;  ///< in prefill or decode
  double evict_token_s = 0.0;  ///< of load_report
  // Of the last minutes (worker_table::memory_s):
  double arrivals_per_s = 0.0;  ///< requests placed there
  double usual_queue_s = 0.0;   ///< mean queue
};

/// Of the workers that may get the request.
struct fleet_view {
  const work_model* model = nullptr;
  std::uint32_t page_tokens = 0;  ///< of the index
  std::uint32_t workers = 0;      ///< largest number + 1
  std::uint32_t eligible = 0;     ///< > 0
  double queue_max_s = 0.0, queue_sum_s = 0.0;
  std::uint32_t requests_min = 0, requests_max = 0;
  std::uint64_t requests_sum = 0;
  std::uint32_t local_pages = 0;  ///< the most of local_pages_of
  std::uint32_t match_pages = 0;  ///< the longest plain overlap there
};

/// *Laws* `terms` is a pure function of its arguments and of what `begin` saw. Totals are finite.
/// Workers with totals up to `near_total(best)`, for which `is_near(best, other)` holds too, differ
/// from the best by no more than anybody can know: they take turns. near_total(x) >= x.total, and
/// is_near(x, x).
template <class S>
concept route_score = requires(S s,
                               const S& c,
                               const route_request& request,
                               const fleet_view& fleet,
                               worker_id worker,
                               const worker_prefix& row,
                               const worker_load& load,
                               const score_terms& terms) {
  s.begin(request, fleet);
  { c.terms(worker, row, load) } -> std::same_as<score_terms>;
  { c.near_total(terms) } -> std::same_as<double>;
  { c.is_near(terms, terms) } -> std::same_as<bool>;
  s.placed(worker);
};

namespace detail {
/// What scores have in common: the request and the fleet that they are asked about.
class score_base {
 public:
  void begin(const route_request& request, const fleet_view& fleet) noexcept {
    prompt_tokens_ = request.prompt_tokens;
    per_page_ = 1.0 / static_cast<double>(std::max<std::size_t>(request.links.size(), 1));
    fleet_ = fleet;
    has_last_ = false;
  }
  void placed(worker_id) noexcept {}
  [[nodiscard]] double near_total(const score_terms& best) const noexcept { return best.total; }
  [[nodiscard]] bool is_near(const score_terms&, const score_terms&) const noexcept { return true; }

 protected:
  /// Terms that all show, whatever they score by. Most workers have the same row, the system prompt
  /// or nothing: what was computed last is kept.
  [[nodiscard]] score_terms shown(const worker_prefix& row,
                                  const worker_load& load) const noexcept {
    if (!has_last_ || !(row == last_row_)) {
      last_row_ = row;
      last_ = work_of(*fleet_.model, fleet_.page_tokens, row, prompt_tokens_);
      has_last_ = true;
    }
    return {.queue_s = load.queue_s,
            .prefill_s = last_.prefill_s,
            .fetch_s = last_.fetch_s,
            .heal_s = last_.heal_s,
            .match = row.safe_pages[page_tiers - 1] * per_page_};
  }

  fleet_view fleet_;
  std::uint32_t prompt_tokens_ = 0;
  double per_page_ = 1.0;  ///< of the prompt

 private:
  mutable worker_prefix last_row_ = {};
  mutable prefix_work last_ = {};
  mutable bool has_last_ = false;
};

/// splitmix64's finaliser: a bijection of 64 bits.
[[nodiscard]] constexpr std::uint64_t mix64(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xBF58'476D'1CE4'E5B9u;
  x = (x ^ (x >> 27)) * 0x94D0'49BB'1331'11EBu;
  return x ^ (x >> 31);
}
}  // namespace detail

/// Seconds until the first token, and seconds that the choice costs later and others.
///
/// *Duplicates*: those spent on what another worker has (charged duplicate_weight times more), and
/// of what the new pages push out. Without them whoever waits a moment moves, and the fleet
/// computes everything twice.
///
/// *Crowds*: while a worker computes for S seconds, arrivals_per_s * S others come and wait S / 2
/// each. Of a short request that is nothing. A long one goes where least comes, behind another long
/// one if need be, and sessions settle where queues are short (later_s): so few workers get the
/// long prompts, which nobody said, and the conversations of the others need not move out of their
/// way.
class predicted_seconds : public detail::score_base {
 public:
  struct options {
    double duplicate_weight = 4.0;  ///< of seconds computed though another worker has them
    /// Of the seconds it would take to compute what becomes a second copy, fetched or computed:
    /// room.
    double copy_weight = 1.0;
    double evict_weight = 1.0;
    double crowd_weight = 0.1;  ///< of seconds that others wait for it
    double later_weight = 1.0;  ///< of the worker's usual queue
    double near_share = 0.05;   ///< of the queue; closer ones take turns
  };
  predicted_seconds() = default;
  explicit predicted_seconds(const options& o) noexcept : options_(o) {}

  void begin(const route_request& request, const fleet_view& fleet) noexcept {
    score_base::begin(request, fleet);
    const double end = request.prompt_tokens;
    local_tokens_ = std::min<double>(fleet.page_tokens * double{1} * fleet.local_pages, end);
    least_s_ = fleet.model->compute_s(local_tokens_, end) + fleet.model->request_s;
  }

  [[nodiscard]] score_terms terms(worker_id,
                                  const worker_prefix& row,
                                  const worker_load& load) const noexcept {
    const work_model& model = *fleet_.model;
    score_terms t = shown(row, load);
    const std::uint32_t pages = ORIEL_MUTANT(windows_elsewhere_are_no_home)
                                    ? row.safe_pages[1]
                                    : local_pages_of(model, fleet_.page_tokens, row);
    const double here = std::min<double>(fleet_.page_tokens * double{1} * pages, prompt_tokens_);
    if (!ORIEL_MUTANT(duplicates_are_free)) {
      t.duplicate_s =
          options_.duplicate_weight * std::max(0.0, t.prefill_s - least_s_) +
          (here < local_tokens_ ? options_.copy_weight * model.compute_s(here, local_tokens_)
                                : 0.0);
    }
    t.evict_s = options_.evict_weight * load.evict_token_s * (prompt_tokens_ - here);
    if (!ORIEL_MUTANT(nobody_waits_for_long_prompts)) {
      t.crowd_s = options_.crowd_weight * load.arrivals_per_s * 0.5 * work_s(t) * work_s(t);
    }
    if (!ORIEL_MUTANT(sessions_settle_anywhere)) {
      t.later_s = options_.later_weight * load.usual_queue_s;
    }
    t.total = t.queue_s + work_s(t) + t.duplicate_s + t.evict_s + t.crowd_s + t.later_s;
    return t;
  }
  [[nodiscard]] double near_total(const score_terms& best) const noexcept {
    return best.total + options_.near_share * std::max(best.queue_s, work_s(best));
  }
  /// One that has to compute more is not near: whose turn it is should cost nothing.
  [[nodiscard]] bool is_near(const score_terms& best, const score_terms& other) const noexcept {
    return work_s(other) - work_s(best) <= options_.near_share * work_s(best);
  }

 private:
  [[nodiscard]] static double work_s(const score_terms& t) noexcept {
    return t.prefill_s + t.fetch_s + t.heal_s;
  }

  options options_;
  double local_tokens_ = 0.0, least_s_ = 0.0;
};

/// Xiaomi's: matchWeight * match - normalized load. `total` is its negative, of no unit.
class match_minus_load : public detail::score_base {
 public:
  struct options {
    double match_weight = 2.0;
    double near = 0.02;
  };
  match_minus_load() = default;
  explicit match_minus_load(const options& o) noexcept : options_(o) {}

  [[nodiscard]] score_terms terms(worker_id,
                                  const worker_prefix& row,
                                  const worker_load& load) const noexcept {
    score_terms t = shown(row, load);
    const double most = std::max(fleet_.queue_max_s, 1e-9);
    t.total = load.queue_s / most - options_.match_weight * t.match;
    return t;
  }
  [[nodiscard]] double near_total(const score_terms& best) const noexcept {
    return best.total + options_.near;
  }

 private:
  options options_;
};

/// A session stays with the worker that wins a draw made of (session, worker), whatever is cached
/// where; when a worker goes, its sessions alone move. A worker above its bound is passed over, and
/// the session goes to its second choice (J. Mirrokni et al., "Consistent hashing with bounded
/// loads", SODA 2018, for rendezvous hashing).
class session_hash : public detail::score_base {
 public:
  struct options {
    /// The bound: (1 + slack) times the mean of all eligible workers, but not below `least`.
    /// Infinity: none.
    double slack = 0.25;
    double least_s = 10.0;             ///< seconds; where loads are counted in seconds
    std::uint32_t least_requests = 4;  ///< where they are counted in requests
    bool counts_requests = false;      ///< and not estimated seconds
  };
  session_hash() = default;
  explicit session_hash(const options& o) noexcept : options_(o) {}

  void begin(const route_request& request, const fleet_view& fleet) noexcept {
    score_base::begin(request, fleet);
    key_ = detail::mix64(request.session != 0     ? request.session
                         : !request.links.empty() ? request.links.back().low
                                                  : request.id);
    const double sum =
        options_.counts_requests ? static_cast<double>(fleet.requests_sum) : fleet.queue_sum_s;
    const double least = options_.counts_requests ? options_.least_requests : options_.least_s;
    bound_ = std::max(least, (1.0 + options_.slack) * sum / fleet.eligible);
  }
  [[nodiscard]] score_terms terms(worker_id worker,
                                  const worker_prefix& row,
                                  const worker_load& load) const noexcept {
    score_terms t = shown(row, load);
    const std::uint64_t draw =
        detail::mix64(key_ + (to_index(worker) + 1) * std::uint64_t{0x9E37'79B9'7F4A'7C15u});
    const double amount = options_.counts_requests ? load.requests : load.queue_s;
    t.total = static_cast<double>(draw >> 11) * 0x1p-53 + (amount > bound_ ? 1.0 : 0.0);
    return t;
  }

 private:
  options options_;
  std::uint64_t key_ = 0;
  double bound_ = 0.0;
};

/// What most routers do, SGLang's gateway first: where the most loaded worker has more than
/// `absolute` requests and `relative` times the requests of the least loaded, least load for all;
/// else the longest plain overlap if it is a large share of the prompt; else least load. It is here
/// to be compared with.
class threshold_gate : public detail::score_base {
 public:
  struct options {
    std::uint32_t absolute = 8;  ///< requests
    double relative = 1.5;
    double match = 0.5;  ///< share of the prompt
  };
  threshold_gate() = default;
  explicit threshold_gate(const options& o) noexcept : options_(o) {}

  void begin(const route_request& request, const fleet_view& fleet) noexcept {
    score_base::begin(request, fleet);
    is_unbalanced_ = fleet.requests_max - fleet.requests_min > options_.absolute &&
                     fleet.requests_max > options_.relative * fleet.requests_min;
    goes_by_match_ = !is_unbalanced_ && fleet.match_pages * per_page_ > options_.match;
  }
  [[nodiscard]] score_terms terms(worker_id,
                                  const worker_prefix& row,
                                  const worker_load& load) const noexcept {
    score_terms t = shown(row, load);
    t.match = row.full_pages[1] * per_page_;
    t.total = goes_by_match_ ? -t.match : double{1} * load.requests;
    return t;
  }

 private:
  options options_;
  bool is_unbalanced_ = false, goes_by_match_ = false;
};

/// Least estimated seconds ahead; of equals the one with fewer requests.
class least_load : public detail::score_base {
 public:
  [[nodiscard]] score_terms terms(worker_id,
                                  const worker_prefix& row,
                                  const worker_load& load) const noexcept {
    score_terms t = shown(row, load);
    t.total = load.queue_s + 1e-6 * load.requests;
    return t;
  }
};

/// One after the other.
class round_robin : public detail::score_base {
 public:
  [[nodiscard]] score_terms terms(worker_id worker,
                                  const worker_prefix& row,
                                  const worker_load& load) const noexcept {
    score_terms t = shown(row, load);
    const std::uint32_t w = to_index(worker);
    t.total = w >= next_ ? w - next_ : w + fleet_.workers - next_;
    return t;
  }
  void placed(worker_id worker) noexcept { next_ = to_index(worker) + 1; }

 private:
  std::uint32_t next_ = 0;
};

static_assert(route_score<predicted_seconds> && route_score<match_minus_load> &&
              route_score<session_hash> && route_score<threshold_gate> && route_score<least_load> &&
              route_score<round_robin>);

}  // namespace oriel
