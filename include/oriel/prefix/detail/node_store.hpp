// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `node_store`: the nodes of a prefix tree and what each full page holds. Structure only: it knows
/// no pools, no references, no order of eviction.
///
/// Pages are filed under their full page id, so nothing moves when a node is split:
///
///     full page id ->  tokens[P]    home (node, place)    generation    chain hash, if kept
///
///     node: parent ----- up to 32 full page ids, one run of tokens ----- children
///           for each window kind: one bit per page, "its window page hangs below it"
///
/// A child with siblings is found by (parent, key of its first page) in one table for the whole
/// tree; the key finds, the tokens decide. An only child is not in the table.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/hash.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/prefix/cache_namespace.hpp>
#include <oriel/prefix/detail/lazy_array.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace oriel::detail {

/// Pages of one node: one bit each in a word.
inline constexpr std::uint32_t node_pages_max = 32;
inline constexpr std::uint32_t null_node = 0xFFFF'FFFFu;

/// Three cache lines; what walks, locks and runs look at is in the first.
struct alignas(64) tree_node {
  std::uint64_t key;    // of the first page
  chain_hash end_hash;  // of the last page; a root's: the namespace's digest
  std::uint32_t first_child;
  std::uint32_t next_sibling, previous_sibling;
  std::uint32_t run;    // run_id that touched it last
  std::uint32_t locks;  // leases that end here + children with locks: full_lock > 0 or not
  std::uint32_t begin;  // pages from the root to its first page
  std::uint32_t root;   // of its namespace
  std::uint32_t pages;  // 1 .. node_pages_max; a root has 0
  union {
    std::uint32_t full[node_pages_max];  // ids of full pages
    std::uint32_t tenant;                // of a root, which has no pages
  };
  std::uint32_t in_row;  // so many of the first pages have consecutive ids

  [[nodiscard]] std::uint32_t end() const noexcept { return begin + pages; }
};

/// A page of the tree.
struct page_place {
  std::uint32_t node = null_node;
  std::uint32_t at = 0;  // index in the node
};

/// Where a walk ended: `pages` pages from the root agree with the tokens, the last of them in
/// `node` (a root if there are none).
struct walk_end {
  std::uint32_t node = null_node;
  std::uint32_t pages = 0;
};

/// Sizes of a store, fixed for its life.
struct store_sizes {
  std::uint32_t page_size = 0;   // tokens
  std::uint32_t full_pages = 0;  // capacity of the full pool
  std::uint32_t window_kinds = 0;
  std::optional<std::uint32_t> soft_kind = {};  // no boundary needs it
  std::uint32_t namespaces_max = 0;             // roots alive at once
  std::uint32_t leases_max = 0;                 // a closed root lives as long as a lease below it
  bool keeps_hash_chain = false;
};

class node_store {
 public:
  explicit node_store(const store_sizes& sizes, std::span<const std::uint32_t> window_tokens);

  [[nodiscard]] const store_sizes& sizes() const noexcept { return sizes_; }
  [[nodiscard]] tree_node& node(std::uint32_t id) noexcept { return nodes_[id]; }
  [[nodiscard]] const tree_node& node(std::uint32_t id) const noexcept { return nodes_[id]; }
  [[nodiscard]] bool is_root(std::uint32_t id) const noexcept { return parents_[id] == null_node; }
  [[nodiscard]] std::uint32_t parent_of(std::uint32_t id) const noexcept { return parents_[id]; }
  /// The same, for walks up long chains. All that a step of a walk waits for is the load of the
  /// parent, and nodes that one request made mostly have consecutive ids. So the id before is
  /// guessed to be the parent and compared with it afterwards: the processor predicts the branch
  /// and is steps ahead when the loads arrive. A wrong guess costs a misprediction, never an
  /// answer.
  [[nodiscard]] std::uint32_t parent_in_walk(std::uint32_t id) const noexcept {
    const std::uint32_t parent = parents_[id];
#if defined(__GNUC__)
    // Two empty statements, lest the compiler see that both ways lead to `parent`: after the first
    // it does not know the guess, and a way with the second is no candidate for a conditional move.
    std::uint32_t guess = id - 1;
    asm("" : "+r"(guess));
    if (parent != id - 1) [[unlikely]] {
      guess = parent;
      asm volatile("");
    }
    return guess;
#else
    return parent;
#endif
  }
  /// Bit i: the page at i has its window page of this kind.
  [[nodiscard]] std::uint32_t& mask(std::uint32_t id, std::uint32_t kind) noexcept {
    return masks_[std::size_t{id} * sizes_.window_kinds + kind];
  }
  [[nodiscard]] std::uint32_t mask(std::uint32_t id, std::uint32_t kind) const noexcept {
    return masks_[std::size_t{id} * sizes_.window_kinds + kind];
  }
  [[nodiscard]] std::uint32_t window_tokens(std::uint32_t kind) const noexcept {
    return window_tokens_[kind];
  }
  [[nodiscard]] page_handle full_page(std::uint32_t full) const noexcept {
    return {page_id{full}, generations_[full]};
  }
  [[nodiscard]] std::span<const token_id> tokens(std::uint32_t full) const noexcept {
    return {tokens_.data() + std::size_t{full} * sizes_.page_size, sizes_.page_size};
  }
  [[nodiscard]] page_place home(std::uint32_t full) const noexcept {
    return {homes_[full] / node_pages_max, homes_[full] % node_pages_max};
  }
  /// Chain hash of a page, and of the page or root before it. @pre sizes().keeps_hash_chain
  [[nodiscard]] chain_hash hash_of(page_place page) const noexcept {
    return hash_of(nodes_[page.node].full[page.at]);
  }
  [[nodiscard]] chain_hash hash_of(std::uint32_t full) const noexcept {
    ORIEL_EXPECTS(sizes_.keeps_hash_chain);
    return chain_[full];
  }
  [[nodiscard]] chain_hash hash_before(page_place page) const noexcept;

  // Namespaces.
  [[nodiscard]] std::uint32_t find_root(const cache_namespace& space) const noexcept;
  /// Finds or makes it; null_node: there are namespaces_max of them, or no memory.
  [[nodiscard]] std::uint32_t open_root(const cache_namespace& space) noexcept;
  /// The namespace is forgotten: no walk will find its root. Its nodes stay until removed.
  void close_root(std::uint32_t root) noexcept;
  /// Forgotten, but some of its pages are still locked.
  [[nodiscard]] bool is_closed(std::uint32_t root) const noexcept {
    return roots_.find(root) == roots_.end();
  }
  /// Returns an empty root's node. @pre it has no children
  void free_root(std::uint32_t root) noexcept;
  [[nodiscard]] std::uint32_t namespaces() const noexcept {
    return static_cast<std::uint32_t>(roots_.size());
  }
  /// An open root, or null_node. O(1).
  [[nodiscard]] std::uint32_t any_root() const noexcept {
    return roots_.empty() ? null_node : roots_.begin()->first;
  }
  /// Calls visit(root) for every open root, in no order that means anything.
  template <class Visit>
  void for_each_root(Visit&& visit) const {
    for (const auto& [root, bytes] : roots_) {
      visit(root);
    }
  }

  /// Follows `tokens` down from the place `from`, which agrees with the tokens before; whole pages
  /// only. With `chain` (the links of all whole pages of `tokens`), links are compared instead of
  /// tokens: the answer is advisory. O(nodes + tokens), or O(nodes) with `chain`.
  [[nodiscard]] walk_end walk(walk_end from,
                              std::span<const token_id> tokens,
                              std::span<const chain_hash> chain) const noexcept;

  /// The largest boundary, in pages, that is <= `limit` and window-safe for every kind but the soft
  /// one, on the path to `node`. O(kinds * (nodes and pages looked at)).
  [[nodiscard]] std::uint32_t window_safe(std::uint32_t node, std::uint32_t limit) const noexcept;

  /// The first page that boundary `end` (pages) needs of a kind; `end` itself: none.
  [[nodiscard]] std::uint32_t first_needed(std::uint32_t kind, std::uint32_t end) const noexcept {
    return end - std::min(end, needed_pages_[kind]);
  }

  /// The node at or above `node` that holds page `page` of the path. @pre the path has it
  [[nodiscard]] page_place locate(std::uint32_t node, std::uint32_t page) const noexcept {
    while (nodes_[node].begin > page) {
      node = parents_[node];
    }
    ORIEL_ASSERT(page < nodes_[node].end());
    return {node, page - nodes_[node].begin};
  }

  /// Cuts a node: its first `at` pages become a new parent of it. Returns the new node; the old one
  /// keeps its id, children and leases. O(node_pages_max * kinds). @pre 0 < at < pages
  std::uint32_t split(std::uint32_t id, std::uint32_t at) noexcept;

  /// Hangs pages below the end of `id`, as further pages of it where `may_extend` and it is an
  /// unfull leaf, else in new nodes, which get `run`. Returns the last node. O(tokens).
  /// @param tokens  [full.size() * page_size]
  /// @param chain   [full.size()], or empty: computed if the store keeps one
  std::uint32_t append(std::uint32_t id,
                       std::span<const token_id> tokens,
                       std::span<const page_handle> full,
                       std::span<const chain_hash> chain,
                       bool may_extend,
                       run_id run) noexcept;

  /// Takes the last pages off a leaf. A node without pages is freed. Returns whether it was.
  /// @pre no children, so many pages, no window page below one of them
  bool drop_last_pages(std::uint32_t id, std::uint32_t pages) noexcept;

  /// Nodes in use, roots included.
  [[nodiscard]] std::uint32_t nodes_used() const noexcept {
    return nodes_used_;
  }
  /// Bytes of index that a tree of the present size touches, tokens excluded.
  [[nodiscard]] std::uint64_t index_bytes(std::uint64_t full_pages_cached) const noexcept;

 private:
  [[nodiscard]] std::uint64_t key_of(std::uint32_t parent,
                                     std::span<const token_id> page) const noexcept;
  [[nodiscard]] std::uint32_t find_child(std::uint32_t parent,
                                         std::uint64_t key,
                                         const token_id* page) const noexcept;
  [[nodiscard]] std::uint32_t same_pages(const tree_node& n,
                                         std::uint32_t at,
                                         const token_id* tokens,
                                         std::uint32_t most) const noexcept;
  [[nodiscard]] std::uint32_t same_links(const tree_node& n,
                                         std::uint32_t at,
                                         const chain_hash* links,
                                         std::uint32_t most) const noexcept;
  [[nodiscard]] std::uint32_t deepest_boundary(std::uint32_t kind,
                                               std::uint32_t node,
                                               std::uint32_t limit) const noexcept;
  std::uint32_t new_node() noexcept;
  void free_node(std::uint32_t id) noexcept;
  void put_pages(std::uint32_t id,
                 std::span<const page_handle> pages,
                 const token_id* tokens) noexcept;
  void link_child(std::uint32_t parent, std::uint32_t child) noexcept;
  void unlink_child(std::uint32_t child) noexcept;
  void file_child(std::uint32_t child) noexcept;
  void unfile_child(std::uint32_t child) noexcept;
  [[nodiscard]] bool has_siblings(std::uint32_t child) const noexcept {
    return nodes_[child].next_sibling != null_node || nodes_[child].previous_sibling != null_node;
  }
  [[nodiscard]] std::size_t slot_of(std::uint32_t parent, std::uint64_t key) const noexcept;
  void table_insert(std::uint32_t id) noexcept;
  void table_erase(std::uint32_t id) noexcept;
  [[nodiscard]] std::size_t table_find(std::uint32_t id) const noexcept;

  store_sizes sizes_;
  std::vector<std::uint32_t> window_tokens_;  // [kinds]
  std::vector<std::uint32_t> needed_pages_;  // [kinds]: how far before a boundary its window begins
  std::uint32_t nodes_max_ = 0;
  std::size_t table_mask_ = 0;

  lazy_array<tree_node> nodes_;            // [nodes_max]
  lazy_array<std::uint32_t> parents_;      // [nodes_max]: apart, 16 in a cache line, for walks up
  lazy_array<std::uint32_t> masks_;        // [nodes_max, kinds]
  lazy_array<std::uint32_t> table_;        // [table_mask_ + 1]: node + 1, or 0
  lazy_array<token_id> tokens_;            // [full pages, page_size]
  lazy_array<std::uint32_t> homes_;        // [full pages]: node * node_pages_max + index
  lazy_array<std::uint32_t> generations_;  // [full pages]
  lazy_array<chain_hash> chain_;           // [full pages], if kept

  std::uint32_t nodes_used_ = 0, nodes_touched_ = 0, free_nodes_ = null_node;
  std::unordered_map<std::string, std::uint32_t> spaces_;  // framed bytes -> root
  std::unordered_map<std::uint32_t, std::string> roots_;   // root -> framed bytes, while open
};

}  // namespace oriel::detail
