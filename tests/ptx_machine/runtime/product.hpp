// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A dense product in cuBLASLt's terms, computed on the host.
#pragma once

#include <cstddef>
#include <cstdint>

namespace oriel::ptx_machine {

enum class element : std::uint8_t { f32, bf16, e4m3 };

[[nodiscard]] constexpr std::size_t bytes_of(element t) {
  return t == element::f32 ? 4 : t == element::bf16 ? 2 : 1;
}

/// How factors of an operand lie, by its index outside of k (i of op(A), j of op(B)) and its block
/// of 128 of k.
enum class scale_layout : std::uint8_t {
  whole,       ///< one, or none
  vector_128,  ///< [blocks of k, all of the other index]
  block_128    ///< [blocks of 128 of the other index, blocks of k rounded up to a multiple of 4]
};

struct matrix {
  element type;
  std::uint64_t stride;  ///< of columns, elements
  bool is_transposed;
  const void* at;
  const float* scales;  ///< null: 1
  scale_layout scales_are;
};

/// d = alpha a b + beta c, of [m, k] by [k, n]; matrices are column-major.
struct product {
  std::uint64_t m, n, k;
  matrix a, b, c;
  element d_type;
  std::uint64_t d_stride;
  void* d;
  float alpha, beta;
};

/// Sums are in double, in the order of k: no bit depends on m or n.
void multiply(const product& p);

}  // namespace oriel::ptx_machine
