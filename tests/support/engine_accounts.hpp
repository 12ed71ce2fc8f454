// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// An engine's pages, counted page by page.
#pragma once

#include <engine/engine.hpp>
#include <fmt/format.h>

#include <cstdint>
#include <iterator>
#include <map>
#include <string>
#include <utility>

/// Every page in use is held by a running sequence or by the tree, every page that they hold is in
/// use, and the tree's own books are right. Empty, or what is wrong. O(pages).
inline std::string wrong_accounts(oriel::engine::engine& engine) {
  using namespace oriel;
  std::map<std::pair<std::uint32_t, page_id>, std::uint32_t> holders;
  engine.visit_pages([&](pool_id pool, page_id page) { ++holders[{to_index(pool), page}]; });
  if (engine.cache() != nullptr) {
    const auto& tree = engine.cache()->tree();
    if (const char* const wrong = tree.audit(); wrong != nullptr) {
      return wrong;
    }
    tree.visit_pages([&](const cached_page&, std::uint32_t pool, page_handle page) {
      ++holders[{pool, page.id}];
    });
    std::size_t fetches = 0;
    if (const auto* tiers = engine.cache()->tiers(); tiers != nullptr) {
      tiers->visit_pages([&](std::uint32_t pool, page_handle page) { ++holders[{pool, page.id}]; });
      fetches = tiers->fetches();
    }
    if (tree.leases() > engine.running() + fetches) {
      return "a lease without a sequence";
    }
  }
  for (std::uint32_t pool = 0; pool < engine.kv_pools().pools(); ++pool) {
    const auto& pages = engine.kv_pools().pool(pool_id{pool});
    const auto begin = holders.lower_bound({pool, page_id{0}});
    const auto end = holders.lower_bound({pool + 1, page_id{0}});
    const auto held = static_cast<std::uint64_t>(std::distance(begin, end));
    if (held != pages.used()) {
      return fmt::format("pool {}: {} pages used, {} held", pool, pages.used(), held);
    }
  }
  return "";
}
