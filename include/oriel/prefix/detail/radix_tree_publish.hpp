// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Bodies of `radix_tree`: window pages and publications. radix_tree.hpp includes this file.
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

/// Which window pages of a path are worth having: those that the nearest kept boundary behind them
/// needs. Pages are asked from the end of the path towards the root.
ORIEL_TREE_TEMPLATE
class ORIEL_TREE::kept_windows {
 public:
  /// @param node  ends at `end` or below
  kept_windows(const radix_tree& tree,
               std::uint32_t kind,
               std::uint32_t node,
               std::uint32_t end,
               bool keeps_tail) noexcept
      : tree_(tree), kind_(kind), node_(node), end_(end), next_(end), keeps_tail_(keeps_tail) {}

  /// O(1), amortised. @pre pages fall from call to call
  [[nodiscard]] bool contain(std::uint32_t page) noexcept {
    // No boundary further on needs the page.
    next_ = std::min(next_, page + tree_.options_.slack_pages + tree_.window_span(kind_));
    for (; next_ > page; --next_) {
      nearest_ = keeps(next_) ? next_ : nearest_;
    }
    return nearest_ != 0 && tree_.tail_span(kind_, nearest_).first <= page;
  }

 private:
  [[nodiscard]] bool keeps(std::uint32_t boundary) noexcept {
    if ((boundary == end_ && keeps_tail_ && !ORIEL_MUTANT(retention_keeps_no_tail)) ||
        ORIEL_MUTANT(retention_keeps_everything)) {
      return true;
    }
    const std::uint32_t tokens = boundary * tree_.options_.page_size;
    return tree_.retention_.keeps({.tokens = tokens, .is_fork = false}) ||
           (tree_.retention_.keeps({.tokens = tokens, .is_fork = true}) && is_fork(boundary));
  }
  /// Do two paths part here? The tree itself says so, whoever published them.
  [[nodiscard]] bool is_fork(std::uint32_t boundary) noexcept {
    const detail::node_store& store = tree_.store_;
    while (store.node(node_).begin >= boundary) {
      node_ = store.parent_of(node_);
    }
    const std::uint32_t child = store.node(node_).first_child;
    return store.node(node_).end() == boundary && child != detail::null_node &&
           store.node(child).next_sibling != detail::null_node && !ORIEL_MUTANT(forks_are_not_seen);
  }

  const radix_tree& tree_;
  std::uint32_t kind_, node_, end_;
  std::uint32_t next_;         // the next boundary to look at
  std::uint32_t nearest_ = 0;  // the kept boundary seen last, 0: none
  bool keeps_tail_;
};

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

/// The pages of the soft kind from here to `boundary` are all there, and no more than it could use.
ORIEL_TREE_TEMPLATE
std::uint32_t ORIEL_TREE::first_soft_page(std::uint32_t node,
                                          std::uint32_t boundary) const noexcept {
  const std::uint32_t kind = *options_.soft_kind;
  std::uint32_t first = boundary;
  for (const std::uint32_t end = store_.first_needed(kind, boundary); first > end; --first) {
    const detail::page_place at = store_.locate(node, first - 1);
    node = at.node;
    if ((store_.mask(node, kind) >> at.at & 1u) == 0 && !ORIEL_MUTANT(soft_gap_is_lent)) {
      break;
    }
  }
  return first;
}

/// @pre `boundary` is window-safe on the path of the lease
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::pin_windows(lease& held, std::uint32_t boundary) noexcept {
  held.window_pages_ = boundary;
  held.soft_first_ = options_.soft_kind ? first_soft_page(held.node_, boundary) : boundary;
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const page_span pages{first_pinned(held, kind), boundary};
    for_each_window(kind, held.node_, pages, [&](std::uint32_t full, std::uint32_t) {
      windows_[kind].pin(full);
    });
  }
}

/// The windows that the lease pinned may go again. If the path goes on to `end`, their boundary is
/// no tail any more: unless it is kept for another reason, they are the first to go.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::unpin_windows(lease& held, std::uint32_t end, bool keeps_tail) noexcept {
  const std::uint32_t boundary = held.window_pages_;
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const std::uint32_t first = ORIEL_MUTANT(soft_pages_are_unpinned_unseen)
                                    ? store_.first_needed(kind, boundary)
                                    : first_pinned(held, kind);
    const page_span refreshed = ORIEL_MUTANT(hit_refreshes_the_whole_path)
                                    ? page_span{0, boundary}
                                    : tail_span(kind, boundary);
    kept_windows kept(*this, kind, held.node_, end, keeps_tail);
    for_each_window(kind, held.node_, refreshed, [&](std::uint32_t full, std::uint32_t page) {
      const auto list = kept.contain(page) ? detail::window_list::tail : detail::window_list::loose;
      if (page >= first) {
        windows_[kind].unpin(full, list);
      } else {
        windows_[kind].refresh(full, list);
      }
    });
  }
  held.window_pages_ = ORIEL_MUTANT(windows_are_unpinned_twice) ? boundary : 0;
}

/// The path went on from `boundary`, whose windows nobody pins for it any more, to `end`.
ORIEL_TREE_TEMPLATE
void ORIEL_TREE::loosen_windows(std::uint32_t node,
                                std::uint32_t boundary,
                                std::uint32_t end,
                                bool keeps_tail) noexcept {
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    kept_windows kept(*this, kind, node, end, keeps_tail);
    for_each_window(
        kind, node, tail_span(kind, boundary), [&](std::uint32_t full, std::uint32_t page) {
          if (!windows_[kind].is_pinned(full) && !kept.contain(page)) {
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
                                         std::uint32_t end) noexcept {
  std::uint32_t attached = 0;
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const auto& part = fresh.windows_[kind];
    kept_windows kept(*this, kind, node, end, fresh.keeps_tail_);
    std::uint32_t at_node = node;
    for (std::size_t i = part.pages.size(); i-- > 0;) {
      const std::uint32_t page = part.first_page + static_cast<std::uint32_t>(i);
      if (!part.pages[i]) {
        continue;
      }
      if ((page >= end || !kept.contain(page)) && !ORIEL_MUTANT(publish_takes_every_window_page)) {
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
  fresh.keeps_tail_ = source.keeps_tail || ORIEL_MUTANT(interim_publish_keeps_its_tail);
  fresh.full_.assign(source.full.begin(), source.full.end());
  fresh.windows_.resize(kinds());
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const window_page_span& offered = source.windows[kind];
    fresh.windows_[kind].first_page = offered.first_page;
    fresh.windows_[kind].pages.assign(offered.pages.begin(), offered.pages.end());
  }
  fresh.tree_ = this;  // From here on nothing throws.
  if (source.is_gift) {
    return fresh;
  }
  for (const page_handle page : fresh.full_) {
    pools_[0].add_ref(page);
  }
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    for (const page_handle page : fresh.windows_[kind].pages) {
      if (page) {
        pools_[kind + 1].add_ref(page);
      }
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
    for (const page_handle page : fresh.windows_[kind].pages) {
      if (page) {
        pools_[kind + 1].release(std::span(&page, 1));
      }
    }
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
  ORIEL_EXPECTS(tokens.size() / page >= end && (chain.empty() || chain.size() >= end));
  tokens = tokens.first(std::size_t{end} * page);
  fresh.tree_ = nullptr;
  held.now_us_ = now_us;
  ++version_;

  publish_outcome outcome{.tokens = end * page};
  detail::walk_end found =
      store_.walk(detail::walk_end{held.node_, held.pages_}, tokens, std::span<const chain_hash>());
  keep_own_pages(found.node, found.pages, fresh, outcome);
  std::uint32_t node = cut(found.node, found.pages);
  take_over(node, held, false);
  if (const std::uint32_t added = end - found.pages; added != 0) {
    // Nobody else ends in a node that grows: pages that a lease does not hold are not locked.
    const std::uint32_t locks = store_.node(node).locks;
    const bool may_extend =
        locks == (node == held.node_ ? 1u : 0u) || ORIEL_MUTANT(node_grows_under_a_lease);
    const bool was_locked = locks != 0;
    const std::uint32_t above = node, before = store_.node(node).pages;
    const page_handle last =
        before == 0 ? page_handle{} : store_.full_page(store_.node(node).full[before - 1]);
    const chain_hash last_hash = store_.node(node).end_hash;
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
      tell_stored(store_.node(node).root,
                  found.pages,
                  std::span(std::as_const(fresh.full_)).subspan(first),
                  tokens.subspan(std::size_t{found.pages} * page),
                  last,
                  last_hash);
    }
  }
  lock(node);
  unlock(held.node_);
  outcome.window_pages = attach_windows(node, fresh, end);
  held.node_ = node;
  const std::uint32_t start = std::exchange(held.pages_, end);
  if (held.window_pages_ != start && end != start) {  // Dropped early, or a heal began before it.
    loosen_windows(node, start, end, fresh.keeps_tail_);
  }
  if (held.window_pages_ != 0) {
    unpin_windows(held, end, fresh.keeps_tail_);
  }
  const bool is_safe = store_.window_safe(node, end) == end;
  pin_windows(held, is_safe && !ORIEL_MUTANT(published_windows_are_not_pinned) ? end : 0);
  counters_.switched_pages += outcome.switched_pages;
  return outcome;
}

}  // namespace oriel

#undef ORIEL_TREE_TEMPLATE
#undef ORIEL_TREE
