// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `mean_of`: a mean over seeds and its 95 % interval, for values and for paired comparisons.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace oriel::replay {

/// Student's t with so many degrees of freedom: 97.5 % of it lies below. @pre degrees > 0
[[nodiscard]] double student_t(std::size_t degrees) noexcept;

/// A mean of n values, and how far the true mean may be to either side, at 95 %.
struct sample_mean {
  double mean = 0;
  std::optional<double> half_width = {};  ///< none of fewer than two values
  std::size_t n = 0;

  [[nodiscard]] double low() const noexcept { return mean - half_width.value_or(0); }
  [[nodiscard]] double high() const noexcept { return mean + half_width.value_or(0); }
};

/// The values as draws of a normal distribution. @pre all are finite
[[nodiscard]] sample_mean mean_of(std::span<const double> values);

/// Of values[i] - references[i]: both ran with the same seed, so what the seed did to both cancels.
/// @pre as many of both
[[nodiscard]] sample_mean paired_difference(std::span<const double> values,
                                            std::span<const double> references);

/// A mean of ratios: of their logarithms, so that twice and half as much are equally far from 1.
struct sample_ratio {
  double mean = 1;
  double low = 1, high = 1;   ///< 95 %; the mean, if there is no interval
  bool has_interval = false;  ///< two values or more

  /// Whether 1 is outside of the interval.
  [[nodiscard]] bool is_certain() const noexcept { return has_interval && (low > 1 || high < 1); }
};

/// Of values[i] / references[i]; nothing unless all are > 0. @pre as many of both
[[nodiscard]] std::optional<sample_ratio> paired_ratio(std::span<const double> values,
                                                       std::span<const double> references);

}  // namespace oriel::replay
