// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "tier/disk_engine.hpp"

#include <oriel/tier/thread_disk.hpp>

#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <unistd.h>

namespace oriel {

namespace detail {

namespace {

// libstdc++'s steady_clock is CLOCK_MONOTONIC.
std::chrono::steady_clock::time_point time_point_of(std::uint64_t us) {
  return std::chrono::steady_clock::time_point(std::chrono::microseconds(us));
}

class thread_engine final : public disk_engine {
 public:
  thread_engine(disk_folder folder, const disk_options& options)
      : disk_engine(std::move(folder), options) {
    try {
      for (std::uint32_t i = 0; i < options.threads; ++i) {
        threads_.emplace_back([this, priority = options.priority] { work(priority); });
      }
    } catch (...) {
      stop();
      throw;
    }
  }
  ~thread_engine() override { stop(); }

  disk_backend backend() const noexcept override { return disk_backend::threads; }

  std::size_t submit(std::span<const disk_request> requests) override {
    const std::lock_guard lock(mutex_);
    const std::size_t taken = accept(requests);
    for (std::size_t i = 0; i < taken && i < threads_.size(); ++i) {
      work_.notify_one();
    }
    return taken;
  }

  std::size_t poll(std::span<disk_completion> done) override {
    const std::lock_guard lock(mutex_);
    return hand_over(done);
  }

  bool wait(std::uint64_t until_us) override {
    std::unique_lock lock(mutex_);
    if (in_flight() == 0) {
      return false;
    }
    const auto any_ready = [this] { return !ready_.empty(); };
    // A time point so far away overflows inside the library.
    constexpr std::uint64_t forever_us = std::uint64_t{1} << 50;
    if (until_us >= forever_us) {
      done_.wait(lock, any_ready);
      return true;
    }
    return done_.wait_until(lock, time_point_of(until_us), any_ready);
  }

 private:
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }

  void limit_rate(std::uint64_t bytes_per_s_max) override {
    {
      const std::lock_guard lock(mutex_);
      disk_engine::limit_rate(bytes_per_s_max);
    }
    work_.notify_all();
  }

  void work(disk_priority priority) {
    if (const std::uint16_t rank = system_priority(priority); rank != 0) {
      constexpr int this_thread = 1;  // IOPRIO_WHO_PROCESS, which means a thread
      // A wish: without it the disk works just as well.
      static_cast<void>(::syscall(SYS_ioprio_set, this_thread, 0, static_cast<int>(rank)));
    }
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      const std::optional<std::uint32_t> slot = next_to_start(monotonic_us());
      if (!ready_.empty()) {
        done_.notify_one();
      }
      if (slot) {
        lock.unlock();
        carry_out(transfers_[*slot]);
        lock.lock();
        finish(*slot);
        done_.notify_one();
      } else if (budget_us_ != ~std::uint64_t{0}) {
        work_.wait_until(lock, time_point_of(budget_us_));
      } else {
        work_.wait(lock);
      }
    }
  }

  // The slot is this thread's until it is finished.
  void carry_out(disk_transfer& transfer) {
    if (transfer.request().op == disk_op::sync) {
      std::int64_t answer = 0;
      do {
        const int fd = transfer.sync_fd(folder_);
        answer = transfer.syncing_name ? ::fsync(fd) : ::fdatasync(fd);
      } while (!transfer.advance_sync(answer < 0 ? -errno : answer, folder_));
      return;
    }
    std::array<iovec, disk_transfer::parts_max> parts;
    std::int64_t answer = 0;
    do {
      const int count = static_cast<int>(transfer.fill(parts.data()));
      const int fd = transfer.segment()->fd.get();
      const auto offset = static_cast<off_t>(transfer.offset());
      answer = transfer.request().op == disk_op::read ? ::preadv(fd, parts.data(), count, offset)
                                                      : ::pwritev(fd, parts.data(), count, offset);
    } while (!transfer.advance(answer < 0 ? -errno : answer, folder_.direct()));
  }

  std::mutex mutex_;
  std::condition_variable work_, done_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

result<disk_engine*> open_thread_engine(disk_folder&& folder, const disk_options& options) {
  return new thread_engine(std::move(folder), options);
}

}  // namespace detail

result<thread_disk> thread_disk::open(const disk_options& options) {
  disk_options threads = options;
  threads.backend = disk_backend::threads;
  result<directory_disk> disk = directory_disk::open(threads);
  if (!disk) {
    return disk.error();
  }
  return thread_disk(std::move(*disk));
}

}  // namespace oriel
