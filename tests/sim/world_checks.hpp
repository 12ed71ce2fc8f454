// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The invariants of D.4, after every operation. world.hpp includes this file.
#pragma once

#include "world.hpp"

namespace sim {

/// Pages of a dropped namespace that a lease still holds are in no walk of the tree.
template <class Events>
bool world<Events>::sees_all() const {
  for (const request_pointer& r : requests_) {
    if (r->lease && r->epoch != epochs_[r->tenant]) {
      return false;
    }
  }
  return true;
}

template <class Events>
void world<Events>::check() {
  const std::vector<present_page> before = ledger_.present;
  if (const char* wrong = tree_.audit(); wrong != nullptr) {
    throw violation(std::string("I1-I3: ") + wrong);
  }
  look();
  check_pages();
  check_ownership();
  check_leases();
  check_locks();
  if (!may_vanish_) {
    check_vanished(before);
  }
  if constexpr (Events::enabled) {
    check_mirror();
  }
  may_vanish_ = false;
}

/// Takes the tree's pages into the ledger.
template <class Events>
void world<Events>::look() {
  std::vector<present_page>& present = ledger_.present;
  present.clear();
  tree_.visit_pages(
      [&](const oriel::cached_page& page, std::uint32_t pool, oriel::page_handle handle) {
        if (pool != 0) {
          present.back().window_bits |= 1u << (pool - 1);
          present.back().windows[pool - 1] = handle;
          return;
        }
        present_page p{.full = handle, .page = page.page, .is_locked = page.is_locked};
        while (p.space < spaces_.size() && !(spaces_[p.space].digest() == page.space)) {
          ++p.space;
        }
        require(p.space < spaces_.size(), "I9: a page of a namespace that nobody used");
        p.name = name_of_full_[to_index(handle.id)];
        const page_record* record = ledger_.find(p.name);
        require(record != nullptr, "I2: a page in the tree that nobody published");
        require(std::ranges::equal(record->tokens, page.tokens), "I2: a page under other tokens");
        present.push_back(p);
      });
  std::ranges::sort(present, {}, &present_page::name);
}

template <class Events>
void world<Events>::check_pages() {
  const std::uint32_t size = sizes_.page_size;
  const std::vector<present_page>& present = ledger_.present;
  for (std::size_t i = 0; i < present.size(); ++i) {
    const present_page& p = present[i];
    const page_record* record = ledger_.find(p.name);
    require(i == 0 || present[i - 1].name != p.name, "I2: two pages for one prefix");
    require(record->space == p.space, "I9: a page in another's namespace");
    require(record->page == p.page, "I2: a page at another place than it was published");
    require(p.page == 0 || ledger_.in_tree(record->parent) != nullptr, "I2: a page without parent");
    for (std::uint32_t l = 0; l < model_.layers(); ++l) {
      const oriel::layer_home home = pools_.plan().home(l);
      const std::uint32_t pool = to_index(home.pool);
      if (pool != 0 && (p.window_bits >> (pool - 1) & 1u) == 0) {
        continue;
      }
      const std::uint32_t page = to_index(handle_of(pool, p).id);
      for (std::uint32_t row = 0; row < size; ++row) {
        require(memory_.at(pool, page, home.slot, row) == record->kv[std::size_t{l} * size + row],
                "I4: a page in the tree does not hold what a cold run computes");
      }
    }
    ++tally_.pages_checked;
  }
}

/// Counts references again from those who hold them; what nobody holds loses its content.
template <class Events>
void world<Events>::check_ownership() {
  const bool all = sees_all();
  for (std::uint32_t i = 0; i < pools_.pools(); ++i) {
    struct holding {
      std::uint32_t count = 0;
      oriel::page_handle handle;
      bool is_spare = false;
    };
    std::vector<holding> held(pool(i).capacity());
    const auto hold = [&](oriel::page_handle page) {
      holding& h = held[to_index(page.id)];
      require(h.count == 0 || (h.handle == page && !h.is_spare), "I2: one page, two owners");
      ++h.count;
      h.handle = page;
    };
    for (const present_page& p : ledger_.present) {
      if (i == 0 || (p.window_bits >> (i - 1) & 1u) != 0) {
        hold(handle_of(i, p));
      }
    }
    for (const request_pointer& r : requests_) {
      if (r->has_fresh) {
        std::ranges::for_each(r->offered[i], hold);
      }
      if (!r->kv) {
        continue;
      }
      if (i == 0) {
        std::ranges::for_each(r->kv->full_pages().handles(), hold);
        continue;
      }
      const auto& ring = r->kv->ring(i - 1);
      for (std::uint32_t page = ring.first_page(); page < ring.end_page(); ++page) {
        hold(ring[page]);
      }
      for (std::uint32_t page = ring.end_page(); page < ring.filled_page(); ++page) {
        holding& h = held[to_index(ring.view().page_of(page))];
        require(h.count == 0, "I2: a spare page that others hold");
        h = {.count = 1, .handle = {}, .is_spare = true};
      }
    }
    std::uint32_t used = 0;
    for (std::uint32_t page = 0; page < held.size(); ++page) {
      const holding& h = held[page];
      used += h.count != 0;
      if (h.count != 0 && !h.is_spare) {
        require(pool(i).is_live(h.handle), "I2: somebody holds a page that is not live");
        const std::uint32_t references = pool(i).ref_count(h.handle);
        require(all ? references == h.count : references >= h.count, "I3: references miscounted");
      }
      const bool has_content = h.count != 0 && !h.is_spare;
      if (had_content_[i][page] && !has_content) {
        memory_.forget(i, page);
      }
      had_content_[i][page] = has_content;
    }
    require(all ? used == pool(i).used() : used <= pool(i).used(),
            "I1: pages that nobody holds are not free");
    note(pool(i).available());
  }
}

/// What a lease holds is in the tree, locked, and in the table of its request.
template <class Events>
void world<Events>::check_leases() {
  std::vector<std::uint32_t> pinned(kinds());
  std::uint32_t leases = 0;
  std::vector<std::vector<word>> pinned_names(kinds());
  for (const request_pointer& r : requests_) {
    leases += static_cast<bool>(r->lease);
    if (!r->lease || r->epoch != epochs_[r->tenant]) {
      continue;
    }
    const std::uint32_t full = r->lease.full_tokens() / sizes_.page_size;
    const std::uint32_t windows = r->lease.window_tokens() / sizes_.page_size;
    require(windows <= full, "I4: more windows than full pages");
    for (std::uint32_t page = 0; page < full; ++page) {
      const word name = r->cold.path_before((page + 1) * sizes_.page_size);
      const present_page* p = ledger_.in_tree(name);
      require(p != nullptr && p->is_locked, "I5: a leased page is gone, or not locked");
      require(!r->kv || r->kv->full_pages()[page] == p->full,
              "I5: a request reads another page than the tree has");
      for (std::uint32_t kind = 0; page < windows && kind < kinds(); ++kind) {
        if (sizes_.windows[kind] > 1 && page >= ledger_.first_needed(kind, windows)) {
          require((p->window_bits >> kind & 1u) != 0, "I5: a pinned window page is gone");
          pinned_names[kind].push_back(name);
        }
      }
    }
  }
  require(leases == tree_.leases(), "I3: leases miscounted");
  for (std::uint32_t kind = 0; sees_all() && kind < kinds(); ++kind) {
    std::ranges::sort(pinned_names[kind]);
    const auto twice = std::ranges::unique(pinned_names[kind]);
    const auto distinct = pinned_names[kind].size() - twice.size();
    std::uint32_t attached = 0;
    for (const present_page& p : ledger_.present) {
      attached += p.window_bits >> kind & 1u;
    }
    require(tree_.window_pages(kind) == attached, "I1: window pages miscounted");
    require(tree_.evictable_window_pages(kind) == attached - distinct,
            "I3: window pages are pinned that no lease needs, or the other way round");
  }
}

/// Every lock has a lease for a reason, and what has none can be evicted.
template <class Events>
void world<Events>::check_locks() {
  if (!sees_all()) {
    return;
  }
  std::vector<word> held;
  for (const request_pointer& r : requests_) {
    const std::uint32_t full = r->lease ? r->lease.full_tokens() / sizes_.page_size : 0;
    for (std::uint32_t page = 0; page < full; ++page) {
      held.push_back(r->cold.path_before((page + 1) * sizes_.page_size));
    }
  }
  std::ranges::sort(held);
  std::uint32_t unlocked = 0;
  for (const present_page& p : ledger_.present) {
    unlocked += !p.is_locked;
    require(!p.is_locked || std::ranges::binary_search(held, p.name),
            "I3: a page is locked that no lease holds");
  }
  require(unlocked == tree_.evictable_full_pages(), "I1: evictable pages miscounted");
  require(ledger_.present.size() == tree_.full_pages(), "I1: full pages miscounted");
}

/// Only eviction and dropping take pages away.
template <class Events>
void world<Events>::check_vanished(const std::vector<present_page>& before) const {
  for (const present_page& p : before) {
    const present_page* now = ledger_.in_tree(p.name);
    require(now != nullptr && now->full == p.full, "I2: a page vanished without an eviction");
    require((p.window_bits & ~now->window_bits) == 0, "I2: a window vanished without an eviction");
  }
}

template <class Events>
void world<Events>::check_mirror() {
  if constexpr (Events::enabled) {
    for (recorded_events::entry& entry : tree_.events().entries) {
      entry.event.tokens = entry.tokens;
      mirror_.replay(entry.event);
      note(entry.event.hash.low);
    }
    tree_.events().entries.clear();
    std::map<page_name, std::uint32_t> pages;
    tree_.visit_pages([&](const oriel::cached_page& page, std::uint32_t pool, oriel::page_handle) {
      pages[{page.hash.low, page.hash.high}] |= pool == 0 ? 0 : 1u << (pool - 1);
    });
    require(pages == mirror_.pages(), "I16: a mirror of the events is not the tree");
  }
}

}  // namespace sim
