// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/crc32c.hpp>
#include <oriel/tier/detail/segment_scan.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <new>

namespace oriel::detail {
namespace {

struct snapshot_header {
  char magic[8] = {'O', 'r', 'i', 'e', 'l', 'I', 'x', '2'};
  std::uint64_t generation = 0;
  std::uint64_t wall_us = 0;
  std::uint64_t segments = 0, origins = 0, entries = 0;
};
static_assert(sizeof(snapshot_segment) == 32 && sizeof(snapshot_origin) == 48 &&
              sizeof(snapshot_entry) == 48 && sizeof(snapshot_header) == 48);

/// Writes values at `to` and returns the byte behind them.
template <class T>
std::byte* append(std::byte* to, std::span<const T> values) {
  if (!values.empty()) {
    std::memcpy(to, values.data(), values.size_bytes());
  }
  return to + values.size_bytes();
}

template <class T>
void take(std::span<const std::byte>& from, std::uint64_t count, std::vector<T>& values) {
  values.resize(count);
  if (count != 0) {
    std::memcpy(values.data(), from.data(), count * sizeof(T));
  }
  from = from.subspan(count * sizeof(T));
}

bool is_zero(std::span<const std::byte> block) noexcept {
  return block.front() == std::byte{0} &&
         std::memcmp(block.data(), block.data() + 1, block.size() - 1) == 0;
}

}  // namespace

const snapshot_segment* segment_snapshot::segment_of(std::uint32_t file) const noexcept {
  const auto at = std::ranges::lower_bound(segments, file, {}, &snapshot_segment::file);
  return at != segments.end() && at->file == file ? &*at : nullptr;
}

std::vector<std::byte> encode_snapshot(const segment_snapshot& snapshot) {
  snapshot_header header;
  header.generation = snapshot.generation;
  header.wall_us = snapshot.wall_us;
  header.segments = snapshot.segments.size();
  header.origins = snapshot.origins.size();
  header.entries = snapshot.entries.size();
  std::vector<std::byte> bytes(sizeof(header) + header.segments * sizeof(snapshot_segment) +
                               header.origins * sizeof(snapshot_origin) +
                               header.entries * sizeof(snapshot_entry) + sizeof(std::uint32_t));
  std::byte* to = append(bytes.data(), std::span<const snapshot_header>(&header, 1));
  to = append(to, std::span<const snapshot_segment>(snapshot.segments));
  to = append(to, std::span<const snapshot_origin>(snapshot.origins));
  to = append(to, std::span<const snapshot_entry>(snapshot.entries));
  const std::uint32_t crc = crc32c(std::span(bytes).first(bytes.size() - sizeof(std::uint32_t)));
  std::memcpy(to, &crc, sizeof(crc));
  return bytes;
}

bool decode_snapshot(std::span<const std::byte> bytes, segment_snapshot& snapshot) {
  snapshot_header header;
  const snapshot_header expected;
  if (bytes.size() < sizeof(header) + 4) {
    return false;
  }
  std::uint32_t crc = 0;
  std::memcpy(&crc, bytes.last(4).data(), 4);
  bytes = bytes.first(bytes.size() - 4);
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (std::memcmp(header.magic, expected.magic, sizeof(header.magic)) != 0 ||
      crc32c(bytes) != crc) {
    return false;
  }
  bytes = bytes.subspan(sizeof(header));
  const std::uint64_t most = bytes.size();  // so that no product below overflows
  if (header.segments > most || header.origins > most || header.entries > most ||
      header.segments * sizeof(snapshot_segment) + header.origins * sizeof(snapshot_origin) +
              header.entries * sizeof(snapshot_entry) !=
          most) {
    return false;
  }
  snapshot.generation = header.generation;
  snapshot.wall_us = header.wall_us;
  take(bytes, header.segments, snapshot.segments);
  take(bytes, header.origins, snapshot.origins);
  take(bytes, header.entries, snapshot.entries);
  return std::ranges::adjacent_find(snapshot.segments,
                                    std::ranges::greater_equal(),
                                    &snapshot_segment::file) == snapshot.segments.end() &&
         std::ranges::all_of(snapshot.entries, [&](const snapshot_entry& e) {
           return e.segment < snapshot.segments.size() && e.origin < snapshot.origins.size();
         });
}

void segment_scan::aligned_delete::operator()(std::byte* p) const noexcept {
  ::operator delete[](p, std::align_val_t(record_alignment_bytes));
}

segment_scan::segment_scan(std::vector<scanned_file> files,
                           std::uint32_t lanes,
                           std::uint32_t chunk_bytes)
    : files_(std::move(files)),
      chunk_bytes_(static_cast<std::uint32_t>(
          record_padded(std::max<std::size_t>(chunk_bytes, record_header_bytes_max)))),
      lanes_(std::clamp<std::size_t>(lanes, 1, std::max<std::size_t>(files_.size(), 1))),
      starts_left_(files_.size()) {
  memory_.reset(static_cast<std::byte*>(::operator new[](
      std::size_t{chunk_bytes_} * lanes_.size(), std::align_val_t(record_alignment_bytes))));
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    lanes_[i].memory = {memory_.get() + i * chunk_bytes_, chunk_bytes_};
  }
}

void segment_scan::scan_from(std::span<const std::uint64_t> offsets) {
  ORIEL_EXPECTS(has_starts() && offsets.size() == files_.size());
  for (std::size_t i = 0; i < files_.size(); ++i) {
    files_[i].next = offsets[i];
  }
  is_second_pass_ = true;
  files_left_ = files_.size();
  next_file_ = 0;
}

bool segment_scan::take_file(lane& l) {
  while (next_file_ < files_.size()) {
    l.file = next_file_++;
    if (files_[l.file].written >= files_[l.file].next + record_alignment_bytes) {
      l.is_busy = true;
      l.needs_long = l.is_careful = l.searches = false;
      l.errors = l.looks = 0;
      l.hop = record_alignment_bytes;
      return true;
    }
    --(is_second_pass_ ? files_left_ : starts_left_);
  }
  return false;
}

bool segment_scan::next_read(read& wanted) {
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    lane& l = lanes_[i];
    if (l.is_in_flight || (!l.is_busy && !take_file(l))) {
      continue;
    }
    const scanned_file& f = files_[l.file];
    // Headers of large records are read one by one, those of small ones many at once.
    const bool is_small =
        !is_second_pass_ || l.is_careful || (!l.searches && l.hop > chunk_bytes_ / 2);
    const std::uint64_t left =
        (f.written - f.next) / record_alignment_bytes * record_alignment_bytes;
    l.part = l.memory.first(static_cast<std::size_t>(
        std::min<std::uint64_t>(is_small ? record_alignment_bytes : chunk_bytes_, left)));
    if (is_second_pass_ && l.needs_long) {
      l.part = l.memory.first(
          static_cast<std::size_t>(std::min<std::uint64_t>(record_header_bytes_max, left)));
    }
    l.is_in_flight = true;
    wanted = {static_cast<std::uint32_t>(i), f.file, f.next, {&l.part, 1}};
    return true;
  }
  return false;
}

void segment_scan::end_file(lane& l) {
  l.is_busy = false;
  --(is_second_pass_ ? files_left_ : starts_left_);
}

void segment_scan::read_ended(std::uint32_t lane_id, int error) {
  lane& l = lanes_[lane_id];
  scanned_file& f = files_[l.file];
  l.is_in_flight = false;
  found_.clear();
  if (error == ENODATA) {  // nothing was ever written here
    f.bytes = f.written = f.next;
    f.has_remains = true;  // it is shorter than was said
    return end_file(l);
  }
  if (error != 0) {
    read_failed(l);
  } else {
    l.errors = 0;
    const std::uint64_t from = f.next;
    const std::uint64_t damaged = damaged_blocks_;
    const bool is_clean = parse(l);
    const std::uint32_t crc = is_clean ? 0 : crc32c(l.part);
    // What is no record may have been read wrong, and a tombstone must not be overlooked: such
    // bytes count only when they were seen twice.
    if (!is_clean && is_second_pass_ && (l.looks == 0 || l.last_crc != crc) && l.looks < 6) {
      f.next = from;
      damaged_blocks_ = damaged;
      found_.clear();
      l.last_crc = crc;
      ++l.looks;
      return;
    }
    l.looks = 0;
  }
  if (l.errors == 0 && (!is_second_pass_ || f.written < f.next + record_alignment_bytes)) {
    end_file(l);
  }
}

/// Twice more; then block by block; then what lies there is lost, but not what lies behind.
void segment_scan::read_failed(lane& l) {
  if (++l.errors < 3) {
    return;
  }
  if (!l.is_careful && is_second_pass_) {
    l.is_careful = true;
    l.needs_long = false;
    l.errors = 1;
    return;
  }
  l.errors = 0;
  scanned_file& f = files_[l.file];
  unreadable_blocks_ += l.part.size() / record_alignment_bytes;
  // The first block is a segment's start, and says nothing of any page.
  f.has_unread = f.has_unread || (is_second_pass_ && f.next != 0);
  f.has_remains = true;
  f.next += l.part.size();
  l.searches = true;
}

/// Takes the records that lie in l.part and moves f.next behind them. False: something in there was
/// no record.
bool segment_scan::parse(lane& l) {
  scanned_file& f = files_[l.file];
  const std::uint64_t base = f.next;
  const bool was_long = l.needs_long;
  l.needs_long = false;
  bool is_clean = true;
  std::uint64_t pos = 0;
  while (pos + record_alignment_bytes <= l.part.size()) {
    const auto rest = std::span<const std::byte>(l.part).subspan(static_cast<std::size_t>(pos));
    record_view view;
    const record_verdict verdict = decode_record(rest, view);
    const bool is_ours = verdict == record_verdict::sound &&
                         view.fields.place == record_place{f.file, base + pos} &&
                         view.record_bytes <= f.bytes - base - pos;
    if (is_ours || (ORIEL_MUTANT(scan_believes_any_place) && verdict == record_verdict::sound)) {
      f.has_remains = f.has_remains || is_second_pass_;
      found_.push_back(
          {f.slot, view.header_bytes, view.record_bytes, view.fields, view.name_space});
      pos += view.record_bytes;
      l.hop = view.record_bytes;
      l.searches = l.is_careful = false;
      continue;
    }
    const bool has_magic =
        verdict != record_verdict::torn || std::memcmp(rest.data(), "OrielPg1", 8) == 0;
    if (verdict == record_verdict::torn && has_magic && !was_long && pos != 0) {
      break;  // its header goes on behind this part: read from here
    }
    if (verdict == record_verdict::torn && has_magic && !was_long &&
        l.part.size() < record_header_bytes_max) {
      l.needs_long = true;
      break;
    }
    is_clean = false;
    f.has_remains = f.has_remains || !is_zero(rest.first(record_alignment_bytes));
    damaged_blocks_ += has_magic ? 1 : 0;
    l.searches = true;
    pos += record_alignment_bytes;
    if (ORIEL_MUTANT(scan_stops_at_the_first_hole)) {
      pos = f.bytes - base;
    }
  }
  f.next = base + pos;
  return is_clean;
}

}  // namespace oriel::detail
