// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a request does: match, pin, admission, steps, publications. world.hpp includes this file.
#pragma once

#include "world.hpp"

#include <oriel/core/mutation.hpp>

namespace sim {

template <class Events>
cold_run world<Events>::cold_of(std::uint32_t tenant, std::span<const oriel::token_id> tokens) {
  cold_run cold(model_, tenant);
  for (const oriel::token_id token : tokens) {
    cold.extend(token);
  }
  return cold;
}

/// Probes, and compares the answer with the definitions (I4: valid and maximal).
template <class Events>
oriel::prefix_match world<Events>::match(const request& r, bool by_hash) {
  const oriel::cache_namespace& space = spaces_[r.tenant];
  const std::uint32_t size = sizes_.page_size;
  const auto prompt = static_cast<std::uint32_t>(r.tokens.size());
  by_hash = by_hash && sizes_.with_chain && !ORIEL_MUTANT(weak_keys);  // Advice may be wrong then.
  std::vector<oriel::chain_hash> chain(by_hash ? prompt / size : 0);
  oriel::hash_pages(space.digest(), std::span(r.tokens).first(chain.size() * size), size, chain);
  const oriel::prefix_match found = tree_.match(space, r.tokens, chain);
  const std::uint32_t full = ledger_.full_pages(r.cold);
  const std::uint32_t usable = std::min(full, (prompt - 1) / size);
  require(found.full_tokens == full * size, "I4: full length");
  require(found.heal_tokens == usable * size, "I4: healable length");
  require(found.window_safe_tokens <= ledger_.window_safe(r.cold, usable) * size,
          "I4: a boundary whose windows are not there");
  require(found.window_safe_tokens >= ledger_.window_safe(r.cold, usable) * size,
          "I4: a larger boundary is window-safe");
  note(found.full_tokens);
  note(found.window_safe_tokens);
  return found;
}

/// Match, pin, borrow, evict, admit. False: it was refused, and nothing of it is left.
template <class Events>
bool world<Events>::admit(request& r, const operation& op) {
  const std::uint32_t size = sizes_.page_size;
  r.cold = cold_of(r.tenant, r.tokens);
  const oriel::prefix_match found = match(r, (op.c & 1) != 0);
  if (!sizes_.plain && op.d < 3) {  // The tree changes between match and pin.
    op.d == 0 ? evict_full(1 + op.salt % 4) : evict_window(op.salt % kinds(), 1 + op.salt % 4);
    look();
    ++tally_.stale_pins;
  }
  const std::uint32_t reuse = op.c >> 1;
  oriel::pin_extent extent = oriel::pin_extent::hit(found);
  if (reuse == 7) {
    extent = {};
  } else if (sizes_.heals && reuse < 5) {
    extent = oriel::pin_extent::heal(found);
  }
  take_lease(r, found, extent);
  if (!sizes_.heals && r.lease.window_tokens() != r.lease.full_tokens()) {
    const std::uint32_t safe = r.lease.window_tokens();
    tree_.release(r.lease, {}, ++now_);
    take_lease(r, found, {safe, safe});
  }
  r.epoch = epochs_[r.tenant];
  const auto prompt = static_cast<std::uint32_t>(r.tokens.size());
  const std::uint32_t lent = r.lease.full_tokens();
  r.heal.reset();
  if (lent != r.lease.window_tokens()) {
    r.heal = oriel::plan_heal({model_.windows, size, sizes_.heal_slack},
                              {lent, prompt, r.lease.window_tokens()});
    require(r.heal->length == lent, "a heal of another length than was pinned");
    if (!r.heal->reads_window_at_safe_length()) {
      tree_.drop_windows(r.lease);  // Else they keep room from the windows it will write.
    }
  }
  const std::uint32_t now = op.salt % 2 == 0 ? prompt : std::min(prompt, lent + sizes_.step_tokens);
  if (!open_sequence(r, now)) {
    ++tally_.refused_full;
    if (op.salt % 3 == 0) {
      r.lease = {};  // Out of scope: an abort.
    } else {
      tree_.release(r.lease, {}, ++now_);
    }
    return false;
  }
  ++tally_.requests;
  tally_.hits += lent != 0 && !r.heal;
  tally_.heals += r.heal.has_value();
  return true;
}

/// Pins, and compares what the lease got with what the definitions give now.
template <class Events>
void world<Events>::take_lease(request& r,
                               const oriel::prefix_match& found,
                               oriel::pin_extent extent) {
  const std::uint32_t size = sizes_.page_size;
  const std::uint32_t leases = tree_.leases();
  r.lease = tree_.pin(spaces_[r.tenant], r.tokens, found, extent, ++now_);
  if (!r.lease) {
    require(leases >= sizes_.leases_max || sizes_.namespaces_max < sizes_.tenants,
            "a pin without a lease");
    return;
  }
  const auto prompt = static_cast<std::uint32_t>(r.tokens.size());
  const std::uint32_t usable = std::min(ledger_.full_pages(r.cold), (prompt - 1) / size);
  const std::uint32_t full = std::min(extent.full_tokens / size, usable);
  const std::uint32_t safe =
      ledger_.window_safe(r.cold, std::min(extent.window_tokens / size, full));
  require(r.lease.full_tokens() == full * size, "I4: a lease of other full pages");
  require(r.lease.window_tokens() == safe * size, "I4: a lease of another window");
}

/// The pages of the lease, whose every row must be what a cold run computes (I4).
template <class Events>
oriel::borrowed_pages world<Events>::borrow(const request& r) {
  oriel::borrowed_pages pages;
  tree_.borrow(r.lease, pages);
  const std::uint32_t size = sizes_.page_size, safe = r.lease.window_tokens() / size;
  require(pages.full.size() == r.lease.full_tokens() / size, "I4: full pages borrowed");
  for (std::uint32_t l = 0; l < model_.layers(); ++l) {
    const oriel::layer_home home = pools_.plan().home(l);
    const std::uint32_t pool = to_index(home.pool);
    const std::uint32_t kind = pool - 1;
    const bool has_window = pool != 0 && sizes_.windows[kind] > 1;
    const std::uint32_t first = pool == 0    ? 0
                                : has_window ? ledger_.first_needed(kind, safe)
                                             : safe;
    const auto& lent = pool == 0 ? pages.full : pages.windows[kind];
    require(pool == 0 || lent.size() == safe - first, "I4: window pages borrowed");
    for (std::uint32_t i = 0; i < lent.size(); ++i) {
      require(this->pool(pool).is_live(lent[i]), "I4: a borrowed page is not live");
      for (std::uint32_t row = 0; row < size; ++row) {
        require(memory_.at(pool, to_index(lent[i].id), home.slot, row) ==
                    r.cold.kv(l, (first + i) * size + row),
                "I4: a borrowed row is not what a cold run computes");
      }
    }
  }
  return pages;
}

template <class Events>
bool world<Events>::open_sequence(request& r, std::uint32_t tokens_now) {
  oriel::borrowed_pages pages;
  if (r.lease) {
    pages = borrow(r);
  }
  pages.windows.resize(kinds());
  const std::uint32_t lent = r.lease.full_tokens();
  std::vector<std::span<const oriel::page_handle>> windows(pages.windows.begin(),
                                                           pages.windows.end());
  std::vector<std::uint32_t> shared;
  oriel::borrowed_prefix prefix{.length = lent, .full = pages.full};
  if (!r.heal || r.heal->reads_window_at_safe_length()) {
    prefix.windows = windows;
  } else {
    windows.assign(kinds(), {});
  }
  std::uint32_t begin = lent;
  if (r.heal) {
    begin = r.heal->first_row();
    for (const std::uint32_t window : sizes_.windows) {
      shared.push_back(r.heal->first_healed_page(window));
    }
    prefix.heal = oriel::heal_start{begin, shared};
    require(begin < lent, "a heal without rows");
  }
  const oriel::admission wanted{tokens_now, r.target, prefix};
  require(pools_.can_ever_hold(r.target), "the scenario asks for too much");
  const std::uint32_t size = sizes_.page_size, now_pages = (tokens_now + size - 1) / size;
  make_room(0, now_pages - lent / size);
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const auto lent_pages = static_cast<std::uint32_t>(windows[kind].size());
    const std::uint32_t first = begin / size - lent_pages;
    const std::uint32_t last = std::min(now_pages, first + pools_.plan().ring(kind).ring_pages());
    make_room(kind + 1, last - std::min(last, begin / size));
  }
  const std::vector<std::uint32_t> free = free_pages();
  auto admitted = pools_.try_admit(wanted);
  if (!admitted) {
    require(admitted.error().code == oriel::errc::out_of_pages, "an admission failed oddly");
    require(free_pages() == free, "case 35: a shortfall took pages");
    return false;
  }
  r.kv.emplace(std::move(*admitted));
  return true;
}

template <class Events>
std::vector<std::uint32_t> world<Events>::free_pages() const {
  std::vector<std::uint32_t> free;
  for (std::uint32_t i = 0; i < pools_.pools(); ++i) {
    free.push_back(pools_.pool(oriel::pool_id{i}).available());
  }
  return free;
}

/// Evicts until the pool has so many free pages or nothing evictable.
template <class Events>
void world<Events>::make_room(std::uint32_t pool, std::uint32_t pages) {
  const std::uint32_t free = this->pool(pool).available();
  if (pages > free) {
    pool == 0 ? evict_full(pages - free) : evict_window(pool - 1, pages - free);
  }
}

template <class Events>
void world<Events>::evict_full(std::uint32_t pages) {
  may_vanish_ = true;
  const std::uint32_t free = pool(0).available(), evictable = tree_.evictable_full_pages();
  const std::uint32_t cached = tree_.full_pages();
  const oriel::evicted_pages freed = tree_.evict_full(pages, ++now_);
  require(pool(0).available() - free == freed.full, "case 33: full pages freed");
  require(freed.full <= pages, "case 33: more was evicted than asked");
  require(freed.full == pages || tree_.evictable_full_pages() == 0,
          "R10: evictable pages were not evicted");
  require(freed.full == std::min(pages, evictable), "R8: evictable pages miscounted");
  require(tree_.full_pages() == cached - freed.full, "R8: cached pages miscounted");
  tally_.evictions += freed.full;
  note(freed.full);
}

template <class Events>
void world<Events>::evict_window(std::uint32_t kind, std::uint32_t pages) {
  may_vanish_ = true;
  const std::uint32_t free = pool(kind + 1).available();
  const oriel::evicted_pages freed = tree_.evict_window(kind, pages);
  require(pool(kind + 1).available() - free == freed.window, "case 33: window pages freed");
  require(freed.full == 0 && freed.window <= pages, "case 33: more was evicted than asked");
  require(freed.window == pages || tree_.evictable_window_pages(kind) == 0,
          "R10: evictable window pages were not evicted");
  tally_.evictions += freed.window;
  note(freed.window);
}

/// A step: a chunk of the prompt, or a decode whose drafts are accepted in part.
template <class Events>
void world<Events>::step(request& r, const operation& op) {
  const std::uint32_t length = r.kv->length();
  const auto known = static_cast<std::uint32_t>(r.tokens.size());
  if (known == r.target) {
    return;
  }
  std::uint32_t rows = std::min({known - length, sizes_.step_tokens, std::max(1u, op.b)});
  std::uint32_t drafts = 0, right = 0;
  if (length + 1 == known) {
    drafts = std::min({op.c, sizes_.step_tokens - 1, r.target - length - 1});
    right = std::min({op.d, drafts, r.target - known - 1});
    rows = 1 + drafts;
  }
  if (!reserve_rows(r, rows)) {
    return;
  }
  while (r.cold.rows() < std::min(known, length + rows)) {
    r.cold.extend(r.tokens[r.cold.rows()]);
  }
  std::vector<word> paths;
  for (std::uint32_t q = length; q < std::min(known, length + rows); ++q) {
    paths.push_back(r.cold.path_before(q + 1));
  }
  for (std::uint32_t i = 0; i < drafts; ++i) {  // The first ones are what the model will say.
    std::uint32_t next = static_cast<std::uint32_t>(
        (i <= right ? r.cold.output(length + i) : paths.back()) % sizes_.alphabet);
    next = i == right ? (next + 1) % sizes_.alphabet : next;
    paths.push_back(fake_model::path_next(paths.back(), oriel::token_id{next}));
    if (i < right) {
      r.cold.extend(oriel::token_id{next});
      r.tokens.push_back(oriel::token_id{next});
    }
  }
  const oriel::heal_plan* heal = r.heal ? &*r.heal : nullptr;
  const std::vector<word> states = runner_.run(*r.kv, paths, heal);
  check_outputs(r, states);
  const std::uint32_t accepted = rows - drafts + right;
  r.kv->accept(accepted);
  tally_.rejected_rows += drafts - right;
  ++tally_.steps;
  require(r.kv->length() == length + accepted, "a commit of other rows");
  if (r.heal && r.kv->length() >= r.heal->length) {
    r.heal.reset();
  }
  if (r.kv->length() == r.tokens.size()) {
    const word output = r.cold.output(r.kv->length() - 1);
    r.tokens.push_back(oriel::token_id{static_cast<std::uint32_t>(output % sizes_.alphabet)});
    ++tally_.tokens_out;
  }
  if (op.salt % 5 == 0) {  // Pages that are about to slide out can still be published.
    reserve_pages(r, /*keeps_tail=*/op.salt % 2 == 0);
    if (r.has_fresh) {
      look();
      commit_pages(r);
    }
  }
  r.kv->slide_out();
}

/// I10: every row whose token is right ends in the state that the cold run has.
template <class Events>
void world<Events>::check_outputs(const request& r, std::span<const word> states) {
  const std::uint32_t length = r.kv->length();
  for (std::uint32_t i = 0; i < states.size() && length + i < r.cold.rows(); ++i) {
    if (length + i >= r.kv->lent_tokens()) {
      require(states[i] == r.cold.output(length + i), "I10: not the tokens of a cold run");
      note(states[i]);
    }
  }
}

/// Pages for rows. Where there are too few, the windows that the request started from go first: it
/// has references of its own to what it still reads of them.
template <class Events>
bool world<Events>::reserve_rows(request& r, std::uint32_t rows) {
  const std::uint32_t end = r.kv->length() + rows;
  for (const bool is_last_try : {false, true}) {
    make_room(0, r.kv->missing_pages(oriel::full_pool, end));
    for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
      make_room(kind + 1, r.kv->missing_pages(oriel::window_pool(kind), end));
    }
    const std::vector<std::uint32_t> free = free_pages();
    if (r.kv->reserve(rows)) {
      return true;
    }
    require(free_pages() == free, "case 35: a shortfall took pages");
    if (!is_last_try) {
      tree_.drop_windows(r.lease);
    }
  }
  ++tally_.refused_full;
  return false;
}

/// Publish, step one: what is whole and committed.
template <class Events>
void world<Events>::reserve_pages(request& r, bool keeps_tail) {
  const std::uint32_t end = r.kv->length() / sizes_.page_size;
  const std::uint32_t held = r.lease.full_tokens() / sizes_.page_size;
  if (!r.lease || r.has_fresh || r.kv->healing() || end < held) {
    return;
  }
  r.offered.assign(pools_.pools(), {});
  r.offered_from.assign(pools_.pools(), held);
  const auto full = r.kv->full_pages().handles();
  r.offered[0].assign(full.begin() + held, full.begin() + end);
  std::vector<oriel::window_page_span> windows;
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    const auto& ring = r.kv->ring(kind);
    const std::uint32_t first = ring.first_shareable_page();
    r.offered_from[kind + 1] = first;
    for (std::uint32_t page = first; page < end; ++page) {
      r.offered[kind + 1].push_back(ring[page]);
    }
    windows.push_back({first, r.offered[kind + 1]});
  }
  r.keeps_tail = keeps_tail;
  r.fresh = tree_.reserve(
      {.first_page = held, .full = r.offered[0], .windows = windows, .keeps_tail = keeps_tail});
  r.has_fresh = true;
}

template <class Events>
void world<Events>::abort_pages(request& r) {
  if (r.has_fresh) {
    tree_.abort(r.fresh);
    r.fresh = {};
    r.has_fresh = false;
  }
}

/// Publish, last step. What must be in the tree afterwards is worked out from the ledger.
template <class Events>
void world<Events>::commit_pages(request& r) {
  const std::uint32_t size = sizes_.page_size, first = r.offered_from[0];
  const std::uint32_t end = first + static_cast<std::uint32_t>(r.offered[0].size());
  const std::uint32_t found = std::min(ledger_.full_pages(r.cold), end);
  const auto tokens = std::span(std::as_const(r.tokens)).first(std::size_t{end} * size);
  std::vector<oriel::chain_hash> chain(sizes_.with_chain && now_ % 2 == 0 ? end : 0);
  oriel::hash_pages(spaces_[r.tenant].digest(), tokens.first(chain.size() * size), size, chain);
  const oriel::publish_outcome outcome = tree_.commit(r.lease, r.fresh, tokens, ++now_, chain);
  if (r.epoch != epochs_[r.tenant]) {
    require(outcome.tokens == 0 && outcome.full_pages == 0, "a dropped namespace took pages in");
  } else {
    ledger_.learn(r.cold, tokens, r.tenant, first);
    for (std::uint32_t page = first; page < end; ++page) {
      const oriel::page_handle own = r.fresh.full_pages()[page - first];
      name_of_full_[to_index(own.id)] = r.cold.path_before((page + 1) * size);
      if (r.kv && !(r.kv->full_pages()[page] == own)) {
        r.kv->switch_full_page(page, own);
        ++tally_.switched;
      }
    }
    expect_published(r, found, end, outcome);
  }
  r.fresh = {};
  r.has_fresh = false;
  ++tally_.publications;
}

/// I4 and I7 of a publish: all of it is in the tree, with the windows that the policy keeps of what
/// was offered, and no others.
template <class Events>
void world<Events>::expect_published(const request& r,
                                     std::uint32_t found,
                                     std::uint32_t end,
                                     const oriel::publish_outcome& outcome) {
  std::vector<std::uint32_t> bits(end);
  std::uint32_t new_windows = 0;
  for (std::uint32_t page = 0; page < end; ++page) {
    const present_page* p = ledger_.in_tree(r.cold.path_before((page + 1) * sizes_.page_size));
    bits[page] = p == nullptr ? 0 : p->window_bits;
    for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
      const std::uint32_t from = r.offered_from[kind + 1];
      const bool offered = page >= from && page - from < r.offered[kind + 1].size();
      if (offered && (bits[page] >> kind & 1u) == 0 &&
          ledger_.keeps(kind, page, r.cold, end, r.keeps_tail)) {
        bits[page] |= 1u << kind;
        ++new_windows;
      }
    }
  }
  look();
  for (std::uint32_t page = 0; page < end; ++page) {
    const present_page* p = ledger_.in_tree(r.cold.path_before((page + 1) * sizes_.page_size));
    require(p != nullptr, "a published page is not in the tree");
    require((p->window_bits & ~bits[page]) == 0, "a window page that no boundary is worth");
    require(p->window_bits == bits[page], "a window page was not kept");
  }
  require(outcome.tokens == end * sizes_.page_size && outcome.full_pages == end - found &&
              outcome.window_pages == new_windows,
          "a publish tells other counts");
  require(r.lease.full_tokens() == outcome.tokens, "a lease does not hold what was published");
  const bool is_safe = ledger_.is_window_safe(r.cold, end);
  require(is_safe || !r.keeps_tail, "case 13: a publish loses its own boundary");
  require(r.lease.window_tokens() == (is_safe ? outcome.tokens : 0),
          "a lease does not pin the windows of what was published");
}

}  // namespace sim
