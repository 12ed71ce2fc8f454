// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: cost of one allocate + release round trip per page, and of growing a sequence.
// Why:  both run for every sequence in every step. Goals: a page <= 30 ns; 2,048
//       tokens more at 128 K <= 3 us.
#include <oriel/kv/dual_pool.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace {

/// A pool whose free pages lie in no order, as after hours of service.
template <class Order>
oriel::paged_allocator<Order> used_pool(std::uint32_t capacity_pages) {
  oriel::paged_allocator<Order> pool(capacity_pages);
  std::vector<oriel::page_handle> all(capacity_pages);
  static_cast<void>(pool.try_allocate(all));
  std::mt19937_64 random(7);
  for (std::size_t i = all.size(); i > 1; --i) {
    std::swap(all[i - 1], all[random() % i]);
  }
  pool.release(all);
  return pool;
}

/// `request_pages` at once, then back.
template <class Order>
void allocate_release(benchmark::State& state) {
  auto pool = used_pool<Order>(1u << 20);
  std::vector<oriel::page_handle> pages(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    benchmark::DoNotOptimize(pool.try_allocate(pages));
    pool.release(pages);
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));  // pages
}
BENCHMARK(allocate_release<oriel::lifo_order>)->ArgName("request_pages")->Arg(1)->Arg(16)->Arg(512);
BENCHMARK(allocate_release<oriel::fifo_order>)->ArgName("request_pages")->Arg(1)->Arg(16)->Arg(512);

/// Steady service: one page of a random running sequence goes, one is taken; 1 M pages.
template <class Order>
void replace_random_page(benchmark::State& state) {
  auto pool = used_pool<Order>(1u << 20);
  std::vector<oriel::page_handle> held(1u << 19);
  static_cast<void>(pool.try_allocate(held));
  std::uint64_t random = 1;
  for (auto _ : state) {
    random = random * 6'364'136'223'846'793'005u + 1'442'695'040'888'963'407u;
    oriel::page_handle& page = held[random >> 45];
    pool.release(page);
    benchmark::DoNotOptimize(pool.try_allocate(std::span(&page, 1)));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(replace_random_page<oriel::lifo_order>);
BENCHMARK(replace_random_page<oriel::fifo_order>);

using pools_type = oriel::dual_pool<oriel::address_only_memory>;

pools_type make_pools(std::uint32_t page_size,
                      std::uint32_t window_kinds,
                      std::uint32_t step_tokens) {
  std::vector<oriel::kv_layer_shape> layers{{.kv_heads = 1, .head_dim_qk = 16, .head_dim_vo = 16}};
  for (std::uint32_t kind = 0; kind < window_kinds; ++kind) {
    layers.push_back(
        {.kv_heads = 1, .head_dim_qk = 16, .head_dim_vo = 16, .window_tokens = 128 + kind});
  }
  auto plan = oriel::pool_plan::make(layers, {.page_size = page_size, .step_tokens = step_tokens});
  auto sizes = plan->size_for_tokens(8 * plan->bytes_for(140'000), 140'000);
  return std::move(*pools_type::make(*plan, *sizes));
}

/// One sequence at 128 K tokens takes 2,048 more, in one step; time without the way there.
void grow_by_2048_at_128k(benchmark::State& state) {
  auto pools = make_pools(static_cast<std::uint32_t>(state.range(0)),
                          static_cast<std::uint32_t>(state.range(1)),
                          2'048);
  for (auto _ : state) {
    state.PauseTiming();
    {
      auto sequence = pools.try_admit({.tokens_now = 131'072, .tokens_max = 135'000});
      while (sequence->length() < 131'072) {
        if (!sequence->reserve(2'048)) {
          state.SkipWithError("out of pages");
          return;
        }
        sequence->commit(2'048);
      }
      state.ResumeTiming();
      benchmark::DoNotOptimize(sequence->reserve(2'048));
      sequence->commit(2'048);
      state.PauseTiming();
    }
    state.ResumeTiming();
  }
}
BENCHMARK(grow_by_2048_at_128k)
    ->ArgNames({"page_size", "window_kinds"})
    ->Args({16, 1})
    ->Args({64, 0})
    ->Args({64, 1})
    ->Args({64, 7})
    ->Iterations(2'000);

/// A decode step of 4 rows of which 3 are accepted, window pages sliding in place.
void decode_step(benchmark::State& state) {
  auto pools = make_pools(16, static_cast<std::uint32_t>(state.range(0)), 4);
  auto sequence = pools.try_admit({.tokens_now = 1'000, .tokens_max = 131'072});
  for (auto _ : state) {
    if (sequence->length() + 4 > 131'072) {
      sequence->release();
    }
    benchmark::DoNotOptimize(sequence->reserve(4));
    sequence->commit(3);
  }
}
BENCHMARK(decode_step)->ArgName("window_kinds")->Arg(0)->Arg(1)->Arg(7);

/// A sequence of 1,000 tokens comes and goes: the tables are allocated, the pages are not.
void admit_and_end(benchmark::State& state) {
  auto pools = make_pools(16, 1, 512);
  for (auto _ : state) {
    auto sequence = pools.try_admit({.tokens_now = 1'000, .tokens_max = 2'000});
    benchmark::DoNotOptimize(sequence->length());
  }
}
BENCHMARK(admit_and_end);

}  // namespace
