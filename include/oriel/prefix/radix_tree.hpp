// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `radix_tree`: the prefix cache. Which KV pages hold the beginning of a token sequence, and how
/// much of it can be resumed exactly.
///
///     const prefix_match m = tree.match(space, tokens);              // probes, changes nothing
///     auto lease = tree.pin(space, tokens, m, pin_extent::hit(m), now_us);
///     tree.borrow(lease, pages);                                     // admit a sequence on them
///     ... compute ...
///     auto fresh = tree.reserve({.first_page = ..., .full = ..., .windows = ...});
///     tree.commit(lease, fresh, tokens, now_us);                     // now others can find them
///     tree.release(lease, {.ended = request_end::end_of_turn}, now_us);
///
/// The full page is the authority: a window page hangs below it or is absent. Boundaries exist at
/// every page, not at node edges only. Tokens decide, hashes only find.
///
/// **Runs.** The pages last touched by one request are a run: a chain that ends at its deepest
/// page. A lease takes over the path to its boundary from the runs that held it; what they keep is
/// deeper. Released, its own run becomes evictable, and the order (a policy) chooses between runs;
/// inside one, the deepest page goes first. So LRU over runs is page LRU, and an eviction costs
/// O(pages).
///
/// **Locks.** node.locks = leases that end in the node + children with locks. A node without locks
/// has none below it, so an ancestor is never freed before its descendants.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/hash.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kv/page_allocator.hpp>
#include <oriel/prefix/cache_namespace.hpp>
#include <oriel/prefix/detail/node_store.hpp>
#include <oriel/prefix/detail/tree_guard.hpp>
#include <oriel/prefix/detail/window_index.hpp>
#include <oriel/prefix/events.hpp>
#include <oriel/prefix/evict_order.hpp>
#include <oriel/prefix/match.hpp>
#include <oriel/prefix/order_hit_density.hpp>
#include <oriel/prefix/retention.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

class pool_plan;  // kv/pool_plan.hpp

/// Sizes and habits of a tree, fixed for its life.
struct radix_tree_options {
  std::uint32_t page_size = 16;        ///< tokens; > 0
  std::vector<std::uint32_t> windows;  ///< [window kinds]: W in tokens, the query included; > 0
  /// A kind that no boundary needs (pool_plan::soft_kind): the pages of it that lie without a gap
  /// before a boundary are lent with it, as many as there are.
  std::optional<std::uint32_t> soft_kind = {};
  std::uint32_t slack_pages = 1;         ///< boundaries before a kept one that stay window-safe too
  std::uint32_t leases_max = 4096;       ///< at once
  std::uint32_t namespaces_max = 65536;  ///< at once
  /// Tenants that have a share of their own; 1: shares are off. Room is taken from the tenant that
  /// holds most, so one below an equal share keeps its pages whatever others ask. A tenant without
  /// pages gives its share to the next; tenants beyond so many share the last one. Each costs an
  /// order.
  std::uint32_t tenant_shares = 1;
  /// 16 bytes a page, for probes by hash. A tree whose events have hashes keeps it unasked.
  bool keeps_hash_chain = false;
};

/// What a tree over the pools of a plan has to agree with them in: page size, windows, soft kind,
/// slack. The rest is as by default. @throws std::bad_alloc
[[nodiscard]] radix_tree_options tree_options_of(const pool_plan& plan);

/// What `radix_tree::visit_pages` shows of a page.
struct cached_page {
  chain_hash space;        ///< digest of its namespace
  std::uint32_t page = 0;  ///< logical page
  page_handle full;
  page_handle parent_full;  ///< the page before it; null for page 0
  chain_hash hash;          ///< if the tree keeps a hash chain
  std::span<const token_id> tokens;
  bool is_locked = false;
};

/// A prefix cache over the pages of one full pool and any number of window pools.
///
/// @tparam Pool       the pools' type; the array of pools outlives the tree and does not move
/// @tparam Order      which run goes first (evict_order.hpp)
/// @tparam Retention  where windows are kept besides the tail (retention.hpp)
/// @tparam Events     who hears of changes (events.hpp)
/// @tparam Mutex      a shared mutex: `match` holds it shared, everything that changes the tree
///                    exclusively. Default: none, one thread owns tree and pools.
///
/// Memory: address space for pools of this size is taken in the constructor and touched as the tree
/// grows; nothing allocates later, but for a new namespace and the vectors of publications. So do
/// the orders: from 8 bytes (LRU) to 28 (hit density) for each run that was there at once, and hit
/// density 300 KiB for what it learns.
template <page_allocator Pool,
          evict_order Order = hit_density_order,
          retention_policy Retention = keep_branch_points,
          event_sink Events = no_events,
          shared_lockable Mutex = no_mutex>
class radix_tree {
 public:
  /// A pin on the path to a boundary, and the request's run. Move-only; going out of scope ends it
  /// as request_end::aborted. A lease of nothing (default, or the tree is out of namespaces or
  /// leases) publishes nothing.
  class lease {
   public:
    lease() = default;
    lease(lease&& other) noexcept { swap(other); }
    lease& operator=(lease&& other) noexcept {
      lease old(std::move(other));
      swap(old);
      return *this;
    }
    ~lease() {
      if (tree_ != nullptr) {
        tree_->release(*this, {.ended = request_end::aborted}, now_us_);
      }
    }
    /// Tokens whose full pages are locked: what was borrowed, and what was published since.
    [[nodiscard]] std::uint32_t full_tokens() const noexcept { return pages_ * page_size_; }
    /// The boundary whose window pages are pinned; 0: none.
    [[nodiscard]] std::uint32_t window_tokens() const noexcept {
      return window_pages_ * page_size_;
    }
    [[nodiscard]] explicit operator bool() const noexcept { return tree_ != nullptr; }

   private:
    friend radix_tree;
    void swap(lease& other) noexcept {
      std::swap(tree_, other.tree_);
      std::swap(node_, other.node_);
      std::swap(pages_, other.pages_);
      std::swap(window_pages_, other.window_pages_);
      std::swap(soft_first_, other.soft_first_);
      std::swap(page_size_, other.page_size_);
      std::swap(run_, other.run_);
      std::swap(gap_us_, other.gap_us_);
      std::swap(pinned_us_, other.pinned_us_);
      std::swap(now_us_, other.now_us_);
      std::swap(turn_, other.turn_);
    }
    radix_tree* tree_ = nullptr;
    std::uint32_t node_ = detail::null_node;
    std::uint32_t pages_ = 0;         // pages from the root to the boundary
    std::uint32_t window_pages_ = 0;  // boundary of the pinned windows
    std::uint32_t soft_first_ = 0;    // of the soft kind, the first pinned page before it
    std::uint32_t page_size_ = 0;
    run_id run_ = null_run;
    std::uint64_t gap_us_ = no_gap;
    std::uint64_t pinned_us_ = 0;
    std::uint64_t now_us_ = 0;  // of the last call
    std::uint32_t turn_ = 0;
  };

  /// Pages that are being filled: the tree holds references, nobody can find them. Going out of
  /// scope aborts: the references are given back.
  class publication {
   public:
    publication() = default;
    publication(publication&& other) noexcept { *this = std::move(other); }
    publication& operator=(publication&& other) noexcept {
      std::swap(tree_, other.tree_);
      std::swap(first_page_, other.first_page_);
      std::swap(full_, other.full_);
      std::swap(windows_, other.windows_);
      std::swap(keeps_tail_, other.keeps_tail_);
      return *this;
    }
    ~publication() {
      if (tree_ != nullptr) {
        tree_->abort(*this);
      }
    }
    /// After `commit`: the handles that the tree has for [first_page, ...). Where one differs from
    /// what was offered, the sequence should switch to it.
    [[nodiscard]] std::span<const page_handle> full_pages() const noexcept { return full_; }
    [[nodiscard]] std::uint32_t first_page() const noexcept { return first_page_; }

   private:
    friend radix_tree;
    struct part {
      std::uint32_t first_page = 0;
      std::vector<page_handle> pages;
    };
    radix_tree* tree_ = nullptr;  // while it holds references
    std::uint32_t first_page_ = 0;
    std::vector<page_handle> full_;
    std::vector<part> windows_;  // [kinds]
    bool keeps_tail_ = true;
  };

  /// @param pools  [1 + options.windows.size()]: the full pool, then one for each window kind
  /// @pre   pools that have a layout have pages of options.page_size (tree_options_of)
  /// @throws std::bad_alloc
  radix_tree(std::span<Pool> pools,
             radix_tree_options options,
             Retention retention = {},
             Events events = {})
      : radix_tree(pools,
                   std::move(options),
                   std::move(retention),
                   std::move(events),
                   [](std::uint32_t max_runs) { return Order(max_runs); }) {}
  /// The same with orders of the caller's making.
  /// @param make_order  make_order(max_runs) -> Order, called once for each tenant share
  template <class MakeOrder>
  radix_tree(std::span<Pool> pools,
             radix_tree_options options,
             Retention retention,
             Events events,
             MakeOrder&& make_order);
  radix_tree(const radix_tree&) = delete;
  radix_tree& operator=(const radix_tree&) = delete;
  /// Gives back every page, and tells nobody: who listened may be gone. O(pages).
  /// @pre no lease and no publication is left
  ~radix_tree();

  /// Probes. Changes nothing, pins nothing, refreshes nothing. With `chain`, the links of all whole
  /// pages of `tokens` from hash_pages(space.digest(), ...), whole nodes are skipped and the answer
  /// is advisory: `pin` compares tokens before anything is borrowed.
  /// O(nodes + tokens compared + window pages looked at).
  /// @pre chain.empty() or options().keeps_hash_chain
  [[nodiscard]] prefix_match match(const cache_namespace& space,
                                   std::span<const token_id> tokens,
                                   std::span<const chain_hash> chain = {}) const noexcept {
    const detail::shared_guard guard(mutex_);
    return probe(space, tokens, chain);
  }

  /// The same, from the end of what a lease holds. O(nodes + tokens compared + window pages looked
  /// at) beyond it.
  /// @pre held; the tokens begin with those that it holds
  [[nodiscard]] prefix_match match_beyond(const lease& held,
                                          std::span<const token_id> tokens) const noexcept {
    const detail::shared_guard guard(mutex_);
    return probe_from({held.node_, held.pages_}, tokens, {});
  }

  /// Locks what `extent` asks of a match, before anything is allocated. If the tree changed since,
  /// or hashes were believed, it matches again and compares tokens; the lease says what it got,
  /// never more than asked. Refreshes recency. O(nodes), or O(match).
  [[nodiscard]] lease pin(const cache_namespace& space,
                          std::span<const token_id> tokens,
                          const prefix_match& found,
                          pin_extent extent,
                          std::uint64_t now_us) noexcept;

  /// The pages a lease holds: full pages to full_tokens(), window pages at window_tokens(), of the
  /// soft kind those that were there when they were pinned.
  /// O(pages). @throws std::bad_alloc
  void borrow(const lease& held, borrowed_pages& out) const;

  /// Publish, step one: takes a reference to each page. The caller fills what is not filled yet,
  /// behind whatever fence its device needs, and then commits or aborts.
  /// @pre a page of the full pool is offered for one place only: a page that the tree has, or had
  ///      when its namespace was dropped under a lease that still runs, is not offered for other
  ///      tokens; nor is a window page
  /// @throws std::bad_alloc
  [[nodiscard]] publication reserve(const publish_source& source);
  /// Publish, last step: the pages become visible. Pages the tree has already stay the tree's own;
  /// window pages that were lost come back. The lease moves to the end.
  /// O(new pages + nodes of the path).
  /// @pre tokens.size() >= the end of the publication; they agree with what the lease holds
  publish_outcome commit(lease& held,
                         publication& fresh,
                         std::span<const token_id> tokens,
                         std::uint64_t now_us,
                         std::span<const chain_hash> chain = {}) noexcept;
  /// Publish, the other last step: nothing becomes visible.
  void abort(publication& fresh) noexcept;

  /// Unpins the window pages early: decode has moved past them. Once, or not at all. O(windows).
  void drop_windows(lease& held) noexcept;
  /// Ends a lease; its run may be evicted from now on. O(nodes).
  void release(lease& held, const lease_end& end, std::uint64_t now_us) noexcept;

  /// Frees full pages: whole runs in the order's order, deepest page first; window pages below them
  /// go along. Returns what became allocatable, less than asked only if the rest is leased.
  /// O(pages).
  evicted_pages evict_full(std::uint32_t pages, std::uint64_t now_us) noexcept;
  /// Frees window pages of one kind alone; their prefixes stay full-valid. O(pages).
  evicted_pages evict_window(std::uint32_t kind, std::uint32_t pages) noexcept;
  /// Forgets a namespace at once; pages under a lease go when it ends. O(pages).
  void drop(const cache_namespace& space) noexcept;
  /// Forgets everything, the same way. O(pages).
  void clear() noexcept;

  [[nodiscard]] const radix_tree_options& options() const noexcept { return options_; }
  [[nodiscard]] const prefix_counters& counters() const noexcept { return counters_; }
  [[nodiscard]] Events& events() noexcept { return events_; }
  /// @pre tenant < options().tenant_shares
  [[nodiscard]] Order& order(std::uint32_t tenant = 0) noexcept { return orders_[tenant]; }
  /// Pages in the tree; of them, those that `evict_full` could free.
  [[nodiscard]] std::uint32_t full_pages() const noexcept { return full_pages_; }
  [[nodiscard]] std::uint32_t evictable_full_pages() const noexcept { return evictable_full_; }
  [[nodiscard]] std::uint32_t window_pages(std::uint32_t kind) const noexcept {
    return windows_[kind].attached();
  }
  [[nodiscard]] std::uint32_t evictable_window_pages(std::uint32_t kind) const noexcept {
    return windows_[kind].evictable();
  }
  [[nodiscard]] std::uint32_t leases() const noexcept { return leases_; }
  [[nodiscard]] std::uint32_t nodes() const noexcept { return store_.nodes_used(); }
  /// Bytes of index that the present tree uses, token ids and the order's excluded.
  [[nodiscard]] std::uint64_t index_bytes() const noexcept;

  /// Calls visit(const cached_page&, pool, handle) for every page of every pool that can be found.
  /// For mirrors, accounts and tests. O(pages).
  template <class Visit>
  void visit_pages(Visit&& visit) const;
  /// Recounts everything from the structure; what is wrong, or null. O(pages).
  [[nodiscard]] const char* audit() const;

 private:
  /// With what the events need.
  [[nodiscard]] static radix_tree_options completed(radix_tree_options options) noexcept {
    options.keeps_hash_chain =
        options.keeps_hash_chain || (Events::enabled && needs_hashes_v<Events> &&
                                     !ORIEL_MUTANT(hashes_of_events_have_to_be_asked_for));
    return options;
  }

  enum class run_state : std::uint8_t { free, held, evictable, parked };
  struct run_record {
    run_facts facts;
    std::uint32_t tail;   // node of its deepest page; of a free run, the next free one
    std::uint32_t pages;  // 0: tail means nothing
    std::uint32_t tenant;
    run_state state;
  };

  [[nodiscard]] std::uint32_t kinds() const noexcept {
    return static_cast<std::uint32_t>(windows_.size());
  }
  [[nodiscard]] run_record& run(run_id id) noexcept { return runs_[to_index(id)]; }
  [[nodiscard]] prefix_match probe(const cache_namespace& space,
                                   std::span<const token_id> tokens,
                                   std::span<const chain_hash> chain) const noexcept;
  [[nodiscard]] prefix_match probe_from(detail::walk_end from,
                                        std::span<const token_id> tokens,
                                        std::span<const chain_hash> chain) const noexcept;

  [[nodiscard]] std::uint32_t tenant_of(std::uint32_t node) const noexcept {
    return store_.node(store_.node(node).root).tenant;
  }
  [[nodiscard]] std::uint32_t open_tenant(const cache_namespace& space) noexcept;
  [[nodiscard]] run_id next_victim(std::uint64_t now_us) noexcept;

  run_id new_run() noexcept;
  void free_run(run_id id) noexcept;
  void take_over(std::uint32_t node, lease& held, bool is_hit) noexcept;
  void lose_pages(run_id id, std::uint32_t pages) noexcept;
  void make_evictable(run_id id) noexcept;
  std::uint32_t cut(std::uint32_t node, std::uint32_t pages) noexcept;
  void lock(std::uint32_t node) noexcept;
  void unlock(std::uint32_t node) noexcept;
  void drop_unlocked(std::uint32_t node) noexcept;

  struct page_span {
    std::uint32_t first, end;
  };
  [[nodiscard]] page_span tail_span(std::uint32_t kind, std::uint32_t boundary) const noexcept;
  /// Pages before a boundary that it needs, at most.
  [[nodiscard]] std::uint32_t window_span(std::uint32_t kind) const noexcept {
    return (options_.windows[kind] - 1 + options_.page_size - 1) / options_.page_size;
  }
  class kept_windows;
  template <class Visit>
  void for_each_window(std::uint32_t kind, std::uint32_t node, page_span pages, Visit&& visit);
  /// The first page of a kind that the lease pins before its boundary.
  [[nodiscard]] std::uint32_t first_pinned(const lease& held, std::uint32_t kind) const noexcept {
    return kind == options_.soft_kind ? held.soft_first_
                                      : store_.first_needed(kind, held.window_pages_);
  }
  [[nodiscard]] std::uint32_t first_soft_page(std::uint32_t node,
                                              std::uint32_t boundary) const noexcept;
  void pin_windows(lease& held, std::uint32_t boundary) noexcept;
  void unpin_windows(lease& held, std::uint32_t end, bool keeps_tail) noexcept;
  void loosen_windows(std::uint32_t node,
                      std::uint32_t boundary,
                      std::uint32_t end,
                      bool keeps_tail) noexcept;
  std::uint32_t attach_windows(std::uint32_t node, publication& fresh, std::uint32_t end) noexcept;
  void keep_own_pages(std::uint32_t node,
                      std::uint32_t pages,
                      publication& fresh,
                      publish_outcome& outcome) noexcept;

  bool drop_window(std::uint32_t kind, std::uint32_t full) noexcept;
  evicted_pages drop_last_pages(std::uint32_t node, std::uint32_t pages) noexcept;
  [[nodiscard]] bool is_free_leaf(std::uint32_t node) const noexcept {
    return (store_.node(node).locks == 0 || ORIEL_MUTANT(locked_pages_are_evicted)) &&
           store_.node(node).first_child == detail::null_node;
  }
  template <class Visit>
  void for_each_node_below(std::uint32_t root, Visit&& visit) const;
  void forget(std::uint32_t root) noexcept;
  void tell(cache_event_kind kind,
            std::uint32_t pool,
            detail::page_place page,
            bool is_drop = false) noexcept;
  void tell_stored(std::uint32_t root,
                   std::uint32_t first_page,
                   std::span<const page_handle> full,
                   std::span<const token_id> tokens,
                   page_handle before,
                   chain_hash parent) noexcept;
  void tell_removed(std::uint32_t node,
                    std::uint32_t first,
                    std::span<const page_handle> full) noexcept;
  [[nodiscard]] page_handle full_before(detail::page_place page) const noexcept;
  std::uint32_t give_back(std::uint32_t pool, std::span<const page_handle> pages) noexcept;
  bool give_back(std::uint32_t pool, page_handle page) noexcept {
    return give_back(pool, std::span<const page_handle>(&page, 1)) != 0;
  }
  void give_back(publication& fresh) noexcept;

  Pool* pools_;  // [1 + kinds]
  radix_tree_options options_;
  Retention retention_;
  Events events_;
  std::vector<Order> orders_;  // [tenant shares]
  mutable Mutex mutex_;
  detail::node_store store_;
  std::vector<detail::window_index> windows_;  // [kinds]
  detail::lazy_array<run_record> runs_;        // [full pages + leases_max]
  std::vector<std::uint64_t> tenants_;         // [known tenants]: their salt's hash
  std::vector<std::uint32_t> tenant_pages_;    // [tenant shares]: full pages in the tree
  std::uint32_t free_runs_ = to_index(null_run), runs_touched_ = 0;
  std::uint32_t full_pages_ = 0, evictable_full_ = 0, leases_ = 0, closed_roots_ = 0;
  std::uint64_t version_ = 1, sequence_ = 0;
  prefix_counters counters_;
};

}  // namespace oriel

// The bodies.
#include <oriel/prefix/detail/radix_tree_account.hpp>
#include <oriel/prefix/detail/radix_tree_evict.hpp>
#include <oriel/prefix/detail/radix_tree_lease.hpp>
#include <oriel/prefix/detail/radix_tree_publish.hpp>
