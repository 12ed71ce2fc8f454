// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the backends of a `directory_disk` share: the way of a request from submit to poll.
///
///     submit -> waiting -> (budget, one sync at a time) -> on the disk -> ready -> poll
///                             ^                               |
///                             +------ uring_disk: rest -------+
#pragma once

#include "tier/disk_folder.hpp"

#include <oriel/tier/directory_disk.hpp>
#include <oriel/tier/io_budget.hpp>

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace oriel::detail {

/// One request on its way: how much of it was moved, and what comes next.
class disk_transfer {
 public:
  /// Parts of one system call; more are a second call. Neighbours in memory count as one.
  static constexpr std::size_t parts_max = 128;
  /// Answers without progress before we believe them.
  static constexpr std::uint32_t stalls_max = 100;

  disk_transfer() noexcept = default;
  disk_transfer(const disk_request& request, open_segment* segment) noexcept;

  [[nodiscard]] const disk_request& request() const noexcept { return request_; }
  [[nodiscard]] open_segment* segment() const noexcept { return segment_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] int error() const noexcept { return error_; }

  /// Where the next call begins in the file.
  [[nodiscard]] std::uint64_t offset() const noexcept { return request_.offset + moved_; }
  /// What the next call moves. @returns how many of `parts` [parts_max] were written
  std::size_t fill(iovec* parts) const noexcept;
  /// A call answered with bytes or with -errno. @returns true if that was the last one
  bool advance(std::int64_t answer, bool direct) noexcept;

  /// Ends without another call.
  void fail(int error) noexcept { error_ = error; }

  // A sync has two steps, of the file and of its name; `syncing_name` says which one is on.
  bool syncing_name = false;
  [[nodiscard]] int sync_fd(const disk_folder& folder) const noexcept {
    return syncing_name ? folder.sync_fd() : segment_->fd.get();
  }
  /// As advance.
  bool advance_sync(std::int64_t answer, disk_folder& folder) noexcept;

 private:
  bool retry(int error) noexcept;

  disk_request request_;
  open_segment* segment_ = nullptr;
  std::uint64_t bytes_ = 0, moved_ = 0;
  std::uint32_t stalls_ = 0;
  int error_ = 0;
};

/// A queue of slots that never allocates after construction.
class slot_queue {
 public:
  explicit slot_queue(std::uint32_t capacity) : slots_(capacity) {}
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  [[nodiscard]] std::uint32_t count() const noexcept { return count_; }
  [[nodiscard]] std::uint32_t operator[](std::uint32_t i) const noexcept { return slots_[at(i)]; }
  void push(std::uint32_t slot) noexcept { slots_[at(count_++)] = slot; }
  /// Takes out number i; the others keep their order. O(i).
  std::uint32_t take(std::uint32_t i = 0) noexcept;

 private:
  [[nodiscard]] std::uint32_t at(std::uint32_t i) const noexcept {
    return (first_ + i) % static_cast<std::uint32_t>(slots_.size());
  }
  std::vector<std::uint32_t> slots_;
  std::uint32_t first_ = 0, count_ = 0;
};

class disk_engine {
 public:
  virtual ~disk_engine() = default;
  disk_engine(const disk_engine&) = delete;
  disk_engine& operator=(const disk_engine&) = delete;

  [[nodiscard]] virtual disk_backend backend() const noexcept = 0;
  virtual std::size_t submit(std::span<const disk_request> requests) = 0;
  virtual std::size_t poll(std::span<disk_completion> done) = 0;
  virtual bool wait(std::uint64_t until_us) = 0;
  virtual void limit_rate(std::uint64_t bytes_per_s_max) { budget_ = io_budget(bytes_per_s_max); }

  [[nodiscard]] std::size_t in_flight() const noexcept { return transfers_.size() - free_.size(); }
  [[nodiscard]] disk_folder& folder() noexcept { return folder_; }

 protected:
  disk_engine(disk_folder folder, const disk_options& options);

  /// What submit and poll have in common: into the queue of waiting ones, out of the ready ones.
  std::size_t accept(std::span<const disk_request> requests);
  std::size_t hand_over(std::span<disk_completion> done);

  /// The next slot that may go to the disk now. None if nothing waits, or what waits must wait for
  /// the sync that is on, or for the budget: then `budget_us_` is when to ask again.
  std::optional<std::uint32_t> next_to_start(std::uint64_t now_us);
  void finish(std::uint32_t slot);

  disk_folder folder_;
  std::vector<disk_transfer> transfers_;  // [queue_depth]
  slot_queue waiting_, ready_;
  std::uint64_t budget_us_ = ~std::uint64_t{0};

 private:
  open_segment* segment_of(std::uint32_t file, int& error);

  std::vector<std::uint32_t> free_;
  io_budget budget_;
  bool syncing_ = false;
};

/// CLOCK_MONOTONIC.
[[nodiscard]] std::uint64_t monotonic_us() noexcept;

/// What ioprio_set and io_uring take for a priority; 0: none.
[[nodiscard]] std::uint16_t system_priority(disk_priority priority) noexcept;

result<disk_engine*> open_thread_engine(disk_folder&& folder, const disk_options& options);
result<disk_engine*> open_uring_engine(disk_folder&& folder, const disk_options& options);

}  // namespace oriel::detail
