// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `store_thread`: a store with a thread of its own, for those who must not spend time on copies
/// and system calls.
///
///     store_thread<memory_store<>> host({.nice = 5}, memory_store_options{...});
///     host.submit(items, deadline_us);   // as any store; the work is done elsewhere
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/detail/spsc_ring.hpp>
#include <oriel/tier/detail/worker_thread.hpp>
#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/store_clock.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace oriel {

struct store_thread_options {
  std::size_t queue_items = 1'024;  ///< pending at most
  int nice = 0;                     ///< of the thread: 0 as its maker, 19 last
  double share = 1.0;               ///< of one CPU at most; see `set_share`
  /// While the store waits for its own (a disk, a peer) it looks for new items so often.
  std::uint64_t look_us = 500;
};

/// A `kv_store` around another. Items and completions cross through two bounded rings without a
/// lock; a thread with nothing to do sleeps, and so does `wait`. `stats` and `last_fault` are those
/// of the moment of the last completion that was polled, or later.
///
/// An item whose deadline passes before the store took it completes as `late` without it: a store
/// that is slow to take items delays nobody beyond his deadline.
///
/// A store that throws (it has no memory, say) is destroyed: what it had ends as `failed` with
/// ENOMEM, what comes later as `refused`, and the health is degraded.
///
/// @tparam Clock  the store's clock
/// *Thread safety* one thread (the owner) calls everything but `set_share`. *Memory* nothing is
/// allocated after construction, but by the store. The destructor lets the store go where it is,
/// completes nothing, and returns when the store's has.
template <kv_store Store, store_clock Clock = monotonic_clock>
class store_thread {
 public:
  /// The store is made here, from `args`, on the calling thread.
  /// @throws what its constructor throws, std::bad_alloc, std::system_error: no thread
  template <class... Args>
  explicit store_thread(const store_thread_options& options, Args&&... args)
      : store_thread(Clock{}, options, std::forward<Args>(args)...) {}
  template <class... Args>
  store_thread(Clock clock, const store_thread_options& options, Args&&... args)
      : options_(options),
        clock_(clock),
        store_(std::in_place, std::forward<Args>(args)...),
        requests_(options.queue_items),
        replies_(options.queue_items) {
    ORIEL_EXPECTS(options.queue_items > 0 && options.look_us > 0);
    backlog_.reserve(options.queue_items);
    given_.resize(options.queue_items);
    for (std::size_t place = options.queue_items; place > 0; --place) {
      free_given_.push_back(static_cast<std::uint32_t>(place - 1));
    }
    set_share(options.share);
    thread_.publish(store_->stats(), store_->last_fault());
    thread_.start([](void* self) { static_cast<store_thread*>(self)->work(); }, this, options.nice);
  }
  store_thread(const store_thread&) = delete;
  store_thread& operator=(const store_thread&) = delete;
  ~store_thread() {
    is_closing_.store(true);
    work_bell_.ring();
    thread_.join();
  }

  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    const std::size_t taken = std::min(items.size(), options_.queue_items - pending_);
    for (std::size_t i = 0; i < taken; ++i) {
      const bool is_pushed = requests_.try_push({items[i], deadline_us});
      ORIEL_EXPECTS(is_pushed);
    }
    if (taken != 0) {
      pending_ += taken;
      work_bell_.ring();
    }
    return taken;
  }

  std::size_t poll(std::span<store_completion> done) {
    std::size_t count = 0;
    while (count < done.size() && replies_.try_pop(done[count])) {
      ++count;
    }
    pending_ -= count;
    return count;
  }

  bool wait(std::uint64_t until_us) {
    while (pending_ != 0) {
      const std::uint32_t ticket = done_bell_.announce();
      if (!replies_.is_empty()) {
        return true;
      }
      const std::uint64_t now = clock_.now_us();
      if (now >= until_us) {
        return false;
      }
      done_bell_.sleep(ticket, until_us == no_deadline ? no_deadline : until_us - now);
    }
    return false;
  }

  [[nodiscard]] std::size_t pending() const noexcept { return pending_; }
  [[nodiscard]] store_stats stats() const {
    store_stats s = thread_.stats();
    const std::uint64_t late = late_.load(std::memory_order_relaxed);
    const std::uint64_t late_gets = late_gets_.load(std::memory_order_relaxed);
    const std::uint64_t late_puts = late_puts_.load(std::memory_order_relaxed);
    s.late += late;
    s.gets += late_gets;
    s.puts += late_puts;
    return s;
  }
  [[nodiscard]] store_fault last_fault() const { return thread_.fault(); }

  /// Runs f(store) on the thread, between polls, and returns when it has: for what a store can do
  /// besides being one (`sharded_store::join`). Blocks for as long as a poll of the store takes.
  /// @throws what f throws; std::bad_alloc without calling it if the store is gone
  template <class F>
  void with_store(F&& f) {
    using function = std::remove_reference_t<F>;
    call_ = [](Store& store, void* context) { (*static_cast<function*>(context))(store); };
    call_context_ = &f;
    has_call_.store(true);
    work_bell_.ring();
    while (has_call_.load()) {
      const std::uint32_t ticket = done_bell_.announce();
      if (has_call_.load()) {
        done_bell_.sleep(ticket, no_deadline);
      }
    }
    if (const std::exception_ptr error = std::exchange(call_error_, nullptr)) {
      std::rethrow_exception(error);
    }
  }

  /// From now on the thread is on a CPU for at most this part of the time, measured over some 10
  /// ms; it rests in between. From any thread. @pre 0 < share <= 1
  void set_share(double share) noexcept {
    ORIEL_EXPECTS(share > 0 && share <= 1);
    share_.store(share, std::memory_order_relaxed);
  }
  /// Time that the thread was on a CPU, up to its last batch.
  [[nodiscard]] std::uint64_t cpu_us() const noexcept {
    return cpu_us_.load(std::memory_order_relaxed);
  }

 private:
  static constexpr std::size_t batch_items = 64;
  static constexpr std::uint64_t lost_fault_count = ~std::uint64_t{0};
  static constexpr std::uint64_t rest_us_min = 1'000, rest_us_max = 5'000;

  struct request {
    store_item item;
    std::uint64_t deadline_us = 0;
  };
  /// An item that the store has.
  struct given_item {
    std::uint64_t user = 0;
    store_op op = store_op::get;
    bool is_taken = false;
  };

  // ---- everything below runs on the thread

  void work() {
    std::uint64_t cpu_before = detail::worker_thread::cpu_us();
    while (!is_closing_.load()) {
      const bool was_called = serve_call();
      std::size_t given = 0, done = 0;
      try {
        given = give_to_store();
        done = store_ ? take_from_store() + complete_overdue()
                      : refuse_backlog(store_outcome::refused);
      } catch (...) {
        if (ORIEL_MUTANT(thread_passes_exceptions_on)) {
          throw;
        }
        done = lose_store();
      }
      if (done != 0) {
        done_bell_.ring();
      }
      const std::uint64_t cpu = detail::worker_thread::cpu_us();
      cpu_us_.store(cpu, std::memory_order_relaxed);
      rest(cpu - cpu_before);
      cpu_before = cpu;
      if (!was_called && given == 0 && done == 0) {
        sleep();
      }
    }
    store_.reset();
  }

  bool serve_call() {
    if (!has_call_.load()) {
      return false;
    }
    try {
      if (!store_) {
        throw std::bad_alloc();
      }
      call_(*store_, call_context_);
      thread_.publish(store_->stats(), store_->last_fault());
    } catch (...) {
      call_error_ = std::current_exception();
    }
    has_call_.store(false);
    done_bell_.ring();
    return true;
  }

  /// Items in order, those of one deadline together. What the store has no room for waits here. The
  /// store completes places in given_, so that what it has is known if it is lost.
  std::size_t give_to_store() {
    for (request r; backlog_.size() < options_.queue_items && requests_.try_pop(r);) {
      backlog_.push_back(r);
      earliest_us_ = std::min(earliest_us_, r.deadline_us);
    }
    if (!store_) {
      return 0;
    }
    std::size_t given = 0;
    while (given < backlog_.size()) {
      const std::size_t count = batch_at(given);
      std::size_t taken = 0;
      try {
        taken = store_->submit({batch_, count}, backlog_[given].deadline_us);
      } catch (...) {
        forget_given(given);
        throw;
      }
      for (std::size_t i = 0; i < taken; ++i) {
        const store_item& item = backlog_[given + i].item;
        given_[free_given_.back()] = {item.user, item.op, true};
        free_given_.pop_back();
      }
      given += taken;
      if (taken < count) {
        break;
      }
    }
    forget_given(given);
    if (backlog_.empty() && !ORIEL_MUTANT(thread_keeps_old_deadlines)) {
      earliest_us_ = no_deadline;  // those of items that the store has are its own
    }
    return given;
  }
  void forget_given(std::size_t given) {
    backlog_.erase(backlog_.begin(), backlog_.begin() + static_cast<std::ptrdiff_t>(given));
  }
  /// The next items of one deadline, under the numbers of the places that they will have.
  std::size_t batch_at(std::size_t first) {
    std::size_t count = 0;
    while (count < batch_items && first + count < backlog_.size() &&
           backlog_[first + count].deadline_us == backlog_[first].deadline_us) {
      batch_[count] = backlog_[first + count].item;
      batch_[count].user = free_given_[free_given_.size() - 1 - count];
      ++count;
    }
    return count;
  }

  std::size_t take_from_store() {
    store_completion done[batch_items];
    const std::size_t count = store_->poll(done);
    if (count != 0) {
      // Before the completions: whoever polled one finds it counted.
      thread_.publish(store_->stats(), store_->last_fault());
    }
    const std::uint64_t now_us = count != 0 ? clock_.now_us() : 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto place = static_cast<std::uint32_t>(done[i].user);
      ORIEL_EXPECTS(place < given_.size() && given_[place].is_taken);
      done[i].user = given_[place].user;
      given_[place].is_taken = false;
      free_given_.push_back(place);
      done[i].done_us = done[i].done_us != 0 ? done[i].done_us : now_us;
      reply(done[i]);
    }
    return count;
  }

  /// The store threw, and nobody knows what state it is in. When its destructor has returned it
  /// touches no slices any more, and all that it had can end.
  std::size_t lose_store() noexcept {
    store_stats stats = thread_.stats();
    stats.health = store_health::degraded;
    store_.reset();
    std::size_t ended = 0;
    for (std::uint32_t place = 0; place < given_.size(); ++place) {
      given_item& g = given_[place];
      if (std::exchange(g.is_taken, false)) {
        free_given_.push_back(place);
        reply({.user = g.user,
               .op = g.op,
               .outcome = store_outcome::failed,
               .native = ENOMEM,
               .done_us = clock_.now_us()});
        ++ended;
      }
    }
    stats.failed += ended;
    // "store" and no place: texts so short that they need no memory.
    thread_.publish(
        stats, {.operation = "store", .where = {}, .native = ENOMEM, .count = lost_fault_count});
    return ended + refuse_backlog(store_outcome::failed);
  }
  std::size_t refuse_backlog(store_outcome outcome) noexcept {
    for (const request& r : backlog_) {
      reply({.user = r.item.user,
             .op = r.item.op,
             .outcome = outcome,
             .native = ENOMEM,
             .done_us = clock_.now_us()});
    }
    const std::size_t count = backlog_.size();
    backlog_.clear();
    earliest_us_ = no_deadline;
    return count;
  }

  std::size_t complete_overdue() {
    if (backlog_.empty() || earliest_us_ == no_deadline) {
      return 0;
    }
    const std::uint64_t now = clock_.now_us();
    if (now < earliest_us_ || ORIEL_MUTANT(thread_backlog_has_no_deadlines)) {
      return 0;
    }
    earliest_us_ = no_deadline;
    return std::erase_if(backlog_, [&](const request& r) {
      if (now < r.deadline_us || r.deadline_us == no_deadline) {
        earliest_us_ = std::min(earliest_us_, r.deadline_us);
        return false;
      }
      late_.fetch_add(1, std::memory_order_relaxed);
      late_gets_.fetch_add(r.item.op == store_op::get, std::memory_order_relaxed);
      late_puts_.fetch_add(r.item.op == store_op::put, std::memory_order_relaxed);
      reply({.user = r.item.user, .op = r.item.op, .outcome = store_outcome::late, .done_us = now});
      return true;
    });
  }

  /// There is room: no more is pending than the ring holds.
  void reply(const store_completion& c) {
    const bool is_pushed = replies_.try_push(c);
    ORIEL_EXPECTS(is_pushed);
  }

  /// Pays for CPU time with idle time, in rests that are short beside a deadline.
  void rest(std::uint64_t cpu_us) {
    const double share = share_.load(std::memory_order_relaxed);
    if (share >= 1) {
      owed_us_ = 0;
      return;
    }
    owed_us_ += static_cast<double>(cpu_us) * (1 / share - 1);
    while (owed_us_ >= rest_us_min && !is_closing_.load()) {
      const auto rest_us = std::min(static_cast<std::uint64_t>(owed_us_), rest_us_max);
      const std::uint64_t begin = clock_.now_us();
      const std::uint32_t ticket = rest_bell_.announce();  // Which nobody rings.
      rest_bell_.sleep(ticket, rest_us);
      owed_us_ -= static_cast<double>(std::max(clock_.now_us() - begin, rest_us));
      if (complete_overdue() != 0) {
        done_bell_.ring();
      }
    }
  }

  void sleep() {
    const std::uint64_t now = clock_.now_us();
    const std::uint64_t until = std::min(now + options_.look_us, std::max(earliest_us_, now));
    if (store_ && store_->pending() != 0) {
      try {
        store_->wait(until);
      } catch (...) {
        lose_store();
        done_bell_.ring();
      }
      return;
    }
    const std::uint32_t ticket = work_bell_.announce();
    if (requests_.is_empty() && !has_call_.load() && !is_closing_.load()) {
      // With a backlog and nothing pending the store is full of what it does by itself.
      work_bell_.sleep(ticket, backlog_.empty() ? no_deadline : until - now);
    }
  }

  const store_thread_options options_;
  const Clock clock_;
  std::optional<Store> store_;  // Ends on its thread.
  detail::spsc_ring<request> requests_;
  detail::spsc_ring<store_completion> replies_;
  detail::bell work_bell_, done_bell_, rest_bell_;
  std::size_t pending_ = 0;  // The owner's.

  // The thread's.
  std::vector<request> backlog_;  // Popped, and not taken by the store yet.
  std::uint64_t earliest_us_ = no_deadline;
  std::vector<given_item> given_;          // [queue_items]
  std::vector<std::uint32_t> free_given_;  // places of it
  store_item batch_[batch_items];
  double owed_us_ = 0;

  std::atomic<bool> is_closing_{false};
  std::atomic<bool> has_call_{false};
  void (*call_)(Store&, void*) = nullptr;
  void* call_context_ = nullptr;
  std::exception_ptr call_error_;
  std::atomic<double> share_{1.0};
  std::atomic<std::uint64_t> cpu_us_{0}, late_{0}, late_gets_{0}, late_puts_{0};
  detail::worker_thread thread_;  // Last: it is joined before the rest goes.
};

}  // namespace oriel
