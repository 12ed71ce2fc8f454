// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "tier/disk_engine.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <linux/ioprio.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <new>
#include <utility>

namespace oriel::detail {

namespace {

bool is_aligned(std::uint64_t number) {
  return number % disk_alignment_bytes == 0;
}

// Is there a byte at `offset`? When in doubt yes: the read will tell.
bool ends_before(int fd, std::uint64_t offset) {
  struct stat is = {};
  return ::fstat(fd, &is) == 0 && static_cast<std::uint64_t>(is.st_size) <= offset;
}

}  // namespace

disk_transfer::disk_transfer(const disk_request& request, open_segment* segment) noexcept
    : request_(request), segment_(segment) {
  if (request.op == disk_op::sync) {
    return;
  }
  ORIEL_EXPECTS(is_aligned(request.offset));
  for (const std::span<std::byte> part : request.parts) {
    ORIEL_EXPECTS(is_aligned(reinterpret_cast<std::uintptr_t>(part.data())));
    ORIEL_EXPECTS(is_aligned(part.size()));
    bytes_ += part.size();
  }
}

std::size_t disk_transfer::fill(iovec* parts) const noexcept {
  std::uint64_t skip = moved_;
  std::size_t count = 0;
  for (std::span<std::byte> part : request_.parts) {
    const auto skipped = static_cast<std::size_t>(std::min<std::uint64_t>(skip, part.size()));
    skip -= skipped;
    part = part.subspan(skipped);
    if (part.empty()) {
      continue;
    }
    iovec* const last = count > 0 ? &parts[count - 1] : nullptr;
    if (last != nullptr && static_cast<std::byte*>(last->iov_base) + last->iov_len == part.data()) {
      last->iov_len += part.size();
    } else if (count < parts_max) {
      parts[count++] = {.iov_base = part.data(), .iov_len = part.size()};
    } else {
      break;
    }
  }
  return count;
}

// EAGAIN, EINTR, and ECANCELED of a thread that submitted and ended: the same call again.
bool disk_transfer::retry(int error) noexcept {
  const bool passing = error == EINTR || error == EAGAIN || error == ECANCELED;
  return passing && ++stalls_ <= stalls_max;
}

bool disk_transfer::advance(std::int64_t answer, bool direct) noexcept {
  if (answer < 0) {
    const int error = static_cast<int>(-answer);
    if (retry(error)) {
      return false;
    }
    // For the system this is a bad sector (O_DIRECT); for us, the end of the file.
    error_ = error == ENODATA ? EIO : error;
    return true;
  }
  std::uint64_t moved = moved_ + static_cast<std::uint64_t>(answer);
  if (moved >= bytes_) {
    moved_ = bytes_;
    return true;
  }
  if (request_.op == disk_op::read && ends_before(segment_->fd.get(), request_.offset + moved)) {
    error_ = ENODATA;
    return true;
  }
  // A short transfer. O_DIRECT goes on from where it may; bytes moved twice are the same bytes.
  moved -= direct ? moved % disk_alignment_bytes : 0;
  if (moved == moved_ && ++stalls_ > stalls_max) {
    error_ = EIO;
    return true;
  }
  stalls_ = moved == moved_ ? stalls_ : 0;
  moved_ = moved;
  return false;
}

bool disk_transfer::advance_sync(std::int64_t answer, disk_folder& folder) noexcept {
  if (answer < 0) {
    const int error = static_cast<int>(-answer);
    if (retry(error)) {
      return false;
    }
    error_ = segment_->sync_error = error;
    if (syncing_name) {
      folder.names_are_lost(error);
    }
    return true;
  }
  if (syncing_name || segment_->name_durable) {
    segment_->name_durable = true;
    return true;
  }
  syncing_name = true;
  error_ = segment_->sync_error = folder.error_of_name(*segment_);
  return error_ != 0;
}

std::uint32_t slot_queue::take(std::uint32_t i) noexcept {
  const std::uint32_t slot = slots_[at(i)];
  for (; i > 0; --i) {
    slots_[at(i)] = slots_[at(i - 1)];
  }
  first_ = at(1);
  --count_;
  return slot;
}

disk_engine::disk_engine(disk_folder folder, const disk_options& options)
    : folder_(std::move(folder)),
      transfers_(options.queue_depth),
      waiting_(options.queue_depth),
      ready_(options.queue_depth),
      budget_(options.bytes_per_s_max) {
  for (std::uint32_t slot = options.queue_depth; slot > 0; --slot) {
    free_.push_back(slot - 1);
  }
}

/// No memory is the request's error: those before it are on their way already.
open_segment* disk_engine::segment_of(std::uint32_t file, int& error) {
  try {
    return folder_.segment(file, error);
  } catch (const std::bad_alloc&) {
    if (ORIEL_MUTANT(request_without_memory_throws)) {
      throw;
    }
    error = ENOMEM;
    return nullptr;
  }
}

std::size_t disk_engine::accept(std::span<const disk_request> requests) {
  std::size_t taken = 0;
  for (; taken < requests.size() && !free_.empty(); ++taken) {
    const disk_request& request = requests[taken];
    int error = 0;
    open_segment* const segment = segment_of(request.file, error);
    disk_transfer transfer(request, segment);
    if (segment != nullptr) {
      ++segment->in_flight;
      segment->was_written = segment->was_written || request.op == disk_op::write;
      error = request.op == disk_op::write && !segment->writable ? EROFS : 0;
    }
    const std::uint32_t slot = free_.back();
    free_.pop_back();
    transfer.fail(error);
    transfers_[slot] = transfer;
    const bool nothing_to_move = request.op != disk_op::sync && transfer.bytes() == 0;
    (error != 0 || nothing_to_move ? ready_ : waiting_).push(slot);
  }
  return taken;
}

std::size_t disk_engine::hand_over(std::span<disk_completion> done) {
  std::size_t count = 0;
  for (; count < done.size() && !ready_.empty(); ++count) {
    const std::uint32_t slot = ready_.take();
    const disk_transfer& transfer = transfers_[slot];
    done[count] = {.user = transfer.request().user, .error = transfer.error()};
    if (transfer.segment() != nullptr) {
      --transfer.segment()->in_flight;
    }
    free_.push_back(slot);
  }
  return count;
}

std::optional<std::uint32_t> disk_engine::next_to_start(std::uint64_t now_us) {
  budget_us_ = ~std::uint64_t{0};
  for (std::uint32_t i = 0; i < waiting_.count(); ++i) {
    disk_transfer& transfer = transfers_[waiting_[i]];
    if (transfer.request().op == disk_op::sync) {
      if (syncing_) {
        continue;
      }
      if (const int error = transfer.segment()->sync_error; error != 0) {
        transfer.fail(error);
        ready_.push(waiting_.take(i));
        --i;  // Wraps at 0, and comes back.
        continue;
      }
      syncing_ = true;
      return waiting_.take(i);
    }
    if (budget_us_ != ~std::uint64_t{0}) {
      continue;  // Behind one that waits for the budget.
    }
    const std::uint64_t ready_us = budget_.ready_us(now_us);
    if (ready_us <= now_us) {
      budget_.spend(transfer.bytes(), now_us);
      return waiting_.take(i);
    }
    budget_us_ = ready_us;
  }
  return std::nullopt;
}

void disk_engine::finish(std::uint32_t slot) {
  if (transfers_[slot].request().op == disk_op::sync) {
    syncing_ = false;
  }
  ready_.push(slot);
}

std::uint64_t monotonic_us() noexcept {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec) / 1'000;
}

std::uint16_t system_priority(disk_priority priority) noexcept {
  switch (priority) {
    case disk_priority::normal:
      return 0;
    case disk_priority::background:
      return IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7);
    case disk_priority::idle:
      return IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0);
  }
  return 0;
}

}  // namespace oriel::detail
