// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `request_book`: the life of the requests of one router, from admission to the one end that each
/// has. It knows no prefix and no score: `affinity_router` says which worker is best, the book says
/// whether the request may go there, and gives back all that it held when it ends.
#pragma once

#include <oriel/metrics/histogram.hpp>
#include <oriel/route/router.hpp>
#include <oriel/route/tenant_shares.hpp>
#include <oriel/route/worker_table.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace oriel {

struct life_options {
  /// B_max: who would have more estimated seconds ahead is refused.
  double ahead_max_s = std::numeric_limits<double>::infinity();
  /// Requests wait in the router, by fair share, while their worker has more than so much ahead.
  /// Infinity: never; then the workers' own order is all the fairness there is.
  double hold_above_s = std::numeric_limits<double>::infinity();
  std::uint32_t waiting_max = 4096;       ///< requests in the router's queue
  std::uint32_t in_flight_max = 1 << 20;  ///< all requests that have not ended
  bool refuses_late = true;               ///< those whose deadline cannot be met, by estimate
  std::uint32_t attempts_max = 3;
  /// Retries may be this share of requests, and this many at once besides.
  double retry_share = 0.2, retry_burst = 32.0;
  /// Else a request whose worker fails after its first token has failed: somebody may have read it.
  bool retries_after_first_token = false;
  double no_worker_max_s = 30.0;      ///< how long an accepted request waits for any worker at all
  double retry_after_s = 1.0;         ///< of refusals that know no better
  std::uint32_t ended_ids = 1 << 16;  ///< so many ids of ended requests are recognised
  tenant_options tenants = {};        ///< of all that `set_tenant` does not name
};

/// Plain counts since construction.
struct life_counters {
  std::uint64_t accepted = 0;  ///< requests that were placed or waited
  std::uint64_t placed = 0;    ///< attempts
  std::uint64_t waited = 0;    ///< requests that waited in the router
  std::array<std::uint64_t, refusals> refused = {};
  std::array<std::uint64_t, route_ends> ended = {};
  std::uint64_t retries = 0;
  std::uint64_t retries_denied = 0;          ///< by the budget
  std::uint64_t stale = 0;                   ///< answers of attempts that do not count any more
  std::uint64_t repeated = 0;                ///< route() with an id that was known
  double estimated_s = 0.0, actual_s = 0.0;  ///< of prefills that were done
};

/// *Thread safety* none. *Memory* about 350 bytes a request in flight, 24 for each ended id.
class request_book {
 public:
  request_book(worker_table& workers, const life_options& options);
  request_book(const request_book&) = delete;
  request_book& operator=(const request_book&) = delete;

  void set_tenant(tenant_id tenant, const tenant_options& options, double now_s) {
    tenants_.set(tenant, options, now_s);
  }

  /// What there is to answer without looking for a worker. O(1).
  /// @returns is the answer complete?
  bool begin(const route_request& request, route_answer& answer);
  /// Nobody may get it. O(log waiting).
  route_answer no_worker_for(const route_request& request, double now_s);
  /// It goes to the worker of `decision`, waits for it, or is refused. O(log in flight).
  route_answer settle(const route_request& request, const route_decision& decision, double now_s);

  bool started(std::uint64_t id, std::uint32_t attempt, double now_s);
  bool prefilled(std::uint64_t id, std::uint32_t attempt, double actual_s);
  bool finished(std::uint64_t id, std::uint32_t attempt);
  bool failed(std::uint64_t id, std::uint32_t attempt, double now_s);
  bool cancel(std::uint64_t id);
  /// A worker is gone: what it had is tried elsewhere. O(in flight).
  void lose_worker(worker_id worker);
  /// Deadlines, turns; appends all actions since the last call.
  void tick(double now_s, std::vector<route_action>& actions);

  [[nodiscard]] std::size_t in_flight() const noexcept { return requests_.size(); }
  [[nodiscard]] std::size_t waiting() const noexcept { return queue_.size(); }
  /// Estimated seconds of those that wait here: with those at the workers, what scaling goes by.
  [[nodiscard]] double waiting_s() const noexcept { return waiting_s_; }
  /// Of those, the ones that wait for this worker.
  [[nodiscard]] double waiting_s(worker_id worker) const noexcept {
    return waiting_for_s_[to_index(worker)].seconds;
  }
  [[nodiscard]] const life_counters& counters() const noexcept { return counters_; }
  /// |actual - estimated| in thousandths of the estimate, where prefill took longer, or shorter.
  [[nodiscard]] const histogram& longer_permille() const noexcept { return longer_; }
  [[nodiscard]] const histogram& shorter_permille() const noexcept { return shorter_; }
  [[nodiscard]] const life_options& options() const noexcept { return options_; }

 private:
  enum class stage : std::uint8_t {
    waits,      // in the queue
    turn,       // in the queue, and `again` was said
    retry,      // `again` was said after a failed attempt
    placed,     // at a worker
    started,    // its prefill runs
    prefilled,  // its first token is out
  };
  struct turn_key {
    std::uint8_t less_priority;  // 255 - priority
    double tag;
    std::uint64_t sequence;
    friend bool operator<(const turn_key& a, const turn_key& b) noexcept {
      return std::tie(a.less_priority, a.tag, a.sequence) <
             std::tie(b.less_priority, b.tag, b.sequence);
    }
  };
  struct entry {
    stage at = stage::placed;
    route_answer answer;  // of its last attempt
    tenant_id tenant = {};
    worker_id wanted = no_worker;  // waits for it
    turn_key key = {};
    double deadline_s = 0.0;
    double waiting_s = 0.0;    // counted in waiting_s_
    double charged_s = 0.0;    // taken from its tenant, and not yet settled
    double stranded_s = -1.0;  // since when there is no worker for it; < 0: there is
    std::uint32_t attempts = 0;
    bool has_waited = false;
  };
  struct wanted_load {
    double seconds = 0.0;
    std::uint32_t requests = 0;
  };
  using requests = std::unordered_map<std::uint64_t, entry>;

  [[nodiscard]] entry* find(std::uint64_t id) noexcept;
  [[nodiscard]] entry* find_attempt(std::uint64_t id, std::uint32_t attempt) noexcept;
  [[nodiscard]] bool must_wait(worker_id worker, double ahead_s) const noexcept;
  route_answer refuse(refusal reason, double retry_after_s);
  [[nodiscard]] route_answer check_new(const route_request& request,
                                       const route_decision& decision,
                                       double ahead_s,
                                       double now_s);
  entry& accept(const route_request& request, double estimate_s);
  route_answer wait(std::uint64_t id, entry& e, const route_decision& decision, double ahead_s);
  void put_in_queue(std::uint64_t id, entry& e, worker_id wanted, double seconds);
  void take_from_queue(std::uint64_t id, entry& e);
  void place(entry& e, const route_decision& decision, double now_s);
  void release(entry& e);
  void retry_or_fail(std::uint64_t id, entry& e);
  void withdraw(std::uint64_t id, entry& e, route_end how);
  void end(std::uint64_t id, route_end how);
  void give_turns(double now_s);
  void note_error(double estimate_s, double actual_s) noexcept;

  worker_table& workers_;
  life_options options_;
  tenant_shares tenants_;
  requests requests_;
  std::set<std::pair<turn_key, std::uint64_t>> queue_;  // in the order of service
  std::vector<wanted_load> waiting_for_s_;              // [workers]
  double waiting_s_ = 0.0;
  std::vector<std::pair<double, std::uint64_t>> deadlines_;  // a heap, earliest first
  std::vector<std::uint64_t> ended_ring_;
  std::size_t ended_at_ = 0;
  std::unordered_set<std::uint64_t> ended_;
  std::vector<route_action> actions_;
  std::vector<double> room_s_;  // [workers] scratch
  double retry_tokens_ = 0.0;
  std::uint64_t sequence_ = 0;
  life_counters counters_;
  histogram longer_, shorter_;
};

}  // namespace oriel
