// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `server`: one machine and those that wait for it, in simulated time.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/sched/order.hpp>
#include <oriel/sched/wait_guard.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace oriel::sim {

/// What is served.
struct server_job {
  std::uint64_t id = 0;      ///< the caller's
  service_facts facts = {};  ///< remaining_s: estimated, and served down as the work is done
  double work_s = 0.0;       ///< that it takes; >= 0
};

struct server_options {
  bool is_preemptive = false;  ///< who arrives may displace who is served; no work is lost
  std::optional<guard_options> guard = {};
};

/// Work-conserving: it is never idle while somebody waits. A link or a store that serves one
/// request at a time is an fcfs server; the queues whose laws are known are what it is validated by
/// (tests/sim_core/queue_laws_test.cpp).
///
///     server<fcfs_order> s;
///     if (s.arrive(job, now)) { plan s.next_end_s() }      // until then nothing changes by itself
///     ...
///     const auto done = s.end(now);                        // at next_end_s()
///
/// @tparam Order  whose rank of a job changes only while it is served
/// *Thread safety* none. *Memory* 150 bytes for each job that was here at once, kept.
template <service_order Order>
class server {
 public:
  struct ended {
    server_job job;
    double started_s = 0.0;  ///< first served
  };

  explicit server(const server_options& options = {}, Order order = {})
      : options_(options), order_(std::move(order)) {
    if (options.guard) {
      guard_.emplace(*options.guard);
    }
  }

  /// @returns whether next_end_s has changed. O(log jobs) @pre time does not go back
  /// @throws std::bad_alloc
  bool arrive(const server_job& job, double now_s) {
    ORIEL_EXPECTS(job.work_s >= 0.0 && now_s >= now_s_);
    const double end_s = next_end_s();
    pass(now_s);
    entry e{.job = job, .left_s = job.work_s, .arrival = arrivals_++};
    if (guard_) {
      e.place = guard_->arrive(now_s, job.facts.remaining_s);
    }
    arrived_s_ += job.work_s;
    push(e);
    if (is_busy_ && options_.is_preemptive) {
      push(current_);
      is_busy_ = false;
    }
    if (!is_busy_) {
      choose();
    }
    return next_end_s() != end_s;
  }

  /// When the job that is served ends if nobody arrives; infinity: it is idle. O(1).
  [[nodiscard]] double next_end_s() const noexcept {
    return is_busy_ ? ends_s_ : std::numeric_limits<double>::infinity();
  }

  /// The job that is served ends, and the next begins. O(log jobs) @pre now_s is next_end_s()
  ended end(double now_s) {
    ORIEL_EXPECTS(is_busy_ && now_s == ends_s_);
    served_s_ += current_.left_s;
    now_s_ = now_s;
    ended done{.job = current_.job, .started_s = current_.started_s};
    if (guard_) {
      guard_->leave(current_.place);
    }
    is_busy_ = false;
    if (!waiting_.empty()) {
      choose();
    }
    return done;
  }

  [[nodiscard]] bool is_busy() const noexcept { return is_busy_; }
  [[nodiscard]] std::size_t waiting() const noexcept { return waiting_.size(); }
  /// Of all that came: seconds of service.
  [[nodiscard]] double arrived_work_s() const noexcept { return arrived_s_; }
  /// That was given until the last call.
  [[nodiscard]] double served_work_s() const noexcept { return served_s_; }

 private:
  struct entry {
    server_job job;
    double left_s = 0.0;
    double rank = 0.0;
    double started_s = -1.0;
    std::uint64_t arrival = 0;
    wait_guard::place place = 0;
    [[nodiscard]] bool is_after(const entry& o) const noexcept {
      return rank > o.rank || (rank == o.rank && arrival > o.arrival);
    }
  };
  static bool is_after(const entry& a, const entry& b) noexcept { return a.is_after(b); }

  void push(entry e) {
    e.rank = ORIEL_MUTANT(server_forgets_the_order) ? 0.0 : order_.rank(e.job.facts);
    waiting_.push_back(e);
    std::ranges::push_heap(waiting_, is_after);
  }
  /// The work of the time since the last call.
  void pass(double now_s) {
    if (is_busy_) {
      const double left_s = ends_s_ - now_s;
      const double done_s = current_.left_s - left_s;
      served_s_ += done_s;
      current_.left_s = ORIEL_MUTANT(server_starts_over) ? current_.left_s : left_s;
      const double estimate_s = current_.job.facts.remaining_s;
      current_.job.facts.remaining_s = std::max(0.0, estimate_s - done_s);
      if (guard_) {
        guard_->serve(current_.place, done_s);
      }
    }
    now_s_ = now_s;
  }
  void choose() {
    if (guard_ && !ORIEL_MUTANT(server_does_not_ask_its_guard) && guard_->demands_oldest(now_s_)) {
      const auto oldest = std::ranges::find(waiting_, guard_->oldest(), &entry::place);
      current_ = *oldest;
      *oldest = waiting_.back();
      waiting_.pop_back();
      std::ranges::make_heap(waiting_, is_after);
    } else {
      std::ranges::pop_heap(waiting_, is_after);
      current_ = waiting_.back();
      waiting_.pop_back();
    }
    is_busy_ = true;
    if (current_.started_s < 0.0) {
      current_.started_s = now_s_;
    }
    ends_s_ = now_s_ + current_.left_s;
  }

  server_options options_;
  Order order_;
  std::optional<wait_guard> guard_;
  bool is_busy_ = false;
  entry current_ = {};
  double ends_s_ = 0.0, now_s_ = 0.0;
  std::vector<entry> waiting_;  // a heap
  std::uint64_t arrivals_ = 0;
  double arrived_s_ = 0.0, served_s_ = 0.0;
};

}  // namespace oriel::sim
