// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Speeds of the prefix index, as in ../shared/spec/routing.md section 5: one thread, the chain of
/// hashes given. session_fleet.hpp has the sessions; the prompt is drawn anew for every look-up.
#include "session_fleet.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include <time.h>

namespace oriel {
namespace {

using kind = worker_event_kind;
using chain = link_chain;

using fleet_base = session_fleet<prefix_index>;

struct fleet : fleet_base {
  fleet(std::uint32_t workers, std::uint32_t capacity_pages)
      : fleet_base(prefix_index_options{.page_size = 64,
                                        .windows = {128},
                                        .workers = workers,
                                        .capacity_pages = capacity_pages},
                   workers) {}
};

/// Look-ups one after the other, and how long each takes.
void look_up(benchmark::State& state, fleet& f, std::uint32_t expected_pages) {
  random_stream draw(2);
  std::vector<double> times_us;
  std::uint64_t safe = 0;
  const auto one = [&](const chain& prompt) {
    f.index.look_up(prompt, f.answer);
    std::uint32_t best = 0;
    for (const worker_prefix& row : f.answer.rows()) {
      best = std::max(best, row.safe_pages[page_tiers - 1]);
    }
    safe += best == expected_pages;
  };
  std::vector<std::uint32_t> order(4096);
  for (std::uint32_t& i : order) {
    i = draw.next_below(static_cast<std::uint32_t>(f.prompts.size()));
  }
  for (const std::uint32_t i : order) {  // Warm, and timed singly.
    const auto start = std::chrono::steady_clock::now();
    one(f.prompts[i]);
    times_us.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
            .count());
  }
  if (safe != order.size()) {
    return state.SkipWithError("a wrong answer");
  }
  std::size_t at = 0;
  for (auto _ : state) {
    one(f.prompts[order[at++ % order.size()]]);
  }
  std::ranges::sort(times_us);
  state.counters["p50_us"] = times_us[times_us.size() / 2];
  state.counters["p99_us"] = times_us[times_us.size() * 99 / 100];
  state.SetItemsProcessed(state.iterations());
}

/// 8 workers or 256, sessions of so many pages, so many sessions.
void sessions(benchmark::State& state) {
  const auto workers = static_cast<std::uint32_t>(state.range(0));
  const auto pages = static_cast<std::uint32_t>(state.range(1));
  const auto count = static_cast<std::uint32_t>(state.range(2));
  fleet f(workers, count * pages + 4096);
  f.add_sessions(count, pages, 3);
  look_up(state, f, pages - unknown_pages);
  const prefix_index_memory memory = f.index.memory();
  state.counters["bytes_per_page"] =
      static_cast<double>(memory.fixed_bytes + memory.link_bytes + memory.holder_bytes) /
      memory.pages;
}

/// Every worker has the whole prompt.
void everywhere(benchmark::State& state) {
  fleet f(256, 1 << 16);
  f.add_sessions(1, 14'000, 256);
  look_up(state, f, 14'000 - unknown_pages);
}

/// Every worker has the whole of another prompt that leaves this one in the middle, at a boundary.
void everywhere_half(benchmark::State& state) {
  fleet f(256, 1 << 16);
  f.add_sessions(1, 14'000, 256);
  random_stream draw(3);
  chain& c = f.prompts[0];
  const std::uint32_t half = (14'000 - unknown_pages) / 2;
  c.resize(half);
  extend(c, 14'000, draw);
  look_up(state, f, half);
}

double processor_s() {
  timespec now;
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// Processor time of events of so many pages: of new pages, of pages that another worker has, and
/// their removal.
void store(benchmark::State& state, std::uint32_t workers, bool removes) {
  const auto batch = static_cast<std::uint32_t>(state.range(0));
  const std::uint32_t pages = 2280, count = 512;
  random_stream draw(1);
  std::vector<chain> chains(count);
  for (chain& c : chains) {
    extend(c, pages, draw);
  }
  const auto all = [&](fleet& f, std::uint32_t worker, kind what) {
    for (const chain& c : chains) {
      for (std::uint32_t at = 0; at < pages; at += batch) {  // deepest first when they go
        const std::uint32_t first = what == kind::stored ? at : (pages - 1 - at) / batch * batch;
        f.send(worker, what, 0, 0, c, first, std::min(first + batch, pages));
      }
    }
  };
  fleet f(workers, count * pages);
  all(f, 0, kind::stored);  // The system's first touch of the table's memory.
  all(f, 0, kind::removed);
  for (auto _ : state) {
    for (std::uint32_t worker = 0; worker + 1 < workers; ++worker) {
      all(f, worker, kind::stored);
    }
    if (removes) {
      all(f, workers - 1, kind::stored);
    }
    const double start_s = processor_s();
    all(f, workers - 1, removes ? kind::removed : kind::stored);
    state.SetIterationTime(processor_s() - start_s);
    for (std::uint32_t worker = 0; worker < workers; ++worker) {
      all(f, worker, kind::removed);
    }
  }
  state.SetItemsProcessed(state.iterations() * count * pages);
}

BENCHMARK(sessions)
    ->Args({8, 2280, 1})
    ->Args({8, 2280, 512})
    ->Args({256, 14'000, 1})
    ->Args({256, 14'000, 128});
BENCHMARK(everywhere);
BENCHMARK(everywhere_half);
BENCHMARK_CAPTURE(store, new_pages, 1, false)
    ->Arg(1)
    ->Arg(16)
    ->Arg(64)
    ->Arg(256)
    ->Arg(2280)
    ->UseManualTime();
BENCHMARK_CAPTURE(store, known_pages, 2, false)
    ->Arg(1)
    ->Arg(16)
    ->Arg(64)
    ->Arg(2280)
    ->UseManualTime();
BENCHMARK_CAPTURE(store, removed_last_copy, 1, true)->Arg(1)->Arg(64)->Arg(2280)->UseManualTime();
BENCHMARK_CAPTURE(store, removed_other_copy, 2, true)->Arg(1)->Arg(64)->Arg(2280)->UseManualTime();

}  // namespace
}  // namespace oriel
