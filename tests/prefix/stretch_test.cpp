// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Sinks that take full pages in stretches hear what others hear page by page; matches that begin at
// a lease find what others find; pages may be given to the tree for good.
#include "prefix/tree_world.hpp"
#include "support/scale.hpp"

#include <oriel/core/random.hpp>
#include <oriel/prefix/retention.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <tuple>
#include <vector>

namespace stretch_test {

using namespace oriel;

namespace {

constexpr std::uint32_t page_size = 4;

/// What a page event says; tokens only of stored full pages, as stretches have them.
using said_event = std::tuple<std::uint64_t,           // sequence
                              cache_event_kind,        //
                              std::uint32_t,           // pool
                              std::uint32_t,           // page
                              std::uint64_t,           // space
                              std::uint32_t,           // full page
                              std::uint32_t,           // full page before it
                              std::vector<token_id>>;  //

std::vector<token_id> tokens_told(const cache_event& e) {
  const bool is_told = e.kind == cache_event_kind::stored && e.pool == 0;
  return is_told ? std::vector<token_id>(e.tokens.begin(), e.tokens.end())
                 : std::vector<token_id>();
}

struct page_sink {
  static constexpr bool enabled = true;
  static constexpr bool needs_hashes = false;
  std::vector<said_event>* to = nullptr;
  void operator()(const cache_event& e) const noexcept {
    to->emplace_back(e.sequence,
                     e.kind,
                     e.pool,
                     e.page,
                     e.space.low,
                     to_index(e.full.id),
                     to_index(e.parent_full.id),
                     tokens_told(e));
  }
};

struct stretch_sink : page_sink {
  std::uint64_t* stretches = nullptr;
  void take_stretch(const cache_event_stretch& s) const noexcept {
    ++*stretches;
    const bool is_stored = s.kind == cache_event_kind::stored;
    for (std::size_t i = 0; i < s.full.size(); ++i) {
      const std::size_t above = is_stored ? i : s.full.size() - 1 - i;
      const std::size_t before = is_stored ? i - 1 : i + 1;
      const auto tokens = is_stored ? s.tokens.subspan(i * page_size, page_size) : s.tokens;
      to->emplace_back(s.sequence + i,
                       s.kind,
                       0u,
                       s.page + static_cast<std::uint32_t>(above),
                       s.space.low,
                       to_index(s.full[i].id),
                       to_index((above == 0 ? s.parent_full : s.full[before]).id),
                       std::vector<token_id>(tokens.begin(), tokens.end()));
    }
  }
};
static_assert(takes_stretches_v<stretch_sink> && !takes_stretches_v<page_sink>);

/// A tree whose requests give their pages away.
template <class Sink>
struct giving_tree {
  std::vector<paged_allocator<>> pools{paged_allocator<>(60), paged_allocator<>(60)};
  std::vector<said_event> said;
  radix_tree<paged_allocator<>, lru_order, keep_branch_points, Sink> tree;

  explicit giving_tree(Sink sink)
      : tree(pools, {.page_size = page_size, .windows = {7}}, {}, (sink.to = &said, sink)) {}

  std::vector<page_handle> take(std::uint32_t pool, std::uint32_t pages, std::uint64_t now) {
    std::vector<page_handle> taken(pages);
    const std::uint32_t missing = pages - std::min(pages, pools[pool].available());
    if (missing != 0 && pool == 0) {
      tree.evict_full(missing, now);
    } else if (missing != 0) {
      tree.evict_window(0, missing);
    }
    REQUIRE(pools[pool].try_allocate(taken));
    return taken;
  }
  /// Half of the windows are not offered.
  void run(const cache_namespace& space, const std::vector<token_id>& tokens, std::uint64_t now) {
    const auto end = static_cast<std::uint32_t>(tokens.size()) / page_size;
    const prefix_match m = tree.match(space, tokens);
    auto held = tree.pin(space, tokens, m, {m.heal_tokens, 0}, now);
    const prefix_match beyond = tree.match_beyond(held, tokens);
    REQUIRE(beyond.full_tokens == m.full_tokens);
    REQUIRE(beyond.heal_tokens == m.heal_tokens);
    REQUIRE(beyond.window_safe_tokens == m.window_safe_tokens);
    const std::uint32_t first = held.full_tokens() / page_size;
    const auto full = take(0, end - first, now);
    std::vector<page_handle> windows(end - first);
    const auto some = take(1, (end - first) / 2, now);
    std::copy(some.begin(), some.end(), windows.end() - static_cast<std::ptrdiff_t>(some.size()));
    const window_page_span offered{.first_page = first, .pages = windows};
    auto fresh = tree.reserve(
        {.first_page = first, .full = full, .windows = std::span(&offered, 1), .is_gift = true});
    tree.commit(held, fresh, tokens, now);
    tree.release(held, {}, now);
    REQUIRE(tree.audit() == nullptr);
    REQUIRE(pools[0].available() + tree.full_pages() == pools[0].capacity());
    REQUIRE(pools[1].available() + tree.window_pages(0) == pools[1].capacity());
  }
};

}  // namespace

TEST_CASE("stretches tell what single events tell", "[prefix]") {
  std::uint64_t stretches = 0, pages = 0;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    INFO("seed " << seed);
    giving_tree<page_sink> one(page_sink{});
    giving_tree<stretch_sink> other(stretch_sink{{}, &stretches});
    const cache_namespace spaces[2] = {cache_namespace({.tenant_salt = "a"}),
                                       cache_namespace({.tenant_salt = "b"})};
    random_stream draw(seed);
    std::vector<std::vector<token_id>> prompts;
    for (std::uint64_t i = 1; i <= scaled(600); ++i) {
      std::vector<token_id> tokens;
      if (!prompts.empty() && draw.next_below(4) != 0) {
        tokens = prompts[draw.next_below(static_cast<std::uint32_t>(prompts.size()))];
        tokens.resize(draw.next_below(static_cast<std::uint32_t>(tokens.size())));
      }
      const std::size_t length =
          std::min<std::size_t>(tokens.size() + 4 + draw.next_below(60), 200);
      while (tokens.size() < length) {
        tokens.push_back(token_id{draw.next_below(3)});
      }
      prompts.push_back(tokens);
      const cache_namespace& space = spaces[draw.next_below(2)];
      one.run(space, tokens, i);
      other.run(space, tokens, i);
      if (draw.next_below(100) == 0) {
        one.tree.drop(space);
        other.tree.drop(space);
      }
    }
    one.tree.clear();
    other.tree.clear();
    REQUIRE(one.said == other.said);
    pages += one.said.size();
  }
  CHECK(stretches > 0);
  CHECK(stretches < pages / 2);
}

TEST_CASE("a path of only children is found, and again when siblings came and went", "[prefix]") {
  tree_world w({.page_size = 1, .pages = 400});
  const auto path = tokens_from(0, 100);
  w.run(path);
  for (std::uint32_t fork = 1; fork < 100; fork += 7) {
    w.run(fork_of(path, fork, tokens_from(1'000 + fork, 2)));
  }
  for (std::uint32_t fork = 1; fork < 100; fork += 7) {
    CHECK(w.match(fork_of(path, fork, tokens_from(1'000 + fork, 2))).full_tokens == fork + 2);
  }
  for (std::uint32_t pages = w.tree.full_pages(); pages > 0; --pages) {
    w.tree.evict_full(1, ++w.now);
    w.check();
    std::uint32_t found = w.match(path).full_tokens;  // Whatever is left is found.
    for (std::uint32_t fork = 1; fork < 100; fork += 7) {
      const std::uint32_t of_it =
          w.match(fork_of(path, fork, tokens_from(1'000 + fork, 2))).full_tokens;
      found += of_it - std::min(of_it, fork);
    }
    REQUIRE(found == pages - 1);
  }
}

}  // namespace stretch_test
