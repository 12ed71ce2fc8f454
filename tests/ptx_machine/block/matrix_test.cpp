// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "matrix.hpp"

#include <catch2/catch.hpp>
#include <ptx_machine/program/program.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace oriel::ptx_machine {
namespace {

/// bf16 and e4m3 of small integers: both hold -16..16 exactly.
std::uint16_t bf16_of(int value) {
  const auto number = static_cast<float>(value);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &number, sizeof(bits));
  return static_cast<std::uint16_t>(bits >> 16);
}

std::uint8_t e4m3_of(int value) {
  for (std::uint32_t bits = 0; bits < 256; ++bits) {
    if (e4m3_value(static_cast<std::uint8_t>(bits)) == value) {
      return static_cast<std::uint8_t>(bits);
    }
  }
  FAIL("no e4m3 of " << value);
  return 0;
}

std::uint32_t f32_bits(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

using integers = std::vector<std::vector<int>>;

integers random_integers(std::mt19937& random, std::size_t rows, std::size_t columns) {
  std::uniform_int_distribution<int> any(-8, 8);
  integers m(rows, std::vector<int>(columns));
  for (auto& row : m) {
    for (int& value : row) {
      value = any(random);
    }
  }
  return m;
}

struct layout {
  std::uint32_t swizzle_bytes;
  std::uint32_t start;
  std::uint32_t leading, stride;
};

std::uint64_t descriptor_of(const layout& l, std::uint32_t base_offset = 0) {
  const std::uint64_t mode = l.swizzle_bytes == 128  ? 1
                             : l.swizzle_bytes == 64 ? 2
                             : l.swizzle_bytes == 32 ? 3
                                                     : 0;
  return (l.start >> 4) | std::uint64_t{l.leading >> 4} << 16 | std::uint64_t{l.stride >> 4} << 32 |
         std::uint64_t{base_offset} << 49 | mode << 62;
}

/// Swizzle<b, 4, 3> of an address: bits 7.. are added to bits 4.. .
std::uint32_t swizzled(std::uint32_t address, std::uint32_t swizzle_bytes) {
  const std::uint32_t bits = swizzle_bytes == 128  ? 7
                             : swizzle_bytes == 64 ? 3
                             : swizzle_bytes == 32 ? 1
                                                   : 0;
  return address ^ ((address >> 7 & bits) << 4);
}

/// The canonical layouts of the ISA, element by element; `element_bytes` of an element (mn, k).
std::uint32_t canonical_byte(const layout& l,
                             bool transposed,
                             std::uint32_t mn,
                             std::uint32_t k,
                             std::uint32_t element_bytes) {
  const std::uint32_t t = 16 / element_bytes;
  const std::uint32_t w = l.swizzle_bytes == 0 ? 1 : l.swizzle_bytes / 16;
  std::uint32_t offset = 0;
  if (!transposed) {  // ((8, m), (T, 2)) : ((w T, SBO), (1, LBO or T))
    offset = mn % 8 * w * 16 + mn / 8 * l.stride + k % t * element_bytes +
             k / t * (l.swizzle_bytes == 0 ? l.leading : 16);
  } else {  // ((T, w, m), (8, k)) : ((1, T, LBO), (w T, SBO)); without a swizzle the other way
    const std::uint32_t m_stride = l.swizzle_bytes == 0 ? l.stride : l.leading;
    const std::uint32_t k_stride = l.swizzle_bytes == 0 ? l.leading : l.stride;
    offset = mn % t * element_bytes + mn / t % w * 16 + mn / (t * w) * m_stride + k % 8 * w * 16 +
             k / 8 * k_stride;
  }
  return swizzled(l.start + offset, l.swizzle_bytes);
}

void put(std::vector<std::byte>& shared, std::uint32_t byte, matrix_element element, int value) {
  if (element == matrix_element::bf16) {
    const std::uint16_t bits = bf16_of(value);
    std::memcpy(shared.data() + byte, &bits, 2);
  } else {
    const std::uint8_t bits = e4m3_of(value);
    std::memcpy(shared.data() + byte, &bits, 1);
  }
}

std::uint32_t element_bytes(matrix_element e) {
  return e == matrix_element::bf16 ? 2 : 1;
}

/// An operand, stored and gathered again.
std::vector<double> there_and_back(const integers& m,
                                   const layout& l,
                                   const product_shape& shape,
                                   bool transposed) {
  std::vector<std::byte> shared(65536, std::byte{0xFF});
  for (std::uint32_t row = 0; row < m.size(); ++row) {
    for (std::uint32_t k = 0; k < shape.k(); ++k) {
      put(shared,
          canonical_byte(l, transposed, row, k, element_bytes(shape.element)),
          shape.element,
          m[row][k]);
    }
  }
  const auto rows = static_cast<std::uint32_t>(m.size());
  std::vector<double> out(m.size() * shape.k());
  const auto chunks = operand_chunks(shared.size(), descriptor_of(l), shape, transposed, rows);
  gather_operand(shared, chunks, shape, transposed, rows, out.data());
  return out;
}

void check_same(const std::vector<double>& got, const integers& m, std::uint32_t k_end) {
  for (std::size_t row = 0; row < m.size(); ++row) {
    for (std::size_t k = 0; k < k_end; ++k) {
      REQUIRE(got[k * m.size() + row] == m[row][k]);
    }
  }
}

TEST_CASE("an operand along K is found in each swizzle mode") {
  std::mt19937 random(1);
  for (const matrix_element element : {matrix_element::bf16, matrix_element::e4m3}) {
    for (const std::uint32_t rows : {8U, 64U, 72U, 256U}) {
      const product_shape shape{.n = rows, .element = element};
      const integers m = random_integers(random, rows, shape.k());
      check_same(
          there_and_back(
              m, {.swizzle_bytes = 0, .start = 48, .leading = 128, .stride = 256}, shape, false),
          m,
          shape.k());
      check_same(
          there_and_back(
              m, {.swizzle_bytes = 0, .start = 0, .leading = 4112, .stride = 128}, shape, false),
          m,
          shape.k());
      for (const std::uint32_t swizzle : {32U, 64U, 128U}) {
        for (std::uint32_t along = 0; along < swizzle; along += 32) {
          for (const std::uint32_t apart : {1U, 3U}) {
            if (rows * swizzle * apart < 60000) {
              const layout l{swizzle, 1024 + along, 16, 8 * swizzle * apart};
              check_same(there_and_back(m, l, shape, false), m, shape.k());
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a transposed operand is found in each swizzle mode") {
  std::mt19937 random(2);
  for (const std::uint32_t rows : {64U, 128U, 256U}) {
    const product_shape shape{.n = rows, .b_transposed = true};
    const integers m = random_integers(random, rows, 16);
    check_same(
        there_and_back(
            m, {.swizzle_bytes = 0, .start = 32, .leading = 128, .stride = 256}, shape, true),
        m,
        16);
    for (const std::uint32_t swizzle : {32U, 64U, 128U}) {
      check_same(there_and_back(m, {swizzle, 2048, 16 * swizzle, 8 * swizzle}, shape, true), m, 16);
      check_same(
          there_and_back(m, {swizzle, 2048, 8 * swizzle, rows * 16 + 1024}, shape, true), m, 16);
    }
  }
}

TEST_CASE("the bytes of a swizzled row of eight chunks, as the ISA draws them") {
  // Row r of the 128-byte pattern holds chunk c in place c ^ r.
  const matrix_descriptor d = decode_matrix_descriptor(descriptor_of({128, 1024, 16, 1024}));
  CHECK(matrix_chunk_address(d, false, 0, 1) == 1024 + 16);
  CHECK(matrix_chunk_address(d, false, 1, 0) == 1024 + 128 + 16);
  CHECK(matrix_chunk_address(d, false, 1, 1) == 1024 + 128);
  CHECK(matrix_chunk_address(d, false, 7, 0) == 1024 + 7 * 128 + 7 * 16);
  CHECK(matrix_chunk_address(d, false, 8, 0) == 2048);
  // 64 bytes: two rows in a line of 128, chunk c of lines l in place c ^ l.
  const matrix_descriptor e = decode_matrix_descriptor(descriptor_of({64, 512, 16, 512}));
  CHECK(matrix_chunk_address(e, false, 1, 0) == 512 + 64);
  CHECK(matrix_chunk_address(e, false, 2, 0) == 512 + 128 + 16);
  CHECK(matrix_chunk_address(e, false, 7, 0) == 512 + 3 * 128 + 64 + 48);
  // 32 bytes: four rows in a line.
  const matrix_descriptor f = decode_matrix_descriptor(descriptor_of({32, 256, 16, 256}));
  CHECK(matrix_chunk_address(f, false, 3, 0) == 256 + 96);
  CHECK(matrix_chunk_address(f, false, 4, 0) == 256 + 128 + 16);
  CHECK(matrix_chunk_address(f, false, 4, 1) == 256 + 128);
}

TEST_CASE("a base offset says where the pattern begins") {
  const matrix_descriptor d =
      decode_matrix_descriptor(descriptor_of({128, 1024 + 256, 16, 1024}, 2));
  CHECK(matrix_chunk_address(d, false, 0, 0) == 1024 + 256);
  CHECK(matrix_chunk_address(d, false, 1, 0) == 1024 + 384 + 16);
  const product_shape shape{.n = 8};
  CHECK_NOTHROW(
      operand_chunks(65536, descriptor_of({128, 1024 + 256, 16, 1024}, 2), shape, false, 8));
}

TEST_CASE("descriptors that nothing can mean are refused") {
  const product_shape shape{.n = 64};
  const auto chunks = [&](std::uint64_t bits) {
    return operand_chunks(16384, bits, shape, false, 64);
  };
  const std::uint64_t good = descriptor_of({128, 1024, 16, 1024});
  CHECK_NOTHROW(chunks(good));
  for (const int bit : {14, 15, 30, 31, 46, 47, 48, 52, 61}) {
    CHECK_THROWS_AS(chunks(good | std::uint64_t{1} << bit), machine_error);
  }
  CHECK_THROWS_AS(chunks(descriptor_of({0, 0, 128, 256}, 1)),
                  machine_error);  // base offset, no swizzle
  CHECK_THROWS_AS(chunks(descriptor_of({128, 1024 + 128, 16, 1024})),
                  machine_error);  // in the pattern's middle
  CHECK_THROWS_AS(chunks(descriptor_of({64, 512 + 64, 16, 512})), machine_error);
  CHECK_THROWS_AS(chunks(descriptor_of({128, 1024 + 112, 16, 1024})),
                  machine_error);  // over the row's end
  CHECK_THROWS_AS(chunks(descriptor_of({128, 1024, 16, 512})), machine_error);  // the stride
  // Transposed, 128 rows are two atoms, that the leading offset is between.
  CHECK_NOTHROW(operand_chunks(16384, descriptor_of({128, 1024, 2048, 1024}), shape, true, 128));
  CHECK_THROWS_AS(operand_chunks(16384, descriptor_of({128, 1024, 512, 1024}), shape, true, 128),
                  machine_error);
  CHECK_THROWS_AS(chunks(descriptor_of({128, 9216, 16, 1024})),
                  machine_error);  // outside
  CHECK_NOTHROW(chunks(descriptor_of({128, 8192, 16, 1024})));
}

TEST_CASE("e4m3 and bf16 are what their formats say") {
  CHECK(e4m3_value(0x00) == 0.0);
  CHECK(e4m3_value(0x01) == std::ldexp(1.0, -9));
  CHECK(e4m3_value(0x08) == std::ldexp(1.0, -6));
  CHECK(e4m3_value(0x38) == 1.0);
  CHECK(e4m3_value(0x7E) == 448.0);
  CHECK(e4m3_value(0xBC) == -1.5);
  CHECK(std::isnan(e4m3_value(0x7F)));
  CHECK(std::isnan(e4m3_value(0xFF)));
  CHECK(bf16_value(0x3F80) == 1.0);
  CHECK(bf16_value(0xC040) == -3.0);
}

/// A of m64, rows of a warp from registers as the ISA's figure of fragment A has them.
std::vector<std::uint32_t> a_fragment(const integers& a,
                                      std::uint32_t first_row,
                                      matrix_element element) {
  std::vector<std::uint32_t> registers(4 * 32);
  const std::uint32_t count = element == matrix_element::bf16 ? 8 : 16;
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    const std::uint32_t group = lane >> 2;
    const std::uint32_t in_group = lane % 4;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t quarter = count / 4;
      const bool upper = i < quarter || (i >= 2 * quarter && i < 3 * quarter);
      const std::uint32_t row = first_row + (upper ? group : group + 8);
      const std::uint32_t column =
          in_group * quarter + i % quarter + (i < 2 * quarter ? 0 : 4 * quarter);
      const std::uint32_t bits =
          element == matrix_element::bf16 ? bf16_of(a[row][column]) : e4m3_of(a[row][column]);
      registers[i / quarter * 32 + lane] |= bits << (i % quarter * (32 / quarter));
    }
  }
  return registers;
}

TEST_CASE("a product is the sum of its elements' products, in the fragments of the ISA") {
  std::mt19937 random(3);
  for (const matrix_element element : {matrix_element::bf16, matrix_element::e4m3}) {
    for (const std::uint32_t n : {8U, 40U, 256U}) {
      const product_shape shape{.n = n, .element = element};
      const integers a = random_integers(random, 64, shape.k());
      const integers b = random_integers(random, n, shape.k());
      const integers c = random_integers(random, 64, n);
      const auto a_values = there_and_back(a, {128, 1024, 16, 1024}, shape, false);
      const auto b_values = there_and_back(b, {128, 1024, 16, 1024}, shape, false);
      for (const bool accumulate : {false, true}) {
        for (std::uint32_t warp = 0; warp < 4; ++warp) {
          std::vector<std::uint32_t> d(n / 2 * 32);
          const auto row_of = [&](std::size_t i, std::uint32_t lane) {
            return 16 * warp + (lane >> 2) + (i % 4 < 2 ? 0 : 8);
          };
          const auto column_of = [](std::size_t i, std::uint32_t lane) {
            return 8 * (i / 4) + lane % 4 * 2 + i % 2;
          };
          for (std::size_t i = 0; i < n / 2; ++i) {
            for (std::uint32_t lane = 0; lane < 32; ++lane) {
              d[i * 32 + lane] =
                  f32_bits(static_cast<float>(c[row_of(i, lane)][column_of(i, lane)]));
            }
          }
          auto from_registers = d;
          multiply_warp(
              shape, a_values.data() + 16 * warp, 64, b_values.data(), accumulate, d.data());
          std::vector<double> a_rows(16 * shape.k());
          gather_a_registers(a_fragment(a, 16 * warp, element).data(), element, a_rows.data());
          multiply_warp(
              shape, a_rows.data(), 16, b_values.data(), accumulate, from_registers.data());
          for (std::size_t i = 0; i < n / 2; ++i) {
            for (std::uint32_t lane = 0; lane < 32; ++lane) {
              int sum = accumulate ? c[row_of(i, lane)][column_of(i, lane)] : 0;
              for (std::uint32_t k = 0; k < shape.k(); ++k) {
                sum += a[row_of(i, lane)][k] * b[column_of(i, lane)][k];
              }
              REQUIRE(d[i * 32 + lane] == f32_bits(static_cast<float>(sum)));
              REQUIRE(from_registers[i * 32 + lane] == d[i * 32 + lane]);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a sum is rounded once, and is the same whatever the other columns hold") {
  const product_shape shape{.n = 16};
  std::vector<double> a(16 * 16, 0.0);
  std::vector<double> b(16 * 16, 0.0);
  // Row 0: 2^24 + 1 - 2^24. In f32 one by one that would be 0.
  a[0] = 0x1p12;
  a[16] = 1.0;
  a[32] = -0x1p12;
  for (std::size_t column = 0; column < 16; ++column) {
    b[column] = 0x1p12;
    b[16 + column] = 1.0;
    b[32 + column] = 0x1p12;
  }
  b[16 + 3] = std::nan("");
  std::vector<std::uint32_t> d(8 * 32);
  multiply_warp(shape, a.data(), 16, b.data(), false, d.data());
  CHECK(d[0] == f32_bits(1.0F));
  CHECK(d[32 + 1] == 0x7FFFFFFF);  // row 0, column 3
  CHECK(d[4 * 32] == f32_bits(1.0F));
}

TEST_CASE("mma.sync of m16n8k16 is the sum of products in the ISA's fragments") {
  std::mt19937 random(4);
  const integers a = random_integers(random, 16, 16);
  const integers b = random_integers(random, 16, 8);  // [k, n]
  const integers c = random_integers(random, 16, 8);
  lanes_b32 a_registers[4];
  lanes_b32 b_registers[2];
  lanes_b32 c_registers[4];
  lanes_b32 d[4];
  std::memcpy(a_registers, a_fragment(a, 0, matrix_element::bf16).data(), sizeof(a_registers));
  const auto row_of = [](std::uint32_t i, std::uint32_t lane) {
    return lane / 4 + (i < 2 ? 0 : 8);
  };
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    for (std::uint32_t i = 0; i < 4; i += 2) {
      const std::uint32_t k = lane % 4 * 2 + (i < 2 ? 0 : 8);
      b_registers[i / 2][lane] =
          std::uint32_t{bf16_of(b[k][lane / 4])} | std::uint32_t{bf16_of(b[k + 1][lane / 4])} << 16;
    }
    for (std::uint32_t i = 0; i < 4; ++i) {
      c_registers[i][lane] = f32_bits(static_cast<float>(c[row_of(i, lane)][lane % 4 * 2 + i % 2]));
    }
  }
  multiply_m16n8k16(a_registers, b_registers, c_registers, d);
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    for (std::uint32_t i = 0; i < 4; ++i) {
      const std::uint32_t row = row_of(i, lane);
      const std::uint32_t column = lane % 4 * 2 + i % 2;
      int sum = c[row][column];
      for (std::size_t k = 0; k < 16; ++k) {
        sum += a[row][k] * b[k][column];
      }
      REQUIRE(d[i][lane] == f32_bits(static_cast<float>(sum)));
    }
  }
}

TEST_CASE("movmatrix transposes") {
  lanes_b32 source;
  lanes_b32 destination;
  const auto element = [](std::uint32_t row, std::uint32_t column) {
    return 100 * row + column + 1;
  };
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    source[lane] = element(lane / 4, lane % 4 * 2) | element(lane / 4, lane % 4 * 2 + 1) << 16;
  }
  transpose_m8n8_b16(source, destination);
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    CHECK(destination[lane] ==
          (element(lane % 4 * 2, lane / 4) | element(lane % 4 * 2 + 1, lane / 4) << 16));
  }
}

}  // namespace
}  // namespace oriel::ptx_machine
