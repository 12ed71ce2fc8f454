// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Work that waits for other work, and is done as late and in as odd an order as a seed says.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace oriel::ptx_machine {

/// One piece: a copy, a kernel, a mark that something before it is done.
struct work {
  std::function<void()> run;  ///< none: a mark
  std::vector<std::shared_ptr<work>> before;
  std::vector<work*> behind;     ///< not done, all of them: the queue holds them
  std::uint32_t missing = 0;     ///< of `before`, not done yet
  std::uint64_t needed_for = 0;  ///< the number of who waits for it
  std::atomic<bool> is_done = false;
};
using work_ptr = std::shared_ptr<work>;

/// The device's work. Nothing runs until somebody waits, asks or, with most seeds, adds more: then
/// what is needed runs, and what is not may. One piece at a time. Thread-safe.
class work_queue {
 public:
  /// @param seed  multiples of 4: nothing runs before it must; others: some may at once, more may,
  /// all does
  explicit work_queue(std::uint64_t seed) : random_(seed), eagerness_(seed % 4) {}

  /// @param run  may throw: the device is lost then, and nothing behind it is run
  work_ptr add(std::function<void()> run, std::vector<work_ptr> before);
  /// To be called when something was added: with most seeds some of it may run.
  void may_get_on();
  /// Returns when it is done, or given up.
  void finish(const work_ptr& wanted);
  void finish_all();
  /// Somebody asks how far it is: it may get on.
  void get_on();

  /// What `run` threw, or null.
  [[nodiscard]] std::exception_ptr failure() const;
  [[nodiscard]] std::uint64_t next_random();
  /// Is this thread in `run`? It must not wait then.
  [[nodiscard]] static bool is_in_work();

 private:
  void run_one(std::unique_lock<std::mutex>& lock, std::size_t ready_index);
  void run_some(std::unique_lock<std::mutex>& lock, std::uint64_t most);
  void end(const work_ptr& done);
  void give_up();
  std::uint64_t draw();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool is_running_ = false;
  std::uint64_t random_, eagerness_, waits_ = 0;
  std::unordered_map<work*, work_ptr> pending_;
  std::vector<work_ptr> ready_;
  std::exception_ptr failure_;
};

}  // namespace oriel::ptx_machine
