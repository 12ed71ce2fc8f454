// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/kv_append_agent.cuh"
#include "detail/launch.cuh"

namespace oriel::cuda {
namespace {

template <dtype Kv>
__global__ void __launch_bounds__(detail::kv_append_threads)
    kv_append_kernel(attention_shape shape, kv_append_args args) {
  detail::kv_append_thread<Kv>(shape, args, blockIdx.x, blockIdx.y, threadIdx.x);
}

__global__ void __launch_bounds__(detail::kv_append_threads)
    kv_append_e4m3_kernel(attention_shape shape, kv_append_args args) {
  detail::kv_append_scaled(
      shape, args, blockIdx.x, blockIdx.y, detail::device_group<detail::kv_append_threads>());
}

}  // namespace

status run_kv_append(const kv_append_plan& plan,
                     const kv_append_args& args,
                     CUstream_st* stream) noexcept {
  if (plan.row_blocks == 0) {
    return {};
  }
  const dim3 grid(plan.row_blocks, plan.shape.kv_heads);
  const auto kernel = plan.shape.kv == dtype::e4m3   ? kv_append_e4m3_kernel
                      : plan.shape.kv == dtype::bf16 ? kv_append_kernel<dtype::bf16>
                                                     : kv_append_kernel<dtype::f32>;
  kernel<<<grid, detail::kv_append_threads, 0, stream>>>(plan.shape, args);
  return detail::launched("kv_append: launch");
}

}  // namespace oriel::cuda
