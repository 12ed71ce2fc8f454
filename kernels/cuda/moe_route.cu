// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/launch.cuh"
#include "detail/moe_route_agent.cuh"

#include <oriel/kernels/dispatch.hpp>

namespace oriel::cuda {
namespace {

constexpr std::uint32_t warps_max = 4;  // of a block

template <std::uint32_t P, bool Grouped>
__global__ void __launch_bounds__(32 * warps_max)
    moe_route_kernel(const __grid_constant__ detail::moe_route_agent<P> agent,
                     const std::uint32_t* token_count) {
  __shared__ detail::moe_route_shared<P> shared[warps_max];
  __shared__ detail::moe_group_shared groups[Grouped ? warps_max : 1];
  const std::uint32_t warp = threadIdx.x / 32;
  const std::uint32_t token = blockIdx.x * (blockDim.x / 32) + warp;
  if (token < agent.args.tokens && detail::has_row(token, token_count)) {
    agent(detail::device_group<32>(), token, shared[warp], Grouped ? &groups[warp] : nullptr);
  }
}

}  // namespace

status run_moe_route(const moe_route_plan& plan,
                     const moe_route_args& args,
                     CUstream_st* stream,
                     const std::uint32_t* token_count) noexcept {
  if (args.tokens == 0) {
    return {};
  }
  // Few tokens are spread over all multiprocessors.
  const std::uint32_t warps = args.tokens < 1'024 ? 1 : warps_max;
  const std::uint32_t blocks = (args.tokens - 1) / warps + 1;
  const bool grouped = plan.shape.kept_groups < plan.shape.groups;
  const auto launch = [&](auto p) {
    const auto kernel = grouped ? moe_route_kernel<p(), true> : moe_route_kernel<p(), false>;
    kernel<<<blocks, 32 * warps, 0, stream>>>({plan.shape, args}, token_count);
  };
  const bool is_known = dispatch_static<8, 12, 16, 32>(plan.scores_per_lane, launch);
  ORIEL_EXPECTS(is_known);
  return detail::launched("moe_route: launch");
}

}  // namespace oriel::cuda
