// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// wgmma's groups on the host: when a product that was started runs.
#pragma once

#include <catch2/catch.hpp>

#include <cstddef>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

namespace oriel::test {

/// Products run as late as they may, when their group is waited for, or as soon as it is committed:
/// a device does either. They read their operands then, registers and shared memory.
class products_under_way {
 public:
  explicit products_under_way(bool at_once = false) : at_once_(at_once) {}

  void begin() {
    REQUIRE_FALSE(open_);
    open_ = true;
    groups_.emplace_back();
  }
  void add(std::function<void()> product) {
    REQUIRE(open_);
    groups_.back().push_back(std::move(product));
  }
  void commit() {
    REQUIRE(open_);
    open_ = false;
    if (at_once_) {
      run(0);
    }
  }
  /// Until at most `pending` groups are under way.
  void wait(std::size_t pending) {
    REQUIRE_FALSE(open_);
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
