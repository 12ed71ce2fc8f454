// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "cluster_world.hpp"

#include <oriel/sim/page_cache.hpp>

namespace oriel::sim::page_cache_test {
namespace {

/// The tokens of a page whose id stands for them.
std::vector<token_id> tokens_of(std::span<const std::uint32_t> ids, std::uint32_t page_size) {
  std::vector<token_id> tokens;
  for (const std::uint32_t id : ids) {
    for (std::uint32_t i = 0; i < page_size; ++i) {
      tokens.push_back(token_id{id * 131 + i % 7});
    }
  }
  return tokens;
}

/// One request: match, pin, compute, publish, release. The window-safe and the full length in
/// pages.
std::pair<std::uint32_t, std::uint32_t> serve(page_cache& cache,
                                              const cache_namespace& space,
                                              const std::vector<token_id>& tokens,
                                              std::uint32_t size,
                                              std::uint64_t now_us) {
  const prefix_match m = cache.match(space, tokens);
  auto lease = cache.pin(space, tokens, m, pin_extent::hit(m), now_us);
  const std::uint32_t start = lease.full_tokens() / size;
  const auto end = static_cast<std::uint32_t>(tokens.size() / size);
  // In two chunks, as a step scheduler may cut it.
  const std::uint32_t middle = start + (end - start) / 2;
  cache.publish(lease, tokens, start, middle, false, now_us);
  cache.tree().drop_windows(lease);
  cache.publish(lease, tokens, std::max(start, middle - std::min(middle, 3u)), end, true, now_us);
  cache.release(lease, {.duration_us = 1000}, now_us + 1000);
  return {m.window_safe_tokens / size, std::min(m.full_tokens / size, end - 1)};
}

TEST_CASE("a tree of page ids hits what a tree of tokens hits") {
  constexpr std::uint32_t size = 64, window = 128;
  const cache_namespace spaces[2] = {cache_namespace({.tenant_salt = "a"}),
                                     cache_namespace({.tenant_salt = "b"})};
  std::uint64_t unseen = 0, lost_windows = 0;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    INFO("seed " << seed);
    page_cache of_ids({.full_pages = 400,
                       .window_pages = {40},
                       .windows = {window_in_pages(window, size)},
                       .offered_pages = 100,
                       .leases_max = 4,
                       .seed = seed});
    page_cache of_tokens({.page_size = size,
                          .full_pages = 400,
                          .window_pages = {40},
                          .windows = {window},
                          .offered_pages = 100,
                          .leases_max = 4,
                          .seed = seed});
    random_stream draw(seed, 5);
    std::vector<std::vector<std::uint32_t>> paths[2];
    std::uint32_t next = 1, hits = 0, misses = 0;
    for (std::uint64_t i = 0; i < scaled(1'000); ++i) {
      const std::uint32_t space = draw.next_below(2);
      std::vector<std::uint32_t> ids;
      if (!paths[space].empty() && draw.next_below(5) != 0) {
        ids = paths[space][draw.next_below(static_cast<std::uint32_t>(paths[space].size()))];
        if (draw.next_below(3) == 0) {
          ids.resize(1 + draw.next_below(static_cast<std::uint32_t>(ids.size())));
        }
      }
      for (std::uint32_t more = 1 + draw.next_below(12); more > 0; --more) {
        ids.push_back(next++);
      }
      ids.resize(std::min<std::size_t>(ids.size(), 60));
      paths[space].push_back(ids);
      const std::uint64_t now_us = i * 1'000'000;
      // A look-up that may be left out because nothing changed must have changed nothing.
      const auto probe = tokens_of(
          paths[1 - space].empty() ? ids : paths[1 - space][i % paths[1 - space].size()], 1);
      const prefix_match before = of_ids.match(spaces[1 - space], probe);
      const std::uint32_t changes = of_ids.changes(spaces[1 - space]);
      const auto a = serve(of_ids, spaces[space], tokens_of(ids, 1), 1, now_us);
      const auto b = serve(of_tokens, spaces[space], tokens_of(ids, size), size, now_us);
      REQUIRE(a == b);
      const prefix_match after = of_ids.match(spaces[1 - space], probe);
      const bool is_same = before.full_tokens == after.full_tokens &&
                           before.window_safe_tokens == after.window_safe_tokens;
      REQUIRE((is_same || of_ids.changes(spaces[1 - space]) != changes));
      unseen += of_ids.changes(spaces[1 - space]) == changes;
      lost_windows += before.full_tokens == after.full_tokens &&
                      before.window_safe_tokens > after.window_safe_tokens;
      hits += a.first != 0;
      misses += a.first != a.second;
    }
    CHECK(hits > scaled(200));
    CHECK(misses > 0);  // Windows were evicted alone, too.
    CHECK(of_ids.tree().counters().evicted_full_pages ==
          of_tokens.tree().counters().evicted_full_pages);
    CHECK(of_ids.tree().audit() == nullptr);
  }
  CHECK(unseen > 0);
  CHECK((lost_windows > 0 || scaled(1'000) < 1'000));
}

TEST_CASE("a window in pages needs the pages that its tokens lie in") {
  for (const std::uint32_t page : {16u, 64u, 512u}) {
    for (const std::uint32_t window : {1u, 2u, 16u, 17u, 65u, 66u, 128u, 129u, 1024u}) {
      INFO("page " << page << " window " << window);
      // Tokens [boundary - (W - 1), boundary), whose pages are these.
      CHECK(window_in_pages(window, page) - 1 == (window - 1 + page - 1) / page);
    }
  }
}

TEST_CASE("what has no room beside leases is not kept") {
  page_cache cache({.full_pages = 20, .window_pages = {8}, .windows = {3}, .offered_pages = 40});
  const cache_namespace space({.tenant_salt = "a"});
  std::vector<std::uint32_t> ids(30);
  std::iota(ids.begin(), ids.end(), 1u);
  const auto tokens = tokens_of(ids, 1);
  auto lease = cache.pin(space, tokens, cache.match(space, tokens), {}, 0);
  CHECK(cache.publish(lease, tokens, 0, 30, true, 0) == 20);
  CHECK(lease.full_tokens() == 20);
  cache.release(lease, {}, 1);
  CHECK(cache.used(0) == 20);
  CHECK(cache.match(space, tokens).full_tokens == 20);
  cache.clear();
  CHECK(cache.used(0) == 0);
}

}  // namespace
}  // namespace oriel::sim::page_cache_test
