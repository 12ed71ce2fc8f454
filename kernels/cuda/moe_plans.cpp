// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Plans of the MoE kernels but for their matrix products.
#include "../host/detail/workspace.hpp"
#include "detail/moe_permute_agent.cuh"

#include <oriel/kernels/moe_combine.hpp>
#include <oriel/kernels/moe_route.hpp>

namespace oriel::cuda {

result<moe_route_plan> plan_moe_route(const moe_route_shape& shape) noexcept {
  if (const auto checked = host::plan_moe_route(shape, isa::scalar); !checked) {
    return checked.error();
  }
  const std::uint32_t per_lane = (shape.experts + 31) / 32;
  return moe_route_plan{.shape = shape,
                        .scores_per_lane = per_lane <= 8    ? 8u
                                           : per_lane <= 12 ? 12u
                                           : per_lane <= 16 ? 16u
                                                            : 32u};
}

result<moe_permute_plan> plan_moe_permute(const moe_permute_shape& shape) noexcept {
  const std::uint64_t pairs = std::uint64_t{shape.tokens_max} * shape.top_k;
  if (shape.experts == 0 || pairs == 0 || pairs > UINT32_MAX - detail::permute_chunk_pairs) {
    return failure{errc::unsupported_shape, 0, "moe_permute: empty, or more than 2^32 pairs"};
  }
  if (shape.experts > detail::permute_experts_max) {
    return failure{errc::unsupported_shape, 0, "moe_permute: more than 1,024 experts"};
  }
  const auto chunks = static_cast<std::uint32_t>((pairs - 1) / detail::permute_chunk_pairs + 1);
  const std::size_t counts = chunks > 1 ? std::size_t{shape.experts} * chunks : 0;
  const auto lines = [](std::size_t n) { return detail::whole_lines(n * sizeof(std::uint32_t)); };
  return moe_permute_plan{
      .shape = shape,
      .chunks = chunks,
      .workspace_bytes = lines(std::size_t{shape.experts} + 1) + 2 * lines(pairs) + lines(counts)};
}

moe_permutation permutation_in(const moe_permute_plan& plan,
                               std::span<std::byte> workspace) noexcept {
  const detail::permute_arrays at = detail::permute_arrays_in(plan, workspace);
  const std::size_t pairs = std::size_t{plan.shape.tokens_max} * plan.shape.top_k;
  return {.expert_offsets = {at.expert_offsets, std::size_t{plan.shape.experts} + 1},
          .pair_of_row = {at.pair_of_row, pairs},
          .row_of_pair = {at.row_of_pair, pairs}};
}

result<moe_combine_plan> plan_moe_combine(const moe_combine_shape& shape) noexcept {
  if (shape.hidden == 0 || shape.top_k == 0) {
    return failure{errc::unsupported_shape, 0, "moe_combine: hidden or top_k is 0"};
  }
  return moe_combine_plan{.shape = shape};
}

}  // namespace oriel::cuda
