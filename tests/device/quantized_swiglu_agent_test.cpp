// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The device's SwiGLU to e4m3 on the host, against SwiGLU and quantisation one after the other.
#include <cuda/detail/quantized_swiglu_agent.cuh>

#include <catch2/catch.hpp>
#include <device/stored_rows.hpp>

#include <algorithm>
#include <limits>

namespace quantized_swiglu_agent_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr std::uint32_t rows = 3;

template <bool Whole>
void check(std::uint32_t inter, std::size_t stride, bool backwards) {
  random_stream random(inter, 62);
  const std::size_t in_stride = 2 * inter + (Whole ? 8 : 1);
  std::vector<float> x = exact_floats<bf16>(rows * in_stride, random);
  std::fill_n(x.data(), std::min(inter, 130u), 0.0f);  // A group of zeros.
  x[in_stride + inter / 2] = std::numeric_limits<float>::quiet_NaN();
  x[2 * in_stride] *= 0x1p20f;
  stored_rows<bf16> gate_up(x), act(rows * inter);
  const swiglu_shape shape{inter, dtype::bf16};
  detail::run_on_host(
      detail::swiglu_agent<bf16, 1>{shape, {act.data(), inter, gate_up.data(), in_stride, rows}});

  const std::size_t groups = (inter - 1) / quantize_group + 1;
  workspace_bytes values(rows * stride), expected_values(rows * stride);
  std::vector<float> scales = poisoned_floats(groups * (rows + 1)), expected_scales = scales;
  const auto rows_in = [&](workspace_bytes& to, std::vector<float>& of) {
    return quantized_rows{
        reinterpret_cast<e4m3*>(to.span().data()), stride, of.data(), 1, rows + 1};
  };
  const std::vector<float> rounded = act.floats();
  reference::quantize_rows(
      {inter}, {rows_in(expected_values, expected_scales), rounded.data(), inter, rows});
  const quantized_swiglu_args args{rows_in(values, scales), gate_up.data(), in_stride, rows};
  using agent = detail::quantized_swiglu_agent<Whole>;
  REQUIRE((!Whole || agent::fits(shape, args)));
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::uint32_t block = 0; block * detail::quantize_columns_per_block < inter; ++block) {
      agent{shape, args}(detail::host_group<detail::quantize_threads>(backwards), row, block);
    }
  }
  INFO("inter " << inter << ", backwards " << backwards);
  REQUIRE(std::memcmp(values.span().data(), expected_values.span().data(), rows * stride) == 0);
  REQUIRE(same_bits(scales, expected_scales));
}

}  // namespace

TEST_CASE("the device's SwiGLU writes e4m3 with the bits of quantisation behind it") {
  const bool backwards = GENERATE(false, true);
  for (const std::uint32_t inter : {8u, 128u, 136u, 2'048u, 4'104u}) {
    check<true>(inter, inter + 8, backwards);
  }
  for (const std::uint32_t inter : {1u, 127u, 128u, 129u, 2'049u}) {
    check<false>(inter, inter + 3, backwards);
  }
}

TEST_CASE("gates that are not aligned are not read in vectors") {
  constexpr std::uint32_t inter = 64;
  stored_rows<bf16> gate_up(3 * inter);
  workspace_bytes values(2 * inter);
  auto* const to = reinterpret_cast<e4m3*>(values.span().data());
  const auto fits = [](const quantized_swiglu_args& args, std::uint32_t width) {
    return detail::quantized_swiglu_agent<true>::fits({width, dtype::bf16}, args);
  };
  CHECK(fits({{.values = to, .stride = inter}, gate_up.data(), 2 * inter, 1}, inter));
  CHECK_FALSE(fits({{.values = to + 4, .stride = inter}, gate_up.data(), 2 * inter, 1}, inter));
  CHECK_FALSE(fits({{.values = to, .stride = inter}, gate_up.data() + 4, 2 * inter, 1}, inter));
  CHECK_FALSE(fits({{.values = to, .stride = inter}, gate_up.data(), 2 * inter, 1}, 60));
}

}  // namespace quantized_swiglu_agent_test
