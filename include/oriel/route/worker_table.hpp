// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `worker_table`: who takes part, who is well, and how much work is ahead at each worker.
///
/// A request counts from the decision on: at the decision its estimate is added, and goes when its
/// prefill is done or it is given up. Work of other routers is known from reports and from what
/// they say of their decisions. So
///
///     queue = max(own work not done, what the last report said + what was placed since - time)
///
/// What it was like lately is remembered too, of all routers' decisions, for minutes: how many
/// requests came, and the mean queue. S seconds placed behind q are S * (q + S / 2) of its
/// integral.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/router.hpp>
#include <oriel/route/score.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace oriel {

struct health_options {
  double eject_after_s = 5.0;           ///< without a report; infinity: never
  std::uint32_t failures_to_eject = 5;  ///< requests failed there in a row, > 0
  double eject_s = 10.0;                ///< how long, after failures; each time twice as long
  double eject_max_s = 300.0;
  /// Who is new or back counts as slower than it is, from slow_start_share to 1 in this time. Not
  /// those that join within this time after the very first: there is nobody to take their place.
  double slow_start_s = 10.0;
  double slow_start_share = 0.1;  ///< in (0, 1]
};

/// Numbers of workers are the caller's: one that is none breaks the contract. Those in what others
/// send (report, note_placed) are not, and are ignored.
///
/// *Thread safety* none. *Memory* about 220 bytes a worker, and 16 for each decision that reports
/// do not cover yet.
class worker_table {
 public:
  /// Arrivals and queues of so long ago count 1 / e; they fade in tick().
  static constexpr double memory_s = 300.0;

  /// @pre workers > 0, options as documented
  worker_table(std::uint32_t workers, const health_options& options);

  [[nodiscard]] std::uint32_t workers() const noexcept {
    return static_cast<std::uint32_t>(workers_.size());
  }

  /// Takes part from now on, with nothing to do. O(1). @pre worker < workers, here and below
  void join(worker_id worker, const worker_profile& profile, double now_s);
  /// Gets nothing new; what it has goes on. O(1).
  void drain(worker_id worker) noexcept { at(worker).is_draining = true; }
  /// Takes no part. Its own work must be given back by end_prefill, end_decode. O(1).
  void leave(worker_id worker) noexcept { at(worker).is_member = false; }

  /// @returns is it newer than the last one, of somebody who takes part, and are its seconds some?
  ///          Else it is ignored. O(decisions since).
  bool report(const load_report& load, double now_s);
  /// Another router has placed work there. O(1) amortised.
  void note_placed(worker_id worker, double seconds, double at_s);

  /// A decision of ours, and what becomes of it. O(1) amortised.
  void place(worker_id worker, worker_id decode, double estimate_s, double now_s);
  void start(worker_id worker, double estimate_s, double now_s) noexcept;
  /// @param change_s  actual minus estimated seconds, or minus the estimate if it was given up
  void end_prefill(worker_id worker, double estimate_s, double change_s, bool was_started) noexcept;
  void end_decode(worker_id decode) noexcept;

  /// A request failed there, or did well.
  void failed(worker_id worker, double now_s) noexcept;
  void did_well(worker_id worker) noexcept { at(worker).failures = 0; }
  /// Nobody could be heard until now, and that is no fault of theirs: silence counts from here.
  /// O(workers).
  void excuse_silence(double now_s) noexcept;
  /// Appends who was ejected since the last call, and takes back whose time is over. O(workers).
  void tick(double now_s, std::vector<worker_id>& ejected);

  /// May it get a new request? O(1).
  [[nodiscard]] bool is_eligible(worker_id worker, std::uint64_t needs) const noexcept {
    const entry& w = at(worker);
    return w.is_member && !w.is_draining && !w.is_ejected && w.profile.can_prefill &&
           (needs & ~w.profile.has) == 0;
  }
  [[nodiscard]] bool is_member(worker_id worker) const noexcept { return at(worker).is_member; }
  [[nodiscard]] bool is_ejected(worker_id worker) const noexcept { return at(worker).is_ejected; }

  /// Estimated seconds of prefill ahead. O(1).
  [[nodiscard]] double queue_s(worker_id worker, double now_s) const noexcept {
    const entry& w = at(worker);
    const double running_s = w.running == 0 ? 0.0 : std::max(0.0, w.running_until_s - now_s);
    const double own_s = w.waiting_s + running_s;
    return w.has_foreign_load ? std::max(own_s, w.free_at_s - now_s) : own_s;
  }
  /// What scores see: who starts slowly seems to have more. O(1).
  [[nodiscard]] worker_load load(worker_id worker, double now_s) const noexcept {
    const entry& w = at(worker);
    worker_load load{
        .queue_s = queue_s(worker, now_s),
        .requests = std::max(w.waiting + w.running + w.decodes, w.told_queued + w.told_decoding),
        .evict_token_s = w.evict_token_s,
        .arrivals_per_s = w.arrivals_per_s,
        .usual_queue_s = w.usual_queue_s};
    if (const double since_s = now_s - w.back_s;
        since_s < options_.slow_start_s && !ORIEL_MUTANT(no_slow_start)) {
      const double least = options_.slow_start_share;
      load.queue_s /= least + (1.0 - least) * std::max(0.0, since_s) / options_.slow_start_s;
    }
    return load;
  }
  /// Own requests there: in prefill, and in decode.
  [[nodiscard]] std::uint32_t prefills(worker_id worker) const noexcept {
    return at(worker).waiting + at(worker).running;
  }
  [[nodiscard]] std::uint32_t decodes(worker_id worker) const noexcept {
    return at(worker).decodes;
  }
  /// Who decodes what `prefill` computes: itself if it can, else the least loaded that can; of
  /// equals, one after the other. no_worker: nobody. O(workers).
  [[nodiscard]] worker_id choose_decode(worker_id prefill, std::uint64_t needs) noexcept;

  [[nodiscard]] std::uint64_t ejections() const noexcept { return ejections_; }

 private:
  struct placed_since {
    double at_s, seconds;
  };
  struct entry {
    // What every decision reads, first.
    worker_profile profile;
    bool is_member = false, is_draining = false, is_ejected = false;
    bool is_new_ejection = false;
    bool has_foreign_load = false;                        // reports, or other routers' decisions
    std::uint32_t waiting = 0, running = 0, decodes = 0;  // own requests
    std::uint32_t told_queued = 0, told_decoding = 0;     // of the last report
    double waiting_s = 0.0;        // estimates of own ones that have not started
    double running_until_s = 0.0;  // when those that have should be done
    double free_at_s = 0.0;        // when all that was reported and placed since should be done
    double back_s = -std::numeric_limits<double>::infinity();  // slow start from here
    double evict_token_s = 0.0;                                // of the last report
    double arrivals_per_s = 0.0, usual_queue_s = 0.0;          // lately

    std::uint64_t told_sequence = 0, told_decode_tokens = 0;  // of the last report
    double told_s = 0.0;                                      // when it was true
    double heard_s = 0.0;
    double eject_until_s = 0.0;            // infinity: until something is heard
    std::uint32_t failures = 0;            // in a row
    std::uint32_t ejections = 0;           // for failures, without a success between
    std::vector<placed_since> since = {};  // the last report, by time
  };

  [[nodiscard]] bool is_known(worker_id worker) const noexcept {
    return to_index(worker) < workers_.size();
  }
  [[nodiscard]] entry& at(worker_id worker) noexcept {
    ORIEL_EXPECTS(is_known(worker));
    return workers_[to_index(worker)];
  }
  [[nodiscard]] const entry& at(worker_id worker) const noexcept {
    ORIEL_EXPECTS(is_known(worker));
    return workers_[to_index(worker)];
  }
  void add_since(entry& w, double seconds, double at_s);
  void remember(worker_id worker, double seconds, double now_s) noexcept;
  void fade(double now_s) noexcept;
  void eject(entry& w, double until_s) noexcept;

  health_options options_;
  std::vector<entry> workers_;
  double first_join_s_ = std::numeric_limits<double>::infinity();
  double faded_s_ = 0.0;  // until then
  std::uint32_t next_decode_ = 0;
  std::uint64_t ejections_ = 0;
};

}  // namespace oriel
