// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `layer_loader_thread`: a `layer_loader` whose stores are driven by a thread of its own.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/tier/detail/layer_lanes.hpp>
#include <oriel/tier/detail/worker_thread.hpp>
#include <oriel/tier/layer_gate.hpp>
#include <oriel/tier/layer_load.hpp>
#include <oriel/tier/store_clock.hpp>

#include <atomic>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

/// Loads while its owner computes, also where the store works within `poll` (`memory_store`). The
/// thread sleeps while there is nothing to load; `wait` sleeps, and asks first without a system
/// call. One load at a time: who prepares several steps ahead has several of them.
///
/// @tparam Clock  of deadlines, stalls and leads; the stores' own
/// *Thread safety* one thread (the owner) calls everything. *Memory* `begin` allocates; the thread
/// does not, but for its stores.
template <kv_store Store, store_clock Clock = monotonic_clock>
class layer_loader_thread {
 public:
  /// @param stores  by `layer_page::tier`; they outlive it. From `begin` to `idle` they are the
  ///                thread's, otherwise the owner's.
  /// @param nice    of the thread
  /// @throws std::bad_alloc, std::system_error: no thread
  explicit layer_loader_thread(std::vector<Store*> stores,
                               const layer_load_options& options = {},
                               int nice = 0,
                               Clock clock = {})
      : options_(options), clock_(std::move(clock)), lanes_(std::move(stores)) {
    thread_.start([](void* self) { static_cast<layer_loader_thread*>(self)->work(); }, this, nice);
  }
  layer_loader_thread(const layer_loader_thread&) = delete;
  layer_loader_thread& operator=(const layer_loader_thread&) = delete;
  /// Waits for what stores still write to.
  ~layer_loader_thread() {
    cancel();
    is_closing_.store(true);
    work_bell_.ring();
    thread_.join();
  }

  /// As `layer_loader::begin`.
  /// @pre    idle(), and as plan_layer_reads
  /// @throws std::bad_alloc
  void begin(std::span<const layer_home> layers,
             std::vector<layer_page> pages,
             std::uint64_t deadline_us = no_deadline) {
    ORIEL_EXPECTS(idle());
    layer_plan plan = plan_layer_reads(layers, pages, options_);
    layer_load load(std::move(plan), std::move(pages), options_, clock_.now_us());
    meter_.begin(load.plan());
    load_ = std::move(load);
    deadline_us_ = deadline_us;
    is_cancelled_.store(false);
    is_running_.store(true);
    work_bell_.ring();
  }

  /// Would `wait` return true at once? One load. @pre layer < layers of the last begin
  [[nodiscard]] bool ready(std::uint32_t layer) const noexcept {
    return load_.state(layer) == layer_state::ready;
  }

  /// Blocks until the layer is there or has failed; see `layer_gate`.
  /// @pre layer < layers of the last begin
  bool wait(std::uint32_t layer) {
    const std::uint64_t asked_us = clock_.now_us();
    std::uint64_t passed_us = asked_us;
    if (load_.state(layer) == layer_state::loading) {
      sleep_until([&] { return load_.state(layer) != layer_state::loading; });
      passed_us = clock_.now_us();
    }
    meter_.pass(load_, layer, asked_us, passed_us);
    return load_.state(layer) == layer_state::ready;
  }

  /// Nobody wants it any more: soon no more is handed out. What stores have keeps its pages.
  void cancel() noexcept {
    is_cancelled_.store(true);
    work_bell_.ring();
  }

  /// No store has anything of the last load: its pages are the caller's.
  [[nodiscard]] bool idle() const noexcept { return !is_running_.load(); }
  /// Blocks until `idle`.
  void finish() noexcept {
    sleep_until([&] { return idle(); });
  }

  /// Of the last load, by layer; those that were not asked for are zero.
  [[nodiscard]] std::span<const layer_wait> waits() const noexcept { return meter_.waits(); }
  [[nodiscard]] const layer_counters& counters() const noexcept { return meter_.counters(); }
  /// @pre idle()
  [[nodiscard]] const layer_load& load() const noexcept { return load_; }

 private:
  static constexpr std::uint64_t look_us = 500;  // for a cancel, while a store works by itself

  template <class Done>
  void sleep_until(Done&& done) noexcept {
    while (!done()) {
      const std::uint32_t ticket = done_bell_.announce();
      if (!done()) {
        done_bell_.sleep(ticket, no_deadline);
      }
    }
  }

  // ---- everything below runs on the thread

  void work() {
    for (;;) {
      const std::uint32_t ticket = work_bell_.announce();
      if (is_running_.load()) {
        run();
      } else if (is_closing_.load()) {
        return;
      } else {
        work_bell_.sleep(ticket, no_deadline);
      }
    }
  }

  void run() {
    std::uint32_t told = load_.settled();
    while (!load_.is_over()) {
      if (is_cancelled_.load()) {
        load_.cancel(clock_.now_us());
      }
      const bool moved = lanes_.turn(load_, deadline_us_, clock_);
      if (load_.settled() != told) {
        told = load_.settled();
        done_bell_.ring();
      } else if (!moved) {
        const std::uint64_t now_us = clock_.now_us();
        lanes_.wait(now_us, now_us + look_us);
      }
    }
    is_running_.store(false);
    done_bell_.ring();
  }

  const layer_load_options options_;
  const Clock clock_;
  detail::layer_lanes<Store> lanes_;
  layer_load load_;    // the thread's while is_running_, but for its states
  layer_meter meter_;  // the owner's
  std::uint64_t deadline_us_ = no_deadline;
  std::atomic<bool> is_running_{false}, is_cancelled_{false}, is_closing_{false};
  detail::bell work_bell_, done_bell_;
  detail::worker_thread thread_;  // Last: it is joined before the rest goes.
};

}  // namespace oriel
