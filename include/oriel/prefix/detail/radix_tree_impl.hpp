// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Bodies of `radix_tree`; radix_tree.hpp includes this file.
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
      options_(std::move(options)),
      retention_(std::move(retention)),
      events_(std::move(events)),
      store_({.page_size = options_.page_size,
              .full_pages = pools[0].capacity(),
              .window_kinds = static_cast<std::uint32_t>(options_.windows.size()),
              .namespaces_max = options_.namespaces_max,
              .keeps_hash_chain = options_.keeps_hash_chain},
             options_.windows),
      runs_(std::size_t{pools[0].capacity()} + options_.leases_max),
      tenant_pages_(options_.tenant_shares) {
  ORIEL_EXPECTS(pools.size() == 1 + options_.windows.size() && options_.leases_max > 0);
  ORIEL_EXPECTS(options_.tenant_shares > 0);
  orders_.reserve(options_.tenant_shares);
  for (std::uint32_t tenant = 0; tenant < options_.tenant_shares; ++tenant) {
    orders_.push_back(make_order(static_cast<std::uint32_t>(runs_.size())));
  }
  tenants_.reserve(options_.tenant_shares);
  ORIEL_EXPECTS(!Events::enabled || options_.keeps_hash_chain);
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
  if (root == detail::null_node) {
    return {};
  }
  const std::uint32_t page = options_.page_size;
  const detail::walk_end end = store_.walk({root, 0}, tokens, chain);
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
    node = store_.node(node).parent;
  }
  store_.node(root).tenant = run(mine).tenant = open_tenant(space);
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
  ++counters_.pins;
  counters_.full_hits += full != 0;
  counters_.window_hits += full != 0 && held.window_pages_ == full;
  counters_.heals += held.window_pages_ != full;
  counters_.hit_tokens += std::uint64_t{full} * page;
  counters_.healed_tokens += std::uint64_t{full - held.window_pages_} * page;
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
  for (std::uint32_t page = held.pages_; page != 0; node = store_.node(node).parent) {
    const detail::tree_node& n = store_.node(node);
    for (; page > n.begin; --page) {
      out.full[page - 1] = store_.full_page(n.full[page - 1 - n.begin]);
    }
  }
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const std::uint32_t first = store_.first_needed(kind, held.window_pages_);
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
    unpin_windows(held, held.window_pages_, 0);
  }
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::release(lease& held, const lease_end& end, std::uint64_t now_us) noexcept {
  if (held.tree_ == nullptr) {
    return;
  }
  const detail::unique_guard guard(mutex_);
  if (held.window_pages_ != 0 && !ORIEL_MUTANT(ended_lease_keeps_its_pins)) {
    unpin_windows(held, held.window_pages_, 0);
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
    free_runs_ = runs_[id].next_free;
  } else if (runs_touched_ < runs_.size()) {
    id = runs_touched_++;
  } else {
    return null_run;
  }
  runs_[id] = {.facts = {},
               .tail = detail::null_node,
               .pages = 0,
               .next_free = to_index(null_run),
               .tenant = 0,
               .state = run_state::held};
  return run_id{id};
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::free_run(run_id id) noexcept {
  orders_[run(id).tenant].erase(id);
  run(id).state = run_state::free;
  run(id).pages = 0;
  run(id).next_free = free_runs_;
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
      node = n->parent;
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
        held.turn_ = before.facts.turn + 1;
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
    node = n.parent;
  }
  evictable_full_ -= pages;
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::unlock(std::uint32_t node) noexcept {
  while (node != detail::null_node) {
    detail::tree_node& n = store_.node(node);
    ORIEL_EXPECTS(n.locks != 0);
    if (--n.locks != 0 && !ORIEL_MUTANT(unlock_goes_on_above_a_lock)) {
      return;
    }
    const std::uint32_t parent = n.parent;
    if (store_.is_root(node)) {
      if (n.first_child == detail::null_node) {
        closed_roots_ -= store_.is_closed(node);
        store_.free_root(node);
      }
      return;
    }
    evictable_full_ += ORIEL_MUTANT(evictable_pages_count_twice) ? 2 * n.pages : n.pages;
    if (const run_id id{n.run}; run(id).state == run_state::parked && run(id).tail == node &&
                                !ORIEL_MUTANT(parked_run_is_forgotten)) {
      make_evictable(id);
    }
    if (closed_roots_ != 0 && store_.is_closed(n.root) && n.first_child == detail::null_node) {
      for (std::uint32_t pages = n.pages; pages != 0; --pages) {
        drop_last_page(node);
      }
    }
    node = parent;
  }
}

// --- Window pages --------------------------------------------------------------------------------

/// The pages that `boundary` and the slack before it need.
ORIEL_TREE_TEMPLATE
typename ORIEL_TREE::page_span ORIEL_TREE::tail_span(std::uint32_t kind,
                                                     std::uint32_t boundary) const noexcept {
  if (options_.windows[kind] == 1) {
    return {boundary, boundary};  // A query sees itself alone.
  }
  const std::uint32_t slack = ORIEL_MUTANT(slack_page_is_dropped) ? 0 : options_.slack_pages;
  const std::uint32_t before = boundary - std::min(boundary, slack);
  return {store_.first_needed(kind, before), boundary};
}

/// Is a window page worth having, at a publish that ends at `end` and left another path at `fork`?
ORIEL_TREE_TEMPLATE
bool ORIEL_TREE::keeps(std::uint32_t kind,
                       std::uint32_t page,
                       std::uint32_t end,
                       std::uint32_t fork) const noexcept {
  if (page >= tail_span(kind, end).first && !ORIEL_MUTANT(retention_keeps_no_tail)) {
    return true;
  }
  for (std::uint32_t boundary = page + 1;
       boundary <= end && tail_span(kind, boundary).first <= page;
       ++boundary) {
    if (ORIEL_MUTANT(retention_keeps_everything) ||
        retention_.keeps({.tokens = boundary * options_.page_size, .is_fork = boundary == fork})) {
      return true;
    }
  }
  return false;
}

/// Calls visit(full page id, logical page) for the pages of `pages` that have their window page,
/// deepest first.
ORIEL_TREE_TEMPLATE
template <class Visit>
void ORIEL_TREE::for_each_window(std::uint32_t kind,
                                 std::uint32_t node,
                                 page_span pages,
                                 Visit&& visit) {
  for (std::uint32_t page = pages.end; page-- > pages.first;) {
    const detail::page_place at = store_.locate(node, page);
    node = at.node;
    if ((store_.mask(node, kind) >> at.at & 1u) != 0) {
      visit(store_.node(node).full[at.at], page);
    }
  }
}

/// @pre `boundary` is window-safe on the path of the lease
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::pin_windows(lease& held, std::uint32_t boundary) noexcept {
  held.window_pages_ = boundary;
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const page_span pages{store_.first_needed(kind, boundary), boundary};
    for_each_window(kind, held.node_, pages, [&](std::uint32_t full, std::uint32_t) {
      windows_[kind].pin(full);
    });
  }
}

/// The windows that the lease pinned may go again. If the path goes on to `end`, their boundary is
/// no tail any more: unless it is kept for another reason, they are the first to go.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::unpin_windows(lease& held, std::uint32_t end, std::uint32_t fork) noexcept {
  const std::uint32_t boundary = std::exchange(
      held.window_pages_, ORIEL_MUTANT(windows_are_unpinned_twice) ? held.window_pages_ : 0);
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const std::uint32_t first_pinned = store_.first_needed(kind, boundary);
    const page_span refreshed = ORIEL_MUTANT(hit_refreshes_the_whole_path)
                                    ? page_span{0, boundary}
                                    : tail_span(kind, boundary);
    for_each_window(kind, held.node_, refreshed, [&](std::uint32_t full, std::uint32_t page) {
      const auto list =
          keeps(kind, page, end, fork) ? detail::window_list::tail : detail::window_list::loose;
      if (page >= first_pinned) {
        windows_[kind].unpin(full, list);
      } else {
        windows_[kind].refresh(full, list);
      }
    });
  }
}

/// The path went on from `boundary`, whose windows nobody pins for it any more, to `end`.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::loosen_windows(std::uint32_t node,
                                std::uint32_t boundary,
                                std::uint32_t end,
                                std::uint32_t fork) noexcept {
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    for_each_window(
        kind, node, tail_span(kind, boundary), [&](std::uint32_t full, std::uint32_t page) {
          if (!windows_[kind].is_pinned(full) && !keeps(kind, page, end, fork)) {
            windows_[kind].refresh(full, detail::window_list::loose);
          }
        });
  }
}

/// Hangs the offered window pages below the path's pages where one is missing and worth having;
/// gives back the others.
ORIEL_TREE_TEMPLATE
std::uint32_t ORIEL_TREE::attach_windows(std::uint32_t node,
                                         publication& fresh,
                                         std::uint32_t end,
                                         std::uint32_t fork) noexcept {
  std::uint32_t attached = 0;
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const auto& part = fresh.windows_[kind];
    std::uint32_t at_node = node;
    for (std::size_t i = part.pages.size(); i-- > 0;) {
      const std::uint32_t page = part.first_page + static_cast<std::uint32_t>(i);
      if ((page >= end || !keeps(kind, page, end, fork)) &&
          !ORIEL_MUTANT(publish_takes_every_window_page)) {
        give_back(kind + 1, part.pages[i]);
        continue;
      }
      const detail::page_place at = store_.locate(at_node, page);
      at_node = at.node;
      std::uint32_t& mask = store_.mask(at.node, kind);
      if ((mask >> at.at & 1u) != 0) {
        give_back(kind + 1, part.pages[i]);
        continue;
      }
      mask |= 1u << at.at;
      windows_[kind].attach(store_.node(at.node).full[at.at],
                            part.pages[i],
                            detail::window_list::tail,
                            tenant_of(at.node));
      tell(cache_event_kind::stored, kind + 1, at);
      ++attached;
    }
  }
  return attached;
}

// --- Publish -------------------------------------------------------------------------------------

ORIEL_TREE_TEMPLATE
typename ORIEL_TREE::publication ORIEL_TREE::reserve(const publish_source& source) {
  ORIEL_EXPECTS(source.windows.size() == kinds());
  const detail::unique_guard guard(mutex_);
  publication fresh;
  fresh.first_page_ = source.first_page;
  fresh.full_.assign(source.full.begin(), source.full.end());
  fresh.windows_.resize(kinds());
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const window_page_span& offered = source.windows[kind];
    fresh.windows_[kind].first_page = offered.first_page;
    fresh.windows_[kind].pages.assign(offered.pages.begin(), offered.pages.end());
  }
  fresh.tree_ = this;  // From here on nothing throws.
  for (const page_handle page : fresh.full_) {
    pools_[0].add_ref(page);
  }
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    for (const page_handle page : fresh.windows_[kind].pages) {
      pools_[kind + 1].add_ref(page);
    }
  }
  return fresh;
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::abort(publication& fresh) noexcept {
  if (fresh.tree_ == nullptr) {
    return;
  }
  const detail::unique_guard guard(mutex_);
  give_back(fresh);
}

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::give_back(publication& fresh) noexcept {
  fresh.tree_ = nullptr;
  pools_[0].release(fresh.full_);
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    pools_[kind + 1].release(fresh.windows_[kind].pages);
  }
}

/// The tree has the first `pages` pages of the path to `node` already: it keeps its own.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::keep_own_pages(std::uint32_t node,
                                std::uint32_t pages,
                                publication& fresh,
                                publish_outcome& outcome) noexcept {
  for (std::uint32_t page = pages; page-- > fresh.first_page_;) {
    const detail::page_place at = store_.locate(node, page);
    node = at.node;
    page_handle& offered = fresh.full_[page - fresh.first_page_];
    const page_handle own = store_.full_page(store_.node(node).full[at.at]);
    outcome.switched_pages += !(offered == own);
    give_back(0, std::exchange(offered, ORIEL_MUTANT(switched_page_is_not_told) ? offered : own));
  }
}

ORIEL_TREE_TEMPLATE
publish_outcome ORIEL_TREE::commit(lease& held,
                                   publication& fresh,
                                   std::span<const token_id> tokens,
                                   std::uint64_t now_us,
                                   std::span<const chain_hash> chain) noexcept {
  ORIEL_EXPECTS(fresh.tree_ == this);
  const detail::unique_guard guard(mutex_);
  if (!held || (closed_roots_ != 0 && store_.is_closed(store_.node(held.node_).root))) {
    give_back(fresh);  // Nobody could find it.
    return {};
  }
  const std::uint32_t page = options_.page_size;
  const std::uint32_t end = fresh.first_page_ + static_cast<std::uint32_t>(fresh.full_.size());
  ORIEL_EXPECTS(fresh.first_page_ <= held.pages_ && end >= held.pages_);
  ORIEL_EXPECTS(tokens.size() / page >= end);
  tokens = tokens.first(std::size_t{end} * page);
  fresh.tree_ = nullptr;
  held.now_us_ = now_us;
  ++version_;

  publish_outcome outcome{.tokens = end * page};
  detail::walk_end found = store_.walk({held.node_, held.pages_}, tokens, {});
  keep_own_pages(found.node, found.pages, fresh, outcome);
  std::uint32_t node = cut(found.node, found.pages);
  const bool is_fork = found.pages < end && !store_.is_root(node) &&
                       store_.node(node).first_child != detail::null_node;
  const std::uint32_t fork = is_fork ? found.pages : 0;
  take_over(node, held, false);
  if (const std::uint32_t added = end - found.pages; added != 0) {
    // Nobody else ends in a node that grows: pages that a lease does not hold are not locked.
    const std::uint32_t locks = store_.node(node).locks;
    const bool may_extend =
        locks == (node == held.node_ ? 1u : 0u) || ORIEL_MUTANT(node_grows_under_a_lease);
    const bool was_locked = locks != 0;
    const std::uint32_t above = node, before = store_.node(node).pages;
    const std::uint32_t first = found.pages - fresh.first_page_;
    node = store_.append(node,
                         tokens.subspan(std::size_t{found.pages} * page),
                         std::span(std::as_const(fresh.full_)).subspan(first),
                         options_.keeps_hash_chain && !chain.empty()
                             ? chain.subspan(found.pages, added)
                             : std::span<const chain_hash>{},
                         may_extend,
                         held.run_);
    const std::uint32_t grown = store_.node(above).pages - before;
    evictable_full_ += added - (was_locked ? grown : 0);
    full_pages_ += added;
    tenant_pages_[tenant_of(node)] += added;
    run(held.run_).pages += added;
    run(held.run_).tail = node;
    outcome.full_pages = added;
    if constexpr (Events::enabled) {
      for (std::uint32_t i = found.pages; i < end; ++i) {
        tell(cache_event_kind::stored, 0, store_.locate(node, i));
      }
    }
  }
  lock(node);
  unlock(held.node_);
  outcome.window_pages = attach_windows(node, fresh, end, fork);
  held.node_ = node;
  const std::uint32_t start = std::exchange(held.pages_, end);
  if (held.window_pages_ != start && end != start) {  // Dropped early, or a heal began before it.
    loosen_windows(node, start, end, fork);
  }
  if (held.window_pages_ != 0) {
    unpin_windows(held, end, fork);
  }
  const bool is_safe = store_.window_safe(node, end) == end;
  pin_windows(held, is_safe && !ORIEL_MUTANT(published_windows_are_not_pinned) ? end : 0);
  counters_.switched_pages += outcome.switched_pages;
  return outcome;
}

// --- Tenants -------------------------------------------------------------------------------------

/// The share of a namespace's tenant.
ORIEL_TREE_TEMPLATE
std::uint32_t ORIEL_TREE::open_tenant(const cache_namespace& space) noexcept {
  if (options_.tenant_shares == 1) {
    return 0;
  }
  const auto known = std::find(tenants_.begin(), tenants_.end(), space.tenant());
  const auto index = static_cast<std::uint32_t>(known - tenants_.begin());
  if (known == tenants_.end() && tenants_.size() < options_.tenant_shares) {
    tenants_.push_back(space.tenant());  // Reserved: never throws.
  }
  return std::min(index, options_.tenant_shares - 1);
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

/// Whether the page became allocatable.
ORIEL_TREE_TEMPLATE
bool ORIEL_TREE::give_back(std::uint32_t pool, page_handle page) noexcept {
  const std::uint32_t before = pools_[pool].available();
  pools_[pool].release(std::span(&page, 1));
  return pools_[pool].available() != before || ORIEL_MUTANT(freed_counts_what_others_hold);
}

ORIEL_TREE_TEMPLATE
bool ORIEL_TREE::drop_window(std::uint32_t kind, std::uint32_t full) noexcept {
  const detail::page_place at = store_.home(full);
  tell(cache_event_kind::removed, kind + 1, at);
  store_.mask(at.node, kind) &= ORIEL_MUTANT(freed_window_keeps_its_bit) ? ~0u : ~(1u << at.at);
  return give_back(kind + 1, windows_[kind].detach(full));
}

/// Frees the last page of a leaf, and the window pages below it.
ORIEL_TREE_TEMPLATE
evicted_pages ORIEL_TREE::drop_last_page(std::uint32_t node) noexcept {
  evicted_pages freed;
  detail::tree_node& n = store_.node(node);
  ORIEL_ASSERT(n.locks == 0 && n.first_child == detail::null_node);
  const std::uint32_t at = n.pages - 1, full = n.full[at];
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    if ((store_.mask(node, kind) >> at & 1u) != 0 && !ORIEL_MUTANT(full_page_leaves_its_windows)) {
      freed.window += drop_window(kind, full);
      ++counters_.dropped_window_pages;
    }
  }
  tell(cache_event_kind::removed, 0, {node, at});
  --full_pages_;
  --tenant_pages_[tenant_of(node)];
  --evictable_full_;
  const run_id id{n.run};
  const std::uint32_t parent = n.parent;
  const bool gone = store_.drop_last_page(node);
  if (gone && run(id).tail == node) {
    run(id).tail = parent;  // The chain's next node; if it is another's, no page is left.
  }
  lose_pages(id, 1);
  if (gone && store_.is_root(parent) && store_.node(parent).locks == 0 &&
      store_.node(parent).first_child == detail::null_node) {
    closed_roots_ -= store_.is_closed(parent);
    store_.free_root(parent);
  }
  freed.full = give_back(0, store_.full_page(full));
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
      for (std::uint32_t i = 0; i < most; ++i) {
        const evicted_pages one = drop_last_page(node);
        freed.full += one.full;
        freed.window += one.window;
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
        n.next_sibling != detail::null_node ? deepest(n.next_sibling) : n.parent;
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
      for (std::uint32_t pages = store_.node(node).pages; pages != 0; --pages) {
        drop_last_page(node);
      }
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
            tell(cache_event_kind::removed, kind + 1, {node, at});
          }
        }
        tell(cache_event_kind::removed, 0, {node, at});
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

ORIEL_TREE_TEMPLATE
void ORIEL_TREE::tell(cache_event_kind kind, std::uint32_t pool, detail::page_place page) noexcept {
  if constexpr (Events::enabled) {
    const detail::tree_node& n = store_.node(page.node);
    if (closed_roots_ != 0 && store_.is_closed(n.root)) {
      return;  // `drop` or `clear` has said so.
    }
    events_({.sequence = ++sequence_,
             .kind = kind,
             .pool = pool,
             .page = n.begin + page.at,
             .space = store_.node(n.root).end_hash,
             .hash = store_.hash_of(page),
             .parent = store_.hash_before(page),
             .tokens = pool == 0 && kind == cache_event_kind::stored
                           ? store_.tokens(n.full[page.at])
                           : std::span<const token_id>{}});
  }
}

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
      check(store_.node(child).parent == node, "a child does not know its parent");
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
