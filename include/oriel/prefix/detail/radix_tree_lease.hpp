// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Bodies of `radix_tree`: match, pin, release, runs and locks. radix_tree.hpp includes this file.
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

ORIEL_TREE_TEMPLATE
template <class MakeOrder>
ORIEL_TREE::radix_tree(std::span<Pool> pools,
                       radix_tree_options options,
                       Retention retention,
                       Events events,
                       MakeOrder&& make_order)
    : pools_(pools.data()),
      options_(completed(std::move(options))),
      retention_(std::move(retention)),
      events_(std::move(events)),
      store_({.page_size = options_.page_size,
              .full_pages = pools[0].capacity(),
              .window_kinds = static_cast<std::uint32_t>(options_.windows.size()),
              .soft_kind = options_.soft_kind,
              .namespaces_max = options_.namespaces_max,
              .leases_max = options_.leases_max,
              .keeps_hash_chain = options_.keeps_hash_chain},
             options_.windows),
      runs_(std::size_t{pools[0].capacity()} + options_.leases_max),
      tenant_pages_(options_.tenant_shares) {
  ORIEL_EXPECTS(pools.size() == 1 + options_.windows.size() && options_.leases_max > 0);
  ORIEL_EXPECTS(options_.tenant_shares > 0);
  if constexpr (requires(const Pool& pool) { pool.layout().page_size(); }) {
    for (const Pool& pool : pools) {
      ORIEL_EXPECTS(pool.layout().page_size() == options_.page_size ||
                    ORIEL_MUTANT(pages_of_two_sizes));
    }
  }
  ORIEL_EXPECTS(!options_.soft_kind || *options_.soft_kind < options_.windows.size());
  orders_.reserve(options_.tenant_shares);
  for (std::uint32_t tenant = 0; tenant < options_.tenant_shares; ++tenant) {
    orders_.push_back(make_order(static_cast<std::uint32_t>(runs_.size())));
  }
  tenants_.reserve(options_.tenant_shares);
  windows_.reserve(options_.windows.size());
  for (std::size_t kind = 0; kind < options_.windows.size(); ++kind) {
    ORIEL_EXPECTS(options_.windows[kind] > 0);
    windows_.emplace_back(pools[kind + 1].capacity(), pools[0].capacity(), options_.tenant_shares);
  }
}

// --- Match, pin, release -------------------------------------------------------------------------

ORIEL_TREE_TEMPLATE
prefix_match ORIEL_TREE::probe(const cache_namespace& space,
                               std::span<const token_id> tokens,
                               std::span<const chain_hash> chain) const noexcept {
  const std::uint32_t root = store_.find_root(space);
  return root == detail::null_node ? prefix_match{} : probe_from({root, 0}, tokens, chain);
}

ORIEL_TREE_TEMPLATE
prefix_match ORIEL_TREE::probe_from(detail::walk_end from,
                                    std::span<const token_id> tokens,
                                    std::span<const chain_hash> chain) const noexcept {
  ORIEL_EXPECTS(tokens.size() <= 0xFFFF'FFFFu);
  const std::uint32_t page = options_.page_size;
  const detail::walk_end end = store_.walk(from, tokens, chain);
  const auto prompt = static_cast<std::uint32_t>(tokens.size());
  const std::uint32_t most =
      prompt == 0 || ORIEL_MUTANT(match_full_prompt) ? prompt / page : (prompt - 1) / page;
  const std::uint32_t usable = std::min(end.pages, most);
  return {.full_tokens = end.pages * page,
          .window_safe_tokens = store_.window_safe(end.node, usable) * page,
          .heal_tokens = usable * page,
          .node = end.node,
          .version = version_,
          .compared_tokens = chain.empty()};
}

ORIEL_TREE_TEMPLATE
typename ORIEL_TREE::lease ORIEL_TREE::pin(const cache_namespace& space,
                                           std::span<const token_id> tokens,
                                           const prefix_match& found,
                                           pin_extent extent,
                                           std::uint64_t now_us) noexcept {
  const detail::unique_guard guard(mutex_);
  lease held;
  const std::uint32_t root = store_.open_root(space);
  const run_id mine = root == detail::null_node ? null_run : new_run();
  if (mine == null_run) {
    if (root != detail::null_node && store_.node(root).first_child == detail::null_node &&
        store_.node(root).locks == 0) {
      store_.free_root(root);
    }
    return held;
  }
  // The version does not tell that an empty namespace came or went; its root does.
  const bool stands =
      found.compared_tokens && found.version == version_ &&
      (store_.node(found.node).root == root || ORIEL_MUTANT(match_of_another_root_stands));
  const prefix_match m =
      stands || ORIEL_MUTANT(pin_believes_hashes) ? found : probe(space, tokens, {});
  const std::uint32_t page = options_.page_size;
  const std::uint32_t full = std::min(extent.full_tokens, m.heal_tokens) / page;
  std::uint32_t node = m.node == detail::null_node ? root : m.node;
  while (store_.node(node).begin >= full && !store_.is_root(node)) {
    node = store_.parent_of(node);
  }
  if (store_.node(root).locks == 0 && store_.node(root).first_child == detail::null_node) {
    store_.node(root).tenant =
        open_tenant(space);  // A new root; later its pages are counted there.
  }
  run(mine).tenant = store_.node(root).tenant;
  node = cut(node, full);
  held.tree_ = this;
  held.node_ = node;
  held.pages_ = full;
  held.page_size_ = page;
  held.run_ = mine;
  held.pinned_us_ = held.now_us_ = now_us;
  take_over(node, held, /*is_hit=*/true);
  pin_windows(held, store_.window_safe(node, std::min(extent.window_tokens / page, full)));

  ++leases_;
  if (!extent.is_hit) {
    return held;
  }
  ++counters_.pins;
  counters_.full_hits += full != 0;
  counters_.window_hits += full != 0 && held.window_pages_ == full;
  const std::uint32_t safe = m.window_safe_tokens / page;  // A heal need not start from there.
  counters_.heals += held.window_pages_ != full;
  counters_.hit_tokens += std::uint64_t{full} * page;
  counters_.healed_tokens += std::uint64_t{full - std::min(full, safe)} * page;
  counters_.clipped_tokens += m.heal_tokens - full * page;
  return held;
}

/// The node that ends at `pages` and contains the page before. Locks and runs are of whole nodes: a
/// lease that ended inside of one would keep pages from eviction that it does not hold.
ORIEL_TREE_TEMPLATE
std::uint32_t ORIEL_TREE::cut(std::uint32_t node, std::uint32_t pages) noexcept {
  const detail::tree_node& n = store_.node(node);
  return n.end() == pages || ORIEL_MUTANT(lease_ends_inside_a_node)
             ? node
             : store_.split(node, pages - n.begin);
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::borrow(const lease& held, borrowed_pages& out) const {
  const detail::shared_guard guard(mutex_);
  out.full.resize(held.pages_);
  out.windows.resize(kinds());
  std::uint32_t node = held.node_;
  for (std::uint32_t page = held.pages_; page != 0; node = store_.parent_of(node)) {
    const detail::tree_node& n = store_.node(node);
    for (; page > n.begin; --page) {
      out.full[page - 1] = store_.full_page(n.full[page - 1 - n.begin]);
    }
  }
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const std::uint32_t first = first_pinned(held, kind);
    out.windows[kind].clear();
    for (std::uint32_t page = first; page < held.window_pages_; ++page) {
      const detail::page_place at = store_.locate(held.node_, page);
      out.windows[kind].push_back(windows_[kind].at(store_.node(at.node).full[at.at]));
    }
  }
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::drop_windows(lease& held) noexcept {
  const detail::unique_guard guard(mutex_);
  if (held.window_pages_ != 0) {
    unpin_windows(held, held.window_pages_, true);
  }
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::release(lease& held, const lease_end& end, std::uint64_t now_us) noexcept {
  if (held.tree_ == nullptr) {
    return;
  }
  const detail::unique_guard guard(mutex_);
  if (held.window_pages_ != 0 && !ORIEL_MUTANT(ended_lease_keeps_its_pins)) {
    unpin_windows(held, held.window_pages_, true);
  }
  run_record& mine = run(held.run_);
  mine.facts = {.ended_us = now_us,
                .gap_us = held.gap_us_,
                .expected_us = end.expected_us,
                .duration_us = end.duration_us,
                .ended = end.ended,
                .turn = held.turn_,
                .pages = mine.pages,
                .end_page = mine.pages == 0 ? 0 : store_.node(mine.tail).end()};
  mine.state = run_state::parked;  // Until its tail has no lock.
  const std::uint32_t node = held.node_;
  const run_id id = held.run_;
  held.tree_ = nullptr;
  --leases_;
  if (mine.pages == 0) {
    free_run(id);
    unlock(node);
    return;
  }
  unlock(node);
  // Unlocking may have made it evictable, or, in a dropped namespace, gone.
  if (mine.state == run_state::parked && mine.pages != 0 && store_.node(mine.tail).locks == 0) {
    make_evictable(id);
  }
}

// --- Runs ----------------------------------------------------------------------------------------

ORIEL_TREE_TEMPLATE
run_id ORIEL_TREE::new_run() noexcept {
  std::uint32_t id = free_runs_;
  if (id != to_index(null_run)) {
    free_runs_ = runs_[id].tail;
  } else if (runs_touched_ < runs_.size()) {
    id = runs_touched_++;
  } else {
    return null_run;
  }
  runs_[id] = {
      .facts = {}, .tail = detail::null_node, .pages = 0, .tenant = 0, .state = run_state::held};
  return run_id{id};
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::free_run(run_id id) noexcept {
  orders_[run(id).tenant].erase(id);
  run(id).state = run_state::free;
  run(id).pages = 0;
  run(id).tail = free_runs_;
  free_runs_ = to_index(id);
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::make_evictable(run_id id) noexcept {
  run_record& r = run(id);
  r.state = run_state::evictable;
  r.facts.pages = r.pages;
  r.facts.end_page = store_.node(r.tail).end();
  orders_[r.tenant].insert(id, r.facts);
}

/// `id` is left with so many pages fewer; without any it ends, unless a lease holds it.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::lose_pages(run_id id, std::uint32_t pages) noexcept {
  run_record& r = run(id);
  ORIEL_ASSERT(r.pages >= pages);
  r.pages -= pages;
  if (r.pages == 0 && r.state != run_state::held) {
    free_run(id);
  }
}

/// The path from the root to the end of `node` becomes the lease's. What other runs keep is deeper,
/// so they stay chains. A hit also locks it, on the same way up: `lock(node)`.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::take_over(std::uint32_t node, lease& held, bool is_hit) noexcept {
  run_record& mine = run(held.run_);
  if (!store_.is_root(node)) {
    mine.tail = node;
  }
  bool is_deepest = true, locks = is_hit;
  while (!store_.is_root(node)) {
    const run_id other{store_.node(node).run};
    const std::uint32_t theirs = to_index(other), ours = to_index(held.run_);
    std::uint32_t pages = 0, locked_pages = 0;
    for (detail::tree_node* n = &store_.node(node); n->run == theirs; n = &store_.node(node)) {
      n->run = ours;  // A root has no run: the loop ends there.
      pages += n->pages;
      if (locks) {
        locks = n->locks++ == 0;
        locked_pages += locks ? n->pages : 0;
      }
      node = store_.parent_in_walk(node);
    }
    evictable_full_ -= ORIEL_MUTANT(locked_pages_count_as_evictable) ? 0 : locked_pages;
    if (other == held.run_) {
      continue;
    }
    if (is_hit) {
      const run_record& before = run(other);
      orders_[before.tenant].on_hit(other, pages, held.now_us_);
      if (is_deepest) {
        orders_[before.tenant].inherit(held.run_, other);
        held.turn_ = mine.facts.turn = before.facts.turn + 1;
        held.gap_us_ = before.state == run_state::held
                           ? no_gap
                           : held.now_us_ - std::min(held.now_us_, before.facts.ended_us);
      }
      is_deepest = false;
    }
    mine.pages += pages;
    lose_pages(other, pages);
  }
  store_.node(node).locks += locks;
}

// --- Locks ---------------------------------------------------------------------------------------

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::lock(std::uint32_t node) noexcept {
  std::uint32_t pages = 0;  // Summed apart from the nodes: the loop then waits for no store.
  while (node != detail::null_node) {
    detail::tree_node& n = store_.node(node);
    if (n.locks++ != 0) {
      break;
    }
    pages += n.pages;
    node = store_.parent_in_walk(node);
  }
  evictable_full_ -= pages;
}

/// Goes up as far as no lock is left, a stretch of one run at a time. Of a run, only the first node
/// on the way can be the tail: what else it has on the way is above.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::unlock(std::uint32_t node) noexcept {
  const std::uint32_t lowest = node;
  bool is_free = true;
  while (is_free && !store_.is_root(node)) {
    const std::uint32_t first = node, theirs = store_.node(node).run;
    std::uint32_t pages = 0;
    for (detail::tree_node* n = &store_.node(node); n->run == theirs; n = &store_.node(node)) {
      ORIEL_EXPECTS(n->locks != 0);
      if (--n->locks != 0 && !ORIEL_MUTANT(unlock_goes_on_above_a_lock)) {
        is_free = false;
        break;
      }
      pages += n->pages;
      node = store_.parent_in_walk(node);  // A root has no run: the loop ends there.
    }
    evictable_full_ += ORIEL_MUTANT(evictable_pages_count_twice) ? 2 * pages : pages;
    const run_id id{theirs};
    if (pages != 0 && run(id).state == run_state::parked && run(id).tail == first &&
        !ORIEL_MUTANT(parked_run_is_forgotten)) {
      make_evictable(id);
    }
  }
  if (closed_roots_ != 0 && store_.is_closed(store_.node(lowest).root)) {
    drop_unlocked(lowest);
  }
  if (is_free) {  // Up to the root.
    ORIEL_EXPECTS(store_.node(node).locks != 0);
    if (--store_.node(node).locks == 0 && store_.node(node).first_child == detail::null_node) {
      closed_roots_ -= store_.is_closed(node);
      store_.free_root(node);
    }
  }
}

/// In a namespace that was dropped: from here up, what neither a lease nor a child needs goes.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::drop_unlocked(std::uint32_t node) noexcept {
  while (!store_.is_root(node) && is_free_leaf(node)) {
    const std::uint32_t parent = store_.parent_of(node);
    drop_last_pages(node, store_.node(node).pages);
    node = parent;
  }
}

}  // namespace oriel

#undef ORIEL_TREE_TEMPLATE
#undef ORIEL_TREE
