// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Bodies of `radix_tree`: accounts and the audit. radix_tree.hpp includes this file.
#pragma once

#include <oriel/core/mutation.hpp>
#include <oriel/prefix/radix_tree.hpp>

#define ORIEL_TREE_TEMPLATE             \
  template <page_allocator Pool,        \
            evict_order Order,          \
            retention_policy Retention, \
            event_sink Events,          \
            shared_lockable Mutex>
#define ORIEL_TREE radix_tree<Pool, Order, Retention, Events, Mutex>

namespace oriel {

// --- Accounts ------------------------------------------------------------------------------------

ORIEL_TREE_TEMPLATE
std::uint64_t ORIEL_TREE::index_bytes() const noexcept {
  std::uint64_t bytes = store_.index_bytes(full_pages_);
  for (const detail::window_index& index : windows_) {
    bytes += std::uint64_t{index.attached()} * detail::window_index::bytes_per_page() +
             std::uint64_t{full_pages_} * sizeof(std::uint32_t);
  }
  return bytes + std::uint64_t{runs_touched_} * sizeof(run_record);
}

ORIEL_TREE_TEMPLATE
template <class Visit>
void ORIEL_TREE::visit_pages(Visit&& visit) const {
  store_.for_each_root([&](std::uint32_t root) {
    for_each_node_below(root, [&](std::uint32_t node) {
      const detail::tree_node& n = store_.node(node);
      for (std::uint32_t at = 0; at < n.pages; ++at) {
        const cached_page page{
            .space = store_.node(root).end_hash,
            .page = n.begin + at,
            .full = store_.full_page(n.full[at]),
            .parent_full = full_before({node, at}),
            .hash = options_.keeps_hash_chain ? store_.hash_of({node, at}) : chain_hash{},
            .tokens = store_.tokens(n.full[at]),
            .is_locked = n.locks != 0};
        visit(std::as_const(page), 0u, page.full);
        for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
          if ((store_.mask(node, kind) >> at & 1u) != 0) {
            visit(std::as_const(page), kind + 1, windows_[kind].at(n.full[at]));
          }
        }
      }
    });
  });
}

ORIEL_TREE_TEMPLATE
ORIEL_TREE::~radix_tree() {
  ORIEL_EXPECTS(leases_ == 0);
  if (ORIEL_MUTANT(tree_tells_of_its_end)) {
    clear();
  }
  visit_pages([&](const cached_page&, std::uint32_t pool, page_handle page) {
    pools_[pool].release(std::span<const page_handle>(&page, 1));
  });
}

ORIEL_TREE_TEMPLATE
const char* ORIEL_TREE::audit() const {
  std::uint64_t pages = 0, evictable = 0, lease_ends = 0;
  std::vector<std::uint64_t> attached(kinds());
  std::vector<std::uint32_t> run_pages(runs_.size());
  const char* wrong = nullptr;
  const auto check = [&](bool holds, const char* what) {
    wrong = holds || wrong != nullptr ? wrong : what;
  };
  const auto count_locks = [&](std::uint32_t node) {
    std::uint32_t locked_children = 0;
    for (std::uint32_t child = store_.node(node).first_child; child != detail::null_node;
         child = store_.node(child).next_sibling) {
      locked_children += store_.node(child).locks != 0;
      check(store_.parent_of(child) == node, "a child does not know its parent");
      check(store_.node(child).begin == store_.node(node).end(), "a gap between parent and child");
    }
    check(store_.node(node).locks >= locked_children, "fewer locks than locked children");
    lease_ends += store_.node(node).locks - locked_children;
  };
  store_.for_each_root([&](std::uint32_t root) {
    count_locks(root);
    for_each_node_below(root, [&](std::uint32_t node) {
      const detail::tree_node& n = store_.node(node);
      count_locks(node);
      check(n.pages >= 1 && n.pages <= detail::node_pages_max, "a node of no pages or too many");
      pages += n.pages;
      evictable += n.locks == 0 ? n.pages : 0;
      check(runs_[n.run].state != run_state::free, "a node of a run that has ended");
      run_pages[n.run] += n.pages;
      for (std::uint32_t at = 0; at < n.pages; ++at) {
        const detail::page_place home = store_.home(n.full[at]);
        check(home.node == node && home.at == at, "a page does not know its home");
        check(pools_[0].is_live(store_.full_page(n.full[at])), "a full page that is not live");
      }
      for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
        const std::uint32_t mask = store_.mask(node, kind);
        check(n.pages == 32 || mask >> n.pages == 0, "a window page beyond its node");
        for (std::uint32_t at = 0; at < n.pages; ++at) {
          if ((mask >> at & 1u) != 0) {
            ++attached[kind];
            check(pools_[kind + 1].is_live(windows_[kind].at(n.full[at])),
                  "a window page that is not live");
            check(!windows_[kind].is_pinned(n.full[at]) || n.locks != 0, "full_lock < window_lock");
          }
        }
      }
    });
  });
  if (closed_roots_ == 0) {  // Else some pages hang below roots that nobody lists.
    check(pages == full_pages_, "full pages miscounted");
    check(evictable == evictable_full_, "evictable pages miscounted");
    check(lease_ends == leases_, "locks without leases");
    for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
      check(attached[kind] == windows_[kind].attached(), "window pages miscounted");
    }
    for (std::uint32_t id = 0; id < runs_touched_; ++id) {
      check(runs_[id].state == run_state::free || runs_[id].pages == run_pages[id],
            "pages of a run miscounted");
      check(
          runs_[id].state != run_state::evictable || orders_[runs_[id].tenant].contains(run_id{id}),
          "an evictable run that its order does not know");
    }
  }
  return wrong;
}

}  // namespace oriel

#undef ORIEL_TREE_TEMPLATE
#undef ORIEL_TREE
