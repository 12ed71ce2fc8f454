// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "tier/disk_engine.hpp"

#include <oriel/tier/uring_disk.hpp>

#include <cerrno>
#include <memory>

#ifdef ORIEL_HAS_LIBURING

#include <algorithm>
#include <ctime>

#include <liburing.h>

namespace oriel {

namespace detail {

namespace {

// A ring that answers: sandboxes forbid its set-up or, with the set-up allowed, its use.
class uring {
 public:
  uring() noexcept = default;
  uring(const uring&) = delete;
  uring& operator=(const uring&) = delete;
  ~uring() {
    if (open_) {
      ::io_uring_queue_exit(&ring_);
    }
  }

  [[nodiscard]] int open(std::uint32_t entries) noexcept {
    // Completions need not interrupt us: whoever polls or waits enters the kernel anyway. Flags
    // that tie the ring to one thread would be cheaper still, but a disk may be handed on.
    int error = -::io_uring_queue_init(
        entries, &ring_, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG);
    if (error == EINVAL) {
      error = -::io_uring_queue_init(entries, &ring_, 0);
    }
    if (error != 0) {
      return error;
    }
    open_ = true;
    if ((ring_.features & IORING_FEAT_EXT_ARG) == 0) {
      return ENOSYS;  // Before Linux 5.11 a wait with a time limit sends entries behind our back.
    }
    ::io_uring_prep_nop(::io_uring_get_sqe(&ring_));
    const int sent = ::io_uring_submit(&ring_);
    io_uring_cqe* cqe = nullptr;
    if (sent < 0 || ::io_uring_peek_cqe(&ring_, &cqe) != 0) {
      return sent < 0 ? -sent : ENOSYS;
    }
    ::io_uring_cqe_seen(&ring_, cqe);
    return 0;
  }
  io_uring* get() noexcept { return &ring_; }

 private:
  io_uring ring_ = {};
  bool open_ = false;
};

// Files are not registered with the ring: it would save two atomic operations for each request of
// hundreds of KiB, and keep the room of a removed file taken until its place in a table is reused.
class uring_engine final : public disk_engine {
 public:
  uring_engine(disk_folder folder, std::unique_ptr<uring> ring, const disk_options& options)
      : disk_engine(std::move(folder), options),
        uring_(std::move(ring)),
        ring_(uring_->get()),
        sent_(options.queue_depth),
        parts_(options.queue_depth * disk_transfer::parts_max),
        priority_(system_priority(options.priority)) {}

  ~uring_engine() override {
    // What was not sent touches nothing. What was sent has to come back; what is left of a short
    // transfer stays undone.
    while (on_disk_ > 0) {
      io_uring_cqe* cqe = nullptr;
      if (::io_uring_wait_cqe(ring_, &cqe) == 0) {
        ::io_uring_cqe_seen(ring_, cqe);
        --on_disk_;
      }
    }
  }

  disk_backend backend() const noexcept override { return disk_backend::io_uring; }

  std::size_t submit(std::span<const disk_request> requests) override {
    const std::size_t taken = accept(requests);
    start();
    return taken;
  }

  std::size_t poll(std::span<disk_completion> done) override {
    reap();
    start();
    return hand_over(done);
  }

  bool wait(std::uint64_t until_us) override {
    while (in_flight() > 0) {
      reap();
      start();
      if (!ready_.empty()) {
        return true;
      }
      const std::uint64_t now_us = monotonic_us();
      if (now_us >= until_us) {
        return false;
      }
      const std::uint64_t end_us = std::min(until_us, budget_us_);
      sleep(end_us > now_us ? end_us - now_us : 0);
    }
    return false;
  }

 private:
  // Until something comes back from the disk, but not longer.
  void sleep(std::uint64_t us) noexcept {
    // wait() asks again, so less will do; and entries that the kernel was too busy to take are to
    // be sent again soon.
    constexpr std::uint64_t hour_us = 3'600'000'000;
    us = std::min<std::uint64_t>(us, sent_.empty() ? hour_us : 1'000);
    io_uring_cqe* cqe = nullptr;
    if (on_disk_ > 0 && us == hour_us) {
      static_cast<void>(::io_uring_wait_cqe(ring_, &cqe));  // Saves the timer.
      return;
    }
    __kernel_timespec time = {.tv_sec = static_cast<std::int64_t>(us / 1'000'000),
                              .tv_nsec = static_cast<long long>(us % 1'000'000 * 1'000)};
    if (on_disk_ > 0) {
      static_cast<void>(::io_uring_wait_cqe_timeout(ring_, &cqe, &time));
      return;
    }
    const timespec plain = {.tv_sec = time.tv_sec, .tv_nsec = static_cast<long>(time.tv_nsec)};
    static_cast<void>(::clock_nanosleep(CLOCK_MONOTONIC, 0, &plain, nullptr));
  }

  void start() {
    while (const std::optional<std::uint32_t> slot = next_to_start(monotonic_us())) {
      prepare(*slot);
    }
    send();
  }

  void prepare(std::uint32_t slot) noexcept {
    sent_.push(slot);
    if (broken_ != 0) {
      return;
    }
    const disk_transfer& transfer = transfers_[slot];
    io_uring_sqe* const sqe = ::io_uring_get_sqe(ring_);  // There is one for every slot.
    if (transfer.request().op == disk_op::sync) {
      ::io_uring_prep_fsync(
          sqe, transfer.sync_fd(folder_), transfer.syncing_name ? 0 : IORING_FSYNC_DATASYNC);
    } else {
      iovec* const parts = &parts_[slot * disk_transfer::parts_max];
      const auto count = static_cast<unsigned>(transfer.fill(parts));
      const int fd = transfer.segment()->fd.get();
      if (transfer.request().op == disk_op::read) {
        ::io_uring_prep_readv(sqe, fd, parts, count, transfer.offset());
      } else {
        ::io_uring_prep_writev(sqe, fd, parts, count, transfer.offset());
      }
      sqe->ioprio = priority_;
    }
    sqe->user_data = slot;
  }

  // The kernel takes entries in order. If it will never take one again, what it has not taken
  // fails; if it is only busy, the next poll or wait tries again.
  void send() noexcept {
    while (!sent_.empty()) {
      const int count = broken_ != 0 ? -broken_ : ::io_uring_submit(ring_);
      if (count > 0) {
        on_disk_ += static_cast<std::uint32_t>(count);
        for (int i = 0; i < count; ++i) {
          sent_.take();
        }
      } else if (count == 0 || count == -EAGAIN || count == -EBUSY || count == -EINTR ||
                 count == -ENOMEM) {
        return;
      } else {
        broken_ = -count;
        while (!sent_.empty()) {
          const std::uint32_t slot = sent_.take();
          transfers_[slot].fail(broken_);
          finish(slot);
        }
      }
    }
  }

  void reap() noexcept {
    io_uring_cqe* cqe = nullptr;
    while (::io_uring_peek_cqe(ring_, &cqe) == 0) {
      const auto slot = static_cast<std::uint32_t>(cqe->user_data);
      const std::int64_t answer = cqe->res;
      ::io_uring_cqe_seen(ring_, cqe);
      --on_disk_;
      disk_transfer& transfer = transfers_[slot];
      const bool last = transfer.request().op == disk_op::sync
                            ? transfer.advance_sync(answer, folder_)
                            : transfer.advance(answer, folder_.direct());
      if (last) {
        finish(slot);
      } else {
        prepare(slot);
      }
    }
  }

  std::unique_ptr<uring> uring_;
  io_uring* ring_;
  slot_queue sent_;            // Prepared, and not yet taken by the kernel; in its order.
  std::uint32_t on_disk_ = 0;  // Taken by the kernel.
  std::vector<iovec> parts_;   // [queue_depth][parts_max]
  std::uint16_t priority_;
  int broken_ = 0;  // Why the kernel takes no more: a sandbox that was closed later, say.
};

}  // namespace

result<disk_engine*> open_uring_engine(disk_folder&& folder, const disk_options& options) {
  auto ring = std::make_unique<uring>();
  if (const int error = ring->open(options.queue_depth); error != 0) {
    return failure{errc::io_failure, error, "the system does not let us use io_uring"};
  }
  return new uring_engine(std::move(folder), std::move(ring), options);
}

}  // namespace detail

}  // namespace oriel

#else

namespace oriel::detail {

result<disk_engine*> open_uring_engine(disk_folder&&, const disk_options&) {
  return failure{errc::io_failure, ENOSYS, "built without liburing"};
}

}  // namespace oriel::detail

#endif

namespace oriel {

result<uring_disk> uring_disk::open(const disk_options& options) {
  disk_options ring = options;
  ring.backend = disk_backend::io_uring;
  result<directory_disk> disk = directory_disk::open(ring);
  if (!disk) {
    return disk.error();
  }
  return uring_disk(std::move(*disk));
}

}  // namespace oriel
