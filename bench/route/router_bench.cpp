// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// How long a decision takes, as in ../shared/spec/routing.md section 5: one thread, the chain of
/// hashes given, no Redis, the index warm. The fleet is that of prefix_index_bench; every worker
/// has some work and reports now and then. A decision is route() with all that it does: the
/// repeated-id check, the look-up, the score of all workers, tenant limits, the request's place in
/// the book. What follows it (started, prefilled, finished) is not part of the time.
#include "session_fleet.hpp"

#include <oriel/route/affinity_router.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <vector>

namespace oriel {
namespace {

router_options options_for(std::uint32_t workers, std::uint32_t capacity_pages) {
  return {.index = {.page_size = 64,
                    .windows = {128},
                    .workers = workers,
                    .capacity_pages = capacity_pages},
          .life = {.ahead_max_s = 1e6}};
}

template <class Score>
struct world : session_fleet<affinity_router<Score>> {
  std::vector<std::uint64_t> reports;
  double now_s = 1.0;
  std::uint64_t id = 0;

  world(std::uint32_t workers, std::uint32_t sessions, std::uint32_t pages)
      : session_fleet<affinity_router<Score>>(options_for(workers, sessions * pages + 4096),
                                              workers),
        reports(workers) {
    for (std::uint32_t w = 0; w < workers; ++w) {
      this->index.join(worker_id{w}, {}, 0.0);
    }
    this->add_sessions(sessions, pages, sessions == 1 ? workers : 3);
    report_all();
  }
  void report_all() {
    for (std::uint32_t w = 0; w < reports.size(); ++w) {
      this->index.report({.worker = worker_id{w},
                          .sequence = ++reports[w],
                          .at_s = now_s,
                          .queued_s = 0.1 * (w * 7 % 50)},
                         now_s);
    }
  }
  route_answer decide(std::uint32_t prompt) {
    const link_chain& c = this->prompts[prompt];
    return this->index.route({.id = ++id,
                              .session = prompt + 1,
                              .prompt_tokens = static_cast<std::uint32_t>(c.size()) * 64 + 1,
                              .links = c},
                             now_s);
  }
  void complete(const route_answer& placed, std::vector<route_action>& actions) {
    this->index.started(id, placed.attempt, now_s);
    this->index.prefilled(id, placed.attempt, placed.decision.estimate_s, now_s);
    this->index.finished(id, placed.attempt, now_s);
    now_s += 1e-3;
    if (id % 256 == 0) {
      report_all();
      actions.clear();
      this->index.tick(now_s, actions);
    }
  }
};

/// Workers, pages of a prompt, sessions (one: every worker has all of it).
template <class Score>
void decide(benchmark::State& state) {
  const auto workers = static_cast<std::uint32_t>(state.range(0));
  const auto pages = static_cast<std::uint32_t>(state.range(1));
  const auto sessions = static_cast<std::uint32_t>(state.range(2));
  world<Score> w(workers, sessions, pages);
  random_stream draw(2);
  std::vector<route_action> actions;
  std::vector<double> times_us;
  const auto one = [&] {
    const auto prompt = draw.next_below(sessions);
    const auto start = std::chrono::steady_clock::now();
    const route_answer answer = w.decide(prompt);
    times_us.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
            .count());
    if (answer.kind != route_kind::placed) {
      return false;
    }
    w.complete(answer, actions);
    return true;
  };
  for (int i = 0; i < 2000; ++i) {
    one();
  }
  times_us.clear();
  for (auto _ : state) {
    if (!one()) {
      return state.SkipWithError("not placed");
    }
    state.SetIterationTime(times_us.back() * 1e-6);
  }
  std::ranges::sort(times_us);
  state.counters["p50_us"] = times_us[times_us.size() / 2];
  state.counters["p99_us"] = times_us[times_us.size() * 99 / 100];
  state.counters["max_us"] = times_us.back();
}

#define ORIEL_DECIDE(score)         \
  BENCHMARK_TEMPLATE(decide, score) \
      ->Args({8, 2280, 512})        \
      ->Args({256, 14'000, 128})    \
      ->Args({256, 14'000, 1})      \
      ->UseManualTime()
ORIEL_DECIDE(predicted_seconds);
ORIEL_DECIDE(match_minus_load);
ORIEL_DECIDE(session_hash);

}  // namespace
}  // namespace oriel
