// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/launch.cuh"
#include "detail/moe_permute_agent.cuh"

namespace oriel::cuda {
namespace {

using detail::device_group;
using detail::moe_permute_agent;
using detail::permute_scan_threads;
using detail::permute_shared;
using detail::permute_threads;

__global__ void __launch_bounds__(permute_threads)
    permute_whole_kernel(const __grid_constant__ moe_permute_agent agent,
                         const std::uint32_t* token_count) {
  __shared__ permute_shared shared;
  agent.whole(device_group<permute_threads>(), agent.pairs(token_count), shared);
}

__global__ void __launch_bounds__(permute_threads)
    permute_count_kernel(const __grid_constant__ moe_permute_agent agent,
                         const std::uint32_t* token_count) {
  __shared__ permute_shared shared;
  agent.count(device_group<permute_threads>(), blockIdx.x, agent.pairs(token_count), shared);
}

__global__ void __launch_bounds__(permute_scan_threads)
    permute_scan_kernel(const __grid_constant__ moe_permute_agent agent) {
  __shared__ permute_shared shared;
  agent.scan(device_group<permute_scan_threads>(), shared);
}

__global__ void __launch_bounds__(permute_threads)
    permute_scatter_kernel(const __grid_constant__ moe_permute_agent agent,
                           const std::uint32_t* token_count) {
  __shared__ permute_shared shared;
  agent.scatter(device_group<permute_threads>(), blockIdx.x, agent.pairs(token_count), shared);
}

}  // namespace

status run_moe_permute(const moe_permute_plan& plan,
                       std::span<const std::uint32_t> ids,
                       std::span<std::byte> workspace,
                       CUstream_st* stream,
                       const std::uint32_t* token_count) noexcept {
  ORIEL_EXPECTS(ids.size() <= std::size_t{plan.shape.tokens_max} * plan.shape.top_k);
  const moe_permute_agent agent{plan.shape,
                                plan.chunks,
                                static_cast<std::uint32_t>(ids.size()),
                                ids.data(),
                                detail::permute_arrays_in(plan, workspace)};
  if (plan.chunks == 1) {
    permute_whole_kernel<<<1, permute_threads, 0, stream>>>(agent, token_count);
    return detail::launched("moe_permute: launch");
  }
  permute_count_kernel<<<plan.chunks, permute_threads, 0, stream>>>(agent, token_count);
  permute_scan_kernel<<<1, permute_scan_threads, 0, stream>>>(agent);
  permute_scatter_kernel<<<plan.chunks, permute_threads, 0, stream>>>(agent, token_count);
  return detail::launched("moe_permute: launch");
}

}  // namespace oriel::cuda
