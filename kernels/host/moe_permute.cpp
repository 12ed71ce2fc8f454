// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/workspace.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/kernels/moe_permute.hpp>

#include <algorithm>
#include <utility>

namespace oriel::host {

result<moe_permute_plan> plan_moe_permute(const moe_permute_shape& shape) noexcept {
  const std::uint64_t pairs = std::uint64_t{shape.tokens_max} * shape.top_k;
  if (shape.experts == 0 || pairs == 0 || pairs > UINT32_MAX) {
    return failure{errc::unsupported_shape, 0, "moe_permute: empty, or more than 2^32 pairs"};
  }
  const std::size_t bytes =
      detail::whole_lines((std::size_t{shape.experts} + 1) * sizeof(std::uint32_t)) +
      2 * detail::whole_lines(pairs * sizeof(std::uint32_t));
  return moe_permute_plan{.shape = shape, .workspace_bytes = bytes};
}

moe_permutation run_moe_permute(const moe_permute_plan& plan,
                                std::span<const std::uint32_t> ids,
                                std::span<std::byte> workspace) noexcept {
  ORIEL_EXPECTS(ids.size() <= std::size_t{plan.shape.tokens_max} * plan.shape.top_k);
  const std::uint32_t experts = plan.shape.experts;
  detail::workspace_cutter cutter(workspace);
  const auto offsets = cutter.take<std::uint32_t>(std::size_t{experts} + 1);
  const auto pair_of_row = cutter.take<std::uint32_t>(ids.size());
  const auto row_of_pair = cutter.take<std::uint32_t>(ids.size());

  // Counts, then first rows, then (moved by the scatter) the rows after the last: one array.
  std::fill(offsets.begin(), offsets.end(), 0u);
  for (const std::uint32_t id : ids) {
    ORIEL_EXPECTS(id < experts);
    ++offsets[id];
  }
  std::uint32_t row = 0;
  for (std::uint32_t& offset : offsets) {
    row += std::exchange(offset, row);
  }
  for (std::uint32_t pair = 0; pair < ids.size(); ++pair) {
    const std::uint32_t at = offsets[ids[pair]]++;
    pair_of_row[at] = pair;
    row_of_pair[pair] = at;
  }
  // Each offset has moved to its expert's end, which is the next expert's beginning.
  std::copy_backward(offsets.begin(), offsets.end() - 1, offsets.end());
  offsets[0] = 0;
  return {.expert_offsets = offsets, .pair_of_row = pair_of_row, .row_of_pair = row_of_pair};
}

}  // namespace oriel::host
