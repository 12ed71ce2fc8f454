// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/tier/detail/worker_thread.hpp>

#include <linux/futex.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <ctime>
#include <mutex>
#include <thread>

#include <pthread.h>
#include <unistd.h>

namespace oriel::detail {

static_assert(sizeof(std::atomic<std::uint32_t>) == 4, "a futex is the atomic itself");

std::uint32_t bell::announce() noexcept {
  sleepers_.store(1);
  return rings_.load();
}

void bell::sleep(std::uint32_t ticket, std::uint64_t us_max) noexcept {
  timespec limit{};
  limit.tv_sec = static_cast<std::time_t>(us_max / 1'000'000);
  limit.tv_nsec = static_cast<long>(us_max % 1'000'000 * 1'000);
  const bool is_limited = us_max < std::uint64_t{1} << 50;
  // Returns at once where the count is not the ticket any more.
  ::syscall(SYS_futex,
            reinterpret_cast<std::uint32_t*>(&rings_),
            FUTEX_WAIT_PRIVATE,
            ticket,
            is_limited ? &limit : nullptr,
            nullptr,
            0);
  sleepers_.store(0);
}

void bell::ring() noexcept {
  rings_.fetch_add(1);
  // The exchange: one call to wake for one announcement, also if its sleeper never slept.
  if (sleepers_.load() != 0 && sleepers_.exchange(0) != 0) {
    ::syscall(SYS_futex,
              reinterpret_cast<std::uint32_t*>(&rings_),
              FUTEX_WAKE_PRIVATE,
              1,
              nullptr,
              nullptr,
              0);
  }
}

struct worker_thread::state {
  std::thread thread;
  mutable std::mutex mutex;
  store_stats stats;
  store_fault fault;
};

worker_thread::worker_thread() : state_(new state) {}

worker_thread::~worker_thread() {
  ORIEL_EXPECTS(!state_->thread.joinable());
  delete state_;
}

void worker_thread::start(void (*body)(void* context), void* context, int nice) {
  state_->thread = std::thread([=] {
    ::pthread_setname_np(::pthread_self(), "oriel-store");
    if (nice != 0) {  // Of this thread alone, on Linux. Refused: it is as urgent as the others.
      ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), nice);
    }
    body(context);
  });
}

void worker_thread::join() noexcept {
  if (state_->thread.joinable()) {
    state_->thread.join();
  }
}

void worker_thread::publish(const store_stats& stats, const store_fault& fault) {
  const std::scoped_lock lock(state_->mutex);
  state_->stats = stats;
  if (state_->fault.count != fault.count) {
    state_->fault = fault;
  }
}

store_stats worker_thread::stats() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->stats;
}

store_fault worker_thread::fault() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->fault;
}

std::uint64_t worker_thread::cpu_us() noexcept {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<std::uint64_t>(used.tv_sec) * 1'000'000 +
         static_cast<std::uint64_t>(used.tv_nsec) / 1'000;
}

}  // namespace oriel::detail
