// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What `run_gemm` needs of one instruction set: how x is packed, and a tile product.
///
/// Everything is made of 32-bit *lanes*. A lane of weights is one f32 or two bf16 with neighbouring
/// k; a lane of x is whatever the tile product multiplies it with.
///
///   weights  [panel, step, panel_width]       a panel is panel_width output features; a step
///                                             is one lane deep; n and k are padded with zeros
///   x        [block, chunk, block rows, 16]   a block is 1..rows_max rows; a chunk is 16 lanes
///                                             of k
///
/// So a tile product (one block times one or more panels) reads both operands front to back. Each
/// output element is one accumulator that meets k in ascending order: no cut of rows or columns can
/// change its bits.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/kernels/isa.hpp>

#include <cstddef>
#include <cstdint>

namespace oriel::host::detail {

inline constexpr std::uint32_t chunk_lanes = 16;  ///< One cache line.

/// One block of rows times one or more neighbouring panels.
struct gemm_tile {
  const std::uint32_t* x;    ///< packed block, [chunks, rows, 16]
  const std::byte* panel;    ///< first packed panel
  float* out;                ///< [rows, columns]
  std::size_t out_stride;    ///< elements
  const std::byte* next;     ///< weights that are needed soon, to be brought into the L2 cache
  std::uint32_t next_lines;  ///< cache lines of `next` for each chunk of x
  std::uint32_t rows;        ///< 1..rows_max
  std::uint32_t columns;     ///< output features: all of the panels' or fewer in the last one
  std::uint32_t steps;       ///< depth in weight lanes
  bool accumulate;
};

/// The tile product of one instruction set and weight type.
struct gemm_kernel {
  std::uint32_t rows_max;          ///< rows of a block, at most
  std::uint32_t panel_width;       ///< output features of a panel
  std::uint32_t k_per_step;        ///< 1 for f32 weights, 2 for bf16
  std::uint32_t x_lanes_per_step;  ///< 2 where x stays f32 beside pairs of bf16 weights

  /// Packs `rows` rows of x (stride in elements) as one block.
  void (*pack_block)(const float* x,
                     std::size_t stride,
                     std::uint32_t rows,
                     std::uint32_t k,
                     std::uint32_t* block) noexcept;
  void (*multiply)(const gemm_tile& tile) noexcept;
};

extern const gemm_kernel gemm_f32_scalar, gemm_f32_avx2, gemm_f32_avx512;
extern const gemm_kernel gemm_bf16_scalar, gemm_bf16_avx2, gemm_bf16_avx512, gemm_bf16_avx512_bf16;

/// @pre weights is f32 or bf16
inline const gemm_kernel& gemm_kernel_for(isa path, dtype weights) noexcept {
  if (weights == dtype::f32) {
    return path == isa::scalar ? gemm_f32_scalar
           : path == isa::avx2 ? gemm_f32_avx2
                               : gemm_f32_avx512;
  }
  switch (path) {
    case isa::scalar:
      return gemm_bf16_scalar;
    case isa::avx2:
      return gemm_bf16_avx2;
    case isa::avx512:
      return gemm_bf16_avx512;
    case isa::avx512_bf16:
      break;
  }
  return gemm_bf16_avx512_bf16;
}

}  // namespace oriel::host::detail
