// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `router`: which worker computes a request, and what becomes of the request until it has ended.
///
///     const route_answer answer = router.route(request, now_s);
///     if (answer.kind == route_kind::placed)
///       send it to answer.decision.worker, with answer.attempt
///     router.started / prefilled / finished / failed (id, attempt, ..., now_s)   as workers tell
///     router.apply(event); router.report(load, now_s);                           as they come
///     router.tick(now_s, actions);             // what is to be done, and what has ended
///
///     route -> placed -> started -> prefilled -> finished
///       |        |  failed, or its worker was ejected: `again`, a new attempt
///       |        '- cancelled, timed out: `abandon` goes to the worker
///       '-> waits -> `again`: the caller asks once more
///       '-> refused (the answer is the end)
///
/// Every request that was not refused ends with exactly one `ended` action. A router keeps no
/// prompt: where it wants one again, it says `again` and the caller calls route() with the same id.
///
/// Seconds are doubles on one clock that the caller reads (`now_s`) and that never goes back.
#pragma once

#include <oriel/route/prefix_answer.hpp>
#include <oriel/route/worker_event.hpp>

#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace oriel {

/// Who pays for a request.
enum class tenant_id : std::uint32_t {};

[[nodiscard]] constexpr std::uint32_t to_index(tenant_id id) noexcept {
  return static_cast<std::uint32_t>(id);
}

/// No worker: of a decision that there is none.
inline constexpr worker_id no_worker{0xFFFF'FFFFu};

/// What a router is asked.
struct route_request {
  std::uint64_t id = 0;  ///< the same id again is the same request, not another one
  tenant_id tenant = {};
  std::uint64_t session = 0;  ///< key of the conversation; 0: none
  std::uint8_t priority = 0;  ///< higher goes first where requests wait
  /// When the first token must be out, on the clock of now_s.
  double deadline_s = std::numeric_limits<double>::infinity();
  std::uint32_t prompt_tokens = 0;
  std::uint64_t needs = 0;  ///< set of models and adapters, a bit each, that the worker must have
  /// Of the whole pages of the prompt's first N - 1 tokens. Valid during the call.
  std::span<const chain_hash> links = {};
};

/// What a worker tells all routers, with every heartbeat.
struct load_report {
  worker_id worker = {};
  std::uint64_t sequence = 0;       ///< larger with each; an older one is ignored
  double at_s = 0.0;                ///< when it was true, on the routers' clock
  double queued_s = 0.0;            ///< estimated seconds of prefill, queued or running
  std::uint32_t queued = 0;         ///< requests with prefill to do
  std::uint32_t decoding = 0;       ///< requests
  std::uint64_t decode_tokens = 0;  ///< resident in its decode batch
  /// Seconds that it will take one day to compute again what a new token pushes out; 0: has room.
  double evict_token_s = 0.0;
};

/// Why a worker is as good as it is: lower `total` wins. Terms that a score does not use are 0;
/// `total` is in seconds or, where a score says so, of no unit.
struct score_terms {
  double total = 0.0;
  double queue_s = 0.0;      ///< work that is ahead there
  double prefill_s = 0.0;    ///< of what it has to compute
  double fetch_s = 0.0;      ///< of what it has on lower tiers
  double heal_s = 0.0;       ///< of windows that are gone
  double duplicate_s = 0.0;  ///< of what another worker has, charged for the second copy
  double evict_s = 0.0;      ///< of what the new pages push out
  double crowd_s = 0.0;      ///< that others will wait, who come there meanwhile
  double later_s = 0.0;      ///< that its session will wait there later
  double match = 0.0;        ///< share of the prompt, in [0, 1]
};

/// Where a request goes.
struct route_decision {
  worker_id worker = no_worker;  ///< prefill
  worker_id decode = no_worker;  ///< the same one, or the other of a pair
  worker_prefix prefix = {};     ///< what the router believes is there
  double estimate_s = 0.0;       ///< of the prefill's service, without waiting
  score_terms terms = {};
};

/// One row of `explain`.
struct route_candidate {
  worker_id worker = no_worker;
  bool is_eligible = false;  ///< in use, and it has what the request needs
  worker_prefix prefix = {};
  score_terms terms = {};  ///< of eligible ones
};

enum class route_kind : std::uint8_t {
  placed,   ///< `decision` and `attempt` are set
  waits,    ///< in the router's queue: `again` comes when it is its turn
  refused,  ///< `reason`, and when to come back; the id may be used again
  ended,    ///< the id is of a request that has already ended
};

[[nodiscard]] constexpr const char* name_of(route_kind kind) noexcept {
  constexpr const char* names[] = {"placed", "waits", "refused", "ended"};
  return names[static_cast<std::size_t>(kind)];
}

/// Why a request is refused: 429, but for nobody (503).
enum class refusal : std::uint8_t {
  none,
  nobody,        ///< none is in use that has what the request needs
  tenant_limit,  ///< its tenant's token bucket is empty
  overload,      ///< more work is ahead than admission allows (B > B_max)
  queue_full,    ///< the router's queue, or its tenant's part of it
  deadline,      ///< the first token could not come in time, by estimate
  too_many,      ///< requests in flight
};
inline constexpr std::size_t refusals = 7;

[[nodiscard]] constexpr const char* name_of(refusal reason) noexcept {
  constexpr const char* names[refusals] = {
      "none", "nobody", "tenant_limit", "overload", "queue_full", "deadline", "too_many"};
  return names[static_cast<std::size_t>(reason)];
}

struct route_answer {
  route_kind kind = route_kind::refused;
  refusal reason = refusal::none;
  double retry_after_s = 0.0;  ///< of a refusal: seconds from now
  std::uint32_t attempt = 0;   ///< of placed: 1, 2, ...
  route_decision decision = {};
  /// B: estimated seconds of work that were ahead where it was placed, or in the router's queue.
  double ahead_s = 0.0;
};

enum class route_end : std::uint8_t { completed, cancelled, timed_out, failed };
inline constexpr std::size_t route_ends = 4;

[[nodiscard]] constexpr const char* name_of(route_end end) noexcept {
  constexpr const char* names[route_ends] = {"completed", "cancelled", "timed_out", "failed"};
  return names[static_cast<std::size_t>(end)];
}

enum class action_kind : std::uint8_t {
  again,    ///< call route() with this id: it is its turn, or a new attempt is due
  abandon,  ///< tell `worker` to drop `attempt`; its answer no longer counts
  ended,    ///< `end`; the last that is heard of the id
};

[[nodiscard]] constexpr const char* name_of(action_kind kind) noexcept {
  constexpr const char* names[] = {"again", "abandon", "ended"};
  return names[static_cast<std::size_t>(kind)];
}

/// What a router wants of its caller.
struct route_action {
  action_kind kind = action_kind::again;
  std::uint64_t id = 0;
  std::uint32_t attempt = 0;     ///< of abandon and ended: the last one, 0: it never had any
  worker_id worker = no_worker;  ///< of abandon and ended
  route_end end = route_end::completed;
};

/// How a worker takes part.
struct worker_profile {
  std::uint64_t has = ~std::uint64_t{0};  ///< models and adapters that are resident, a bit each
  bool can_prefill = true;
  bool can_decode = true;
};

/// *Laws* Every request that was placed or waits ends with exactly one `ended`. Answers whose
/// (id, attempt) is not current change nothing. When all have ended, no load of theirs is left.
/// `route` with the id of a request in flight gives the same answer and changes nothing, unless
/// `again` was said.
template <class R>
concept router = requires(R r,
                          const R& c,
                          const route_request& request,
                          const worker_event& event,
                          const load_report& load,
                          worker_id worker,
                          const worker_profile& profile,
                          std::uint64_t id,
                          std::uint32_t attempt,
                          double seconds,
                          std::vector<route_action>& actions,
                          std::vector<route_candidate>& candidates) {
  { r.route(request, seconds) } -> std::same_as<route_answer>;
  r.explain(request, seconds, candidates);  ///< appends all workers'; changes nothing
  r.apply(event);
  { r.report(load, seconds) } -> std::same_as<bool>;  ///< was it newer?
  /// What another router has placed: `seconds` of work at `worker`, at the time given last.
  r.note_placed(worker, seconds, seconds);
  { r.started(id, attempt, seconds) } -> std::same_as<bool>;             ///< was it current?
  { r.prefilled(id, attempt, seconds, seconds) } -> std::same_as<bool>;  ///< (actual s, now s)
  { r.finished(id, attempt, seconds) } -> std::same_as<bool>;
  { r.failed(id, attempt, seconds) } -> std::same_as<bool>;
  { r.cancel(id, seconds) } -> std::same_as<bool>;  ///< was it in flight?
  r.join(worker, profile, seconds);                 ///< new, or back; its pages come by events
  r.drain(worker, seconds);                         ///< gets nothing new
  r.leave(worker, seconds);                         ///< gone: what it had is tried elsewhere
  r.tick(seconds, actions);  ///< appends; also what the calls since the last one caused
  { c.queue_s(worker, seconds) } -> std::same_as<double>;  ///< estimated seconds ahead there
};

}  // namespace oriel
