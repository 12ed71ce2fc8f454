// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The grouped product's program on the host against the reference: copies, products, scales,
// epilogues, over shapes with edges everywhere.
#include <oriel/kernels/grouped_gemm.hpp>

#include <device/grouped_gemm_case.hpp>
#include <device/grouped_gemm_machine.hpp>
#include <support/scale.hpp>

#include <cmath>
#include <limits>

namespace grouped_gemm_agent_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr float untouched = 12345.0f;  // A number of bf16 is 12352.

/// The program's out; elements that no row owns keep what they had.
template <class Out>
std::vector<Out> run_case(const grouped_gemm_case& c,
                          std::size_t stride,
                          std::uint32_t multiprocessors,
                          Out before,
                          bool accumulate = false) {
  const auto plan = cuda::plan_grouped_gemm(
      c.shape, {.rows_max = std::max(c.rows, 1u), .multiprocessors = multiprocessors});
  REQUIRE(plan);
  const aligned_bytes packed = c.packed(*plan);
  std::vector<Out> out(std::size_t{c.rows + 1} * stride, before);
  auto args = c.args(out.data(), stride);
  args.weights = packed.data();
  args.accumulate = accumulate;
  run_grouped_gemm_on_host(*plan, args);
  return out;
}

std::vector<float> expected_of(const grouped_gemm_case& c,
                               std::size_t stride,
                               bool accumulate = false) {
  std::vector<float> out(std::size_t{c.rows + 1} * stride, untouched);
  auto args = c.args(out.data(), stride);
  args.accumulate = accumulate;
  reference::grouped_gemm(c.shape, args);
  return out;
}

}  // namespace

TEST_CASE("grouped products of small integers are exact, f32 and bf16, over random shapes") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 40)));
  if (is_left_out(seed, 40)) {
    return;
  }
  random_stream random(seed, 71);
  const grouped_gemm_shape shape{.groups = 1 + random.next_below(5),
                                 .n = 1 + random.next_below(random.next_below(2) ? 40 : 200),
                                 .k = 1 + random.next_below(random.next_below(3) == 0 ? 20 : 300),
                                 .weights = random.next_below(2) ? dtype::bf16 : dtype::e4m3};
  const grouped_gemm_case c(shape,
                            random_groups(shape.groups, 300, random),
                            random.next_below(2) != 0,
                            true,
                            random.next_below(2) != 0,
                            random);
  INFO("seed " << seed << ", groups " << shape.groups << ", n " << shape.n << ", k " << shape.k
               << ", " << name_of(shape.weights) << ", rows " << c.rows);
  const std::size_t stride = shape.n + random.next_below(4);
  const std::uint32_t multiprocessors = 1 + random.next_below(40);
  const auto expected = expected_of(c, stride);
  REQUIRE(run_case<float>(c, stride, multiprocessors, untouched) == expected);
  REQUIRE(run_case<float>(c, stride, multiprocessors, untouched, true) ==
          expected_of(c, stride, true));
  const auto in_bf16 = run_case<bf16>(c, stride, multiprocessors, to_bf16(untouched));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    REQUIRE(in_bf16[i] == to_bf16(expected[i]));
  }
}

TEST_CASE("grouped swiglu, f32 and bf16, over random shapes") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 24)));
  if (is_left_out(seed, 24)) {
    return;
  }
  random_stream random(seed, 72);
  const grouped_gemm_shape shape{.groups = 1 + random.next_below(4),
                                 .n = 1 + random.next_below(150),
                                 .k = 1 + random.next_below(200),
                                 .weights = random.next_below(2) ? dtype::bf16 : dtype::e4m3,
                                 .swiglu = true};
  const grouped_gemm_case c(shape,
                            random_groups(shape.groups, 150, random),
                            random.next_below(2) != 0,
                            true,
                            random.next_below(2) != 0,
                            random);
  INFO("seed " << seed << ", n " << shape.n << ", k " << shape.k << ", rows " << c.rows);
  const std::size_t stride = shape.n + random.next_below(4);
  const auto expected = expected_of(c, stride);
  const auto found = run_case<float>(c, stride, 7, untouched);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    REQUIRE(std::abs(found[i] - expected[i]) <= 4e-7f * std::abs(expected[i]) + 1e-30f);
  }
  // As bf16: what the two kernels one behind the other give.
  const std::vector<float> rounded = rounded_swiglu(c);
  const auto in_bf16 = run_case<bf16>(c, stride, 7, to_bf16(untouched));
  for (std::uint32_t r = 0; r < c.rows; ++r) {
    for (std::uint32_t n = 0; n < shape.n; ++n) {
      const float e = rounded[r * shape.n + n], f = to_float(in_bf16[r * stride + n]);
      REQUIRE(std::abs(f - e) <= rounded_swiglu_slack(e));
    }
    for (std::size_t n = shape.n; n < stride; ++n) {
      REQUIRE(in_bf16[r * stride + n] == to_bf16(untouched));
    }
  }
}

/// Gates far below zero, whose results are as small as 1e-27.
TEST_CASE("grouped swiglu of the device's cases, as bf16") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 16)));
  const grouped_gemm_case c = device_grouped_gemm_case(seed);
  if (!c.shape.swiglu || is_left_out(seed, 16)) {
    return;
  }
  INFO("seed " << seed << ", n " << c.shape.n << ", k " << c.shape.k << ", rows " << c.rows);
  const std::vector<float> expected = rounded_swiglu(c);
  const auto found = run_case<bf16>(c, c.shape.n, 132, to_bf16(untouched));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    REQUIRE(std::abs(to_float(found[i]) - expected[i]) <= rounded_swiglu_slack(expected[i]));
  }
}

/// The host's exp2 and division stand in for the hardware's, which are off by up to 2 and 1 ulp.
TEST_CASE("the epilogue's silu is near in f32, and under a rounding to bf16") {
  const auto exact = [](float x) { return double{x} / (1.0 + std::exp(-double{x})); };
  for (float x = -100.0f; x <= 100.0f; x += 0.0371f) {
    const double e = exact(x);
    INFO("x " << x);
    REQUIRE(std::abs(double{detail::near_silu(x)} - e) <= 4e-7 * std::abs(e) + 1e-35);
    const auto near = detail::nearly_silu(x);
    REQUIRE(std::abs(double{near} - e) <= 4e-6 * std::abs(e) + 1e-35);
    // A rounding to bf16 is half an ulp, 2^-9 of a number just above a power of 2.
    REQUIRE(std::abs(double{round_to_bf16(near)} - e) <= (0x1p-8 + 4e-6) * std::abs(e) + 1e-35);
  }
  constexpr float inf = std::numeric_limits<float>::infinity();
  for (const auto silu : {detail::near_silu, detail::nearly_silu}) {
    CHECK(silu(0.0f) == 0.0f);
    CHECK(silu(1e-40f) == 0.5f * 1e-40f);
    CHECK(silu(1e38f) == 1e38f);
    CHECK(silu(inf) == inf);
    CHECK(silu(-1e38f) == 0.0f);
    CHECK(std::isnan(silu(std::numeric_limits<float>::quiet_NaN())));
  }
}

TEST_CASE("rows that do not lie where words do have the same bits") {
  const bool swiglu = GENERATE(false, true);
  random_stream random(76, 76);
  const grouped_gemm_shape shape{
      .groups = 1, .n = 136, .k = 64, .weights = dtype::bf16, .swiglu = swiglu};
  const grouped_gemm_case c(shape, {70}, false, true, false, random);
  const std::uint32_t n = shape.n;
  const auto words = run_case<bf16>(c, n, 3, to_bf16(untouched));
  for (const std::size_t stride : {n + 1, n + 2, n + 4}) {
    const auto found = run_case<bf16>(c, stride, 3, to_bf16(untouched));
    for (std::uint32_t r = 0; r < c.rows; ++r) {
      for (std::size_t i = 0; i < stride; ++i) {
        REQUIRE(found[r * stride + i] == (i < n ? words[r * n + i] : to_bf16(untouched)));
      }
    }
  }
  const auto plan = *cuda::plan_grouped_gemm(shape, {c.rows, 3});
  std::vector<bf16> out(std::size_t{c.rows} * n + 1);
  CHECK(detail::make_grouped_gemm_call(plan, c.args(out.data(), n)).out_is_whole);
  CHECK(!detail::make_grouped_gemm_call(plan, c.args(out.data() + 1, n)).out_is_whole);
}

TEST_CASE("wide items of grouped products leave under the products of the next one") {
  const dtype type = GENERATE(dtype::bf16, dtype::e4m3);
  const bool swiglu = GENERATE(false, true);
  const grouped_gemm_case c = wide_grouped_gemm_case(type, swiglu, GENERATE(2u, 8u, 17u));
  const std::size_t n = c.shape.n;
  const std::vector<float> expected = swiglu ? rounded_swiglu(c) : expected_of(c, n);
  for (const std::uint32_t blocks : {1u, 3u}) {
    const auto found = run_case<bf16>(c, n, blocks, to_bf16(untouched));
    for (std::size_t i = 0; i < c.rows * n; ++i) {
      const float e = swiglu ? expected[i] : round_to_bf16(expected[i]);
      REQUIRE(std::abs(to_float(found[i]) - e) <= (swiglu ? rounded_swiglu_slack(e) : 0.0f));
    }
    for (std::size_t i = c.rows * n; i < found.size(); ++i) {
      REQUIRE(found[i] == to_bf16(untouched));
    }
  }
}

TEST_CASE("grouped products of random numbers are near the reference") {
  const dtype type = GENERATE(dtype::bf16, dtype::e4m3);
  random_stream random(static_cast<std::uint64_t>(type), 73);
  const grouped_gemm_shape shape{.groups = 3, .n = 72, .k = 1000, .weights = type};
  const grouped_gemm_case c(shape, {0, 37, 1}, true, false, false, random);
  const auto expected = expected_of(c, shape.n);
  const auto found = run_case<float>(c, shape.n, 3, untouched);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    REQUIRE(std::abs(found[i] - expected[i]) <= 3e-4f);  // 1,000 terms up to 4.
  }
}

TEST_CASE("a fused QKV with ragged shards of scales: 3,392 rows each") {
  random_stream random(74, 74);
  const grouped_gemm_shape shape{.groups = 1, .n = 2 * 3392, .k = 130, .weights = dtype::e4m3};
  grouped_gemm_case c(shape, {5}, false, true, false, random);
  c.scale_rows.resize(shape.n);
  fill_sharded_scale_rows(2, 3392, c.scale_rows.data());
  REQUIRE(c.scale_rows[3391] == 26);
  REQUIRE(c.scale_rows[3392] == 27);
  REQUIRE(c.scale_rows.back() == 53);
  c.weight_scales.resize(54 * c.scale_stride);
  for (float& s : c.weight_scales) {
    s = static_cast<float>(1u << random.next_below(4));
  }
  CHECK(run_case<float>(c, shape.n, 132, untouched) == expected_of(c, shape.n));
}

TEST_CASE("a row's bits do not depend on companions, groups, tiles or the device") {
  const dtype type = GENERATE(dtype::bf16, dtype::e4m3);
  random_stream random(static_cast<std::uint64_t>(type), 75);
  const grouped_gemm_shape shape{.groups = 1, .n = 40, .k = 520, .weights = type};
  grouped_gemm_case all(shape, {300}, false, false, false, random);
  const auto many = run_case<float>(all, shape.n, 1, untouched);
  CHECK(run_case<float>(all, shape.n, 132, untouched) == many);
  for (const std::uint32_t row : {0u, 17u, 299u}) {
    grouped_gemm_case one = all;
    one.row_index = {row};
    one.rows = one.offsets.back() = 1;
    const auto alone = run_case<float>(one, shape.n, 132, untouched);
    for (std::uint32_t n = 0; n < shape.n; ++n) {
      REQUIRE(alone[n] == many[row * shape.n + n]);
    }
  }
}

TEST_CASE("packed weights: each row where it belongs, padding is zero") {
  const bool swiglu = GENERATE(false, true);
  for (const std::uint32_t n : {1u, 8u, 13u, 64u, 129u, 200u}) {
    const grouped_gemm_shape shape{1, n, 24, dtype::bf16, swiglu};
    std::vector<int> found(shape.weight_rows());
    const std::uint32_t padded = (swiglu ? (n + 7) / 8 * 16 : n) + 127;
    for (std::uint32_t packed = 0; packed < padded / 128 * 128; ++packed) {
      const std::uint32_t row = detail::weight_row_of_packed(shape, packed);
      if (row != detail::no_row) {
        ++found.at(row);
      }
    }
    CHECK(std::count(found.begin(), found.end(), 1) == static_cast<long>(found.size()));
  }
}

}  // namespace grouped_gemm_agent_test
