// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `sampling_options`: how a client wants its tokens chosen.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/kernels/sample.hpp>

#include <cstdint>

namespace oriel {

/// The defaults sample from the model's own distribution.
struct sampling_options {
  float temperature = 1.0f;  ///< finite, >= 0; 0 = greedy
  std::uint32_t top_k = 0;   ///< keep this many tokens; 0 = off
  float top_p = 1.0f;        ///< in (0, 1]: keep the fewest tokens with this much mass; 1 = off
  float min_p = 0.0f;        ///< in [0, 1]: keep tokens this likely relative to the best; 0 = off
  std::uint64_t seed = 0;    ///< the same seed and prompt give the same tokens
};

/// The part that the sampling kernel reads (order and meaning of the filters: kernels/sample.hpp).
[[nodiscard]] constexpr sample_filters filters_of(const sampling_options& o) noexcept {
  return {.temperature = o.temperature, .top_k = o.top_k, .top_p = o.top_p, .min_p = o.min_p};
}

/// @returns errc::invalid_argument with the name and range of the first field out of range.
[[nodiscard]] status check(const sampling_options& options) noexcept;

}  // namespace oriel
