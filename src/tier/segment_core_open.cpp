// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Opening: what lies on the disk decides. The snapshot says which parts need not be read again, and
// is believed only if every segment that it could speak of still starts the way it says.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/detail/segment_core.hpp>
#include <oriel/tier/store_clock.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace oriel::detail {
namespace {

/// Does this say that we may not, or cannot now, and nothing of the medium? Another open may read
/// what this one could not.
bool is_refusal(int error) noexcept {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == EACCES ||
         error == EPERM || error == ELOOP;
}

}  // namespace

void segment_core::scan_read(std::uint32_t lane, int error, std::uint64_t now_us) {
  if (is_refusal(error) && !ORIEL_MUTANT(refusal_counts_as_unreadable)) {
    throw std::system_error(
        error, std::generic_category(), "cannot read " + names_.where(scan_->file_of(lane)));
  }
  scan_->read_ended(lane, error);
  for (const found_record& found : scan_->found()) {
    take_found(found, now_us);
  }
  pump_scan(now_us);
}

std::uint16_t segment_core::add_segment(std::uint32_t file, std::uint64_t bytes) {
  const std::uint16_t slot = free_slots_.back();
  free_slots_.pop_back();
  segments_[slot] = segment_state{};
  segments_[slot].file = file;
  segments_[slot].bytes = bytes;
  file_bytes_ += bytes;
  order_.push_back(slot);
  next_file_ = std::max(next_file_, file + 1);
  return slot;
}

std::vector<std::uint16_t>::const_iterator segment_core::order_from(
    std::uint32_t file) const noexcept {
  return std::ranges::lower_bound(
      order_, file, {}, [&](std::uint16_t slot) { return segments_[slot].file; });
}

void segment_core::open(std::span<const disk_file> files,
                        std::span<const std::byte> snapshot,
                        std::uint64_t now_us) {
  ORIEL_EXPECTS(order_.empty() && pending_ == 0);
  std::vector<disk_file> sorted(files.begin(), files.end());
  // Of no store: the last number is never given out, and nothing could follow it.
  std::erase_if(sorted, [](const disk_file& f) {
    return f.file == file_number_end && !ORIEL_MUTANT(last_number_is_a_segment);
  });
  std::ranges::sort(sorted, {}, &disk_file::file);
  // Room for more files than may be, until they are reclaimed.
  const std::size_t slots = options_.capacity_bytes / options_.segment_bytes + 2 + sorted.size();
  if (slots >= null_slot) {
    throw std::invalid_argument("segment_store: more than 65,000 segments");
  }
  segments_ = std::vector<segment_state>(slots);
  index_.set_slots(slots);
  for (std::vector<std::uint16_t>* of_slots : {&order_, &free_slots_, &unsynced_, &wanted_}) {
    of_slots->reserve(slots);
  }
  outbox_.reserve(slots + 2 * options_.reads_in_flight + batches_.size() + carries_.size() +
                  options_.scan_segments);
  for (std::size_t slot = slots; slot-- > 0;) {
    free_slots_.push_back(static_cast<std::uint16_t>(slot));
  }
  std::vector<scanned_file> scanned;
  for (const disk_file& f : sorted) {
    const std::uint16_t slot = add_segment(f.file, f.bytes);
    segments_[slot].head_bytes = f.bytes;
    const std::uint64_t written =
        std::min(f.written_bytes, f.bytes) / (ORIEL_MUTANT(scan_reads_half_of_a_segment) ? 2 : 1);
    scanned.push_back({f.file, slot, f.bytes, written, 0});
  }
  recovery_ = std::make_unique<recovery>();
  recovery_->has_snapshot = decode_snapshot(snapshot, recovery_->snapshot);
  recovery_->starts.resize(slots);
  recovery_->has_base.resize(slots);
  scan_ = std::make_unique<segment_scan>(
      std::move(scanned), options_.scan_segments, options_.scan_chunk_bytes);
  pump_scan(now_us);
}

void segment_core::pump_scan(std::uint64_t now_us) {
  segment_scan::read r;
  for (int pass = 0; pass < 2; ++pass) {
    while (scan_->next_read(r)) {
      request(disk_op::read, r.file, r.offset, r.parts, request_kind::scan, r.lane);
    }
    if (scan_->has_starts() && !recovery_->is_scanning) {
      begin_second_pass(now_us);
    }
  }
  if (scan_->is_finished() && !recovery_->is_judging) {
    start_contests();
    pump_contests(now_us);
  }
}

/// A snapshot leaves out tombstones that it has carried out already. So it may be used only if
/// nothing older than itself is read again: all segments up to its youngest are those it knows.
bool segment_core::snapshot_fits() const {
  const segment_snapshot& snapshot = recovery_->snapshot;
  if (!recovery_->has_snapshot || snapshot.segments.empty()) {
    return false;
  }
  if (ORIEL_MUTANT(snapshot_is_believed)) {
    return true;
  }
  if (snapshot.wall_us > names_.wall_us()) {
    return false;  // the clock went back: only the records say when they were written
  }
  const std::uint32_t last = snapshot.segments.back().file;
  return std::ranges::all_of(order_, [&](std::uint16_t slot) {
    if (segments_[slot].file > last) {
      return true;
    }
    const record_fields& start = recovery_->starts[slot];
    const snapshot_segment* s = snapshot.segment_of(segments_[slot].file);
    if (s == nullptr) {
      return false;
    }
    if (s->covered_bytes == 0 && !ORIEL_MUTANT(empty_segment_ends_snapshots)) {
      return true;  // it was empty: what it has is younger, and is read whole
    }
    return start.generation != 0 && s->stamp == start.stamp &&
           s->first_generation == start.generation;
  });
}

void segment_core::begin_second_pass(std::uint64_t now_us) {
  recovery_->is_scanning = true;
  const bool fits = snapshot_fits();
  std::vector<std::uint64_t> from;
  for (const scanned_file& f : scan_->files()) {
    const snapshot_segment* s = fits ? recovery_->snapshot.segment_of(f.file) : nullptr;
    from.push_back(s != nullptr ? s->covered_bytes : 0);
  }
  if (fits) {
    take_snapshot(now_us);
  }
  state_.used_snapshot = fits;
  recovery_->has_snapshot = fits;
  scan_->scan_from(from);
}

/// Every entry is a hint: the record will say whether it is true.
void segment_core::take_snapshot(std::uint64_t now_us) {
  const segment_snapshot& snapshot = recovery_->snapshot;
  std::vector<std::uint16_t> slots(snapshot.segments.size(), null_slot);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const auto at = order_from(snapshot.segments[i].file);
    if (at != order_.end() && segments_[*at].file == snapshot.segments[i].file) {
      slots[i] = *at;
    }
  }
  generation_ = std::max(generation_, snapshot.generation);
  const std::uint64_t wall_us = names_.wall_us();
  for (const snapshot_entry& e : snapshot.entries) {
    const std::uint16_t slot = slots[e.segment];
    if (slot == null_slot || e.blocks == 0 || (e.expires_us != 0 && e.expires_us <= wall_us)) {
      continue;
    }
    entry_spec spec;
    std::memcpy(spec.key.link.bytes.data(), e.link, sizeof(e.link));
    spec.key.pool = e.pool;
    spec.place = {slot, e.blocks, e.offset_blocks, e.generation_low, e.header_blocks};
    if (spec.place.offset() + spec.place.bytes() > segments_[slot].bytes) {
      continue;  // the file was cut since
    }
    spec.owner = snapshot.origins[e.origin].owner;
    spec.name_space = snapshot.origins[e.origin].name_space;
    spec.expires_us = e.expires_us != 0 ? by_other_clock(e.expires_us, wall_us, now_us) : 0;
    spec.now_us = now_us;
    static_cast<void>(index_.insert(spec));
  }
}

void segment_core::take_found(const found_record& found, std::uint64_t now_us) {
  segment_state& s = segments_[found.slot];
  const record_fields& f = found.fields;
  generation_ = std::max(generation_, f.generation);
  s.last_generation = std::max(s.last_generation, f.generation);
  if (!recovery_->has_base[found.slot]) {
    recovery_->has_base[found.slot] = true;
    // Records come in the order of their generations, but for a few that were written over.
    constexpr std::uint64_t slack = 1u << 20;
    s.first_generation = f.type == record_type::segment_start
                             ? f.generation
                             : f.generation - std::min(f.generation, slack);
    s.stamp = f.stamp;
  }
  if (f.type == record_type::segment_start) {
    recovery_->starts[found.slot] = f;
    return;
  }
  if (!recovery_->is_scanning) {
    return;
  }
  if (f.type != record_type::page) {
    state_.recovered_tombstones += 1;
    recovery_->tombstones.push_back(f);
    return;
  }
  const std::uint64_t blocks = found.record_bytes / record_alignment_bytes;
  const std::uint64_t low = f.generation - s.first_generation;
  const std::uint64_t wall_us = f.expires_us != 0 ? names_.wall_us() : 0;
  if (f.generation < s.first_generation || low > 0xFFFF'FFFFu || blocks > index_blocks_max ||
      f.key.pool >= index_pools_max || f.is_over(wall_us)) {
    return;
  }
  const entry_spec spec{
      .key = f.key,
      .place = {found.slot,
                static_cast<std::uint16_t>(blocks),
                static_cast<std::uint32_t>(f.place.offset / record_alignment_bytes),
                static_cast<std::uint32_t>(low),
                static_cast<std::uint8_t>(found.header_bytes / record_alignment_bytes)},
      .owner = f.owner,
      .name_space = found.name_space,
      .expires_us = f.expires_us != 0 ? by_other_clock(f.expires_us, wall_us, now_us) : 0,
      .now_us = now_us};
  if (const entry_id old = index_.find(f.key); old != null_entry) {
    const page_entry& e = index_.entry(old);
    if (segments_[e.slot].first_generation + e.generation_low >= f.generation) {
      recovery_->older.push_back({spec, f.generation});
      return;
    }
    keep_older(old);
  }
  static_cast<void>(index_.insert(spec));
}

void segment_core::keep_older(entry_id id) {
  const page_entry& e = index_.entry(id);
  older_record older;
  std::memcpy(older.spec.key.link.bytes.data(), e.link, sizeof(e.link));
  older.spec.key.pool = e.pool;
  older.spec.place = e.place();
  older.spec.owner = index_.origin_of(id).owner;
  older.spec.name_space = index_.origin_of(id).name_space;
  older.spec.expires_us = e.expires_us();
  older.generation = segments_[e.slot].first_generation + e.generation_low;
  recovery_->older.push_back(older);
}

/// One contest for each page that has several records.
void segment_core::start_contests() {
  recovery& r = *recovery_;
  r.is_judging = true;
  for (older_record& o : r.older) {  // the index knows no more of a link
    std::ranges::fill(std::span(o.spec.key.link.bytes).subspan(16), std::byte{0});
  }
  std::ranges::sort(r.older, [](const older_record& a, const older_record& b) {
    return a.spec.key != b.spec.key ? a.spec.key < b.spec.key : a.generation > b.generation;
  });
  for (std::size_t i = 0; i < r.older.size(); ++i) {
    if (i == 0 || r.older[i].spec.key != r.older[i - 1].spec.key) {
      r.to_judge.push_back(static_cast<std::uint32_t>(r.contests.size()));
      contest& c = r.contests.emplace_back();
      c.next = i;
      c.key = r.older[i].spec.key;
    }
    r.contests.back().end = i + 1;
  }
  if (ORIEL_MUTANT(youngest_record_is_believed)) {
    r.to_judge.clear();
  }
}

void segment_core::pump_contests(std::uint64_t now_us) {
  recovery& r = *recovery_;
  while (!r.to_judge.empty() && r.in_flight < options_.reads_in_flight) {
    const std::uint32_t id = r.to_judge.back();
    contest& c = r.contests[id];
    const entry_id entry = index_.find(c.key);
    if (entry == null_entry) {
      r.to_judge.pop_back();
      continue;
    }
    c.place = index_.entry(entry).place();
    c.run = bounce_.acquire(c.place.bytes());
    if (c.run.empty()) {
      if (r.in_flight != 0) {
        return;
      }
      r.to_judge.pop_back();  // larger than all of the memory: the first get will tell
      continue;
    }
    r.to_judge.pop_back();
    c.part = c.run.first(c.place.bytes());
    const segment_state& s = segments_[c.place.slot];
    c.generation = s.first_generation + c.place.generation_low;
    ++r.in_flight;
    request(disk_op::read, s.file, c.place.offset(), {&c.part, 1}, request_kind::contest, id);
  }
  if (r.in_flight == 0) {
    finish_recovery(now_us);
  }
}

void segment_core::contest_read(std::uint32_t id, int error, std::uint64_t now_us) {
  recovery& r = *recovery_;
  contest& c = r.contests[id];
  record_view view;
  const bool is_sound =
      error == 0 &&
      is_whole_page(c.part, {segments_[c.place.slot].file, c.place.offset()}, c.generation, view) &&
      index_.find(view.fields.key) == index_.find(c.key);
  bounce_.release(c.run);
  --r.in_flight;
  if (!is_sound && c.tries++ == 0) {
    r.to_judge.push_back(id);
  } else if (!is_sound) {
    c.tries = 0;
    index_.remove(index_.find(c.key));
    if (c.next < c.end) {
      static_cast<void>(index_.insert(r.older[c.next++].spec));
      r.to_judge.push_back(id);
    }
  }
  pump_contests(now_us);
}

/// A tombstone kills what is older than itself, wherever either was found.
void segment_core::apply_tombstones() {
  std::map<page_digest, std::uint64_t> spaces;
  std::map<std::uint64_t, std::uint64_t> tenants;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> sessions;
  const auto raise = [](std::uint64_t& to, std::uint64_t generation) {
    to = std::max(to, generation);
  };
  const auto generation_of = [&](const page_entry& e) {
    return segments_[e.slot].first_generation + e.generation_low;
  };
  for (const record_fields& t : recovery_->tombstones) {
    if (t.type == record_type::erase) {
      const entry_id id = index_.find(t.key);
      if (id != null_entry && generation_of(index_.entry(id)) < t.generation) {
        index_.remove(id);
      }
    } else if (t.type == record_type::drop_space) {
      raise(spaces[t.key.link], t.generation);
    } else if (t.type == record_type::drop_tenant) {
      raise(tenants[t.owner.tenant], t.generation);
    } else {
      raise(sessions[{t.owner.tenant, t.owner.session}], t.generation);
    }
  }
  if (spaces.empty() && tenants.empty() && sessions.empty()) {
    return;
  }
  const auto kills = [](const auto& tombstones, const auto& name, std::uint64_t generation) {
    const auto found = tombstones.find(name);
    return found != tombstones.end() && generation < found->second;
  };
  for (const std::uint16_t slot : order_) {
    for (entry_id id = index_.first_of(slot); id != null_entry;) {
      const page_origin& o = index_.origin_of(id);
      const std::uint64_t generation = generation_of(index_.entry(id));
      const bool dies = kills(spaces, o.name_space, generation) ||
                        kills(tenants, o.owner.tenant, generation) ||
                        kills(sessions, std::pair(o.owner.tenant, o.owner.session), generation);
      const entry_id next = index_.entry(id).next_in_segment;
      if (dies) {
        index_.remove(id);
      }
      id = next;
    }
  }
}

/// What could not be read may have been a tombstone. It can have killed anything of its segment and
/// of those before: a page that may have been deleted is not served.
void segment_core::forget_before_unread() {
  const auto files = scan_->files();
  const auto last = std::find_if(
      files.rbegin(), files.rend(), [](const scanned_file& f) { return f.has_unread; });
  if (last == files.rend() || ORIEL_MUTANT(unread_stretch_is_passed_over)) {
    return;
  }
  unread_file_ = last->file;
  note_fault("scan", last->file, EIO);
  for (const std::uint16_t slot : order_) {
    while (segments_[slot].file <= last->file && index_.first_of(slot) != null_entry) {
      index_.remove(index_.first_of(slot));
    }
  }
}

/// After a clean end the youngest segment goes on where it stopped, or each process would cost a
/// whole one. It must be as the snapshot left it: behind its head nothing was found, not even a
/// torn record, so nothing that was acknowledged is written over, and no generation comes twice in
/// one place.
void segment_core::continue_youngest() {
  if (!recovery_->has_snapshot || order_.empty()) {
    return;
  }
  segment_state& s = segments_[order_.back()];
  const snapshot_segment* known = recovery_->snapshot.segment_of(s.file);
  const bool is_as_it_was = known != nullptr && (!scan_->files().back().has_remains ||
                                                 ORIEL_MUTANT(torn_tail_is_written_over));
  // A segment that is too large for a capacity of today goes like all others.
  if (!is_as_it_was || known->covered_bytes % record_alignment_bytes != 0 ||
      known->covered_bytes < record_alignment_bytes ||
      known->covered_bytes + record_alignment_bytes > s.bytes ||
      generation_ - s.first_generation > 0x7FFF'FFFFu ||
      s.bytes + options_.segment_bytes > options_.capacity_bytes ||
      ORIEL_MUTANT(each_process_takes_a_segment)) {
    return;
  }
  s.head_bytes = known->covered_bytes;
  s.last_generation = generation_;
  head_ = order_.back();
}

bool segment_core::has_unread() const noexcept {
  return unread_file_ && !order_.empty() && segments_[order_.front()].file <= *unread_file_;
}

void segment_core::finish_recovery(std::uint64_t now_us) {
  if (!ORIEL_MUTANT(tombstones_are_not_replayed)) {
    apply_tombstones();
  }
  forget_before_unread();
  for (const scanned_file& f : scan_->files()) {
    if (!recovery_->has_base[f.slot] && !f.has_unread) {
      segments_[f.slot].head_bytes = 0;  // of a process that was killed before its first write
    }
  }
  continue_youngest();
  for (const std::uint16_t slot : order_) {
    // The process before may have ended between a write and its sync.
    if (!ORIEL_MUTANT(recovered_segments_count_as_synced)) {
      mark_dirty(slot);
    }
  }
  state_.damaged_blocks = scan_->damaged_blocks();
  state_.unreadable_blocks = scan_->unreadable_blocks();
  state_.recovered_pages = index_.pages();
  scan_.reset();
  recovery_.reset();
  progress(now_us);
}

std::vector<std::byte> segment_core::snapshot(std::uint64_t now_us) const {
  segment_snapshot s;
  s.generation = generation_;
  s.wall_us = names_.wall_us();
  std::vector<std::uint32_t> origin_of;  // [origins of the index] -> [origins of the snapshot]
  for (const std::uint16_t slot : order_) {
    const segment_state& segment = segments_[slot];
    // Of a write that failed anything may lie behind the head, and a tombstone that killed it before.
    const std::uint64_t tried = ORIEL_MUTANT(failed_writes_leave_nothing) ? 0 : segment.tried_bytes;
    // A segment that was closed is not continued. With nothing but writes that failed it has no
    // start, and no tombstone can have killed what they left.
    const std::uint64_t covered = segment.is_broken         ? segment.bytes
                                  : segment.head_bytes == 0 ? 0
                                                            : std::max(segment.head_bytes, tried);
    s.segments.push_back({segment.file, 0, segment.stamp, segment.first_generation, covered});
    for (entry_id id = index_.first_of(slot); id != null_entry;
         id = index_.entry(id).next_in_segment) {
      const page_entry& e = index_.entry(id);
      if (index_.is_dropped(id) || e.is_expired(now_us)) {
        continue;
      }
      origin_of.resize(std::max<std::size_t>(origin_of.size(), e.origin + 1), null_id);
      if (origin_of[e.origin] == null_id) {
        origin_of[e.origin] = static_cast<std::uint32_t>(s.origins.size());
        s.origins.push_back({index_.origin_of(id).owner, index_.origin_of(id).name_space});
      }
      s.entries.push_back(
          {{e.link[0], e.link[1]},
           static_cast<std::uint32_t>(s.segments.size() - 1),
           origin_of[e.origin],
           e.offset_blocks,
           e.generation_low,
           e.expires_us() != 0 ? by_other_clock(e.expires_us(), now_us, s.wall_us) : 0,
           e.blocks,
           e.pool,
           e.header_blocks,
           0});
    }
  }
  return encode_snapshot(s);
}

}  // namespace oriel::detail
