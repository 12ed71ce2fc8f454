// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `directory_disk`: a `segment_disk` that is a directory, behind io_uring where the system lets
/// us, behind threads where it does not (containers often block io_uring).
///
///     auto disk = directory_disk::open({.directory = "/nvme/oriel"});
///     if (!disk) { ... disk.error().detail, errno in disk.error().native ... }
#pragma once

#include <oriel/tier/segment_disk.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace oriel {

enum class disk_backend : std::uint8_t {
  any,       ///< io_uring, or threads where it says no
  io_uring,  ///< or fail
  threads,
};

/// How the system's IO scheduler ranks our reads and writes beside those of others. Only some
/// schedulers look at it (mq-deadline, bfq); the others ignore it. A sync has no rank.
enum class disk_priority : std::uint8_t {
  normal,      ///< as the process
  background,  ///< the last level of best effort
  idle,        ///< only when nobody else wants the disk: may starve
};

enum class disk_access : std::uint8_t {
  make,       ///< read and write; makes the directory and its lock if they are missing
  existing,   ///< the same, but both must be there
  read_only,  ///< both must be there; nothing is made or changed, what would do so fails with EROFS
};

struct disk_options {
  /// With `disk_access::make`, made with mode 0700 if it is missing; its parent must be there.
  std::string directory = {};
  disk_access access = disk_access::make;
  disk_backend backend = disk_backend::any;  ///< of `directory_disk::open`
  /// Requests submitted and not polled, at most; [1, 4096].
  std::uint32_t queue_depth = 64;
  /// Of the threads backend: requests that are on the disk at one time; [1, 256].
  std::uint32_t threads = 8;
  /// Segments that are open at one time, as long as more are not in use; 0: half of the process's
  /// soft limit on open files.
  std::uint32_t open_files_max = 0;
  /// Try O_DIRECT. Without it the page cache holds every page a second time.
  bool direct = true;
  /// Reads and writes together, as `io_budget` has it; 0: no limit.
  std::uint64_t bytes_per_s_max = 0;
  disk_priority priority = disk_priority::normal;
};

namespace detail {
class disk_engine;
}

/// Files in one directory, as the concept `segment_disk` has it, and besides:
///
///  - **One owner.** An exclusive flock on the file `lock` (and on the directory, where that can
///    be) is held from open to the end; the second open, in this process or another, fails with
///    errc::locked. A child that is forked and does not exec keeps the lock with it. io_uring goes
///    on for a while with what a killed process gave it: an open waits for that, 10 s at most, then
///    it fails with errc::locked and EBUSY.
///  - **Private.** The directory must belong to us and be closed to group and others. One that is
///    not is refused, not repaired: it may be a mistyped one that others live in. Files are 0600.
///  - **No symbolic link is followed**, neither the directory (its parents may be links) nor a file
///    in it: ELOOP. Foreign names are left alone.
///  - Files are `segment-0000002a`, the number in hexadecimal. There may be more of them than the
///    process may open: those that were not used lately are closed, after a sync if they were
///    written, for which `submit` and `create` then wait.
///  - `create(file, bytes)` allocates the blocks where the file system can, so that a disk without
///    room says so there and not in a write.
///  - `sync` covers the file's name too. **A failed sync is remembered**: the kernel forgets the
///    error once told, so every later sync of that file fails with the same errno, until it is
///    removed. A failed sync of the directory is one of all files whose names it may have covered;
///    those made later are not concerned. `sync_names` may be tried again: it removes once more
///    what was removed since it was last fine.
///  - A file system that is read-only serves reads; writes complete with EROFS.
///  - A read or write that makes no progress for a while (EAGAIN) completes with that errno.
///
/// *Thread safety* one thread at a time; `io_uring` work does not outlive the thread that submitted
/// it. *Memory* queues are allocated at open, a little more at the first use of a file. The
/// destructor waits for what is on the disk, drops what has not started, and completes nothing.
class directory_disk {
 public:
  static constexpr std::uint32_t queue_depth_max = 4096;
  static constexpr std::uint32_t threads_max = 256;
  /// What read_small is willing to read.
  static constexpr std::uint64_t small_bytes_max = std::uint64_t{1} << 30;

  /// @returns errc::locked; errc::invalid_argument if queue_depth or threads is out of its range,
  /// or
  ///          the directory is not private;
  ///          errc::io_failure with errno
  /// @throws std::bad_alloc, std::system_error when the system refuses a thread
  [[nodiscard]] static result<directory_disk> open(const disk_options& options);

  directory_disk(directory_disk&& other) noexcept;
  directory_disk& operator=(directory_disk&& other) noexcept;
  ~directory_disk();

  /// What it became: io_uring or threads.
  [[nodiscard]] disk_backend backend() const noexcept;
  /// Does IO pass by the page cache? False if it was not asked for, or the file system refused.
  [[nodiscard]] bool direct() const noexcept;
  [[nodiscard]] std::size_t in_flight() const noexcept;
  [[nodiscard]] std::uint64_t now_us() const noexcept;  ///< CLOCK_MONOTONIC
  [[nodiscard]] std::string where(std::uint32_t file) const;
  /// From now on, instead of disk_options::bytes_per_s_max: for those who open a store first and
  /// then let it live beside other work.
  void limit_rate(std::uint64_t bytes_per_s_max);

  /// In ascending order of number. @returns ELOOP if a segment's name is no plain file
  [[nodiscard]] result<std::vector<disk_file>> list();
  [[nodiscard]] status create(std::uint32_t file, std::uint64_t bytes);
  /// @pre nothing is in flight on it
  [[nodiscard]] status remove(std::uint32_t file);
  [[nodiscard]] status sync_names();
  /// @pre addresses, lengths and offsets are multiples of disk_alignment_bytes
  std::size_t submit(std::span<const disk_request> requests);
  std::size_t poll(std::span<disk_completion> done);
  bool wait(std::uint64_t until_us);
  /// @pre name is a plain file name of lower-case letters, digits, '-' and '_', not "lock", and
  ///      does not begin with "segment-"
  [[nodiscard]] result<std::vector<std::byte>> read_small(const char* name);
  [[nodiscard]] status write_small(const char* name, std::span<const std::byte> bytes);
  /// For good once sync_names() returned. Of one that is not there: success.
  [[nodiscard]] status remove_small(const char* name);

 private:
  explicit directory_disk(detail::disk_engine* engine) noexcept : engine_(engine) {}

  detail::disk_engine* engine_;
};

static_assert(segment_disk<directory_disk>);

/// The names, for messages: "io_uring", "threads", "any".
[[nodiscard]] const char* name_of(disk_backend backend) noexcept;

}  // namespace oriel
