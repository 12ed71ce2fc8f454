// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A prefix tree over small pools, for the numbered cases: publish what a pattern says, see what is
/// found.
#pragma once

#include "prefix/event_mirror.hpp"
#include "support/weak_hash.hpp"

#include <oriel/kv/paged_allocator.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/radix_tree.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

/// `count` tokens first, first + 1, ...
inline std::vector<oriel::token_id> tokens_from(std::uint32_t first, std::uint32_t count) {
  std::vector<oriel::token_id> tokens(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    tokens[i] = oriel::token_id{first + i};
  }
  return tokens;
}

/// The first `tokens` tokens of `head`, and `tail` behind them.
inline std::vector<oriel::token_id> fork_of(const std::vector<oriel::token_id>& head,
                                            std::uint32_t tokens,
                                            const std::vector<oriel::token_id>& tail) {
  std::vector<oriel::token_id> forked(head.begin(), head.begin() + tokens);
  forked.insert(forked.end(), tail.begin(), tail.end());
  return forked;
}

using world_retention =
    oriel::keep_any<oriel::keep_every, oriel::keep_branch_points, oriel::keep_dense_head>;

/// Nothing but tails.
inline world_retention tail_retention() {
  return world_retention({}, {.on = false}, {});
}
/// Every window page.
inline world_retention dense_retention() {
  return world_retention({}, {.on = false}, {.tokens = 1'000'000});
}

struct world_options {
  std::uint32_t page_size = 4;
  std::vector<std::uint32_t> windows = {};  ///< [kinds] W
  std::optional<std::uint32_t> soft_kind = {};
  std::uint32_t slack_pages = 0;
  std::uint32_t pages = 64;  ///< of every pool
  world_retention retention = tail_retention();
};

/// Logical window pages [first, end) of one kind.
struct offered_span {
  std::uint32_t first = 0, end = 0;
};

/// All of a request that the tree sees.
class tree_world {
 public:
  using pool_type = oriel::paged_allocator<>;
  using tree_type = oriel::radix_tree<
      pool_type,
      oriel::lru_order,
      oriel::keep_any<oriel::keep_every, oriel::keep_branch_points, oriel::keep_dense_head>,
      mirror_sink>;
  using lease = tree_type::lease;
  using path = std::vector<oriel::token_id>;

  explicit tree_world(world_options options)
      : pools(options.windows.size() + 1, pool_type(options.pages)),
        tree(pools,
             {.page_size = options.page_size,
              .windows = options.windows,
              .soft_kind = options.soft_kind,
              .slack_pages = options.slack_pages,
              .leases_max = 64,
              .namespaces_max = 64,
              .keeps_hash_chain = true},
             options.retention,
             {&mirror}) {}

  [[nodiscard]] std::uint32_t page_size() const { return tree.options().page_size; }
  [[nodiscard]] std::uint32_t kinds() const {
    return static_cast<std::uint32_t>(tree.options().windows.size());
  }
  oriel::prefix_match match(const path& tokens) const { return tree.match(space, tokens); }
  lease pin(const path& tokens, oriel::pin_extent extent) {
    return tree.pin(space, tokens, tree.match(space, tokens), extent, ++now);
  }
  /// An ordinary hit.
  lease pin(const path& tokens) { return pin(tokens, oriel::pin_extent::hit(match(tokens))); }
  void release(lease& held, oriel::request_end ended = oriel::request_end::unknown) {
    tree.release(held, {.ended = ended}, ++now);
    check();
  }

  /// Publishes all whole pages of `tokens` behind what the lease holds, with new full pages and new
  /// window pages of the given spans, one for each kind.
  oriel::publish_outcome grow(lease& held,
                              const path& tokens,
                              std::vector<offered_span> spans,
                              bool keeps_tail = true) {
    const auto whole = static_cast<std::uint32_t>(tokens.size()) / page_size();
    const std::uint32_t first = held.full_tokens() / page_size();
    std::vector<oriel::page_handle> full = take(0, whole - first);
    std::vector<std::vector<oriel::page_handle>> windows(kinds());
    std::vector<oriel::window_page_span> offered(kinds());
    for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
      windows[kind] = take(kind + 1, spans.at(kind).end - spans[kind].first);
      offered[kind] = {.first_page = spans[kind].first, .pages = windows[kind]};
    }
    auto fresh = tree.reserve(
        {.first_page = first, .full = full, .windows = offered, .keeps_tail = keeps_tail});
    const oriel::publish_outcome outcome = tree.commit(held, fresh, tokens, ++now);
    pools[0].release(full);
    for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
      pools[kind + 1].release(windows[kind]);
    }
    check();
    return outcome;
  }
  /// One request from start to end, that offers these window pages.
  void run(const path& tokens, std::vector<offered_span> spans) {
    lease held = pin(tokens, {match(tokens).heal_tokens, 0});
    grow(held, tokens, std::move(spans));
    release(held);
  }
  /// The same with every window page.
  void run(const path& tokens) {
    const auto whole = static_cast<std::uint32_t>(tokens.size()) / page_size();
    run(tokens, std::vector<offered_span>(kinds(), offered_span{0, whole}));
  }
  /// Publishes one page after the other, so that each can be the tail of a publish and keep the
  /// window page that the pattern of its kind gives it.
  void run_patterns(const path& tokens, const std::vector<std::vector<int>>& patterns) {
    lease held = pin(tokens, {match(tokens).heal_tokens, 0});
    const auto whole = static_cast<std::uint32_t>(tokens.size()) / page_size();
    for (std::uint32_t page = 0; page < whole; ++page) {
      std::vector<offered_span> spans;
      for (const std::vector<int>& pattern : patterns) {
        spans.push_back({page, page + (pattern.at(page) != 0 ? 1 : 0)});
      }
      grow(held,
           {tokens.begin(),
            tokens.begin() + std::max<std::ptrdiff_t>(held.full_tokens(),
                                                      std::ptrdiff_t{page + 1} * page_size())},
           std::move(spans));
    }
    release(held);
  }

  /// Pages of the window-safe boundary for a prompt longer than `tokens`.
  [[nodiscard]] std::uint32_t safe_pages(const path& tokens) const {
    return match(fork_of(tokens,
                         static_cast<std::uint32_t>(tokens.size()),
                         tokens_from(900'000, page_size())))
               .window_safe_tokens /
           page_size();
  }
  /// Logical pages of a pool in the tree; of all paths.
  [[nodiscard]] std::multiset<std::uint32_t> pages_of(std::uint32_t pool) const {
    std::multiset<std::uint32_t> pages;
    tree.visit_pages([&](const oriel::cached_page& page, std::uint32_t of, oriel::page_handle) {
      if (of == pool) {
        pages.insert(page.page);
      }
    });
    return pages;
  }
  /// Audit, and: free + in the tree = capacity, while no request owns pages.
  void check() const {
    const char* wrong = tree.audit();
    CAPTURE(wrong);
    REQUIRE(wrong == nullptr);
    REQUIRE((!hashes_differ || mirror.wrong == nullptr));
    REQUIRE(pools[0].available() + tree.full_pages() == pools[0].capacity());
    for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
      REQUIRE(pools[kind + 1].available() + tree.window_pages(kind) == pools[kind + 1].capacity());
    }
  }
  std::vector<oriel::page_handle> take(std::uint32_t pool, std::uint32_t pages) {
    std::vector<oriel::page_handle> taken(pages);
    REQUIRE(pools[pool].try_allocate(taken));
    return taken;
  }

  oriel::cache_namespace space{{.tenant_salt = "a", .model = "m"}};
  event_mirror mirror;
  std::vector<pool_type> pools;
  tree_type tree;
  std::uint64_t now = 0;
};
