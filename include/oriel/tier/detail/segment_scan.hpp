// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `segment_scan`: reads segments and finds the records in them, many segments at once. And the
/// snapshot, a hint that saves most of it.
#pragma once

#include <oriel/tier/page_record.hpp>
#include <oriel/tier/segment_disk.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace oriel::detail {

/// A segment as a snapshot knows it. Another life of the same file number has another stamp.
struct snapshot_segment {
  std::uint32_t file = 0;
  std::uint32_t reserved = 0;
  std::uint64_t stamp = 0, first_generation = 0;
  std::uint64_t covered_bytes = 0;  ///< what lies before is in the snapshot, or was forgotten
};

struct snapshot_origin {
  page_owner owner;
  page_digest name_space;
};

struct snapshot_entry {
  std::uint64_t link[2] = {};
  std::uint32_t segment = 0;  ///< index into segments
  std::uint32_t origin = 0;   ///< index into origins
  std::uint32_t offset_blocks = 0;
  std::uint32_t generation_low = 0;
  std::uint64_t expires_us = 0;  ///< by the wall clock; 0: never
  std::uint16_t blocks = 0;
  std::uint8_t pool = 0;
  std::uint8_t header_blocks = 1;
  std::uint32_t reserved = 0;
};

/// All of an index. Encoded: magic, version, counts, the three arrays, CRC32C of it all.
struct segment_snapshot {
  std::uint64_t generation = 0;
  std::uint64_t wall_us = 0;               ///< when it was taken
  std::vector<snapshot_segment> segments;  ///< by ascending file
  std::vector<snapshot_origin> origins;
  std::vector<snapshot_entry> entries;

  /// Or nullptr. O(log segments).
  [[nodiscard]] const snapshot_segment* segment_of(std::uint32_t file) const noexcept;
};

[[nodiscard]] std::vector<std::byte> encode_snapshot(const segment_snapshot& snapshot);
/// False for anything that is not whole or in order: lengths are checked before memory is asked
/// for.
[[nodiscard]] bool decode_snapshot(std::span<const std::byte> bytes, segment_snapshot& snapshot);

struct scanned_file {
  std::uint32_t file = 0;
  std::uint16_t slot = 0;
  std::uint64_t bytes = 0;    ///< its size: no record goes beyond
  std::uint64_t written = 0;  ///< no record begins behind this: not read
  std::uint64_t next = 0;     ///< where to read on
  bool has_unread = false;    ///< the second pass gave up on some of it
  bool has_remains = false;   ///< or found something there that is not zero
};

/// A record that a scan found in its place.
struct found_record {
  std::uint16_t slot = 0;
  std::uint32_t header_bytes = 0;
  std::uint64_t record_bytes = 0;
  record_fields fields;
  page_digest name_space;
};

/// First the start of every segment; then, from wherever the owner says, all of it. A record that
/// is torn or damaged is skipped block by block until the next sound one: writes of a crash end in
/// any order, and those that were acknowledged lie behind others that were not.
class segment_scan {
 public:
  /// @throws std::bad_alloc
  segment_scan(std::vector<scanned_file> files, std::uint32_t lanes, std::uint32_t chunk_bytes);

  struct read {
    std::uint32_t lane = 0, file = 0;
    std::uint64_t offset = 0;
    std::span<const std::span<std::byte>> parts;
  };
  /// The next read, if a lane is idle and there is something left. False: not now.
  [[nodiscard]] bool next_read(read& wanted);
  /// Looks at what was read; found() has the records until the next call.
  void read_ended(std::uint32_t lane, int error);
  [[nodiscard]] std::span<const found_record> found() const noexcept { return found_; }

  /// The starts have been read.
  [[nodiscard]] bool has_starts() const noexcept { return starts_left_ == 0; }
  /// Begins the second pass. @pre has_starts()
  void scan_from(std::span<const std::uint64_t> offsets);
  [[nodiscard]] bool is_finished() const noexcept { return is_second_pass_ && files_left_ == 0; }
  [[nodiscard]] std::uint64_t damaged_blocks() const noexcept { return damaged_blocks_; }
  [[nodiscard]] std::uint64_t unreadable_blocks() const noexcept { return unreadable_blocks_; }
  [[nodiscard]] std::span<const scanned_file> files() const noexcept { return files_; }
  /// The file that lane `id` reads.
  [[nodiscard]] std::uint32_t file_of(std::uint32_t id) const noexcept {
    return files_[lanes_[id].file].file;
  }

 private:
  struct lane {
    std::size_t file = 0;  // index into files_
    bool is_busy = false;
    bool is_in_flight = false;
    bool needs_long = false;  // the header is longer than what was read
    bool is_careful = false;  // block by block, after errors
    int errors = 0;           // of this read
    int looks = 0;            // at the same bytes, of which something was no record
    std::uint32_t last_crc = 0;
    bool searches = false;  // the last block was no record: read in large steps
    std::uint64_t hop = 0;  // of the last record
    std::span<std::byte> memory, part;
  };
  [[nodiscard]] bool take_file(lane& l);
  void end_file(lane& l);
  void read_failed(lane& l);
  [[nodiscard]] bool parse(lane& l);

  struct aligned_delete {
    void operator()(std::byte* p) const noexcept;
  };
  std::vector<scanned_file> files_;
  std::uint32_t chunk_bytes_;
  std::unique_ptr<std::byte[], aligned_delete> memory_;
  std::vector<lane> lanes_;
  std::vector<found_record> found_;
  std::size_t next_file_ = 0;
  std::size_t starts_left_ = 0, files_left_ = 0;
  bool is_second_pass_ = false;
  std::uint64_t damaged_blocks_ = 0, unreadable_blocks_ = 0;
};

}  // namespace oriel::detail
