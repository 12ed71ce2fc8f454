// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `uring_disk`: a directory behind io_uring; no thread of our own.
#pragma once

#include <oriel/tier/directory_disk.hpp>

namespace oriel {

/// Requests reach the kernel inside submit, those that a budget holds back inside poll and wait.
/// One sync is on the disk at a time; reads and writes pass it. May be moved into a
/// `directory_disk`.
class uring_disk : public directory_disk {
 public:
  /// As directory_disk::open, whatever options.backend says.
  /// @returns errc::io_failure with EPERM or ENOSYS where io_uring is blocked or missing, ENOSYS in
  ///          a library built without liburing, ENOMEM where old kernels lack lockable memory
  [[nodiscard]] static result<uring_disk> open(const disk_options& options);

 private:
  explicit uring_disk(directory_disk&& disk) noexcept
      : directory_disk(static_cast<directory_disk&&>(disk)) {}
};

static_assert(segment_disk<uring_disk>);

}  // namespace oriel
