// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/attention_rows.cuh"
#include "detail/attention_units.hpp"
#include "detail/launch.cuh"

namespace oriel::cuda {
namespace {

using detail::attention_call;

/// Block (head, slot): one thread per dim. Slots without a row, or whose row needs no merge, leave
/// at once.
__global__ void attention_merge_kernel(const __grid_constant__ attention_call call) {
  detail::merge_element(call, blockIdx.y, blockIdx.x, threadIdx.x);
}

status launch_merge(const attention_plan& plan, const attention_call& call, CUstream_st* stream) {
  const dim3 grid(plan.shape.q_heads,
                  plan.limits.sequences_max * plan.limits.rows_per_sequence_max);
  attention_merge_kernel<<<grid, plan.shape.head_dim_vo, 0, stream>>>(call);
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
                     const basic_attention_args<bf16>& args,
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

}  // namespace oriel::cuda
