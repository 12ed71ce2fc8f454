// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Who holds the pages of a pool, counted again from the holders (I1 to I3).
#pragma once

#include "violation.hpp"

#include <oriel/core/ids.hpp>

#include <cstdint>
#include <vector>

namespace sim {

class page_accounts {
 public:
  explicit page_accounts(std::uint32_t capacity) : held_(capacity) {}

  void hold(oriel::page_handle page) {
    holding& h = held_[to_index(page.id)];
    require(h.count == 0 || (h.handle == page && !h.is_spare), "I2: one page, two owners");
    ++h.count;
    h.handle = page;
  }
  /// What a sequence holds in a pool, spares included.
  template <class Sequence>
  void hold_all(const Sequence& kv, std::uint32_t pool) {
    if (pool == 0) {
      for (const oriel::page_handle page : kv.full_pages().handles()) {
        hold(page);
      }
      return;
    }
    const auto& ring = kv.ring(pool - 1);
    for (std::uint32_t page = ring.first_page(); page < ring.end_page(); ++page) {
      hold(ring[page]);
    }
    for (std::uint32_t page = ring.end_page(); page < ring.filled_page(); ++page) {
      holding& h = held_[to_index(ring.view().page_of(page))];
      require(h.count == 0, "I2: a spare page that others hold");
      h = {.count = 1, .handle = {}, .is_spare = true};
    }
  }

  /// Does the pool say the same? @param sees_all  false: some holders are not known
  template <class Pool>
  void check(const Pool& pool, bool sees_all) const {
    std::uint32_t used = 0;
    for (const holding& h : held_) {
      used += h.count != 0;
      if (h.count != 0 && !h.is_spare) {
        require(pool.is_live(h.handle), "I2: somebody holds a page that is not live");
        const std::uint32_t references = pool.ref_count(h.handle);
        require(sees_all ? references == h.count : references >= h.count,
                "I3: references miscounted");
      }
    }
    require(sees_all ? used == pool.used() : used <= pool.used(),
            "I1: pages that nobody holds are not free");
  }

  [[nodiscard]] bool is_held(std::uint32_t page) const { return held_[page].count != 0; }
  [[nodiscard]] bool has_content(std::uint32_t page) const {
    return held_[page].count != 0 && !held_[page].is_spare;
  }

 private:
  struct holding {
    std::uint32_t count = 0;
    oriel::page_handle handle;
    bool is_spare = false;
  };
  std::vector<holding> held_;  // [pages]
};

}  // namespace sim
