// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `histogram`: how often which value occurred, in buckets of constant relative width, so that any
/// percentile is known to 3 % in constant memory. Pulled by whoever reports; nothing here prints.
#pragma once

#include <oriel/core/contract.hpp>

#include <array>
#include <bit>
#include <cstdint>

namespace oriel {

/// Counts values of [0, 2^64). Values below 32 have a bucket each; above, every octave has 32
/// buckets, so a bucket's ends differ by less than 1/32.
///
/// Thread safety: none; one writer, who is also the reader or hands out a copy.
/// Memory:        15 KiB, in the object.
class histogram {
 public:
  /// O(1).
  void add(std::uint64_t value, std::uint64_t times = 1) noexcept {
    counts_[bucket_of(value)] += times;
    count_ += times;
    sum_ += value * times;
  }

  /// Adds what another one counted. O(buckets).
  void merge(const histogram& other) noexcept {
    for (std::uint32_t i = 0; i < buckets; ++i) {
      counts_[i] += other.counts_[i];
    }
    count_ += other.count_;
    sum_ += other.sum_;
  }

  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  /// Of the values added, exactly; wraps at 2^64.
  [[nodiscard]] std::uint64_t sum() const noexcept { return sum_; }
  /// 0 when nothing was added.
  [[nodiscard]] double mean() const noexcept {
    return count_ == 0 ? 0.0 : static_cast<double>(sum_) / static_cast<double>(count_);
  }

  /// The least bucket end that at least `fraction` of the values do not exceed: never below the
  /// true percentile, and above it by less than 1/32. 0 when nothing was added. O(buckets).
  /// @pre 0 < fraction <= 1
  [[nodiscard]] std::uint64_t percentile(double fraction) const noexcept {
    ORIEL_EXPECTS(fraction > 0.0 && fraction <= 1.0);
    const double wanted = fraction * static_cast<double>(count_);
    std::uint64_t seen = 0;
    for (std::uint32_t i = 0; i < buckets; ++i) {
      seen += counts_[i];
      if (seen > 0 && static_cast<double>(seen) >= wanted) {
        return last_of(i);
      }
    }
    return 0;
  }

 private:
  static constexpr std::uint32_t per_octave = 32;  // 2^5
  static constexpr std::uint32_t buckets = per_octave * (64 - 5 + 1);

  /// [0, 32) -> itself; [2^e, 2^(e+1)), e >= 5 -> the top 5 bits behind the leading one.
  [[nodiscard]] static constexpr std::uint32_t bucket_of(std::uint64_t value) noexcept {
    if (value < per_octave) {
      return static_cast<std::uint32_t>(value);
    }
    const auto exponent = static_cast<std::uint32_t>(std::bit_width(value)) - 1;
    const auto within = static_cast<std::uint32_t>(value >> (exponent - 5)) - per_octave;
    return (exponent - 4) * per_octave + within;
  }

  /// The largest value of a bucket.
  [[nodiscard]] static constexpr std::uint64_t last_of(std::uint32_t bucket) noexcept {
    if (bucket < per_octave) {
      return bucket;
    }
    const std::uint32_t shift = bucket / per_octave - 1;
    const std::uint64_t first = std::uint64_t{per_octave + bucket % per_octave} << shift;
    return first + ((std::uint64_t{1} << shift) - 1);
  }

  std::array<std::uint64_t, buckets> counts_{};
  std::uint64_t count_ = 0;
  std::uint64_t sum_ = 0;
};

}  // namespace oriel
