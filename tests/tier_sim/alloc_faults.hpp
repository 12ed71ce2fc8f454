// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Lets the n-th allocation of a piece of code fail (F24). The program replaces operator new.
#pragma once

#include <cstdint>

namespace sim {

/// While one lives, allocations count down, and the one that reaches zero throws.
class alloc_faults {
 public:
  /// @param countdown  allocations that succeed; below zero: all do
  explicit alloc_faults(std::int64_t& countdown) noexcept;
  ~alloc_faults();
  alloc_faults(const alloc_faults&) = delete;
  alloc_faults& operator=(const alloc_faults&) = delete;

  /// While one lives, none fails: code that is somebody else's.
  class pause {
   public:
    pause() noexcept;
    ~pause();
    pause(const pause&) = delete;
    pause& operator=(const pause&) = delete;

   private:
    std::int64_t* paused_;
  };
};

}  // namespace sim
