// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/scale.hpp"

#include <oriel/core/random.hpp>
#include <oriel/sched/step_scheduler.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <numeric>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace step_scheduler_test {

using namespace oriel;

namespace {

using pages = std::vector<std::uint32_t>;

queued_request waiting(double arrived_s, std::uint32_t uncached, const pages& needs) {
  return {.facts = {.arrived_s = arrived_s,
                    .remaining_s = 1e-3 * uncached,
                    .uncached_tokens = uncached},
          .pages = needs};
}

running_sequence prompt_of(double arrived_s, std::uint32_t missing, const pages& has) {
  return {
      .facts = {.arrived_s = arrived_s, .remaining_s = 1e-3 * missing, .uncached_tokens = missing},
      .pages = has,
      .missing_rows = missing,
      .recompute_s = 1.0};
}

running_sequence decoding(double arrived_s, const pages& has) {
  running_sequence r = prompt_of(arrived_s, 1, has);
  r.decodes = true;
  return r;
}

}  // namespace

TEST_CASE("sequences that decode come first, prompts get the rest in their order") {
  const pages few{4, 2};
  const std::vector<running_sequence> running{
      prompt_of(1, 300, few), decoding(2, few), prompt_of(3, 20, few), decoding(4, few)};
  const pages room{100, 100};
  step_scheduler<least_seconds_order> least({.budget_tokens = 64, .sequences_max = 8});
  CHECK(least.plan({.running = running, .room = room}).rows == pages{42, 1, 20, 1});
  step_scheduler<fcfs_order> fcfs({.budget_tokens = 64, .sequences_max = 8});
  CHECK(fcfs.plan({.running = running, .room = room}).rows == pages{62, 1, 0, 1});
}

TEST_CASE("prompts keep their share though all the others decode, who take turns") {
  const pages few{1};
  std::vector<running_sequence> running{prompt_of(100, 500, few)};
  for (int i = 0; i < 8; ++i) {
    running.push_back(decoding(i, few));
  }
  step_scheduler<fcfs_order> scheduler(
      {.budget_tokens = 9, .prefill_share = 0.5, .sequences_max = 9});
  std::vector<std::uint32_t> decoded(running.size());
  for (int step = 0; step < 40; ++step) {
    const step_plan& plan = scheduler.plan({.running = running, .room = few});
    CHECK(plan.rows[0] == 5);  // ceil(0.5 * 9)
    for (std::size_t i = 1; i < running.size(); ++i) {
      decoded[i] += plan.rows[i];
      running[i].idle_steps = plan.rows[i] != 0 ? 0 : running[i].idle_steps + 1;
    }
  }
  for (std::size_t i = 1; i < decoded.size(); ++i) {
    CHECK(decoded[i] == 20);
  }
  running.erase(running.begin());  // Without a prompt all decode.
  const step_plan& plan = scheduler.plan({.running = running, .room = few});
  CHECK(std::accumulate(plan.rows.begin(), plan.rows.end(), 0u) == 8);
}

TEST_CASE("drafts decode together or not at all, and a heal ends a chunk") {
  const pages few{1};
  std::vector<running_sequence> running{decoding(1, few), decoding(2, few), prompt_of(3, 100, few)};
  running[0].missing_rows = running[1].missing_rows = 4;
  running[2].rows_max = 7;
  step_scheduler<fcfs_order> scheduler(
      {.budget_tokens = 12, .prefill_share = 0.5, .sequences_max = 4});
  CHECK(scheduler.plan({.running = running, .room = few}).rows == pages{4, 0, 7});
}

TEST_CASE("who does not fit one pool waits, and is passed unless the order is strict") {
  const pages large{2, 9}, small{2, 1}, room{8, 4};
  const std::vector<queued_request> queued{waiting(1, 10, large), waiting(2, 10, small)};
  step_scheduler<least_seconds_order> passing({.budget_tokens = 64, .sequences_max = 8});
  CHECK(passing.plan({.queued = queued, .room = room}).admit == pages{1});
  step_scheduler<fcfs_order> strict({.budget_tokens = 64, .sequences_max = 8});
  CHECK(strict.plan({.queued = queued, .room = room}).admit.empty());
}

TEST_CASE("the second twin waits for the first, and who is held for nobody") {
  const pages few{1}, room{9};
  std::vector<queued_request> queued{waiting(1, 10, few), waiting(2, 10, few), waiting(3, 10, few)};
  queued[0].next_page = queued[1].next_page = 77;
  queued[2].next_page = 78;
  step_scheduler<fcfs_order> scheduler({.budget_tokens = 64, .sequences_max = 8});
  CHECK(scheduler.plan({.queued = queued, .room = room}).admit == pages{0, 2});
  queued[0].is_held = true;
  CHECK(scheduler.plan({.queued = queued, .room = room}).admit == pages{1, 2});
}

TEST_CASE("whom the guard demands comes first, and later ones make room for it") {
  const pages half{5, 5}, none{0, 0};
  std::vector<running_sequence> running{
      prompt_of(1, 50, half), prompt_of(6, 50, half), prompt_of(7, 50, half)};
  running[1].recompute_s = 9.0;
  running[1].swap_s = 0.5;
  const std::vector<queued_request> queued{waiting(5, 900, half), waiting(8, 1, half)};
  step_scheduler<least_seconds_order> scheduler({.budget_tokens = 64, .sequences_max = 3});
  const step_state state{.queued = queued, .running = running, .room = none};
  CHECK(scheduler.plan(state).admit.empty());
  step_state demanding = state;
  demanding.demanded = 0;
  const step_plan& plan = scheduler.plan(demanding);
  CHECK(plan.preempt == std::vector<preemption>{{1, preemption_way::swap}});  // The cheapest.
  CHECK(plan.admit == pages{0});
  CHECK(plan.rows == pages{0, 0, 0, 64});
  demanding.demanded = 2;  // The first that runs.
  CHECK(scheduler.plan(demanding).rows == pages{50, 14, 0});
}

TEST_CASE("R11: a plan that cannot make room preempts nobody, and lets nobody pass") {
  const pages few{1}, many{10}, room{3};
  const std::vector<running_sequence> running{prompt_of(1, 50, many), prompt_of(9, 50, few)};
  const std::vector<queued_request> queued{waiting(5, 900, many), waiting(8, 1, few)};
  step_scheduler<least_seconds_order> scheduler({.budget_tokens = 64, .sequences_max = 4});
  const step_plan& plan =
      scheduler.plan({.queued = queued, .running = running, .room = room, .demanded = 0});
  CHECK(plan.preempt.empty());
  CHECK(plan.admit.empty());
  CHECK(plan.rows == pages{50, 14});
}

namespace {

/// A random state, and what must be true of its plan.
struct drawn_state {
  explicit drawn_state(std::uint64_t seed) : draw(seed, 81) {
    const std::uint32_t pools = 1 + draw.next_below(3);
    const auto needs = [&] {
      pages p;
      for (std::uint32_t i = 0; i < pools; ++i) {
        p.push_back(draw.next_below(12));
      }
      return std::span<const std::uint32_t>(kept.emplace_back(std::move(p)));
    };
    options.sequences_max = 1 + draw.next_below(12);
    options.budget_tokens = options.sequences_max + draw.next_below(200);
    options.prefill_share = 0.9 * draw.next_below(10) / 10;
    const auto facts = [&](std::uint32_t uncached) {
      return service_facts{.arrived_s = 0.1 * draw.next_below(100),
                           .remaining_s = 1e-3 * draw.next_below(5000),
                           .cached_tokens = draw.next_below(500),
                           .uncached_tokens = uncached};
    };
    for (std::uint32_t i = draw.next_below(options.sequences_max + 1); i > 0; --i) {
      running_sequence r{.facts = facts(0), .pages = needs()};
      r.decodes = draw.next_below(2) == 0;
      r.missing_rows = r.decodes ? 1 + draw.next_below(4) : 1 + draw.next_below(300);
      r.rows_max = !r.decodes && draw.next_below(4) == 0 ? 1 + draw.next_below(50) : ~0u;
      r.idle_steps = draw.next_below(9);
      r.recompute_s = draw.next_below(9);
      r.swap_s = draw.next_below(9);
      running.push_back(r);
    }
    for (std::uint32_t i = draw.next_below(30); i > 0; --i) {
      queued.push_back({.facts = facts(1 + draw.next_below(300)),
                        .pages = needs(),
                        .is_held = draw.next_below(5) == 0,
                        .next_page = draw.next_below(8)});
    }
    room = needs();
    const auto all = static_cast<std::uint32_t>(queued.size() + running.size());
    if (all != 0 && draw.next_below(2) == 0) {
      demanded = draw.next_below(all);
    }
  }
  [[nodiscard]] step_state state() const { return {queued, running, room, demanded}; }

  random_stream draw;
  std::deque<pages> kept;
  step_options options;
  std::vector<queued_request> queued;
  std::vector<running_sequence> running;
  std::span<const std::uint32_t> room;
  std::uint32_t demanded = step_state::no_demand;
};

template <service_order Order>
void check_plan(const drawn_state& d, const step_plan& plan, const Order& order) {
  REQUIRE(plan.rows.size() == d.running.size() + plan.admit.size());
  std::set<std::uint32_t> preempted;
  pages room(d.room.begin(), d.room.end());
  for (const preemption& p : plan.preempt) {
    const running_sequence& r = d.running.at(p.running);
    REQUIRE(preempted.insert(p.running).second);
    REQUIRE(plan.rows[p.running] == 0);
    REQUIRE((p.way == preemption_way::swap) == (r.swap_s < r.recompute_s));
    REQUIRE(d.demanded < d.queued.size());
    REQUIRE(r.facts.arrived_s > d.queued[d.demanded].facts.arrived_s);
    for (std::size_t pool = 0; pool < room.size(); ++pool) {
      room[pool] += r.pages[pool];
    }
  }
  if (!plan.preempt.empty()) {
    REQUIRE(!plan.admit.empty());
    REQUIRE(plan.admit[0] == d.demanded);
  }
  std::set<std::uint64_t> next_pages;
  for (const std::uint32_t i : plan.admit) {
    const queued_request& q = d.queued.at(i);
    REQUIRE(!q.is_held);
    REQUIRE((q.next_page == 0 || next_pages.insert(q.next_page).second));
    for (std::size_t pool = 0; pool < room.size(); ++pool) {
      REQUIRE(q.pages[pool] <= room[pool]);
      room[pool] -= q.pages[pool];
    }
  }
  REQUIRE(d.running.size() - preempted.size() + plan.admit.size() <= d.options.sequences_max);

  // Rows: within the budget, within what is missing, and none is left that somebody could use.
  std::uint64_t rows = 0, prompt_rows = 0, prompt_wants = 0, decode_unserved = 0;
  struct prompt {
    bool is_demanded;
    double rank, arrived_s;
    std::uint32_t index;
    std::uint32_t rows, wants;
  };
  std::vector<prompt> prompts;
  for (std::uint32_t i = 0; i < plan.rows.size(); ++i) {
    rows += plan.rows[i];
    const bool is_running = i < d.running.size();
    if (is_running && preempted.contains(i)) {
      continue;
    }
    if (is_running && d.running[i].decodes) {
      REQUIRE((plan.rows[i] == 0 || plan.rows[i] == d.running[i].missing_rows));
      decode_unserved += plan.rows[i] == 0;
      continue;
    }
    const std::uint32_t index = is_running ? static_cast<std::uint32_t>(d.queued.size()) + i
                                           : plan.admit[i - d.running.size()];
    const service_facts& facts = is_running ? d.running[i].facts : d.queued[index].facts;
    const std::uint32_t wants = is_running
                                    ? std::min(d.running[i].missing_rows, d.running[i].rows_max)
                                    : facts.uncached_tokens;
    REQUIRE(plan.rows[i] <= wants);
    prompt_rows += plan.rows[i];
    prompt_wants += wants;
    prompts.push_back(
        {index == d.demanded, order.rank(facts), facts.arrived_s, index, plan.rows[i], wants});
  }
  REQUIRE(rows <= d.options.budget_tokens);
  REQUIRE((prompt_rows == prompt_wants || rows == d.options.budget_tokens));
  const double share = std::ceil(d.options.prefill_share * d.options.budget_tokens);
  REQUIRE(static_cast<double>(prompt_rows) >= std::min(static_cast<double>(prompt_wants), share));
  if (prompt_wants == 0 && d.options.budget_tokens >= 4 * d.running.size()) {
    REQUIRE(decode_unserved == 0);
  }
  std::ranges::sort(prompts, {}, [](const prompt& p) {
    return std::tuple(!p.is_demanded, p.rank, p.arrived_s, p.index);
  });
  bool is_spent = false;  // who comes first has all, the rest nothing
  for (const prompt& p : prompts) {
    REQUIRE((!is_spent || p.rows == 0));
    is_spent = is_spent || p.rows < p.wants;
  }
}

template <service_order Order>
void check_plans(std::uint64_t salt) {
  for (std::uint64_t seed = 1; seed <= scaled(20'000); ++seed) {
    INFO("seed " << seed);
    const drawn_state d(seed * 8 + salt);
    step_scheduler<Order> scheduler(d.options);
    const step_plan first = scheduler.plan(d.state());
    check_plan(d, first, scheduler.order());
    const step_plan& again = scheduler.plan(d.state());  // Pure: it gives the same.
    REQUIRE(again.rows == first.rows);
    REQUIRE(again.admit == first.admit);
    REQUIRE(again.preempt == first.preempt);
  }
}

}  // namespace

TEST_CASE("plans keep their laws in every state that can be drawn") {
  check_plans<fcfs_order>(0);
  check_plans<longest_prefix_order>(1);
  check_plans<least_tokens_order>(2);
  check_plans<least_seconds_order>(3);
}

TEST_CASE("an order that is chosen at run time ranks as the one it names") {
  const service_facts facts{
      .arrived_s = 3.0, .remaining_s = 2.0, .cached_tokens = 7, .uncached_tokens = 5};
  CHECK(chosen_order{order_kind::fcfs}.rank(facts) == 3.0);
  CHECK(chosen_order{order_kind::longest_prefix}.rank(facts) == -7.0);
  CHECK(chosen_order{order_kind::least_tokens}.rank(facts) == 5.0);
  CHECK(chosen_order{order_kind::least_seconds}.rank(facts) == 2.0);
  CHECK(std::string(name_of(order_kind::least_seconds)) == "least_seconds");
}

}  // namespace step_scheduler_test
