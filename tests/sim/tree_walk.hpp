// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a tree shows, taken into a ledger and compared with it.
#pragma once

#include "fake_model.hpp"
#include "ledger.hpp"
#include "violation.hpp"

#include <oriel/kv/pool_plan.hpp>
#include <oriel/prefix/cache_namespace.hpp>
#include <oriel/prefix/radix_tree.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace sim {

/// Takes the tree's pages into `book.present`.
/// @param name_of  name_of(const cached_page&): the name under which it was published
template <class Tree, class NameOf>
void walk_tree(const Tree& tree,
               std::span<const oriel::cache_namespace> spaces,
               ledger& book,
               const NameOf& name_of) {
  std::vector<present_page>& present = book.present;
  present.clear();
  tree.visit_pages(
      [&](const oriel::cached_page& page, std::uint32_t pool, oriel::page_handle handle) {
        if (pool != 0) {
          present.back().window_bits |= 1u << (pool - 1);
          present.back().windows[pool - 1] = handle;
          return;
        }
        present_page p{.full = handle, .page = page.page, .is_locked = page.is_locked};
        while (p.space < spaces.size() && !(spaces[p.space].digest() == page.space)) {
          ++p.space;
        }
        require(p.space < spaces.size(), "I9: a page of a namespace that nobody used");
        p.name = name_of(page);
        const page_record* record = book.find(p.name);
        require(record != nullptr, "I2: a page in the tree that nobody published");
        require(std::ranges::equal(record->tokens, page.tokens), "I2: a page under other tokens");
        present.push_back(p);
      });
  std::ranges::sort(present, {}, &present_page::name);
}

/// Compares every page of `book.present` with what a cold run computes. Returns their number.
/// @param memory  has at(pool, page, slot, row)
template <class Memory>
std::uint64_t check_tree_pages(const fake_model& model,
                               const oriel::pool_plan& plan,
                               Memory& memory,
                               const ledger& book) {
  const std::uint32_t size = plan.options().page_size;
  const std::vector<present_page>& present = book.present;
  for (std::size_t i = 0; i < present.size(); ++i) {
    const present_page& p = present[i];
    const page_record* record = book.find(p.name);
    require(i == 0 || present[i - 1].name != p.name, "I2: two pages for one prefix");
    require(record->space == p.space, "I9: a page in another's namespace");
    require(record->page == p.page, "I2: a page at another place than it was published");
    require(p.page == 0 || book.in_tree(record->parent) != nullptr, "I2: a page without parent");
    for (std::uint32_t l = 0; l < model.layers(); ++l) {
      const oriel::layer_home home = plan.home(l);
      const std::uint32_t pool = to_index(home.pool);
      if (!p.is_in(pool)) {
        continue;
      }
      const std::uint32_t page = to_index(p.handle(pool).id);
      for (std::uint32_t row = 0; row < size; ++row) {
        require(memory.at(pool, page, home.slot, row) == record->kv[std::size_t{l} * size + row],
                "I4: a page in the tree does not hold what a cold run computes");
      }
    }
  }
  return present.size();
}

}  // namespace sim
