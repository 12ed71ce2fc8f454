// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/attention_generic_agent.cuh"
#include "detail/attention_units.hpp"
#include "detail/launch.cuh"

namespace oriel::detail {
namespace {

constexpr std::uint32_t all_lanes = 0xFFFFFFFFu;

/// This lane's part of a warp.
class device_warp {
 public:
  template <class F>
  __device__ __forceinline__ void each(F&& f) {
    f(threadIdx.x, lane_);
  }
  using member = float generic_lane::*;
  __device__ __forceinline__ void all_max(member m) {
    for (std::uint32_t step = 1; step < warp_threads; step *= 2) {
      lane_.*m = fmaxf(lane_.*m, __shfl_xor_sync(all_lanes, lane_.*m, step));
    }
  }
  __device__ __forceinline__ void all_sum(member m) {
    for (std::uint32_t step = 1; step < warp_threads; step *= 2) {
      lane_.*m += __shfl_xor_sync(all_lanes, lane_.*m, step);
    }
  }
  /// Every lane asks for the same `lane`.
  [[nodiscard]] __device__ __forceinline__ float of_lane(member m, std::uint32_t lane) const {
    return __shfl_sync(all_lanes, lane_.*m, lane);
  }

 private:
  generic_lane lane_;
};

template <dtype Kv>
__global__ void __launch_bounds__(warp_threads* generic_warps_per_block, 4)
    attention_generic_kernel(const __grid_constant__ attention_call call) {
  device_warp warp;
  const std::uint64_t warps = std::uint64_t{gridDim.x} * generic_warps_per_block;
  std::uint64_t index = std::uint64_t{blockIdx.x} * generic_warps_per_block + threadIdx.y;
  while (attend_generic<Kv>(call, index, warp)) {
    index += warps;
  }
}

}  // namespace

status launch_attention_generic(const attention_launch& launch,
                                const attention_call& call,
                                CUstream_st* stream) {
  const auto kernel = call.shape.kv == dtype::e4m3   ? attention_generic_kernel<dtype::e4m3>
                      : call.shape.kv == dtype::bf16 ? attention_generic_kernel<dtype::bf16>
                                                     : attention_generic_kernel<dtype::f32>;
  const dim3 threads(warp_threads, generic_warps_per_block);
  kernel<<<launch.blocks, threads, 0, stream>>>(call);
  return launched("attention: launch of the generic kernel");
}

}  // namespace oriel::detail
