// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `thread_disk`: a directory behind a few threads that call preadv and pwritev. Works everywhere.
#pragma once

#include <oriel/tier/directory_disk.hpp>

namespace oriel {

/// `options.threads` threads take requests in order of submission; a sync waits for the one before
/// it and lets reads and writes pass. May be moved into a `directory_disk`.
class thread_disk : public directory_disk {
 public:
  /// As directory_disk::open, whatever options.backend says.
  [[nodiscard]] static result<thread_disk> open(const disk_options& options);

 private:
  explicit thread_disk(directory_disk&& disk) noexcept
      : directory_disk(static_cast<directory_disk&&>(disk)) {}
};

static_assert(segment_disk<thread_disk>);

}  // namespace oriel
