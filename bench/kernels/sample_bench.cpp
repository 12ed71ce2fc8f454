// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// One row of 152,576 logits: greedy, and the filters over peaked and flat rows.
#include <oriel/core/random.hpp>
#include <oriel/kernels/sample.hpp>

#include <benchmark/benchmark.h>

#include <vector>

namespace {

constexpr std::uint32_t vocabulary = 152'576;

struct alignas(64) cache_line {
  std::byte bytes[64];
};

// Roughly normal with standard deviation `spread`.
std::vector<float> random_logits(float spread) {
  oriel::random_stream random(1);
  std::vector<float> logits(vocabulary);
  for (float& l : logits) {
    l = spread *
        (random.next_uniform(-1, 1) + random.next_uniform(-1, 1) + random.next_uniform(-1, 1));
  }
  return logits;
}

void sample(benchmark::State& state, oriel::sample_filters filters, float spread) {
  const auto logits = random_logits(spread);
  const auto plan = oriel::host::plan_sample(vocabulary, 1);
  std::vector<cache_line> workspace(plan->workspace_bytes / 64);
  oriel::serial_executor serial;
  oriel::sample_row row{.filters = filters, .seed = 1, .position = 0};
  oriel::sampled_token out{};
  for (auto _ : state) {
    ++row.position;
    run_sample(
        *plan,
        {.out = {&out, 1}, .logits = logits.data(), .logits_stride = vocabulary, .rows = {&row, 1}},
        std::as_writable_bytes(std::span(workspace)),
        serial);
    benchmark::DoNotOptimize(out);
  }
  state.SetBytesProcessed(state.iterations() * std::int64_t{vocabulary} * 4);
}

}  // namespace

BENCHMARK_CAPTURE(sample, greedy, {.temperature = 0.0f}, 3.0f)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample, temperature, {.temperature = 0.8f}, 3.0f)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample, top_k_50, {.top_k = 50}, 3.0f)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample, top_k_20_top_p, {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f}, 3.0f)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample, top_p_peaked, {.temperature = 0.3f, .top_p = 0.95f}, 3.0f)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample, top_p_flat, {.top_p = 0.95f}, 1.0f)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(sample, min_p, {.min_p = 0.05f}, 3.0f)->Unit(benchmark::kMicrosecond);
