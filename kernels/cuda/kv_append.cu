// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/kv_append_agent.cuh"
#include "detail/launch.cuh"

namespace oriel::cuda {
namespace {

template <dtype Kv>
__global__ void __launch_bounds__(detail::kv_append_threads)
    kv_append_kernel(const __grid_constant__ detail::kv_append_agent<Kv> agent) {
  __shared__ detail::kv_append_shared shared;
  agent(detail::device_group<detail::kv_append_threads>(), blockIdx.x, blockIdx.y, shared);
}

template <dtype Kv>
void launch(const kv_append_plan& plan, const kv_append_args& args, CUstream_st* stream) {
  const dim3 grid(plan.row_blocks, plan.shape.kv_heads);
  kv_append_kernel<Kv><<<grid, detail::kv_append_threads, 0, stream>>>({plan.shape, args});
}

}  // namespace

status run_kv_append(const kv_append_plan& plan,
                     const kv_append_args& args,
                     CUstream_st* stream) noexcept {
  if (plan.row_blocks == 0) {
    return {};
  }
  const auto run = plan.shape.kv == dtype::e4m3   ? launch<dtype::e4m3>
                   : plan.shape.kv == dtype::bf16 ? launch<dtype::bf16>
                                                  : launch<dtype::f32>;
  run(plan, args, stream);
  return detail::launched("kv_append: launch");
}

}  // namespace oriel::cuda
