// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "fleet_router.hpp"

#include <limits>
#include <utility>

namespace oriel::sim {
namespace {

template <route_score Score>
class scored_router final : public fleet_router {
 public:
  explicit scored_router(const router_options& options, Score score = {})
      : router_(options, std::move(score)) {}

  route_answer route(const route_request& request, double now_s) override {
    return router_.route(request, now_s);
  }
  event_outcome apply(const worker_event& event) override { return router_.apply(event); }
  void report(const load_report& load, double now_s) override { router_.report(load, now_s); }
  void note_placed(worker_id worker, double seconds, double at_s) override {
    router_.note_placed(worker, seconds, at_s);
  }
  void started(std::uint64_t id, std::uint32_t attempt, double now_s) override {
    router_.started(id, attempt, now_s);
  }
  void prefilled(std::uint64_t id, std::uint32_t attempt, double actual_s, double now_s) override {
    router_.prefilled(id, attempt, actual_s, now_s);
  }
  void finished(std::uint64_t id, std::uint32_t attempt, double now_s) override {
    router_.finished(id, attempt, now_s);
  }
  void failed(std::uint64_t id, std::uint32_t attempt, double now_s) override {
    router_.failed(id, attempt, now_s);
  }
  void cancel(std::uint64_t id, double now_s) override { router_.cancel(id, now_s); }
  void join(worker_id worker, const worker_profile& profile, double now_s) override {
    router_.join(worker, profile, now_s);
  }
  void tick(double now_s, std::vector<route_action>& actions) override {
    router_.tick(now_s, actions);
  }
  void set_degraded(bool is_degraded) override { router_.set_degraded(is_degraded); }
  [[nodiscard]] const prefix_index& index() const override { return router_.index(); }
  [[nodiscard]] std::size_t in_flight() const override { return router_.book().in_flight(); }
  [[nodiscard]] double queue_s(double now_s) const override { return router_.queue_s(now_s); }

 private:
  affinity_router<Score> router_;
};

}  // namespace

std::unique_ptr<fleet_router> make_router(router_kind kind, const router_options& options) {
  switch (kind) {
    case router_kind::predicted_seconds:
      return std::make_unique<scored_router<predicted_seconds>>(options);
    case router_kind::match_minus_load:
      return std::make_unique<scored_router<match_minus_load>>(options);
    case router_kind::session_hash:
      return std::make_unique<scored_router<session_hash>>(options);
    case router_kind::plain_hash:
      return std::make_unique<scored_router<session_hash>>(
          options, session_hash({.least_s = std::numeric_limits<double>::infinity()}));
    case router_kind::threshold_gate:
      return std::make_unique<scored_router<threshold_gate>>(options);
    case router_kind::least_load:
      return std::make_unique<scored_router<least_load>>(options);
    case router_kind::round_robin:
      break;
  }
  return std::make_unique<scored_router<round_robin>>(options);
}

}  // namespace oriel::sim
