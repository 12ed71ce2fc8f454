// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Rows of e4m3: of rows that are there, and of SwiGLU's.
#include "detail/launch.cuh"
#include "detail/quantize_rows_agent.cuh"
#include "detail/quantized_swiglu_agent.cuh"

namespace oriel::cuda {
namespace {

using detail::quantize_threads;

template <class Agent>
__global__ void __launch_bounds__(quantize_threads)
    quantizing_kernel(const __grid_constant__ Agent agent, const std::uint32_t* row_count) {
  if (detail::has_row(blockIdx.x, row_count)) {
    agent(detail::device_group<quantize_threads>(), blockIdx.x, blockIdx.y);
  }
}

/// A block for each 2,048 of a row's columns.
template <class Agent>
status launch(const Agent& agent,
              std::uint32_t columns,
              CUstream_st* stream,
              const std::uint32_t* row_count,
              const char* what) noexcept {
  const dim3 grid(agent.args.rows, (columns - 1) / detail::quantize_columns_per_block + 1);
  quantizing_kernel<<<grid, quantize_threads, 0, stream>>>(agent, row_count);
  return detail::launched(what);
}

template <class T>
status run_as(const quantize_rows_plan& plan,
              const basic_quantize_rows_args<T>& args,
              CUstream_st* stream,
              const std::uint32_t* row_count) noexcept {
  using whole = detail::quantize_rows_agent<T, true>;
  using parts = detail::quantize_rows_agent<T, false>;
  constexpr const char* what = "quantize_rows: launch";
  const quantize_rows_shape& shape = plan.shape;
  if (args.rows == 0) {
    return {};
  }
  return whole::fits(shape, args)
             ? launch(whole{shape, args}, shape.columns, stream, row_count, what)
             : launch(parts{shape, args}, shape.columns, stream, row_count, what);
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

status run_swiglu(const swiglu_plan& plan,
                  const quantized_swiglu_args& args,
                  CUstream_st* stream,
                  const std::uint32_t* row_count) noexcept {
  using whole = detail::quantized_swiglu_agent<true>;
  using parts = detail::quantized_swiglu_agent<false>;
  constexpr const char* what = "swiglu: launch";
  ORIEL_EXPECTS(plan.shape.activation == dtype::bf16);
  const swiglu_shape& shape = plan.shape;
  if (args.rows == 0) {
    return {};
  }
  return whole::fits(shape, args)
             ? launch(whole{shape, args}, shape.inter, stream, row_count, what)
             : launch(parts{shape, args}, shape.inter, stream, row_count, what);
}

}  // namespace oriel::cuda
