// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Rotary position embedding of the first `rotary_dims` dims of a head, in rotate-half pairs:
/// dims j and j + rotary_dims / 2 turn by the angle position * theta^(-2j / rope_base_dims).
///
/// Cosines and sines depend on the position alone: fill a table once per step and rope kind, then
/// apply it in every layer. All arithmetic is f32 in the order of the models' own code, unfused, so
/// every path gives the same bits (docs/arithmetic.md).
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/executor.hpp>
#include <oriel/core/result.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// What is rotated, and how fast.
struct rope_shape {
  std::uint32_t head_dim;
  std::uint32_t rotary_dims;     ///< even; at most head_dim and 2 * rope_pairs_max; may be 0
  std::uint32_t rope_base_dims;  ///< divides the exponent; rotary_dims, or one less if that was odd
  double theta;                  ///< > 0
};

/// Pairs that one head can rotate.
inline constexpr std::uint32_t rope_pairs_max = 128;

/// Arguments of one call. rows = positions.size().
/// @tparam T  float, or bf16: results are rounded once (kernels for a device)
template <class T>
struct basic_rope_args {
  T* x;                                      ///< [rows] rows of [heads, head_dim], in place
  std::size_t x_stride;                      ///< elements from one row of x to the next
  std::uint32_t heads;                       ///< query or KV heads
  std::span<const std::uint32_t> positions;  ///< [rows] absolute token positions
};
using rope_args = basic_rope_args<float>;

/// Query and KV heads side by side in a row, as one product writes them. Queries are rounded for
/// attention on the way: once, to nearest, those dims too that do not turn.
/// @pre q and x do not overlap
struct rope_qk_args {
  bf16* q;                                   ///< [rows] rows of [q_heads, head_dim]: written
  std::size_t q_stride;                      ///< elements from one row of q to the next
  float* x;                                  ///< [rows] rows of [q_heads + kv_heads, head_dim]: KV
                                             ///< heads turn in place, query heads are read only
  std::size_t x_stride;                      ///< elements from one row of x to the next
  std::uint32_t q_heads;                     ///< the first ones of a row of x
  std::uint32_t kv_heads;                    ///< those behind them
  std::span<const std::uint32_t> positions;  ///< [rows] absolute token positions
};

namespace reference {

/// The formula above in double precision. Written to be read.
void rope(const rope_shape& shape, const rope_args& args);

}  // namespace reference

namespace host {

/// The frequencies of one rope kind. Plain data.
struct rope_plan {
  rope_shape shape;
  std::uint32_t pairs;              ///< rotary_dims / 2
  float frequency[rope_pairs_max];  ///< [pairs] radians per position

  /// Floats in a table of `rows` rows.
  [[nodiscard]] constexpr std::size_t table_size(std::size_t rows) const noexcept {
    return rows * pairs * 2;
  }
};

/// @returns errc::unsupported_shape for a shape outside the ranges above.
[[nodiscard]] result<rope_plan> plan_rope(const rope_shape& shape) noexcept;

/// Writes table[row] = { cos [pairs], sin [pairs] } of each row's position. O(rows * pairs), some
/// 50 ns per pair.
/// @pre table.size() >= plan.table_size(positions.size())
void fill_rope_table(const rope_plan& plan,
                     std::span<const std::uint32_t> positions,
                     std::span<float> table,
                     executor_ref executor) noexcept;

/// Rotates every head of every row of x by its row of `table`. O(rows * heads * pairs).
/// @pre table was filled by fill_rope_table from args.positions and the same plan
void run_rope(const rope_plan& plan,
              const rope_args& args,
              std::span<const float> table,
              executor_ref executor) noexcept;
/// The same rotation, query heads rounded into a matrix of their own.
void run_rope(const rope_plan& plan,
              const rope_qk_args& args,
              std::span<const float> table,
              executor_ref executor) noexcept;

}  // namespace host

namespace cuda {

/// Frequencies are host arithmetic: a device's plan is the host's.
using host::plan_rope;
using host::rope_plan;

/// Enqueues: table[row] as host::fill_rope_table. `positions` and `table` are device memory. Sine
/// and cosine are computed in double precision and rounded once, as on the host: the bits differ
/// only where one of the two libraries falls on the other side of a rounding (about one in 2^28).
/// @param row_count  in device memory: rows beyond it stay as they are; null: all rows
/// @returns errc::device_failure
status fill_rope_table(const rope_plan& plan,
                       std::span<const std::uint32_t> positions,
                       std::span<float> table,
                       CUstream_st* stream,
                       const std::uint32_t* row_count = nullptr) noexcept;

/// Enqueues the rotation; every pointer in `args` is device memory. The same bits as the host's
/// from the same table.
/// @param row_count  in device memory: rows beyond it stay as they are; null: all rows
/// @returns errc::device_failure
status run_rope(const rope_plan& plan,
                const rope_args& args,
                std::span<const float> table,
                CUstream_st* stream,
                const std::uint32_t* row_count = nullptr) noexcept;
/// As above, rows stored as bf16.
status run_rope(const rope_plan& plan,
                const basic_rope_args<bf16>& args,
                std::span<const float> table,
                CUstream_st* stream,
                const std::uint32_t* row_count = nullptr) noexcept;
/// The same rotation of rows in f32, query heads rounded into a matrix of their own, as attention
/// reads them.
status run_rope(const rope_plan& plan,
                const rope_qk_args& args,
                std::span<const float> table,
                CUstream_st* stream,
                const std::uint32_t* row_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
