// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Who holds which element in wgmma.m64nNk16 with bf16 operands and f32 accumulators, and how its
/// operands in shared memory are described. Pure functions: tests/device multiplies with them.
///
///     accumulator D, 64 x N    thread t of the warpgroup (warp t / 32, lane l = t % 32) has rows
///                              16 (t / 32) + l / 4 and that + 8; register r is column
///                              8 (r / 4) + 2 (l % 4) + r % 2 of the first row for r % 4 < 2, of
///                              the second for the others
///     operand A, 64 x 16       four registers of two: {row, columns 2 (l % 4) and + 1}, the same
///                              of row + 8, then both with columns + 8
///     operands in shared memory, K-major without swizzle: core matrices of 8 rows (of A's M or
///                              B's N) by 8 elements of K, 128 bytes in a row, 16 of them a row
#pragma once

#include <oriel/device/host_device.cuh>

#include <cstdint>

namespace oriel::detail {

inline constexpr std::uint32_t warp_threads = 32;
inline constexpr std::uint32_t warpgroup_threads = 128;
inline constexpr std::uint32_t mma_rows = 64;   // M
inline constexpr std::uint32_t mma_depth = 16;  // K of one instruction, bf16
inline constexpr std::uint32_t core_side = 8;
inline constexpr std::uint32_t core_bytes = 128;

/// Row of D that a thread holds as its `half` (0 or 1).
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint32_t fragment_row(std::uint32_t thread,
                                                                     std::uint32_t half) {
  return thread / warp_threads * 16 + thread % warp_threads / 4 + 8 * half;
}
/// Which of its two rows register r of D belongs to.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint32_t fragment_half(std::uint32_t r) {
  return r / 2 % 2;
}
/// Column of D that register r of a thread holds.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint32_t fragment_column(std::uint32_t thread,
                                                                        std::uint32_t r) {
  return r / 4 * 8 + thread % 4 * 2 + r % 2;
}

/// D as the A of a next product: register j (0 to 3) of A for columns [16 step, 16 step + 16) packs
/// registers first and first + 1 of D, the lower column in the lower half.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint32_t packed_register(std::uint32_t step,
                                                                        std::uint32_t j) {
  return step * 8 + j * 2;
}

/// Byte offset of element (row, k) in an operand of `depth` elements a row, whose core matrices
/// follow each other along K, then along the rows: K tiles of a page, and queries.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint32_t core_offset_bytes(std::uint32_t depth,
                                                                          std::uint32_t row,
                                                                          std::uint32_t k) {
  return (row / core_side * (depth / core_side) + k / core_side) * core_bytes +
         row % core_side * 16 + k % core_side * 2;
}

/// A descriptor of an operand without swizzle. `address` of the first core matrix;
/// `k_stride_bytes` from one to the next along K ("leading dimension"), `row_stride_bytes` along M
/// or N ("stride dimension"). @pre all are multiples of 16, below 2^18
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint64_t operand_descriptor(
    std::uint32_t address, std::uint32_t k_stride_bytes, std::uint32_t row_stride_bytes) {
  return std::uint64_t{(address & 0x3FFFFu) >> 4} | std::uint64_t{k_stride_bytes >> 4} << 16 |
         std::uint64_t{row_stride_bytes >> 4} << 32;
}

}  // namespace oriel::detail
