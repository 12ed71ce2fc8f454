// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "cluster_world.hpp"

#include <cmath>

namespace oriel::sim::cluster_test {
namespace {

constexpr router_kind all_routers[] = {router_kind::predicted_seconds,
                                       router_kind::match_minus_load,
                                       router_kind::session_hash,
                                       router_kind::threshold_gate,
                                       router_kind::least_load,
                                       router_kind::round_robin};

bool same(const request_outcome& a, const request_outcome& b) {
  return a.request == b.request && a.clone == b.clone && a.worker == b.worker &&
         a.arrived_s == b.arrived_s && a.started_s == b.started_s &&
         a.first_token_s == b.first_token_s && a.completed_s == b.completed_s &&
         a.hit_tokens == b.hit_tokens && a.served_s == b.served_s &&
         a.duplicated_tokens == b.duplicated_tokens;
}

TEST_CASE("every request ends once, whatever the policy, and a run is the same again") {
  const workload work = chats({.sessions = 60, .turns = 6});
  for (const router_kind router : all_routers) {
    INFO(name_of(router));
    const workload_view view(work, {.clones = 2, .hours = 0.1, .seed = 3});
    cluster_options o = small_fleet();
    o.router = router;
    const run_outcome run = run_cluster(view, o);
    check_books(run);
    CHECK(run.counters.arrived > 500);
    CHECK(run.counters.completed == run.counters.arrived);
    CHECK(run.utilisation > 0.2);
    const run_outcome again = run_cluster(view, o);
    REQUIRE(again.requests.size() == run.requests.size());
    bool is_same = true;
    for (std::size_t i = 0; i < run.requests.size(); ++i) {
      is_same = is_same && same(run.requests[i], again.requests[i]);
    }
    CHECK(is_same);
  }
}

TEST_CASE("a hit that is not computed is not paid for: seconds of work are those of the tokens") {
  // One prompt at a time, caches of any size: what was served is what the model says of the tokens
  // that no cache gave, but for heals and waits for pages.
  const workload work = chats({.sessions = 20, .turns = 6});
  const workload_view view(work, {.clones = 1, .hours = 0.02, .seed = 1});
  cluster_options o = small_fleet(2);
  o.sequences_max = 1;
  o.may_heal = false;
  o.tiers.device_tokens = 80'000;
  o.tiers.host = {.latency_s = 0.0, .bytes_per_s = 1e15};
  const run_outcome run = run_cluster(view, o);
  check_books(run);
  std::uint64_t computed = 0, from_host = 0;
  for (const request_outcome& r : run.requests) {
    const double expected_s =
        o.node.cost.seconds(r.cached_tokens(), r.input_tokens - r.cached_tokens(), o.chunk_tokens);
    CHECK(r.served_s == Approx(expected_s).epsilon(1e-4));
    computed += r.input_tokens - r.cached_tokens();
    from_host += r.hit_tokens[1];
  }
  CHECK(computed > 0);
  CHECK(from_host > 0);
}

TEST_CASE("one node, first come first served, no prefix twice: every wait is Lindley's") {
  workload_builder b(64);
  random_stream draw(9, 1);
  double at_s = 0.0;
  std::vector<std::uint32_t> tokens;
  std::vector<double> arrivals;
  for (std::uint32_t i = 0; i < scaled(20'000); ++i) {
    at_s += -0.55 * std::log(1.0 - static_cast<double>(draw.next_uniform()));
    b.begin_session(i, 0.0);
    tokens.push_back(200 + draw.next_below(30'000));
    arrivals.push_back(at_s);
    std::vector<std::uint32_t> names;
    std::uint32_t next = 0;
    extend(names, tokens.back(), next);
    b.add({.input_tokens = tokens.back(), .output_tokens = 1, .arrival_s = at_s}, names, {});
  }
  const workload work = b.finish();
  const workload_view view(work, {.clones = 1, .hours = 1e-9, .seed = 1});
  cluster_options o = small_fleet(1);
  o.order = order_kind::fcfs;
  o.sequences_max = 1;
  o.is_open = true;
  o.tiers.device_tokens = 64'000;
  o.tiers.host_tokens = 0;
  o.guard.reset();
  const workload_view all(work, {.clones = 1, .hours = (at_s + 1.0) / 3600.0, .seed = 1});
  cluster_options open = o;
  // Starts are drawn; what is compared is the wait of each by its own arrival.
  const run_outcome run = run_cluster(all, open);
  check_books(run);
  std::vector<request_outcome> by_arrival = run.requests;
  REQUIRE(by_arrival.size() > scaled(20'000) / 3);
  std::ranges::sort(by_arrival, {}, &request_outcome::started_s);
  double worst = 0.0;
  for (std::size_t i = 1; i < by_arrival.size(); ++i) {
    const request_outcome& before = by_arrival[i - 1];
    const request_outcome& r = by_arrival[i];
    const double service_s = o.node.cost.seconds(0.0, before.input_tokens, o.chunk_tokens);
    const double wait_s =
        std::max(0.0, before.wait_s() + service_s - (r.arrived_s - before.arrived_s));
    worst = std::max(worst, std::abs(wait_s - r.wait_s()));
  }
  CHECK(worst < 1e-8);
}

TEST_CASE("of two equal prompts at once the second waits for the first, chunk by chunk") {
  // A simulator that matches at arrival, or the first chunk only, computes both.
  // Seven steps, and two, the last of which has room for the twin's rest.
  for (const std::uint32_t tokens : {102'400u, 20'480u}) {
    workload_builder b(64);
    std::vector<std::uint32_t> names(tokens / 64);
    std::iota(names.begin(), names.end(), 0u);
    for (std::uint32_t i = 0; i < 2; ++i) {
      b.begin_session(0, 0.0);
      b.add({.input_tokens = tokens, .output_tokens = 10, .arrival_s = 0.0}, names, {});
    }
    const workload work = b.finish();
    cluster_options o = small_fleet(1);
    o.guard.reset();
    for (const order_kind order : {order_kind::fcfs, order_kind::least_seconds}) {
      o.order = order;
      // Both start within an hour of 4 us.
      const workload_view view(work, {.clones = 1, .hours = 1e-9, .seed = 1});
      const run_outcome run = run_cluster(view, o);
      check_books(run);
      CHECK(run.counters.arrived == 2);
      CHECK(run.counters.prefill_tokens < tokens + 100);
    }
  }
}

TEST_CASE("what left the nodes comes back from the store that all share") {
  const workload work = chats({.sessions = 60, .turns = 8});
  const workload_view view(work, {.clones = 2, .hours = 0.1, .seed = 4});
  cluster_options o = small_fleet(3);
  o.tiers.device_tokens = o.tiers.host_tokens = 150'000;
  o.worker_outages = {{.who = 1, .from_s = 150.0, .until_s = 160.0}};
  const run_outcome without = run_cluster(view, o);
  o.tiers.shared_tokens = 20'000'000;
  const run_outcome with = run_cluster(view, o);
  check_books(without);
  check_books(with);
  const auto from_store = [](const request_outcome& r) -> std::uint64_t { return r.hit_tokens[2]; };
  CHECK(share_of_input(without, from_store) == 0.0);
  CHECK(share_of_input(with, from_store) > 0.03);
  CHECK(hit_rate(with) > hit_rate(without) + 0.05);
}

TEST_CASE("hits and misses are the input, of prompts that are preempted or skip ahead too") {
  std::uint64_t preempted = 0;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    INFO("seed " << seed);
    // Some begin alike, so that they publish for each other; others make them leave.
    workload_builder b(64);
    random_stream draw(seed, 77);
    std::uint32_t next = 4000;
    for (std::uint32_t i = 0; i < 40; ++i) {
      const bool is_large = draw.next_below(3) == 0;
      std::vector<std::uint32_t> names(is_large ? 0 : 500 + draw.next_below(300));
      std::iota(names.begin(), names.end(), 0u);
      const auto alike = static_cast<std::uint32_t>(names.size());
      extend(names, 64 * (is_large ? 900 + draw.next_below(700) : alike + 20) + 1, next);
      const auto tokens = static_cast<std::uint32_t>(64 * names.size() + 1);
      b.begin_session(0, 0.0);
      b.add({.input_tokens = tokens, .output_tokens = 10, .arrival_s = 0.0}, names, {});
    }
    const workload work = b.finish();
    const workload_view view(work, {.clones = 1, .hours = 0.01, .seed = seed});
    cluster_options o = small_fleet(1);
    o.tiers.device_tokens = 150'000;
    o.tiers.host_tokens = 0;
    o.guard = guard_options{.least_wait_s = 2.0, .factor = 1.0};
    const run_outcome run = run_cluster(view, o);
    check_books(run);
    preempted += run.counters.preemptions;
    for (const request_outcome& r : run.requests) {
      CHECK(r.hit_tokens[0] + r.local_miss_tokens == r.input_tokens);
    }
  }
  CHECK(preempted > 0);
}

TEST_CASE("ranks wait for each other in every layer; buckets keep lengths apart") {
  const workload work = chats({.sessions = 40, .turns = 5, .first_tokens = 40'000});
  const workload_view view(work, {.clones = 2, .hours = 0.1, .seed = 2});
  cluster_options o = small_fleet(4);
  o.tiers.device_tokens = 1'000'000;
  for (const bool is_sticky : {false, true}) {
    o.ranks = 4;
    o.sticky_ranks = is_sticky;
    const run_outcome run = run_cluster(view, o);
    check_books(run);
    CHECK(run.counters.completed == run.counters.arrived);
  }
  o.ranks = 1;
  o.buckets = length_buckets({60'000});
  const run_outcome run = run_cluster(view, o);
  check_books(run);
  std::vector<bool> has_short(4), has_long(4);
  for (const request_outcome& r : run.requests) {
    (r.input_tokens < 60'000 ? has_short : has_long)[r.worker] = true;
  }
  for (std::uint32_t w = 0; w < 4; ++w) {
    CHECK(!(has_short[w] && has_long[w]));
  }
}

TEST_CASE("decode in steps: prompts and answers share them, and all end") {
  const workload work = chats({.sessions = 30, .turns = 5, .output_tokens = 200});
  const workload_view view(work, {.clones = 1, .hours = 0.05, .seed = 2});
  cluster_options o = small_fleet(2);
  o.tiers.device_tokens = 1'000'000;
  o.decode_in_steps = true;
  const run_outcome run = run_cluster(view, o);
  check_books(run);
  CHECK(run.counters.completed == run.counters.arrived);
  for (const request_outcome& r : run.requests) {
    // Not faster than alone.
    const double least_s = (r.output_tokens - 1.0) / o.node.cost.accepted.tokens_per_step() *
                           o.node.cost.decode_step_s(1.0, r.input_tokens);
    CHECK(r.completed_s - r.first_token_s > 0.99 * least_s);
  }
}

TEST_CASE("an answer is as long with decode in steps as without") {
  for (const std::uint32_t output_tokens : {1u, 2u, 4u, 40u, 400u}) {
    INFO("output " << output_tokens);
    const workload work = chats({.sessions = 1, .turns = 1, .output_tokens = output_tokens});
    const workload_view view(work, {.hours = 1.0, .seed = 2});
    REQUIRE(view.start_s(0) > view.measure_begin_s());
    cluster_options o = small_fleet(1);
    double took_s[2], token_s = 0.0;
    for (const bool in_steps : {false, true}) {
      o.decode_in_steps = in_steps;
      const run_outcome run = run_cluster(view, o);
      const auto found = std::ranges::find(run.requests, 0u, &request_outcome::request);
      REQUIRE(found != run.requests.end());
      const request_outcome& r = *found;
      took_s[in_steps] = r.completed_s - r.first_token_s;
      token_s = o.node.cost.decode_step_s(1.0, r.input_tokens + output_tokens);
    }
    const double tokens = output_tokens - 1.0;  // The first comes with the prompt.
    const double steps = tokens / o.node.cost.accepted.tokens_per_step();
    CHECK(took_s[0] == Approx(steps * token_s).margin(1e-9));
    CHECK(took_s[1] == Approx(std::ceil(steps) * token_s).margin(1e-9));
  }
}

}  // namespace
}  // namespace oriel::sim::cluster_test
