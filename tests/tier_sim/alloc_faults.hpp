// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Lets the n-th allocation of a piece of code fail (F24). The program replaces operator new.
#pragma once

#include <cstdint>

namespace sim {

/// While one lives, allocations count down, and the one after the last throws.
class alloc_faults {
 public:
  /// @param countdown  allocations that succeed; below zero: all do
  explicit alloc_faults(std::int64_t& countdown) noexcept : alloc_faults(&countdown) {}
  ~alloc_faults();
  alloc_faults(const alloc_faults&) = delete;
  alloc_faults& operator=(const alloc_faults&) = delete;

 protected:
  explicit alloc_faults(std::int64_t* countdown) noexcept;

 private:
  std::int64_t* before_;
};

/// While one lives, none fails: code that is somebody else's.
class no_alloc_faults : alloc_faults {
 public:
  no_alloc_faults() noexcept : alloc_faults(nullptr) {}
};

}  // namespace sim
