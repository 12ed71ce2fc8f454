// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The directory of a `directory_disk`: names, permissions, the lock, small files. All of it
/// synchronous, all of it relative to the directory's descriptor, none of it through a link.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/segment_disk.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace oriel::detail {

/// A file descriptor that is closed in the end.
class owned_fd {
 public:
  owned_fd() noexcept = default;
  explicit owned_fd(int fd) noexcept : fd_(fd) {}
  owned_fd(owned_fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  owned_fd& operator=(owned_fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~owned_fd();

  [[nodiscard]] int get() const noexcept { return fd_; }
  int release() noexcept { return std::exchange(fd_, -1); }
  explicit operator bool() const noexcept { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// One segment that was used. Its address lasts until it is removed.
struct open_segment {
  owned_fd fd;  // None while it is idle and others needed the descriptor.
  bool writable = false;
  bool was_written = false;       // Since it was opened.
  bool was_used = false;          // Since the last search for an idle one came by.
  bool name_durable = false;      // A sync of the directory covered its name.
  std::uint64_t name_number = 0;  // Of those that were made since the folder was opened; 0: before.
  int sync_error = 0;             // Of the first sync that failed: the answer to all later ones.
  std::uint32_t in_flight = 0;    // Submitted and not polled.
};

/// *Thread safety* none; only `fd` of a segment and `sync_fd()` may be used by other threads.
class disk_folder {
 public:
  [[nodiscard]] static result<disk_folder> open(const disk_options& options);

  [[nodiscard]] bool direct() const noexcept { return direct_; }
  /// For syncs of the directory by the engine. A description of its own: the kernel tells an error
  /// once to each, so that sync_names() and the engine do not take it from one another.
  [[nodiscard]] int sync_fd() const noexcept { return engine_fd_.get(); }
  [[nodiscard]] std::string where(std::uint32_t file) const;

  [[nodiscard]] result<std::vector<disk_file>> list();
  [[nodiscard]] status create(std::uint32_t file, std::uint64_t bytes);
  [[nodiscard]] status remove(std::uint32_t file);
  [[nodiscard]] status sync_names();
  [[nodiscard]] result<std::vector<std::byte>> read_small(const char* name);
  [[nodiscard]] status write_small(const char* name, std::span<const std::byte> bytes);
  [[nodiscard]] status remove_small(const char* name);

  /// A sync of the directory through sync_fd() failed: every name that was made until now and is
  /// not known durable is never trusted again. Names that come later get a sync of their own. By
  /// the thread that syncs; `error_of_name` too.
  void names_are_lost(int error) noexcept;
  /// Why this segment's name will not become durable, or 0.
  [[nodiscard]] int error_of_name(const open_segment& segment) const noexcept {
    return segment.name_number <= names_lost_ ? names_error_ : 0;
  }

  /// The segment, opened if need be; or null, and errno in `error`. It stays open while something
  /// is in flight on it.
  [[nodiscard]] open_segment* segment(std::uint32_t file, int& error);

 private:
  [[nodiscard]] status wait_for_old_writes();
  /// Opens a name in the folder; idle segments make room if there are too many descriptors.
  [[nodiscard]] owned_fd open_file(const char* name, int flags, unsigned mode = 0);
  bool close_idle() noexcept;
  void keep_open(std::uint32_t file, open_segment& segment, owned_fd fd);

  std::string directory_;
  owned_fd fd_, engine_fd_, lock_;
  bool direct_ = false;
  bool is_read_only_ = false;
  std::uint64_t names_made_ = 0;  // Told to the thread that syncs: by atomic_ref.
  std::uint64_t names_lost_ = 0;  // The first so many.
  int names_error_ = 0;
  std::vector<std::uint32_t> removed_;  // since sync_names() was last fine
  bool must_redo_ = false;              // it failed since
  std::unordered_map<std::uint32_t, open_segment> segments_;
  std::vector<std::uint32_t> open_files_;  // of segments_, those with a descriptor; a clock
  std::size_t hand_ = 0;
  std::size_t open_files_max_ = 0;
};

}  // namespace oriel::detail
