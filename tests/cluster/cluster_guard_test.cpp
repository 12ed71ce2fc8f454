// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The guard's theorem, in every run (docs/scheduling.md), and what admission adds to it.
#include "cluster_world.hpp"

namespace oriel::sim::cluster_guard_test {
namespace {

constexpr order_kind all_orders[] = {order_kind::fcfs,
                                     order_kind::longest_prefix,
                                     order_kind::least_tokens,
                                     order_kind::least_seconds};

TEST_CASE("nobody waits longer than the guard promised, in overload too") {
  const workload work =
      chats({.sessions = 150, .turns = 5, .first_tokens = 15'000, .more_tokens = 12'000});
  for (const order_kind order : all_orders) {
    for (const bool is_open : {false, true}) {
      for (const double least_wait_s : {0.0, 3.0}) {
        INFO(oriel::name_of(order) << ", open " << is_open << ", D " << least_wait_s);
        const workload_view view(work, {.clones = 1, .hours = 0.02, .seed = 4});
        cluster_options o = small_fleet(2);
        o.order = order;
        o.is_open = is_open;
        o.guard = guard_options{.least_wait_s = least_wait_s, .factor = 1.5};
        const run_outcome run = run_cluster(view, o);
        check_books(run);
        CHECK((run.counters.guard_demands > 0 || order == order_kind::fcfs));
        CHECK(run.guard_slack_ms < 60'000.0);  // It was measured.
      }
    }
  }
}

TEST_CASE("the guard's bound is kept with ranks, with decode in steps, and without heals") {
  const workload work = chats({.sessions = 100, .turns = 4});
  const workload_view view(work, {.clones = 1, .hours = 0.02, .seed = 5});
  for (int variant = 0; variant < 4; ++variant) {
    INFO("variant " << variant);
    cluster_options o = small_fleet(2);
    o.guard = guard_options{.least_wait_s = 1.0, .factor = 1.0};
    o.is_open = true;
    o.ranks = variant == 0 ? 4 : 1;
    o.decode_in_steps = variant == 1;
    o.may_heal = variant != 2;
    o.sequences_max = variant == 3 ? 2 : 32;
    check_books(run_cluster(view, o));
  }
}

TEST_CASE("F32: ten times the load with admission: who is taken waits a bounded time") {
  const workload work = chats({.sessions = 400, .turns = 1});
  const workload_view view(work, {.clones = 1, .hours = 0.01, .seed = 1});
  cluster_options o = small_fleet(2);
  o.is_open = true;
  o.ahead_max_s = 10.0;
  o.guard = guard_options{.least_wait_s = 5.0, .factor = 2.0};
  const run_outcome run = run_cluster(view, o);
  check_books(run);
  CHECK(run.counters.rejected > 100);
  CHECK(run.counters.completed > 10);
  double longest_s = 0.0;
  for (const request_outcome& r : run.requests) {
    if (r.end == request_end_kind::completed) {
      CHECK(r.ahead_s <= o.ahead_max_s);
      longest_s = std::max(longest_s, r.wait_s());
    }
  }
  CHECK(longest_s < 2.0 * o.ahead_max_s + 5.0);
}

}  // namespace
}  // namespace oriel::sim::cluster_guard_test
