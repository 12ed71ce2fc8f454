// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "work_queue.hpp"

#include <utility>

namespace oriel::ptx_machine {
namespace {

thread_local bool in_work = false;

/// Marks what `wanted` waits for, itself too.
void mark(const work_ptr& wanted, std::uint64_t number) {
  std::vector<work*> open{wanted.get()};
  while (!open.empty()) {
    work* const w = open.back();
    open.pop_back();
    if (w->is_done || w->needed_for == number) {
      continue;
    }
    w->needed_for = number;
    for (const work_ptr& b : w->before) {
      open.push_back(b.get());
    }
  }
}

}  // namespace

bool work_queue::is_in_work() {
  return in_work;
}

std::uint64_t work_queue::draw() {
  random_ += 0x9E37'79B9'7F4A'7C15u;
  std::uint64_t x = random_;
  x = (x ^ x >> 30) * 0xBF58'476D'1CE4'E5B9u;
  x = (x ^ x >> 27) * 0x94D0'49BB'1331'11EBu;
  return x ^ x >> 31;
}

std::uint64_t work_queue::next_random() {
  const std::lock_guard lock(mutex_);
  return draw();
}

std::exception_ptr work_queue::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

work_ptr work_queue::add(std::function<void()> run, std::vector<work_ptr> before) {
  auto w = std::make_shared<work>();
  const std::lock_guard lock(mutex_);
  if (failure_) {
    w->is_done = true;
    return w;
  }
  w->run = std::move(run);
  w->before = std::move(before);
  std::erase_if(w->before, [](const work_ptr& b) { return b == nullptr || b->is_done; });
  w->missing = static_cast<std::uint32_t>(w->before.size());
  for (const work_ptr& b : w->before) {
    b->behind.push_back(w.get());
  }
  pending_.emplace(w.get(), w);
  if (w->missing == 0) {
    ready_.push_back(w);
  }
  return w;
}

void work_queue::may_get_on() {
  std::unique_lock lock(mutex_);
  // Early is as adverse as late: what the host writes next may come too late.
  if (eagerness_ == 3) {
    run_some(lock, ~std::uint64_t{0});
  } else if (eagerness_ != 0 && draw() % 4 < eagerness_) {
    run_some(lock, draw() % 4);
  }
}

void work_queue::end(const work_ptr& done) {
  done->is_done = true;
  done->run = nullptr;
  done->before.clear();
  for (work* const b : done->behind) {
    if (--b->missing == 0) {
      ready_.push_back(pending_.at(b));
    }
  }
  done->behind.clear();
  pending_.erase(done.get());
}

void work_queue::give_up() {
  for (auto& [w, owner] : pending_) {
    w->is_done = true;
    w->before.clear();
    w->behind.clear();
    w->run = nullptr;
  }
  ready_.clear();
  pending_.clear();
}

void work_queue::run_one(std::unique_lock<std::mutex>& lock, std::size_t ready_index) {
  const work_ptr w = ready_[ready_index];
  ready_[ready_index] = std::move(ready_.back());
  ready_.pop_back();
  if (w->run) {
    is_running_ = true;
    lock.unlock();
    in_work = true;
    std::exception_ptr thrown;
    try {
      w->run();
    } catch (...) {
      thrown = std::current_exception();
    }
    in_work = false;
    lock.lock();
    is_running_ = false;
    if (thrown) {
      failure_ = thrown;
      give_up();
      changed_.notify_all();
      return;
    }
  }
  end(w);
  changed_.notify_all();
}

void work_queue::run_some(std::unique_lock<std::mutex>& lock, std::uint64_t most) {
  for (std::uint64_t i = 0; i < most && !ready_.empty() && !is_running_; ++i) {
    run_one(lock, draw() % ready_.size());
  }
}

void work_queue::get_on() {
  std::unique_lock lock(mutex_);
  run_some(lock, draw() % 4);
}

void work_queue::finish(const work_ptr& wanted) {
  std::unique_lock lock(mutex_);
  if (wanted == nullptr || wanted->is_done) {
    return;
  }
  const std::uint64_t number = ++waits_;
  mark(wanted, number);
  const bool only_needed = eagerness_ == 0 || draw() % 2 == 0;
  std::vector<std::size_t> choice;
  while (!wanted->is_done) {
    choice.clear();
    for (std::size_t i = 0; i < ready_.size(); ++i) {
      // Who began to wait after us may have put its number in the place of ours.
      if (!only_needed || ready_[i]->needed_for >= number) {
        choice.push_back(i);
      }
    }
    if (is_running_) {
      changed_.wait(lock);
    } else {
      run_one(
          lock,
          choice[draw() % choice.size()]);  // There is one: what is needed waits for nothing else.
    }
  }
}

void work_queue::finish_all() {
  std::unique_lock lock(mutex_);
  while (!pending_.empty()) {
    if (is_running_) {
      changed_.wait(lock);
    } else {
      run_one(lock, draw() % ready_.size());
    }
  }
}

}  // namespace oriel::ptx_machine
