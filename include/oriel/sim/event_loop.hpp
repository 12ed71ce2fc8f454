// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `event_loop`: simulated time. What happens next is what is due first, and of two events of one
/// instant the one that was planned first, so that a run is the same on every machine.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace oriel::sim {

/// @tparam Event  what happens: a small value, a variant or an enumerator with indices
///
///     event_loop<event> loop;
///     const auto late = loop.at(3.0, {deadline, id});
///     loop.cancel(late);
///     while (const auto e = loop.next()) { ... loop.now_s() ... }
///
/// *Thread safety* none. *Memory* 32 bytes and an Event for each that was planned at once, kept: no
/// allocation after that.
template <class Event>
class event_loop {
 public:
  /// Names one planned event, for ever.
  struct handle {
    std::uint32_t slot = ~std::uint32_t{0};
    std::uint64_t order = 0;  ///< 0: of nothing
    friend bool operator==(const handle&, const handle&) = default;
  };

  /// Of the event that happens; at first 0.
  [[nodiscard]] double now_s() const noexcept { return now_s_; }
  [[nodiscard]] std::size_t size() const noexcept { return heap_.size() - dead_; }
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  /// Events that have happened.
  [[nodiscard]] std::uint64_t happened() const noexcept { return happened_; }

  /// Plans an event. O(log events). @pre when_s >= now_s() @throws std::bad_alloc
  handle at(double when_s, Event event) {
    ORIEL_EXPECTS(when_s >= now_s_);  // no NaN
    if (free_.empty()) {
      slots_.push_back({});
      // So that letting a slot go needs no memory.
      free_.reserve(slots_.capacity());
      free_.push_back(static_cast<std::uint32_t>(slots_.size() - 1));
    }
    heap_.push_back({});  // The last that may throw.
    const std::uint32_t slot = free_.back();
    free_.pop_back();
    slots_[slot].event = std::move(event);
    slots_[slot].order = ++last_order_;
    rise(heap_.size() - 1, {when_s, last_order_, slot});
    return {slot, last_order_};
  }
  /// @pre delay_s >= 0
  handle after(double delay_s, Event event) { return at(now_s_ + delay_s, std::move(event)); }

  [[nodiscard]] bool is_planned(handle h) const noexcept {
    return h.order != 0 && h.slot < slots_.size() &&
           (slots_[h.slot].order == h.order || ORIEL_MUTANT(loop_cancels_whoever_has_the_slot));
  }
  /// It will not happen. O(1) amortised. @returns false: it has happened, or was cancelled before
  bool cancel(handle h) noexcept {
    if (!is_planned(h)) {
      return false;
    }
    release(h.slot);
    if (++dead_ > heap_.size() / 2) {
      sweep();
    }
    return true;
  }

  /// When the next one is due; infinity: there is none. O(1) amortised.
  [[nodiscard]] double next_s() noexcept {
    drop_dead();
    return heap_.empty() ? std::numeric_limits<double>::infinity() : heap_.front().when_s;
  }
  /// Takes the next event and moves the clock to it; nothing: there is none. O(log events).
  [[nodiscard]] std::optional<Event> next() noexcept {
    drop_dead();
    if (heap_.empty()) {
      return std::nullopt;
    }
    const entry first = heap_.front();
    now_s_ = first.when_s;
    ++happened_;
    std::optional<Event> event(std::move(slots_[first.slot].event));
    release(first.slot);
    pop();
    return event;
  }

 private:
  struct entry {
    double when_s = 0.0;
    std::uint64_t order = 0;
    std::uint32_t slot = 0;
    [[nodiscard]] bool is_before(const entry& other) const noexcept {
      return when_s < other.when_s || (when_s == other.when_s && order < other.order &&
                                       !ORIEL_MUTANT(loop_forgets_who_was_first));
    }
  };
  struct slot_of_event {
    Event event = {};
    std::uint64_t order = 0;  // 0: free
  };
  static constexpr std::size_t width =
      4;  // Children of a node of the heap: one or two cache lines.

  void release(std::uint32_t slot) noexcept {
    slots_[slot].order = 0;
    free_.push_back(slot);
  }
  [[nodiscard]] bool is_dead(const entry& e) const noexcept {
    return slots_[e.slot].order != e.order;
  }
  void drop_dead() noexcept {
    while (!heap_.empty() && is_dead(heap_.front())) {
      pop();
      --dead_;
    }
  }
  void sweep() noexcept {
    std::erase_if(heap_, [&](const entry& e) { return is_dead(e); });
    dead_ = 0;
    for (std::size_t i = heap_.size() / width + 1; i-- > 0;) {
      if (i < heap_.size()) {
        sink(i, heap_[i]);
      }
    }
  }
  void pop() noexcept {
    const entry last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) {
      sink(0, last);
    }
  }
  void rise(std::size_t i, entry e) noexcept {
    while (i > 0) {
      const std::size_t parent = (i - 1) / width;
      if (!e.is_before(heap_[parent])) {
        break;
      }
      heap_[i] = heap_[parent];
      i = parent;
    }
    heap_[i] = e;
  }
  void sink(std::size_t i, entry e) noexcept {
    for (;;) {
      std::size_t child = i * width + 1;
      if (child >= heap_.size()) {
        break;
      }
      std::size_t least = child;
      const std::size_t end = child + width < heap_.size() ? child + width : heap_.size();
      while (++child < end) {
        if (heap_[child].is_before(heap_[least])) {
          least = child;
        }
      }
      if (!heap_[least].is_before(e)) {
        break;
      }
      heap_[i] = heap_[least];
      i = least;
    }
    heap_[i] = e;
  }

  double now_s_ = 0.0;
  std::uint64_t last_order_ = 0, happened_ = 0;
  std::size_t dead_ = 0;  // entries of the heap that were cancelled
  std::vector<entry> heap_;
  std::vector<slot_of_event> slots_;
  std::vector<std::uint32_t> free_;  // slots
};

}  // namespace oriel::sim
