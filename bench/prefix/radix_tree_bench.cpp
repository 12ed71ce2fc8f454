// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Speeds of the prefix tree, as in ../shared/spec/prefix-cache.md section 11: one thread, pages of
/// 64 tokens unless said. docs/measurements/prefix-tree.md has the peers' figures.
#include <oriel/core/random.hpp>
#include <oriel/kv/paged_allocator.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/radix_tree.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace oriel {
namespace {

using pool = paged_allocator<>;
using lru_tree = radix_tree<pool, lru_order>;
using default_tree = radix_tree<pool>;

const cache_namespace space({.tenant_salt = "tenant", .model = "bench"});

std::vector<token_id> random_tokens(std::uint64_t seed, std::size_t count) {
  random_stream random(seed);
  std::vector<token_id> tokens(count);
  for (token_id& token : tokens) {
    token = token_id{random.next_below(150'000)};
  }
  return tokens;
}

/// Pools and a tree; sequences are published as an engine does, with the last window's pages.
template <class Tree>
struct cache {
  std::vector<pool> pools;
  std::unique_ptr<Tree> tree;
  std::uint32_t page;
  std::uint64_t now = 0;
  std::vector<page_handle> full;
  std::vector<std::vector<page_handle>> windows;
  std::vector<window_page_span> offered;

  cache(std::uint32_t page_size, std::uint32_t pages, std::uint32_t kinds, bool hashes)
      : page(page_size), windows(kinds), offered(kinds) {
    for (std::uint32_t i = 0; i <= kinds; ++i) {
      pools.emplace_back(pages);
    }
    tree =
        std::make_unique<Tree>(pools,
                               radix_tree_options{.page_size = page_size,
                                                  .windows = std::vector<std::uint32_t>(kinds, 128),
                                                  .keeps_hash_chain = hashes});
  }

  /// Takes the pages that a prefill of [from, to) would, outside the timing.
  void compute(std::uint32_t from, std::uint32_t to) {
    full.resize(to / page - from / page);
    if (!pools[0].try_allocate(full)) {
      std::abort();
    }
    for (std::size_t k = 0; k < windows.size(); ++k) {
      const std::uint32_t tail = std::min<std::uint32_t>(3, to / page);
      windows[k].resize(tail);
      if (!pools[k + 1].try_allocate(windows[k])) {
        std::abort();
      }
      offered[k] = {.first_page = to / page - tail, .pages = windows[k]};
    }
  }
  void publish(typename Tree::lease& lease,
               std::span<const token_id> tokens,
               std::uint32_t from,
               std::span<const chain_hash> chain = {}) {
    auto fresh = tree->reserve({.first_page = from / page, .full = full, .windows = offered});
    benchmark::DoNotOptimize(tree->commit(lease, fresh, tokens, ++now, chain));
  }
  /// The sequence ends: its own references go.
  void finish() {
    pools[0].release(full);
    for (std::size_t k = 0; k < windows.size(); ++k) {
      pools[k + 1].release(windows[k]);
    }
  }
  void add(std::span<const token_id> tokens, std::uint32_t step = 0) {
    auto lease = tree->pin(space, tokens, {}, {}, ++now);
    const auto length = static_cast<std::uint32_t>(tokens.size());
    for (std::uint32_t from = 0; from < length; from += step == 0 ? length : step) {
      const std::uint32_t to = step == 0 ? length : std::min(length, from + step);
      compute(from, to);
      publish(lease, tokens.first(to), from);
      finish();
    }
    tree->release(lease, {}, ++now);
  }
};

/// Times `work` alone; what prepares it and cleans up after it stays outside.
template <class Work>
void timed(benchmark::State& state, Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  state.SetIterationTime(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

constexpr std::uint32_t prompt_tokens = 131'072;

/// Hangs 2,048 tokens below what the tree has of the sequence: a request of its own, so that no
/// node is extended.
template <class Tree>
void grow(cache<Tree>& c, std::span<const token_id> tokens) {
  const auto to = static_cast<std::uint32_t>(tokens.size());
  const auto m = c.tree->match(space, tokens);
  auto lease = c.tree->pin(space, tokens, m, {m.heal_tokens, 0}, ++c.now);
  c.compute(to - 2048, to);
  c.publish(lease, tokens, to - 2048);
  c.finish();
  c.tree->release(lease, {}, ++c.now);
}

/// A chain of 64 nodes of 2,048 tokens.
template <class Tree>
void grow_chain(cache<Tree>& c, std::span<const token_id> tokens) {
  for (std::uint32_t to = 2048; to <= tokens.size(); to += 2048) {
    grow(c, tokens.first(to));
  }
}

void match_chain(benchmark::State& state, bool with_hashes, std::uint32_t kinds) {
  cache<default_tree> c(64, 8192, kinds, with_hashes);
  const auto tokens = random_tokens(1, prompt_tokens);
  grow_chain(c, tokens);
  std::vector<chain_hash> chain(with_hashes ? prompt_tokens / 64 : 0);
  if (with_hashes) {
    hash_pages(space.digest(), tokens, 64, chain);
  }
  if (c.tree->match(space, tokens, chain).full_tokens != prompt_tokens) {
    return state.SkipWithError("no match");
  }
  for (auto _ : state) {
    benchmark::DoNotOptimize(c.tree->match(space, tokens, chain));
  }
  state.counters["nodes"] = c.tree->nodes();
}

/// What comparing the tokens alone costs.
void compare_128k(benchmark::State& state) {
  const auto tokens = random_tokens(1, prompt_tokens);
  const auto cached = tokens;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        std::memcmp(tokens.data(), cached.data(), tokens.size() * sizeof(token_id)));
  }
}

/// What copying the tokens alone costs.
void copy_100k(benchmark::State& state) {
  const auto tokens = random_tokens(2, 102'400);
  auto cached = tokens;
  for (auto _ : state) {
    std::memcpy(cached.data(), tokens.data(), tokens.size() * sizeof(token_id));
    benchmark::ClobberMemory();
  }
}

void insert_100k(benchmark::State& state, bool with_hashes, std::uint32_t kinds) {
  cache<default_tree> c(64, 4096, kinds, with_hashes);
  const auto tokens = random_tokens(2, 102'400);
  std::vector<chain_hash> chain(with_hashes ? 1600 : 0);
  if (with_hashes) {
    hash_pages(space.digest(), tokens, 64, chain);
  }
  for (auto _ : state) {
    c.tree->clear();
    c.compute(0, 102'400);
    default_tree::lease lease;
    timed(state, [&] {
      lease = c.tree->pin(space, tokens, {}, {}, ++c.now);
      c.publish(lease, tokens, 0, chain);
    });
    c.finish();
    c.tree->release(lease, {}, ++c.now);
  }
}

/// One step of a sequence at 128 K tokens: 2,048 more are published.
void grow_at_128k(benchmark::State& state) {
  cache<default_tree> c(64, 8192, 1, false);
  const auto tokens = random_tokens(3, prompt_tokens + 2048);
  for (auto _ : state) {
    c.tree->clear();
    grow_chain(c, std::span(tokens).first(prompt_tokens));
    const auto m = c.tree->match(space, tokens);
    auto lease = c.tree->pin(space, tokens, m, {m.heal_tokens, m.window_safe_tokens}, ++c.now);
    c.compute(prompt_tokens, prompt_tokens + 2048);
    timed(state, [&] { c.publish(lease, tokens, prompt_tokens); });
    c.finish();
    c.tree->release(lease, {}, ++c.now);
  }
}

/// 20,000 leaves of 256 tokens under a shared prefix of 4,096; pages of 64 tokens.
template <class Tree>
void evict_1024(benchmark::State& state) {
  constexpr std::uint32_t leaves = 20'000;
  cache<Tree> c(64, 64 + 4 * (leaves + 16), 1, false);
  const auto prefix = random_tokens(4, 4096);
  std::uint64_t seed = 5;
  const auto add_leaf = [&] {
    auto tokens = prefix;
    const auto own = random_tokens(++seed, 256);
    tokens.insert(tokens.end(), own.begin(), own.end());
    const auto m = c.tree->match(space, tokens);
    auto lease = c.tree->pin(space, tokens, m, {m.heal_tokens, 0}, ++c.now);
    c.compute(m.heal_tokens, 4352);
    c.publish(lease, tokens, m.heal_tokens);
    c.finish();
    c.tree->release(lease, {}, ++c.now);
  };
  for (std::uint32_t i = 0; i < leaves; ++i) {
    add_leaf();
  }
  for (auto _ : state) {
    timed(state, [&] { benchmark::DoNotOptimize(c.tree->evict_full(16, ++c.now)); });
    for (int i = 0; i < 4; ++i) {
      add_leaf();
    }
  }
  const double pages = c.tree->full_pages() + c.tree->window_pages(0);
  state.counters["index_bytes_per_page"] = static_cast<double>(c.tree->index_bytes()) / pages;
}

/// A lease of a chain of 64 nodes and its end, the probe not counted. range(0): chains that grew in
/// turn; of several, no node's parent has the id before.
template <class Tree>
void lock_unlock(benchmark::State& state) {
  cache<Tree> c(64, 8192, 1, false);
  const auto tokens = random_tokens(6, prompt_tokens);
  const auto other = random_tokens(7, prompt_tokens);
  for (std::uint32_t to = 2048; to <= prompt_tokens; to += 2048) {
    grow(c, std::span(tokens).first(to));
    if (state.range(0) == 2) {
      grow(c, std::span(other).first(to));
    }
  }
  const auto m = c.tree->match(space, tokens);
  for (auto _ : state) {
    auto lease = c.tree->pin(space, tokens, m, pin_extent::hit(m), ++c.now);
    c.tree->release(lease, {}, ++c.now);
  }
}

BENCHMARK(compare_128k)->Unit(benchmark::kMicrosecond);
BENCHMARK(copy_100k)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(match_chain, tokens_compared, false, 1)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(match_chain, hash_chain_given, true, 1)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(match_chain, tokens_compared_7_kinds, false, 7)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(insert_100k, tokens_only, false, 1)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(insert_100k, hash_chain_given, true, 1)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(insert_100k, tokens_only_7_kinds, false, 7)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(grow_at_128k)->UseManualTime()->Unit(benchmark::kMicrosecond)->Iterations(300);
BENCHMARK(evict_1024<lru_tree>)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(evict_1024<default_tree>)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(lock_unlock<lru_tree>)->ArgName("chains")->Arg(1)->Arg(2)->Unit(benchmark::kNanosecond);
BENCHMARK(lock_unlock<default_tree>)  // It learns at each release.
    ->ArgName("chains")
    ->Arg(1)
    ->Unit(benchmark::kNanosecond);

}  // namespace
}  // namespace oriel
