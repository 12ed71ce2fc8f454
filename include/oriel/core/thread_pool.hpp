// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `thread_pool`: an executor with threads of its own. The caller works too, as worker 0.
#pragma once

#include <oriel/core/executor.hpp>

#include <cstdint>

namespace oriel {

/// Runs tasks on the calling thread and on `threads - 1` others, which sleep between runs.
///
///  - Tasks are taken one by one from a shared counter: a slow task delays no other.
///  - A run never waits for a thread that is still asleep: it ends when the tasks have ended.
///  - Every task sees the caller's floating-point control word (rounding mode, flush-to-zero), so a
///    result does not depend on the thread that computed it.
///  - A task may call run_tasks on its own pool: those tasks run at once, in order, on its thread,
///    under its worker number.
///
/// *Invariant* no thread runs a task outside run_tasks. *Thread safety* one run at a time: calling
/// run_tasks from two threads at once breaks the contract. *Memory* nothing is allocated after
/// construction. An idle thread spins for some ten microseconds, then sleeps.
class thread_pool {
 public:
  static constexpr std::uint32_t threads_max = 1024;

  /// @param threads workers, the caller included, in [1, threads_max]
  /// @throws std::system_error when the system refuses a thread
  explicit thread_pool(std::uint32_t threads);
  ~thread_pool();
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  [[nodiscard]] std::uint32_t concurrency() const noexcept;

  /// Calls f(context, task, worker) for each task in [0, tasks) and returns when all have ended.
  void run_tasks(std::uint32_t tasks, task_function f, void* context) noexcept;

 private:
  struct state;
  state* state_;
};

static_assert(executor<thread_pool>);

}  // namespace oriel
