// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/detail/page_index.hpp>

#include <algorithm>
#include <bit>
#include <cstring>

namespace oriel::detail {
namespace {

void load_link(const page_digest& from, std::uint64_t* link) noexcept {
  std::memcpy(link, from.bytes.data(), 16);
}

std::uint32_t to_ms(std::uint64_t now_us) noexcept {
  return static_cast<std::uint32_t>(now_us >> 10);
}

}  // namespace

page_index::page_index(std::uint32_t pages_max)
    : pages_max_(pages_max),
      bucket_mask_(std::bit_ceil(std::uint64_t{std::max(pages_max, 2u)}) - 1),
      buckets_(bucket_mask_ + 1),
      entries_(pages_max) {
  ORIEL_EXPECTS(pages_max < null_entry);
}

template <class IsPool>
entry_id page_index::find_link(const std::uint64_t* link, IsPool&& is_pool) noexcept {
  std::uint32_t* from = &bucket_of(link);
  while (*from != 0) {
    const entry_id id = *from - 1;
    page_entry& e = entries_[id];
    if (is_dropped(id)) {
      remove(id);  // unlinks it here: *from is the next one now
      continue;
    }
    if (e.link[0] == link[0] && e.link[1] == link[1] && is_pool(e.pool)) {
      return id;
    }
    from = &e.next_in_bucket;
  }
  return null_entry;
}

entry_id page_index::find(const page_key& key) noexcept {
  if (key.pool >= index_pools_max) {
    return null_entry;
  }
  std::uint64_t link[2];
  load_link(key.link, link);
  return find_link(link, [&](std::uint8_t pool) { return pool == key.pool; });
}

entry_id page_index::find_full_of(entry_id of) noexcept {
  const std::uint64_t link[2] = {entries_[of].link[0], entries_[of].link[1]};
  return find_link(link, [](std::uint8_t pool) { return pool == 0; });
}

entry_id page_index::find_window_of(const std::uint64_t* link) noexcept {
  return find_link(link, [](std::uint8_t pool) { return pool != 0; });
}

entry_id page_index::insert(const entry_spec& spec) {
  ORIEL_EXPECTS(spec.key.pool < index_pools_max);
  if (const entry_id old = find(spec.key); old != null_entry) {
    remove(old);
  }
  if (is_full()) {
    return null_entry;
  }
  const std::uint32_t origin = open_origin(spec.owner, spec.name_space);
  const entry_id id = free_ != null_entry ? free_ : next_;
  page_entry& e = entries_[id];
  if (free_ != null_entry) {
    free_ = e.next_in_bucket;
  } else {
    ++next_;
  }
  e = page_entry{};
  load_link(spec.key.link, e.link);
  e.pool = static_cast<std::uint8_t>(spec.key.pool);
  e.origin = origin;
  e.used_ms = to_ms(spec.now_us);
  const std::uint64_t unit = page_entry::kept_expiry(spec.expires_us) / 16;
  e.expires_low = static_cast<std::uint32_t>(unit);
  e.expires_high = static_cast<std::uint16_t>(unit >> 32);
  e.slot = spec.place.slot;
  e.blocks = spec.place.blocks;
  e.offset_blocks = spec.place.offset_blocks;
  e.generation_low = spec.place.generation_low;
  e.header_blocks = spec.place.header_blocks & 0xFu;
  std::uint32_t& bucket = bucket_of(e.link);
  e.next_in_bucket = bucket;
  bucket = id + 1;
  link_into_segment(id);
  ++origins_[origin].entries;
  account(e, true);
  return id;
}

void page_index::remove(entry_id id) noexcept {
  page_entry& e = entries_[id];
  std::uint32_t* from = &bucket_of(e.link);
  while (*from != id + 1) {
    from = &entries_[*from - 1].next_in_bucket;
  }
  *from = e.next_in_bucket;
  unlink_from_segment(id);
  if (!origins_[e.origin].is_dropped) {
    account(e, false);
  }
  if (--origins_[e.origin].entries == 0) {
    close_origin(e.origin);
  }
  e.blocks = 0;  // no record has this: a stale id is recognised by its place
  e.next_in_bucket = free_;
  free_ = id;
}

void page_index::move(entry_id id, const entry_place& to) noexcept {
  unlink_from_segment(id);
  page_entry& e = entries_[id];
  e.slot = to.slot;
  e.offset_blocks = to.offset_blocks;
  e.generation_low = to.generation_low;
  link_into_segment(id);
}

void page_index::link_into_segment(entry_id id) noexcept {
  page_entry& e = entries_[id];
  e.previous_in_segment = null_entry;
  e.next_in_segment = heads_[e.slot];
  if (e.next_in_segment != null_entry) {
    entries_[e.next_in_segment].previous_in_segment = id;
  }
  heads_[e.slot] = id;
}

void page_index::unlink_from_segment(entry_id id) noexcept {
  const page_entry& e = entries_[id];
  (e.previous_in_segment == null_entry ? heads_[e.slot]
                                       : entries_[e.previous_in_segment].next_in_segment) =
      e.next_in_segment;
  if (e.next_in_segment != null_entry) {
    entries_[e.next_in_segment].previous_in_segment = e.previous_in_segment;
  }
}

void page_index::account(const page_entry& e, bool adds) noexcept {
  page_origin& o = origins_[e.origin];
  const auto tenant = tenant_bytes_.find(o.owner.tenant);
  const std::uint64_t bytes = e.bytes();
  pages_ += adds ? 1 : ~std::uint64_t{0};
  used_bytes_ += adds ? bytes : 0 - bytes;
  o.bytes += adds ? bytes : 0 - bytes;
  tenant->second += adds ? bytes : 0 - bytes;
  if (tenant->second == 0) {
    tenant_bytes_.erase(tenant);
  }
}

std::uint32_t page_index::open_origin(page_owner owner, const page_digest& name_space) {
  const origin_name name{owner, name_space};
  if (const auto found = origin_ids_.find(name); found != origin_ids_.end()) {
    return found->second;
  }
  tenant_bytes_.try_emplace(owner.tenant, 0);
  std::uint32_t id = static_cast<std::uint32_t>(origins_.size());
  if (free_origins_.empty()) {
    origins_.emplace_back();
    free_origins_.reserve(origins_.capacity());  // so that closing one never allocates
  } else {
    id = free_origins_.back();
    free_origins_.pop_back();
  }
  origins_[id] = {.owner = owner, .name_space = name_space, .is_used = true};
  origin_ids_.emplace(name, id);
  return id;
}

/// Its entries stop counting now; they stay in the chains until somebody meets them.
void page_index::drop_origin(page_origin& o) noexcept {
  o.is_dropped = true;
  used_bytes_ -= o.bytes;
  const auto tenant = tenant_bytes_.find(o.owner.tenant);
  tenant->second -= o.bytes;
  if (tenant->second == 0) {
    tenant_bytes_.erase(tenant);
  }
  pages_ -= o.entries;
  o.bytes = 0;
  origin_ids_.erase({o.owner, o.name_space});
}

void page_index::close_origin(std::uint32_t id) noexcept {
  page_origin& o = origins_[id];
  if (!o.is_dropped) {
    origin_ids_.erase({o.owner, o.name_space});
  }
  o = page_origin{};
  free_origins_.push_back(id);
}

std::uint64_t page_index::tenant_bytes(std::uint64_t tenant) const noexcept {
  const auto found = tenant_bytes_.find(tenant);
  return found == tenant_bytes_.end() ? 0 : found->second;
}

std::uint64_t page_index::index_bytes() const noexcept {
  // Buckets count as far as entries can have touched them.
  const std::uint64_t buckets = std::min<std::uint64_t>(bucket_mask_ + 1, std::uint64_t{next_} * 2);
  return std::uint64_t{next_} * sizeof(page_entry) + buckets * sizeof(std::uint32_t) +
         heads_.size() * sizeof(entry_id) + origins_.size() * sizeof(page_origin);
}

bool page_index::is_consistent() const {
  std::uint64_t pages = 0, bytes = 0, linked = 0;
  std::unordered_map<std::uint64_t, std::uint64_t> tenants;
  for (std::size_t b = 0; b <= bucket_mask_; ++b) {
    for (std::uint32_t at = buckets_[b]; at != 0; at = entries_[at - 1].next_in_bucket) {
      const page_entry& e = entries_[at - 1];
      if ((e.link[0] & bucket_mask_) != b || !origins_[e.origin].is_used) {
        return false;
      }
      ++linked;
      if (!is_dropped(at - 1)) {
        ++pages;
        bytes += e.bytes();
        tenants[origins_[e.origin].owner.tenant] += e.bytes();
      }
    }
  }
  std::uint64_t in_segments = 0;
  for (std::size_t slot = 0; slot < heads_.size(); ++slot) {
    for (entry_id id = heads_[slot]; id != null_entry; id = entries_[id].next_in_segment) {
      in_segments += entries_[id].slot == slot ? 1u : 0u;
    }
  }
  return pages == pages_ && bytes == used_bytes_ && in_segments == linked &&
         std::ranges::all_of(tenant_bytes_, [&](const auto& t) {
           const auto found = tenants.find(t.first);
           return t.second == (found == tenants.end() ? 0 : found->second);
         });
}

}  // namespace oriel::detail
