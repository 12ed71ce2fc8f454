// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `executor`: who runs the independent tasks of a host kernel. The library never starts threads
/// behind a caller's back; an engine passes its own pool, a test passes `serial_executor`.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace oriel {

/// A task: `run(context, task, worker)`, task in [0, tasks), worker in [0, concurrency()).
using task_function = void (*)(void* context, std::uint32_t task, std::uint32_t worker);

/// Runs tasks and returns when all have ended.
///
///  - `run_tasks(n, f, context)` calls f(context, t, w) once for each t in [0, n); w names the
///    worker, two tasks that overlap in time have different w; all writes of the tasks are visible
///    when it returns.
///  - `concurrency()` is at least 1 and never changes.
///
/// Models: `serial_executor`, `thread_pool`.
// clang-format off
template <class E>
concept executor =
    requires(E& e, const E& ce, std::uint32_t tasks, task_function f, void* context) {
      { ce.concurrency() } noexcept -> std::same_as<std::uint32_t>;
      { e.run_tasks(tasks, f, context) } noexcept -> std::same_as<void>;
    };
// clang-format on

/// Runs everything on the calling thread, in order.
struct serial_executor {
  [[nodiscard]] std::uint32_t concurrency() const noexcept { return 1; }
  void run_tasks(std::uint32_t tasks, task_function f, void* context) noexcept {
    for (std::uint32_t t = 0; t < tasks; ++t) {
      f(context, t, 0);
    }
  }
};

static_assert(executor<serial_executor>);

/// A reference to any executor, so that compiled kernels need no template. Two pointers; copy it.
class executor_ref {
 public:
  template <executor E>
  requires(!std::same_as<std::remove_cv_t<E>, executor_ref>) executor_ref(E& e)
  noexcept  // NOLINT: implicit by design
      : object_(&e),
        concurrency_(e.concurrency()),
        run_([](void* object, std::uint32_t tasks, task_function f, void* context) {
          static_cast<E*>(object)->run_tasks(tasks, f, context);
        }) {}

  [[nodiscard]] std::uint32_t concurrency() const noexcept { return concurrency_; }

  void run_tasks(std::uint32_t tasks, task_function f, void* context) noexcept {
    run_(object_, tasks, f, context);
  }

  /// Calls `f(task, worker)` for each task in [0, tasks).
  template <class F>
  void for_each(std::uint32_t tasks, F&& f) {
    using body = std::remove_reference_t<F>;
    run_(
        object_,
        tasks,
        [](void* context, std::uint32_t task, std::uint32_t worker) {
          (*static_cast<body*>(context))(task, worker);
        },
        const_cast<std::remove_const_t<body>*>(&f));
  }

 private:
  void* object_;
  std::uint32_t concurrency_;
  void (*run_)(void*, std::uint32_t, task_function, void*);
};

static_assert(executor<executor_ref>);

}  // namespace oriel
