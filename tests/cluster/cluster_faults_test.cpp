// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Complaints about routers (docs/routing.md) and faults (docs/reliability.md), as scenarios.
#include "cluster_world.hpp"

namespace oriel::sim::cluster_faults_test {
namespace {

TEST_CASE("idle workers take turns: no tie goes to worker 0 for ever") {
  const workload work = chats({.sessions = 160, .turns = 1, .first_tokens = 2'000});
  const workload_view view(work, {.clones = 1, .hours = 1.0, .seed = 1});
  for (const router_kind router : {router_kind::predicted_seconds,
                                   router_kind::match_minus_load,
                                   router_kind::threshold_gate,
                                   router_kind::least_load}) {
    INFO(name_of(router));
    cluster_options o = small_fleet(8);
    o.router = router;
    const run_outcome run = run_cluster(view, o);
    check_books(run);
    std::vector<std::uint32_t> count(8);
    for (const request_outcome& r : run.requests) {
      ++count[r.worker];
    }
    CHECK(*std::ranges::max_element(count) < 2 * run.requests.size() / 8);
  }
}

TEST_CASE("four routers that see late do not all take the same worker") {
  // 200 prompts within 50 ms, which is less than what is heard of each other and of loads.
  const workload work = chats({.sessions = 200, .turns = 1, .first_tokens = 8'000, .gap_s = 0.0});
  const workload_view view(work, {.clones = 1, .hours = 0.05 / 3600.0, .seed = 1});
  cluster_options o = small_fleet(8);
  o.routers = 4;
  o.stale = {.event_delay_s = 0.1, .report_delay_s = 0.1, .gossip_delay_s = 0.1};
  const run_outcome run = run_cluster(view, o);
  check_books(run);
  CHECK(run.requests.size() > 100);
  std::vector<double> work_s(8);
  for (const request_outcome& r : run.requests) {
    work_s[r.worker] += r.served_s;
  }
  CHECK(*std::ranges::max_element(work_s) < 1.5 * sum(work_s) / 8.0);
}

TEST_CASE("one hot worker does not end the affinity of all others") {
  // Half of all sessions are as usual; one floods.
  workload_builder b(64);
  for (std::uint32_t s = 0; s < 20; ++s) {
    b.begin_session(s, 0.0);
    std::vector<std::uint32_t> names, waits;
    std::uint32_t next = 0;
    for (std::uint32_t t = 0; t < 20; ++t) {
      const std::uint32_t tokens = 30'000 + 640 * t;
      extend(names, tokens, next);
      waits = {b.add({.input_tokens = tokens, .output_tokens = 10, .gap_s = 3.0}, names, waits)};
    }
  }
  b.begin_session(20, 0.0);
  std::vector<std::uint32_t> hot(1093);
  std::iota(hot.begin(), hot.end(), 0u);
  for (std::uint32_t i = 0; i < 600; ++i) {
    b.add({.input_tokens = 70'000, .output_tokens = 10, .gap_s = 0.12 * i}, hot, {});
  }
  const workload work = b.finish();
  const workload_view view(work, {.clones = 1, .hours = 0.03, .seed = 2});
  const auto missed = [&](router_kind router) {
    cluster_options o = small_fleet(4);
    o.tiers.device_tokens = 1'000'000;
    o.router = router;
    const run_outcome run = run_cluster(view, o);
    check_books(run);
    std::uint64_t tokens = 0;
    for (const request_outcome& r : run.requests) {
      tokens += r.session != 20 ? r.local_miss_tokens : 0;
    }
    return static_cast<double>(tokens);
  };
  const double ours = missed(router_kind::predicted_seconds);
  const double hash = missed(router_kind::session_hash);
  INFO("missed " << ours << " with predicted seconds, " << hash << " with session hash");
  CHECK(ours < 1.3 * hash);
}

TEST_CASE("F35: a worker dies: its requests are tried elsewhere, none is lost or answered twice") {
  const workload work = chats({.sessions = 80, .turns = 6, .output_tokens = 1'500});
  for (const bool in_steps : {false, true}) {
    const workload_view view(work, {.clones = 2, .hours = 0.1, .seed = 6});
    cluster_options o = small_fleet(4);
    o.decode_in_steps = in_steps;
    o.worker_outages = {{.who = 1, .from_s = 100.0, .until_s = 200.0},
                        {.who = 2, .from_s = 150.0, .until_s = 160.0}};
    const run_outcome run = run_cluster(view, o);
    check_books(run);
    CHECK(run.counters.retried > 0);
    CHECK(static_cast<double>(run.counters.failed) <
          0.01 * static_cast<double>(run.counters.arrived));
    bool came_back = false;
    for (const request_outcome& r : run.requests) {
      const bool is_dead = r.worker == 1 && r.started_s > 100.0 && r.started_s < 200.0;
      CHECK(!(is_dead && r.end == request_end_kind::completed));
      came_back = came_back || (r.worker == 1 && r.started_s > 200.0);
    }
    CHECK(came_back);
  }
}

TEST_CASE("F36: events are lost and late: gaps are seen, hits fall a little") {
  const workload work = chats({.sessions = 60, .turns = 10});
  const workload_view view(work, {.clones = 2, .hours = 0.15, .seed = 7});
  cluster_options o = small_fleet(4);
  const run_outcome sound = run_cluster(view, o);
  o.routers = 4;
  o.stale = {
      .event_delay_s = 0.1, .event_loss = 0.01, .report_delay_s = 0.1, .gossip_delay_s = 0.1};
  const run_outcome stale = run_cluster(view, o);
  check_books(sound);
  check_books(stale);
  CHECK(stale.counters.lost_events > 10);
  CHECK(stale.counters.replays > 0);
  INFO("hits " << hit_rate(sound) << ", stale " << hit_rate(stale));
  CHECK(hit_rate(stale) > hit_rate(sound) - 0.02);
}

TEST_CASE("a router that dies, and a state store that goes away, lose no request and few hits") {
  const workload work = chats({.sessions = 60, .turns = 10});
  const workload_view view(work, {.clones = 2, .hours = 0.15, .seed = 8});
  cluster_options o = small_fleet(4);
  o.routers = 4;
  const run_outcome sound = run_cluster(view, o);
  o.router_outages = {{.who = 0, .from_s = 200.0, .until_s = 300.0}};
  o.store_outages = {{.from_s = 350.0, .until_s = 360.0}};
  const run_outcome faulty = run_cluster(view, o);
  check_books(sound);
  check_books(faulty);
  CHECK(faulty.counters.failed == 0);
  CHECK(faulty.counters.degraded_decisions > 0);
  CHECK(faulty.counters.replays > 0);
  INFO("hits " << hit_rate(sound) << ", with faults " << hit_rate(faulty));
  CHECK(hit_rate(faulty) > hit_rate(sound) - 0.02);
  CHECK(local_miss_rate(faulty) < local_miss_rate(sound) + 0.05);
}

TEST_CASE("F21: cancelled anywhere, a request ends once and leaves nothing") {
  const workload work = chats({.sessions = 100, .turns = 6});
  for (const bool in_steps : {false, true}) {
    const workload_view view(work, {.clones = 2, .hours = 0.05, .seed = 9});
    cluster_options o = small_fleet(2);
    o.decode_in_steps = in_steps;
    o.cancel_share = 0.4;
    o.cancel_mean_s = 2.0;
    o.deadline_s = 30.0;
    o.worker_outages = {{.who = 0, .from_s = 60.0, .until_s = 80.0}};
    const run_outcome run = run_cluster(view, o);
    check_books(run);
    CHECK(run.counters.cancelled > 20);
  }
}

}  // namespace
}  // namespace oriel::sim::cluster_faults_test
