// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Pearson's test of counts against expectations.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

/// A statistic with its degrees of freedom.
struct pearson {
  double statistic = 0.0;
  int freedom = -1;
  bool is_possible = true;  ///< false: something was counted that cannot happen

  /// Wilson and Hilferty: the statistic as a standard normal.
  [[nodiscard]] double as_normal() const {
    const double k = 2.0 / (9.0 * freedom);
    return (std::cbrt(statistic / freedom) - (1.0 - k)) / std::sqrt(k);
  }
  /// Probability of a statistic so large or larger, if the expectations are right.
  [[nodiscard]] double p_value() const {
    return !is_possible ? 0.0 : freedom <= 0 ? 1.0 : 0.5 * std::erfc(as_normal() / std::sqrt(2.0));
  }
};

/// Outcomes expected less than 5 times are pooled. @pre counts.size() == expected.size()
template <class Count>
pearson test_counts(std::span<const Count> counts, std::span<const double> expected) {
  pearson p;
  double pooled_expected = 0.0, pooled_count = 0.0;
  const auto add = [&](double e, double seen) {
    p.statistic += (seen - e) * (seen - e) / e;
    ++p.freedom;
  };
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (expected[i] == 0.0) {
      p.is_possible = p.is_possible && counts[i] == 0;
    } else if (expected[i] < 5.0) {
      pooled_expected += expected[i];
      pooled_count += static_cast<double>(counts[i]);
    } else {
      add(expected[i], static_cast<double>(counts[i]));
    }
  }
  if (pooled_expected > 0.0) {
    add(pooled_expected, pooled_count);
  }
  return p;
}
