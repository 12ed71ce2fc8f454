// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/logprobs.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

std::vector<double> oriel::reference::logprobs(std::span<const float> logits) {
  constexpr double never = -std::numeric_limits<double>::infinity();
  double largest = never;
  for (const float z : logits) {
    largest = z > largest ? double{z} : largest;
  }
  double sum = 0.0;
  std::vector<double> result(logits.size(), never);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    // Infinities share all; NaN has nothing.
    result[i] = logits[i] == largest ? 0.0 : logits[i] < largest ? logits[i] - largest : never;
    sum += std::exp(result[i]);
  }
  for (double& r : result) {
    r -= std::log(sum);
  }
  return result;
}
