// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/thread_pool.hpp>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <cfenv>
#endif

namespace oriel {
namespace {

constexpr std::uint32_t spins_max = 400;  // Some ten microseconds of pause instructions.

void pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Rounding mode, flush-to-zero and exception masks; not the sticky exception flags.
#if defined(__x86_64__)
using control_word = unsigned;
control_word read_control_word() noexcept {
  return _mm_getcsr() & ~0x3Fu;
}
void write_control_word(control_word word) noexcept {
  _mm_setcsr(word);
}
#else
using control_word = int;
control_word read_control_word() noexcept {
  return std::fegetround();
}
void write_control_word(control_word word) noexcept {
  std::fesetround(word);
}
#endif

// The pool whose task this thread is running, and as which worker.
struct membership {
  const void* pool = nullptr;
  std::uint32_t worker = 0;
};
thread_local membership current;

}  // namespace

// One job at a time. `gate` is closed (0) between jobs. A thread joins by counting itself in while
// the gate is open; the caller closes it when no task is left and waits for the count to reach 0.
// So the job's fields never change under a thread that reads them, and a thread that wakes up too
// late finds the gate closed and goes back to sleep.
struct thread_pool::state {
  static constexpr std::uint32_t open = 1u << 31;

  explicit state(std::uint32_t workers) : concurrency(workers) {}

  void drain(std::uint32_t worker) noexcept {
    const membership outer = current;
    current = {this, worker};
    for (std::uint32_t t; (t = next_task.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      function(context, t, worker);
    }
    current = outer;
  }

  [[nodiscard]] bool try_join() noexcept {
    std::uint32_t seen = gate.load(std::memory_order_relaxed);
    while ((seen & open) != 0) {
      if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire)) {
        return true;
      }
    }
    return false;
  }

  void leave() noexcept {
    if (gate.fetch_sub(1, std::memory_order_acq_rel) ==
        1) {  // The last one, and the gate is closed.
      gate.notify_one();
    }
  }

  void close() noexcept {
    std::uint32_t left = gate.fetch_and(~open, std::memory_order_acq_rel) & ~open;
    for (std::uint32_t spins = 0; left != 0; left = gate.load(std::memory_order_acquire)) {
      if (++spins < spins_max) {
        pause();
      } else {
        gate.wait(left, std::memory_order_acquire);
      }
    }
  }

  // Returns when a job other than number `seen` was announced.
  std::uint32_t await_job(std::uint32_t seen) noexcept {
    for (std::uint32_t spins = 0; spins < spins_max; ++spins) {
      if (const std::uint32_t now = job.load(std::memory_order_acquire); now != seen) {
        return now;
      }
      pause();
    }
    job.wait(seen, std::memory_order_acquire);
    return job.load(std::memory_order_acquire);
  }

  void work(std::uint32_t worker) noexcept {
    for (std::uint32_t seen = 0;;) {
      seen = await_job(seen);
      if (stopping.load(std::memory_order_acquire)) {
        return;
      }
      if (try_join()) {
        write_control_word(control);
        drain(worker);
        leave();
      }
    }
  }

  void announce() noexcept {
    job.fetch_add(1, std::memory_order_release);
    job.notify_all();
  }

  void stop() noexcept {
    stopping.store(true, std::memory_order_release);
    announce();
    threads.clear();  // Joins.
  }

  const std::uint32_t concurrency;

  // The job. Written while the gate is closed and nobody is inside.
  task_function function = nullptr;
  void* context = nullptr;
  std::uint32_t tasks = 0;
  control_word control = 0;

  alignas(64) std::atomic<std::uint32_t> next_task{0};
  alignas(64) std::atomic<std::uint32_t> gate{0};  // `open` | threads inside
  alignas(64) std::atomic<std::uint32_t> job{0};   // number of announcements, modulo 2^32
  std::atomic<bool> stopping{false};
  std::atomic<bool> running{false};
  std::vector<std::jthread> threads;
};

thread_pool::thread_pool(std::uint32_t threads) : state_(nullptr) {
  ORIEL_EXPECTS(threads >= 1 && threads <= threads_max);
  auto made = std::make_unique<state>(threads);
  made->threads.reserve(threads - 1);
  try {
    for (std::uint32_t worker = 1; worker < threads; ++worker) {
      made->threads.emplace_back([s = made.get(), worker] { s->work(worker); });
    }
  } catch (...) {
    made->stop();
    throw;
  }
  state_ = made.release();
}

thread_pool::~thread_pool() {
  ORIEL_EXPECTS(!state_->running.load(std::memory_order_acquire));
  state_->stop();
  delete state_;
}

std::uint32_t thread_pool::concurrency() const noexcept {
  return state_->concurrency;
}

void thread_pool::run_tasks(std::uint32_t tasks, task_function f, void* context) noexcept {
  state& s = *state_;
  if (current.pool == &s) {
    for (std::uint32_t t = 0; t < tasks; ++t) {
      f(context, t, current.worker);
    }
    return;
  }
  ORIEL_EXPECTS(!s.running.exchange(true, std::memory_order_acquire));
  s.function = f;
  s.context = context;
  s.tasks = tasks;
  s.control = read_control_word();
  s.next_task.store(0, std::memory_order_relaxed);
  const bool shared = tasks > 1 && s.concurrency > 1;
  if (shared) {
    s.gate.store(state::open, std::memory_order_release);
    s.announce();
  }
  s.drain(0);
  if (shared) {
    s.close();
  }
  s.running.store(false, std::memory_order_release);
}

}  // namespace oriel
