// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `node_worker`: one simulated node of a fleet: its queue, its steps, its caches. Scheduler,
/// guard, trees and planners are the library's own; what a step takes comes from `node_cost`.
///
///     worker.arrive(job, now_s);                       // matched, estimated, queued
///     if (const auto end_s = worker.begin_step(now_s)) // planned: admissions, fetches, chunks
///       ... at *end_s: worker.end_step(*end_s);        // published; who is done is told
#pragma once

#include <oriel/route/event_batch.hpp>
#include <oriel/route/router.hpp>
#include <oriel/sched/rank_packer.hpp>
#include <oriel/sched/step_scheduler.hpp>
#include <oriel/sched/wait_guard.hpp>
#include <oriel/sim/cluster.hpp>
#include <oriel/sim/page_cache.hpp>
#include <oriel/tier/layer_plan.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace oriel::sim {

/// What a worker needs to know of a request. What is pointed to outlives it.
struct worker_job {
  std::uint32_t user = 0;  ///< the caller's name for it
  const cache_namespace* space = nullptr;
  std::span<const token_id> pages = {};  ///< of input and output, and one more that is never kept
  std::uint32_t clone = 0;
  std::uint32_t reusable = 0;  ///< pages that a cache may give
  std::uint32_t input_tokens = 0, output_tokens = 0;
};

/// What became of a prefill.
struct prefill_record {
  double started_s = 0.0;    ///< of the first step that served it; negative: none has
  double estimated_s = 0.0;  ///< at its arrival
  double served_s = 0.0;
  double ahead_s = 0.0;
  double guard_slack_s = std::numeric_limits<double>::infinity();
  std::array<std::uint32_t, hit_tiers> hit_tokens = {};
  std::uint32_t local_miss_tokens = 0;
  std::uint32_t fetched_tokens = 0, healed_tokens = 0;
  std::uint32_t first_computed_page = 0;  ///< when it started
};

/// Who hears of a worker. Calls come from within begin_step and end_step, and must not call back.
class worker_listener {
 public:
  virtual void on_started(std::uint32_t user, const prefill_record& so_far, double now_s) = 0;
  virtual void on_prefilled(std::uint32_t user, const prefill_record& record, double now_s) = 0;
  /// Of one request: all its rows of a step were decoded (decode_in_steps).
  virtual void on_decoded(std::uint32_t user, double now_s) = 0;
  virtual void on_cache(std::uint32_t worker, std::uint8_t tier, const page_id_event& event) = 0;
  virtual void on_cache(std::uint32_t worker,
                        std::uint8_t tier,
                        const page_id_stretch& stretch) = 0;

 protected:
  ~worker_listener() = default;
};

/// Counts of one worker since its construction.
struct worker_counters {
  std::uint64_t steps = 0, heals = 0, twin_waits = 0, guard_demands = 0, preemptions = 0;
  std::uint64_t fetches = 0, fetch_stalls = 0, prefill_tokens = 0;
  double fetch_stall_s = 0.0, heal_s = 0.0;
};

/// What all workers of a fleet have in common.
struct worker_model {
  const cluster_options* options = nullptr;
  std::uint32_t page_tokens = 0;
  fetch_model fetch;                            ///< of real pages
  std::vector<std::uint32_t> windows_in_pages;  ///< [window kinds]
  std::vector<std::uint64_t> layer_bytes;       ///< [layers] of one page of its pool
  page_cache* shared = nullptr;                 ///< the store of all nodes; null: none

  /// @pre options.node.model outlives it
  worker_model(const cluster_options& options, std::uint32_t page_tokens);
  worker_model(const worker_model&) = delete;
  worker_model& operator=(const worker_model&) = delete;
  /// Caches of so many tokens, their windows' pages by bytes.
  [[nodiscard]] page_cache_options cache_of(std::uint64_t tokens) const;
};

class tier_listener;

class node_worker {
 public:
  node_worker(std::uint32_t index, const worker_model& model, worker_listener& listener);
  ~node_worker();

  /// A request comes. False: refused, more than ahead_max_s is ahead. @pre now_s never falls
  bool arrive(const worker_job& job, double now_s);
  /// Plans a step and begins it; when it ends. Nothing: nobody can be served, or a step is under
  /// way.
  std::optional<double> begin_step(double now_s);
  /// The step has ended: its pages are published.
  void end_step(double now_s);
  /// Somebody came: a step that stands for many decode steps ends after the one under way. When;
  /// nothing: as was said.
  std::optional<double> cut_short(double now_s);
  /// The request goes, wherever it is; false: it is not here.
  bool cancel(std::uint32_t user, double now_s);
  /// The node dies: requests and caches are lost. Users of what was here go to `lost`.
  void kill(std::vector<std::uint32_t>& lost, double now_s);

  /// Decode that is not in steps: how long it takes from now on, at the present batch.
  double begin_decode(std::uint32_t user, std::uint32_t tokens, std::uint32_t resident);
  void end_decode(std::uint32_t resident) noexcept;

  [[nodiscard]] bool is_busy() const noexcept { return is_stepping_; }
  /// Requests that have prefill to do.
  [[nodiscard]] std::size_t requests() const noexcept;
  [[nodiscard]] load_report load(double now_s) noexcept;
  [[nodiscard]] std::size_t leases() const noexcept;
  [[nodiscard]] const worker_counters& counters() const noexcept { return counters_; }
  [[nodiscard]] const page_cache& device() const noexcept { return *device_; }
  [[nodiscard]] const page_cache* host() const noexcept { return host_.get(); }
  /// Calls visit(tier, page_id_event): all that is cached here.
  template <class Visit>
  void visit_pages(Visit&& visit) const {
    device_->visit_pages([&](const page_id_event& page) { visit(std::uint8_t{0}, page); });
    if (host_) {
      host_->visit_pages([&](const page_id_event& page) { visit(std::uint8_t{1}, page); });
    }
  }

 private:
  enum class job_state : std::uint8_t { free, queued, running };
  struct job {
    worker_job of;
    service_facts facts;
    prefix_match found, on_host;
    std::uint64_t epoch = 0;                    // of the device cache when `found` was
    std::array<std::uint32_t, 3> changes = {};  // in its name space, on each tier, the same
    std::uint64_t order = 0;                    // of arrival here
    wait_guard::place place = 0;
    prefill_record record;
    page_cache::lease device, host, shared;
    std::uint32_t computed = 0;      // tokens
    std::uint32_t first_window = 0;  // pages of windows that it has had, or made whole
    std::uint32_t published = 0;     // pages
    std::uint32_t safe_pages = 0;    // resumable now, by the last look
    double heal_s = 0.0;             // still to be served
    double fetch_from_s = 0.0;       // when the link begins with its pages
    std::array<std::uint64_t, 2> fetch_full = {}, fetch_windows = {};  // pages, of the first chunk
    double excess_s = 0.0, last_step_s = 0.0;                          // of the theorem
    job_state state = job_state::free;
    double decode_left = 0.0;      // tokens
    std::uint32_t idle_steps = 0;  // of its decode
    bool is_decoding = false;
    bool was_started = false, is_cancelled = false, is_held = false;
    bool is_cut = false;  // the device had no room for all of it: the rest is not kept
  };
  struct chunk {
    std::uint32_t job = 0, rows = 0, rank = 0;
    double seconds = 0.0;
  };
  struct growth {
    std::uint64_t order;
    double seconds;
  };
  void look(job& j);
  [[nodiscard]] bool has_changed(job& j) const noexcept;
  void refresh(job& j);
  [[nodiscard]] double estimate_s(const job& j, std::uint32_t from_tokens) const noexcept;
  [[nodiscard]] std::uint32_t window_span() const noexcept;
  void set_remaining(job& j, double seconds);
  void choose_candidates(bool is_demanding);
  [[nodiscard]] bool waits_for_twin(const job& j) const noexcept;
  const step_plan& plan(bool is_demanding);
  void admit(std::uint32_t index, double now_s);
  void preempt(std::uint32_t index, double now_s);
  void fetch(job& j, double now_s);
  void bring(job& j, const fetch_plan& way, double now_s);
  void skip_ahead(job& j, double now_s);
  void start(job& j, double now_s);
  double run_chunks(const step_plan& plan, bool is_demanding, double now_s);
  void drop_younger();
  void pack_ranks(bool is_demanding);
  [[nodiscard]] double barrier_s();
  [[nodiscard]] double stall(double step_s, double now_s);
  void count_service(double step_s);
  void decode(double now_s);
  [[nodiscard]] std::uint32_t pages_of(const job& j) const noexcept;
  [[nodiscard]] std::uint32_t sequences_max() const noexcept;
  [[nodiscard]] double stall_of(job& j, double step_s, double now_s);
  void publish(job& j, double now_s);
  void write_through(page_cache* tier,
                     page_cache::lease& held,
                     const job& j,
                     std::uint32_t first_window,
                     std::uint32_t end,
                     double now_s);
  void release(job& j, const lease_end& end, double now_s) noexcept;
  void finish(std::uint32_t index, double now_s);
  void forget(std::uint32_t index) noexcept;
  void see_waiting();
  void settle_growth();

  [[nodiscard]] static std::uint64_t us(double s) noexcept {
    return static_cast<std::uint64_t>(s * 1e6);
  }

  std::uint32_t index_;
  const worker_model& model_;
  const cluster_options& options_;
  worker_listener& listener_;
  std::unique_ptr<tier_listener> on_device_, on_host_;
  std::unique_ptr<page_cache> device_, host_;
  step_scheduler<chosen_order> scheduler_;
  std::optional<rank_packer> packer_;  // of several ranks
  step_planner oldest_first_;          // of steps that the guard demands
  wait_guard guard_;

  std::vector<job> jobs_;
  std::vector<std::uint32_t> free_jobs_;
  std::vector<std::uint32_t> queue_;    // jobs, by arrival
  std::vector<std::uint32_t> running_;  // jobs
  std::uint64_t last_order_ = 0;
  std::uint32_t promised_ = 0;  // full pages, to those that run
  std::uint32_t decoding_ = 0;
  std::uint64_t decode_tokens_ = 0;
  std::uint64_t reports_ = 0;
  bool is_stepping_ = false;
  double link_free_s_[2] = {0.0, 0.0};  // of the ways from host and shared

  // Of the step under way.
  std::vector<chunk> chunks_;
  std::vector<std::uint32_t> decoders_;  // jobs
  std::uint64_t decode_steps_ = 1;
  double step_from_s_ = 0.0, decode_s_ = 0.0;
  std::vector<growth> growth_;
  double now_s_ = 0.0;

  // Scratch.
  std::vector<std::uint32_t> candidates_;
  std::vector<std::uint32_t> waiting_;
  std::vector<std::uint32_t> rows_of_;  // jobs, as in step_plan::rows
  std::vector<queued_request> queued_seen_;
  std::vector<running_sequence> running_seen_;
  std::vector<std::uint32_t> needs_;
  std::vector<double> arrivals_;
  std::vector<std::uint64_t> arrival_bytes_;
  std::vector<double> layer_seconds_;
  std::vector<rank_job> rank_jobs_;
  std::vector<rank_work> rank_work_;
  std::vector<chunk> packed_;
  tier_coverage coverage_;
  worker_counters counters_;
};

}  // namespace oriel::sim
