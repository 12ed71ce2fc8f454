// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `staged_store`: a store below the pools of a device. Its items name pages that the host cannot
/// touch; the store behind it sees stages in memory of the host (page_mover.hpp).
///
///     put    taken -> copied down -> in the store behind -> acknowledged
///     get    taken -> in the store behind -> copied up -> done, when the page has its bytes
///
/// So whoever waits for a completion waits for the copy as well: a page is published, and a layer
/// computed on, when it is in place, and a page is let go when nothing of it is on its way.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/page_mover.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

/// A kv_store where the one behind it is. Copies go on when it is polled, waited for or given
/// items: by the thread that drives it, which is the mover's.
///
/// A device that is lost (page_mover.hpp) fails each put and get with EIO, once, and last_fault
/// says why; what the store behind has of them it ends first.
///
/// Thread safety: none.
/// Memory:        1,024 items, nothing more after construction; what the mover has for its pages.
template <kv_store Store>
class staged_store {
 public:
  static constexpr std::size_t items_max = 1024;

  /// @param mover       outlives it
  /// @param stages_max  of each way, that this store may have at once: others may share the mover
  /// @pre   mover.page_stages() <= stages_max <= mover.stages(): there is room for a page of any
  /// pool
  /// @throws std::bad_alloc
  staged_store(Store store, page_mover& mover, std::uint32_t stages_max)
      : store_(std::move(store)),
        mover_(mover),
        room_{stages_max, stages_max},
        entries_(items_max) {
    ORIEL_EXPECTS(mover.page_stages() <= stages_max && stages_max <= mover.stages());
    for (std::vector<std::uint32_t>* list : {&free_, &line_, &came_, &moving_, &ended_, &movers_}) {
      list->reserve(items_max);
    }
    for (std::uint32_t i = items_max; i-- > 0;) {
      free_.push_back(i);
    }
    for (entry& e : entries_) {
      e.stages.reserve(mover.page_stages());
      e.slices.reserve(mover.page_stages());
    }
    numbers_.reserve(mover.page_stages());
    moved_.reserve(stages_max);
  }
  staged_store(const staged_store&) = delete;
  staged_store& operator=(const staged_store&) = delete;
  /// Waits for what touches stages and pages; nothing completes any more.
  ~staged_store() {
    store_.reset();
    for (entry& e : entries_) {
      if (e.state == item_state::moving) {
        // A device that does not answer writes no more, or nobody can help it.
        [[maybe_unused]] const status done = mover_.finish(e.move);
      }
      give_back(e);
    }
  }

  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    std::size_t taken = 0;
    try {
      while (taken < items.size() && take(items[taken], deadline_us)) {
        ++taken;
      }
      turn();
    } catch (...) {
      if (taken == 0) {  // Else the caller must hear of those, and of this with the next call.
        throw;
      }
    }
    return taken;
  }

  std::size_t poll(std::span<store_completion> done) {
    turn();
    const std::size_t count = std::min(done.size(), ended_.size());
    for (std::size_t i = 0; i < count; ++i) {
      entry& e = entries_[ended_[i]];
      done[i] = e.answer;
      e.state = item_state::free;
      free_.push_back(ended_[i]);
    }
    ended_.erase(ended_.begin(), ended_.begin() + static_cast<std::ptrdiff_t>(count));
    return count;
  }

  /// Waits for one thing after another, so it may take a copy longer than it was told: a move of
  /// its own, one of another store that has to end before its own begins, or the store behind.
  bool wait(std::uint64_t until_us) {
    for (turn(); ended_.empty(); turn()) {
      if (!moving_.empty()) {
        // The next turn ends its items, failed or not.
        [[maybe_unused]] const status done = mover_.finish(entries_[moving_.front()].move);
      } else if (const auto way = way_that_is_full();
                 way && !ORIEL_MUTANT(others_moves_are_not_waited_for)) {
        mover_.make_room(*way);
      } else if (store_->pending() == 0 || !store_->wait(until_us)) {
        return false;
      }
    }
    return true;
  }

  [[nodiscard]] std::size_t pending() const { return items_max - free_.size(); }
  [[nodiscard]] store_stats stats() const { return store_->stats(); }
  /// The store's, or what kept an item's move from its end if that came later. Counts both.
  [[nodiscard]] store_fault last_fault() const {
    store_fault fault = store_->last_fault();
    if (unmoved_ != 0 && fault.count == store_faults_then_) {
      fault.operation = failed_way_ == move_way::up ? "copy up" : "copy down";
      fault.where = move_failure_.detail;
      fault.native = move_failure_.native;
    }
    fault.count += unmoved_;
    return fault;
  }

 private:
  enum class item_state : std::uint8_t {
    free,
    queued,   // in the line, ready for the store behind
    to_move,  // waits for a move: a put down, a get that came up
    moving,
    in_store,
    ended
  };

  static constexpr failure half_a_move{
      errc::device_failure, 0, "not all copies of a move could be enqueued"};

  struct entry {
    item_state state = item_state::free;
    store_item item = {};  // as it was given
    std::uint64_t deadline_us = 0;
    std::vector<page_slice> stages = {};
    std::vector<std::span<std::byte>> slices = {};  // of the stages
    page_move move = {};
    store_completion answer = {};
  };

  [[nodiscard]] static bool is_read(store_op op) noexcept {
    return op == store_op::get || op == store_op::exists || op == store_op::touch;
  }
  [[nodiscard]] static bool is_order(store_op op) noexcept { return op > store_op::erase; }
  [[nodiscard]] static move_way way_of(store_op op) noexcept {
    return op == store_op::put ? move_way::down : move_way::up;
  }
  [[nodiscard]] std::uint32_t& room(move_way way) noexcept {
    return room_[static_cast<std::size_t>(way)];
  }

  /// False: there is no room.
  bool take(const store_item& item, std::uint64_t deadline_us) {
    if (free_.empty()) {
      return false;
    }
    const std::uint32_t number = free_.back();
    entry& e = entries_[number];
    e.item = item;
    e.deadline_us = deadline_us;
    e.answer = {};
    if ((item.op == store_op::get || item.op == store_op::put) && !take_stages(e)) {
      return false;
    }
    e.state = item.op == store_op::put ? item_state::to_move : item_state::queued;
    if (ORIEL_MUTANT(store_reads_what_is_still_copied) && item.op == store_op::put) {
      e.state = item_state::queued;
    }
    if (!is_read(item.op) || must_wait(item)) {
      line_.push_back(number);
    } else if (!try_hand_on(number)) {
      return false;
    }
    free_.pop_back();
    return true;
  }

  /// Of an item that is not taken otherwise.
  bool try_hand_on(std::uint32_t number) {
    entry& e = entries_[number];
    const auto drop = [&] {
      give_back(e);
      e.state = item_state::free;
    };
    try {
      if (hand_on(number)) {
        return true;
      }
    } catch (...) {
      drop();
      throw;
    }
    drop();
    return false;
  }

  bool take_stages(entry& e) {
    const move_way way = way_of(e.item.op);
    const std::size_t count = e.item.slices.size();
    if (count > room(way)) {
      return false;
    }
    numbers_.resize(count);
    if (!mover_.try_take(way, numbers_)) {
      return false;
    }
    room(way) -= static_cast<std::uint32_t>(count);
    page_slice slice = mover_.slice_at(e.item.key.pool, e.item.slices.front().data());
    for (const std::uint32_t stage : numbers_) {
      slice.stage = stage;
      e.stages.push_back(slice);
      e.slices.push_back(mover_.bytes_of(way, slice));
      ++slice.slot;
    }
    return true;
  }
  void give_back(entry& e) noexcept {
    const move_way way = way_of(e.item.op);
    for (const page_slice& s : e.stages) {
      mover_.give_back(way, {&s.stage, 1});
    }
    room(way) += static_cast<std::uint32_t>(e.stages.size());
    e.stages.clear();
    e.slices.clear();
  }

  /// Items on one key take effect in order, and a drop or a sync after all before it. Of what the
  /// store behind has already it sees to that itself.
  [[nodiscard]] bool must_wait(const store_item& item) const noexcept {
    return std::ranges::any_of(line_, [&](std::uint32_t number) {
      const store_item& before = entries_[number].item;
      return is_order(before.op) || before.key == item.key;
    });
  }

  bool hand_on(std::uint32_t number) {
    entry& e = entries_[number];
    store_item item = e.item;
    if (!e.slices.empty()) {
      item.slices = e.slices;
    }
    item.user = number;
    if (store_->submit({&item, 1}, e.deadline_us) == 0) {
      return false;
    }
    e.state = item_state::in_store;
    return true;
  }

  /// Everything goes on as far as it can.
  void turn() {
    end_moves();
    take_in();
    begin_moves(move_way::up);
    begin_moves(move_way::down);
    while (!line_.empty() && entries_[line_.front()].state == item_state::queued &&
           hand_on(line_.front())) {
      line_.erase(line_.begin());
    }
  }

  /// Something of ours waits for room there, which moves of others have.
  [[nodiscard]] std::optional<move_way> way_that_is_full() const noexcept {
    if (!came_.empty()) {
      return move_way::up;
    }
    const bool waits = std::ranges::any_of(
        line_, [&](std::uint32_t number) { return entries_[number].state == item_state::to_move; });
    return waits ? std::optional(move_way::down) : std::nullopt;
  }

  void end(std::uint32_t number, store_outcome outcome, int native) {
    entry& e = entries_[number];
    give_back(e);
    e.answer.user = e.item.user;
    e.answer.op = e.item.op;
    e.answer.outcome = outcome;
    e.answer.native = native;
    e.state = item_state::ended;
    ended_.push_back(number);
  }

  /// What the store behind has done.
  void take_in() {
    for (std::size_t got = batch_.size(); got == batch_.size();) {
      got = store_->poll(batch_);
      for (const store_completion& c : std::span(batch_).first(got)) {
        const auto number = static_cast<std::uint32_t>(c.user);
        entry& e = entries_[number];
        e.answer = c;
        if (e.item.op == store_op::get && c.outcome == store_outcome::done) {
          e.state = item_state::to_move;
          came_.push_back(number);
        } else {
          end(number, c.outcome, c.native);
        }
      }
    }
  }

  /// Puts in the order of the line, gets in that of their coming.
  void begin_moves(move_way way) {
    if (!mover_.can_begin(way)) {
      return;
    }
    moved_.clear();
    movers_.clear();
    const auto add = [&](std::uint32_t number) {
      const entry& e = entries_[number];
      if (e.state == item_state::to_move && way_of(e.item.op) == way) {
        moved_.insert(moved_.end(), e.stages.begin(), e.stages.end());
        movers_.push_back(number);
      }
    };
    if (way == move_way::up) {
      std::ranges::for_each(came_, add);
      came_.clear();
    } else {
      std::ranges::for_each(line_, add);
    }
    if (movers_.empty()) {
      return;
    }
    const page_move move = mover_.begin(way, moved_);
    for (const std::uint32_t number : movers_) {
      entries_[number].move = move;
      entries_[number].state = item_state::moving;
      moving_.push_back(number);
    }
  }

  void end_moves() {
    std::erase_if(moving_, [&](std::uint32_t number) {
      entry& e = entries_[number];
      const bool is_get = e.item.op == store_op::get;
      bool has_failed = !e.move.is_whole;
      result<bool> there = has_failed ? mover_.is_done(e.move) : is_in_place(e);
      has_failed |= !there;
      if (there && !*there && !(is_get && ORIEL_MUTANT(get_is_done_before_its_copy))) {
        return false;
      }
      if (has_failed) {
        note_failure(e.move.way, there ? half_a_move : there.error());
        e.answer.bytes = 0;
        std::erase(line_, number);
        end(number, store_outcome::failed, EIO);
      } else if (is_get) {
        end(number, store_outcome::done, 0);
      } else {
        e.state = item_state::queued;
      }
      return true;
    });
  }
  void note_failure(move_way way, const failure& why) {
    ++unmoved_;
    failed_way_ = way;
    move_failure_ = why;
    store_faults_then_ = store_->last_fault().count;
  }
  /// All slices are: layers are copied in order, and slices are in theirs.
  [[nodiscard]] result<bool> is_in_place(const entry& e) {
    return mover_.is_in_place(e.move, e.stages.back());
  }

  std::optional<Store> store_;
  page_mover& mover_;
  std::array<std::uint32_t, 2> room_;  // [ways] stages
  std::vector<entry> entries_;         // stay where they are
  std::vector<std::uint32_t> free_;
  std::vector<std::uint32_t> line_;  // what is not in the store behind, but for gets that pass
  std::vector<std::uint32_t> came_, moving_, ended_;  // in their order
  std::vector<std::uint32_t> numbers_, movers_;       // scratch
  std::vector<page_slice> moved_;                     // scratch
  std::uint64_t unmoved_ = 0;                         // items whose move failed
  std::uint64_t store_faults_then_ = 0;               // when the last of them did
  move_way failed_way_ = move_way::up;                // of the last of them
  failure move_failure_{};
  std::array<store_completion, 64> batch_ = {};
};

}  // namespace oriel
