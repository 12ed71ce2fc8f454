// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Bodies of `radix_tree`: tenants, eviction, and namespaces that go. radix_tree.hpp includes this
/// file.
#pragma once

#include <oriel/core/mutation.hpp>
#include <oriel/prefix/radix_tree.hpp>

#include <algorithm>
#include <array>
#include <bit>

#define ORIEL_TREE_TEMPLATE             \
  template <page_allocator Pool,        \
            evict_order Order,          \
            retention_policy Retention, \
            event_sink Events,          \
            shared_lockable Mutex>
#define ORIEL_TREE radix_tree<Pool, Order, Retention, Events, Mutex>

namespace oriel {

// --- Tenants -------------------------------------------------------------------------------------

/// The share of a namespace's tenant.
ORIEL_TREE_TEMPLATE
std::uint32_t ORIEL_TREE::open_tenant(const cache_namespace& space) noexcept {
  if (options_.tenant_shares == 1) {
    return 0;
  }
  const auto known = std::find(tenants_.begin(), tenants_.end(), space.tenant());
  const auto index = static_cast<std::uint32_t>(known - tenants_.begin());
  if (known != tenants_.end()) {
    return index;
  }
  if (tenants_.size() < options_.tenant_shares) {
    tenants_.push_back(space.tenant());  // Reserved: never throws.
    return index;
  }
  // Who holds nothing has no use for a share.
  const auto idle = std::find(tenant_pages_.begin(), tenant_pages_.end(), 0u);
  if (idle == tenant_pages_.end()) {
    return options_.tenant_shares - 1;
  }
  tenants_[static_cast<std::size_t>(idle - tenant_pages_.begin())] = space.tenant();
  return static_cast<std::uint32_t>(idle - tenant_pages_.begin());
}

/// The run to free next, of the tenant that holds most, of those that can spare one.
ORIEL_TREE_TEMPLATE
run_id ORIEL_TREE::next_victim(std::uint64_t now_us) noexcept {
  if (options_.tenant_shares == 1) {
    return orders_[0].victim(now_us);
  }
  std::uint32_t below = 0xFFFF'FFFFu;
  for (;;) {  // The largest holder; if it can spare nothing, the next largest.
    std::uint32_t most = 0, tenant = 0;
    for (std::uint32_t i = 0; i < tenant_pages_.size(); ++i) {
      if (tenant_pages_[i] < below && tenant_pages_[i] > most) {
        most = tenant_pages_[i];
        tenant = i;
      }
    }
    if (most == 0) {
      return null_run;
    }
    for (std::uint32_t i = tenant; i < tenant_pages_.size(); ++i) {
      if (tenant_pages_[i] == most) {
        if (const run_id victim = orders_[i].victim(now_us); victim != null_run) {
          return victim;
        }
      }
    }
    below = most;
  }
}

// --- Evict ---------------------------------------------------------------------------------------

/// How many pages became allocatable, or are about to: a listener that still copies them says so.
ORIEL_TREE_TEMPLATE
std::uint32_t ORIEL_TREE::give_back(std::uint32_t pool,
                                    std::span<const page_handle> pages) noexcept {
  if constexpr (has_leaving_pages_v<Events>) {
    std::uint32_t freed = 0;
    for (const page_handle page : pages) {
      const std::uint32_t before = pools_[pool].available();
      pools_[pool].release(std::span(&page, 1));
      freed += pools_[pool].available() != before || ORIEL_MUTANT(freed_counts_what_others_hold) ||
               events_.lets_go_soon(pool, page);
    }
    return freed;
  } else {
    const std::uint32_t before = pools_[pool].available();
    pools_[pool].release(pages);
    return ORIEL_MUTANT(freed_counts_what_others_hold) ? static_cast<std::uint32_t>(pages.size())
                                                       : pools_[pool].available() - before;
  }
}

ORIEL_TREE_TEMPLATE
bool ORIEL_TREE::drop_window(std::uint32_t kind, std::uint32_t full) noexcept {
  const detail::page_place at = store_.home(full);
  tell(cache_event_kind::removed, kind + 1, at);
  store_.mask(at.node, kind) &= ORIEL_MUTANT(freed_window_keeps_its_bit) ? ~0u : ~(1u << at.at);
  return give_back(kind + 1, windows_[kind].detach(full));
}

/// Frees the last pages of a leaf, the deepest first, and the window pages below them.
ORIEL_TREE_TEMPLATE
evicted_pages ORIEL_TREE::drop_last_pages(std::uint32_t node, std::uint32_t pages) noexcept {
  evicted_pages freed;
  detail::tree_node& n = store_.node(node);
  ORIEL_ASSERT(n.locks == 0 && n.first_child == detail::null_node && pages <= n.pages);
  const std::uint32_t first = n.pages - pages;
  std::array<page_handle, detail::node_pages_max> gone;
  for (std::uint32_t i = 0; i < pages; ++i) {
    gone[i] = store_.full_page(n.full[n.pages - 1 - i]);
  }
  std::uint32_t windows = 0;  // Bit i: a window page hangs below the page at i.
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    windows |= ORIEL_MUTANT(full_page_leaves_its_windows) ? 0 : store_.mask(node, kind);
  }
  for (std::uint32_t end = n.pages; end > first;) {  // A page with windows, and those before it.
    for (std::uint32_t kind = 0; kind < kinds() && (windows >> (end - 1) & 1u) != 0; ++kind) {
      if ((store_.mask(node, kind) >> (end - 1) & 1u) != 0) {
        freed.window += drop_window(kind, n.full[end - 1]);
        ++counters_.dropped_window_pages;
      }
    }
    const std::uint32_t others = windows & ((1u << (end - 1)) - 1);
    const std::uint32_t begin = std::max(first, static_cast<std::uint32_t>(std::bit_width(others)));
    tell_removed(node, begin, std::span(gone).subspan(n.pages - end, end - begin));
    end = begin;
  }
  full_pages_ -= pages;
  tenant_pages_[tenant_of(node)] -= pages;
  evictable_full_ -= pages;
  const run_id id{n.run};
  const std::uint32_t parent = store_.parent_of(node);
  const bool is_gone = store_.drop_last_pages(node, pages);
  if (is_gone && run(id).tail == node) {
    run(id).tail = parent;  // The chain's next node; if it is another's, no page is left.
  }
  lose_pages(id, pages);
  if (is_gone && store_.is_root(parent) && store_.node(parent).locks == 0 &&
      store_.node(parent).first_child == detail::null_node) {
    closed_roots_ -= store_.is_closed(parent);
    store_.free_root(parent);
  }
  freed.full = give_back(0, std::span<const page_handle>(gone).first(pages));
  return freed;
}

ORIEL_TREE_TEMPLATE
evicted_pages ORIEL_TREE::evict_full(std::uint32_t pages, std::uint64_t now_us) noexcept {
  const detail::unique_guard guard(mutex_);
  ++version_;
  evicted_pages freed;
  while (freed.full < pages) {
    const run_id victim = next_victim(now_us);
    if (victim == null_run) {
      break;
    }
    std::uint32_t node = run(victim).tail;
    if (store_.node(node).locks != 0 && !ORIEL_MUTANT(locked_pages_are_evicted)) {
      orders_[run(victim).tenant].erase(victim);  // `unlock` brings it back.
      run(victim).state = run_state::parked;
      continue;
    }
    while (store_.node(node).first_child != detail::null_node) {
      node = store_.node(node).first_child;  // A run that ends below it goes first.
    }
    // This leaf ends its run: free from here up, as long as the chain lasts.
    const run_id id{store_.node(node).run};
    ORIEL_EXPECTS(run(id).state == run_state::evictable && run(id).tail == node);
    while (freed.full < pages && run(id).state == run_state::evictable &&
           is_free_leaf(run(id).tail)) {
      node = run(id).tail;
      const std::uint32_t most = std::min(pages - freed.full, store_.node(node).pages);
      orders_[run(id).tenant].on_evict(id, most, now_us);
      // A listener that is asked about a page is asked before it hears of the next one.
      const std::uint32_t at_once = has_leaving_pages_v<Events> ? 1 : most;
      for (std::uint32_t done = 0; done < most; done += at_once) {
        const evicted_pages gone = drop_last_pages(node, at_once);
        freed.full += gone.full;
        freed.window += gone.window;
      }
      counters_.evicted_full_pages += most;
    }
  }
  return freed;
}

ORIEL_TREE_TEMPLATE
evicted_pages ORIEL_TREE::evict_window(std::uint32_t kind, std::uint32_t pages) noexcept {
  ORIEL_EXPECTS(kind < kinds());
  const detail::unique_guard guard(mutex_);
  ++version_;
  evicted_pages freed;
  while (freed.window < pages && windows_[kind].evictable() != 0) {
    freed.window += drop_window(kind, windows_[kind].next_victim());
    ++counters_.evicted_window_pages;
  }
  return freed;
}

/// Calls visit(node) for every node below a root, children before parents; it may remove the node.
ORIEL_TREE_TEMPLATE
template <class Visit>
void ORIEL_TREE::for_each_node_below(std::uint32_t root, Visit&& visit) const {
  const auto deepest = [&](std::uint32_t node) {
    while (store_.node(node).first_child != detail::null_node) {
      node = store_.node(node).first_child;
    }
    return node;
  };
  for (std::uint32_t node = deepest(root); node != root;) {
    const detail::tree_node& n = store_.node(node);
    const std::uint32_t next =
        n.next_sibling != detail::null_node ? deepest(n.next_sibling) : store_.parent_of(node);
    visit(node);
    node = next;
  }
}

/// No walk finds the namespace any more. What no lease needs goes now, the rest with its lease.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::forget(std::uint32_t root) noexcept {
  store_.close_root(root);
  ++closed_roots_;
  lock(root);  // It must outlast the walk.
  for_each_node_below(root, [&](std::uint32_t node) {
    if (is_free_leaf(node)) {
      drop_last_pages(node, store_.node(node).pages);
    }
  });
  unlock(root);
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::drop(const cache_namespace& space) noexcept {
  const detail::unique_guard guard(mutex_);
  const std::uint32_t root = store_.find_root(space);
  if (root == detail::null_node) {
    return;
  }
  ++version_;
  if constexpr (Events::enabled) {
    for_each_node_below(root, [&](std::uint32_t node) {
      for (std::uint32_t at = store_.node(node).pages; at-- > 0;) {
        for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
          if ((store_.mask(node, kind) >> at & 1u) != 0) {
            tell(cache_event_kind::removed, kind + 1, {node, at}, /*is_drop=*/true);
          }
        }
        tell(cache_event_kind::removed, 0, {node, at}, /*is_drop=*/true);
      }
    });
  }
  forget(root);
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::clear() noexcept {
  const detail::unique_guard guard(mutex_);
  ++version_;
  if constexpr (Events::enabled) {
    events_({.sequence = ++sequence_, .kind = cache_event_kind::cleared});
  }
  for (std::uint32_t root; (root = store_.any_root()) != detail::null_node;) {
    forget(root);
  }
}

/// The full page before one; null for the first of a path.
ORIEL_TREE_TEMPLATE
page_handle ORIEL_TREE::full_before(detail::page_place page) const noexcept {
  if (page.at != 0) {
    return store_.full_page(store_.node(page.node).full[page.at - 1]);
  }
  const std::uint32_t above = store_.parent_of(page.node);
  return store_.is_root(above)
             ? page_handle{}
             : store_.full_page(store_.node(above).full[store_.node(above).pages - 1]);
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::tell(cache_event_kind kind,
                      std::uint32_t pool,
                      detail::page_place page,
                      bool is_drop) noexcept {
  if constexpr (Events::enabled) {
    const detail::tree_node& n = store_.node(page.node);
    if (closed_roots_ != 0 && store_.is_closed(n.root)) {
      return;  // `drop` or `clear` has said so.
    }
    const std::uint32_t full = n.full[page.at];
    chain_hash hash, parent;
    if constexpr (needs_hashes_v<Events>) {
      hash = store_.hash_of(page);
      parent = store_.hash_before(page);
    }
    events_({.sequence = ++sequence_,
             .kind = kind,
             .pool = pool,
             .page = n.begin + page.at,
             .space = store_.node(n.root).end_hash,
             .hash = hash,
             .parent = parent,
             .tokens = store_.tokens(full),
             .handle = pool == 0 ? store_.full_page(full) : windows_[pool - 1].at(full),
             .is_drop = is_drop,
             .full = store_.full_page(full),
             .parent_full = full_before(page)});
  }
}

/// New pages of a path, the first behind `before`, whose hash is `parent`.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::tell_stored(std::uint32_t root,
                             std::uint32_t first_page,
                             std::span<const page_handle> full,
                             std::span<const token_id> tokens,
                             page_handle before,
                             chain_hash parent) noexcept {
  if constexpr (takes_stretches_v<Events>) {
    events_.take_stretch({.sequence = sequence_ + 1,
                          .kind = cache_event_kind::stored,
                          .page = first_page,
                          .space = store_.node(root).end_hash,
                          .full = full,
                          .parent_full = before,
                          .tokens = tokens});
    sequence_ += full.size();
  } else if constexpr (Events::enabled) {
    for (std::uint32_t i = 0; i < full.size(); ++i) {
      chain_hash hash;
      if constexpr (needs_hashes_v<Events>) {
        hash = store_.hash_of(to_index(full[i].id));
      } else {
        parent = {};
      }
      events_({.sequence = ++sequence_,
               .kind = cache_event_kind::stored,
               .page = first_page + i,
               .space = store_.node(root).end_hash,
               .hash = hash,
               .parent = parent,
               .tokens = tokens.subspan(std::size_t{i} * options_.page_size, options_.page_size),
               .handle = full[i],
               .full = full[i],
               .parent_full = std::exchange(before, full[i])});
      parent = hash;
    }
  }
}

/// Pages of a node from the index `first` on, the deepest first.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::tell_removed(std::uint32_t node,
                              std::uint32_t first,
                              std::span<const page_handle> full) noexcept {
  if constexpr (takes_stretches_v<Events>) {
    const detail::tree_node& n = store_.node(node);
    if (closed_roots_ != 0 && store_.is_closed(n.root)) {
      return;  // `drop` or `clear` has said so.
    }
    events_.take_stretch({.sequence = sequence_ + 1,
                          .kind = cache_event_kind::removed,
                          .page = n.begin + first,
                          .space = store_.node(n.root).end_hash,
                          .full = full,
                          .parent_full = full_before({node, first})});
    sequence_ += full.size();
  } else {
    for (auto at = first + static_cast<std::uint32_t>(full.size()); at-- > first;) {
      tell(cache_event_kind::removed, 0, {node, at});
    }
  }
}

}  // namespace oriel

#undef ORIEL_TREE_TEMPLATE
#undef ORIEL_TREE
