// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/request/sampling_options.hpp>

// Comparisons are written so that a NaN fails them.
oriel::status oriel::check(const sampling_options& options) noexcept {
  constexpr float largest = 3.402'823'466e+38f;
  if (!(options.temperature >= 0.0f && options.temperature <= largest)) {
    return failure{errc::invalid_argument, 0, "temperature must be a finite number >= 0"};
  }
  if (!(options.top_p > 0.0f && options.top_p <= 1.0f)) {
    return failure{errc::invalid_argument, 0, "top_p must be in (0, 1]"};
  }
  if (!(options.min_p >= 0.0f && options.min_p <= 1.0f)) {
    return failure{errc::invalid_argument, 0, "min_p must be in [0, 1]"};
  }
  return {};
}
