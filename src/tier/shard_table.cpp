// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/detail/shard_table.hpp>
#include <oriel/tier/placement.hpp>

#include <algorithm>
#include <utility>

namespace oriel::detail {
namespace {

/// Slices of a page on the move are aligned as a disk wants them.
constexpr std::size_t alignment_bytes = 4'096;

constexpr int badness(store_outcome outcome) noexcept {
  switch (outcome) {
    case store_outcome::done:
    case store_outcome::miss:
      return 0;
    case store_outcome::corrupt:
      return 1;
    case store_outcome::refused:
      return 2;
    case store_outcome::late:
      return 3;
    case store_outcome::failed:
      break;
  }
  return 4;
}

}  // namespace

shard_table::shard_table(std::uint32_t set_count, std::uint32_t points, std::uint64_t look_back_us)
    : set_count_(set_count), points_(points), look_back_us_(look_back_us) {
  tables_.push_back({.node_of = std::vector<std::uint8_t>(set_count, none)});
}

std::uint32_t shard_table::set_of(std::uint64_t placement) const noexcept {
  placement ^= placement >> 32;
  placement *= 0x9E37'79B9'7F4A'7C15u;
  return static_cast<std::uint32_t>(((placement >> 32) * set_count_) >> 32);
}

shard_table::owners shard_table::owners_of(std::uint32_t set) const noexcept {
  owners all;
  for (const table& t : tables_) {
    const std::uint8_t node = t.node_of[set];
    const auto known = std::span(all.node).first(all.count);
    if (node != none && std::ranges::find(known, node) == known.end()) {
      all.node[all.count++] = node;
    }
    if (ORIEL_MUTANT(shard_never_looks_back)) {
      break;
    }
  }
  return all;
}

void shard_table::change(std::span<const member> members, std::uint64_t now_us, bool keeps_past) {
  std::vector<std::uint64_t> names;
  for (const member& m : members) {
    names.push_back(m.name);
  }
  const std::vector<std::uint32_t> assigned = assign_sets(names, set_count_, points_);
  table now{.node_of = std::vector<std::uint8_t>(set_count_, none)};
  for (std::uint32_t set = 0; set < set_count_ && !members.empty(); ++set) {
    now.node_of[set] = members[assigned[set]].node;
  }
  if (!keeps_past) {
    tables_.clear();
  } else {
    tables_.front().until_us = now_us + look_back_us_;
  }
  tables_.insert(tables_.begin(), std::move(now));
  tables_.resize(std::min(tables_.size(), tables_max));
}

void shard_table::expire(std::uint64_t now_us, bool is_settled) {
  const auto is_empty = [](const table& t) {
    return std::ranges::all_of(t.node_of, [](std::uint8_t node) { return node == none; });
  };
  while (looks_back() &&
         ((is_settled && tables_.back().until_us <= now_us) || is_empty(tables_.back()))) {
    tables_.pop_back();
  }
}

void shard_table::forget(std::uint8_t node) noexcept {
  for (table& t : tables_) {
    std::ranges::replace(t.node_of, node, none);
  }
}

void page_copy::assign(const page_listing& page) {
  tokens_.assign(page.identity.tokens.begin(), page.identity.tokens.end());
  std::size_t bytes = alignment_bytes;
  size_bytes_ = 0;
  for (const std::uint64_t slice : page.slice_bytes) {
    bytes += (slice + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
    size_bytes_ += slice;
  }
  memory_.resize(std::max(memory_.size(), bytes));
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
  std::byte* at = memory_.data() + (alignment_bytes - address % alignment_bytes) % alignment_bytes;
  slices_.clear();
  for (const std::uint64_t slice : page.slice_bytes) {
    slices_.emplace_back(at, slice);
    at += (slice + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
  }
  identity_ = page.identity;
  identity_.tokens = tokens_;
  item_ = {.key = page.key,
           .identity = &identity_,
           .slices = slices_,
           .owner = page.owner,
           .expires_us = page.expires_us};
}

store_item page_copy::item(store_op op) const noexcept {
  store_item item = item_;
  item.op = op;
  return item;
}

void add_node_stats(store_stats& sum, const store_stats& of) noexcept {
  sum.corrupt += of.corrupt;
  sum.misplaced += of.misplaced;
  sum.bytes_read += of.bytes_read;
  sum.bytes_written += of.bytes_written;
  sum.evicted_pages += of.evicted_pages;
  sum.evicted_age_us_sum += of.evicted_age_us_sum;
  sum.pages += of.pages;
  sum.used_bytes += of.used_bytes;
  sum.capacity_bytes += of.capacity_bytes;
  sum.index_bytes += of.index_bytes;
}

void count_completion(store_stats& stats, const store_completion& c) noexcept {
  const bool is_done = c.outcome == store_outcome::done;
  stats.gets += c.op == store_op::get;
  stats.hits += c.op == store_op::get && is_done;
  stats.misses += c.op == store_op::get && c.outcome == store_outcome::miss;
  stats.puts += c.op == store_op::put;
  stats.puts_done += c.op == store_op::put && is_done;
  stats.late += c.outcome == store_outcome::late;
  stats.refused += c.outcome == store_outcome::refused;
  stats.failed += c.outcome == store_outcome::failed;
}

void keep_worst(store_completion& worst, const store_completion& c) noexcept {
  if (badness(c.outcome) > badness(worst.outcome)) {
    worst.outcome = c.outcome;
    worst.native = c.native;
  }
}

}  // namespace oriel::detail
