// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// mma.sync m16n8k16 with bf16 operands and f32 accumulators, by each warp of a group
/// (thread_group.cuh). Of lane l, g = l / 4 and q = l % 4:
///
///     A, 16 x 16   a[0]: row g, columns 2q and + 1; a[1]: the same of row g + 8; a[2] and a[3]:
///                  as a[0] and a[1], columns + 8
///     B, 16 x 8    b[0]: column g, rows 2q and + 1; b[1]: rows + 8
///     D, 16 x 8    d[0], d[1]: row g, columns 2q and + 1; d[2], d[3]: row g + 8
///
/// A register holds two numbers, the one with the lower index in its lower half.
///
/// On the host D += A B is one chain of rounded sums in the order of k; a device sums in an order
/// of its own, the same for every element, and rounds otherwise.
#pragma once

#include "thread_group.cuh"

#include <bit>
#include <cstdint>

#ifdef __CUDACC__
#include "ptx.cuh"
#endif

namespace oriel::detail {

/// What a thread has of the three.
struct warp_mma_operands {
  float (&d)[4];
  const std::uint32_t (&a)[4];
  const std::uint32_t (&b)[2];
};

/// The number in the lower (0) or upper half of a register.
[[nodiscard]] inline float bf16_of_half(std::uint32_t x, std::uint32_t half) {
  return std::bit_cast<float>(half == 0 ? x << 16 : x & 0xFFFF'0000u);
}

/// D += A B of every warp. @param pick  pick(v[thread]): warp_mma_operands of a thread
template <std::uint32_t Threads, class Var, class Pick>
void multiply_by_warps(host_group<Threads>&, Var& v, Pick&& pick) {
  for (std::uint32_t warp = 0; warp < Threads / 32; ++warp) {
    float a[16][16], b[16][8];
    for (std::uint32_t lane = 0; lane < 32; ++lane) {
      const warp_mma_operands o = pick(v[warp * 32 + lane]);
      for (std::uint32_t half = 0; half < 2; ++half) {
        const std::uint32_t g = lane / 4, k = lane % 4 * 2 + half;
        for (std::uint32_t r = 0; r < 4; ++r) {
          a[g + r % 2 * 8][k + r / 2 * 8] = bf16_of_half(o.a[r], half);
        }
        b[k][g] = bf16_of_half(o.b[0], half);
        b[k + 8][g] = bf16_of_half(o.b[1], half);
      }
    }
    for (std::uint32_t lane = 0; lane < 32; ++lane) {
      const warp_mma_operands o = pick(v[warp * 32 + lane]);
      for (std::uint32_t r = 0; r < 4; ++r) {
        const std::uint32_t row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
        for (std::uint32_t k = 0; k < 16; ++k) {
          o.d[r] += a[row][k] * b[k][column];  // The product is exact.
        }
      }
    }
  }
}

#ifdef __CUDACC__
template <std::uint32_t Threads, class Var, class Pick>
ORIEL_HOST_DEVICE_INLINE void multiply_by_warps(device_group<Threads>&, Var& v, Pick&& pick) {
#ifdef __CUDA_ARCH__
  const warp_mma_operands o = pick(v.value);
  ptx::mma_16x8x16(o.d, o.a, o.b);
#endif
}
#endif

}  // namespace oriel::detail
