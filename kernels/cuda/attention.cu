// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/attention_merge.cuh"
#include "detail/attention_units.hpp"
#include "detail/launch.cuh"

namespace oriel::cuda {
namespace {

using detail::attention_call;

constexpr std::uint32_t all_lanes = 0xFFFFFFFFu;

/// This lane's part of a warp that merges.
class merge_warp {
 public:
  __device__ __forceinline__ explicit merge_warp(detail::merge_factor* factors)
      : factors_(factors) {}

  template <class F>
  __device__ __forceinline__ void each(F&& f) {
    f(threadIdx.x, lane_);
  }
  // `of`: which float of a lane.
  template <class Of>
  __device__ __forceinline__ void max_up_to_lane(Of of) {
    ORIEL_UNROLL
    for (std::uint32_t step = 1; step < detail::warp_threads; step *= 2) {
      const float below = __shfl_up_sync(all_lanes, of(lane_), step);  // Its own if there is none.
      of(lane_) = fmaxf(of(lane_), below);
    }
  }
  template <class Of, class From>
  __device__ __forceinline__ void from_lane_below(Of of, From from) {
    const float below = __shfl_up_sync(all_lanes, from(lane_), 1);
    of(lane_) = threadIdx.x == 0 ? of(lane_) : below;
  }
  template <class Of>
  __device__ __forceinline__ void rotate(Of of, std::uint32_t lanes) {
    of(lane_) = __shfl_sync(all_lanes, of(lane_), threadIdx.x - lanes);  // Modulo the warp.
  }
  template <class Of>
  [[nodiscard]] __device__ __forceinline__ float of_lane(Of of, std::uint32_t lane) {
    return __shfl_sync(all_lanes, of(lane_), lane);
  }
  [[nodiscard]] __device__ __forceinline__ detail::merge_factor* factors() const {
    return factors_;
  }
  __device__ __forceinline__ void meet() const { __syncwarp(); }

 private:
  detail::merge_factor* factors_;
  detail::merge_lane lane_;
};

template <std::uint32_t Dims>
__global__ void __launch_bounds__(detail::warp_threads* detail::merge_block_warps,
                                  detail::merge_blocks_per_multiprocessor)
    attention_merge_kernel(const __grid_constant__ attention_call call, detail::merge_shape shape) {
  __shared__ detail::merge_factors factors[detail::merge_block_warps];
  merge_warp warp(factors[threadIdx.y]);
  const std::uint32_t warps = gridDim.x * detail::merge_block_warps;
  std::uint32_t unit = blockIdx.x * detail::merge_block_warps + threadIdx.y;
  for (; unit < shape.units; unit += warps) {
    detail::merge_unit<Dims>(call, shape.is_deep, unit, warp);
  }
}

status launch_merge(const attention_plan& plan, const attention_call& call, CUstream_st* stream) {
  const detail::merge_shape shape = detail::merge_shape_of(call, plan.limits.multiprocessors);
  const dim3 threads(detail::warp_threads, detail::merge_block_warps);
  const auto kernel =
      plan.shape.head_dim_vo == 128 ? attention_merge_kernel<128> : attention_merge_kernel<64>;
  kernel<<<shape.blocks, threads, 0, stream>>>(call, shape);
  return detail::launched("attention: launch of the merge");
}

template <class T, class Out>
status run(const attention_plan& plan,
           const basic_attention_args<T, Out>& args,
           std::span<std::byte> workspace,
           CUstream_st* stream) noexcept {
  ORIEL_EXPECTS(workspace.size() >= plan.workspace_bytes);
  ORIEL_EXPECTS(args.sequences.size() <= plan.limits.sequences_max && args.scale > 0.0f);
  if (args.sequences.empty()) {
    return {};
  }
  const attention_call call = detail::make_attention_call(plan, args, workspace.data());
  const detail::attention_launch launch{plan.blocks, plan.shared_bytes};
  if (plan.unit == attention_unit::generic) {
    return detail::launch_attention_generic(launch, call, stream);
  }
  const bool is_e4m3 = plan.shape.kv == dtype::e4m3;
  const auto enqueue =
      plan.shape.head_dim_qk == 192
          ? is_e4m3 ? detail::launch_attention_192_128_e4m3 : detail::launch_attention_192_128
      : plan.shape.head_dim_qk == 128
          ? is_e4m3 ? detail::launch_attention_128_128_e4m3 : detail::launch_attention_128_128
      : is_e4m3 ? detail::launch_attention_64_64_e4m3
                : detail::launch_attention_64_64;
  const status computed = enqueue(launch, call, stream);
  return computed && plan.splits_max != 0 ? launch_merge(plan, call, stream) : computed;
}

}  // namespace

status run_attention(const attention_plan& plan,
                     const attention_args& args,
                     std::span<std::byte> workspace,
                     CUstream_st* stream) noexcept {
  return run(plan, args, workspace, stream);
}

status run_attention(const attention_plan& plan,
                     const basic_attention_args<float, bf16>& args,
                     std::span<std::byte> workspace,
                     CUstream_st* stream) noexcept {
  return run(plan, args, workspace, stream);
}

status run_attention(const attention_plan& plan,
                     const basic_attention_args<bf16>& args,
                     std::span<std::byte> workspace,
                     CUstream_st* stream) noexcept {
  return run(plan, args, workspace, stream);
}

status run_attention(const attention_plan& plan,
                     const basic_attention_args<bf16, float>& args,
                     std::span<std::byte> workspace,
                     CUstream_st* stream) noexcept {
  return run(plan, args, workspace, stream);
}

}  // namespace oriel::cuda
