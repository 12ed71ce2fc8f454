// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// wgmma's groups on the host: when a product that was started runs.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

namespace oriel::test {

/// What Catch2's REQUIRE is where several threads ask: they may not, of that.
inline void expect_in_thread(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "%s\n", what);
    std::abort();
  }
}

/// Products run as late as they may, when their group is waited for, or as soon as it is committed:
/// a device does either. They read their operands then, registers and shared memory.
class products_under_way {
 public:
  explicit products_under_way(bool at_once = false) : at_once_(at_once) {}

  void begin() {
    expect_in_thread(!open_, "a group of products is open already");
    open_ = true;
    groups_.emplace_back();
  }
  void add(std::function<void()> product) {
    expect_in_thread(open_, "a product outside of a group");
    groups_.back().push_back(std::move(product));
  }
  void commit() {
    expect_in_thread(open_, "no group of products is open");
    open_ = false;
    if (at_once_) {
      run(0);
    }
  }
  /// Until at most `pending` groups are under way.
  void wait(std::size_t pending) {
    expect_in_thread(!open_, "waits for products of a group that is open");
    run(pending);
  }
  [[nodiscard]] bool is_empty() const { return groups_.empty() && !open_; }

 private:
  void run(std::size_t pending) {
    for (; groups_.size() > pending; groups_.pop_front()) {
      for (const auto& product : groups_.front()) {
        product();
      }
    }
  }

  std::deque<std::vector<std::function<void()>>> groups_;  // in order
  bool at_once_;
  bool open_ = false;
};

}  // namespace oriel::test
