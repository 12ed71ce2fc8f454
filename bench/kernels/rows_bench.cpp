// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Row kernels: bytes read and written per second, one thread, rows that stay in the cache.
#include <oriel/core/random.hpp>
#include <oriel/kernels/moe_route.hpp>
#include <oriel/kernels/rms_norm.hpp>
#include <oriel/kernels/swiglu.hpp>

#include <benchmark/benchmark.h>

#include <vector>

namespace {

using oriel::dtype;
using oriel::isa;

std::vector<float> random_floats(std::size_t count) {
  oriel::random_stream random(1);
  std::vector<float> v(count);
  for (float& x : v) {
    x = random.next_uniform(-4.0f, 4.0f);
  }
  return v;
}

// Arguments: isa. Skips a path that this CPU lacks.
bool skip(benchmark::State& state, isa path) {
  if (!oriel::is_supported(path)) {
    state.SkipWithError("path not supported");
    return true;
  }
  state.SetLabel(oriel::name_of(path));
  return false;
}

void rms_norm(benchmark::State& state) {
  const auto path = static_cast<isa>(state.range(0));
  if (skip(state, path)) {
    return;
  }
  const std::uint32_t width = 4'096, rows = 16;
  const auto x = random_floats(std::size_t{width} * rows), weight = random_floats(width);
  std::vector<float> out(x.size());
  const auto plan =
      oriel::host::plan_rms_norm({.width = width, .eps = 1e-5f, .activation = dtype::bf16}, path);
  oriel::serial_executor serial;
  for (auto _ : state) {
    run_rms_norm(*plan,
                 {.out = out.data(),
                  .out_stride = width,
                  .x = x.data(),
                  .x_stride = width,
                  .weight = weight.data(),
                  .rows = rows},
                 serial);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(x.size() * 8));
}

void swiglu(benchmark::State& state) {
  const auto path = static_cast<isa>(state.range(0));
  if (skip(state, path)) {
    return;
  }
  const std::uint32_t inter = 2'048, rows = 16;
  const auto gate_up = random_floats(std::size_t{inter} * 2 * rows);
  std::vector<float> out(gate_up.size() / 2);
  const auto plan = oriel::host::plan_swiglu({.inter = inter, .activation = dtype::bf16}, path);
  oriel::serial_executor serial;
  for (auto _ : state) {
    run_swiglu(*plan,
               {.out = out.data(),
                .out_stride = inter,
                .gate_up = gate_up.data(),
                .gate_up_stride = 2 * inter,
                .rows = rows},
               serial);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(out.size()));
}

void moe_route(benchmark::State& state) {
  const auto path = static_cast<isa>(state.range(0));
  if (skip(state, path)) {
    return;
  }
  const std::uint32_t experts = 384, tokens = 128;
  const auto logits = random_floats(std::size_t{experts} * tokens), bias = random_floats(experts);
  std::vector<std::uint32_t> ids(tokens * 8);
  std::vector<float> weights(ids.size());
  const auto plan = oriel::host::plan_moe_route({.experts = experts, .top_k = 8}, path);
  oriel::serial_executor serial;
  for (auto _ : state) {
    run_moe_route(*plan,
                  {.ids = ids.data(),
                   .weights = weights.data(),
                   .logits = logits.data(),
                   .logits_stride = experts,
                   .correction_bias = bias.data(),
                   .tokens = tokens},
                  serial);
    benchmark::DoNotOptimize(ids.data());
  }
  state.SetItemsProcessed(state.iterations() * tokens);
}

}  // namespace

BENCHMARK(rms_norm)->DenseRange(0, 2);
BENCHMARK(swiglu)->DenseRange(0, 2);
BENCHMARK(moe_route)->DenseRange(0, 2);
