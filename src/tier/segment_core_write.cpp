// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Writes: records are laid one behind the other into the head, several with one request. Nothing is
// visible before its write has completed (R3).
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/detail/segment_core.hpp>
#include <oriel/tier/store_clock.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace oriel::detail {
namespace {

constexpr std::size_t request_parts_max = 1000;  // of one request: IOV_MAX is 1024
// A tombstone is written twice: no single bad block brings a deleted page back.
constexpr std::uint64_t tombstone_copies = 2;
constexpr std::uint64_t tombstone_bytes = tombstone_copies * record_alignment_bytes;

constexpr std::size_t trimmed_max = 1024;  // tenants whose oldest segment is remembered

/// Why there is nothing to write to, or 0 for other errors: no room, or a file system that became
/// read-only. Reads are as good as before, so this pauses writes and makes nothing degraded.
int pausing(int error) noexcept {
  return error == EDQUOT ? ENOSPC : error == ENOSPC || error == EROFS ? error : 0;
}

record_type tombstone_of(store_op what) noexcept {
  switch (what) {
    case store_op::drop_space:
      return record_type::drop_space;
    case store_op::drop_tenant:
      return record_type::drop_tenant;
    case store_op::drop_session:
      return record_type::drop_session;
    default:
      return record_type::erase;
  }
}

}  // namespace

bool segment_core::is_writable(const store_item& item) const noexcept {
  if (item.identity == nullptr || item.slices.empty() || item.key.pool >= index_pools_max) {
    return false;
  }
  const std::uint64_t bytes = record_bytes(item.identity->tokens.size(), item.slices);
  std::uint64_t bounced = record_header_bytes_max;
  for (const std::span<std::byte> s : item.slices) {
    bounced += is_disk_aligned(s.data()) ? record_alignment_bytes : record_padded(s.size());
  }
  return bytes != 0 && bytes / record_alignment_bytes <= index_blocks_max &&
         bytes + record_alignment_bytes <= options_.segment_bytes &&
         bounced <= bounce_.capacity_bytes() / 2 &&
         static_cast<double>(bytes) <=
             options_.tenant_share_max * static_cast<double>(options_.capacity_bytes);
}

/// Writing the same bytes again would only wear the disk. Only an entry that this process has
/// written or read counts: the others are hints.
bool segment_core::is_there_already(const operation& o, std::uint64_t now_us) {
  const entry_id id = find_alive(o.item.key, now_us);
  if (id == null_entry || !index_.entry(id).is_proven) {
    return false;
  }
  page_entry& e = index_.entry(id);
  const page_origin& origin = index_.origin_of(id);
  if (origin.owner != o.item.owner || origin.name_space != o.item.identity->name_space ||
      e.expires_us() != page_entry::kept_expiry(o.item.expires_us) ||
      e.bytes() != record_bytes(o.item.identity->tokens.size(), o.item.slices)) {
    return false;
  }
  e.used_ms = static_cast<std::uint32_t>(now_us >> 10);
  return true;
}

void segment_core::admit_put(std::uint32_t id, std::uint64_t now_us) {
  operation& o = op(id);
  o.state = operation_state::writing;
  if (!is_writable(o.item)) {
    return finish(id, store_outcome::refused, EINVAL);
  }
  if (generation_ > ~std::uint64_t{0} - (1u << 16)) {
    return finish(id, store_outcome::refused, EOVERFLOW);  // never wraps
  }
  if (o.item.expires_us != 0 && o.item.expires_us <= now_us) {
    return finish(id, store_outcome::done);  // kept for no time at all
  }
  if (is_there_already(o, now_us)) {
    return finish(id, store_outcome::done);
  }
  if (!may_write(o, now_us)) {
    return finish(id, store_outcome::refused, is_paused_ ? paused_by_ : 0);
  }
  hold_key(id);
  o.state = operation_state::queued_write;
  push(writes_, id);
}

void segment_core::admit_erase(std::uint32_t id) {
  operation& o = op(id);
  if (const entry_id found = index_.find(o.item.key); found != null_entry) {
    index_.remove(found);
  }
  // Written also where the index knows nothing: a record may lie there that a scan would find.
  hold_key(id);
  o.state = operation_state::queued_write;
  push(writes_, id);
}

void segment_core::start_drop(std::uint32_t id) {
  operation& o = op(id);
  const store_item& item = o.item;
  index_.drop([&](const page_origin& origin) {
    switch (item.op) {
      case store_op::drop_space:
        return origin.name_space == item.key.link;
      case store_op::drop_tenant:
        return origin.owner.tenant == item.owner.tenant;
      default:
        return origin.owner == item.owner;
    }
  });
  ++writes_pending_;
  o.counts_as_write = true;
  o.state = operation_state::queued_write;
  push(writes_, id);
}

void segment_core::pump_writes(std::uint64_t now_us) {
  for (std::uint32_t id = 0; id < batches_.size(); ++id) {
    write_batch& b = batches_[id];
    if (b.is_in_flight || (writes_.is_empty() && carries_ready_.empty())) {
      continue;
    }
    b.slot = null_slot;
    b.bytes = 0;
    b.records.clear();
    b.parts.clear();
    b.runs.clear();
    staged last = staged::yes;
    while (last == staged::yes || last == staged::given_up) {
      last = stage_next(b, now_us);
    }
    if (b.records.empty()) {
      for (const std::span<std::byte> run : b.runs) {  // a segment's start, without a record
        bounce_.release(run);
      }
      if (b.bytes != 0) {
        segments_[b.slot].head_bytes = 0;
      }
      return;
    }
    if (ORIEL_MUTANT(put_is_acknowledged_early)) {
      std::erase_if(b.records, [&](const written_record& r) {
        const bool is_put =
            r.from == written_record::source::operation && op(r.id).item.op == store_op::put;
        if (is_put) {
          record_written(b, r, now_us);
        }
        return is_put;
      });
    }
    submit_batch(id);
  }
}

/// The next record, if it fits behind the others. Strictly in the order of submission, so that the
/// order of generations is the order of effects; records that are carried over go first.
segment_core::staged segment_core::stage_next(write_batch& batch, std::uint64_t now_us) {
  if (!carries_ready_.empty()) {
    const staged s = stage_carry(batch, carries_ready_.front(), now_us);
    if (s == staged::yes || s == staged::given_up) {
      carries_ready_.erase(carries_ready_.begin());
    }
    return s;
  }
  if (writes_.is_empty()) {
    return staged::not_now;
  }
  const std::uint32_t id = writes_.first;
  operation& o = op(id);
  if (o.state == operation_state::ended) {
    pop(writes_);
    o.state = operation_state::free;
    push(free_, id);
    return staged::given_up;
  }
  const staged s = o.item.op == store_op::put ? stage_put(batch, id, now_us)
                                              : stage_tombstone(batch, id, now_us);
  if (s == staged::yes) {
    pop(writes_);
    o.state = operation_state::writing;
  } else if (s == staged::given_up) {
    pop(writes_);
    o.state = operation_state::writing;  // in no queue any more
    const bool is_refused = is_paused_ || is_degraded_;
    finish(id,
           is_refused ? store_outcome::refused : store_outcome::failed,
           is_paused_ ? paused_by_ : fault_.native);
  }
  return s;
}

/// Makes the head have room for `bytes` more behind the batch.
segment_core::staged segment_core::make_room(write_batch& batch,
                                             std::uint64_t bytes,
                                             bool is_carry,
                                             std::uint64_t now_us) {
  const std::uint64_t kept = is_carry ? 0 : reclaim_.reserved_bytes;
  if (!batch.records.empty()) {
    const bool fits = batch.slot == head_ && batch.parts.size() + 2 < request_parts_max &&
                      batch.bytes + bytes <= options_.batch_bytes &&
                      segments_[head_].head_bytes + bytes + kept <= segments_[head_].bytes;
    return fits ? staged::yes : staged::batch_is_full;
  }
  if (head_ != null_slot) {
    const std::uint64_t end = segments_[head_].head_bytes + bytes;
    if (end + kept <= segments_[head_].bytes) {
      batch.slot = head_;
      return staged::yes;
    }
    if (end <= segments_[head_].bytes) {
      return staged::not_now;  // that room is promised to what the reclaim carries
    }
    if (is_carry) {
      return staged::given_up;
    }
    if (reclaim_.reserved_bytes != 0) {
      return staged::not_now;
    }
    head_ = null_slot;  // sealed
  }
  if (is_carry) {
    return staged::given_up;
  }
  const staged opened = open_segment(now_us);
  if (opened == staged::yes) {
    batch.slot = head_;
  }
  return opened;
}

segment_core::staged segment_core::open_segment(std::uint64_t now_us) {
  if (!may_add_segment()) {
    start_reclaim(now_us);
    return is_paused_ ? staged::given_up : staged::not_now;
  }
  if (next_file_ == file_number_end) {
    note_fault("create", next_file_, EOVERFLOW);
    return staged::given_up;
  }
  const std::uint32_t file = next_file_;
  if (const status made = names_.create(file, options_.segment_bytes); !made) {
    const int native = made.error().native;
    if (const int why = pausing(native); why != 0) {
      note_fault("create", file, why);
      pause_writes(why, now_us);
    } else {
      note_error("create", file, native != 0 ? native : EIO, now_us);
    }
    return staged::given_up;
  }
  head_ = add_segment(file, options_.segment_bytes);
  segment_state& s = segments_[head_];
  s.first_generation = ++generation_;
  s.last_generation = generation_;
  s.durable_generation = generation_;
  s.stamp = names_.wall_us();
  return staged::yes;
}

bool segment_core::stage_segment_start(write_batch& batch) {
  segment_state& s = segments_[batch.slot];
  const std::span<std::byte> run = bounce_.acquire(record_alignment_bytes);
  if (run.empty()) {
    return false;
  }
  encode_record_header({.type = record_type::segment_start,
                        .key = {},
                        .generation = s.first_generation,
                        .place = {s.file, 0},
                        .stamp = s.stamp},
                       {},
                       {},
                       run.first(record_alignment_bytes));
  batch.runs.push_back(run);
  batch.parts.push_back(run.first(record_alignment_bytes));
  batch.offset = 0;
  batch.bytes = record_alignment_bytes;
  batch.first_generation = s.first_generation;
  s.head_bytes = record_alignment_bytes;
  return true;
}

/// The place behind the batch becomes this record's. The caller has made room.
entry_place segment_core::place_next(write_batch& batch,
                                     std::uint64_t bytes,
                                     std::uint32_t header_bytes) {
  segment_state& s = segments_[batch.slot];
  if (batch.bytes == 0) {
    batch.offset = s.head_bytes;
    batch.first_generation = generation_ + 1;
  }
  const entry_place place{batch.slot,
                          static_cast<std::uint16_t>(bytes / record_alignment_bytes),
                          static_cast<std::uint32_t>(s.head_bytes / record_alignment_bytes),
                          static_cast<std::uint32_t>(++generation_ - s.first_generation),
                          static_cast<std::uint8_t>(header_bytes / record_alignment_bytes)};
  s.last_generation = generation_;
  s.head_bytes += bytes;
  batch.bytes += bytes;
  return place;
}

/// Appends the slices to the batch; what is not aligned is copied, and padded with zeros.
bool segment_core::stage_slices(write_batch& batch, const store_item& item) {
  sums_.clear();
  for (const std::span<std::byte> slice : item.slices) {
    sums_.push_back(summed_slice(slice));
    const std::size_t direct = is_disk_aligned(slice.data())
                                   ? slice.size() / disk_alignment_bytes * disk_alignment_bytes
                                   : 0;
    if (direct != 0) {
      batch.parts.push_back(slice.first(direct));
    }
    if (const std::size_t rest = slice.size() - direct; rest != 0) {
      const std::span<std::byte> run = bounce_.acquire(rest);
      if (run.empty()) {
        return false;
      }
      batch.runs.push_back(run);
      const std::size_t padded = record_padded(rest);
      std::memcpy(run.data(), slice.data() + direct, rest);
      std::memset(run.data() + rest, 0, padded - rest);
      batch.parts.push_back(run.first(padded));
    }
  }
  return true;
}

segment_core::staged segment_core::stage_put(write_batch& batch,
                                             std::uint32_t id,
                                             std::uint64_t now_us) {
  const operation& o = op(id);
  const store_item& item = o.item;
  if ((is_paused_ || is_degraded_) && !o.is_probe) {
    return staged::given_up;
  }
  const std::uint64_t bytes = record_bytes(item.identity->tokens.size(), item.slices);
  const std::size_t header_bytes =
      record_header_bytes(item.identity->tokens.size(), item.slices.size());
  if (!batch.records.empty() &&
      batch.parts.size() + 2 * item.slices.size() + 1 > request_parts_max) {
    return staged::batch_is_full;
  }
  if (const staged room = make_room(batch, bytes, false, now_us); room != staged::yes) {
    return room;
  }
  if (segments_[batch.slot].head_bytes == 0 && !stage_segment_start(batch)) {
    return staged::not_now;
  }
  const std::size_t parts = batch.parts.size(), runs = batch.runs.size();
  const std::span<std::byte> header = bounce_.acquire(header_bytes);
  if (!header.empty()) {
    batch.runs.push_back(header);
    batch.parts.push_back(header.first(header_bytes));
  }
  if (header.empty() || !stage_slices(batch, item)) {
    for (std::size_t i = runs; i < batch.runs.size(); ++i) {
      bounce_.release(batch.runs[i]);
    }
    batch.runs.resize(runs);
    batch.parts.resize(parts);
    return batch.records.empty() ? staged::not_now : staged::batch_is_full;
  }
  const entry_place place = place_next(batch, bytes, static_cast<std::uint32_t>(header_bytes));
  // The page may outlive this clock: what is written down is the other one's time.
  const std::uint64_t wall_us = item.expires_us != 0 ? names_.wall_us() : 0;
  encode_record_header(
      {.type = record_type::page,
       .key = item.key,
       .owner = item.owner,
       .expires_us = item.expires_us != 0 ? by_other_clock(item.expires_us, now_us, wall_us) : 0,
       .generation = generation_,
       .place = {segments_[batch.slot].file, place.offset()},
       .stamp = wall_us},
      *item.identity,
      sums_,
      header.first(header_bytes));
  batch.records.push_back(
      {written_record::source::operation, id, place, item.identity->name_space});
  return staged::yes;
}

segment_core::staged segment_core::stage_tombstone(write_batch& batch,
                                                   std::uint32_t id,
                                                   std::uint64_t now_us) {
  const store_item& item = op(id).item;
  if (const staged room = make_room(batch, tombstone_bytes, false, now_us); room != staged::yes) {
    return room;
  }
  if (segments_[batch.slot].head_bytes == 0 && !stage_segment_start(batch)) {
    return staged::not_now;
  }
  const std::span<std::byte> run = bounce_.acquire(tombstone_bytes);
  if (run.empty()) {
    return batch.records.empty() ? staged::not_now : staged::batch_is_full;
  }
  entry_place place;
  for (std::uint64_t copy = 0; copy < tombstone_copies; ++copy) {
    place = place_next(batch, record_alignment_bytes, record_alignment_bytes);
    encode_record_header({.type = tombstone_of(item.op),
                          .key = item.key,
                          .owner = item.owner,
                          .generation = generation_,
                          .place = {segments_[batch.slot].file, place.offset()}},
                         {},
                         {},
                         run.subspan(copy * record_alignment_bytes, record_alignment_bytes));
  }
  if (ORIEL_MUTANT(tombstone_is_not_written)) {
    std::memset(run.data(), 0, run.size());
  }
  batch.runs.push_back(run);
  batch.parts.push_back(run.first(tombstone_bytes));
  batch.records.push_back({written_record::source::operation, id, place, {}});
  return staged::yes;
}

segment_core::staged segment_core::stage_carry(write_batch& batch,
                                               std::uint32_t id,
                                               std::uint64_t now_us) {
  carried_record& c = carries_[id];
  const std::uint64_t bytes = c.place.bytes();
  const entry_id still = index_.find(c.key);
  if (still == null_entry || !(index_.entry(still).place() == c.place)) {
    reclaim_.reserved_bytes -= bytes;
    end_carry(id);  // erased, dropped or written again meanwhile
    return staged::given_up;
  }
  const staged room = make_room(batch, bytes, true, now_us);
  if (room == staged::given_up) {
    reclaim_.reserved_bytes -= bytes;
    end_carry(id);
  }
  if (room != staged::yes) {
    return room;
  }
  if (segments_[batch.slot].head_bytes == 0 && !stage_segment_start(batch)) {
    std::uint64_t ready_bytes = 0;
    for (const std::uint32_t ready : carries_ready_) {
      ready_bytes += carries_[ready].run.size();
    }
    if (bounce_.used_bytes() > ready_bytes || ORIEL_MUTANT(carry_waits_for_its_own_memory)) {
      return staged::not_now;  // others give some back
    }
    // All memory is that of carries that wait for this start.
    reclaim_.reserved_bytes -= bytes;
    end_carry(id);
    return staged::given_up;
  }
  reclaim_.reserved_bytes -= bytes;
  const entry_place place = place_next(
      batch, bytes, c.place.header_blocks * static_cast<std::uint32_t>(record_alignment_bytes));
  move_record(c.part.first(c.place.header_blocks * record_alignment_bytes),
              {segments_[batch.slot].file, place.offset()},
              generation_);
  c.state = carry_state::writing;
  batch.parts.push_back(c.part);
  batch.records.push_back({written_record::source::carry, id, place, {}});
  return staged::yes;
}

void segment_core::submit_batch(std::uint32_t id) {
  write_batch& b = batches_[id];
  segment_state& s = segments_[b.slot];
  b.is_in_flight = true;
  b.pin = segment_pin(s);
  s.tried_bytes = std::max(s.tried_bytes, b.offset + b.bytes);
  request(disk_op::write, b.pin.file(), b.offset, b.parts, request_kind::batch, id);
}

void segment_core::batch_ended(std::uint32_t id, int error, std::uint64_t now_us) {
  write_batch& b = batches_[id];
  segment_state& s = segments_[b.slot];
  b.is_in_flight = false;
  if (const int why = pausing(error); why != 0) {
    note_fault("write", s.file, why);
    pause_writes(why, now_us);
    if (head_ == b.slot && s.head_bytes == b.offset + b.bytes) {
      s.head_bytes = b.offset;  // probes do not eat the segment up
    }
  } else if (error != 0) {
    note_error("write", s.file, error, now_us);
  } else if (s.is_broken) {
    error = EIO;  // it completed in a segment that cannot be made durable any more
  }
  stats_.bytes_written += error == 0 ? b.bytes : 0;
  for (const written_record& r : b.records) {
    if (error == 0) {
      record_written(b, r, now_us);
      continue;
    }
    if (ORIEL_MUTANT(failed_put_is_visible) && r.from == written_record::source::operation) {
      publish(r, now_us);
    }
    record_failed(r, error);
  }
  for (const std::span<std::byte> run : b.runs) {
    bounce_.release(run);
  }
  b.pin.release();
}

void segment_core::record_written(const write_batch& batch,
                                  const written_record& r,
                                  std::uint64_t now_us) {
  mark_dirty(batch.slot);
  if (r.from == written_record::source::carry) {
    return carried_to(r.id, r.place);
  }
  operation& o = op(r.id);
  note_success(o);
  if (o.item.op == store_op::put) {
    publish(r, now_us);
    std::uint64_t bytes = 0;
    for (const std::span<std::byte> s : o.item.slices) {
      bytes += s.size();
    }
    return finish(r.id, store_outcome::done, 0, bytes);
  }
  if (ORIEL_MUTANT(deletion_is_not_synced)) {
    return finish(r.id, store_outcome::done);
  }
  // A deletion lasts, also over a loss of power, before it is called done.
  o.state = operation_state::syncing;
  o.remaining = 1;
  wait_for_sync(batch.slot, request_sync(batch.slot), r.id);
}

void segment_core::record_failed(const written_record& r, int error) {
  if (r.from == written_record::source::carry) {
    return end_carry(r.id);
  }
  finish(r.id, pausing(error) != 0 ? store_outcome::refused : store_outcome::failed, error);
}

void segment_core::publish(const written_record& r, std::uint64_t now_us) {
  const store_item& item = op(r.id).item;
  if (item.op != store_op::put) {
    return;
  }
  if (const entry_id old = index_.find(item.key); old != null_entry) {
    index_.remove(old);
  }
  trim_tenant(item.owner.tenant, r.place.bytes(), now_us);
  const entry_id id = index_.insert({.key = item.key,
                                     .place = r.place,
                                     .owner = item.owner,
                                     .name_space = r.name_space,
                                     .expires_us = item.expires_us,
                                     .now_us = now_us});
  if (id == null_entry) {  // the index is full: this page is evicted at once
    ++stats_.evicted_pages;
    return start_reclaim(now_us);
  }
  index_.entry(id).is_proven = true;
}

/// A tenant at its share loses its own oldest pages, never another's.
void segment_core::trim_tenant(std::uint64_t tenant,
                               std::uint64_t need_bytes,
                               std::uint64_t now_us) {
  const auto most = static_cast<std::uint64_t>(options_.tenant_share_max *
                                               static_cast<double>(options_.capacity_bytes));
  if (index_.tenant_bytes(tenant) + need_bytes <= most || ORIEL_MUTANT(tenant_has_no_share)) {
    return;
  }
  auto from =
      std::ranges::find(trimmed_to_, tenant, &std::pair<std::uint64_t, std::uint32_t>::first);
  if (from == trimmed_to_.end()) {
    if (trimmed_to_.size() >= trimmed_max) {
      trimmed_to_.clear();  // hints: without them a search starts at the oldest segment
    }
    trimmed_to_.emplace_back(tenant, 0);
    from = trimmed_to_.end() - 1;
  }
  for (auto at = order_from(from->second); at != order_.end(); ++at) {
    const std::uint16_t slot = *at;
    scratch_.clear();
    for (entry_id id = index_.first_of(slot); id != null_entry;
         id = index_.entry(id).next_in_segment) {
      if (!index_.is_dropped(id) && index_.origin_of(id).owner.tenant == tenant) {
        scratch_.push_back({id, index_.entry(id).place()});
      }
    }
    for (auto s = scratch_.rbegin(); s != scratch_.rend(); ++s) {
      if (index_.entry(s->entry).place() == s->place) {  // it may have gone with its full page
        evict(s->entry, now_us);
      }
      if (index_.tenant_bytes(tenant) + need_bytes <= most) {
        return;
      }
    }
    if (slot != head_ && segments_[slot].pins == 0) {
      from->second = segments_[slot].file + 1;  // nothing of this tenant is here, nor will be
    }
  }
}

}  // namespace oriel::detail
