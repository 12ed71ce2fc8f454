// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What `store_thread` needs of the system: a thread, a bell, and a place for its latest counts.
#pragma once

#include <oriel/tier/kv_store.hpp>

#include <atomic>
#include <cstdint>

namespace oriel::detail {

/// Wakes one sleeper. The sleeper announces itself, looks once more, and sleeps; whoever rings
/// after that look wakes it, so nothing is missed, and ringing for nobody is one atomic addition.
///
///     const std::uint32_t ticket = bell.announce();
///     if (!there_is_work()) { bell.sleep(ticket, 500); }
class bell {
 public:
  [[nodiscard]] std::uint32_t announce() noexcept;
  /// Until it rings after `announce`, or for so long, or for no reason. ~0: no limit.
  void sleep(std::uint32_t ticket, std::uint64_t us_max) noexcept;
  /// From any thread.
  void ring() noexcept;

 private:
  std::atomic<std::uint32_t> rings_{0};
  std::atomic<std::uint32_t> sleepers_{0};
};

/// One thread, and its latest counts for others to read.
class worker_thread {
 public:
  worker_thread();
  /// @pre joined, or never started
  ~worker_thread();
  worker_thread(const worker_thread&) = delete;
  worker_thread& operator=(const worker_thread&) = delete;

  /// @throws std::system_error
  void start(void (*body)(void* context), void* context, int nice);
  void join() noexcept;

  void publish(const store_stats& stats, const store_fault& fault);
  [[nodiscard]] store_stats stats() const;
  [[nodiscard]] store_fault fault() const;

  /// Time the calling thread was on a CPU.
  [[nodiscard]] static std::uint64_t cpu_us() noexcept;

 private:
  struct state;
  state* state_;
};

}  // namespace oriel::detail
