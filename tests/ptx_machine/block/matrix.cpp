// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "matrix.hpp"

#include <ptx_machine/program/program.hpp>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

namespace oriel::ptx_machine {
namespace {

constexpr std::uint64_t reserved_bits = (std::uint64_t{3} << 14) | (std::uint64_t{3} << 30) |
                                        (std::uint64_t{7} << 46) | (std::uint64_t{0x3FF} << 52);

constexpr std::uint32_t rounded_to_f32(double value) {
  if (value != value) {
    return 0x7FFFFFFF;
  }
  return std::bit_cast<std::uint32_t>(static_cast<float>(value));
}

double f32_value(std::uint32_t bits) {
  return static_cast<double>(std::bit_cast<float>(bits));
}

/// All 256.
const std::array<double, 256>& e4m3_values() {
  static const std::array<double, 256> values = [] {
    std::array<double, 256> v{};
    for (std::uint32_t bits = 0; bits < 256; ++bits) {
      v[bits] = e4m3_value(static_cast<std::uint8_t>(bits));
    }
    return v;
  }();
  return values;
}

std::string text(const matrix_descriptor& d) {
  return "descriptor (start " + std::to_string(d.start) + ", leading offset " +
         std::to_string(d.leading_offset) + ", stride offset " + std::to_string(d.stride_offset) +
         ", base offset " + std::to_string(d.base_offset) + ", swizzle " +
         std::to_string(d.swizzle_bytes) + ")";
}

/// The pattern of a swizzle is eight rows of its width, and repeats at multiples of its size
/// (shifted by the base offset): only there can an atom begin. Along K a product may begin within
/// the atom's rows.
void check_pattern(const matrix_descriptor& d, bool transposed, std::uint32_t rows) {
  if (d.swizzle_bytes == 0) {
    if (d.base_offset != 0) {
      throw machine_error(text(d) + ": a base offset without a swizzle");
    }
    return;
  }
  const std::uint32_t pattern_bytes = 8 * d.swizzle_bytes;
  const std::uint32_t into = (d.start - 128 * d.base_offset) % pattern_bytes;
  if (into >= d.swizzle_bytes) {
    throw machine_error(text(d) + ": begins in the middle of the swizzle's pattern");
  }
  if (transposed ? into != 0 : into + 32 > d.swizzle_bytes) {
    throw machine_error(text(d) + ": reaches over the end of the swizzle's rows");
  }
  // Transposed, the stride leads from the first eight rows of K to the next, and bf16 has sixteen.
  if ((transposed || rows > 8) && d.stride_offset % pattern_bytes != 0) {
    throw machine_error(text(d) + ": the stride is no multiple of the swizzle's pattern");
  }
  if (transposed && rows * 2 > d.swizzle_bytes && d.leading_offset % pattern_bytes != 0) {
    throw machine_error(text(d) + ": the leading offset is no multiple of the swizzle's pattern");
  }
}

double from_bf16(std::uint32_t bits) {
  return f32_value(bits << 16);
}

void gather_bf16(const std::byte* from, double* to, std::size_t stride) {
  std::uint16_t bits[8];
  std::memcpy(bits, from, 16);
  for (std::size_t i = 0; i < 8; ++i) {
    to[i * stride] = from_bf16(bits[i]);
  }
}

void gather_e4m3(const std::byte* from, double* to, std::size_t stride) {
  const auto& values = e4m3_values();
  for (std::size_t i = 0; i < 16; ++i) {
    to[i * stride] = values[std::to_integer<std::size_t>(from[i])];
  }
}

using eight_f64 = double __attribute__((vector_size(64)));

/// Two rows by eight columns: these sums stay in registers. (g++ and clang both know such vectors.)
void add_products(const double* a,
                  std::size_t a_rows,
                  const double* b,
                  std::size_t n,
                  std::uint32_t k_end,
                  double (&sums)[2][8]) {
  eight_f64 s[2];
  std::memcpy(s, sums, sizeof(s));
  for (std::uint32_t k = 0; k < k_end; ++k, a += a_rows, b += n) {
    eight_f64 columns;
    std::memcpy(&columns, b, sizeof(columns));
    s[0] += a[0] * columns;
    s[1] += a[1] * columns;
  }
  std::memcpy(sums, s, sizeof(s));
}

}  // namespace

double e4m3_value(std::uint8_t bits) {
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  const double sign = (bits & 0x80) != 0 ? -1.0 : 1.0;
  if (exponent == 15 && mantissa == 7) {
    return std::nan("");
  }
  return sign *
         (exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
}

double bf16_value(std::uint16_t bits) {
  return from_bf16(bits);
}

matrix_descriptor decode_matrix_descriptor(std::uint64_t bits) {
  if ((bits & reserved_bits) != 0) {
    throw machine_error("matrix descriptor with reserved bits set: " + std::to_string(bits));
  }
  constexpr std::uint32_t swizzles[4] = {0, 128, 64, 32};
  const auto field = [bits](int first, std::uint64_t mask) {
    return static_cast<std::uint32_t>((bits >> first) & mask);
  };
  return {.start = field(0, 0x3FFF) << 4,
          .leading_offset = field(16, 0x3FFF) << 4,
          .stride_offset = field(32, 0x3FFF) << 4,
          .base_offset = field(49, 7),
          .swizzle_bytes = swizzles[field(62, 3)]};
}

std::uint32_t matrix_chunk_address(const matrix_descriptor& d,
                                   bool transposed,
                                   std::uint32_t row,
                                   std::uint32_t chunk) {
  const std::uint32_t eights = row / 8;
  const std::uint32_t in_eight = row % 8;
  if (d.swizzle_bytes == 0) {
    const std::uint32_t by_eight = transposed ? d.leading_offset : d.stride_offset;
    const std::uint32_t by_chunk = transposed ? d.stride_offset : d.leading_offset;
    return d.start + eights * by_eight + in_eight * 16 + chunk * by_chunk;
  }
  // Transposed, an atom is as wide as the swizzle, and the leading offset leads to the next one.
  const std::uint32_t chunks = d.swizzle_bytes / 16;
  const std::uint32_t along =
      transposed ? chunk / chunks * d.leading_offset + chunk % chunks * 16 : chunk * 16;
  const std::uint32_t plain =
      d.start + eights * d.stride_offset + in_eight * d.swizzle_bytes + along;
  const std::uint32_t line = ((plain >> 7) - d.base_offset) & (chunks - 1);
  return plain ^ (line << 4);
}

std::vector<std::uint32_t> operand_chunks(std::size_t shared_bytes,
                                          std::uint64_t descriptor,
                                          const product_shape& shape,
                                          bool transposed,
                                          std::uint32_t rows) {
  const matrix_descriptor d = decode_matrix_descriptor(descriptor);
  check_pattern(d, transposed, rows);
  const std::uint32_t outer = transposed ? shape.k() : rows;
  const std::uint32_t inner = transposed ? rows / 8 : 2;
  std::vector<std::uint32_t> chunks;
  chunks.reserve(std::size_t{outer} * inner);
  for (std::uint32_t row = 0; row < outer; ++row) {
    for (std::uint32_t chunk = 0; chunk < inner; ++chunk) {
      const std::uint32_t address = matrix_chunk_address(d, transposed, row, chunk);
      if (std::size_t{address} + 16 > shared_bytes) {
        throw machine_error(text(d) + ": byte " + std::to_string(address) +
                            " is outside the block's " + std::to_string(shared_bytes) +
                            " bytes of shared memory");
      }
      chunks.push_back(address);
    }
  }
  return chunks;
}

void gather_operand(std::span<const std::byte> shared,
                    std::span<const std::uint32_t> chunks,
                    const product_shape& shape,
                    bool transposed,
                    std::uint32_t rows,
                    double* out) {
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const std::byte* const from = shared.data() + chunks[i];
    if (transposed) {
      gather_bf16(from, out + 8 * i, 1);
    } else if (shape.element == matrix_element::bf16) {
      gather_bf16(from, out + i % 2 * 8 * rows + i / 2, rows);
    } else {
      gather_e4m3(from, out + i % 2 * 16 * rows + i / 2, rows);
    }
  }
}

void gather_a_registers(const std::uint32_t* a, matrix_element element, double* out) {
  // A register has four bytes of a row: of row lane / 4 (registers 0 and 2) or eight below, and of
  // the first or, in registers 2 and 3, the second sixteen bytes.
  const std::uint32_t per_register = element == matrix_element::bf16 ? 2 : 4;
  for (std::uint32_t reg = 0; reg < 4; ++reg) {
    for (std::uint32_t lane = 0; lane < 32; ++lane) {
      const std::uint32_t bits = a[reg * 32 + lane];
      const std::uint32_t row = lane / 4 + reg % 2 * 8;
      const std::uint32_t column = (reg / 2 * 4 + lane % 4) * per_register;
      for (std::uint32_t i = 0; i < per_register; ++i) {
        out[(column + i) * 16 + row] = element == matrix_element::bf16
                                           ? from_bf16(bits >> (16 * i) & 0xFFFF)
                                           : e4m3_values()[(bits >> (8 * i)) & 0xFF];
      }
    }
  }
}

void multiply_warp(const product_shape& shape,
                   const double* a,
                   std::uint32_t a_rows,
                   const double* b,
                   bool accumulate,
                   std::uint32_t* d) {
  // Eight columns of all rows at a time: their accumulators are eight rows of lanes of four
  // registers.
  const std::size_t n = shape.n;
  const std::uint32_t k_end = shape.k();
  for (std::size_t first = 0; first < n; first += 8) {
    std::uint32_t* const registers = d + first / 8 * 4 * 32;
    for (std::uint32_t row = 0; row < 16; row += 2) {
      std::uint32_t* const upper = registers + (row / 8 * 2) * 32 + row % 8 * 4;
      double sums[2][8] = {};
      if (accumulate) {
        for (std::size_t i = 0; i < 8; ++i) {
          sums[0][i] = f32_value(upper[i % 2 * 32 + i / 2]);
          sums[1][i] = f32_value(upper[i % 2 * 32 + i / 2 + 4]);
        }
      }
      add_products(a + row, a_rows, b + first, n, k_end, sums);
      for (std::size_t i = 0; i < 8; ++i) {
        upper[i % 2 * 32 + i / 2] = rounded_to_f32(sums[0][i]);
        upper[i % 2 * 32 + i / 2 + 4] = rounded_to_f32(sums[1][i]);
      }
    }
  }
}

void multiply_m16n8k16(const lanes_b32 (&a)[4],
                       const lanes_b32 (&b)[2],
                       const lanes_b32 (&c)[4],
                       lanes_b32 (&d)[4]) {
  double a_values[16 * 16];
  double b_values[16 * 8];
  gather_a_registers(&a[0][0], matrix_element::bf16, a_values);
  for (std::uint32_t reg = 0; reg < 2; ++reg) {
    for (std::uint32_t lane = 0; lane < 32; ++lane) {
      const std::uint32_t k = reg * 8 + lane % 4 * 2;
      b_values[k * 8 + lane / 4] = from_bf16(b[reg][lane] & 0xFFFF);
      b_values[(k + 1) * 8 + lane / 4] = from_bf16(b[reg][lane] >> 16);
    }
  }
  std::uint32_t sums[4 * 32];
  std::memcpy(sums, c, sizeof(sums));
  multiply_warp({.n = 8, .element = matrix_element::bf16}, a_values, 16, b_values, true, sums);
  std::memcpy(d, sums, sizeof(sums));
}

void transpose_m8n8_b16(const lanes_b32& source, lanes_b32& destination) {
  std::uint32_t elements[8][8];
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    elements[lane / 4][lane % 4 * 2] = source[lane] & 0xFFFF;
    elements[lane / 4][lane % 4 * 2 + 1] = source[lane] >> 16;
  }
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    const std::uint32_t row = lane / 4;
    const std::uint32_t column = lane % 4 * 2;
    destination[lane] = elements[column][row] | elements[column + 1][row] << 16;
  }
}

}  // namespace oriel::ptx_machine
