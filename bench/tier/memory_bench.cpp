// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// memory_store: copies beside memcpy, look-ups, eviction, and what the index takes.
//
//     bench.tier.memory --benchmark_filter=copy
//
// `copy` interleaves: a round of the store, then the same bytes by memcpy, and so on; `of_memcpy`
// is the median over pairs of (time of memcpy / time of the store).
#include <oriel/tier/memory_store.hpp>
#include <oriel/tier/store_thread.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

namespace {

using namespace oriel;

constexpr std::uint32_t page_size = 64;

page_digest digest_of(std::uint64_t number) {
  page_digest digest;
  std::mt19937_64 random(number);
  for (std::size_t i = 0; i < 4; ++i) {
    const std::uint64_t word = random();
    std::memcpy(digest.bytes.data() + 8 * i, &word, 8);
  }
  return digest;
}

/// A store with room for `pages` pages of `slices` slices, and what a client of it needs.
struct world {
  world(std::uint64_t pages, std::uint64_t slice_bytes, std::uint64_t slices, memory_order order)
      : store({.page_size = page_size,
               .slice_bytes = {std::vector<std::uint64_t>(slices, slice_bytes)},
               .capacity_bytes = pages * (slice_bytes * slices + 80 + 4 * page_size),
               .order = order,
               .copy_bytes_per_poll = std::uint64_t{1} << 40}),
        tokens(page_size, token_id{1}),
        memory(slices * slice_bytes + 4'096) {
    for (std::uint64_t i = 0; i < slices; ++i) {
      lent.emplace_back(memory.data() + i * slice_bytes, slice_bytes);
    }
    identity = {.name_space = digest_of(~0ull), .parent = digest_of(~0ull), .tokens = tokens};
  }
  store_item item(store_op op, const page_digest& link) const {
    return {.op = op, .key = {.link = link}, .identity = &identity, .slices = lent};
  }
  store_outcome run(const store_item& one) {
    store.submit({&one, 1}, no_deadline);
    store_completion done;
    store.poll({&done, 1});
    return done.outcome;
  }

  memory_store<huge_page_memory> store;
  std::vector<token_id> tokens;
  std::vector<std::byte> memory;
  std::vector<std::span<std::byte>> lent;
  page_identity identity;
};

double seconds_of(auto&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Gets of pages that lie all over the slab, beside memcpy of the same amount from all over a heap.
void copy(benchmark::State& state) {
  const auto slice_bytes = static_cast<std::uint64_t>(state.range(0));
  const std::uint64_t slices = std::max<std::uint64_t>(1, (1u << 20) / slice_bytes);
  const std::uint64_t pages = (512u << 20) / (slices * slice_bytes),
                      page_bytes = slices * slice_bytes;
  world w(pages, slice_bytes, slices, memory_order::s3_fifo);
  std::vector<page_digest> links;
  for (std::uint64_t i = 0; i < pages; ++i) {
    links.push_back(digest_of(i));
    w.run(w.item(store_op::put, links.back()));
  }
  auto heap = huge_page_memory::reserve(pages * page_bytes);
  std::memset(heap->base(), 1, pages * page_bytes);
  std::mt19937_64 random(1);
  std::vector<double> ratios;
  double bytes = 0, seconds = 0;
  const bool is_get = state.range(1) != 0;
  for (auto _ : state) {
    std::uint64_t chosen[16];
    for (std::uint64_t& c : chosen) {
      c = random() % pages;
    }
    const auto by_store = [&] {
      for (const std::uint64_t c : chosen) {
        if (!is_get) {
          w.run(w.item(store_op::erase, links[c]));
        }
        w.run(w.item(is_get ? store_op::get : store_op::put, links[c]));
      }
    };
    const auto by_memcpy = [&] {
      for (const std::uint64_t c : chosen) {
        for (std::uint64_t s = 0; s < slices; ++s) {
          std::byte* const kept = heap->base() + c * page_bytes + s * slice_bytes;
          std::byte* const mine = w.lent[s].data();
          std::memcpy(is_get ? mine : kept, is_get ? kept : mine, slice_bytes);
        }
      }
      benchmark::ClobberMemory();
    };
    double store_s = 0, memcpy_s = 0;
    if (ratios.size() % 2 == 0) {
      store_s = seconds_of(by_store);
      memcpy_s = seconds_of(by_memcpy);
    } else {
      memcpy_s = seconds_of(by_memcpy);
      store_s = seconds_of(by_store);
    }
    ratios.push_back(memcpy_s / store_s);
    bytes += 16.0 * static_cast<double>(page_bytes);
    seconds += store_s;
  }
  std::ranges::nth_element(ratios, ratios.begin() + static_cast<std::ptrdiff_t>(ratios.size() / 2));
  state.counters["of_memcpy"] = ratios[ratios.size() / 2];
  state.counters["GB_per_s"] = bytes / seconds / 1e9;
}

/// Items that move nothing, 64 at once: the cost of an item.
void look_up(benchmark::State& state) {
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  world w(pages, 64, 1, memory_order::s3_fifo);
  std::vector<page_digest> links;
  for (std::uint64_t i = 0; i < pages; ++i) {
    links.push_back(digest_of(i));
    w.run(w.item(store_op::put, links.back()));
  }
  std::mt19937_64 random(1);
  std::vector<store_item> batch(64);
  std::vector<store_completion> done(64);
  for (auto _ : state) {
    for (store_item& item : batch) {
      item = w.item(store_op::exists, links[random() % pages]);
    }
    w.store.submit(batch, no_deadline);
    benchmark::DoNotOptimize(w.store.poll(done));
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * 64);
  const store_stats stats = w.store.stats();
  state.counters["index_bytes_per_page"] =
      static_cast<double>(stats.index_bytes) / static_cast<double>(stats.pages);
}

/// Puts of 64 bytes into a full store: a put and an eviction, with hardly a copy.
void evict(benchmark::State& state) {
  constexpr std::uint64_t pages = 100'000;
  world w(pages, 64, 1, state.range(0) != 0 ? memory_order::s3_fifo : memory_order::lru);
  std::vector<page_digest> links;
  for (std::uint64_t i = 0; i < 4 * pages; ++i) {
    links.push_back(digest_of(i));
  }
  std::uint64_t next = 0;
  for (; next < 2 * pages; ++next) {
    w.run(w.item(store_op::put, links[next % links.size()]));
  }
  for (auto _ : state) {
    w.run(w.item(store_op::put, links[next++ % links.size()]));
    w.run(w.item(store_op::touch, links[(next * 7) % links.size()]));
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()));
}

/// There and back through a thread of its own: one item at a time, and 64.
void through_thread(benchmark::State& state) {
  const auto at_once = static_cast<std::size_t>(state.range(0));
  store_thread<memory_store<>> store(
      {},
      memory_store_options{
          .page_size = page_size, .slice_bytes = {{64}}, .capacity_bytes = 1 << 20});
  std::vector<store_item> batch(at_once);
  for (store_item& item : batch) {
    item.op = store_op::exists;
  }
  std::vector<store_completion> done(at_once);
  for (auto _ : state) {
    store.submit(batch, no_deadline);
    for (std::size_t got = 0; got < at_once;) {
      store.wait(no_deadline);
      got += store.poll(done);
    }
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(at_once));
}

BENCHMARK(copy)
    ->ArgsProduct({{64 << 10, 256 << 10, 1 << 20, 4 << 20}, {0, 1}})
    ->ArgNames({"slice", "get"});
BENCHMARK(look_up)->Arg(1'000)->Arg(100'000)->Arg(1'000'000);
BENCHMARK(evict)->Arg(0)->Arg(1)->ArgName("s3_fifo");
BENCHMARK(through_thread)->Arg(1)->Arg(64)->UseRealTime();

}  // namespace
