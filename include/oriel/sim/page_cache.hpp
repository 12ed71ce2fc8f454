// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `page_cache`: the pages of one tier of a simulated node: a real prefix tree over pages that have
/// no bytes.
///
/// One token of the tree is one page of the workload: page ids name all tokens up to their end, so
/// a tree of page size 1 over ids does what one of page size P over tokens does, P times cheaper. A
/// window of W tokens needs the pages of the W - 1 tokens before a boundary, so it becomes one of
/// 1 + ceil((W - 1) / P) pages. tests/cluster/page_cache_test.cpp compares the two.
#pragma once

#include <oriel/kv/paged_allocator.hpp>
#include <oriel/prefix/order_hit_density.hpp>
#include <oriel/prefix/radix_tree.hpp>
#include <oriel/prefix/sequence_prefix.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace oriel::sim {

/// W tokens in pages of P.
[[nodiscard]] constexpr std::uint32_t window_in_pages(std::uint32_t window_tokens,
                                                      std::uint32_t page_tokens) noexcept {
  return 1 + (window_tokens - 1 + page_tokens - 1) / page_tokens;
}

class page_cache;

/// One page came or went, by its id.
struct page_id_event {
  cache_event_kind kind = cache_event_kind::stored;
  std::uint32_t pool = 0;      ///< 0: full pool; 1 + window kind
  std::uint32_t position = 0;  ///< logical page
  std::uint32_t id = 0;        ///< of the workload
  std::uint32_t parent = 0;    ///< id of the page before; of the first one: of no matter
  std::uint64_t space = 0;     ///< of its namespace's digest
};

/// Full pages of one path, one behind the other, that came or went in one go.
struct page_id_stretch {
  cache_event_kind kind = cache_event_kind::stored;  ///< or removed
  std::uint32_t position = 0;                        ///< of the one nearest to the root
  std::uint32_t parent = 0;                          ///< id of the page before that
  std::uint64_t space = 0;
  /// Stored ones front to back, removed ones back to front.
  std::span<const std::uint32_t> ids = {};
};

/// Who hears of a page_cache. It must not call back.
class page_listener {
 public:
  virtual void on_page(const page_id_event& event) noexcept = 0;
  virtual void on_stretch(const page_id_stretch& stretch) noexcept = 0;

 protected:
  ~page_listener() = default;
};

/// The sink of the tree: hashes play no part.
struct page_id_events {
  static constexpr bool enabled = true;
  static constexpr bool needs_hashes = false;
  page_listener* to = nullptr;
  page_cache* cache = nullptr;
  inline void operator()(const cache_event& event) const noexcept;
  inline void take_stretch(const cache_event_stretch& stretch) const noexcept;
};

struct page_cache_options {
  std::uint32_t page_size = 1;  ///< tokens of the tree: of another size only to compare with
  std::uint32_t full_pages = 0;
  std::vector<std::uint32_t> window_pages = {};  ///< [window kinds] that the cache may keep
  std::vector<std::uint32_t> windows = {};       ///< [window kinds] in tokens of the tree
  std::uint32_t slack_pages = 1;
  /// Window pages that one publication offers at most; they have room of their own, as the ring of
  /// a running sequence has.
  std::uint32_t offered_pages = 512;
  std::uint32_t leases_max = 4096;
  std::uint32_t namespaces_max = 1u << 16;
  std::uint64_t seed = 1;  ///< of the order of eviction, which samples
};

/// All lengths are in pages, which are the tokens of the tree.
///
/// *Thread safety* none. *Memory* that of the tree and of its pools.
class page_cache {
 public:
  using pool_type = paged_allocator<>;
  using tree_type = radix_tree<pool_type, hit_density_order, keep_branch_points, page_id_events>;
  using lease = tree_type::lease;

  /// @throws std::bad_alloc
  explicit page_cache(page_cache_options options)
      : options_(std::move(options)),
        pools_(make_pools(options_)),
        tree_(pools_.all,
              {.page_size = options_.page_size,
               .windows = options_.windows,
               .slack_pages = options_.slack_pages,
               .leases_max = options_.leases_max,
               .namespaces_max = options_.namespaces_max,
               .keeps_hash_chain = false},
              {},
              page_id_events{{}, this},
              [&](std::uint32_t runs) { return hit_density_order(runs, options_.seed); }),
        ids_(options_.full_pages),
        missing_(pools_.all.size()),
        windows_(options_.windows.size()),
        spans_(options_.windows.size()) {}
  page_cache(const page_cache&) = delete;
  page_cache& operator=(const page_cache&) = delete;

  [[nodiscard]] const page_cache_options& options() const noexcept { return options_; }
  /// It outlives the cache, or is taken out before; null: nobody.
  void tell(page_listener* to) noexcept { tree_.events().to = to; }
  [[nodiscard]] tree_type& tree() noexcept { return tree_; }
  [[nodiscard]] const tree_type& tree() const noexcept { return tree_; }
  [[nodiscard]] std::uint32_t capacity() const noexcept { return pools_.all[0].capacity(); }
  /// Pages of a pool that somebody holds.
  [[nodiscard]] std::uint32_t used(std::uint32_t pool) const noexcept {
    return pools_.all[pool].capacity() - pools_.all[pool].available();
  }
  /// Calls visit(page_id_event) for each page of each pool. O(pages).
  template <class Visit>
  void visit_pages(Visit&& visit) const {
    tree_.visit_pages([&](const cached_page& page, std::uint32_t pool, page_handle) {
      visit(page_id_event{.pool = pool,
                          .position = page.page,
                          .id = to_index(page.tokens[0]),
                          .parent = page.parent_full ? ids_[to_index(page.parent_full.id)] : 0,
                          .space = page.space.low});
    });
  }
  /// Changes whenever a match may answer differently.
  [[nodiscard]] std::uint64_t epoch() const noexcept { return epoch_; }
  /// Changes whenever a match in this name space may, and now and then besides.
  [[nodiscard]] std::uint32_t changes(const cache_namespace& space) const noexcept {
    return changes_[space.digest().low % std::size(changes_)];
  }

  [[nodiscard]] prefix_match match(const cache_namespace& space,
                                   std::span<const token_id> tokens) const noexcept {
    return tree_.match(space, tokens);
  }
  /// The same, of tokens that begin with those that a lease holds.
  [[nodiscard]] prefix_match match_beyond(const lease& held,
                                          std::span<const token_id> tokens) const noexcept {
    return tree_.match_beyond(held, tokens);
  }
  [[nodiscard]] lease pin(const cache_namespace& space,
                          std::span<const token_id> tokens,
                          const prefix_match& found,
                          pin_extent extent,
                          std::uint64_t now_us) noexcept {
    return tree_.pin(space, tokens, found, extent, now_us);
  }
  void release(lease& held, const lease_end& end, std::uint64_t now_us) noexcept {
    tree_.release(held, end, now_us);
  }

  /// Gives the tree the pages [held, end) of a path, and the window pages [first_window, end) that
  /// its retention wants. What has no room beside leased pages is not kept.
  /// @returns where the path ends now. O(pages)
  std::uint32_t publish(lease& held,
                        std::span<const token_id> tokens,
                        std::uint32_t first_window,
                        std::uint32_t end,
                        bool keeps_tail,
                        std::uint64_t now_us) {
    const std::uint32_t first = held.full_tokens() / options_.page_size;
    if (!held || end < first || end == 0) {
      return first;
    }
    const std::uint32_t room = pools_.all[0].available() + tree_.evictable_full_pages();
    if (end - first > room) {
      end = first + room;
      keeps_tail = false;  // The path goes on, though not here.
    }
    missing_[0] = end - first;
    for (std::uint32_t kind = 0; kind < windows_.size(); ++kind) {
      const std::uint32_t most =
          std::min(options_.offered_pages,
                   pools_.all[kind + 1].available() + tree_.evictable_window_pages(kind));
      const std::uint32_t from = std::max(std::min(first_window, end), end - std::min(end, most));
      spans_[kind].first_page = from;
      missing_[kind + 1] = end - from;
    }
    const bool has_room =
        make_room(tree_, pools_, std::span<const std::uint32_t>(missing_), now_us);
    ORIEL_EXPECTS(has_room);
    take(0, full_, missing_[0]);
    const std::uint32_t known =
        tree_.match_beyond(held, tokens.first(std::size_t{end} * options_.page_size)).full_tokens /
        options_.page_size;
    for (std::uint32_t kind = 0; kind < windows_.size(); ++kind) {
      offer(kind, known, end, keeps_tail);
    }
    auto fresh = tree_.reserve({.first_page = first,
                                .full = full_,
                                .windows = spans_,
                                .keeps_tail = keeps_tail,
                                .is_gift = true});
    tree_.commit(held, fresh, tokens.first(std::size_t{end} * options_.page_size), now_us);
    for (std::uint32_t kind = 0; kind < windows_.size(); ++kind) {
      const std::uint32_t kept = tree_.window_pages(kind);
      if (kept > options_.window_pages[kind]) {
        tree_.evict_window(kind, kept - options_.window_pages[kind]);
      }
    }
    ++epoch_;
    return end;
  }

  /// All is lost. @pre no lease is left
  void clear() noexcept {
    tree_.clear();
    ++epoch_;
  }

 private:
  struct node_pools {
    std::vector<pool_type> all;  // [1 + window kinds]
    [[nodiscard]] const pool_type& pool(pool_id id) const noexcept { return all[to_index(id)]; }
  };

  static node_pools make_pools(const page_cache_options& o) {
    ORIEL_EXPECTS(o.window_pages.size() == o.windows.size());
    node_pools pools;
    pools.all.emplace_back(o.full_pages);
    for (const std::uint32_t pages : o.window_pages) {
      pools.all.emplace_back(pages + o.offered_pages);
    }
    return pools;
  }

  void take(std::uint32_t pool, std::vector<page_handle>& out, std::uint32_t pages) {
    out.resize(pages);
    take(pool, out);
  }
  void take(std::uint32_t pool, std::span<page_handle> out) {
    const bool taken = pools_.all[pool].try_allocate(out);
    ORIEL_EXPECTS(taken);
  }
  /// Of the window pages from spans_[kind].first_page to `end`, takes those that the tree may want:
  /// the last ones, and those of paths that are there, which may fork there. Behind `known` nothing
  /// is there yet, so nothing forks.
  void offer(std::uint32_t kind, std::uint32_t known, std::uint32_t end, bool keeps_tail) {
    const std::uint32_t from = spans_[kind].first_page;
    const std::uint32_t size = options_.page_size;
    const std::uint32_t needed = (options_.windows[kind] - 1 + size - 1) / size;
    const std::uint32_t span = keeps_tail ? options_.slack_pages + needed : 0;
    const std::uint32_t tail = std::max(from, end - std::min(end, span));
    const std::uint32_t there = std::clamp(known, from, tail);
    std::vector<page_handle>& pages = windows_[kind];
    pages.assign(end - from, {});
    take(kind + 1, std::span(pages).first(there - from));
    take(kind + 1, std::span(pages).subspan(tail - from));
    spans_[kind].pages = pages;
  }

  friend page_id_events;
  [[nodiscard]] std::uint32_t& changes_of(std::uint64_t space) noexcept {
    return changes_[space % std::size(changes_)];
  }

  page_cache_options options_;
  node_pools pools_;
  tree_type tree_;
  std::uint64_t epoch_ = 1;
  std::array<std::uint32_t, 4096> changes_ = {};  // by a name space's digest
  detail::lazy_array<std::uint32_t> ids_;         // [full pages]
  std::vector<std::uint32_t> said_;               // scratch of a stretch
  std::vector<std::uint32_t> missing_;            // [pools]
  std::vector<page_handle> full_;
  std::vector<std::vector<page_handle>> windows_;  // [kinds]
  std::vector<window_page_span> spans_;            // [kinds]
};

void page_id_events::operator()(const cache_event& event) const noexcept {
  if (event.kind == cache_event_kind::cleared) {
    for (std::uint32_t& changes : cache->changes_) {
      ++changes;
    }
    if (to != nullptr) {
      to->on_page({.kind = event.kind});
    }
    return;
  }
  ++cache->changes_of(event.space.low);
  if (to != nullptr) {
    to->on_page({.kind = event.kind,
                 .pool = event.pool,
                 .position = event.page,
                 .id = to_index(event.tokens[0]),
                 .parent = event.parent_full ? cache->ids_[to_index(event.parent_full.id)] : 0,
                 .space = event.space.low});
  }
}

void page_id_events::take_stretch(const cache_event_stretch& stretch) const noexcept {
  detail::lazy_array<std::uint32_t>& ids = cache->ids_;
  const std::size_t pages = stretch.full.size();
  cache->said_.resize(std::max(cache->said_.size(), pages));
  std::uint32_t* const said = cache->said_.data();
  ++cache->changes_of(stretch.space.low);
  if (stretch.kind == cache_event_kind::stored) {
    const std::size_t page_size = stretch.tokens.size() / pages;
    for (std::size_t i = 0; i < pages; ++i) {
      said[i] = ids[to_index(stretch.full[i].id)] = to_index(stretch.tokens[i * page_size]);
    }
  } else {
    for (std::size_t i = 0; i < pages; ++i) {
      said[i] = ids[to_index(stretch.full[i].id)];
    }
  }
  if (to != nullptr) {
    to->on_stretch({.kind = stretch.kind,
                    .position = stretch.page,
                    .parent = stretch.parent_full ? ids[to_index(stretch.parent_full.id)] : 0,
                    .space = stretch.space.low,
                    .ids = {said, pages}});
  }
}

}  // namespace oriel::sim
