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

/// Of values[i] / references[i]; nothing where a reference is 0. @pre as many of both
[[nodiscard]] std::optional<sample_mean> paired_ratio(std::span<const double> values,
                                                      std::span<const double> references);

}  // namespace oriel::replay
