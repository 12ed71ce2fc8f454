// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Experts of the MoE layer. Decode streams the active experts' weights: bytes per second, beside a
// plain read of as much memory. Prefill: floating-point operations per second, beside one dense
// product of the same count.
#include <oriel/core/random.hpp>
#include <oriel/core/thread_pool.hpp>
#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/moe_gemm.hpp>

#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <vector>

namespace {

using oriel::dtype;

struct alignas(64) cache_line {
  std::byte bytes[64];
};

struct aligned_array {
  explicit aligned_array(std::size_t bytes) : lines(bytes / 64 + 1) {}
  std::byte* at() { return reinterpret_cast<std::byte*>(lines.data()); }
  std::vector<cache_line> lines;
};

// 128 experts of 1024 x 512: 384 MiB of bf16 weights, more than the caches hold.
constexpr oriel::moe_gemm_shape shape{.hidden = 1'024, .inter = 512, .experts = 128, .top_k = 8};

struct layer {
  layer(std::uint32_t tokens_max, std::uint32_t threads)
      : plan(*oriel::host::plan_moe_gemm(shape, tokens_max, threads)),
        workspace(plan.workspace_bytes) {
    std::vector<oriel::bf16> w(std::size_t{2} * shape.inter * shape.hidden);
    oriel::random_stream random(1);
    for (oriel::bf16& v : w) {
      v = oriel::to_bf16(random.next_uniform(-0.03f, 0.03f));
    }
    for (std::uint32_t e = 0; e < shape.experts; ++e) {
      packed.emplace_back(plan.gate_up_bytes + plan.down_bytes);
      std::byte* down_at = packed.back().at() + plan.gate_up_bytes;
      pack_moe_gate_up(plan, w.data(), 0, 2 * shape.inter, packed.back().at());
      pack_moe_down(plan, w.data(), 0, shape.hidden, down_at);
      gate_up.push_back(packed.back().at());
      down.push_back(down_at);
    }
  }

  void run(std::uint32_t tokens,
           const float* x,
           const std::uint32_t* ids,
           float* out,
           oriel::executor_ref executor) {
    const std::vector<float> weights(std::size_t{tokens} * shape.top_k, 0.125f);
    run_moe_gemm(plan,
                 {.out = out,
                  .out_stride = shape.hidden,
                  .x = x,
                  .x_stride = shape.hidden,
                  .tokens = tokens,
                  .ids = ids,
                  .weights = weights.data(),
                  .gate_up = gate_up,
                  .down = down},
                 std::as_writable_bytes(std::span(workspace.lines)),
                 executor);
  }

  oriel::host::moe_gemm_plan plan;
  aligned_array workspace;
  std::vector<aligned_array> packed;
  std::vector<const std::byte*> gate_up, down;
};

// Ascending, distinct experts per token, different at each step: the caches are of no help.
std::vector<std::uint32_t> routes(std::uint32_t tokens, std::uint32_t step) {
  std::vector<std::uint32_t> ids;
  for (std::uint32_t t = 0; t < tokens; ++t) {
    const std::uint32_t stride = shape.experts / shape.top_k;
    for (std::uint32_t k = 0; k < shape.top_k; ++k) {
      ids.push_back(k * stride + (step * 7 + t * 5 + k * 3) % stride);
    }
  }
  return ids;
}

// Arguments: tokens, threads.
void decode(benchmark::State& state) {
  const auto tokens = static_cast<std::uint32_t>(state.range(0));
  oriel::thread_pool pool(static_cast<std::uint32_t>(state.range(1)));
  layer moe(tokens, pool.concurrency());
  const std::vector<float> x(std::size_t{tokens} * shape.hidden, 0.5f);
  std::vector<float> out(x.size());
  std::uint32_t step = 0;
  std::size_t active = 0;
  for (auto _ : state) {
    const auto ids = routes(tokens, ++step);
    std::vector<bool> used(shape.experts);
    for (const std::uint32_t id : ids) {
      active += !used[id];
      used[id] = true;
    }
    moe.run(tokens, x.data(), ids.data(), out.data(), pool);
  }
  const std::size_t expert_bytes = std::size_t{3} * shape.inter * shape.hidden * 2;
  state.SetBytesProcessed(static_cast<std::int64_t>(active * expert_bytes));
}

void prefill(benchmark::State& state) {
  const auto tokens = static_cast<std::uint32_t>(state.range(0));
  oriel::thread_pool pool(static_cast<std::uint32_t>(state.range(1)));
  layer moe(tokens, pool.concurrency());
  const std::vector<float> x(std::size_t{tokens} * shape.hidden, 0.5f);
  std::vector<float> out(x.size());
  const auto ids = routes(tokens, 1);
  for (auto _ : state) {
    moe.run(tokens, x.data(), ids.data(), out.data(), pool);
  }
  const double flops = 6.0 * shape.inter * shape.hidden * shape.top_k * tokens;
  state.counters["FLOP/s"] = benchmark::Counter(flops * static_cast<double>(state.iterations()),
                                                benchmark::Counter::kIsRate);
}

// The yardsticks.
void read_memory(benchmark::State& state) {
  const std::size_t words = std::size_t{384} << 17;  // 384 MiB
  const std::vector<std::uint64_t> memory(words, 1);
  for (auto _ : state) {
    std::uint64_t sum = 0;
    for (const std::uint64_t word : memory) {
      sum += word;
    }
    benchmark::DoNotOptimize(sum);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(words * 8));
}

void dense(benchmark::State& state) {
  const std::uint32_t n = 2'048, k = 2'048, rows = 1'024;
  const auto plan = oriel::host::plan_gemm({.n = n, .k = k, .weights = dtype::bf16}, rows, 1);
  aligned_array packed(plan->packed_bytes), workspace(plan->workspace_bytes);
  const std::vector<oriel::bf16> w(std::size_t{n} * k, oriel::to_bf16(0.01f));
  pack_gemm_weights(*plan, w.data(), 0, n, packed.at());
  const std::vector<float> x(std::size_t{rows} * k, 0.5f);
  std::vector<float> out(std::size_t{rows} * n);
  oriel::serial_executor serial;
  for (auto _ : state) {
    run_gemm(*plan,
             {.out = out.data(),
              .out_stride = n,
              .x = x.data(),
              .x_stride = k,
              .weights = packed.at(),
              .rows = rows},
             std::as_writable_bytes(std::span(workspace.lines)),
             serial);
  }
  state.counters["FLOP/s"] = benchmark::Counter(
      2.0 * n * k * rows * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

}  // namespace

BENCHMARK(read_memory)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(decode)->ArgsProduct({{1, 2, 8}, {1, 2}})->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(dense)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(prefill)
    ->ArgsProduct({{128, 2'048}, {1, 2}})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();
