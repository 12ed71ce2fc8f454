// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/launch.cuh"
#include "detail/quantize_rows_agent.cuh"

namespace oriel::cuda {
namespace {

using detail::quantize_threads;

template <class T, bool Whole>
__global__ void __launch_bounds__(quantize_threads)
    quantize_rows_kernel(const __grid_constant__ detail::quantize_rows_agent<T, Whole> agent,
                         const std::uint32_t* row_count) {
  if (detail::has_row(blockIdx.x, row_count)) {
    agent(detail::device_group<quantize_threads>(), blockIdx.x, blockIdx.y);
  }
}

template <class T>
status run_as(const quantize_rows_plan& plan,
              const basic_quantize_rows_args<T>& args,
              CUstream_st* stream,
              const std::uint32_t* row_count) noexcept {
  if (args.rows == 0) {
    return {};
  }
  const dim3 grid(args.rows, (plan.shape.columns - 1) / detail::quantize_columns_per_block + 1);
  if (detail::quantize_rows_agent<T, true>::fits(plan.shape, args)) {
    quantize_rows_kernel<T, true>
        <<<grid, quantize_threads, 0, stream>>>({plan.shape, args}, row_count);
  } else {
    quantize_rows_kernel<T, false>
        <<<grid, quantize_threads, 0, stream>>>({plan.shape, args}, row_count);
  }
  return detail::launched("quantize_rows: launch");
}

}  // namespace

status run_quantize_rows(const quantize_rows_plan& plan,
                         const quantize_rows_args& args,
                         CUstream_st* stream,
                         const std::uint32_t* row_count) noexcept {
  return run_as(plan, args, stream, row_count);
}

status run_quantize_rows(const quantize_rows_plan& plan,
                         const basic_quantize_rows_args<bf16>& args,
                         CUstream_st* stream,
                         const std::uint32_t* row_count) noexcept {
  return run_as(plan, args, stream, row_count);
}

}  // namespace oriel::cuda
