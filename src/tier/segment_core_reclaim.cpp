// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Syncs, and the end of segments. Always the oldest segment goes, and its name is gone for good
// before the next one follows: so a tombstone in it can only have killed records that lie in it
// too, and may go with them.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/detail/segment_core.hpp>

#include <algorithm>
#include <cerrno>

namespace oriel::detail {

void segment_core::mark_dirty(std::uint16_t slot) {
  segment_state& s = segments_[slot];
  s.is_dirty = true;
  if (!s.is_listed) {
    s.is_listed = true;
    unsynced_.push_back(slot);
  }
}

void segment_core::start_sync(std::uint32_t id) {
  operation& o = op(id);
  o.state = operation_state::syncing;
  o.remaining = 0;
  o.error = 0;
  if (std::exchange(has_lost_acknowledged_, false)) {
    return finish(id, store_outcome::failed, EIO);  // a sync of our own failed since the last one
  }
  if (ORIEL_MUTANT(sync_is_acknowledged_early)) {
    return finish(id, store_outcome::done);
  }
  std::erase_if(unsynced_, [&](std::uint16_t slot) {
    segment_state& s = segments_[slot];
    s.is_listed = !s.is_broken && (s.is_dirty || s.is_syncing);
    return !s.is_listed;
  });
  for (const std::uint16_t slot : unsynced_) {
    const segment_state& s = segments_[slot];
    const std::uint64_t need = s.is_dirty ? request_sync(slot) : s.syncs_started;
    ++o.remaining;
    wait_for_sync(slot, need, id);
  }
  if (o.remaining == 0) {
    finish(id, store_outcome::done);
  }
}

/// The number of the next sync of a segment, which is asked for.
std::uint64_t segment_core::request_sync(std::uint16_t slot) {
  if (!std::exchange(segments_[slot].wants_sync, true)) {
    wanted_.push_back(slot);
  }
  return segments_[slot].syncs_started + 1;
}

void segment_core::wait_for_sync(std::uint16_t slot, std::uint64_t need, std::uint32_t id) {
  segments_[slot].waits.push_back({need, id});
}

void segment_core::pump_syncs() {
  std::erase_if(wanted_, [&](std::uint16_t slot) {
    segment_state& s = segments_[slot];
    if (!s.wants_sync || s.is_broken) {
      return true;
    }
    if (s.is_syncing) {
      return false;  // once more, when that one has ended
    }
    s.is_syncing = true;
    s.wants_sync = s.is_dirty = false;
    ++s.syncs_started;
    s.covered_generation = s.last_generation;
    for (const write_batch& b : batches_) {  // what is under way may or may not be covered
      if (b.is_in_flight && b.slot == slot) {
        s.covered_generation = std::min(s.covered_generation, b.first_generation - 1);
      }
    }
    request(disk_op::sync, s.file, 0, {}, request_kind::sync, slot);
    return true;
  });
}

void segment_core::sync_ended(std::uint16_t slot, int error, std::uint64_t now_us) {
  segment_state& s = segments_[slot];
  s.is_syncing = false;
  s.syncs_done = s.syncs_started;
  if (error == 0) {
    s.durable_generation = std::max(s.durable_generation, s.covered_generation);
  } else {
    ++state_.failed_syncs;
    note_error("sync", s.file, error, now_us);
    distrust(slot);
  }
  for (std::size_t i = 0; i < s.waits.size();) {
    const sync_wait w = s.waits[i];
    if (w.need > s.syncs_done && !s.is_broken) {
      ++i;
      continue;
    }
    s.waits.erase(s.waits.begin() + static_cast<std::ptrdiff_t>(i));
    if (w.operation == null_id) {
      reclaim_.phase = --reclaim_.syncs == 0 ? reclaim_phase::draining : reclaim_.phase;
      continue;
    }
    operation& o = op(w.operation);
    o.error = error != 0 ? error : o.error;
    if (--o.remaining == 0) {
      finish(w.operation, o.error == 0 ? store_outcome::done : store_outcome::failed, o.error);
    }
  }
}

/// After a failed sync the system may have dropped what it could not write, and calls it clean: a
/// second try proves nothing (F9). The segment is closed, and what it is not known to keep is gone.
void segment_core::distrust(std::uint16_t slot) {
  segment_state& s = segments_[slot];
  if (ORIEL_MUTANT(failed_sync_is_trusted)) {
    return;
  }
  s.is_broken = true;
  s.is_dirty = s.wants_sync = false;
  head_ = head_ == slot ? null_slot : head_;
  bool loses = false;
  for (entry_id id = index_.first_of(slot); id != null_entry;) {
    const page_entry& e = index_.entry(id);
    const entry_id next = e.next_in_segment;
    if (s.first_generation + e.generation_low > s.durable_generation) {
      loses = true;
      index_.remove(id);
    }
    id = next;
  }
  const bool is_told = std::ranges::any_of(s.waits, [&](const sync_wait& w) {
    return w.operation != null_id && op(w.operation).item.op == store_op::sync;
  });
  has_lost_acknowledged_ = has_lost_acknowledged_ || (loses && !is_told);
}

/// By the sizes that the files have: those before this process may have been of other segments.
bool segment_core::may_add_segment() const noexcept {
  const std::uint64_t have = ORIEL_MUTANT(files_count_as_of_one_size)
                                 ? order_.size() * options_.segment_bytes
                                 : file_bytes_;
  return have + options_.segment_bytes <=
         options_.capacity_bytes * (ORIEL_MUTANT(usage_is_not_counted) ? 2 : 1);
}

/// Entries for what is put while a segment is reclaimed.
bool segment_core::is_index_short() const noexcept {
  return index_.pages() + index_.pages_max() / 16 >= index_.pages_max() &&
         !ORIEL_MUTANT(full_index_evicts_the_new);
}

void segment_core::pump_reclaim(std::uint64_t now_us) {
  // One file less than there may be, so that what is carried over always has a head to go to.
  if (reclaim_.phase == reclaim_phase::idle && (!may_add_segment() || is_index_short())) {
    start_reclaim(now_us);
  }
  if (reclaim_.phase == reclaim_phase::carrying) {
    start_carries();
    finish_carrying(now_us);
  }
  if (reclaim_.phase == reclaim_phase::draining) {
    remove_victim(now_us);
  }
}

void segment_core::start_reclaim(std::uint64_t now_us) {
  if (reclaim_.phase != reclaim_phase::idle || order_.empty() || order_.front() == head_) {
    return;
  }
  reclaim_.slot = order_.front();
  reclaim_.survivors.clear();
  reclaim_.written_to.clear();
  reclaim_.next = 0;
  reclaim_.reserved_bytes = 0;
  reclaim_.retry_us = 0;
  reclaim_.phase = reclaim_phase::carrying;
  choose_survivors(now_us);
}

/// Carried over: what was used since it was written, the latest first; and all that is alive while
/// the store is mostly made of what is not. A window page only with its full page: nobody can use
/// it without.
void segment_core::choose_survivors(std::uint64_t now_us) {
  const std::uint16_t victim = reclaim_.slot;
  const auto share = static_cast<std::uint64_t>(options_.carry_share_max *
                                                static_cast<double>(options_.segment_bytes));
  std::uint64_t room = head_ == null_slot
                           ? 0
                           : std::min(share, segments_[head_].bytes - segments_[head_].head_bytes);
  const bool has_space =
      index_.used_bytes() + 2 * options_.segment_bytes <= options_.capacity_bytes &&
      !is_index_short();
  const auto tenant_most = options_.tenant_share_max * static_cast<double>(options_.capacity_bytes);
  std::vector<survivor>& kept = reclaim_.survivors;
  const auto is_kept = [&](entry_id id) { return index_.entry(id).is_surviving; };
  std::vector<entry_id> all;
  for (entry_id id = index_.first_of(victim); id != null_entry;) {
    const entry_id next = index_.entry(id).next_in_segment;
    if (index_.is_dropped(id)) {
      index_.remove(id);  // now: a search below would do it behind our back
    } else {
      all.push_back(id);
    }
    id = next;
  }
  std::ranges::stable_sort(all, [&](entry_id a, entry_id b) {
    return static_cast<std::int32_t>(index_.entry(a).used_ms - index_.entry(b).used_ms) > 0;
  });
  for (const bool wants_full : {true, false}) {
    for (const entry_id id : all) {
      const page_entry& e = index_.entry(id);
      if ((e.pool == 0) != wants_full || e.is_expired(now_us) || !(e.was_hit || has_space) ||
          e.bytes() > room || e.bytes() > bounce_.capacity_bytes() / 2 ||
          static_cast<double>(index_.tenant_bytes(index_.origin_of(id).owner.tenant)) >
              tenant_most) {
        continue;
      }
      if (!wants_full && !ORIEL_MUTANT(window_is_carried_alone)) {
        const entry_id full = index_.find_full_of(id);
        if (full == null_entry || (index_.entry(full).slot == victim && !is_kept(full))) {
          continue;
        }
      }
      kept.push_back({id, e.place()});
      index_.entry(id).is_surviving = true;
      room -= e.bytes();
      reclaim_.reserved_bytes += e.bytes();
    }
  }
  scratch_.clear();
  for (const entry_id id : all) {
    scratch_.push_back({id, index_.entry(id).place()});
  }
  for (const survivor& s : scratch_) {
    if (index_.entry(s.entry).place() == s.place && !is_kept(s.entry)) {
      evict(s.entry, now_us);
    }
  }
  for (const survivor& s : kept) {
    index_.entry(s.entry).is_surviving = false;
  }
}

void segment_core::start_carries() {
  for (std::uint32_t id = 0; id < carries_.size(); ++id) {
    carried_record& c = carries_[id];
    while (c.state == carry_state::free && reclaim_.next < reclaim_.survivors.size()) {
      const survivor& s = reclaim_.survivors[reclaim_.next];
      const bool is_still_there =
          index_.entry(s.entry).place() == s.place && !index_.is_dropped(s.entry);
      const std::span<std::byte> run =
          is_still_there ? bounce_.acquire(s.place.bytes()) : std::span<std::byte>();
      if (is_still_there && run.empty() && bounce_.used_bytes() != 0) {
        return;  // later
      }
      ++reclaim_.next;
      if (run.empty()) {
        reclaim_.reserved_bytes -= s.place.bytes();
        continue;
      }
      segment_state& from = segments_[reclaim_.slot];
      c.state = carry_state::reading;
      c.tries = 0;
      c.entry = s.entry;
      c.place = s.place;
      c.generation = from.first_generation + s.place.generation_low;
      c.run = run;
      c.part = run.first(s.place.bytes());
      c.pin = segment_pin(from);
      ++reclaim_.in_flight;
      request(disk_op::read, from.file, s.place.offset(), {&c.part, 1}, request_kind::carry, id);
    }
  }
}

/// Is this, every slice included, the page that was written at this place at this time?
bool segment_core::is_whole_page(std::span<const std::byte> record,
                                 record_place place,
                                 std::uint64_t generation,
                                 record_view& view) noexcept {
  bool is_sound = decode_record(record, view) == record_verdict::sound &&
                  view.is_at(place, generation) && view.fields.type == record_type::page &&
                  view.record_bytes == record.size();
  for (std::uint32_t i = 0; is_sound && i < view.slice_count; ++i) {
    is_sound = view.is_slice(i, record.subspan(view.slice_offset(i), view.slice(i).bytes));
  }
  return is_sound;
}

void segment_core::carry_read(std::uint32_t id, int error, std::uint64_t now_us) {
  carried_record& c = carries_[id];
  record_view view;
  const bool is_sound =
      error == 0 && is_whole_page(c.part, {c.pin.file(), c.place.offset()}, c.generation, view);
  if (!is_sound && c.tries++ == 0) {
    ++state_.read_retries;
    return request(
        disk_op::read, c.pin.file(), c.place.offset(), {&c.part, 1}, request_kind::carry, id);
  }
  // A search frees dropped entries that it meets: first the search, then the look.
  const entry_id found = is_sound ? index_.find(view.fields.key) : null_entry;
  const bool is_there = index_.entry(c.entry).place() == c.place;
  if (!is_there || found != c.entry) {
    if (!is_sound) {
      stats_.corrupt += error == 0 ? 1 : 0;
      note_error("read", c.pin.file(), error, now_us);
    }
    if (is_there) {
      index_.remove(c.entry);
    }
    reclaim_.reserved_bytes -= c.place.bytes();
    return end_carry(id);
  }
  c.key = view.fields.key;
  c.state = carry_state::ready;
  carries_ready_.push_back(id);
}

void segment_core::carried_to(std::uint32_t id, const entry_place& to) {
  carried_record& c = carries_[id];
  const entry_id still = index_.find(c.key);
  if (still != null_entry && index_.entry(still).place() == c.place) {
    index_.move(still, to);
    index_.entry(still).was_hit = false;  // a second life has to be earned
    index_.entry(still).is_proven = true;
    ++state_.carried_pages;
    if (std::ranges::find(reclaim_.written_to, to.slot) == reclaim_.written_to.end()) {
      reclaim_.written_to.push_back(to.slot);
    }
  }
  end_carry(id);
}

void segment_core::end_carry(std::uint32_t id) noexcept {
  carried_record& c = carries_[id];
  bounce_.release(c.run);
  c.run = c.part = {};
  c.pin.release();
  c.state = carry_state::free;
  --reclaim_.in_flight;
}

void segment_core::finish_carrying(std::uint64_t now_us) {
  if (reclaim_.next < reclaim_.survivors.size() || reclaim_.in_flight != 0) {
    return;
  }
  while (index_.first_of(reclaim_.slot) != null_entry) {  // what could not be carried
    evict(index_.first_of(reclaim_.slot), now_us);
  }
  // What was durable here must be durable there before this goes.
  reclaim_.phase = reclaim_phase::draining;
  for (const std::uint16_t slot : reclaim_.written_to) {
    if (!segments_[slot].is_broken && !ORIEL_MUTANT(carried_records_are_not_synced)) {
      reclaim_.phase = reclaim_phase::syncing;
      ++reclaim_.syncs;
      wait_for_sync(slot, request_sync(slot), null_id);
    }
  }
}

void segment_core::remove_victim(std::uint64_t now_us) {
  segment_state& s = segments_[reclaim_.slot];
  if (s.pins != 0 || s.is_syncing || s.wants_sync || now_us < reclaim_.retry_us) {
    return;
  }
  while (index_.first_of(reclaim_.slot) != null_entry) {  // a write that ended meanwhile
    evict(index_.first_of(reclaim_.slot), now_us);
  }
  const status gone = names_are_dirty_ ? names_.sync_names() : status();
  const status removed = gone ? names_.remove(s.file) : gone;
  if (!removed && removed.error().native != ENOENT) {  // Else somebody else removed it.
    const int native = removed.error().native;
    note_error("remove", s.file, native, now_us);
    reclaim_.retry_us = now_us + options_.probe_interval_us;
    return pause_writes(native != 0 ? native : ENOSPC, now_us);  // nothing more fits until then
  }
  const status synced = ORIEL_MUTANT(removed_names_are_not_synced) ? status() : names_.sync_names();
  names_are_dirty_ = !synced;
  if (!synced) {
    note_error("remove", s.file, synced.error().native, now_us);
  }
  file_bytes_ -= s.bytes;
  std::erase(order_, reclaim_.slot);
  std::erase(unsynced_, reclaim_.slot);
  std::erase(wanted_, reclaim_.slot);
  free_slots_.push_back(reclaim_.slot);
  reclaim_.phase = reclaim_phase::idle;
  ++state_.reclaimed_segments;
}

void segment_core::evict(entry_id id, std::uint64_t now_us) {
  const page_entry e = index_.entry(id);
  if (!index_.is_dropped(id)) {
    ++stats_.evicted_pages;
    stats_.evicted_age_us_sum += std::uint64_t{static_cast<std::uint32_t>(now_us >> 10) - e.used_ms}
                                 << 10;
  }
  index_.remove(id);
  if (e.pool == 0 && !ORIEL_MUTANT(window_stays_without_its_full_page)) {
    for (entry_id w = index_.find_window_of(e.link); w != null_entry;
         w = index_.find_window_of(e.link)) {
      evict(w, now_us);
    }
  }
}

}  // namespace oriel::detail
