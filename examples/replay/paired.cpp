// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>

#include <replay/paired.hpp>

#include <array>
#include <cmath>
#include <vector>

namespace oriel::replay {

double student_t(std::size_t degrees) noexcept {
  constexpr std::array table{12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646,
                             2.3060,  2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
                             2.1314,  2.1199, 2.1098, 2.1009, 2.0930, 2.0860};
  ORIEL_EXPECTS(degrees > 0);
  if (degrees <= table.size()) {
    return table[degrees - 1];
  }
  // Three terms of the expansion about the normal distribution: 4 digits from 20 degrees on.
  constexpr double z = 1.959964, z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z;
  const auto d = static_cast<double>(degrees);
  return z + (z3 + z) / (4 * d) + (5 * z5 + 16 * z3 + 3 * z) / (96 * d * d) +
         (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * d * d * d);
}

sample_mean mean_of(std::span<const double> values) {
  sample_mean made{.n = values.size()};
  if (values.empty()) {
    return made;
  }
  const auto n = static_cast<double>(values.size());
  for (const double value : values) {
    made.mean += value / n;
  }
  if (values.size() < 2) {
    return made;
  }
  double squares = 0;
  for (const double value : values) {
    squares += (value - made.mean) * (value - made.mean);
  }
  made.half_width = student_t(values.size() - 1) * std::sqrt(squares / (n - 1) / n);
  return made;
}

sample_mean paired_difference(std::span<const double> values, std::span<const double> references) {
  ORIEL_EXPECTS(values.size() == references.size());
  std::vector<double> differences;
  for (std::size_t i = 0; i < values.size(); ++i) {
    differences.push_back(values[i] - references[i]);
  }
  return mean_of(differences);
}

std::optional<sample_ratio> paired_ratio(std::span<const double> values,
                                         std::span<const double> references) {
  ORIEL_EXPECTS(values.size() == references.size());
  std::vector<double> logarithms;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!(values[i] > 0 && references[i] > 0)) {
      return std::nullopt;
    }
    logarithms.push_back(std::log(values[i] / references[i]));
  }
  const sample_mean m = mean_of(logarithms);
  return sample_ratio{.mean = std::exp(m.mean),
                      .low = std::exp(m.low()),
                      .high = std::exp(m.high()),
                      .has_interval = m.half_width.has_value()};
}

}  // namespace oriel::replay
