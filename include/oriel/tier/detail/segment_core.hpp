// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `segment_core`: the segment store without its disk. Requests for the disk come out of it,
/// completions go into it, names of files go through a small table: so it is compiled once.
#pragma once

#include <oriel/tier/detail/bounce_pool.hpp>
#include <oriel/tier/detail/segment_parts.hpp>
#include <oriel/tier/detail/segment_scan.hpp>
#include <oriel/tier/segment_disk.hpp>
#include <oriel/tier/segment_options.hpp>

#include <memory>
#include <optional>

namespace oriel::detail {

class segment_core {
 public:
  /// @throws std::invalid_argument for options that cannot work, std::bad_alloc
  segment_core(const segment_store_options& options, segment_names& names);
  ~segment_core();
  segment_core(const segment_core&) = delete;
  segment_core& operator=(const segment_core&) = delete;

  /// Starts to rebuild the index from these files, with the help of a snapshot (or nothing).
  void open(std::span<const disk_file> files,
            std::span<const std::byte> snapshot,
            std::uint64_t now_us);
  [[nodiscard]] bool is_recovering() const noexcept { return scan_ != nullptr; }
  /// There are more bytes of files than there may be now, and some can go.
  [[nodiscard]] bool is_shrinking() const noexcept {
    return file_bytes_ > options_.capacity_bytes && !is_paused_ &&
           !ORIEL_MUTANT(files_count_as_of_one_size);
  }
  /// The index as bytes for the next open. @pre the disk works on nothing, and no item will follow
  [[nodiscard]] std::vector<std::byte> snapshot(std::uint64_t now_us) const;
  /// Is something on the disk that the scan could not read? The next one should look again.
  [[nodiscard]] bool has_unread() const noexcept;

  std::size_t submit(std::span<const store_item> items,
                     std::uint64_t deadline_us,
                     std::uint64_t now_us);
  /// How many the last submit took, if it threw.
  [[nodiscard]] std::size_t taken() const noexcept { return taken_; }
  /// An allocation failed in the middle of something: what is pending ends as failed, and all that
  /// comes later is refused. @pre nothing is in flight on the disk, nor will be
  void give_up() noexcept;
  [[nodiscard]] bool is_lost() const noexcept { return is_lost_; }
  void completed(const disk_completion& done, std::uint64_t now_us);
  /// Starts what can start.
  void progress(std::uint64_t now_us);
  [[nodiscard]] std::span<const disk_request> outbox() const noexcept {
    return std::span(outbox_).subspan(sent_);
  }
  void sent(std::size_t count) noexcept;
  std::size_t poll(std::span<store_completion> done) noexcept;
  /// Records are read and not verified yet: judge_arrived goes on with them.
  [[nodiscard]] bool has_arrived() const noexcept { return !arrived_.is_empty(); }
  void judge_arrived(std::uint64_t now_us);

  [[nodiscard]] bool has_ready() const noexcept { return ready_count_ > 0; }
  [[nodiscard]] std::size_t pending() const noexcept { return pending_; }
  /// When something that waits is late; no_deadline: nothing will be.
  [[nodiscard]] std::uint64_t next_deadline_us() const noexcept { return earliest_us_; }
  [[nodiscard]] store_stats stats() const noexcept;
  [[nodiscard]] segment_store_state state() const noexcept;
  [[nodiscard]] const store_fault& last_fault() const noexcept { return fault_; }
  [[nodiscard]] bool is_consistent() const;

 private:
  enum class request_kind : std::uint8_t { read = 1, batch, sync, carry, scan, contest };
  enum class staged : std::uint8_t { yes, not_now, batch_is_full, given_up };

  // Operations and their order: segment_core.cpp.
  [[nodiscard]] operation& op(std::uint32_t id) noexcept { return operations_[id]; }
  void push(operation_queue& queue, std::uint32_t id) noexcept;
  std::uint32_t pop(operation_queue& queue) noexcept;
  void drain(std::uint64_t now_us);
  void route(std::uint32_t id, std::uint64_t now_us);
  void admit(std::uint32_t id, std::uint64_t now_us);
  [[nodiscard]] std::uint32_t find_holder(const page_key& key) const noexcept;
  void hold_key(std::uint32_t id) noexcept;
  void release_key(std::uint32_t id) noexcept;
  void finish(std::uint32_t id, store_outcome outcome, int native = 0, std::uint64_t bytes = 0);
  void count(const operation& o, store_outcome outcome, std::uint64_t bytes) noexcept;
  void tell(const operation& o, store_outcome outcome, int native, std::uint64_t bytes) noexcept;
  void write_ended(const operation& o);
  void cancel_late(std::uint64_t now_us);
  void request(disk_op what,
               std::uint32_t file,
               std::uint64_t offset,
               std::span<const std::span<std::byte>> parts,
               request_kind kind,
               std::uint32_t id);

  // Health.
  [[nodiscard]] bool may_read(operation& o, std::uint64_t now_us) noexcept;
  [[nodiscard]] bool may_write(operation& o, std::uint64_t now_us) noexcept;
  void note_fault(const char* operation, std::uint32_t file, int native);
  void note_error(const char* operation, std::uint32_t file, int native, std::uint64_t now_us);
  void note_success(const operation& o) noexcept;
  void pause_writes(int native, std::uint64_t now_us) noexcept;

  // Reads: segment_core_read.cpp.
  void admit_get(std::uint32_t id, std::uint64_t now_us);
  void admit_look(std::uint32_t id, std::uint64_t now_us);
  [[nodiscard]] entry_id find_alive(const page_key& key, std::uint64_t now_us);
  void pump_reads();
  [[nodiscard]] bool start_read(std::uint32_t id);
  void submit_read(std::uint32_t id);
  [[nodiscard]] bool plan_slices(operation& o, std::uint64_t at);
  void give_back(operation& o) noexcept;
  void read_ended(std::uint32_t id, std::uint64_t now_us);
  void retry_or(std::uint32_t id, store_outcome outcome, record_verdict why, std::uint64_t now_us);
  void judge(std::uint32_t id, std::uint64_t now_us);
  [[nodiscard]] record_verdict check_slices(operation& o, const record_view& view) noexcept;
  void forget_version(const operation& o) noexcept;

  // Writes: segment_core_write.cpp.
  void admit_put(std::uint32_t id, std::uint64_t now_us);
  void admit_erase(std::uint32_t id);
  void start_drop(std::uint32_t id);
  [[nodiscard]] bool is_writable(const store_item& item) const noexcept;
  [[nodiscard]] bool is_there_already(const operation& o, std::uint64_t now_us);
  void pump_writes(std::uint64_t now_us);
  [[nodiscard]] staged stage_next(write_batch& batch, std::uint64_t now_us);
  [[nodiscard]] staged stage_put(write_batch& batch, std::uint32_t id, std::uint64_t now_us);
  [[nodiscard]] staged stage_tombstone(write_batch& batch, std::uint32_t id, std::uint64_t now_us);
  [[nodiscard]] staged stage_carry(write_batch& batch, std::uint32_t id, std::uint64_t now_us);
  [[nodiscard]] bool stage_slices(write_batch& batch, const store_item& item);
  [[nodiscard]] staged make_room(write_batch& batch,
                                 std::uint64_t bytes,
                                 bool is_carry,
                                 std::uint64_t now_us);
  [[nodiscard]] staged open_segment(std::uint64_t now_us);
  [[nodiscard]] bool stage_segment_start(write_batch& batch);
  entry_place place_next(write_batch& batch, std::uint64_t bytes, std::uint32_t header_bytes);
  void submit_batch(std::uint32_t id);
  void batch_ended(std::uint32_t id, int error, std::uint64_t now_us);
  void record_written(const write_batch& batch, const written_record& r, std::uint64_t now_us);
  void record_failed(const written_record& r, int error);
  void publish(const written_record& r, std::uint64_t now_us);
  void trim_tenant(std::uint64_t tenant, std::uint64_t need_bytes, std::uint64_t now_us);

  // Syncs and reclaim: segment_core_reclaim.cpp.
  void mark_dirty(std::uint16_t slot);
  void start_sync(std::uint32_t id);
  [[nodiscard]] std::uint64_t request_sync(std::uint16_t slot);
  void wait_for_sync(std::uint16_t slot, std::uint64_t need, std::uint32_t id);
  void pump_syncs();
  void sync_ended(std::uint16_t slot, int error, std::uint64_t now_us);
  void distrust(std::uint16_t slot);
  [[nodiscard]] bool may_add_segment() const noexcept;
  [[nodiscard]] bool is_index_short() const noexcept;
  void pump_reclaim(std::uint64_t now_us);
  void start_reclaim(std::uint64_t now_us);
  void choose_survivors(std::uint64_t now_us);
  void start_carries();
  void carry_read(std::uint32_t id, int error, std::uint64_t now_us);
  [[nodiscard]] static bool is_whole_page(std::span<const std::byte> record,
                                          record_place place,
                                          std::uint64_t generation,
                                          record_view& view) noexcept;
  void end_carry(std::uint32_t id) noexcept;
  void carried_to(std::uint32_t id, const entry_place& to);
  void finish_carrying(std::uint64_t now_us);
  void remove_victim(std::uint64_t now_us);
  void evict(entry_id id, std::uint64_t now_us);

  // Recovery: segment_core_open.cpp.
  void pump_scan(std::uint64_t now_us);
  void begin_second_pass(std::uint64_t now_us);
  [[nodiscard]] bool snapshot_fits() const;
  void take_found(const found_record& found, std::uint64_t now_us);
  void take_snapshot(std::uint64_t now_us);
  void keep_older(entry_id id);
  void start_contests();
  void pump_contests(std::uint64_t now_us);
  void contest_read(std::uint32_t id, int error, std::uint64_t now_us);
  void apply_tombstones();
  void scan_read(std::uint32_t lane, int error, std::uint64_t now_us);
  void forget_before_unread();
  void finish_recovery(std::uint64_t now_us);
  void continue_youngest();
  [[nodiscard]] std::uint16_t add_segment(std::uint32_t file, std::uint64_t bytes);
  /// The first place in order_ of a file that is not older.
  [[nodiscard]] std::vector<std::uint16_t>::const_iterator order_from(
      std::uint32_t file) const noexcept;

  segment_store_options options_;
  segment_names& names_;
  page_index index_;
  bounce_pool bounce_;

  std::vector<segment_state> segments_;  // [slots], never moves: pins point into it
  std::vector<std::uint16_t> order_;     // slots in use, oldest first: ascending files
  std::vector<std::uint16_t> free_slots_;
  // No progress may walk all segments: there are thousands.
  std::vector<std::uint16_t>
      unsynced_;                       // dirty, or with a sync under way; others may be among them
  std::vector<std::uint16_t> wanted_;  // want a sync; others may be among them
  std::uint64_t file_bytes_ = 0;       // of all files: segment_bytes may have been another before
  std::uint16_t head_ = null_slot;
  std::uint32_t next_file_ = 0;
  std::uint64_t generation_ = 0;  // of the youngest record
  bool names_are_dirty_ = false;
  std::optional<std::uint32_t> unread_file_;  // the youngest that could not be read whole

  std::vector<operation> operations_;
  operation_queue free_, runnable_, held_, reads_, arrived_, writes_;
  std::uint32_t barrier_ = null_id;           // a drop that waits for the writes before it
  std::vector<std::uint32_t> holders_;        // [pow2] chains of operations, by key
  std::vector<std::uint32_t> waiting_syncs_;  // in state waiting_writes
  std::uint64_t sequence_ = 0, writes_pending_ = 0;
  std::size_t pending_ = 0, taken_ = 0;
  std::uint64_t earliest_us_ = no_deadline;
  std::vector<store_completion> ready_;  // ring
  std::size_t ready_first_ = 0, ready_count_ = 0;

  std::vector<write_batch> batches_;
  std::vector<record_slice> sums_;  // of the record being staged
  std::vector<carried_record> carries_;
  std::vector<std::uint32_t> carries_ready_;
  reclaim_state reclaim_;
  std::vector<std::pair<std::uint64_t, std::uint32_t>>
      trimmed_to_;  // tenant: first file to look at
  std::vector<survivor> scratch_;
  std::uint32_t reads_in_flight_ = 0;

  std::vector<disk_request> outbox_;
  std::size_t sent_ = 0;

  int paused_by_ = 0;  // errno
  bool is_paused_ = false, is_degraded_ = false, has_lost_acknowledged_ = false;
  bool is_lost_ = false;
  std::uint64_t next_probe_us_ = 0, errors_since_us_ = 0;
  std::uint32_t errors_ = 0;
  store_fault fault_;
  store_stats stats_;
  segment_store_state state_;
  std::unique_ptr<segment_scan> scan_;  // while recovering
  std::unique_ptr<recovery> recovery_;
};

}  // namespace oriel::detail
