// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The invariants of D.4 after every operation, and what must be true once all faults are over.
#include "sim/page_accounts.hpp"
#include "sim/tree_walk.hpp"
#include "tier_world.hpp"

#include <algorithm>
#include <string>

namespace sim {

void tier_world::check() {
  if (const char* wrong = p_->tree.audit(); wrong != nullptr) {
    throw violation(std::string("I1-I3: ") + wrong);
  }
  look();
  tally_.pages_checked += check_tree_pages(model_, plan_, p_->memory, ledger_);
  check_ownership();
  check_tiers();
  check_mirror();
}

void tier_world::look() {
  walk_tree(p_->tree, spaces_, ledger_, [&](const oriel::cached_page& page) {
    const auto found = by_hash_.find({page.hash.low, page.hash.high});
    require(found != by_hash_.end(), "I2: a page in the tree that nobody published");
    return found->second;
  });
}

/// I4: what a match says is there, and no more is.
void tier_world::check_match(const request& r) {
  const oriel::prefix_match found = p_->tree.match(spaces_[r.tenant], r.tokens);
  const std::uint32_t full = ledger_.full_pages(r.cold);
  const auto prompt = static_cast<std::uint32_t>(r.tokens.size());
  const std::uint32_t usable = std::min(full, (prompt - 1) / page_size());
  require(found.full_tokens == full * page_size(), "I4: full length");
  require(found.heal_tokens == usable * page_size(), "I4: healable length");
  require(found.window_safe_tokens == ledger_.window_safe(r.cold, usable) * page_size(),
          "I4: a boundary that is not the largest whose windows are there");
  note(found.window_safe_tokens);
}

/// Pages of a dropped namespace that a lease still holds are in no walk of the tree.
bool tier_world::sees_all() const {
  return std::ranges::none_of(requests_, [&](const request_pointer& r) {
    return (r->lease || r->fetch) && r->epoch != epochs_[r->tenant];
  });
}

/// Counts references again from those who hold them: tree, sequences, copies, fetches. What nobody
/// holds holds poison; who writes to it wrote to a page that was not his any more (I7).
void tier_world::check_ownership() {
  for (std::uint32_t i = 0; i < plan_.pools(); ++i) {
    auto& pool = p_->pools.pool(oriel::pool_id{i});
    page_accounts held(pool.capacity());
    for (const present_page& page : ledger_.present) {
      if (page.is_in(i)) {
        held.hold(page.handle(i));
      }
    }
    for (const request_pointer& r : requests_) {
      if (r->kv) {
        held.hold_all(*r->kv, i);
      }
    }
    p_->tiers->visit_pages([&](std::uint32_t of, oriel::page_handle page) {
      if (of == i) {
        held.hold(page);
      }
    });
    held.check(pool, sees_all());
    for (std::uint32_t page = 0; page < pool.capacity(); ++page) {
      const bool is_free = !held.is_held(page);
      const bool is_touched = p_->memory.is_touched(i, page);
      require(!is_free || !p_->was_free[i][page] || is_touched || p_->memory.is_forgotten(i, page),
              "I7: a page was written that is nobody's");
      if ((p_->had_content[i][page] || is_touched) && !held.has_content(page)) {
        p_->memory.forget(i, page);
      }
      p_->had_content[i][page] = held.has_content(page);
      p_->was_free[i][page] = is_free;
    }
    p_->memory.forget_touches(i);
    note(pool.available());
  }
}

void tier_world::check_tiers() {
  for (const std::shared_ptr<tier_book>& book : books_) {
    require(book->failure.empty(), book->failure.c_str());
    require(tally_.operations % 8 != 0 || book->is_consistent(), "I8: a store's accounts");
    require(!sizes_.is_plain() || !sizes_.shares_fetches || book->reads_of_one_page <= 1,
            "I14: one page is fetched twice at once");
  }
  for (const oriel::tier& t : p_->tiers->tiers()) {
    const oriel::store_stats s = t.store.stats();
    require(s.used_bytes <= s.capacity_bytes, "I8: a tier holds more than its capacity");
    note(s.pages);
  }
  require(disk_.file_bytes() <= sizes_.segments.capacity_bytes,
          "I8: segment files take more than their capacity");
  require(disk_.broken_contract.empty(), disk_.broken_contract.c_str());
  require(p_->tiers->copies_under_way() <= sizes_.limits.copies_max, "I15: copies under way");
  require(p_->tiers->fetches() <= sizes_.limits.fetches_max, "I15: fetches under way");
  if (is_starving_ && allocations_left_ < 0) {
    ++tally_.faults[24];
    is_starving_ = false;
  }
  // Each drop has reached each tier, once nothing is under way.
  if (p_->tiers->idle()) {
    for (const std::shared_ptr<tier_book>& book : books_) {
      require(book->drops >= drops_asked_, "I17: a tier was not told of a deletion");
    }
    repeat_drops();
  }
}

/// I16, with a sink that may have lost some (F37): it knows that it has, and starts again.
void tier_world::check_mirror() {
  if (sink_blocked_ != 0) {
    return;
  }
  mirror& seen = p_->seen;
  bool has_gap = tap_.lost != 0;
  for (recorded_events::entry& entry : tap_.waiting) {
    entry.event.tokens = entry.tokens;
    if (has_gap && entry.event.sequence != seen.sequence() + 1) {
      break;
    }
    seen.replay(entry.event);
    note(entry.event.hash.low);
  }
  tap_.waiting.clear();
  if (has_gap && tap_.last != seen.sequence()) {
    seen.start_again(p_->tree, tap_.last);
  }
  tap_.lost = 0;
  seen.check(p_->tree);
}

/// Everybody gets to the end.
void tier_world::drain() {
  for (std::uint32_t turns = 0; !requests_.empty() || !p_->tiers->idle(); ++turns) {
    require(turns < drain_turns_max, "liveness: somebody does not get to the end");
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      advance(*requests_[i], turns);
    }
    turn(1 + draw_.next_below(turn_us_max));
    drop_finished();
    if (turns % 64 == 0) {
      check();
    }
  }
  check();
}

void tier_world::heal() {
  is_healed_ = true;
  trouble(false);
  slabs_ = {.failed = slabs_.failed};
  allocations_left_ = -1;
  frozen_until_us_ = 0;
  sink_blocked_ = 0;
  if (p_->device.is_broken()) {
    end_process(ending::in_order);
    start_process();
  }
  drain();
  for (std::uint32_t tries = 0; !drops_.empty(); ++tries) {
    require(tries < 20, "liveness: a deletion fails although all is well");
    turn(sizes_.segments.probe_interval_us);
    drain();
  }
  for (const std::shared_ptr<tier_book>& book : books_) {
    require(std::ranges::none_of(book->pages,
                                 [](const auto& p) {
                                   return p.second.may_hit &&
                                          p.second.last_sure_drop > p.second.last_put;
                                 }),
            "I17: what was to be deleted is still there");
  }
  require(p_->tree.leases() == 0, "I3: leases are left");
  require(p_->tree.evictable_full_pages() == p_->tree.full_pages(), "I3: locks are left");
  require(p_->tiers->copies_under_way() == 0 && p_->tiers->fetches() == 0, "copies are left");
  require(p_->pools.pool(oriel::full_pool).used() == p_->tree.full_pages(), "I1: pages leaked");
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    require(p_->tree.evictable_window_pages(kind) == p_->tree.window_pages(kind),
            "I3: pins are left");
    require(p_->pools.pool(oriel::window_pool(kind)).used() == p_->tree.window_pages(kind),
            "I1: window pages leaked");
  }
  check_offered_again();
  ++tally_.healed_worlds;
}

/// What a tier refused is given to it at a later hit.
void tier_world::check_offered_again() {
  if (!can_write()) {
    return;
  }
  std::size_t fewest = ~std::size_t{0};
  for (std::uint32_t round = 0;; ++round) {
    std::vector<oriel::page_key> resident;
    for (const present_page& p : ledger_.present) {
      for (const auto& [link, name] : by_link_) {
        if (name == p.name) {
          resident.push_back({link, 0});
        }
      }
    }
    std::size_t refused = 0;
    for (std::size_t t = 0; t < books_.size(); ++t) {
      for (const oriel::page_key& key : resident) {
        const tier_book::page* page = books_[t]->find(key);
        refused += p_->tiers->tiers()[t].writes == oriel::placement::write_through &&
                   page != nullptr && page->was_refused && !page->was_done && is_reachable(key);
      }
    }
    if (refused == 0) {
      return;
    }
    if (refused < fewest) {  // A hit has no more than copies_max of them copied.
      fewest = refused;
      round = 0;
    }
    require(round < 20, "liveness: what a tier refused is not offered again");
    turn(sizes_.segments.probe_interval_us);
    for (std::uint32_t s = 0; s < sessions_.size(); ++s) {
      submit({.what = tier_verb::submit, .a = s});
    }
    drain();
  }
}

/// Do the sessions' prompts reuse the page?
bool tier_world::is_reachable(const oriel::page_key& key) const {
  for (const session& s : sessions_) {
    std::vector<oriel::page_digest> links;
    extend_chain(starts_[s.tenant], s.tokens, page_size(), links);
    const auto decision = decide_reuse(p_->tree, spaces_[s.tenant], s.tokens, reuse());
    const auto used = std::span(links).first(decision.length / page_size());
    if (std::ranges::find(used, key.link) != used.end()) {
      return true;
    }
  }
  return false;
}

bool tier_world::can_write() const {
  return sizes_.segments.initial_generation < ~std::uint64_t{0} / 2;  // F38: no more names.
}

bool tier_world::is_comparable() const {
  const tier_habit& best = sizes_.host.is_there   ? sizes_.host
                           : sizes_.disk.is_there ? sizes_.disk
                                                  : sizes_.remote;
  return best.writes == oriel::placement::write_through && can_write() &&
         sizes_.limits.ttl_us == 0 && sizes_.limits.copies_max == 4096 &&
         sizes_.limits.fetch_us_min >= 200'000 && !sizes_.computes_fast &&
         sizes_.host_pages >= 100 &&
         sizes_.segments.capacity_bytes >= 48 * sizes_.segments.segment_bytes &&
         sizes_.device.namespaces_max >= sizes_.device.tenants && !sizes_.slabs_fail;
}

std::uint64_t tier_world::measure_hits() {
  is_healed_ = true;
  const std::uint32_t prompt = std::min(sizes_.device.context / 2, 6 * page_size() + 1);
  std::uint64_t tokens = 0;
  for (const bool is_again : {false, true}) {
    for (std::uint32_t s = 0; s < 4; ++s) {
      sessions_[s].tenant = s % sizes_.device.tenants;
      sessions_[s].tokens.clear();
      for (std::uint32_t i = 0; i < prompt; ++i) {
        // Tokens that no session has.
        const word drawn = sizes_.device.alphabet + mixed(0xF1A'0000 + s, i) % 1'000;
        sessions_[s].tokens.push_back(oriel::token_id{static_cast<std::uint32_t>(drawn)});
      }
      // Not the tree's hit_tokens: those count each try of a request that waits for room again, and
      // how often it tries depends on how long copies take.
      const std::uint64_t before = resumed_tokens_;
      submit({.what = tier_verb::submit, .a = s});
      drain();
      tokens += is_again ? resumed_tokens_ - before : 0;
    }
    p_->tree.evict_full(p_->tree.evictable_full_pages(), now());
    for (int more = 0; p_->tree.full_pages() != 0 && more < 1'000; ++more) {
      drain();  // Tiers that write back take some at a time.
      p_->tree.evict_full(p_->tree.evictable_full_pages(), now());
    }
    drain();
  }
  return tokens;
}

void tier_world::close() {
  drain();
  p_->tree.events() = {};
  p_->tree.clear();
  p_->tiers.reset();
  for (std::uint32_t i = 0; i < plan_.pools(); ++i) {
    require(p_->pools.pool(oriel::pool_id{i}).used() == 0, "I1: an empty tree holds pages");
  }
  for (const std::shared_ptr<tier_book>& book : books_) {
    require(book->failure.empty(), book->failure.c_str());
  }
  p_.reset();
}

}  // namespace sim
