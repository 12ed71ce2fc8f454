// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/detail/memory_index.hpp>

#include <algorithm>
#include <new>
#include <tuple>

namespace oriel::detail {
namespace {

/// The page chosen to go is the last of so many that were spared for having been used.
constexpr std::uint32_t spared_max = 64;

constexpr std::uint64_t used_mask = (std::uint64_t{1} << 40) - 1;

}  // namespace

bool memory_index::owner_first::operator()(const group_name& a,
                                           const group_name& b) const noexcept {
  return std::tie(a.owner.tenant, a.owner.session, a.name_space) <
         std::tie(b.owner.tenant, b.owner.session, b.name_space);
}

bool memory_index::space_first::operator()(const group_name& a,
                                           const group_name& b) const noexcept {
  return std::tie(a.name_space, a.owner.tenant, a.owner.session) <
         std::tie(b.name_space, b.owner.tenant, b.owner.session);
}

memory_index::memory_index(std::span<const pool_size> pools, const rules& by)
    : order_(by.order), other_tenant_bytes_max_(by.other_tenant_bytes_max) {
  ORIEL_EXPECTS(!pools.empty() && pools.size() < 16 && by.tenants.size() < 0xFFFF);
  std::uint64_t slots = 0;
  for (const pool_size& p : pools) {
    pools_.push_back(
        {.first = static_cast<std::uint32_t>(slots), .slots = p.slots, .page_bytes = p.page_bytes});
    slots += p.slots;
  }
  ORIEL_EXPECTS(slots < (std::uint64_t{1} << 31));
  slots_.resize(slots);
  cells_.resize(slots + slots / 2 + 1);
  ghosts_.resize(order_ == memory_order::s3_fifo ? slots : 0);
  lanes_.resize(by.tenants.size() + 1);
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    lanes_[i].queues.resize(pools.size());
    if (i > 0) {
      lanes_[i].share = by.tenants[i - 1];
    }
  }
  for (std::uint32_t p = 0; p < pools_.size(); ++p) {
    for (std::uint32_t i = 0; i < pools_[p].slots; ++i) {
      slots_[pools_[p].first + i].pool = p & 15u;
    }
  }
}

// ---- finding

std::uint32_t memory_index::tag_of(const page_key& key) noexcept {
  // A digest is random already, unless its caller made it up.
  std::uint64_t word = (key.link.prefix64() ^ key.pool) * 0x9E37'79B9'7F4A'7C15u;
  word ^= word >> 29;
  return static_cast<std::uint32_t>((word * 0xBF58'476D'1CE4'E5B9u) >> 32);
}

std::size_t memory_index::home(std::uint32_t tag) const noexcept {
  return static_cast<std::size_t>((std::uint64_t{tag} * cells_.size()) >> 32);
}

std::uint32_t memory_index::find(const page_key& key) const noexcept {
  const std::uint32_t tag = tag_of(key);
  for (std::size_t at = home(tag); cells_[at].slot != no_slot;
       at = at + 1 == cells_.size() ? 0 : at + 1) {
    const cell& c = cells_[at];
    if (c.tag == tag && slots_[c.slot].pool == key.pool && records_[c.slot].link == key.link) {
      return c.slot;
    }
  }
  return no_slot;
}

std::size_t memory_index::cell_of(std::uint32_t slot) const noexcept {
  std::size_t at = home(tag_of({.link = records_[slot].link, .pool = slots_[slot].pool}));
  while (cells_[at].slot != slot) {
    ORIEL_ASSERT(cells_[at].slot != no_slot);
    at = at + 1 == cells_.size() ? 0 : at + 1;
  }
  return at;
}

// Linear probing without tombstones: what comes behind moves up, as far as its home allows.
void memory_index::remove_cell(std::size_t at) noexcept {
  const std::size_t size = cells_.size();
  for (std::size_t next = at;;) {
    next = next + 1 == size ? 0 : next + 1;
    if (cells_[next].slot == no_slot || ORIEL_MUTANT(memory_gap_in_table)) {
      break;
    }
    const std::size_t wants = home(cells_[next].tag);
    const std::size_t from_home = (next + size - wants) % size;
    const std::size_t from_gap = (next + size - at) % size;
    if (from_home >= from_gap) {
      cells_[at] = cells_[next];
      at = next;
    }
  }
  cells_[at] = {};
}

page_owner memory_index::owner(std::uint32_t slot) const noexcept {
  return groups_[slots_[slot].group].name.owner;
}

const page_digest& memory_index::name_space(std::uint32_t slot) const noexcept {
  return groups_[slots_[slot].group].name.name_space;
}

// ---- queues

// A chain that is put or used in order goes from its end: a page without those before it is of no
// use. So a page that follows the one that came last is queued on that one's older side.
void memory_index::append(std::uint32_t slot, queue_name to) noexcept {
  slot_entry& e = slots_[slot];
  e.queue = to & 3u;
  queue& q = queue_of(e);
  const bool continues = q.last != no_slot && records_[q.last].link == records_[slot].parent &&
                         !ORIEL_MUTANT(memory_chain_goes_from_its_head);
  e.newer = continues ? q.last : no_slot;
  e.older = continues ? slots_[q.last].older : q.newest;
  (e.older == no_slot ? q.oldest : slots_[e.older].newer) = slot;
  (e.newer == no_slot ? q.newest : slots_[e.newer].older) = slot;
  q.last = slot;
  ++q.pages;
}

void memory_index::remove(std::uint32_t slot) noexcept {
  slot_entry& e = slots_[slot];
  queue& q = queue_of(e);
  (e.older == no_slot ? q.oldest : slots_[e.older].newer) = e.newer;
  (e.newer == no_slot ? q.newest : slots_[e.newer].older) = e.older;
  q.last = q.last == slot ? no_slot : q.last;
  --q.pages;
  e.older = e.newer = no_slot;
}

void memory_index::stamp(slot_entry& e, std::uint64_t now_us) noexcept {
  e.used_low = static_cast<std::uint32_t>(now_us);
  e.used_high = static_cast<std::uint8_t>(now_us >> 32);
}

std::uint64_t memory_index::age_us(const slot_entry& e, std::uint64_t now_us) const noexcept {
  return (now_us - (std::uint64_t{e.used_high} << 32 | e.used_low)) & used_mask;
}

void memory_index::use(std::uint32_t slot, std::uint64_t now_us) noexcept {
  slot_entry& e = slots_[slot];
  stamp(e, now_us);
  if (order_ == memory_order::s3_fifo) {
    e.uses = std::min<unsigned>(e.uses + 1u, uses_max) & 3u;
  } else if (!ORIEL_MUTANT(memory_use_is_not_seen)) {
    remove(slot);
    append(slot, main);
  }
}

// ---- groups and tenants

std::uint16_t memory_index::lane_of(std::uint64_t tenant) const noexcept {
  for (std::size_t i = 1; i < lanes_.size(); ++i) {
    if (lanes_[i].share.tenant == tenant) {
      return static_cast<std::uint16_t>(i);
    }
  }
  return 0;
}

std::uint32_t memory_index::enter_group(const group_name& name) {
  if (const auto found = by_owner_.find(name); found != by_owner_.end()) {
    return found->second;
  }
  if (free_group_ == no_slot) {
    groups_.push_back({});
    free_group_ = static_cast<std::uint32_t>(groups_.size() - 1);
    groups_[free_group_].next_free = no_slot;
  }
  const std::uint32_t g = free_group_;
  tenant_use& tenant = tenants_[name.owner.tenant];
  ++tenant.groups;  // Kept from here on; undone below if a map has no memory.
  try {
    by_owner_.emplace(name, g);
    by_space_.emplace(name, g);
  } catch (...) {
    by_owner_.erase(name);
    if (--tenant.groups == 0) {
      tenants_.erase(name.owner.tenant);
    }
    throw;
  }
  free_group_ = groups_[g].next_free;
  groups_[g] = {.name = name, .tenant = &tenant};
  return g;
}

void memory_index::leave_group(std::uint32_t slot) noexcept {
  slot_entry& e = slots_[slot];
  group& g = groups_[e.group];
  (e.group_older == no_slot ? g.oldest : slots_[e.group_older].group_newer) = e.group_newer;
  (e.group_newer == no_slot ? g.newest : slots_[e.group_newer].group_older) = e.group_older;
  g.tenant->used_bytes -= pools_[e.pool].page_bytes;
  if (g.oldest == no_slot) {
    by_owner_.erase(g.name);
    by_space_.erase(g.name);
    if (--g.tenant->groups == 0) {
      tenants_.erase(g.name.owner.tenant);
    }
    g.next_free = free_group_;
    free_group_ = e.group;
  }
  e.group = e.group_older = e.group_newer = no_slot;
}

std::uint64_t memory_index::used_bytes(std::uint64_t tenant) const noexcept {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? 0 : found->second.used_bytes;
}

// ---- in and out

bool memory_index::insert(std::uint32_t slot,
                          const page_key& key,
                          const page_digest& name_space,
                          page_owner owner,
                          std::uint64_t now_us) noexcept {
  slot_entry& e = slots_[slot];
  ORIEL_EXPECTS(e.group == no_slot && e.pool == key.pool);
  try {
    e.group = enter_group({.owner = owner, .name_space = name_space});
  } catch (const std::bad_alloc&) {
    free_slot(slot);
    return false;
  }
  group& g = groups_[e.group];
  e.group_older = g.newest;
  e.group_newer = no_slot;
  (g.newest == no_slot ? g.oldest : slots_[g.newest].group_newer) = slot;
  g.newest = slot;

  const std::uint32_t tag = tag_of(key);
  std::size_t at = home(tag);
  while (cells_[at].slot != no_slot) {
    at = at + 1 == cells_.size() ? 0 : at + 1;
  }
  cells_[at] = {.slot = slot, .tag = tag};

  const std::uint64_t bytes = pools_[key.pool].page_bytes;
  e.lane = lane_of(owner.tenant);
  e.uses = 0;
  stamp(e, now_us);
  g.tenant->used_bytes += bytes;
  lanes_[e.lane].used_bytes += bytes;
  used_bytes_ += bytes;
  ++pages_count_;
  const bool is_known =
      order_ == memory_order::s3_fifo && ghosts_[slot_of_ghost(tag)] == tag;  // It left too early.
  append(slot, order_ == memory_order::lru || is_known ? main : small);
  return true;
}

void memory_index::take_out(std::uint32_t slot) noexcept {
  slot_entry& e = slots_[slot];
  ORIEL_EXPECTS(e.group != no_slot);
  const std::uint64_t bytes = pools_[e.pool].page_bytes;
  remove_cell(cell_of(slot));
  remove(slot);
  leave_group(slot);
  lanes_[e.lane].used_bytes -= bytes;
  used_bytes_ -= bytes;
  --pages_count_;
}

void memory_index::free_slot(std::uint32_t slot) noexcept {
  slot_entry& e = slots_[slot];
  e.queue = free_list & 3u;
  e.newer = pools_[e.pool].free;
  pools_[e.pool].free = slot;
}

void memory_index::give_back(std::uint32_t slot) noexcept {
  ORIEL_EXPECTS(slots_[slot].group == no_slot);
  free_slot(slot);
}

void memory_index::erase(std::uint32_t slot) noexcept {
  take_out(slot);
  free_slot(slot);
}

bool memory_index::drop(store_op op,
                        const page_digest& name_space,
                        page_owner owner,
                        std::uint32_t pages_max) {
  const auto next = [&]() -> std::uint32_t {
    if (op == store_op::drop_space) {
      const auto at = by_space_.lower_bound({.owner = {}, .name_space = name_space});
      return at != by_space_.end() && at->first.name_space == name_space ? at->second : no_slot;
    }
    const bool is_session = op == store_op::drop_session;
    const page_owner from = is_session ? owner : page_owner{.tenant = owner.tenant};
    const auto at = by_owner_.lower_bound({.owner = from, .name_space = {}});
    const bool is_it = at != by_owner_.end() && at->first.owner.tenant == owner.tenant &&
                       (!is_session || at->first.owner.session == owner.session ||
                        ORIEL_MUTANT(memory_drop_takes_next_session));
    return is_it ? at->second : no_slot;
  };
  for (std::uint32_t left = pages_max;;) {
    const std::uint32_t g = next();
    if (g == no_slot) {
      return true;
    }
    for (std::uint32_t slot = groups_[g].oldest; slot != no_slot; --left) {
      if (left == 0) {
        return false;
      }
      const std::uint32_t newer = slots_[slot].group_newer;
      erase(slot);
      slot = newer;
    }
  }
}

void memory_index::expire(std::uint32_t look_at, std::uint64_t now_us) noexcept {
  for (std::uint32_t i = 0; i < look_at && i < slots(); ++i) {
    hand_ = hand_ + 1 < slots() ? hand_ + 1 : 0;
    const bool is_there = slots_[hand_].group != no_slot;
    if (is_there && records_[hand_].expires_us != 0 && records_[hand_].expires_us <= now_us) {
      erase(hand_);
    }
  }
}

// ---- eviction

// What `choose` would begin with; changes nothing.
std::uint32_t memory_index::peek(const lane& of, std::uint32_t pool) const noexcept {
  const auto& [on_probation, kept] = of.queues[pool];
  const std::uint32_t pages = on_probation.pages + kept.pages;
  const bool is_small = std::uint64_t{on_probation.pages} * small_part > pages || kept.pages == 0;
  return is_small ? on_probation.oldest : kept.oldest;
}

std::uint32_t memory_index::choose(lane& of, std::uint32_t pool) noexcept {
  std::uint32_t slot = peek(of, pool);
  for (std::uint32_t spared = 0; slot != no_slot && slots_[slot].uses != 0 && spared < spared_max;
       ++spared) {
    slot_entry& e = slots_[slot];
    remove(slot);
    e.uses = (e.queue == small ? 0u : e.uses - 1u) & 3u;
    append(slot, main);
    slot = peek(of, pool);
  }
  return slot;
}

// Of the lanes that are above what they are sure of, the one whose next page is oldest; its own
// lane too, unless others owe it room.
std::uint32_t memory_index::victim_of_all(std::uint32_t pool,
                                          std::uint16_t own,
                                          std::uint64_t now_us) noexcept {
  const std::uint64_t bytes = pools_[pool].page_bytes;
  lane* oldest = nullptr;
  std::uint64_t oldest_age = 0;
  for (lane& l : lanes_) {
    const std::uint32_t slot = peek(l, pool);
    const bool is_sure =
        l.used_bytes < l.share.min_bytes + bytes && !ORIEL_MUTANT(memory_min_share_is_ignored);
    if (slot == no_slot || (is_sure && l.share.min_bytes != 0)) {
      continue;
    }
    const std::uint64_t age = age_us(slots_[slot], now_us);
    if (oldest == nullptr || age > oldest_age) {
      oldest = &l;
      oldest_age = age;
    }
  }
  return choose(oldest != nullptr ? *oldest : lanes_[own], pool);
}

std::uint32_t memory_index::victim_of_tenant(std::uint32_t pool, std::uint64_t tenant) noexcept {
  if (const std::uint16_t l = lane_of(tenant); l != 0) {
    std::uint32_t slot = choose(lanes_[l], pool);
    for (std::uint32_t p = 0; slot == no_slot && p < pools_.size(); ++p) {
      slot = choose(lanes_[l], p);
    }
    return slot;
  }
  const auto at = by_owner_.lower_bound({.owner = {.tenant = tenant}, .name_space = {}});
  const bool is_it = at != by_owner_.end() && at->first.owner.tenant == tenant;
  return is_it ? groups_[at->second].oldest : no_slot;
}

bool memory_index::is_full_for(std::uint32_t pool, std::uint64_t tenant) const noexcept {
  const std::uint16_t l = lane_of(tenant);
  const std::uint64_t used = l != 0 ? lanes_[l].used_bytes : used_bytes(tenant);
  const std::uint64_t max = l != 0 ? lanes_[l].share.max_bytes : other_tenant_bytes_max_;
  return used > max || pools_[pool].page_bytes > max - used;
}

std::uint32_t memory_index::allocate(std::uint32_t pool,
                                     std::uint64_t tenant,
                                     std::uint64_t now_us) noexcept {
  auto& p = pools_[pool];
  while (is_full_for(pool, tenant)) {
    const std::uint32_t victim = victim_of_tenant(pool, tenant);
    if (victim == no_slot) {
      return no_slot;
    }
    evict(victim, now_us);
  }
  if (p.free == no_slot && p.fresh == p.slots) {
    const std::uint32_t victim = victim_of_all(pool, lane_of(tenant), now_us);
    if (victim == no_slot) {
      return no_slot;
    }
    evict(victim, now_us);
  }
  if (p.free == no_slot) {
    return p.first + p.fresh++;
  }
  const std::uint32_t slot = p.free;
  p.free = slots_[slot].newer;
  slots_[slot].newer = no_slot;
  return slot;
}

void memory_index::evict_one(std::uint32_t slot, std::uint64_t now_us) noexcept {
  slot_entry& e = slots_[slot];
  if (e.queue == small) {
    const std::uint32_t tag = cells_[cell_of(slot)].tag;
    ghosts_[slot_of_ghost(tag)] = tag;
  }
  ++evicted_pages_;
  evicted_age_us_sum_ += age_us(e, now_us);
  erase(slot);
}

// The windows of a full page are of no use without it; the other way round it heals.
void memory_index::evict(std::uint32_t slot, std::uint64_t now_us) noexcept {
  if (slots_[slot].pool == 0) {
    for (std::uint32_t p = 1; p < pools_.size() && !ORIEL_MUTANT(memory_windows_stay_behind); ++p) {
      const std::uint32_t window = find({.link = records_[slot].link, .pool = p});
      if (window != no_slot) {
        evict_one(window, now_us);
      }
    }
  }
  evict_one(slot, now_us);
}

std::uint64_t memory_index::size_bytes() const noexcept {
  // A node of a map is its value and four words.
  const std::uint64_t node_bytes = 4 * sizeof(void*);
  return slots_.size() * sizeof(slot_entry) + cells_.size() * sizeof(cell) +
         ghosts_.size() * sizeof(std::uint32_t) + groups_.capacity() * sizeof(group) +
         by_owner_.size() * 2 * (sizeof(std::pair<group_name, std::uint32_t>) + node_bytes) +
         tenants_.size() * (sizeof(std::pair<std::uint64_t, tenant_use>) + node_bytes);
}

bool memory_index::is_consistent() const {
  std::uint64_t pages = 0, bytes = 0, queued = 0, grouped = 0, free = 0, fresh = 0;
  for (std::uint32_t slot = 0; slot < slots(); ++slot) {
    const slot_entry& e = slots_[slot];
    if (e.group != no_slot) {
      ++pages;
      bytes += pools_[e.pool].page_bytes;
      if (find({.link = records_[slot].link, .pool = e.pool}) != slot) {
        return false;
      }
    }
  }
  for (const lane& l : lanes_) {
    std::uint64_t lane_bytes = 0;
    for (std::uint32_t p = 0; p < pools_.size(); ++p) {
      for (const queue& q : l.queues[p]) {
        std::uint32_t count = 0;
        for (std::uint32_t at = q.oldest; at != no_slot; at = slots_[at].newer) {
          ++count;
        }
        if (count != q.pages) {
          return false;
        }
        queued += count;
        lane_bytes += count * pools_[p].page_bytes;
      }
    }
    if (lane_bytes != l.used_bytes) {
      return false;
    }
  }
  for (const auto& [name, g] : by_owner_) {
    for (std::uint32_t at = groups_[g].oldest; at != no_slot; at = slots_[at].group_newer) {
      ++grouped;
    }
  }
  for (const pool_slots& p : pools_) {
    for (std::uint32_t at = p.free; at != no_slot; at = slots_[at].newer) {
      ++free;
    }
    fresh += p.slots - p.fresh;
  }
  return pages == pages_count_ && bytes == used_bytes_ && queued == pages && grouped == pages &&
         by_space_.size() == by_owner_.size() && free + fresh + pages == slots_.size();
}

}  // namespace oriel::detail
