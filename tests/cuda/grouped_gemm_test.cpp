// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Grouped products on a device against the reference; one graph for any routing; the same bits for
// any number of rows.
#include <oriel/kernels/grouped_gemm.hpp>

#include <cuda/captured.hpp>
#include <cuda/device_array.hpp>

#include <device/grouped_gemm_case.hpp>

#include <cmath>

namespace grouped_gemm_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

std::span<const std::byte> span_of(const aligned_bytes& bytes) {
  return {bytes.data(), bytes.size()};
}

/// A case on the device, its weights packed there; offsets may change between launches.
struct device_case {
  device_case(const grouped_gemm_case& c, const cuda::grouped_gemm_plan& plan)
      : x(span_of(c.x)),
        plain(span_of(c.plain)),
        packed(plan.packed_bytes * c.shape.groups),
        x_scales(std::span<const float>(c.x_scales)),
        weight_scales(std::span<const float>(c.weight_scales)),
        offsets(std::span<const std::uint32_t>(c.offsets)),
        row_index(std::span<const std::uint32_t>(c.row_index)),
        scale_rows(std::span<const std::uint32_t>(c.scale_rows)) {
    const std::size_t row_bytes = c.shape.k * size_bytes(c.shape.weights);
    const std::uint32_t all = c.shape.weight_rows(), cut = all / 3;
    for (std::uint32_t g = 0; g < c.shape.groups; ++g) {
      const std::byte* const from = plain.data() + g * all * row_bytes;
      std::byte* const to = packed.data() + g * plan.packed_bytes;
      REQUIRE(cuda::run_pack_grouped_weights(
          plan, from + cut * row_bytes, cut, all - cut, to, nullptr));
      REQUIRE(cuda::run_pack_grouped_weights(plan, from, 0, cut, to, nullptr));
    }
    ORIEL_REQUIRE_CUDA(cudaDeviceSynchronize());
  }
  template <class Out>
  [[nodiscard]] grouped_gemm_args<Out> args(const grouped_gemm_case& c, Out* out) const {
    auto a = c.args(out, c.shape.n);
    a.x = x.data();
    a.weights = packed.data();
    a.offsets = offsets.data();
    a.row_index = a.row_index != nullptr ? row_index.data() : nullptr;
    a.x_scales = x_scales.data();
    a.weight_scales = weight_scales.data();
    a.weight_scale_rows = a.weight_scale_rows != nullptr ? scale_rows.data() : nullptr;
    return a;
  }
  device_array<std::byte> x, plain, packed;
  device_array<float> x_scales, weight_scales;
  device_array<std::uint32_t> offsets, row_index, scale_rows;
};

std::uint32_t multiprocessors() {
  int count = 0;
  ORIEL_REQUIRE_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
  return static_cast<std::uint32_t>(count);
}

}  // namespace

TEST_CASE("cuda grouped_gemm: exact operands, any shape, one graph for any routing") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 16)));
  grouped_gemm_case c = device_grouped_gemm_case(seed);
  const grouped_gemm_shape& shape = c.shape;
  INFO("seed " << seed << ", n " << shape.n << ", k " << shape.k << ", rows " << c.rows);
  const auto plan = *cuda::plan_grouped_gemm(shape, {c.rows, multiprocessors()});
  const device_case on_device(c, plan);
  const std::size_t size = std::size_t{c.rows} * shape.n;
  const device_array<float> out(size);
  const device_array<bf16> out_bf16(size);
  const auto in_bf16 = on_device.args(c, out_bf16.data());
  const auto in_f32 = on_device.args(c, out.data());
  captured graph([&](cudaStream_t stream) {
    REQUIRE(cuda::run_grouped_gemm(plan, in_f32, stream));
    REQUIRE(cuda::run_grouped_gemm(plan, in_bf16, stream));
  });
  const std::uint32_t all = c.rows;
  for (const std::uint32_t rows : {all, 0u, all / 2}) {
    for (std::uint32_t& o : c.offsets) {
      o = std::min(o, rows);
    }
    ORIEL_REQUIRE_CUDA(cudaMemcpy(on_device.offsets.data(),
                                  c.offsets.data(),
                                  c.offsets.size() * sizeof(std::uint32_t),
                                  cudaMemcpyHostToDevice));
    out.poison();
    out_bf16.poison();
    graph.launch();
    std::vector<float> expected(size);
    reference::grouped_gemm(shape, c.args(expected.data(), shape.n));
    const std::vector<float> expected_rounded =
        shape.swiglu ? rounded_swiglu(c) : std::vector<float>();
    const auto found = out.to_host();
    const auto rounded = out_bf16.to_host();
    for (std::size_t i = 0; i < std::size_t{rows} * shape.n; ++i) {
      const float e = expected[i];
      if (shape.swiglu) {
        const float r = expected_rounded[i];
        REQUIRE(std::abs(found[i] - e) <= 1e-6f * std::abs(e) + 1e-30f);
        REQUIRE(std::abs(to_float(rounded[i]) - r) <= rounded_swiglu_slack(r));
      } else {
        REQUIRE(found[i] == e);
        REQUIRE(rounded[i] == to_bf16(e));
      }
    }
    for (std::size_t i = std::size_t{rows} * shape.n; i < size; ++i) {
      REQUIRE(static_cast<std::uint16_t>(rounded[i]) == 0xFFFF);  // Rows of nobody.
      REQUIRE(std::isnan(found[i]));
    }
    c.offsets.assign(c.offsets.size(), 0);
    if (rows == 0) {
      c.offsets.back() = all / 2;  // The last group has all that is left.
    }
  }
}

/// Three blocks, whatever the device has: more would get narrower items.
TEST_CASE("cuda grouped_gemm: wide items leave under the products of the next one") {
  const dtype type = GENERATE(dtype::bf16, dtype::e4m3);
  const bool swiglu = GENERATE(false, true);
  const grouped_gemm_case c = wide_grouped_gemm_case(type, swiglu, GENERATE(2u, 8u, 17u));
  const auto plan = *cuda::plan_grouped_gemm(c.shape, {c.rows, 3});
  REQUIRE(plan.tile_rows == (type == dtype::bf16 ? 256 : 128));  // Else none leaves late.
  const device_case on_device(c, plan);
  const std::size_t size = std::size_t{c.rows} * c.shape.n;
  const device_array<bf16> out(size);
  out.poison();
  REQUIRE(cuda::run_grouped_gemm(plan, on_device.args(c, out.data()), nullptr));
  std::vector<float> expected(size);
  if (swiglu) {
    expected = rounded_swiglu(c);
  } else {
    reference::grouped_gemm(c.shape, c.args(expected.data(), c.shape.n));
  }
  const auto found = out.to_host();
  for (std::size_t i = 0; i < size; ++i) {
    const float e = swiglu ? expected[i] : round_to_bf16(expected[i]);
    REQUIRE(std::abs(to_float(found[i]) - e) <= (swiglu ? rounded_swiglu_slack(e) : 0.0f));
  }
}

TEST_CASE("cuda grouped_gemm: a row's bits do not depend on companions and tiles") {
  const dtype type = GENERATE(dtype::bf16, dtype::e4m3);
  random_stream random(static_cast<std::uint64_t>(type), 92);
  const grouped_gemm_shape shape{.groups = 1, .n = 520, .k = 2080, .weights = type};
  grouped_gemm_case c(shape, {600}, false, false, false, random);
  const auto plan = *cuda::plan_grouped_gemm(shape, {c.rows, multiprocessors()});
  const device_case on_device(c, plan);
  const device_array<float> out(std::size_t{c.rows} * shape.n);
  REQUIRE(cuda::run_grouped_gemm(plan, on_device.args(c, out.data()), nullptr));
  const auto many = out.to_host();
  std::vector<float> expected(many.size());
  reference::grouped_gemm(shape, c.args(expected.data(), shape.n));
  for (std::size_t i = 0; i < many.size(); ++i) {
    // e4m3: 14 bits of each product's sum are promised by nobody; parts are 128 terms up to 1.
    REQUIRE(std::abs(many[i] - expected[i]) <= (type == dtype::bf16 ? 2e-3f : 0.3f));
  }
  for (const std::uint32_t rows : {1u, 16u, 17u, 100u, 256u, 599u}) {
    const auto fewer = *cuda::plan_grouped_gemm(shape, {rows, rows});
    REQUIRE(fewer.packed_bytes == plan.packed_bytes);
    auto args = on_device.args(c, out.data());
    args.offsets = nullptr;
    args.rows = rows;
    out.poison();
    REQUIRE(cuda::run_grouped_gemm(fewer, args, nullptr));
    const auto found = out.to_host();
    REQUIRE(std::equal(found.begin(), found.begin() + rows * shape.n, many.begin()));
    args.accumulate = true;
    REQUIRE(cuda::run_grouped_gemm(fewer, args, nullptr));
    const auto twice = out.to_host();
    for (std::size_t i = 0; i < std::size_t{rows} * shape.n; ++i) {
      REQUIRE(twice[i] == 2 * many[i]);
    }
  }
}

}  // namespace grouped_gemm_test
