// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/executor.hpp>
#include <oriel/core/random.hpp>
#include <oriel/kernels/rms_norm.hpp>

#include <cuda/device_array.hpp>

#include <kernels/attention_case.hpp>

namespace rms_norm_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

TEST_CASE("cuda rms_norm has the bits of the host's") {
  const std::uint32_t width = GENERATE(1u, 63u, 200u, 4096u);
  const dtype activation = GENERATE(dtype::f32, dtype::bf16);
  constexpr std::uint32_t rows = 7;
  backward_executor backward;
  random_stream random(width, 34);
  const auto x = random_floats(random, rows * width), add = random_floats(random, rows * width);
  const auto weight = random_floats(random, width);
  const rms_norm_shape shape{width, 1e-5f, activation};
  std::vector<float> out(rows * width), sum(rows * width);
  rms_norm_args args{.out = out.data(),
                     .out_stride = width,
                     .x = x.data(),
                     .x_stride = width,
                     .weight = weight.data(),
                     .rows = rows,
                     .add = add.data(),
                     .sum = sum.data()};
  host::run_rms_norm(*host::plan_rms_norm(shape), args, backward);

  const auto device_x = to_device(x), device_add = to_device(add),
             device_weight = to_device(weight);
  const device_array<float> device_out(out.size()), device_sum(sum.size());
  args.out = device_out.data();
  args.sum = device_sum.data();
  args.x = device_x.data();
  args.add = device_add.data();
  args.weight = device_weight.data();
  REQUIRE(cuda::run_rms_norm(*cuda::plan_rms_norm(shape), args, nullptr));
  INFO("width " << width);
  CHECK(std::memcmp(out.data(), device_out.to_host().data(), out.size() * sizeof(float)) == 0);
  CHECK(std::memcmp(sum.data(), device_sum.to_host().data(), sum.size() * sizeof(float)) == 0);
}

TEST_CASE("cuda rms_norm writes operands with the bits of the host's") {
  const std::uint32_t width = GENERATE(63u, 200u, 6'144u);
  const dtype activation = GENERATE(dtype::f32, dtype::bf16);
  constexpr std::uint32_t rows = 7, some = 5;
  backward_executor backward;
  random_stream random(width, 35);
  const auto x = random_floats(random, rows * width), weight = random_floats(random, width);
  const std::size_t groups = (width - 1) / quantize_group + 1;
  const rms_norm_shape shape{width, 1e-5f, activation};
  std::vector<float> out(rows * width), scales(groups * rows);
  std::vector<bf16> rounded(rows * width);
  std::vector<e4m3> values(rows * width);
  rms_norm_args args{.out = out.data(),
                     .out_stride = width,
                     .x = x.data(),
                     .x_stride = width,
                     .weight = weight.data(),
                     .rows = some,
                     .rounded = rounded.data(),
                     .rounded_stride = width,
                     .quantized = {values.data(), width, scales.data(), 1, rows}};
  host::run_rms_norm(*host::plan_rms_norm(shape), args, backward);

  const auto device_x = to_device(x), device_weight = to_device(weight);
  const auto row_count = to_device(std::vector<std::uint32_t>{some});
  args.x = device_x.data();
  args.weight = device_weight.data();
  args.rows = rows;
  // Nothing behind `some` rows is touched.
  const auto device_out = to_device(std::vector<float>(out.size())),
             device_scales = to_device(std::vector<float>(scales.size()));
  const auto device_rounded = to_device(std::vector<bf16>(rounded.size()));
  const auto device_values = to_device(std::vector<e4m3>(values.size()));
  INFO("width " << width);
  for (const bool with_out : {true, false}) {
    args.out = with_out ? device_out.data() : nullptr;
    args.rounded = device_rounded.data();
    args.quantized = {device_values.data(), width, device_scales.data(), 1, rows};
    REQUIRE(cuda::run_rms_norm(*cuda::plan_rms_norm(shape), args, nullptr, row_count.data()));
    CHECK((device_out.to_host() == out));
    CHECK((device_rounded.to_host() == rounded));
    CHECK((device_values.to_host() == values));
    CHECK((device_scales.to_host() == scales));
  }
}

}  // namespace rms_norm_test
