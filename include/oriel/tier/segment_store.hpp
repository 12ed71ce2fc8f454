// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `segment_store`: KV pages in append-only files on a disk.
///
///     auto disk = directory_disk::open({.directory = "/nvme/kv"});  // a result: it may be locked
///     segment_store store(*disk, {.capacity_bytes = std::uint64_t{1} << 40});
///
/// A segment is one file of fixed size: a start record, then records one behind the other
/// (page_record.hpp). Nothing is ever changed in place. The oldest segment goes when room is
/// needed, and what was used since is carried over. A process continues the youngest if the one
/// before ended well. docs/tiers.md tells why.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/detail/segment_core.hpp>
#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/segment_disk.hpp>
#include <oriel/tier/segment_options.hpp>
#include <oriel/tier/store_clock.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <stdexcept>
#include <vector>

namespace oriel {

/// Besides the law of kv_store:
///
///  - A put that ended `done` is found again after the end of the process, whatever ended it; after
///    a loss of power, if a sync that was submitted later ended `done`. An erase or drop that ended
///    `done` lasts over both.
///  - Slices and their lengths that are aligned to 4 KiB are read and written in place; others go
///    through `bounce_bytes` of memory. A get of some layers reads and verifies those alone.
///  - What goes wrong: a record that fails a check is read once more, then its entry is gone; no
///    room, or a file system that became read-only, pauses writes, and a put every
///    probe_interval_us tries again; errors_max errors in
///    error_window_us refuse everything but such a probe; a failed sync closes its segment and
///    drops what was not known durable, and a `sync` ends `failed`. A stretch that an open cannot
///    read may have been a deletion: all that is not younger is forgotten.
///  - used_bytes counts the records that the index knows; the files never exceed capacity_bytes.
///    Where it or segment_bytes is another than before, the oldest files go at once, as many as
///    must; those that stay keep their sizes.
///
///  - Expiries are written down as wall-clock time, so that they hold over a restart of the machine
///    and on another one. While the store is open its own clock decides. A wall clock that jumps
///    ends pages too early at worst, or after the next start too late by as much as it went back,
///    but never later after it than they were meant to live when they were written.
///
/// @tparam Disk  must outlive the store; nobody else may use it meanwhile. Its clock is the store's
/// @tparam Wall  the wall clock
/// *Thread safety*: none; one thread drives it (store_thread). *Memory*: at most 64 bytes of index
/// a page; nothing is allocated for an operation once queues have grown. An allocation that fails
/// after the constructor ends what is pending as `failed` with ENOMEM, and all later items as
/// `refused`: the next store in this place finds what was acknowledged.
template <segment_disk Disk, wall_clock Wall = realtime_clock>
class segment_store {
 public:
  /// Reads what is on the disk: O(records), blocking. 4 KiB are read for each record, all of a
  /// segment where it is damaged.
  /// @throws std::invalid_argument for options that cannot work; std::runtime_error if the disk
  ///         does not list its files; std::system_error if it does not let us read one (too many
  ///         open files, no right to); std::bad_alloc
  explicit segment_store(Disk& disk,
                         const segment_store_options& options = {},
                         const Wall& wall = Wall())
      : disk_(disk),
        names_(disk, wall),
        core_(options, names_),
        saves_snapshot_(options.saves_snapshot) {
    try {
      open();
    } catch (...) {
      // The disk still reads into the memory that goes now.
      if (!ORIEL_MUTANT(failed_open_leaves_its_reads)) {
        drain();
      }
      throw;
    }
  }
  segment_store(const segment_store&) = delete;
  segment_store& operator=(const segment_store&) = delete;
  /// Waits for what still touches slices, and leaves a snapshot if nothing was pending.
  ~segment_store() {
    const bool is_idle = core_.pending() == 0;
    drain();
    if (is_idle && saves_snapshot_ && !core_.has_unread() && !core_.is_lost()) {
      try {
        // A hint that makes the next start faster. O(pages).
        static_cast<void>(disk_.write_small(snapshot_name, core_.snapshot(disk_.now_us())));
      } catch (const std::bad_alloc&) {  // it is a hint: the next start scans
      }
    }
  }

  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    std::size_t taken = 0;
    survive([&] {
      taken = core_.submit(items, deadline_us, disk_.now_us());
      send();
    });
    return core_.is_lost() ? core_.taken() : taken;
  }
  std::size_t poll(std::span<store_completion> done) {
    survive([&] { pump(); });
    return core_.poll(done);
  }
  /// May return early, with false, if nothing but time can bring a completion.
  bool wait(std::uint64_t until_us) {
    bool is_ready = false;
    survive([&] { is_ready = wait_for_ready(until_us); });
    return core_.is_lost() ? core_.has_ready() : is_ready;
  }
  /// Items taken and not polled.
  [[nodiscard]] std::size_t pending() const noexcept { return core_.pending(); }
  [[nodiscard]] store_stats stats() const noexcept { return core_.stats(); }
  [[nodiscard]] store_fault last_fault() const { return core_.last_fault(); }

  /// More figures than every store has.
  [[nodiscard]] segment_store_state state() const noexcept { return core_.state(); }
  /// Do the counters agree with the index? O(pages); for tests.
  [[nodiscard]] bool is_consistent() const { return core_.is_consistent(); }

 private:
  static constexpr const char* snapshot_name = "index-snapshot";

  bool wait_for_ready(std::uint64_t until_us) {
    for (;;) {
      pump();
      if (core_.has_ready()) {
        return true;
      }
      if (core_.has_arrived()) {
        continue;
      }
      if (core_.pending() == 0 || disk_.in_flight() == 0 || disk_.now_us() >= until_us) {
        return false;
      }
      disk_.wait(std::min(until_us, core_.next_deadline_us()));
    }
  }
  /// No memory in the middle of something: nobody knows how far it came. Every item ends all the
  /// same, after the disk let go of its slices.
  template <class Act>
  void survive(Act&& act) {
    try {
      act();
    } catch (const std::bad_alloc&) {
      if (ORIEL_MUTANT(no_memory_is_passed_on)) {
        throw;
      }
      drain();
      core_.give_up();
    }
  }

  class disk_names final : public detail::segment_names {
   public:
    disk_names(Disk& disk, const Wall& wall) : disk_(disk), wall_(wall) {}
    status create(std::uint32_t file, std::uint64_t bytes) override {
      return disk_.create(file, bytes);
    }
    status remove(std::uint32_t file) override { return disk_.remove(file); }
    status sync_names() override { return disk_.sync_names(); }
    std::string where(std::uint32_t file) const override { return disk_.where(file); }
    std::uint64_t wall_us() const noexcept override { return wall_.now_us(); }

   private:
    Disk& disk_;
    [[no_unique_address]] Wall wall_;
  };

  void open() {
    const result<std::vector<disk_file>> files = disk_.list();
    if (!files) {
      throw std::runtime_error(std::string("its files cannot be listed: ") + files.error().detail);
    }
    const result<std::vector<std::byte>> snapshot = disk_.read_small(snapshot_name);
    core_.open(*files,
               snapshot ? std::span<const std::byte>(*snapshot) : std::span<const std::byte>(),
               disk_.now_us());
    while (core_.is_recovering() || core_.is_shrinking()) {
      pump();
      if (core_.is_recovering() || core_.is_shrinking()) {
        disk_.wait(no_deadline);
      }
    }
  }
  /// Waits for what the disk works on, and looks at none of it.
  void drain() {
    std::array<disk_completion, 16> done;
    while (disk_.in_flight() > 0) {
      if (disk_.poll(done) == 0) {
        disk_.wait(no_deadline);
      }
    }
  }
  /// Hands over what the disk has room for.
  void send() {
    while (!core_.outbox().empty()) {
      const std::size_t taken = disk_.submit(core_.outbox());
      if (taken == 0) {
        return;
      }
      core_.sent(taken);
    }
  }
  /// Takes what the disk has done and starts what that allows; then verifies some of what was read,
  /// while the disk goes on.
  void pump() {
    std::array<disk_completion, 64> done;
    for (std::size_t count = disk_.poll(done); count != 0; count = disk_.poll(done)) {
      for (const disk_completion& c : std::span(done).first(count)) {
        core_.completed(c, disk_.now_us());
      }
    }
    core_.progress(disk_.now_us());
    send();
    if (core_.has_arrived()) {
      core_.judge_arrived(disk_.now_us());
      core_.progress(disk_.now_us());
      send();
    }
  }

  Disk& disk_;
  disk_names names_;
  detail::segment_core core_;
  bool saves_snapshot_;
};

}  // namespace oriel
