// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/sample_shared.hpp"

#include <oriel/kernels/sample.hpp>

#include <algorithm>

namespace oriel::cuda {

result<sample_plan> plan_sample(std::uint32_t vocabulary, std::uint32_t rows_max) noexcept {
  if (vocabulary == 0 || vocabulary > detail::sample_vocabulary_max || rows_max == 0) {
    return failure{errc::unsupported_shape, 0, "sample: vocabulary empty or above 400,000"};
  }
  const std::uint32_t part_tokens = detail::sample_part_tokens(vocabulary);
  // Two blocks of the usual vocabulary fit a multiprocessor: one loads while the other computes. A cluster has to fit
  // into one group of multiprocessors, so how many are resident at once only the device knows; no more are launched.
  constexpr std::uint32_t clusters_max = 132 * 2 / detail::sample_parts;
  const std::uint32_t clusters = std::min(rows_max, clusters_max);
  return sample_plan{.vocabulary = vocabulary,
                     .part_tokens = part_tokens,
                     .shared_bytes = static_cast<std::uint32_t>(
                         sizeof(detail::sample_shared) + part_tokens * sizeof(std::uint32_t)),
                     .clusters = clusters,
                     .workspace_bytes = std::size_t{clusters} * detail::sample_slots *
                                        sizeof(detail::sample_slot)};
}

}  // namespace oriel::cuda
