// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The device kernel's blocks on the host.
#include <oriel/core/executor.hpp>
#include <oriel/kernels/rms_norm.hpp>

#include <cuda/detail/rms_norm_agent.cuh>

#include <catch2/catch.hpp>
#include <device/stored_rows.hpp>
#include <support/norm_forms.hpp>

namespace rms_norm_agent_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr std::uint32_t rows = 3;

template <class T, std::uint32_t N>
void run_rows(const rms_norm_shape& shape, const basic_rms_norm_args<T>& args, bool backwards) {
  const auto plan = cuda::plan_rms_norm(shape);
  REQUIRE(plan);
  REQUIRE((N == 1 || detail::rms_norm_agent<T, N>::fits(shape, args)));
  for (std::uint32_t row = 0; row < args.rows; ++row) {
    workspace_bytes shared(plan->shared_bytes);
    const detail::rms_norm_agent<T, N> agent{shape, args};
    agent(detail::host_group<detail::rms_norm_threads>(backwards),
          row,
          reinterpret_cast<float*>(shared.span().data()));
  }
}

template <class T, std::uint32_t N>
void check(std::uint32_t width, std::size_t stride, dtype activation, bool with_add) {
  random_stream random(width, 33);
  const std::vector<float> x = exact_floats<T>(rows * stride, random);
  const std::vector<float> add = exact_floats<T>(rows * stride, random);
  stored_rows<float> weight(random_floats(width, random));
  stored_rows<T> stored_x(x), stored_add(add), out(rows * stride), sum(rows * stride);
  std::vector<float> expected_out = out.floats(), expected_sum = sum.floats();
  const rms_norm_shape shape{width, 1e-5f, activation};
  serial_executor serial;
  host::run_rms_norm(*host::plan_rms_norm(shape),
                     {.out = expected_out.data(),
                      .out_stride = stride,
                      .x = x.data(),
                      .x_stride = stride,
                      .weight = weight.data(),
                      .rows = rows,
                      .add = with_add ? add.data() : nullptr,
                      .sum = with_add ? expected_sum.data() : nullptr},
                     serial);
  for (const bool backwards : {false, true}) {
    run_rows<T, N>(shape,
                   {.out = out.data(),
                    .out_stride = stride,
                    .x = stored_x.data(),
                    .x_stride = stride,
                    .weight = weight.data(),
                    .rows = rows,
                    .add = with_add ? stored_add.data() : nullptr,
                    .sum = with_add ? sum.data() : nullptr},
                   backwards);
    INFO("width " << width << ", add " << with_add << ", backwards " << backwards);
    REQUIRE(same_bits(out.floats(), expected_out));
    REQUIRE(same_bits(sum.floats(), expected_sum));
  }
}

}  // namespace

TEST_CASE("the device's RMSNorm has the bits of the host's") {
  const bool with_add = GENERATE(false, true);
  for (const dtype activation : {dtype::f32, dtype::bf16}) {
    for (const std::uint32_t width : {8u, 64u, 200u, 4'096u, 6'144u}) {
      check<float, 8>(width, width + 8, activation, with_add);
    }
    for (const std::uint32_t width : {1u, 16u, 63u, 64u, 65u, 200u}) {
      check<float, 1>(width, width, activation, with_add);
    }
  }
  check<bf16, 8>(4'096, 4'096, dtype::bf16, with_add);
  check<bf16, 8>(72, 80, dtype::bf16, with_add);
  check<bf16, 1>(65, 66, dtype::bf16, with_add);
}

namespace {

/// Any forms at once, against the agent's own rows and the reference's kernel behind them.
template <class T, std::uint32_t N>
void check_forms(std::uint32_t width, std::size_t stride, dtype activation, bool with_add) {
  random_stream random(width, 35);
  std::vector<float> x = exact_floats<T>(rows * stride, random);
  x[width / 2] *= 0x1p20f;  // One group of a row has quite another scale.
  stored_rows<float> weight(random_floats(width, random));
  stored_rows<T> stored_x(x), add(exact_floats<T>(rows * stride, random)), sum(rows * stride),
      plain(rows * stride);
  const rms_norm_shape shape{width, 1e-5f, activation};
  const basic_rms_norm_args<T> args{.out = plain.data(),
                                    .out_stride = stride,
                                    .x = stored_x.data(),
                                    .x_stride = stride,
                                    .weight = weight.data(),
                                    .rows = rows,
                                    .add = with_add ? add.data() : nullptr,
                                    .sum = with_add ? sum.data() : nullptr};
  run_rows<T, N>(shape, args, false);
  for (unsigned forms = plain_rows; forms <= all_rows; ++forms) {
    for (const bool backwards : {false, true}) {
      norm_forms<T> expected(rows, width, stride), found(rows, width, stride);
      expected.make(plain.floats(), forms);
      basic_rms_norm_args<T> asked = args;
      found.ask(asked, forms);
      run_rows<T, N>(shape, asked, backwards);
      INFO("width " << width << ", add " << with_add << ", forms " << forms);
      REQUIRE(found.has_bits_of(expected));
    }
  }
}

}  // namespace

TEST_CASE("the device's RMSNorm writes operands with the bits of a kernel behind it") {
  const bool with_add = GENERATE(false, true);
  for (const dtype activation : {dtype::f32, dtype::bf16}) {
    for (const std::uint32_t width : {8u, 128u, 200u, 2'056u, 6'144u}) {
      check_forms<float, 8>(width, width + 8, activation, with_add);
    }
    for (const std::uint32_t width : {1u, 127u, 128u, 131u, 2'049u}) {
      check_forms<float, 1>(width, width + 3, activation, with_add);
    }
  }
  check_forms<bf16, 8>(264, 264, dtype::bf16, with_add);
  check_forms<bf16, 1>(131, 133, dtype::bf16, with_add);
}

TEST_CASE("a norm whose operand is not aligned for vectors is written element by element") {
  constexpr std::uint32_t width = 64;
  stored_rows<float> x(width), weight(width);
  stored_rows<bf16> out(2 * width);
  const auto fits = [&](std::size_t first, std::size_t stride) {
    const rms_norm_args args{.out = nullptr,
                             .out_stride = 0,
                             .x = x.data(),
                             .x_stride = width,
                             .weight = weight.data(),
                             .rows = 1,
                             .rounded = out.data() + first,
                             .rounded_stride = stride};
    return detail::rms_norm_agent<float, 8>::fits({width, 1e-5f, dtype::bf16}, args);
  };
  CHECK(fits(0, width));
  CHECK(fits(8, width));
  CHECK_FALSE(fits(4, width));
  CHECK_FALSE(fits(0, width + 4));
  const auto fits_e4m3 = [&](std::size_t first, std::size_t stride) {
    rms_norm_args args{.out = nullptr,
                       .out_stride = 0,
                       .x = x.data(),
                       .x_stride = width,
                       .weight = weight.data(),
                       .rows = 1};
    args.quantized = {.values = reinterpret_cast<e4m3*>(out.data()) + first, .stride = stride};
    return detail::rms_norm_agent<float, 8>::fits({width, 1e-5f, dtype::bf16}, args);
  };
  CHECK(fits_e4m3(8, width));
  CHECK_FALSE(fits_e4m3(4, width));
  CHECK_FALSE(fits_e4m3(0, width + 4));
}

TEST_CASE("a norm may go over its own input, and two may stand side by side") {
  constexpr std::uint32_t width = 64;
  random_stream random(1, 34);
  const std::vector<float> e = random_floats(rows * width, random);
  const std::vector<float> h = random_floats(rows * width, random);
  stored_rows<float> weight(random_floats(width, random)), stored_e(e), stored_h(h);
  stored_rows<float> pairs(rows * 2 * width);
  const rms_norm_shape shape{width, 1e-6f, dtype::bf16};
  basic_rms_norm_args<float> args{.out = pairs.data(),
                                  .out_stride = 2 * width,
                                  .x = stored_e.data(),
                                  .x_stride = width,
                                  .weight = weight.data(),
                                  .rows = rows};
  run_rows<float, 8>(shape, args, false);
  args.out += width;
  args.x = stored_h.data();
  run_rows<float, 8>(shape, args, false);
  for (stored_rows<float>* x : {&stored_e, &stored_h}) {
    args = {.out = x->data(),
            .out_stride = width,
            .x = x->data(),
            .x_stride = width,
            .weight = weight.data(),
            .rows = rows};
    run_rows<float, 8>(shape, args, false);
  }
  for (std::uint32_t row = 0; row < rows; ++row) {
    const float* both = pairs.data() + row * 2 * width;
    REQUIRE(std::memcmp(both, stored_e.data() + row * width, width * sizeof(float)) == 0);
    REQUIRE(std::memcmp(both + width, stored_h.data() + row * width, width * sizeof(float)) == 0);
  }
}

TEST_CASE("plan_rms_norm refuses what no kernel does") {
  CHECK(cuda::plan_rms_norm({64, 1e-5f, dtype::bf16}));
  CHECK_FALSE(cuda::plan_rms_norm({0, 1e-5f, dtype::bf16}));
  CHECK_FALSE(cuda::plan_rms_norm({56'001, 1e-5f, dtype::bf16}));
  CHECK_FALSE(cuda::plan_rms_norm({64, 1e-5f, dtype::e4m3}));
  // A block may have 227 KiB.
  CHECK(cuda::plan_rms_norm({56'000, 1e-5f, dtype::bf16})->shared_bytes <= 227 * 1024);
}

}  // namespace rms_norm_agent_test
