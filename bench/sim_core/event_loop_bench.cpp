// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Events per second of the simulator's clock: each event plans the next at a random time, with so
/// many planned at once; and the same where each plans a second one and cancels the last but one,
/// as a deadline is that nobody misses. And the links of a clone's prompt, per page.
#include <oriel/core/random.hpp>
#include <oriel/sim/event_loop.hpp>
#include <oriel/sim/workload.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

namespace oriel::sim {
namespace {

struct event {
  std::uint32_t kind = 0, who = 0;
  std::uint64_t what = 0;
};

std::vector<double> delays() {
  random_stream draw(1);
  std::vector<double> all(4096);
  for (double& d : all) {
    d = draw.next_uniform();
  }
  return all;
}

void hold(benchmark::State& state) {
  const auto delay_s = delays();
  event_loop<event> loop;
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    loop.after(delay_s[static_cast<std::size_t>(i) % 4096], {});
  }
  std::size_t i = 0;
  for (auto _ : state) {
    const auto e = loop.next();
    loop.after(delay_s[++i % 4096], *e);
  }
  state.SetItemsProcessed(state.iterations());
}

void hold_and_cancel(benchmark::State& state) {
  const auto delay_s = delays();
  event_loop<event> loop;
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    loop.after(delay_s[static_cast<std::size_t>(i) % 4096], {});
  }
  event_loop<event>::handle deadline;
  std::size_t i = 0;
  for (auto _ : state) {
    const auto e = loop.next();
    loop.after(delay_s[++i % 4096], *e);
    loop.cancel(deadline);
    deadline = loop.after(60.0, {});
  }
  state.SetItemsProcessed(state.iterations());
}

void salt(benchmark::State& state) {
  std::vector<chain_hash> links(1'820), out(links.size());  // 117 K tokens in pages of 64
  for (std::uint32_t i = 0; i < links.size(); ++i) {
    links[i] = link_of(i, 0);
  }
  std::uint32_t clone = 0;
  for (auto _ : state) {
    salt_links(links, ++clone, out);
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(links.size()));
}

BENCHMARK(hold)->Arg(8)->Arg(1'000)->Arg(100'000);
BENCHMARK(hold_and_cancel)->Arg(8)->Arg(1'000)->Arg(100'000);
BENCHMARK(salt);

}  // namespace
}  // namespace oriel::sim
