// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a segment store is made of: segments and pins on them, operations, batches of writes, and
/// records that are carried over.
#pragma once

#include <oriel/core/mutation.hpp>
#include <oriel/core/result.hpp>
#include <oriel/tier/detail/page_index.hpp>
#include <oriel/tier/detail/segment_scan.hpp>
#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/page_record.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace oriel::detail {

inline constexpr std::uint32_t null_id = 0xFFFF'FFFFu;
inline constexpr std::uint16_t null_slot = 0xFFFFu;
inline constexpr std::uint32_t file_number_end = 0xFFFF'FFFFu;  // segments are numbered below

/// The names of a disk's files, and the wall clock; off the hot path, so virtual.
class segment_names {
 public:
  virtual ~segment_names() = default;
  virtual status create(std::uint32_t file, std::uint64_t bytes) = 0;
  virtual status remove(std::uint32_t file) = 0;
  virtual status sync_names() = 0;
  virtual std::string where(std::uint32_t file) const = 0;
  virtual std::uint64_t wall_us() const noexcept = 0;
};

/// Somebody who waits for a segment's sync number `need`.
struct sync_wait {
  std::uint64_t need = 0;
  std::uint32_t operation = null_id;  // null_id: the reclaim
};

struct segment_state {
  std::uint32_t file = 0;
  std::uint64_t bytes = 0;             // of its file
  std::uint64_t head_bytes = 0;        // where the next record goes; 0: it has none
  std::uint64_t tried_bytes = 0;       // the end of all writes, also of those that failed
  std::uint64_t first_generation = 0;  // all of its records are younger
  std::uint64_t stamp = 0;
  std::uint64_t durable_generation = 0;  // acknowledged records up to here survive a loss of power
  std::uint64_t covered_generation = 0;  // what durable_generation becomes when the sync ends
  std::uint64_t last_generation = 0;
  std::uint32_t pins = 0;
  std::uint64_t syncs_started = 0, syncs_done = 0;
  std::vector<sync_wait> waits;
  bool is_dirty = false;   // something was acknowledged since the last sync started
  bool is_listed = false;  // in unsynced_
  bool wants_sync = false;
  bool is_syncing = false;
  bool is_broken = false;  // a sync failed: what is not durable is not trusted
};

/// Keeps a segment's file: nothing reads or writes one without a pin, and a segment with pins is
/// never removed (R5).
class segment_pin {
 public:
  segment_pin() = default;
  explicit segment_pin(segment_state& segment) noexcept : segment_(&segment) {
    segment_->pins += ORIEL_MUTANT(pin_holds_nothing) ? 0u : 1u;
  }
  segment_pin(segment_pin&& other) noexcept : segment_(std::exchange(other.segment_, nullptr)) {}
  segment_pin& operator=(segment_pin&& other) noexcept {
    std::swap(segment_, other.segment_);
    return *this;
  }
  ~segment_pin() { release(); }
  void release() noexcept {
    if (segment_ != nullptr) {
      segment_->pins -= ORIEL_MUTANT(pin_holds_nothing) ? 0u : 1u;
      segment_ = nullptr;
    }
  }
  [[nodiscard]] std::uint32_t file() const noexcept { return segment_->file; }
  [[nodiscard]] explicit operator bool() const noexcept { return segment_ != nullptr; }

 private:
  segment_state* segment_ = nullptr;
};

enum class operation_state : std::uint8_t {
  free,
  held,     // behind a drop that waits
  waiting,  // behind a put or an erase of the same key
  queued_read,
  reading,
  queued_write,
  writing,
  waiting_writes,  // a sync, for the writes before it
  syncing,
  ended,  // completed, but still in a queue
};

/// A slice, or its end, that goes through bounce memory.
struct bounced_slice {
  std::uint32_t slice = 0;
  std::size_t from = 0;  // byte of the slice that run[0] is
  std::span<std::byte> run = {};
};

struct operation {
  store_item item;
  std::uint64_t deadline_us = 0;
  std::uint64_t sequence = 0;
  operation_state state = operation_state::free;
  std::uint8_t tries = 0;
  std::uint8_t plans = 0;
  bool is_probe = false;
  bool is_holder = false;  // others of its key wait for it
  bool counts_as_write = false;
  int error = 0;
  std::uint32_t next = null_id;  // in a queue
  std::uint32_t next_holder = null_id;
  std::uint32_t first_waiter = null_id, last_waiter = null_id;
  std::uint64_t remaining = 0;  // disk requests, syncs, or writes before a sync
  // A get's record.
  segment_pin pin;
  entry_place place;
  std::uint64_t generation = 0;
  std::uint64_t expires_us = 0;  // by the store's clock; 0: never
  std::uint64_t slices_at = 0;   // of the record: where the slices were read from; 0: not yet
  std::span<std::byte> header = {};
  std::vector<std::span<std::byte>> parts;
  std::vector<bounced_slice> bounced;
};

/// A queue of operations, chained by `next`.
struct operation_queue {
  std::uint32_t first = null_id, last = null_id;
  [[nodiscard]] bool is_empty() const noexcept { return first == null_id; }
};

/// One record of a batch.
struct written_record {
  enum class source : std::uint8_t { operation, carry } from = source::operation;
  std::uint32_t id = null_id;
  entry_place place;
  page_digest name_space;
};

/// Consecutive records that are written with one request.
struct write_batch {
  bool is_in_flight = false;
  std::uint16_t slot = null_slot;
  std::uint64_t offset = 0, bytes = 0;
  std::uint64_t first_generation = 0;
  segment_pin pin;
  std::vector<written_record> records;
  std::vector<std::span<std::byte>> parts;
  std::vector<std::span<std::byte>> runs;  // bounce memory to give back
};

enum class carry_state : std::uint8_t { free, reading, ready, writing };

/// A record on its way from a segment that is reclaimed to the head.
struct carried_record {
  carry_state state = carry_state::free;
  std::uint8_t tries = 0;
  entry_id entry = null_entry;
  entry_place place;
  std::uint64_t generation = 0;
  page_key key;
  std::span<std::byte> run = {};
  std::span<std::byte> part = {};  // of run: the record
  segment_pin pin;
};

struct survivor {
  entry_id entry = null_entry;
  entry_place place;
};

enum class reclaim_phase : std::uint8_t { idle, carrying, syncing, draining };

struct reclaim_state {
  reclaim_phase phase = reclaim_phase::idle;
  std::uint16_t slot = null_slot;
  std::vector<survivor> survivors;
  std::size_t next = 0;
  std::uint32_t in_flight = 0;
  std::uint64_t reserved_bytes = 0;       // of survivors that are not written yet
  std::vector<std::uint16_t> written_to;  // segments that must be durable before the victim goes
  std::uint32_t syncs = 0;
  std::uint64_t retry_us = 0;
};

/// A record of a page that has another, younger one.
struct older_record {
  entry_spec spec;
  std::uint64_t generation = 0;
};

/// Which of several records of one page is the youngest whole one? A rewrite that a crash tore must
/// not hide the acknowledged record before it.
struct contest {
  std::size_t next = 0, end = 0;  // of the older records, youngest first
  page_key key;
  entry_place place;
  std::uint64_t generation = 0;
  int tries = 0;
  std::span<std::byte> run = {}, part = {};
};

/// What an open has found so far.
struct recovery {
  segment_snapshot snapshot;
  bool has_snapshot = false;
  bool is_scanning = false;           // the second pass
  bool is_judging = false;            // the contests
  std::vector<record_fields> starts;  // [slots]; generation 0: none was sound
  std::vector<bool> has_base;         // [slots] first_generation is known
  std::vector<record_fields> tombstones;
  std::vector<older_record> older;
  std::vector<contest> contests;
  std::vector<std::uint32_t> to_judge;  // contests
  std::uint32_t in_flight = 0;
};

}  // namespace oriel::detail
