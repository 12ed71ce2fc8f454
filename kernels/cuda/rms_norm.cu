// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/launch.cuh"
#include "detail/rms_norm_agent.cuh"

namespace oriel::cuda {
namespace {

using detail::rms_norm_lanes;
using detail::rms_norm_rows_per_block;

__global__ void __launch_bounds__(rms_norm_lanes* rms_norm_rows_per_block)
    rms_norm_kernel(rms_norm_shape shape, rms_norm_args args) {
  __shared__ float partial[rms_norm_rows_per_block][rms_norm_lanes];
  const std::uint32_t row = blockIdx.x * rms_norm_rows_per_block + threadIdx.y;
  const std::uint32_t lane = threadIdx.x;
  if (row < args.rows) {
    partial[threadIdx.y][lane] = detail::rms_norm_squares(shape, args, row, lane);
  }
  __syncthreads();
  if (row < args.rows) {
    detail::rms_norm_scale(shape, args, row, lane, detail::rms_norm_sum(partial[threadIdx.y]));
  }
}

}  // namespace

status run_rms_norm(const rms_norm_plan& plan,
                    const rms_norm_args& args,
                    CUstream_st* stream) noexcept {
  if (args.rows == 0) {
    return {};
  }
  const std::uint32_t blocks = (args.rows - 1) / plan.rows_per_block + 1;
  const dim3 threads(rms_norm_lanes, plan.rows_per_block);
  rms_norm_kernel<<<blocks, threads, 0, stream>>>(plan.shape, args);
  return detail::launched("rms_norm: launch");
}

}  // namespace oriel::cuda
