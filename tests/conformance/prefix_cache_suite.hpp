// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `prefix_cache`, as Catch2 checks. Run it on any model, ours or yours:
///
///     TEST_CASE("my_cache is a prefix_cache") {
///       check_prefix_cache([](auto pools) {
///         return my_cache(pools, {.page_size = 4, .windows = {6}});
///       });
///     }
#pragma once

#include <oriel/kv/paged_allocator.hpp>
#include <oriel/prefix/prefix_cache.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace oriel_conformance {

/// Pages of 4 tokens, one window kind of 6 tokens, 48 full pages and 32 window pages.
inline constexpr std::uint32_t cache_page_tokens = 4, cache_window_tokens = 6;

using cache_pools = std::vector<oriel::paged_allocator<>>;
using prompt = std::vector<oriel::token_id>;

inline cache_pools make_cache_pools() {
  cache_pools pools;
  pools.emplace_back(48);
  pools.emplace_back(32);
  return pools;
}

/// `count` tokens, which differ from those of another `first`.
inline prompt prompt_of(std::uint32_t first, std::uint32_t count) {
  prompt tokens(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    tokens[i] = oriel::token_id{first * 1'000 + i};
  }
  return tokens;
}

/// A cache, its pools, and the bytes of their pages: a hash of what a cold run would write.
template <oriel::prefix_cache Cache>
struct cache_bench {
  Cache& cache;
  cache_pools& pools;
  std::uint64_t now = 0;
  std::vector<std::vector<std::uint64_t>> bytes = {std::vector<std::uint64_t>(48),
                                                   std::vector<std::uint64_t>(32)};

  static std::uint64_t cold_bytes(const oriel::cache_namespace& space,
                                  const prompt& tokens,
                                  std::uint32_t page,
                                  std::size_t pool) {
    const auto read = std::span(tokens).first(std::size_t{page + 1} * cache_page_tokens);
    return oriel::next_link(space.digest(), read).low + pool;
  }

  typename Cache::lease pin(const oriel::cache_namespace& space, const prompt& tokens) {
    const auto found = cache.match(space, tokens);
    return cache.pin(space, tokens, found, oriel::pin_extent::hit(found), ++now);
  }
  void release(typename Cache::lease& held) { cache.release(held, {}, ++now); }

  /// Computes all whole pages of `tokens` behind what the lease holds, and their window pages.
  /// Returns false, and publishes nothing, if the pools are short.
  bool grow(const oriel::cache_namespace& space,
            typename Cache::lease& held,
            const prompt& tokens,
            oriel::publish_outcome& outcome) {
    const std::uint32_t first = held.full_tokens() / cache_page_tokens;
    const std::size_t count = tokens.size() / cache_page_tokens - first;
    std::vector<oriel::page_handle> full(count), window(count);
    if (!pools[0].try_allocate(full)) {
      return false;
    }
    if (!pools[1].try_allocate(window)) {
      pools[0].release(full);
      return false;
    }
    const oriel::window_page_span span{.first_page = first, .pages = window};
    auto fresh = cache.reserve({.first_page = first, .full = full, .windows = std::span(&span, 1)});
    for (std::uint32_t i = 0; i < count; ++i) {
      bytes[0][to_index(full[i].id)] = cold_bytes(space, tokens, first + i, 0);
      bytes[1][to_index(window[i].id)] = cold_bytes(space, tokens, first + i, 1);
    }
    outcome = cache.commit(held, fresh, tokens, ++now);
    published.assign(fresh.full_pages().begin(), fresh.full_pages().end());
    pools[0].release(full);
    pools[1].release(window);
    return true;
  }
  oriel::publish_outcome run(const oriel::cache_namespace& space, const prompt& tokens) {
    oriel::publish_outcome outcome;
    auto held = pin(space, tokens);
    REQUIRE(grow(space, held, tokens, outcome));
    release(held);
    return outcome;
  }

  /// Pages that a lease lends and whose bytes are not those of a cold run.
  std::uint32_t wrong_pages(const oriel::cache_namespace& space,
                            const typename Cache::lease& held,
                            const prompt& tokens) {
    cache.borrow(held, lent);
    std::uint32_t wrong = lent.full.size() * cache_page_tokens != held.full_tokens();
    for (std::uint32_t page = 0; page < lent.full.size(); ++page) {
      wrong += !pools[0].is_live(lent.full[page]) ||
               bytes[0][to_index(lent.full[page].id)] != cold_bytes(space, tokens, page, 0);
    }
    const std::uint32_t end = held.window_tokens();
    const std::uint32_t first = (end - std::min(end, cache_window_tokens - 1)) / cache_page_tokens;
    wrong += lent.windows.at(0).size() != end / cache_page_tokens - first;
    for (std::uint32_t i = 0; i < lent.windows[0].size(); ++i) {
      const oriel::page_handle window = lent.windows[0][i];
      wrong += !pools[1].is_live(window) ||
               bytes[1][to_index(window.id)] != cold_bytes(space, tokens, first + i, 1);
    }
    return wrong;
  }

  oriel::borrowed_pages lent = {};
  std::vector<oriel::page_handle> published = {};
};

inline const oriel::cache_namespace cache_space_a({.tenant_salt = "a"});
inline const oriel::cache_namespace cache_space_b({.tenant_salt = "b"});

/// Sections on what is found and lent.
template <oriel::prefix_cache Cache>
void check_cache_hits(cache_bench<Cache>& b) {
  const prompt tokens = prompt_of(1, 22), longer = prompt_of(1, 26);
  SECTION("an empty cache finds nothing, and leases of nothing work") {
    CHECK(b.cache.match(cache_space_a, tokens).full_tokens == 0);
    auto held = b.pin(cache_space_a, tokens);
    CHECK(held.full_tokens() == 0);
    CHECK(b.wrong_pages(cache_space_a, held, tokens) == 0);
    b.release(held);
  }
  SECTION("what was published whole is found whole, and one token is always computed") {
    CHECK(b.run(cache_space_a, tokens).tokens == 20);
    for (std::uint32_t length = 0; length <= 22; ++length) {
      const auto m = b.cache.match(cache_space_a, prompt_of(1, length));
      CHECK(m.full_tokens == length / 4 * 4);
      CHECK(m.heal_tokens == (length == 0 ? 0 : (length - 1) / 4 * 4));
      CHECK(m.window_safe_tokens <= m.heal_tokens);
    }
    CHECK(b.cache.match(cache_space_a, longer).window_safe_tokens == 20);
  }
  SECTION("a match changes nothing") {
    b.run(cache_space_a, tokens);
    const auto counters = b.cache.counters();
    const std::uint32_t full = b.pools[0].available(), window = b.pools[1].available();
    for (int i = 0; i < 100; ++i) {
      CHECK(b.cache.match(cache_space_a, longer).window_safe_tokens == 20);
    }
    CHECK(b.cache.counters().hit_tokens == counters.hit_tokens);
    CHECK(b.cache.counters().pins == counters.pins);
    CHECK(b.pools[0].available() == full);
    CHECK(b.pools[1].available() == window);
    CHECK(b.cache.evict_full(48, ++b.now).full == 5);  // No pin was left.
  }
  SECTION("a lease lends the cold run's bytes, and never more than was asked") {
    b.run(cache_space_a, tokens);
    for (std::uint32_t full = 0; full <= 26; ++full) {
      for (const std::uint32_t window : {0u, full, 26u}) {
        const auto m = b.cache.match(cache_space_a, longer);
        auto held = b.cache.pin(cache_space_a, longer, m, {full, window}, ++b.now);
        CHECK(held.full_tokens() == std::min(full, 20u) / 4 * 4);
        CHECK(held.window_tokens() <= std::min(window, held.full_tokens()));
        CHECK(b.wrong_pages(cache_space_a, held, longer) == 0);
        b.release(held);
      }
    }
  }
  SECTION("a stale match is made again") {
    b.run(cache_space_a, tokens);
    const auto m = b.cache.match(cache_space_a, longer);
    b.cache.evict_full(2, ++b.now);
    const auto held = b.cache.pin(cache_space_a, longer, m, {20, 20}, ++b.now);
    CHECK(held.full_tokens() == 12);
    CHECK(b.wrong_pages(cache_space_a, held, longer) == 0);
  }
  SECTION("one namespace never sees another") {
    b.run(cache_space_a, tokens);
    const auto m = b.cache.match(cache_space_a, longer);
    CHECK(b.cache.match(cache_space_b, longer).full_tokens == 0);
    const auto held = b.cache.pin(cache_space_b, longer, m, {20, 20}, ++b.now);
    CHECK(held.full_tokens() == 0);
    b.run(cache_space_b, tokens);
    b.cache.drop(cache_space_a);
    CHECK(b.cache.match(cache_space_a, longer).full_tokens == 0);
    CHECK(b.cache.match(cache_space_b, longer).full_tokens == 20);
  }
}

/// Sections on publishing.
template <oriel::prefix_cache Cache>
void check_cache_publishes(cache_bench<Cache>& b) {
  const prompt tokens = prompt_of(1, 20), longer = prompt_of(1, 25);
  oriel::publish_outcome outcome;
  SECTION("pages are found from commit on, never before") {
    auto held = b.pin(cache_space_a, tokens);
    std::vector<oriel::page_handle> full(5);
    REQUIRE(b.pools[0].try_allocate(full));
    const oriel::window_page_span none{};
    const oriel::publish_source source{
        .first_page = 0, .full = full, .windows = std::span(&none, 1)};
    auto aborted = b.cache.reserve(source);
    CHECK(b.cache.match(cache_space_a, tokens).full_tokens == 0);
    b.cache.abort(aborted);
    CHECK(b.cache.match(cache_space_a, tokens).full_tokens == 0);
    { const auto forgotten = b.cache.reserve(source); }
    CHECK(b.cache.match(cache_space_a, tokens).full_tokens == 0);
    CHECK(b.pools[0].ref_count(full[4]) == 1);
    auto fresh = b.cache.reserve(source);
    b.cache.commit(held, fresh, tokens, ++b.now);
    CHECK(b.cache.match(cache_space_a, tokens).full_tokens == 20);
    CHECK(held.full_tokens() == 20);
    b.pools[0].release(full);
    b.release(held);
  }
  SECTION("of two with equal tokens the first stays, and the second is told its pages") {
    auto first = b.pin(cache_space_a, tokens), second = b.pin(cache_space_a, tokens);
    REQUIRE(b.grow(cache_space_a, first, tokens, outcome));
    const auto kept = b.published;
    REQUIRE(b.grow(cache_space_a, second, tokens, outcome));
    CHECK(outcome.tokens == 20);
    CHECK(outcome.full_pages == 0);
    CHECK(outcome.switched_pages == 5);
    CHECK(b.published == kept);
    CHECK(second.full_tokens() == 20);
    CHECK(b.wrong_pages(cache_space_a, second, tokens) == 0);
    CHECK(b.pools[0].available() == 43);
    b.release(first);
    b.release(second);
  }
  SECTION("paths that part share what they have in common") {
    b.run(cache_space_a, longer);
    prompt other = longer;
    other[13] = oriel::token_id{77};
    auto held = b.pin(cache_space_a, other);
    REQUIRE(b.grow(cache_space_a, held, other, outcome));
    CHECK(outcome.full_pages == 3);
    b.release(held);
    CHECK(b.pools[0].available() == 48 - 6 - 3);
    for (const prompt& p : {longer, other}) {
      CHECK(b.cache.match(cache_space_a, p).full_tokens == 24);
    }
  }
  SECTION("windows that were lost come back with the next publish") {
    b.run(cache_space_a, tokens);
    b.cache.evict_window(0, 32);
    CHECK(b.cache.match(cache_space_a, longer).window_safe_tokens == 0);
    CHECK(b.cache.match(cache_space_a, longer).heal_tokens == 20);
    b.run(cache_space_a, longer);  // Recomputes, since nothing is window-safe.
    CHECK(b.cache.match(cache_space_a, prompt_of(1, 26)).window_safe_tokens == 24);
  }
}

/// Sections on making room.
template <oriel::prefix_cache Cache>
void check_cache_evicts(cache_bench<Cache>& b) {
  const prompt tokens = prompt_of(1, 25);
  SECTION("nothing from nothing") {
    CHECK(b.cache.evict_full(3, 1) == oriel::evicted_pages{});
    CHECK(b.cache.evict_window(0, 3) == oriel::evicted_pages{});
  }
  SECTION("never more than was asked, and what is said is what became free") {
    for (std::uint32_t first = 1; first <= 4; ++first) {
      b.run(cache_space_a, prompt_of(first, 25));
    }
    for (const std::uint32_t asked : {0u, 1u, 5u, 2u, 100u}) {
      const std::uint32_t full = b.pools[0].available(), window = b.pools[1].available();
      const auto freed = b.cache.evict_full(asked, ++b.now);
      CHECK(freed.full <= asked);
      CHECK(b.pools[0].available() == full + freed.full);
      CHECK(b.pools[1].available() == window + freed.window);
    }
    CHECK(b.pools[0].available() == 48);
  }
  SECTION("windows go alone, and full prefixes stay") {
    b.run(cache_space_a, tokens);
    const auto freed = b.cache.evict_window(0, 1);
    CHECK(freed == oriel::evicted_pages{0, 1});
    CHECK(b.cache.evict_window(0, 0) == oriel::evicted_pages{});
    CHECK(b.cache.match(cache_space_a, tokens).full_tokens == 24);
  }
  SECTION("nothing leased goes, by whatever means") {
    b.run(cache_space_a, tokens);
    b.run(cache_space_b, tokens);
    auto held = b.pin(cache_space_a, prompt_of(1, 26));
    REQUIRE(held.window_tokens() == 24);
    CHECK(b.cache.evict_full(48, ++b.now).full == 6);
    b.cache.evict_window(0, 32);
    CHECK(b.wrong_pages(cache_space_a, held, tokens) == 0);
    SECTION("evictions only") {
      CHECK(b.cache.match(cache_space_a, prompt_of(1, 26)).window_safe_tokens == 24);
    }
    SECTION("its namespace is dropped") {
      b.cache.drop(cache_space_a);
      CHECK(b.cache.match(cache_space_a, tokens).full_tokens == 0);
      CHECK(b.wrong_pages(cache_space_a, held, tokens) == 0);
    }
    SECTION("everything is cleared") {
      b.cache.clear();
      CHECK(b.wrong_pages(cache_space_a, held, tokens) == 0);
    }
    b.release(held);
    b.cache.evict_full(48, ++b.now);
    CHECK(b.pools[0].available() == 48);
    CHECK(b.pools[1].available() == 32);
  }
  SECTION("windows dropped early may go, the full pages stay") {
    b.run(cache_space_a, tokens);
    auto held = b.pin(cache_space_a, prompt_of(1, 26));
    b.cache.drop_windows(held);
    CHECK(held.window_tokens() == 0);
    CHECK(held.full_tokens() == 24);
    CHECK(b.cache.evict_window(0, 32).window != 0);
    CHECK(b.pools[1].available() == 32);
    CHECK(b.wrong_pages(cache_space_a, held, tokens) == 0);
    b.release(held);
  }
}

/// Requests over shared prefixes in pools that are too small for them.
template <oriel::prefix_cache Cache>
void check_cache_life(cache_bench<Cache>& b) {
  std::mt19937_64 random(1);
  std::uint32_t wrong = 0, hits = 0;
  for (int i = 0; i < 3'000; ++i) {
    prompt tokens = prompt_of(1, 4 + static_cast<std::uint32_t>(random() % 40));
    tokens[random() % tokens.size()] = oriel::token_id{static_cast<std::uint32_t>(random() % 3)};
    const auto& space = random() % 4 == 0 ? cache_space_b : cache_space_a;
    auto held = b.pin(space, tokens);
    hits += held.full_tokens() != 0;
    wrong += b.wrong_pages(space, held, tokens);
    b.cache.evict_full(12 - std::min(12u, b.pools[0].available()), ++b.now);
    b.cache.evict_window(0, 12 - std::min(12u, b.pools[1].available()));
    oriel::publish_outcome outcome;
    static_cast<void>(b.grow(space, held, tokens, outcome));
    wrong += b.wrong_pages(space, held, tokens);
    if (random() % 2 == 0) {
      b.release(held);  // Otherwise it goes out of scope.
    }
  }
  CHECK(wrong == 0);
  CHECK(hits > 500);
}

}  // namespace oriel_conformance

/// @param make  (std::span<oriel::paged_allocator<>> pools) -> a new cache over a full pool and one
///              window pool, with pages of 4 tokens and a window of 6
template <class Make>
void check_prefix_cache(Make make) {
  auto pools = oriel_conformance::make_cache_pools();
  {
    oriel::prefix_cache auto cache = make(std::span(pools));
    oriel_conformance::cache_bench<decltype(cache)> bench{cache, pools};
    oriel_conformance::check_cache_hits(bench);
    oriel_conformance::check_cache_publishes(bench);
    oriel_conformance::check_cache_evicts(bench);
    SECTION("a life of many requests") {
      oriel_conformance::check_cache_life(bench);
    }
    cache.clear();
    CHECK(pools[0].available() == pools[0].capacity());
    CHECK(pools[1].available() == pools[1].capacity());
  }
}
