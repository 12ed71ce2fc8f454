// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `counter`: something that only grows, read by whoever reports.
#pragma once

#include <cstdint>

namespace oriel {

/// A monotonic count. Thread safety: none; the thread that owns the counted thing owns the counter.
class counter {
 public:
  void add(std::uint64_t n = 1) noexcept { value_ += n; }
  [[nodiscard]] std::uint64_t value() const noexcept { return value_; }

 private:
  std::uint64_t value_ = 0;
};

}  // namespace oriel
