// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/prefix/detail/node_store.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <numeric>

namespace oriel::detail {
namespace {

/// Copies `count` tokens, at most `at_once` in one std::memcpy.
void copy_tokens(token_id* to,
                 const token_id* from,
                 std::size_t count,
                 std::size_t at_once) noexcept {
  for (; count > at_once; to += at_once, from += at_once, count -= at_once) {
    std::memcpy(to, from, at_once * sizeof(token_id));
  }
  std::memcpy(to, from, count * sizeof(token_id));
}

}  // namespace

node_store::node_store(const store_sizes& sizes, std::span<const std::uint32_t> window_tokens)
    : sizes_(sizes), window_tokens_(window_tokens.begin(), window_tokens.end()) {
  ORIEL_EXPECTS(sizes.page_size > 0 && sizes.full_pages > 0 && sizes.namespaces_max > 0);
  ORIEL_EXPECTS(window_tokens.size() == sizes.window_kinds);
  // A home is node * node_pages_max + index in 32 bits; every node but a root has a page.
  const std::uint64_t nodes =
      std::uint64_t{sizes.full_pages} + sizes.namespaces_max + sizes.leases_max;
  ORIEL_EXPECTS(nodes < 0xFFFF'FFFFu / node_pages_max);
  nodes_max_ = static_cast<std::uint32_t>(nodes);
  for (const std::uint32_t window : window_tokens) {
    const std::uint32_t behind = window - (ORIEL_MUTANT(boundary_needs_window_tokens) ? 0 : 1);
    needed_pages_.push_back(behind / sizes.page_size + (behind % sizes.page_size != 0));
  }
  const std::size_t table = std::bit_ceil(std::size_t{nodes_max_} * 2);
  table_mask_ = table - 1;
  nodes_ = lazy_array<tree_node>(nodes_max_);
  parents_ = lazy_array<std::uint32_t>(nodes_max_);
  masks_ = lazy_array<std::uint32_t>(std::size_t{nodes_max_} * sizes.window_kinds);
  table_ = lazy_array<std::uint32_t>(table);
  tokens_ = lazy_array<token_id>(std::size_t{sizes.full_pages} * sizes.page_size);
  homes_ = lazy_array<std::uint32_t>(sizes.full_pages);
  generations_ = lazy_array<std::uint32_t>(sizes.full_pages);
  chain_ = lazy_array<chain_hash>(sizes.keeps_hash_chain ? sizes.full_pages : 0);
}

chain_hash node_store::hash_before(page_place page) const noexcept {
  ORIEL_EXPECTS(sizes_.keeps_hash_chain);
  const tree_node& n = nodes_[page.node];
  return page.at == 0 ? nodes_[parents_[page.node]].end_hash : chain_[n.full[page.at - 1]];
}

// --- Namespaces ----------------------------------------------------------------------------------

std::uint32_t node_store::find_root(const cache_namespace& space) const noexcept {
  const auto found = spaces_.find(space.bytes());
  return found == spaces_.end() ? null_node : found->second;
}

std::uint32_t node_store::open_root(const cache_namespace& space) noexcept {
  if (const std::uint32_t known = find_root(space); known != null_node) {
    return known;
  }
  if (roots_.size() >= sizes_.namespaces_max) {
    return null_node;
  }
  const std::uint32_t id = new_node();
  if (id == null_node) {
    return null_node;
  }
  try {
    spaces_.emplace(space.bytes(), id);
    roots_.emplace(id, space.bytes());
  } catch (const std::bad_alloc&) {
    spaces_.erase(space.bytes());
    free_node(id);
    return null_node;
  }
  tree_node& root = nodes_[id];
  root.end_hash = space.digest();
  root.root = id;
  root.tenant = 0;
  return id;
}

void node_store::close_root(std::uint32_t root) noexcept {
  const auto found = roots_.find(root);
  if (found != roots_.end()) {
    spaces_.erase(found->second);
    roots_.erase(found);
  }
}

void node_store::free_root(std::uint32_t root) noexcept {
  ORIEL_EXPECTS(is_root(root) && nodes_[root].first_child == null_node);
  close_root(root);
  free_node(root);
}

// --- Walks ---------------------------------------------------------------------------------------

std::uint64_t node_store::key_of(std::uint32_t parent,
                                 std::span<const token_id> page) const noexcept {
  return sizes_.keeps_hash_chain ? next_link(nodes_[parent].end_hash, page).low
                                 : hash64(std::as_bytes(page));
}

std::size_t node_store::slot_of(std::uint32_t parent, std::uint64_t key) const noexcept {
  std::uint64_t mixed = (ORIEL_MUTANT(weak_keys) ? 0 : key) + parent * 0x9E37'79B9'7F4A'7C15u;
  mixed ^= mixed >> 29;
  mixed *= 0xBF58'476D'1CE4'E5B9u;
  return static_cast<std::size_t>(mixed >> 32) & table_mask_;
}

/// `page` null: the key is believed (an advisory walk).
std::uint32_t node_store::find_child(std::uint32_t parent,
                                     std::uint64_t key,
                                     const token_id* page) const noexcept {
  for (std::size_t slot = slot_of(parent, key); table_[slot] != 0;
       slot = (slot + 1) & table_mask_) {
    const std::uint32_t id = table_[slot] - 1;
    const tree_node& n = nodes_[id];
    const bool is_key = n.key == key || ORIEL_MUTANT(weak_keys);
    const bool believes = page == nullptr || ORIEL_MUTANT(key_is_believed);
    if (is_key && parents_[id] == parent && (believes || same_pages(n, 0, page, 1) == 1)) {
      return id;
    }
  }
  return null_node;
}

/// Pages of `n` from `at` on, at most `most`, whose tokens are `tokens`. Pages with neighbouring
/// ids are compared in one go.
std::uint32_t node_store::same_pages(const tree_node& n,
                                     std::uint32_t at,
                                     const token_id* tokens,
                                     std::uint32_t most) const noexcept {
  const std::size_t page = sizes_.page_size;
  const std::uint32_t end = std::min(n.pages, at + most);
  std::uint32_t first = at;
  while (first < end) {
    std::uint32_t last = std::max(first + 1, std::min(end, n.in_row));
    while (last < end && n.full[last] == n.full[last - 1] + 1) {
      ++last;
    }
    const token_id* mine = tokens_.data() + n.full[first] * page;
    const token_id* theirs = tokens + (first - at) * page;
    if (std::memcmp(mine, theirs, (last - first) * page * sizeof(token_id)) != 0) {
      while (std::memcmp(mine, theirs, page * sizeof(token_id)) == 0) {
        mine += page;
        theirs += page;
        ++first;
      }
      return first - at;
    }
    first = last;
  }
  return end - at;
}

/// The same by links, which agree up to some page and differ from there on.
std::uint32_t node_store::same_links(const tree_node& n,
                                     std::uint32_t at,
                                     const chain_hash* links,
                                     std::uint32_t most) const noexcept {
  std::uint32_t same = std::min(n.pages - at, most), differs = same + 1;
  if (same != 0 && at + same == n.pages && n.end_hash == links[same - 1]) {
    return same;
  }
  same = 0;
  differs = std::min(n.pages - at, most) + 1;
  while (differs - same > 1) {
    const std::uint32_t middle = (same + differs) / 2;
    (chain_[n.full[at + middle - 1]] == links[middle - 1] ? same : differs) = middle;
  }
  return same;
}

walk_end node_store::walk(walk_end from,
                          std::span<const token_id> tokens,
                          std::span<const chain_hash> chain) const noexcept {
  const std::uint32_t page = sizes_.page_size;
  const auto whole = static_cast<std::uint32_t>(tokens.size() / page);
  ORIEL_EXPECTS(chain.empty() || (sizes_.keeps_hash_chain && chain.size() >= whole));
  walk_end end = from;
  while (nodes_[end.node].begin >= end.pages && !is_root(end.node)) {
    end.node = parents_[end.node];
  }
  while (end.pages < whole) {
    const std::uint32_t above = end.node;
    std::uint32_t at = end.pages - nodes_[above].begin;
    if (at == nodes_[above].pages) {
      const std::uint32_t first = nodes_[above].first_child;
      if (first == null_node) {
        break;
      }
      const token_id* next = tokens.data() + std::size_t{end.pages} * page;
      if (nodes_[first].next_sibling == null_node) {
        end.node = first;  // There is nothing to find: its pages are compared below.
        at = 0;
      } else {
        const std::uint32_t child = chain.empty()
                                        ? find_child(above, key_of(above, {next, page}), next)
                                        : find_child(above, chain[end.pages].low, nullptr);
        if (child == null_node) {
          break;
        }
        end = {child, end.pages + 1};
        at = 1;
      }
    }
    const tree_node& n = nodes_[end.node];
    const std::uint32_t most = std::min(n.pages - at, whole - end.pages);
    const std::uint32_t same =
        chain.empty() ? same_pages(n, at, tokens.data() + std::size_t{end.pages} * page, most)
                      : same_links(n, at, chain.data() + end.pages, most);
    end.pages += ORIEL_MUTANT(boundaries_at_node_ends) && at + same < n.pages ? 0 : same;
    if (at + same < n.pages) {
      end.node = at + same == 0 ? above : end.node;  // Not even its first page.
      break;
    }
  }
  return end;
}

/// Walks back from `limit`. All pages in [present, boundary) have their window page.
std::uint32_t node_store::deepest_boundary(std::uint32_t kind,
                                           std::uint32_t node,
                                           std::uint32_t limit) const noexcept {
  std::uint32_t boundary = limit, present = limit;
  while (present > first_needed(kind, boundary) + ORIEL_MUTANT(boundary_needs_too_few)) {
    while (nodes_[node].begin >= present) {
      node = parents_[node];
    }
    const std::uint32_t at = present - 1 - nodes_[node].begin;
    const std::uint32_t bits = mask(node, kind) << (node_pages_max - 1 - at);  // Page `at` on top.
    if (const auto ones = static_cast<std::uint32_t>(std::countl_one(bits)); ones != 0) {
      present -= std::min(ones, at + 1);
    } else {
      present -= std::min(static_cast<std::uint32_t>(std::countl_zero(bits)), at + 1);
      boundary = present;
    }
  }
  return boundary;
}

std::uint32_t node_store::window_safe(std::uint32_t node, std::uint32_t limit) const noexcept {
  // Every kind lowers the boundary to the deepest one it allows, until all agree in a row: the
  // largest common one, whatever the order of the kinds.
  std::uint32_t boundary = limit;
  for (std::uint32_t kind = 0, agreed = 0; agreed < sizes_.window_kinds;
       kind = kind + 1 == sizes_.window_kinds ? 0 : kind + 1) {
    while (boundary != 0 && nodes_[node].begin >= boundary) {
      node = parents_[node];
    }
    const bool is_needed = kind != sizes_.soft_kind || ORIEL_MUTANT(boundary_needs_soft_pages);
    const std::uint32_t lower = is_needed ? deepest_boundary(kind, node, boundary) : boundary;
    agreed = lower == boundary || ORIEL_MUTANT(kinds_agree_in_one_pass) ? agreed + 1 : 1;
    boundary = lower;
  }
  return boundary;
}

// --- Changes -------------------------------------------------------------------------------------

std::uint32_t node_store::new_node() noexcept {
  std::uint32_t id = free_nodes_;
  if (id != null_node) {
    free_nodes_ = nodes_[id].next_sibling;
  } else if (nodes_touched_ < nodes_max_) {
    id = nodes_touched_++;
  } else {
    return null_node;
  }
  tree_node& n = nodes_[id];
  n.key = 0;
  n.end_hash = {};
  parents_[id] = n.first_child = n.next_sibling = n.previous_sibling = n.root = null_node;
  n.run = to_index(null_run);
  n.locks = n.begin = n.pages = n.in_row = 0;
  for (std::uint32_t kind = 0; kind < sizes_.window_kinds; ++kind) {
    mask(id, kind) = 0;
  }
  ++nodes_used_;
  return id;
}

void node_store::free_node(std::uint32_t id) noexcept {
  nodes_[id].next_sibling = free_nodes_;
  free_nodes_ = id;
  --nodes_used_;
}

/// Files pages behind the last one of a node, which has room for them: pages with neighbouring ids
/// in one go. Their tokens are copied a kilobyte at a time: a longer std::memcpy may become one
/// instruction (`rep movsb`), which takes a quarter longer where source and target lie a little
/// more than a multiple of 4 KiB apart.
void node_store::put_pages(std::uint32_t id,
                           std::span<const page_handle> pages,
                           const token_id* tokens) noexcept {
  tree_node& n = nodes_[id];
  const std::size_t page_tokens = sizes_.page_size;
  const std::size_t at_once = std::max<std::size_t>(page_tokens, 1024 / sizeof(token_id));
  for (std::size_t count = 0; !pages.empty(); pages = pages.subspan(count)) {
    const std::uint32_t first = to_index(pages[0].id);
    for (count = 1; count < pages.size() && to_index(pages[count].id) == first + count; ++count) {
    }
    ORIEL_EXPECTS(first < sizes_.full_pages && count <= sizes_.full_pages - first);
    const std::uint32_t home = id * node_pages_max + n.pages;
    token_id* const to = tokens_.data() + first * page_tokens;
    const bool goes_on = n.pages == 0 || first == n.full[n.pages - 1] + 1;
    n.in_row += n.in_row == n.pages && goes_on ? static_cast<std::uint32_t>(count) : 0;
    if (count == 1) {  // A pool that was used for long: not worth loops.
      n.full[n.pages] = first;
      homes_[first] = home;
      generations_[first] = pages[0].generation;
      std::memcpy(to, tokens, page_tokens * sizeof(token_id));
    } else {
      std::iota(n.full + n.pages, n.full + n.pages + count, first);
      std::iota(&homes_[first], &homes_[first] + count, home);
      std::uint32_t* const generations = &generations_[first];
      for (std::size_t i = 0; i < count; ++i) {
        generations[i] = pages[i].generation;
      }
      copy_tokens(to, tokens, count * page_tokens, at_once);
    }
    tokens += count * page_tokens;
    n.pages += static_cast<std::uint32_t>(count);
  }
}

void node_store::link_child(std::uint32_t parent, std::uint32_t child) noexcept {
  tree_node& p = nodes_[parent];
  tree_node& c = nodes_[child];
  parents_[child] = parent;
  c.root = p.root;
  c.previous_sibling = null_node;
  c.next_sibling = p.first_child;
  if (p.first_child != null_node) {
    nodes_[p.first_child].previous_sibling = child;
  }
  p.first_child = child;
}

void node_store::unlink_child(std::uint32_t child) noexcept {
  tree_node& c = nodes_[child];
  if (c.previous_sibling != null_node) {
    nodes_[c.previous_sibling].next_sibling = c.next_sibling;
  } else {
    nodes_[parents_[child]].first_child = c.next_sibling;
  }
  if (c.next_sibling != null_node) {
    nodes_[c.next_sibling].previous_sibling = c.previous_sibling;
  }
}

/// It is linked, as the first child, and has its key.
void node_store::file_child(std::uint32_t child) noexcept {
  const std::uint32_t next = nodes_[child].next_sibling;
  if (next == null_node) {
    return;
  }
  if (nodes_[next].next_sibling == null_node) {
    table_insert(next);  // It was alone until now.
  }
  table_insert(child);
}

/// It is still linked.
void node_store::unfile_child(std::uint32_t child) noexcept {
  const std::uint32_t next = nodes_[child].next_sibling;
  const std::uint32_t previous = nodes_[child].previous_sibling;
  if (!has_siblings(child)) {
    return;
  }
  table_erase(child);
  if (previous == null_node && nodes_[next].next_sibling == null_node) {
    table_erase(next);  // It is alone from now on.
  } else if (next == null_node && nodes_[previous].previous_sibling == null_node) {
    table_erase(previous);
  }
}

void node_store::table_insert(std::uint32_t id) noexcept {
  std::size_t slot = slot_of(parents_[id], nodes_[id].key);
  while (table_[slot] != 0) {
    slot = (slot + 1) & table_mask_;
  }
  table_[slot] = id + 1;
}

std::size_t node_store::table_find(std::uint32_t id) const noexcept {
  std::size_t slot = slot_of(parents_[id], nodes_[id].key);
  while (table_[slot] != id + 1) {
    ORIEL_EXPECTS(table_[slot] != 0);
    slot = (slot + 1) & table_mask_;
  }
  return slot;
}

/// Closes the gap, so that probes stay short and no tombstones collect.
void node_store::table_erase(std::uint32_t id) noexcept {
  std::size_t hole = table_find(id);
  for (std::size_t slot = (hole + 1) & table_mask_; table_[slot] != 0;
       slot = (slot + 1) & table_mask_) {
    const std::uint32_t id_there = table_[slot] - 1;
    const std::size_t wanted = slot_of(parents_[id_there], nodes_[id_there].key);
    if (((slot - wanted) & table_mask_) >= ((slot - hole) & table_mask_) &&
        !ORIEL_MUTANT(table_keeps_its_gaps)) {
      table_[hole] = table_[slot];
      hole = slot;
    }
  }
  table_[hole] = 0;
}

std::uint32_t node_store::split(std::uint32_t id, std::uint32_t at) noexcept {
  ORIEL_EXPECTS(0 < at && at < nodes_[id].pages);
  const std::uint32_t upper_id = new_node();
  ORIEL_EXPECTS(upper_id != null_node);  // A node per page is there, and none has fewer.
  const bool is_filed = has_siblings(id);
  if (is_filed) {
    table_erase(id);
  }
  tree_node& lower = nodes_[id];
  tree_node& upper = nodes_[upper_id];
  unlink_child(id);
  link_child(parents_[id], upper_id);
  upper.key = lower.key;
  upper.run = lower.run;
  upper.begin = lower.begin;
  upper.pages = at;
  // Its one child is locked, or is not.
  upper.locks = lower.locks != 0 && !ORIEL_MUTANT(split_loses_the_lock) ? 1 : 0;
  lower.begin += at;
  lower.pages -= at;
  upper.in_row = std::min(at, lower.in_row);
  for (std::uint32_t i = 0; i < at; ++i) {
    upper.full[i] = lower.full[i];
    homes_[upper.full[i]] = upper_id * node_pages_max + i;
  }
  for (std::uint32_t i = 0; i < lower.pages; ++i) {
    lower.full[i] = lower.full[at + i];
    homes_[lower.full[i]] = id * node_pages_max + i;
  }
  lower.in_row = 1;
  while (lower.in_row < lower.pages &&
         lower.full[lower.in_row] == lower.full[lower.in_row - 1] + 1) {
    ++lower.in_row;
  }
  for (std::uint32_t kind = 0; kind < sizes_.window_kinds; ++kind) {
    mask(upper_id, kind) =
        ORIEL_MUTANT(split_loses_window_bits) ? 0 : mask(id, kind) & ((1u << at) - 1);
    mask(id, kind) >>= at;
  }
  if (sizes_.keeps_hash_chain) {
    upper.end_hash =
        ORIEL_MUTANT(split_loses_the_parent_hash) ? lower.end_hash : chain_[upper.full[at - 1]];
  }
  if (is_filed) {
    table_insert(upper_id);
  }
  link_child(upper_id, id);
  lower.key = key_of(upper_id, tokens(lower.full[0]));
  return upper_id;
}

std::uint32_t node_store::append(std::uint32_t id,
                                 std::span<const token_id> tokens,
                                 std::span<const page_handle> full,
                                 std::span<const chain_hash> chain,
                                 bool may_extend,
                                 run_id run) noexcept {
  const std::uint32_t page = sizes_.page_size;
  ORIEL_EXPECTS(tokens.size() == full.size() * page);
  ORIEL_EXPECTS(chain.empty() || (sizes_.keeps_hash_chain && chain.size() == full.size()));
  may_extend = may_extend && !is_root(id) && nodes_[id].first_child == null_node;
  chain_hash link = nodes_[id].end_hash;
  for (std::size_t done = 0; done < full.size();) {
    if (!may_extend || nodes_[id].pages == node_pages_max) {
      const std::uint32_t parent = id;
      id = new_node();
      ORIEL_EXPECTS(id != null_node);
      link_child(parent, id);
      nodes_[id].begin = nodes_[parent].end();
      nodes_[id].run = to_index(run);
      nodes_[id].key =
          chain.empty() ? key_of(parent, tokens.subspan(done * page, page)) : chain[done].low;
      file_child(id);
      may_extend = true;
    }
    tree_node& n = nodes_[id];
    const std::size_t count = std::min<std::size_t>(node_pages_max - n.pages, full.size() - done);
    put_pages(id, full.subspan(done, count), tokens.data() + done * page);
    if (sizes_.keeps_hash_chain) {
      for (std::size_t i = done; i < done + count; ++i) {
        link = chain.empty() ? next_link(link, tokens.subspan(i * page, page)) : chain[i];
        chain_[to_index(full[i].id)] = link;
      }
      n.end_hash = link;
    }
    done += count;
  }
  return id;
}

bool node_store::drop_last_pages(std::uint32_t id, std::uint32_t pages) noexcept {
  tree_node& n = nodes_[id];
  ORIEL_EXPECTS(pages > 0 && n.pages >= pages && n.first_child == null_node);
  n.pages -= pages;
  n.in_row = std::min(n.in_row, n.pages);
  if (n.pages != 0) {
    if (sizes_.keeps_hash_chain) {
      n.end_hash = chain_[n.full[n.pages - 1]];
    }
    return false;
  }
  unfile_child(id);
  unlink_child(id);
  free_node(id);
  return true;
}

std::uint64_t node_store::index_bytes(std::uint64_t full_pages_cached) const noexcept {
  const std::uint64_t per_node = sizeof(tree_node) + sizeof(std::uint32_t) +
                                 sizes_.window_kinds * sizeof(std::uint32_t) +
                                 2 * sizeof(std::uint32_t);  // its share of the table
  const std::uint64_t per_page =
      2 * sizeof(std::uint32_t) + (sizes_.keeps_hash_chain ? sizeof(chain_hash) : 0);
  return nodes_used_ * per_node + full_pages_cached * per_page;
}

}  // namespace oriel::detail
