// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/grouped_gemm_units.hpp"
#include "detail/launch.cuh"

namespace oriel::cuda {
namespace {

constexpr std::uint32_t pack_threads = 256;

/// A thread for each 16 bytes: chunks of a packed row are neighbours.
__global__ void __launch_bounds__(pack_threads) pack_kernel(const grouped_gemm_shape shape,
                                                            std::uint32_t k_tiles,
                                                            const std::byte* rows_of_w,
                                                            std::uint32_t first_row,
                                                            std::uint32_t rows,
                                                            std::byte* packed) {
  const std::uint32_t chunk = blockIdx.y * pack_threads + threadIdx.x;
  if (chunk < k_tiles * detail::gemm_row_chunks) {
    detail::pack_chunk(shape, k_tiles, rows_of_w, first_row, rows, blockIdx.x, chunk, packed);
  }
}

bool is_aligned(const void* p, std::size_t stride_bytes) noexcept {
  return (reinterpret_cast<std::uintptr_t>(p) | stride_bytes) % detail::gemm_chunk_bytes == 0;
}

template <class Out>
status run(const grouped_gemm_plan& plan,
           const grouped_gemm_args<Out>& args,
           CUstream_st* stream) noexcept {
  ORIEL_EXPECTS(args.rows <= plan.limits.rows_max && args.row_divisor != 0);
  ORIEL_EXPECTS(args.offsets != nullptr || plan.shape.groups == 1);
  ORIEL_EXPECTS(is_aligned(args.x, args.x_stride * size_bytes(plan.shape.weights)));
  ORIEL_EXPECTS(is_aligned(args.weights, 0));
  if (args.rows == 0) {
    return {};
  }
  const detail::grouped_gemm_call call = detail::make_grouped_gemm_call(plan, args);
  return plan.shape.weights == dtype::bf16 ? detail::launch_grouped_gemm_bf16(plan, call, stream)
                                           : detail::launch_grouped_gemm_e4m3(plan, call, stream);
}

}  // namespace

status run_pack_grouped_weights(const grouped_gemm_plan& plan,
                                const void* rows_of_w,
                                std::uint32_t first_row,
                                std::uint32_t rows,
                                std::byte* packed,
                                CUstream_st* stream) noexcept {
  ORIEL_EXPECTS(first_row <= plan.shape.weight_rows() &&
                rows <= plan.shape.weight_rows() - first_row);
  const std::uint32_t chunks = plan.k_tiles * detail::gemm_row_chunks;
  const dim3 grid(plan.feature_tiles * detail::gemm_feature_tile, (chunks - 1) / pack_threads + 1);
  pack_kernel<<<grid, pack_threads, 0, stream>>>(
      plan.shape, plan.k_tiles, static_cast<const std::byte*>(rows_of_w), first_row, rows, packed);
  return detail::launched("grouped_gemm: launch of the packing");
}

status run_grouped_gemm(const grouped_gemm_plan& plan,
                        const grouped_gemm_args<bf16>& args,
                        CUstream_st* stream) noexcept {
  ORIEL_EXPECTS(!args.accumulate);
  return run(plan, args, stream);
}

status run_grouped_gemm(const grouped_gemm_plan& plan,
                        const grouped_gemm_args<float>& args,
                        CUstream_st* stream) noexcept {
  return run(plan, args, stream);
}

}  // namespace oriel::cuda
