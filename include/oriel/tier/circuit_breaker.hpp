// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `circuit_breaker`: takes what fails again and again out of use, and tries it now and then.
#pragma once

#include <oriel/core/mutation.hpp>

#include <algorithm>
#include <cstdint>

namespace oriel {

struct breaker_options {
  std::uint32_t failures_max = 8;            ///< in a row, and it is out
  std::uint64_t probe_after_us = 1'000'000;  ///< the first probe; then twice as long each time,
  std::uint64_t probe_after_us_max = 30'000'000;  ///< up to this
};

/// Closed (in use) until `failures_max` failures in a row; then open (out) for a while; then one
/// probe at a time, of which a success closes it and a failure opens it for twice as long.
/// It reads no clock. *Thread safety* none.
class circuit_breaker {
 public:
  explicit constexpr circuit_breaker(const breaker_options& options) noexcept
      : options_(options), pause_us_(options.probe_after_us) {}

  /// May an operation go through? Where it is the probe, others wait for its `tell`.
  [[nodiscard]] constexpr bool try_pass(std::uint64_t now_us) noexcept {
    if (!is_open_) {
      return true;
    }
    if (is_probing_ || now_us < probe_us_ || ORIEL_MUTANT(breaker_never_probes)) {
      return false;
    }
    is_probing_ = true;
    return true;
  }

  /// How an operation that passed has ended.
  constexpr void tell(bool is_well, std::uint64_t now_us) noexcept {
    if (is_well) {
      is_open_ = is_probing_ = false;
      failures_ = 0;
      pause_us_ = options_.probe_after_us;
      return;
    }
    ++failures_;
    if (is_probing_) {
      pause_us_ = std::min(2 * pause_us_, options_.probe_after_us_max);
      probe_us_ = now_us + pause_us_;
      is_probing_ = false;
    } else if (!is_open_ && failures_ >= options_.failures_max) {
      is_open_ = true;
      probe_us_ = now_us + pause_us_;
    }
  }

  /// It has ended, and says nothing of the other side.
  constexpr void tell_nothing() noexcept { is_probing_ = false; }

  [[nodiscard]] constexpr bool is_open() const noexcept { return is_open_; }

 private:
  breaker_options options_;
  std::uint64_t pause_us_;
  std::uint64_t probe_us_ = 0;  // When the next probe may pass.
  std::uint32_t failures_ = 0;
  bool is_open_ = false, is_probing_ = false;
};

}  // namespace oriel
