// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Example 03: requests share prefixes. A probe tells how far a prompt can be resumed, a lease holds
// the pages, a publish makes new ones visible, eviction frees the deepest pages of the oldest run.
// Next: 04_heal resumes where the window KV is gone.
#include <oriel/kv/paged_allocator.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/radix_tree.hpp>

#include <cstdio>
#include <string_view>
#include <vector>

namespace {

using pool = oriel::paged_allocator<>;
using tree = oriel::radix_tree<pool, oriel::lru_order>;

constexpr std::uint32_t page = 4;     // tokens
constexpr std::uint32_t window = 10;  // tokens a window layer sees, the query included

/// One token per character.
std::vector<oriel::token_id> tokens_of(std::string_view text) {
  std::vector<oriel::token_id> tokens;
  for (const char c : text) {
    tokens.push_back(oriel::token_id{static_cast<unsigned char>(c)});
  }
  return tokens;
}

void show(const char* what, const oriel::prefix_match& m) {
  std::printf("%-34s full KV to %2u, window-safe to %2u, could heal to %2u\n",
              what,
              m.full_tokens,
              m.window_safe_tokens,
              m.heal_tokens);
}

/// What an engine does for one request, without the model: match, pin, compute, publish, release.
void serve(tree& cache,
           std::vector<pool>& pools,
           const oriel::cache_namespace& space,
           std::string_view text,
           std::uint64_t now_us) {
  const auto tokens = tokens_of(text);
  const oriel::prefix_match m = cache.match(space, tokens);
  auto lease = cache.pin(space, tokens, m, oriel::pin_extent::hit(m), now_us);
  const std::uint32_t first = lease.full_tokens() / page;
  const auto end = static_cast<std::uint32_t>(tokens.size()) / page;
  std::printf("  \"%.*s\": %u tokens from the cache, %zu computed\n",
              static_cast<int>(text.size()),
              text.data(),
              lease.full_tokens(),
              tokens.size() - lease.full_tokens());

  // The pages that the forward pass fills. Window layers need only the last ones.
  std::vector<oriel::page_handle> full(end - first);
  std::vector<oriel::page_handle> last(end - first < 4 ? end - first : 4);
  if (!pools[0].try_allocate(full) || !pools[1].try_allocate(last)) {
    std::puts("out of pages");
    return;
  }
  const auto first_window = end - static_cast<std::uint32_t>(last.size());
  const oriel::window_page_span windows{.first_page = first_window, .pages = last};
  auto fresh = cache.reserve({.first_page = first, .full = full, .windows = {&windows, 1}});
  cache.commit(lease, fresh, tokens, now_us);  // Only now can others find them.
  pools[0].release(full);  // The request's own references; the tree has its own.
  pools[1].release(last);
  cache.release(lease, {.ended = oriel::request_end::end_of_turn}, now_us + 1);
}

}  // namespace

int main() {
  std::vector<pool> pools;
  pools.emplace_back(/*capacity_pages=*/64);  // full-attention layers
  pools.emplace_back(/*capacity_pages=*/32);  // window layers
  tree cache(pools, {.page_size = page, .windows = {window}});
  const oriel::cache_namespace alice({.tenant_salt = "alice", .model = "demo"});
  const oriel::cache_namespace bob({.tenant_salt = "bob", .model = "demo"});

  std::puts("Pages of 4 tokens, a window of 10: a boundary needs the last 9 positions.");
  serve(cache, pools, alice, "You are a helpful assistant. Say hello!", 10);
  serve(cache, pools, alice, "You are a helpful assistant. Say hello! Hello. Again!", 20);
  serve(cache, pools, alice, "You are a helpful assistant. Count to ten.", 30);

  std::puts(
      "\nThe second prompt went on where the first had ended: a window is kept there. The third");
  std::puts(
      "left the path inside it, where no window was kept: full KV is there, window KV is not.");
  show("  the fork, asked again:",
       cache.match(alice, tokens_of("You are a helpful assistant. Sing a song")));
  show("  the third prompt, asked again:",
       cache.match(alice, tokens_of("You are a helpful assistant. Count to ten.")));
  show("  another tenant:", cache.match(bob, tokens_of("You are a helpful assistant. Say hello!")));

  std::printf("\n%u full pages and %u window pages are cached, in %u nodes.\n",
              cache.full_pages(),
              cache.window_pages(0),
              cache.nodes());
  const oriel::evicted_pages freed = cache.evict_full(5, 40);
  std::printf("Asked for 5 pages: %u came free, the deepest of the request that ended first,\n",
              freed.full);
  std::printf("and %u window pages below them.\n", freed.window);
  show("  the second prompt:",
       cache.match(alice, tokens_of("You are a helpful assistant. Say hello! Hello. Again!")));
  const char* wrong = cache.audit();
  std::printf("audit: %s\n", wrong == nullptr ? "everything adds up" : wrong);
  return wrong == nullptr ? 0 : 1;
}
