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
  walk_tree(tree_, spaces_, ledger_, [&](const oriel::cached_page& page) {
    return name_of_full_[to_index(page.full.id)];
  });
}

template <class Events>
void world<Events>::check_pages() {
  tally_.pages_checked += check_tree_pages(model_, pools_.plan(), memory_, ledger_);
}

/// Counts references again from those who hold them; what nobody holds loses its content.
template <class Events>
void world<Events>::check_ownership() {
  const bool all = sees_all();
  for (std::uint32_t i = 0; i < pools_.pools(); ++i) {
    page_accounts held(pool(i).capacity());
    for (const present_page& p : ledger_.present) {
      if (p.is_in(i)) {
        held.hold(p.handle(i));
      }
    }
    for (const request_pointer& r : requests_) {
      if (r->has_fresh) {
        for (const oriel::page_handle page : r->offered[i]) {
          held.hold(page);
        }
      }
      if (r->kv) {
        held.hold_all(*r->kv, i);
      }
    }
    held.check(pool(i), all);
    for (std::uint32_t page = 0; page < pool(i).capacity(); ++page) {
      if (had_content_[i][page] && !held.has_content(page)) {
        memory_.forget(i, page);
      }
      had_content_[i][page] = held.has_content(page);
    }
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
    auto& names = pinned_names[kind];
    std::ranges::sort(names);
    names.erase(std::unique(names.begin(), names.end()), names.end());
    std::uint32_t attached = 0;
    for (const present_page& p : ledger_.present) {
      attached += p.window_bits >> kind & 1u;
    }
    require(tree_.window_pages(kind) == attached, "I1: window pages miscounted");
    require(tree_.evictable_window_pages(kind) == attached - names.size(),
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
    mirror_.check(tree_);
  }
}

}  // namespace sim
