// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A `store_clock` that the test turns by hand.
#pragma once

#include <oriel/tier/store_clock.hpp>

#include <cstdint>
#include <memory>

class hand_clock {
 public:
  explicit hand_clock(std::shared_ptr<std::uint64_t> now_us) : now_us_(std::move(now_us)) {}
  [[nodiscard]] std::uint64_t now_us() const noexcept { return *now_us_; }

 private:
  std::shared_ptr<std::uint64_t> now_us_;
};

static_assert(oriel::store_clock<hand_clock>);
