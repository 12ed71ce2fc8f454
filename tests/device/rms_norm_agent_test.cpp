// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The device kernel's threads, one after the other on the host.
#include <oriel/core/executor.hpp>
#include <oriel/kernels/rms_norm.hpp>

#include <cuda/detail/rms_norm_agent.cuh>

#include <catch2/catch.hpp>
#include <kernels/attention_case.hpp>

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

void run_rows(const rms_norm_shape& shape, const rms_norm_args& args) {
  for (std::uint32_t row = 0; row < args.rows; ++row) {
    float partial[detail::rms_norm_lanes];
    for (std::uint32_t lane = 0; lane < detail::rms_norm_lanes; ++lane) {
      partial[lane] = detail::rms_norm_squares(shape, args, row, lane);
    }
    const float squares = detail::rms_norm_sum(partial);
    for (std::uint32_t lane = 0; lane < detail::rms_norm_lanes; ++lane) {
      detail::rms_norm_scale(shape, args, row, lane, squares);
    }
  }
}

}  // namespace

TEST_CASE("the device's RMSNorm has the bits of the host's") {
  const std::uint32_t width = GENERATE(1u, 16u, 63u, 64u, 65u, 200u, 4096u);
  const dtype activation = GENERATE(dtype::f32, dtype::bf16);
  const bool with_add = GENERATE(false, true);
  constexpr std::uint32_t rows = 3;
  backward_executor backward;
  random_stream random(width, 33);
  const auto x = random_floats(random, rows * width), add = random_floats(random, rows * width);
  const auto weight = random_floats(random, width);
  const rms_norm_shape shape{width, 1e-5f, activation};
  std::vector<float> out[2], sum[2];
  for (int device = 0; device < 2; ++device) {
    out[device].assign(rows * width, 7.0f);
    sum[device].assign(rows * width, 7.0f);
    const rms_norm_args args{.out = out[device].data(),
                             .out_stride = width,
                             .x = x.data(),
                             .x_stride = width,
                             .weight = weight.data(),
                             .rows = rows,
                             .add = with_add ? add.data() : nullptr,
                             .sum = with_add ? sum[device].data() : nullptr};
    if (device != 0) {
      run_rows(shape, args);
    } else {
      host::run_rms_norm(*host::plan_rms_norm(shape), args, backward);
    }
  }
  INFO("width " << width << ", add " << with_add);
  CHECK(std::memcmp(out[0].data(), out[1].data(), out[0].size() * sizeof(float)) == 0);
  CHECK(std::memcmp(sum[0].data(), sum[1].data(), sum[0].size() * sizeof(float)) == 0);
}

TEST_CASE("plan_rms_norm refuses what no kernel does") {
  CHECK(cuda::plan_rms_norm({64, 1e-5f, dtype::bf16}));
  CHECK_FALSE(cuda::plan_rms_norm({0, 1e-5f, dtype::bf16}));
  CHECK_FALSE(cuda::plan_rms_norm({64, 1e-5f, dtype::e4m3}));
}
