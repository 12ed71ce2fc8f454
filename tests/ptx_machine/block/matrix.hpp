// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the matrix instructions compute, as pure functions of registers and shared memory.
///
/// All sums are deterministic: the products of one instruction are added to the accumulator's old
/// value in f64, in the order of k, and the sum is rounded to f32 once. (A device adds in an order
/// and with a width of its own; f64 holds the products of bf16 and of e4m3 exactly, so that small
/// integers come out the same.) NaN is 0x7FFFFFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel::ptx_machine {

/// The 32 lanes' values of one 32-bit register.
using lanes_b32 = std::uint32_t[32];

enum class matrix_element : std::uint8_t { bf16, e4m3 };

/// A wgmma.mma_async of m64 and f32 accumulators: D = A * B + D, or A * B where `accumulate` is
/// false.
struct product_shape {
  std::uint32_t n = 0;  ///< columns: a multiple of 8 up to 256
  matrix_element element = matrix_element::bf16;
  bool a_transposed = false;  ///< imm-trans-a: "MN-major"; of bf16 in shared memory only
  bool b_transposed = false;

  /// 16 for bf16, 32 for e4m3: always 32 bytes.
  [[nodiscard]] std::uint32_t k() const { return element == matrix_element::bf16 ? 16 : 32; }
  friend bool operator==(const product_shape&, const product_shape&) = default;
};

/// The largest n, and the most 32-bit registers of a thread that one product writes.
inline constexpr std::uint32_t product_columns_max = 256;
inline constexpr std::uint32_t product_registers_max = product_columns_max / 2;

/// A matrix descriptor's fields, in bytes.
struct matrix_descriptor {
  std::uint32_t start = 0;           ///< byte of shared memory
  std::uint32_t leading_offset = 0;  ///< "leading dimension byte offset"
  std::uint32_t stride_offset = 0;   ///< "stride dimension byte offset"
  std::uint32_t base_offset = 0;     ///< 0..7: (address of the swizzle pattern's start / 128) % 8
  std::uint32_t swizzle_bytes = 0;   ///< 0 (none), 32, 64, 128
};

/// @throws machine_error  where reserved bits are set
[[nodiscard]] matrix_descriptor decode_matrix_descriptor(std::uint64_t bits);

/// Which byte of shared memory holds 16 bytes that are consecutive in the matrix's contiguous
/// dimension. Not transposed ("K-major"): `row` of M or N, `chunk` of 16 bytes along K (0 or 1).
/// Transposed ("MN-major"): `row` of K, `chunk` of 8 elements along M or N.
[[nodiscard]] std::uint32_t matrix_chunk_address(const matrix_descriptor& d,
                                                 bool transposed,
                                                 std::uint32_t row,
                                                 std::uint32_t chunk);

/// Where an operand of a product lies: the first bytes of its chunks of 16 bytes. Not transposed
/// [row, 2], transposed [k, rows / 8].
/// @param rows  of M or N
/// @throws machine_error  an address outside shared memory, a start or a stride that does not fit
///         the swizzle's pattern
[[nodiscard]] std::vector<std::uint32_t> operand_chunks(std::size_t shared_bytes,
                                                        std::uint64_t descriptor,
                                                        const product_shape& shape,
                                                        bool transposed,
                                                        std::uint32_t rows);

/// The operand as numbers.
/// @param out  [k, rows]
void gather_operand(std::span<const std::byte> shared,
                    std::span<const std::uint32_t> chunks,
                    const product_shape& shape,
                    bool transposed,
                    std::uint32_t rows,
                    double* out);

/// A's 16 rows of one warp from four registers of 32 lanes.
/// @param a  [register, lane]
/// @param out  [k, 16]
void gather_a_registers(const std::uint32_t* a, matrix_element element, double* out);

/// The product of one warp: its 16 rows of A with B, into its n/2 accumulators. The accumulator of
/// row r and column c is register 4 * (c / 8) + 2 * (r / 8) + c % 2 of lane 4 * (r % 8) + c % 8 /
/// 2.
/// @param a  [k, a_rows], the warp's rows first
/// @param b  [k, n]
/// @param d  [register, lane]
void multiply_warp(const product_shape& shape,
                   const double* a,
                   std::uint32_t a_rows,
                   const double* b,
                   bool accumulate,
                   std::uint32_t* d);

/// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32.
void multiply_m16n8k16(const lanes_b32 (&a)[4],
                       const lanes_b32 (&b)[2],
                       const lanes_b32 (&c)[4],
                       lanes_b32 (&d)[4]);

/// movmatrix.sync.aligned.m8n8.trans.b16.
void transpose_m8n8_b16(const lanes_b32& source, lanes_b32& destination);

/// e4m3 has no infinities; S.1111.111 is NaN.
[[nodiscard]] double e4m3_value(std::uint8_t bits);
[[nodiscard]] double bf16_value(std::uint16_t bits);

}  // namespace oriel::ptx_machine
