// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `io_budget`: how much a tier may move in a second, so that it can live beside other work.
#pragma once

#include <cstdint>

namespace oriel {

/// A token bucket that may be overdrawn by one transfer: a transfer starts when the bucket is not
/// in debt, however large it is, and the debt is paid before the next one starts. So no transfer is
/// too large for the bucket, and over any time t at most
/// `bytes_per_s_max * (t + burst_us) + one transfer` bytes are started.
///
/// It reads no clock. *Thread safety* none. *Memory* two words.
class io_budget {
 public:
  /// What may be saved up while nothing moves.
  static constexpr std::uint64_t burst_us = 50'000;

  /// @param bytes_per_s_max  0: no limit
  explicit constexpr io_budget(std::uint64_t bytes_per_s_max) noexcept
      : bytes_per_s_max_(bytes_per_s_max) {}

  /// When the next transfer may start: now, or later.
  [[nodiscard]] constexpr std::uint64_t ready_us(std::uint64_t now_us) const noexcept {
    const auto paid_us = static_cast<std::uint64_t>(paid_us_);
    return paid_us > now_us + burst_us ? paid_us - burst_us : now_us;
  }

  /// A transfer starts. Its time has come: ready_us(now_us) <= now_us.
  constexpr void spend(std::uint64_t bytes, std::uint64_t now_us) noexcept {
    if (bytes_per_s_max_ == 0) {
      return;
    }
    const double now = static_cast<double>(now_us);
    paid_us_ = (paid_us_ > now ? paid_us_ : now) +
               1e6 * static_cast<double>(bytes) / static_cast<double>(bytes_per_s_max_);
  }

 private:
  std::uint64_t bytes_per_s_max_;
  double paid_us_ = 0;  // When everything started so far is paid for.
};

}  // namespace oriel
