// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Reads. The header of a record is read with its slices, and decides: place, generation, key,
// identity, lengths, checksums. Any doubt is a miss.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/crc32c.hpp>
#include <oriel/tier/detail/segment_core.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace oriel::detail {
namespace {

std::uint64_t padded_sum(std::span<const std::span<std::byte>> slices) noexcept {
  std::uint64_t bytes = 0;
  for (const std::span<std::byte> s : slices) {
    bytes += record_padded(s.size());
  }
  return bytes;
}

}  // namespace

entry_id segment_core::find_alive(const page_key& key, std::uint64_t now_us) {
  const entry_id id = index_.find(key);
  if (id != null_entry && index_.entry(id).is_expired(now_us)) {
    evict(id, now_us);
    return null_entry;
  }
  return id;
}

void segment_core::admit_look(std::uint32_t id, std::uint64_t now_us) {
  const operation& o = op(id);
  if (is_degraded_) {
    return finish(id, store_outcome::refused);
  }
  const entry_id found = find_alive(o.item.key, now_us);
  if (found != null_entry && o.item.op == store_op::touch) {
    index_.entry(found).was_hit = true;
    index_.entry(found).used_ms = static_cast<std::uint32_t>(now_us >> 10);
  }
  finish(id, found != null_entry ? store_outcome::done : store_outcome::miss);
}

/// Takes the entry's version and a pin at once: what happens to the entry later, a get that was
/// submitted earlier still reads what was there.
void segment_core::admit_get(std::uint32_t id, std::uint64_t now_us) {
  operation& o = op(id);
  const entry_id found = find_alive(o.item.key, now_us);
  if (found == null_entry || o.item.identity == nullptr || o.item.slices.empty()) {
    const bool is_refused = is_degraded_ || o.item.identity == nullptr;
    return finish(id, is_refused ? store_outcome::refused : store_outcome::miss);
  }
  if (o.item.slices.size() > record_slices_max ||
      padded_sum(o.item.slices) > index_.entry(found).bytes()) {
    return finish(id, store_outcome::miss);  // no record of ours
  }
  if (!may_read(o, now_us)) {
    return finish(id, store_outcome::refused);
  }
  const page_entry& e = index_.entry(found);
  segment_state& s = segments_[e.slot];
  o.place = e.place();
  o.generation = s.first_generation + e.generation_low;
  o.expires_us = e.expires_us();
  o.pin = segment_pin(s);
  o.state = operation_state::queued_read;
  push(reads_, id);
}

void segment_core::pump_reads() {
  while (!reads_.is_empty() && reads_in_flight_ < options_.reads_in_flight) {
    const std::uint32_t id = reads_.first;
    operation& o = op(id);
    if (o.state == operation_state::ended) {
      pop(reads_);
      o.state = operation_state::free;
      push(free_, id);
      continue;
    }
    if (!start_read(id)) {
      return;  // no bounce memory now
    }
    pop(reads_);
  }
}

/// Where slice i is before the header was read: known for the first one, and a guess for others,
/// which is right where all layers of a pool are equal.
bool segment_core::start_read(std::uint32_t id) {
  operation& o = op(id);
  const std::size_t header_bytes = o.place.header_blocks * record_alignment_bytes;
  o.header = bounce_.acquire(header_bytes);
  if (o.header.empty()) {
    return false;
  }
  const std::uint64_t guess =
      header_bytes + o.item.first_slice * record_padded(o.item.slices.front().size());
  const bool fits = guess + padded_sum(o.item.slices) <= o.place.bytes();
  o.parts.clear();
  o.parts.push_back(o.header.first(header_bytes));
  o.slices_at = 0;
  if (fits && !plan_slices(o, guess)) {
    const bool never = bounce_.used_bytes() == o.header.size();
    give_back(o);
    if (never) {  // more than there is at all
      const std::uint32_t first = pop(reads_);
      ORIEL_ASSERT(first == id);
      static_cast<void>(first);
      o.state = operation_state::reading;
      finish(id, store_outcome::refused, ENOMEM);
      pump_reads();
    }
    return false;
  }
  o.state = operation_state::reading;
  submit_read(id);
  return true;
}

/// Appends to o.parts where the slices go: straight into the caller's memory as far as that is
/// aligned, through bounce memory else. False: there is not enough of it now.
bool segment_core::plan_slices(operation& o, std::uint64_t at) {
  o.slices_at = at;
  for (std::uint32_t i = 0; i < o.item.slices.size(); ++i) {
    const std::span<std::byte> slice = o.item.slices[i];
    const std::size_t direct = is_disk_aligned(slice.data())
                                   ? slice.size() / disk_alignment_bytes * disk_alignment_bytes
                                   : 0;
    if (direct != 0) {
      o.parts.push_back(slice.first(direct));
    }
    if (direct != slice.size()) {
      const std::size_t rest = record_padded(slice.size() - direct);
      const std::span<std::byte> run = bounce_.acquire(rest);
      if (run.empty()) {
        return false;
      }
      o.bounced.push_back({i, direct, run});
      o.parts.push_back(run.first(rest));
    }
  }
  return true;
}

void segment_core::submit_read(std::uint32_t id) {
  operation& o = op(id);
  ORIEL_EXPECTS(static_cast<bool>(o.pin));
  o.error = 0;
  ++reads_in_flight_;
  const std::uint64_t at = o.place.offset();
  const auto parts = std::span<const std::span<std::byte>>(o.parts);
  if (o.slices_at == o.header.size() || o.slices_at == 0) {
    o.remaining = 1;
    return request(disk_op::read, o.pin.file(), at, parts, request_kind::read, id);
  }
  o.remaining = 2;
  request(disk_op::read, o.pin.file(), at, parts.first(1), request_kind::read, id);
  request(disk_op::read, o.pin.file(), at + o.slices_at, parts.subspan(1), request_kind::read, id);
}

void segment_core::give_back(operation& o) noexcept {
  bounce_.release(o.header);
  o.header = {};
  for (const bounced_slice& b : o.bounced) {
    bounce_.release(b.run);
  }
  o.bounced.clear();
}

/// The entry of exactly this version goes: a newer one of the same key stays.
void segment_core::forget_version(const operation& o) noexcept {
  if (ORIEL_MUTANT(failed_load_keeps_its_entry)) {
    return;
  }
  const entry_id id = index_.find(o.item.key);
  if (id != null_entry && index_.entry(id).place() == o.place) {
    index_.remove(id);
  }
}

/// Some of what the disk has read, at least one record: the next reads are on their way meanwhile,
/// and the caller gets the first pages before the last are summed.
void segment_core::judge_arrived(std::uint64_t now_us) {
  constexpr std::uint64_t bytes_max = std::uint64_t{512} << 10;
  for (std::uint64_t bytes = 0; !arrived_.is_empty() && bytes < bytes_max;) {
    const std::uint32_t id = pop(arrived_);
    bytes += op(id).place.bytes();
    read_ended(id, now_us);
  }
  drain(now_us);
}

void segment_core::read_ended(std::uint32_t id, std::uint64_t now_us) {
  operation& o = op(id);
  if (o.error != 0) {
    note_error("read", o.pin.file(), o.error, now_us);
    if (o.tries++ == 0) {
      ++state_.read_retries;
      return submit_read(id);
    }
    forget_version(o);
    return finish(id, store_outcome::miss, o.error);
  }
  note_success(o);
  judge(id, now_us);
}

/// What was read is not what was written. Once more: a disk may have erred on the way.
void segment_core::retry_or(std::uint32_t id,
                            store_outcome outcome,
                            record_verdict why,
                            std::uint64_t now_us) {
  operation& o = op(id);
  if (o.tries++ == 0) {
    ++state_.read_retries;
    return submit_read(id);
  }
  (why == record_verdict::misplaced ? stats_.misplaced : stats_.corrupt) += 1;
  note_error(name_of(why), o.pin.file(), 0, now_us);
  forget_version(o);
  finish(id, outcome);
}

void segment_core::judge(std::uint32_t id, std::uint64_t now_us) {
  operation& o = op(id);
  record_view view;
  const record_verdict verdict = decode_record(
      std::span<const std::byte>(o.header).first(o.place.header_blocks * record_alignment_bytes),
      view);
  if (verdict != record_verdict::sound) {
    return retry_or(id, store_outcome::corrupt, verdict, now_us);
  }
  if (!view.is_at({o.pin.file(), o.place.offset()}, o.generation) ||
      view.record_bytes != o.place.bytes()) {
    return retry_or(id, store_outcome::corrupt, record_verdict::misplaced, now_us);
  }
  if (!view.has_key(o.item.key)) {  // the index was wrong, as after an old snapshot
    ++stats_.misplaced;
    forget_version(o);
    return finish(id, store_outcome::miss);
  }
  // The record's own expiry is of the wall clock, which may have jumped since.
  if (o.expires_us != 0 && o.expires_us <= now_us) {
    forget_version(o);
    return finish(id, store_outcome::miss);
  }
  const store_item& item = o.item;
  bool is_asked_for = view.has_identity(*item.identity) && item.first_slice <= view.slice_count &&
                      item.slices.size() <= view.slice_count - item.first_slice;
  for (std::uint32_t i = 0; is_asked_for && i < item.slices.size(); ++i) {
    is_asked_for = view.slice(item.first_slice + i).bytes == item.slices[i].size();
  }
  if (!is_asked_for) {
    stats_.misplaced += view.has_identity(*item.identity) ? 0u : 1u;
    return finish(id, store_outcome::miss);
  }
  if (const std::uint64_t at = view.slice_offset(item.first_slice); at != o.slices_at) {
    for (const bounced_slice& b : o.bounced) {
      bounce_.release(b.run);
    }
    o.bounced.clear();
    o.parts.resize(1);
    if (o.plans++ != 0 || !plan_slices(o, at)) {  // rare enough not to wait for memory
      return finish(id, store_outcome::refused, ENOMEM);
    }
    return submit_read(id);
  }
  if (const record_verdict sums = check_slices(o, view); sums != record_verdict::sound) {
    return retry_or(id, store_outcome::corrupt, sums, now_us);
  }
  std::uint64_t bytes = 0;
  for (const std::span<std::byte> s : item.slices) {
    bytes += s.size();
  }
  if (const entry_id found = index_.find(item.key);
      found != null_entry && index_.entry(found).place() == o.place) {
    page_entry& e = index_.entry(found);
    e.was_hit = true;
    e.used_ms = static_cast<std::uint32_t>(now_us >> 10);
    e.is_proven = e.is_proven || (item.first_slice == 0 && item.slices.size() == view.slice_count);
  }
  finish(id, store_outcome::done, 0, bytes);
}

/// Copies what was bounced and sums what the caller will see.
record_verdict segment_core::check_slices(operation& o, const record_view& view) noexcept {
  for (const bounced_slice& b : o.bounced) {
    const std::span<std::byte> to = o.item.slices[b.slice].subspan(b.from);
    std::memcpy(to.data(), b.run.data(), to.size());
  }
  if (options_.trusts_the_disk) {
    return record_verdict::sound;
  }
  for (std::uint32_t i = 0; i < o.item.slices.size(); ++i) {
    if (!view.is_slice(o.item.first_slice + i, o.item.slices[i])) {
      return record_verdict::damaged;
    }
  }
  return record_verdict::sound;
}

}  // namespace oriel::detail
