// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What may be in the tree, told by those who publish, and what is in it, told by a walk. The
/// ledger never predicts an eviction; it judges claims by the definitions alone, position by
/// position.
#pragma once

#include "fake_model.hpp"
#include "scenario.hpp"

#include <oriel/core/ids.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace sim {

/// A page that was published once: its name is the path at its end.
struct page_record {
  word parent = 0;  ///< the path before it
  std::uint32_t space = 0;
  std::uint32_t page = 0;  ///< logical
  std::vector<oriel::token_id> tokens = {};
  std::vector<word> kv = {};  ///< [layers, page_size]
};

/// A page that is in the tree now.
struct present_page {
  word name = 0;
  oriel::page_handle full = {};
  std::uint32_t space = 0, page = 0;
  std::uint32_t window_bits = 0;  ///< bit per kind
  oriel::page_handle windows[4] = {};
  bool is_locked = false;

  [[nodiscard]] oriel::page_handle handle(std::uint32_t pool) const {
    return pool == 0 ? full : windows[pool - 1];
  }
  [[nodiscard]] bool is_in(std::uint32_t pool) const {
    return pool == 0 || (window_bits >> (pool - 1) & 1u) != 0;
  }
};

class ledger {
 public:
  explicit ledger(const setup& sizes) : sizes_(sizes) {}

  /// All whole pages of a cold run's first `tokens`, from `first_page` on, may be in the tree.
  void learn(const cold_run& cold,
             std::span<const oriel::token_id> tokens,
             std::uint32_t space,
             std::uint32_t first_page) {
    const std::uint32_t size = sizes_.page_size;
    const auto whole = static_cast<std::uint32_t>(tokens.size()) / size;
    for (std::uint32_t page = first_page; page < whole; ++page) {
      page_record record{.parent = cold.path_before(page * size), .space = space, .page = page};
      const auto mine = tokens.subspan(std::size_t{page} * size, size);
      record.tokens.assign(mine.begin(), mine.end());
      for (std::uint32_t l = 0; l < sizes_.layers.size(); ++l) {
        for (std::uint32_t row = 0; row < size; ++row) {
          record.kv.push_back(cold.kv(l, page * size + row));
        }
      }
      records_.insert_or_assign(cold.path_before((page + 1) * size), std::move(record));
    }
  }
  [[nodiscard]] const page_record* find(word name) const {
    const auto found = records_.find(name);
    return found == records_.end() ? nullptr : &found->second;
  }

  /// The pages of the tree, sorted by name.
  std::vector<present_page> present;

  [[nodiscard]] const present_page* in_tree(word name) const {
    const auto found = std::ranges::lower_bound(present, name, {}, &present_page::name);
    return found == present.end() || found->name != name ? nullptr : &*found;
  }
  /// Pages of the path that are in the tree, from the root without a gap.
  [[nodiscard]] std::uint32_t full_pages(const cold_run& path) const {
    std::uint32_t pages = 0;
    while ((pages + 1) * sizes_.page_size <= path.rows() &&
           in_tree(path.path_before((pages + 1) * sizes_.page_size)) != nullptr) {
      ++pages;
    }
    return pages;
  }
  /// First page with a position in [boundary - (W - 1), boundary).
  [[nodiscard]] std::uint32_t first_needed(std::uint32_t kind, std::uint32_t boundary) const {
    const std::int64_t first =
        std::int64_t{boundary} * sizes_.page_size - (sizes_.windows[kind] - 1);
    return first <= 0 ? 0 : static_cast<std::uint32_t>(first) / sizes_.page_size;
  }
  /// Is every window page there that the boundary (in pages) needs?
  [[nodiscard]] bool is_window_safe(const cold_run& path, std::uint32_t boundary) const {
    for (std::uint32_t kind = 0; kind < sizes_.windows.size(); ++kind) {
      for (std::uint32_t page = first_needed(kind, boundary);
           sizes_.windows[kind] > 1 && page < boundary;
           ++page) {
        const present_page* found = in_tree(path.path_before((page + 1) * sizes_.page_size));
        if (found == nullptr || (found->window_bits >> kind & 1u) == 0) {
          return false;
        }
      }
    }
    return true;
  }
  /// The largest such boundary <= limit, both in pages.
  [[nodiscard]] std::uint32_t window_safe(const cold_run& path, std::uint32_t limit) const {
    while (!is_window_safe(path, limit)) {
      --limit;
    }
    return limit;
  }
  /// Does policy or tail keep a window page of a publish of `path` that ends at `end`?
  [[nodiscard]] bool keeps(std::uint32_t kind,
                           std::uint32_t page,
                           const cold_run& path,
                           std::uint32_t end,
                           bool keeps_tail) const {
    for (std::uint32_t boundary = page + 1; boundary <= end; ++boundary) {
      const std::uint32_t tokens = boundary * sizes_.page_size;
      const bool kept = (boundary == end && keeps_tail) || tokens <= sizes_.dense_head ||
                        (sizes_.keep_every != 0 && tokens % sizes_.keep_every == 0) ||
                        (sizes_.branch_points && is_fork(path, boundary, end));
      for (std::uint32_t slack = 0; kept && slack <= std::min(sizes_.tree_slack, boundary);
           ++slack) {
        const std::uint32_t earlier = boundary - slack;
        if (sizes_.windows[kind] > 1 && first_needed(kind, earlier) <= page && page < earlier) {
          return true;
        }
      }
    }
    return false;
  }
  /// Do two paths part at `boundary`, once the pages of this one are there up to `end`?
  [[nodiscard]] bool is_fork(const cold_run& path,
                             std::uint32_t boundary,
                             std::uint32_t end) const {
    const std::uint32_t size = sizes_.page_size;
    const word here = path.path_before(boundary * size);
    const bool goes_on = boundary < end;
    const word next = goes_on ? path.path_before((boundary + 1) * size) : here;
    const auto others = std::ranges::count_if(present, [&](const present_page& p) {
      return records_.at(p.name).parent == here && (!goes_on || p.name != next);
    });
    return others + goes_on > 1;
  }

 private:
  const setup& sizes_;
  std::map<word, page_record> records_;
};

}  // namespace sim
