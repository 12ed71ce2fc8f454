// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/grouped_gemm_units.hpp"
#include "detail/shared_memory.hpp"

#include <oriel/core/contract.hpp>

namespace oriel {

void fill_sharded_scale_rows(std::uint32_t shards,
                             std::uint32_t shard_rows,
                             std::uint32_t* weight_scale_rows) noexcept {
  const std::uint32_t grid_rows = (shard_rows + scale_block - 1) / scale_block;
  for (std::uint32_t shard = 0; shard < shards; ++shard) {
    for (std::uint32_t row = 0; row < shard_rows; ++row) {
      *weight_scale_rows++ = shard * grid_rows + row / scale_block;
    }
  }
}

}  // namespace oriel

namespace oriel::cuda {
namespace {

constexpr std::uint32_t groups_max = 1024;

constexpr std::uint64_t divide_up(std::uint64_t a, std::uint64_t b) noexcept {
  return (a + b - 1) / b;
}

const char* problem_with(const grouped_gemm_shape& s, const grouped_gemm_limits& limits) noexcept {
  if (s.groups == 0 || s.n == 0 || s.k == 0 || limits.rows_max == 0 ||
      limits.multiprocessors == 0) {
    return "grouped_gemm: a size or limit is 0";
  }
  if (s.weights == dtype::f32) {
    return "grouped_gemm: weights are bf16 or e4m3";
  }
  if (s.groups > groups_max) {
    return "grouped_gemm: more than 1,024 groups";
  }
  constexpr std::uint32_t most = 1u << 29;  // Bytes of a row and packed rows fit 32 bits.
  if (s.n > most || s.k > most || limits.rows_max > most) {
    return "grouped_gemm: n, k or rows_max is above 2^29";
  }
  return nullptr;
}

std::uint64_t packed_rows(const grouped_gemm_shape& s) noexcept {
  return s.swiglu ? divide_up(s.n, 8) * 16 : s.n;
}

/// Fewer rows an item where the shape has too few items to keep the device busy: the pieces of
/// weights then come from the L2 cache more often.
std::uint32_t tile_rows_for(const grouped_gemm_shape& s,
                            const grouped_gemm_limits& limits,
                            std::uint64_t feature_tiles) noexcept {
  const std::uint32_t most = s.weights == dtype::bf16 ? detail::gemm_tile<dtype::bf16>::rows
                                                      : detail::gemm_tile<dtype::e4m3>::rows;
  const std::uint64_t busy = s.groups < limits.rows_max ? s.groups : limits.rows_max;
  for (const std::uint32_t rows : {256u, 128u, 64u}) {
    const std::uint64_t cut = divide_up(limits.rows_max, rows);
    if (rows <= most && feature_tiles * (cut < busy ? busy : cut) >= limits.multiprocessors) {
      return rows;
    }
  }
  return 16;
}

}  // namespace

result<grouped_gemm_plan> plan_grouped_gemm(const grouped_gemm_shape& shape,
                                            const grouped_gemm_limits& limits) noexcept {
  if (const char* problem = problem_with(shape, limits)) {
    return failure{errc::unsupported_shape, 0, problem};
  }
  const std::uint64_t feature_tiles = divide_up(packed_rows(shape), detail::gemm_feature_tile);
  const std::uint64_t k_tiles =
      divide_up(shape.k * size_bytes(shape.weights), detail::gemm_k_tile_bytes);
  const std::uint32_t tile_rows = tile_rows_for(shape, limits, feature_tiles);
  // Items of all groups, of a band, and two waves behind the last are counted in 32 bits.
  const std::uint64_t row_tiles = divide_up(limits.rows_max, tile_rows) + shape.groups;
  if (row_tiles * feature_tiles + std::uint64_t{2} * limits.multiprocessors > 0xFFFF'FFFFu) {
    return failure{errc::unsupported_shape, 0, "grouped_gemm: more than 2^32 items"};
  }
  const bool is_bf16 = shape.weights == dtype::bf16;
  const std::uint32_t shared = is_bf16 ? detail::gemm_shared_bytes<dtype::bf16>(shape.groups)
                                       : detail::gemm_shared_bytes<dtype::e4m3>(shape.groups);
  static_assert(detail::gemm_shared_bytes<dtype::bf16>(groups_max) <=
                detail::block_shared_bytes_max);
  static_assert(detail::gemm_shared_bytes<dtype::e4m3>(groups_max) <=
                detail::block_shared_bytes_max);
  return grouped_gemm_plan{
      .shape = shape,
      .limits = limits,
      .tile_rows = tile_rows,
      .feature_tiles = static_cast<std::uint32_t>(feature_tiles),
      .k_tiles = static_cast<std::uint32_t>(k_tiles),
      .packed_bytes = std::size_t{feature_tiles} * k_tiles * detail::gemm_piece_bytes,
      .blocks = limits.multiprocessors,
      .shared_bytes = shared};
}

void pack_grouped_weights(const grouped_gemm_plan& plan,
                          const void* rows_of_w,
                          std::uint32_t first_row,
                          std::uint32_t rows,
                          std::byte* packed) noexcept {
  const grouped_gemm_shape& shape = plan.shape;
  ORIEL_EXPECTS(first_row <= shape.weight_rows() && rows <= shape.weight_rows() - first_row);
  const std::uint32_t chunks = plan.k_tiles * detail::gemm_row_chunks;
  for (std::uint32_t row = 0; row < plan.feature_tiles * detail::gemm_feature_tile; ++row) {
    for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) {
      detail::pack_chunk(shape,
                         plan.k_tiles,
                         static_cast<const std::byte*>(rows_of_w),
                         first_row,
                         rows,
                         row,
                         chunk,
                         packed);
    }
  }
}

}  // namespace oriel::cuda

namespace oriel::detail {

grouped_gemm_call make_grouped_gemm_call(const cuda::grouped_gemm_plan& plan,
                                         const grouped_gemm_args<float>& args) noexcept {
  return {.shape = plan.shape,
          .args = args,
          .out_bf16 = nullptr,
          .out_is_whole = false,
          .tile_rows = plan.tile_rows,
          .feature_tiles = plan.feature_tiles,
          .k_tiles = plan.k_tiles};
}

grouped_gemm_call make_grouped_gemm_call(const cuda::grouped_gemm_plan& plan,
                                         const grouped_gemm_args<bf16>& args) noexcept {
  grouped_gemm_args<float> rest{};
  rest.out_stride = args.out_stride;
  rest.x = args.x;
  rest.x_stride = args.x_stride;
  rest.row_index = args.row_index;
  rest.row_divisor = args.row_divisor;
  rest.weights = args.weights;
  rest.offsets = args.offsets;
  rest.rows = args.rows;
  rest.x_scales = args.x_scales;
  rest.x_scale_row_stride = args.x_scale_row_stride;
  rest.x_scale_column_stride = args.x_scale_column_stride;
  rest.weight_scales = args.weight_scales;
  rest.weight_scale_group_stride = args.weight_scale_group_stride;
  rest.weight_scale_stride = args.weight_scale_stride;
  rest.weight_scale_rows = args.weight_scale_rows;
  grouped_gemm_call call = make_grouped_gemm_call(plan, rest);
  call.out_bf16 = args.out;
  const std::size_t neighbours =
      plan.shape.swiglu ? gemm_store_width<true> : gemm_store_width<false>;
  call.out_is_whole = plan.shape.n % neighbours == 0 && args.out_stride % neighbours == 0 &&
                      reinterpret_cast<std::uintptr_t>(args.out) % (neighbours * sizeof(bf16)) == 0;
  return call;
}

}  // namespace oriel::detail
