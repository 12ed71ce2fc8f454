// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/launch.cuh"
#include "detail/ptx_gemm.cuh"
#include "detail/router_logits_agent.cuh"

namespace oriel::cuda {
namespace {

using detail::router_threads;

template <class Agent>
__global__ void __launch_bounds__(router_threads)
    router_slices_kernel(const __grid_constant__ Agent agent, const std::uint32_t* token_count) {
  __shared__ typename Agent::shared_state shared;
  agent(detail::device_group<router_threads>(), blockIdx.y, blockIdx.x, token_count, shared);
}

/// router_tile_agent's copies.
struct stage_copies {
  std::uint32_t shared;  ///< address of the stages

  __device__ __forceinline__ void copy(std::uint32_t to,
                                       const void* from,
                                       std::uint32_t units,
                                       std::uint32_t bytes) const {
    detail::ptx::copy_async_16(shared + to, from, units, bytes);
  }
  __device__ __forceinline__ void commit() const { detail::ptx::copy_async_commit(); }
  template <std::uint32_t Pending>
  __device__ __forceinline__ void wait() const {
    detail::ptx::copy_async_wait<Pending>();
  }
};

__global__ void __launch_bounds__(router_threads)
    router_tile_kernel(const __grid_constant__ detail::router_tile_agent agent,
                       const std::uint32_t* token_count) {
  extern __shared__ __align__(16) std::byte stages[];
  const std::uint32_t tokens = detail::router_tokens(agent.args, token_count);
  if (blockIdx.y * agent.tokens < tokens) {
    agent(detail::device_group<router_threads>(),
          stage_copies{detail::ptx::shared_address(stages)},
          blockIdx.y,
          blockIdx.x,
          tokens,
          stages);
  }
}

/// Tiles of experts are neighbours in the grid: they read the same rows of x.
template <class Agent>
dim3 grid_of(const Agent& agent) {
  return {(agent.shape.experts - 1) / agent.experts + 1,
          (agent.args.tokens - 1) / agent.tokens + 1};
}

template <class Agent>
status launch(const Agent& agent, CUstream_st* stream, const std::uint32_t* token_count) noexcept {
  router_slices_kernel<<<grid_of(agent), router_threads, 0, stream>>>(agent, token_count);
  return detail::launched("router_logits: launch");
}

status launch(const detail::router_tile_agent& agent,
              CUstream_st* stream,
              const std::uint32_t* token_count) noexcept {
  constexpr std::size_t bytes = detail::router_tile_agent::shared_bytes;
  if (const status s =
          detail::allow_shared(router_tile_kernel, bytes, "router_logits: shared memory");
      !s) {
    return s;
  }
  router_tile_kernel<<<grid_of(agent), router_threads, bytes, stream>>>(agent, token_count);
  return detail::launched("router_logits: launch");
}

}  // namespace

status run_router_logits(const router_logits_plan& plan,
                         const router_logits_args& args,
                         CUstream_st* stream,
                         const std::uint32_t* token_count) noexcept {
  if (args.tokens == 0) {
    return {};
  }
  if (!detail::router_tile_agent::fits(plan.shape, args)) {
    return launch(detail::router_unaligned{plan.shape, args}, stream, token_count);
  }
  switch (plan.tile) {
    case router_tile::few:
      return launch(detail::router_few{plan.shape, args}, stream, token_count);
    case router_tile::some:
      return launch(detail::router_some{plan.shape, args}, stream, token_count);
    case router_tile::many:
      break;
  }
  return launch(detail::router_tile_agent{plan.shape, args}, stream, token_count);
}

}  // namespace oriel::cuda
