// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/paged_allocator.hpp>
#include <oriel/prefix/prefix_cache.hpp>
#include <oriel/prefix/radix_tree.hpp>

#include <catch2/catch.hpp>

#include <numeric>
#include <set>
#include <vector>

using namespace oriel;

namespace {

using pool = paged_allocator<>;
using tree_type = radix_tree<pool>;

const cache_namespace space({.tenant_salt = "a", .model = "m"});
const cache_namespace other_space({.tenant_salt = "b", .model = "m"});

std::vector<token_id> tokens_from(std::uint32_t first, std::uint32_t count) {
  std::vector<token_id> tokens(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    tokens[i] = token_id{first + i};
  }
  return tokens;
}

/// Pools of 64 pages and a tree over them; every publish offers all pages of the path, and the
/// window pages that a pattern names.
struct world {
  std::vector<pool> pools;
  tree_type tree;
  std::uint64_t now = 0;

  explicit world(std::uint32_t page,
                 std::vector<std::uint32_t> windows,
                 std::uint32_t slack = 0,
                 std::uint32_t pages = 64)
      : pools(make(windows.size(), pages)),
        tree(pools, {.page_size = page, .windows = windows, .slack_pages = slack}) {}

  static std::vector<pool> make(std::size_t kinds, std::uint32_t pages) {
    std::vector<pool> made;
    for (std::size_t i = 0; i <= kinds; ++i) {
      made.emplace_back(pages);
    }
    return made;
  }

  /// Publishes one page after the other, so that each can be the tail of a publish and keep the
  /// window page that the pattern gives it.
  void publish(const std::vector<token_id>& tokens, const std::vector<std::vector<int>>& patterns) {
    const std::uint32_t page = tree.options().page_size;
    const auto whole = static_cast<std::uint32_t>(tokens.size() / page);
    auto m = tree.match(space, tokens);
    auto lease = tree.pin(space, tokens, m, {m.heal_tokens, 0}, ++now);
    for (std::uint32_t j = 0; j < whole; ++j) {
      std::vector<page_handle> full(lease.full_tokens() / page > j ? 0 : 1);
      REQUIRE(pools[0].try_allocate(full));
      std::vector<std::vector<page_handle>> windows(patterns.size());
      std::vector<window_page_span> offered(patterns.size());
      for (std::size_t k = 0; k < patterns.size(); ++k) {
        windows[k].resize(patterns[k].at(j) != 0 ? 1 : 0);
        REQUIRE(pools[k + 1].try_allocate(windows[k]));
        offered[k] = {.first_page = j, .pages = windows[k]};
      }
      const std::uint32_t first = full.empty() ? lease.full_tokens() / page : j;
      auto fresh = tree.reserve({.first_page = first, .full = full, .windows = offered});
      tree.commit(lease, fresh, tokens, ++now);
      pools[0].release(full);
      for (std::size_t k = 0; k < patterns.size(); ++k) {
        pools[k + 1].release(windows[k]);
      }
      REQUIRE(tree.audit() == nullptr);
    }
    tree.release(lease, {}, ++now);
    REQUIRE(tree.audit() == nullptr);
  }

  /// Pages of the window-safe boundary for a prompt longer than the pattern.
  std::uint32_t safe_pages(const std::vector<token_id>& tokens) {
    std::vector<token_id> prompt = tokens;
    prompt.resize(tokens.size() + tree.options().page_size, token_id{999999});
    return tree.match(space, prompt).window_safe_tokens / tree.options().page_size;
  }
};

std::uint32_t safe_pages(std::uint32_t page, std::uint32_t window, std::vector<int> pattern) {
  world w(page, {window});
  const auto tokens = tokens_from(0, static_cast<std::uint32_t>(pattern.size()) * page);
  w.publish(tokens, {pattern});
  REQUIRE(w.tree.full_pages() == pattern.size());
  return w.safe_pages(tokens);
}

}  // namespace

TEST_CASE("case 1: the deepest boundary whose window pages are all there", "[prefix]") {
  CHECK(safe_pages(2, 4, {}) == 0);
  CHECK(safe_pages(2, 4, {1}) == 1);
  CHECK(safe_pages(2, 4, {1, 0}) == 1);
  CHECK(safe_pages(2, 4, {1, 1}) == 2);
  CHECK(safe_pages(2, 4, {1, 1, 0}) == 2);
  CHECK(safe_pages(2, 4, {1, 1, 1}) == 3);
  CHECK(safe_pages(2, 4, {1, 1, 1, 0}) == 3);
  CHECK(safe_pages(2, 4, {1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1}) == 12);
  CHECK(safe_pages(2, 4, {1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0}) == 8);
}

TEST_CASE("cases 2, 4, 8, 9, 10: holes before the window do not matter, holes inside do",
          "[prefix]") {
  CHECK(safe_pages(4, 10, {0, 1, 1, 1, 0}) == 4);
  CHECK(safe_pages(4, 4, {1, 0, 1}) == 3);
  CHECK(safe_pages(4, 10, {0, 0, 1, 1}) == 0);
  CHECK(safe_pages(4, 10, {0, 1, 1, 1}) == 4);
  CHECK(safe_pages(4, 10, {0, 1, 1, 1, 0}) == 4);
}

static_assert(prefix_cache<tree_type>);
