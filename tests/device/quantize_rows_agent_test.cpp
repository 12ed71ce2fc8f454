// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The device's activation quantisation on the host, against the reference.
#include <cuda/detail/quantize_rows_agent.cuh>

#include <catch2/catch.hpp>
#include <device/stored_rows.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace quantize_rows_agent_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr std::uint32_t rows = 4;

/// Rows of numbers of very different sizes, a group of zeros, and what is no number.
template <class T>
std::vector<float> hard_rows(std::uint32_t columns, std::size_t stride, random_stream& random) {
  std::vector<float> x = exact_floats<T>(rows * stride, random);
  for (float& v : x) {
    v = std::ldexp(v, static_cast<int>(random.next_below(20)) - 10);
  }
  std::fill_n(x.data() + stride, std::min(columns, 130u), 0.0f);
  x[1 * stride] = 0x1p-130f;
  x[2 * stride + columns / 2] = std::numeric_limits<float>::quiet_NaN();
  x[3 * stride + columns - 1] = -std::numeric_limits<float>::infinity();
  return x;
}

template <class T, bool Whole>
void check(std::uint32_t columns, std::size_t stride, bool backwards) {
  random_stream random(columns, 60);
  const quantize_rows_shape shape{columns};
  const std::uint32_t groups = (columns + quantize_group - 1) / quantize_group;
  stored_rows<T> x(hard_rows<T>(columns, stride, random));
  std::vector<float> values = x.floats();
  workspace_bytes out_bytes(rows * stride), expected_bytes(rows * stride);
  auto* out = reinterpret_cast<e4m3*>(out_bytes.span().data());
  auto* expected = reinterpret_cast<e4m3*>(expected_bytes.span().data());
  std::vector<float> scales = poisoned_floats(groups * rows), expected_scales = scales;

  // The device's scales stand group by group, the reference's row by row.
  const basic_quantize_rows_args<T> args{
      {out, stride, scales.data(), 1, rows}, x.data(), stride, rows};
  using agent = detail::quantize_rows_agent<T, Whole>;
  REQUIRE((!Whole || agent::fits(shape, args)));
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::uint32_t block = 0; block * detail::quantize_columns_per_block < columns; ++block) {
      agent{shape, args}(detail::host_group<detail::quantize_threads>(backwards), row, block);
    }
  }
  reference::quantize_rows(
      shape, {{expected, stride, expected_scales.data(), groups, 1}, values.data(), stride, rows});
  INFO("columns " << columns << ", stride " << stride);
  REQUIRE(std::memcmp(out, expected, rows * stride) == 0);
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::uint32_t g = 0; g < groups; ++g) {
      REQUIRE(scales[g * rows + row] == expected_scales[row * groups + g]);
    }
  }
}

}  // namespace

TEST_CASE("the device quantises rows with the bits of the reference") {
  const bool backwards = GENERATE(false, true);
  for (const std::uint32_t columns : {8u, 128u, 136u, 2'048u, 4'096u, 6'144u}) {
    check<float, true>(columns, columns + 8, backwards);
    check<bf16, true>(columns, columns, backwards);
  }
  for (const std::uint32_t columns : {1u, 127u, 129u, 2'049u}) {
    check<float, false>(columns, columns, backwards);
    check<bf16, false>(columns, columns + 3, backwards);
  }
}

TEST_CASE("quantised rows are near the rows") {
  random_stream random(3, 61);
  constexpr std::uint32_t columns = 256;
  const std::vector<float> x = random_floats(columns, random, -30.0f, 30.0f);
  std::vector<e4m3> out(columns);
  float scales[2];
  reference::quantize_rows({columns}, {{out.data(), columns, scales, 2, 1}, x.data(), columns, 1});
  for (std::uint32_t i = 0; i < columns; ++i) {
    const float scale = scales[i / 128];
    // Half an ulp of 3 bits, or half of the least subnormal; and a little for the two products.
    const float bound = std::max(std::fabs(x[i]) * 0x1.01p-4f, scale * 0x1p-10f);
    REQUIRE(std::fabs(to_float(out[i]) * scale - x[i]) <= bound);
  }
  CHECK(cuda::plan_quantize_rows({1}));
  CHECK_FALSE(cuda::plan_quantize_rows({0}));
}

}  // namespace quantize_rows_agent_test
