// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>
#include <cuda/captured.hpp>
#include <cuda/pinned_array.hpp>

#include <catch2/catch.hpp>

#include <bit>
#include <cstdint>
#include <vector>

using namespace oriel::test;  // NOLINT: a test

namespace {

/// d [m, n] = op(a) [m, k] op(b) [k, n], column-major, f32 sums.
struct gemm {
  cudaDataType_t in, out;
  std::uint64_t m, n, k;
  cublasOperation_t a_op = CUBLAS_OP_N, b_op = CUBLAS_OP_N;
  std::int64_t a_stride, b_stride, d_stride;
  std::int32_t a_scales_are = 0, b_scales_are = 0;
  const float *a_scales = nullptr, *b_scales = nullptr;
  std::uint32_t alignment = 16;

  cublasLtMatmulDescOpaque_t op{};
  cublasLtMatrixLayoutOpaque_t a{}, b{}, d{};
  cublasLtMatmulHeuristicResult_t offer{};

  template <class T>
  void set(cublasLtMatmulDescAttributes_t name, const T& value) {
    REQUIRE(cublasLtMatmulDescSetAttribute(&op, name, &value, sizeof value) ==
            CUBLAS_STATUS_SUCCESS);
  }
  cublasStatus_t find() {
    cublasLtMatmulDescInit(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    set(CUBLASLT_MATMUL_DESC_TRANSA, a_op);
    set(CUBLASLT_MATMUL_DESC_TRANSB, b_op);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, a_scales_are);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, b_scales_are);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, a_scales);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, b_scales);
    const bool a_t = a_op == CUBLAS_OP_T, b_t = b_op == CUBLAS_OP_T;
    cublasLtMatrixLayoutInit(&a, in, a_t ? k : m, a_t ? m : k, a_stride);
    cublasLtMatrixLayoutInit(&b, in, b_t ? n : k, b_t ? k : n, b_stride);
    cublasLtMatrixLayoutInit(&d, out, m, n, d_stride);
    cublasLtMatmulPreferenceOpaque_t wanted;
    cublasLtMatmulPreferenceInit(&wanted);
    for (const auto name : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      cublasLtMatmulPreferenceSetAttribute(&wanted, name, &alignment, sizeof alignment);
    }
    int count = 0;
    return cublasLtMatmulAlgoGetHeuristic(nullptr, &op, &a, &b, &d, &d, &wanted, 1, &offer, &count);
  }
  cublasStatus_t run(
      float alpha, const void* x, const void* y, float beta, void* z, cudaStream_t s) {
    return cublasLtMatmul(
        nullptr, &op, &alpha, x, &a, y, &b, &beta, z, &d, z, &d, &offer.algo, nullptr, 0, s);
  }
};

gemm small_f32() {
  return {.in = CUDA_R_32F,
          .out = CUDA_R_32F,
          .m = 3,
          .n = 2,
          .k = 2,
          .a_stride = 3,
          .b_stride = 2,
          .d_stride = 4};
}

gemm fp8(std::uint64_t m, std::uint64_t n, std::uint64_t k) {
  const auto stride = static_cast<std::int64_t>(k);
  return {.in = CUDA_R_8F_E4M3,
          .out = CUDA_R_32F,
          .m = m,
          .n = n,
          .k = k,
          .a_op = CUBLAS_OP_T,
          .a_stride = stride,
          .b_stride = stride,
          .d_stride = static_cast<std::int64_t>(m)};
}

}  // namespace

TEST_CASE(
    "ptx cublasLt: small matrices, transposed or not, within strides, in stream order, captured") {
  const bool is_transposed = GENERATE(false, true);
  gemm g = small_f32();
  // [1 3; 2 4; 5 6] [7 9; 8 10], and rows of a where it is transposed.
  std::vector<float> a{1, 2, 5, 3, 4, 6}, b{7, 8, 9, 10}, before(8, 100.0f);
  if (is_transposed) {
    g.a_op = CUBLAS_OP_T;
    g.a_stride = 2;
    a = {1, 3, 2, 4, 5, 6};
  }
  REQUIRE(g.find() == CUBLAS_STATUS_SUCCESS);
  const auto device_a = to_device(a), device_b = to_device(b);
  const device_array<float> d(8);
  captured graph([&](cudaStream_t s) {
    REQUIRE(g.run(2.0f, device_a.data(), device_b.data(), 1.0f, d.data(), s) ==
            CUBLAS_STATUS_SUCCESS);
  });
  for (int again = 0; again < 2; ++again) {
    ORIEL_REQUIRE_CUDA(cudaMemcpy(d.data(), before.data(), 32, cudaMemcpyHostToDevice));
    ORIEL_REQUIRE_CUDA(cudaDeviceSynchronize());
    graph.launch();
    CHECK(d.to_host() == std::vector<float>{162, 192, 266, 100, 178, 216, 310, 100});
  }
}

TEST_CASE("ptx cublasLt: bf16 is rounded once, to the nearest even") {
  gemm g{.in = CUDA_R_16BF,
         .out = CUDA_R_16BF,
         .m = 1,
         .n = 1,
         .k = 3,
         .a_stride = 1,
         .b_stride = 3,
         .d_stride = 1};
  g.alignment = 2;
  REQUIRE(g.find() == CUBLAS_STATUS_SUCCESS);
  const auto bits = [](float x) {
    return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16);
  };
  const auto a = to_device(std::vector<std::uint16_t>{bits(1), bits(1), bits(1)});
  const device_array<std::uint16_t> d(1);
  for (const auto& [x, expected] : {std::pair{256.0f, 256.0f}, std::pair{258.0f, 260.0f}}) {
    const auto b = to_device(std::vector<std::uint16_t>{bits(x), bits(1), bits(0)});
    REQUIRE(g.run(1.0f, a.data(), b.data(), 0.0f, d.data(), nullptr) == CUBLAS_STATUS_SUCCESS);
    CHECK(d.to_host()[0] == bits(expected));
  }
}

TEST_CASE("ptx cublasLt: e4m3 is refused where a device has no product") {
  CHECK(fp8(32, 8, 64).find() == CUBLAS_STATUS_SUCCESS);
  CHECK(fp8(32, 8, 72).find() == CUBLAS_STATUS_NOT_SUPPORTED);
  gemm not_transposed = fp8(32, 32, 32);
  not_transposed.a_op = CUBLAS_OP_N;
  CHECK(not_transposed.find() == CUBLAS_STATUS_NOT_SUPPORTED);
  gemm loose = fp8(32, 8, 64);
  loose.alignment = 8;
  CHECK(loose.find() == CUBLAS_STATUS_NOT_SUPPORTED);
  gemm scaled = fp8(32, 8, 64);
  scaled.a_scales_are = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
  scaled.b_scales_are = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
  CHECK(scaled.find() == CUBLAS_STATUS_INVALID_VALUE);  // No pointers.
  alignas(16) static constexpr float scales[4] = {};
  scaled.a_scales = scaled.b_scales = scales;
  CHECK(scaled.find() == CUBLAS_STATUS_SUCCESS);
  scaled.n = 6;
  CHECK(scaled.find() == CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_CASE("ptx cublasLt: factors of e4m3 by blocks are those of their block") {
  constexpr std::uint64_t m = 144, n = 4, k = 160;
  std::vector<float> a_scales(2 * 4, 99.0f), b_scales(2 * n);
  a_scales[0] = 1, a_scales[1] = 2, a_scales[4] = 3, a_scales[5] = 4;  // [block of m, block of k]
  for (std::uint64_t j = 0; j < n; ++j) {
    b_scales[j] = static_cast<float>(j + 1);  // of the first block of k
    b_scales[n + j] = 0.5f * static_cast<float>(j + 1);
  }
  const std::vector<std::uint8_t> a(m * k, 0x38), b(n * k, 0x40);  // 1, 2
  const auto device_a = to_device(a), device_b = to_device(b);
  const auto device_a_scales = to_device(a_scales), device_b_scales = to_device(b_scales);
  gemm g = fp8(m, n, k);
  g.a_scales_are = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
  g.b_scales_are = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
  g.a_scales = device_a_scales.data();
  g.b_scales = device_b_scales.data();
  REQUIRE(g.find() == CUBLAS_STATUS_SUCCESS);
  const device_array<float> d(m * n);
  REQUIRE(g.run(1.0f, device_a.data(), device_b.data(), 0.0f, d.data(), nullptr) ==
          CUBLAS_STATUS_SUCCESS);
  const auto found = d.to_host();
  for (std::uint64_t j = 0; j < n; ++j) {
    const float by = static_cast<float>(j + 1);
    CHECK(found[j * m] == (256.0f * 1 + 0.5f * 64.0f * 2) * by);
    CHECK(found[j * m + 128] == (256.0f * 3 + 0.5f * 64.0f * 4) * by);
  }
}
