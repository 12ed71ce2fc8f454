// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The routers of a fleet whose score is known at run time.
#pragma once

#include <oriel/route/affinity_router.hpp>
#include <oriel/sim/cluster.hpp>

#include <memory>
#include <vector>

namespace oriel::sim {

/// `router` of route/router.hpp, as far as a fleet needs it.
class fleet_router {
 public:
  virtual ~fleet_router() = default;
  virtual route_answer route(const route_request& request, double now_s) = 0;
  virtual event_outcome apply(const worker_event& event) = 0;
  virtual void report(const load_report& load, double now_s) = 0;
  virtual void note_placed(worker_id worker, double seconds, double at_s) = 0;
  virtual void started(std::uint64_t id, std::uint32_t attempt, double now_s) = 0;
  virtual void prefilled(std::uint64_t id,
                         std::uint32_t attempt,
                         double actual_s,
                         double now_s) = 0;
  virtual void finished(std::uint64_t id, std::uint32_t attempt, double now_s) = 0;
  virtual void failed(std::uint64_t id, std::uint32_t attempt, double now_s) = 0;
  virtual void cancel(std::uint64_t id, double now_s) = 0;
  virtual void join(worker_id worker, const worker_profile& profile, double now_s) = 0;
  virtual void tick(double now_s, std::vector<route_action>& actions) = 0;
  virtual void set_degraded(bool is_degraded) = 0;
  [[nodiscard]] virtual const prefix_index& index() const = 0;
  [[nodiscard]] virtual std::size_t in_flight() const = 0;
  [[nodiscard]] virtual double queue_s(double now_s) const = 0;
};

[[nodiscard]] std::unique_ptr<fleet_router> make_router(router_kind kind,
                                                        const router_options& options);

}  // namespace oriel::sim
