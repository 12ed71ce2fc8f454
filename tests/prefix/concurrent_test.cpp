// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Case 49: probes beside one writer. What matters is that ThreadSanitizer sees it (tests/run.sh).
#include "prefix/tree_world.hpp"
#include "support/scale.hpp"

#include <oriel/kv/paged_allocator.hpp>
#include <oriel/prefix/radix_tree.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <random>
#include <shared_mutex>
#include <thread>
#include <vector>

namespace concurrent_test {

using namespace oriel;

namespace {

constexpr std::uint32_t page = 4;
using pool_type = paged_allocator<>;
using shared_tree = radix_tree<pool_type, lru_order, tail_only, no_events, std::shared_mutex>;

/// A prompt that shares the first `base` tokens of all, and then takes one of a few ways.
std::vector<token_id> draw_prompt(std::mt19937_64& random, std::uint32_t base) {
  auto tokens = tokens_from(0, base);
  for (std::uint64_t more = random() % 100; more > 0; --more) {
    tokens.push_back(token_id{static_cast<std::uint32_t>(random() % 8 == 0 ? random() % 2 : 0)});
  }
  return tokens;
}

/// One request: finds, borrows, publishes, ends; makes room where there is none.
void run_request(shared_tree& tree,
                 std::vector<pool_type>& pools,
                 const cache_namespace& space,
                 const std::vector<token_id>& tokens,
                 std::uint64_t now) {
  const auto found = tree.match(space, tokens);
  auto held = tree.pin(space, tokens, found, pin_extent::heal(found), now);
  borrowed_pages lent;
  tree.borrow(held, lent);
  const std::uint32_t first = held.full_tokens() / page;
  std::vector<page_handle> full(tokens.size() / page - first), window(full.size());
  if (pools[0].available() < full.size()) {
    tree.evict_full(static_cast<std::uint32_t>(full.size()), now);
  }
  if (pools[1].available() < window.size()) {
    tree.evict_window(0, static_cast<std::uint32_t>(window.size()));
  }
  if (pools[0].try_allocate(full)) {
    if (!pools[1].try_allocate(window)) {
      window.clear();
    }
    const window_page_span span{.first_page = first, .pages = window};
    auto fresh = tree.reserve({.first_page = first, .full = full, .windows = std::span(&span, 1)});
    tree.commit(held, fresh, tokens, now);
    pools[0].release(full);
    pools[1].release(window);
  }
  tree.drop_windows(held);
  tree.release(held, {}, now);
}

}  // namespace

TEST_CASE("case 49: eight threads probe while one writes", "[prefix]") {
  std::vector<pool_type> pools;
  pools.emplace_back(96);
  pools.emplace_back(64);
  shared_tree tree(pools, {.page_size = page, .windows = {6}, .keeps_hash_chain = true});
  const cache_namespace space({.tenant_salt = "a"}), other({.tenant_salt = "b"});
  const std::uint32_t base = 40;
  run_request(tree, pools, space, tokens_from(0, base), 1);
  // As long as this lease lives, every probe finds the base.
  auto keeper = tree.pin(space, tokens_from(0, base + 1), {}, {base, base}, 2);
  REQUIRE(keeper.window_tokens() == base);

  std::atomic<bool> is_done = false;
  std::atomic<std::uint64_t> probes = 0, wrong = 0;
  std::vector<std::thread> readers;
  for (std::uint64_t id = 0; id < 8; ++id) {
    readers.emplace_back([&, id] {
      std::mt19937_64 random(id);
      std::vector<chain_hash> chain;
      while (!is_done.load()) {
        const auto tokens = draw_prompt(random, base);
        chain.resize(random() % 2 == 0 ? 0 : tokens.size() / page);
        if (!chain.empty()) {
          hash_pages(space.digest(), tokens, page, chain);
        }
        const auto m = tree.match(space, tokens, chain);
        const bool longer = tokens.size() > base;
        wrong += m.full_tokens < base || m.heal_tokens > m.full_tokens ||
                 m.window_safe_tokens > m.heal_tokens || m.heal_tokens >= tokens.size() ||
                 (longer && m.window_safe_tokens < base) ||
                 tree.match(other, tokens).full_tokens > base;
        ++probes;
      }
    });
  }
  std::mt19937_64 random(49);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);  // With --long.
  std::uint64_t written = 0;
  const auto goes_on = [&] {
    return is_long_run() ? std::chrono::steady_clock::now() < end : written < scaled(5'000);
  };
  while (goes_on() || probes.load() < 1'000) {
    const std::uint64_t now = 3 + ++written;
    run_request(tree, pools, space, draw_prompt(random, base), now);
    if (written % 64 == 0) {
      run_request(tree, pools, other, tokens_from(0, base), now);
    }
    if (written % 256 == 0) {
      tree.drop(other);
    }
  }
  is_done = true;
  for (std::thread& reader : readers) {
    reader.join();
  }
  CAPTURE(written, probes.load());
  CHECK(wrong.load() == 0);
  CHECK(tree.audit() == nullptr);
  tree.release(keeper, {}, written + 4);
  tree.clear();
  CHECK(pools[0].available() == 96);
  CHECK(pools[1].available() == 64);
}

}  // namespace concurrent_test
