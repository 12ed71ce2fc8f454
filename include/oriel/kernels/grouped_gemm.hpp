// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Products of groups of rows on a device, each group with weights of its own: the experts of a MoE
/// layer over the rows that moe_permute.hpp brought together; with one group a dense product.
///
///     out[r, n] = sum over k of x[r, k] * w_g[n, k]        rows r of group g
///     out[r, n] = silu(x[r] . gate_g[n]) * (x[r] . up_g[n])   with swiglu
///
/// bf16, or e4m3 with scales: of x one for each row and 128 columns, of the weights one for each
/// 128 columns and a row's block, whatever blocks are (128 rows, or the ragged grids of a fused
/// QKV's shards). Sums of 128 columns of e4m3 are added up in f32: sum += part * (x scale * w
/// scale), one fused multiply-add each, columns ascending.
///
/// Order-fixed: an output element is computed by the same sequence of instructions for any number
/// of rows, groups and devices' multiprocessors. Which group has how many rows is read on the
/// device, so one captured graph serves any routing.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/quantize.hpp>

#include <cstddef>
#include <cstdint>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// The matrices of all groups.
struct grouped_gemm_shape {
  std::uint32_t groups;  ///< experts; 1: a dense product
  std::uint32_t n;       ///< columns of out
  std::uint32_t k;       ///< columns of x
  dtype weights;         ///< bf16 or e4m3: of x and of the weights
  bool swiglu = false;   ///< a group's weights are [2 n, k], gate rows first; else [n, k]

  /// Rows of a group's weights.
  [[nodiscard]] constexpr std::uint32_t weight_rows() const noexcept { return swiglu ? 2 * n : n; }
  /// Rows of a group's grid of scales where blocks are 128 rows; with swiglu gate and up have grids
  /// of their own, one behind the other.
  [[nodiscard]] constexpr std::uint32_t plain_grid_rows() const noexcept {
    return (swiglu ? 2 : 1) * ((n - 1) / scale_block + 1);
  }
};

/// Arguments of one call.
/// @tparam Out  float, or bf16: the finished sum is rounded once; with swiglu gate, up, silu(gate)
///     and the product are, as in swiglu.hpp
template <class Out>
struct grouped_gemm_args {
  Out* out;                        ///< [rows, n]
  std::size_t out_stride;          ///< elements from one row of out to the next
  const void* x;                   ///< [., k] of shape.weights
  std::size_t x_stride;            ///< elements from one row of x to the next
  const std::uint32_t* row_index;  ///< row r reads row row_index[r] / row_divisor of x; null: row r
  std::uint32_t row_divisor;       ///< at least 1: moe_permutation::pair_of_row and top_k
  const std::byte* weights;        ///< of all groups: packed on a device, plain for the reference
  const std::uint32_t* offsets;    ///< [groups + 1] first row of each group; null: one has all rows
  std::uint32_t rows;              ///< of all groups, at most: out has so many
  bool accumulate = false;         ///< out += instead of out =, behind all else; f32 alone

  // For e4m3 alone.
  const float* x_scales;                   ///< of (row of x, k / 128): see the strides
  std::size_t x_scale_row_stride;          ///< elements
  std::size_t x_scale_column_stride;       ///< elements
  const float* weight_scales;              ///< [groups, grid rows, ceil(k / 128)]: see the strides
  std::size_t weight_scale_group_stride;   ///< elements from one group's grid to the next
  std::size_t weight_scale_stride;         ///< elements from one row of a grid to the next
  const std::uint32_t* weight_scale_rows;  ///< [weight_rows] row of the grid; null: plain grids
};

namespace reference {

/// The definition, in double, rounded once. `weights` is plain: [groups, weight_rows, k].
/// O(rows * weight_rows * k).
void grouped_gemm(const grouped_gemm_shape& shape, const grouped_gemm_args<float>& args);

}  // namespace reference

/// Fills weight_scale_rows for rows [0, rows of all shards) of a fused matrix: shard s has
/// shard_rows rows and a grid of its own of ceil(shard_rows / 128) rows. O(shards * shard_rows).
void fill_sharded_scale_rows(std::uint32_t shards,
                             std::uint32_t shard_rows,
                             std::uint32_t* weight_scale_rows) noexcept;

namespace cuda {

/// What a plan is sized for.
struct grouped_gemm_limits {
  std::uint32_t rows_max;         ///< of one call, of all groups
  std::uint32_t multiprocessors;  ///< of the device: thread blocks
};

/// A decided product. Plain data.
struct grouped_gemm_plan {
  grouped_gemm_shape shape;
  grouped_gemm_limits limits;
  std::uint32_t tile_rows;      ///< rows that an item has, at most
  std::uint32_t feature_tiles;  ///< of 128 packed rows of weights, in a group
  std::uint32_t k_tiles;        ///< of 128 bytes of a row
  std::size_t packed_bytes;     ///< one group's packed weights
  std::uint32_t blocks;         ///< of the launch
  std::uint32_t shared_bytes;   ///< of a block
};

/// Pure host arithmetic; needs no device.
/// @returns errc::unsupported_shape for an empty shape or limit, f32 weights, more than 1,024
///          groups, or a size that does not fit 32 bits
[[nodiscard]] result<grouped_gemm_plan> plan_grouped_gemm(
    const grouped_gemm_shape& shape, const grouped_gemm_limits& limits) noexcept;

/// Packs rows [first_row, first_row + rows) of one group's weights on the host, from plain rows of
/// k elements; gate_proj and up_proj may arrive as two tensors or as one. Copies bytes: about
/// memory speed for long runs of rows. Disjoint ranges may be packed by several threads.
/// @param packed  the group's plan.packed_bytes
void pack_grouped_weights(const grouped_gemm_plan& plan,
                          const void* rows_of_w,
                          std::uint32_t first_row,
                          std::uint32_t rows,
                          std::byte* packed) noexcept;

/// As above, enqueued: all pointers are device memory.
/// @returns errc::device_failure
status run_pack_grouped_weights(const grouped_gemm_plan& plan,
                                const void* rows_of_w,
                                std::uint32_t first_row,
                                std::uint32_t rows,
                                std::byte* packed,
                                CUstream_st* stream) noexcept;

/// Enqueues the product; every pointer in `args` is device memory. Rows beyond the last offset are
/// not written.
/// @pre x, its stride in bytes and weights are multiples of 16, and x has less than 64 GiB;
///      args.rows <= plan.limits.rows_max; offsets ascend from 0 and end at or below args.rows;
///      indices of rows are rows of x
/// @returns errc::device_failure
status run_grouped_gemm(const grouped_gemm_plan& plan,
                        const grouped_gemm_args<bf16>& args,
                        CUstream_st* stream) noexcept;
status run_grouped_gemm(const grouped_gemm_plan& plan,
                        const grouped_gemm_args<float>& args,
                        CUstream_st* stream) noexcept;

}  // namespace cuda
}  // namespace oriel
