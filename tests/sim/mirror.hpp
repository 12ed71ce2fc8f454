// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A router's copy of the tree, made of its events alone (invariant I16).
#pragma once

#include "violation.hpp"

#include <oriel/prefix/events.hpp>
#include <oriel/prefix/radix_tree.hpp>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace sim {

/// A page: (low, high) of its chain hash.
using page_name = std::pair<std::uint64_t, std::uint64_t>;

class mirror {
 public:
  void replay(const oriel::cache_event& e) {
    require(e.sequence == ++sequence_, "I16: a gap in the sequence numbers");
    const page_name name{e.hash.low, e.hash.high};
    const auto found = pages_.find(name);
    if (e.kind == oriel::cache_event_kind::cleared) {
      pages_.clear();
    } else if (e.kind == oriel::cache_event_kind::stored && e.pool == 0) {
      require(found == pages_.end(), "I16: a page is stored twice");
      require(e.page == 0 ? e.parent == e.space : pages_.contains({e.parent.low, e.parent.high}),
              "I16: a page is stored whose parent is not known");
      require(oriel::next_link(e.parent, e.tokens) == e.hash,
              "I16: a chain hash does not follow from parent and tokens");
      pages_[name] = 0;
    } else {
      require(found != pages_.end(), "I16: an event about a page that is not known");
      const std::uint32_t bit = e.pool == 0 ? 0 : 1u << (e.pool - 1);
      const bool has = e.pool == 0 ? found->second == 0 : (found->second & bit) != 0;
      if (e.kind == oriel::cache_event_kind::stored) {
        require(!has, "I16: a window page is stored twice");
        found->second |= bit;
      } else if (e.pool == 0) {
        require(has, "I16: a full page goes before its window pages");
        pages_.erase(found);
      } else {
        require(has, "I16: a window page is removed twice");
        found->second &= ~bit;
      }
    }
  }
  /// The number of the last event it knows of.
  [[nodiscard]] std::uint64_t sequence() const { return sequence_; }
  /// It lost events, the last of which was `sequence`: copies what the tree shows.
  template <class Tree>
  void start_again(const Tree& tree, std::uint64_t sequence) {
    pages_ = shown_by(tree);
    sequence_ = sequence;
  }
  template <class Tree>
  void check(const Tree& tree) const {
    require(shown_by(tree) == pages_, "I16: a mirror of the events is not the tree");
  }

 private:
  template <class Tree>
  [[nodiscard]] static std::map<page_name, std::uint32_t> shown_by(const Tree& tree) {
    std::map<page_name, std::uint32_t> pages;
    tree.visit_pages([&](const oriel::cached_page& page, std::uint32_t pool, oriel::page_handle) {
      pages[{page.hash.low, page.hash.high}] |= pool == 0 ? 0 : 1u << (pool - 1);
    });
    return pages;
  }

  std::map<page_name, std::uint32_t> pages_;  // a bit per window kind
  std::uint64_t sequence_ = 0;
};

/// The tree's sink: keeps the events of one operation.
struct recorded_events {
  static constexpr bool enabled = true;
  struct entry {
    oriel::cache_event event;
    std::vector<oriel::token_id> tokens;
  };
  std::vector<entry> entries;

  void operator()(const oriel::cache_event& event) noexcept {
    entries.push_back({event, {event.tokens.begin(), event.tokens.end()}});
  }
};

}  // namespace sim
