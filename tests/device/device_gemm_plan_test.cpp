// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/device_gemm.hpp>

#include <catch2/catch.hpp>

namespace device_gemm_plan_test {

using namespace oriel;  // NOLINT: a test

TEST_CASE("plan_gemm of a device takes bf16 and f32") {
  const auto plan = cuda::plan_gemm({4096, 6144, dtype::bf16}, dtype::f32, 64);
  REQUIRE(plan);
  CHECK((plan->rows_max == 64 && plan->order == cuda::gemm_order::fastest));
  CHECK(plan->workspace_bytes % 256 == 0);
  CHECK(cuda::plan_gemm({4096, 6144, dtype::bf16}, dtype::bf16, 64, cuda::gemm_order::fixed));
  CHECK(cuda::plan_gemm({384, 6144, dtype::f32}, dtype::f32, 1));
}

TEST_CASE("plan_gemm of a device refuses what cuBLASLt is not asked for") {
  const auto refused = [](gemm_shape shape, dtype out, std::uint32_t rows) {
    const auto plan = cuda::plan_gemm(shape, out, rows);
    return !plan && plan.error().code == errc::unsupported_shape;
  };
  CHECK(refused({0, 8, dtype::bf16}, dtype::f32, 1));
  CHECK(refused({8, 0, dtype::bf16}, dtype::f32, 1));
  CHECK(refused({8, 8, dtype::bf16}, dtype::f32, 0));
  CHECK(refused({0x8000'0000u, 8, dtype::bf16}, dtype::f32, 1));
  CHECK(refused({8, 8, dtype::f32}, dtype::bf16, 1));
  CHECK(refused({8, 8, dtype::bf16}, dtype::e4m3, 1));
  CHECK(refused({8, 8, dtype::e4m3}, dtype::bf16, 1));
}

TEST_CASE("plan_block_scaled_gemm says how scales of weights lie") {
  const auto plan = cuda::plan_block_scaled_gemm({13568, 6144, dtype::e4m3}, dtype::bf16, 64);
  REQUIRE(plan);
  CHECK(plan->weight_scale_stride == 48);
  CHECK(cuda::plan_block_scaled_gemm({16, 656, dtype::e4m3}, dtype::f32, 4)->weight_scale_stride ==
        8);
  const auto refused = [](gemm_shape shape, dtype out) {
    const auto none = cuda::plan_block_scaled_gemm(shape, out, 4);
    return !none && none.error().code == errc::unsupported_shape;
  };
  CHECK(refused({24, 128, dtype::e4m3}, dtype::bf16));
  CHECK(refused({16, 136, dtype::e4m3}, dtype::bf16));
  CHECK(refused({16, 128, dtype::bf16}, dtype::bf16));
  CHECK(refused({16, 128, dtype::e4m3}, dtype::e4m3));
}

}  // namespace device_gemm_plan_test
