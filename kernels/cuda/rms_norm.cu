// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/launch.cuh"
#include "detail/rms_norm_agent.cuh"

namespace oriel::cuda {
namespace {

using detail::rms_norm_threads;

template <class T, std::uint32_t N>
__global__ void __launch_bounds__(rms_norm_threads)
    rms_norm_kernel(const __grid_constant__ detail::rms_norm_agent<T, N> agent,
                    const std::uint32_t* row_count) {
  extern __shared__ __align__(16) float shared[];
  if (detail::has_row(blockIdx.x, row_count)) {
    agent(detail::device_group<rms_norm_threads>(), blockIdx.x, shared);
  }
}

template <class T, std::uint32_t N>
status launch(const rms_norm_plan& plan,
              const basic_rms_norm_args<T>& args,
              CUstream_st* stream,
              const std::uint32_t* row_count) noexcept {
  const auto kernel = rms_norm_kernel<T, N>;
  if (const status s = detail::allow_shared(kernel, plan.shared_bytes, "rms_norm: shared memory");
      !s) {
    return s;
  }
  kernel<<<args.rows, rms_norm_threads, plan.shared_bytes, stream>>>({plan.shape, args}, row_count);
  return detail::launched("rms_norm: launch");
}

template <class T>
status run_as(const rms_norm_plan& plan,
              const basic_rms_norm_args<T>& args,
              CUstream_st* stream,
              const std::uint32_t* row_count) noexcept {
  constexpr std::uint32_t vector = detail::row_vector_width;
  if (args.rows == 0) {
    return {};
  }
  return detail::rms_norm_agent<T, vector>::fits(plan.shape, args)
             ? launch<T, vector>(plan, args, stream, row_count)
             : launch<T, 1>(plan, args, stream, row_count);
}

}  // namespace

status run_rms_norm(const rms_norm_plan& plan,
                    const rms_norm_args& args,
                    CUstream_st* stream,
                    const std::uint32_t* row_count) noexcept {
  return run_as(plan, args, stream, row_count);
}

status run_rms_norm(const rms_norm_plan& plan,
                    const basic_rms_norm_args<bf16>& args,
                    CUstream_st* stream,
                    const std::uint32_t* row_count) noexcept {
  ORIEL_EXPECTS(plan.shape.activation == dtype::bf16);
  return run_as(plan, args, stream, row_count);
}

}  // namespace oriel::cuda
