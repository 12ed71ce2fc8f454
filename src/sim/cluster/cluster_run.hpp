// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// One run of a simulated fleet: what the files of run_cluster share.
#pragma once

#include "fleet_mirror.hpp"
#include "fleet_router.hpp"
#include "worker_parts.hpp"

#include <oriel/sim/event_loop.hpp>
#include <oriel/sim/worker.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace oriel::sim {

/// How often routers are asked what they want done.
inline constexpr double tick_s = 0.25;

/// Of the store that all share, as routers know it.
inline constexpr std::uint8_t store_tier = page_tiers - 1;

class cluster_run final : private worker_listener {
 public:
  cluster_run(const workload_view& view, const cluster_options& options, progress_report progress);
  ~cluster_run();
  cluster_run(const cluster_run&) = delete;
  cluster_run& operator=(const cluster_run&) = delete;
  run_outcome run();

 private:
  enum class happens : std::uint8_t {
    arrival,     // request b of session a (of all clones)
    step_end,    // of worker a, if its life is still b
    decode_end,  // of live request a
    report,      // of all workers' load
    delivery,    // of letter a
    told_load,   // of parcel a: a report, late
    gossip,      // of parcel a: a decision, late
    tick,        // of all routers
    cancel,      // of live request a, if it is still number b
    outage,      // changes: kind a, number b
    mend,        // what router b missed of worker a
  };
  struct occasion {
    happens what = happens::tick;
    std::uint32_t a = 0;
    std::uint64_t b = 0;
  };
  enum class stage : std::uint8_t { free, routing, prefill, decode };
  struct live {
    std::uint64_t id = 0;
    std::uint32_t request = 0, clone = 0, router = 0, worker = 0, attempt = 0;
    std::uint64_t router_life = 0;
    std::uint64_t session = 0;
    stage at = stage::free;
    request_outcome out;
    std::uint32_t believed_tokens = 0;  // by the router: on device or host
    bool was_started = false;
    event_loop<occasion>::handle decode_end = {};
  };
  struct node {                           // a worker, or the store that all share
    std::unique_ptr<node_worker> worker;  // of a worker
    std::unique_ptr<event_batch> batch;
    event_log said;  // lately, where events are lost
    std::uint64_t life = 1;
    bool is_down = false;
    double busy_from_s = 0.0;
    event_loop<occasion>::handle step_end = {};
  };
  struct seat {  // of a router
    std::unique_ptr<fleet_router> router;
    std::uint64_t life = 0;
    std::vector<bool> is_replaying;  // [nodes]
  };
  struct late_load {
    load_report load;
    std::uint32_t router;
  };
  struct late_gossip {
    worker_id worker;
    double seconds, at_s;
    std::uint32_t router;
  };

  // cluster_run.cpp: the life of requests.
  void begin();
  void handle(const occasion& e);
  void on_arrival(std::uint64_t session, std::uint32_t request);
  void route(std::uint32_t index);
  void place(std::uint32_t index, const route_answer& answer);
  void step(std::uint32_t worker);
  void on_decode_end(std::uint32_t index);
  void end(std::uint32_t index, request_end_kind how);
  void fail_attempt(std::uint32_t index);
  void abandon(std::uint32_t index);
  void turn(std::uint32_t router);
  [[nodiscard]] fleet_router* router_of(const live& l);
  [[nodiscard]] std::uint32_t pick_router(std::uint64_t session) const;
  [[nodiscard]] std::span<const chain_hash> links_of(const live& l);
  void add_busy(std::uint32_t worker, double from_s, double until_s);
  void finish();

  void on_started(std::uint32_t user, const prefill_record& so_far, double now_s) override;
  void on_prefilled(std::uint32_t user, const prefill_record& record, double now_s) override;
  void on_decoded(std::uint32_t user, double now_s) override;
  void on_cache(std::uint32_t worker, std::uint8_t tier, const page_id_event& event) override;
  void on_cache(std::uint32_t worker, std::uint8_t tier, const page_id_stretch& stretch) override;
  void take_record(live& l, const prefill_record& record);

  // cluster_faults.cpp: what routers hear, and what breaks.
  void start_router(std::uint32_t router);
  void flush(std::uint32_t worker);
  template <class Visit>
  void visit_pages(std::uint32_t worker, Visit&& visit) const;
  void send(std::uint32_t worker, const worker_event& event);
  void deliver(std::uint32_t router, const worker_event& event);
  void see_gaps(std::uint32_t router, std::uint32_t worker);
  void mend(std::uint32_t router, std::uint32_t worker);
  void replay(std::uint32_t router, std::uint32_t worker);
  void report_loads();
  void gossip(std::uint32_t from, worker_id worker, double seconds);
  void change(std::uint32_t kind, std::uint64_t number);
  void kill_worker(std::uint32_t worker);
  void start_worker(std::uint32_t worker);

  const workload_view& view_;
  const workload& base_;
  const cluster_options& options_;
  progress_report progress_;
  worker_model model_;
  std::unique_ptr<tier_listener> on_shared_;
  std::unique_ptr<page_cache> shared_;
  event_loop<occasion> loop_;
  std::vector<token_id> pages_;            // of the workload, and one more
  std::vector<cache_namespace> spaces_;    // [clones * name spaces]
  std::vector<std::uint32_t> waits_left_;  // [clones * requests]
  std::vector<node> nodes_;                // the workers, and behind them the store
  std::vector<seat> routers_;
  std::vector<live> live_;
  std::vector<std::uint32_t> free_live_;
  std::uint64_t last_id_ = 0, in_flight_ = 0;
  page_holders_count holders_;
  parcels<letter> letters_;
  parcels<late_load> late_loads_;
  parcels<late_gossip> late_gossip_;
  bool is_store_away_ = false;
  double end_s_ = 0.0;
  std::uint64_t lost_drawn_ = 0;
  std::vector<std::uint32_t> bucket_of_worker_;
  length_buckets one_bucket_{std::vector<std::uint32_t>{}};

  std::vector<chain_hash> links_, told_;  // scratch
  std::vector<route_action> actions_;
  std::vector<std::uint32_t> lost_;
  run_outcome out_;
};

}  // namespace oriel::sim
