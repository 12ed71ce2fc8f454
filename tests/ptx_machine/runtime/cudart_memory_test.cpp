// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <cuda.h>
#include <cuda/pinned_array.hpp>
#include <cudaTypedefs.h>

#include <catch2/catch.hpp>

#include <cstdlib>

using namespace oriel::test;  // NOLINT: a test

namespace {

template <class F>
F driver(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult why{};
  ORIEL_REQUIRE_CUDA(
      cudaGetDriverEntryPointByVersion(name, &found, 10020, cudaEnableDefault, &why));
  REQUIRE(why == cudaDriverEntryPointSuccess);
  return reinterpret_cast<F>(found);
}

std::size_t free_now() {
  std::size_t free_bytes = 0, total = 0;
  ORIEL_REQUIRE_CUDA(cudaMemGetInfo(&free_bytes, &total));
  return free_bytes;
}

CUmemLocation device_0() {
  CUmemLocation out{};
  out.type = CU_MEM_LOCATION_TYPE_DEVICE;
  return out;
}

CUmemAllocationProp on_device() {
  CUmemAllocationProp out{};
  out.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  out.location = device_0();
  return out;
}

constexpr std::size_t unit = std::size_t{2} << 20;

}  // namespace

TEST_CASE(
    "ptx cudart: memory that is mapped can be used, neighbours as one, and its bytes outlive a "
    "mapping") {
  const auto reserve = driver<PFN_cuMemAddressReserve_v10020>("cuMemAddressReserve");
  const auto unreserve = driver<PFN_cuMemAddressFree_v10020>("cuMemAddressFree");
  const auto create = driver<PFN_cuMemCreate_v10020>("cuMemCreate");
  const auto release = driver<PFN_cuMemRelease_v10020>("cuMemRelease");
  const auto map = driver<PFN_cuMemMap_v10020>("cuMemMap");
  const auto unmap = driver<PFN_cuMemUnmap_v10020>("cuMemUnmap");
  const auto set_access = driver<PFN_cuMemSetAccess_v10020>("cuMemSetAccess");
  const std::size_t before = free_now();
  const CUmemAllocationProp wanted = on_device();
  const CUmemAccessDesc writable{device_0(), CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CUdeviceptr at = 0;
  CHECK(reserve(&at, unit + 1, 0, 0, 0) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE(reserve(&at, 4 * unit, 0, 0, 0) == CUDA_SUCCESS);
  CHECK(free_now() == before);
  CUmemGenericAllocationHandle first = 0, second = 0;
  REQUIRE(create(&first, unit, &wanted, 0) == CUDA_SUCCESS);
  REQUIRE(create(&second, unit, &wanted, 0) == CUDA_SUCCESS);
  CHECK(free_now() == before - 2 * unit);
  REQUIRE(map(at, unit, 0, first, 0) == CUDA_SUCCESS);
  CHECK(map(at, unit, 0, second, 0) == CUDA_ERROR_INVALID_VALUE);
  auto* const bytes = reinterpret_cast<std::byte*>(at);
  CHECK(cudaMemset(bytes, 1, 1) == cudaErrorInvalidValue);  // No access yet.
  REQUIRE(set_access(at, unit, &writable, 1) == CUDA_SUCCESS);
  ORIEL_REQUIRE_CUDA(cudaMemset(bytes, 1, unit));
  CHECK(cudaMemset(bytes, 1, unit + 1) == cudaErrorInvalidValue);
  REQUIRE(map(at + unit, unit, 0, second, 0) == CUDA_SUCCESS);
  REQUIRE(set_access(at + unit, unit, &writable, 1) == CUDA_SUCCESS);
  ORIEL_REQUIRE_CUDA(cudaMemset(bytes + unit - 1, 2, 2));

  ORIEL_REQUIRE_CUDA(cudaDeviceSynchronize());
  CHECK(unreserve(at, 4 * unit) == CUDA_ERROR_INVALID_VALUE);  // Something is mapped.
  CHECK(unmap(at, unit / 2) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE(unmap(at, 2 * unit) == CUDA_SUCCESS);
  CHECK(cudaMemset(bytes, 1, 1) == cudaErrorInvalidValue);
  REQUIRE(map(at + 2 * unit, unit, 0, first, 0) == CUDA_SUCCESS);
  REQUIRE(set_access(at + 2 * unit, unit, &writable, 1) == CUDA_SUCCESS);
  std::byte last[2];
  ORIEL_REQUIRE_CUDA(cudaMemcpy(last, bytes + 3 * unit - 2, 2, cudaMemcpyDefault));
  CHECK(last[0] == std::byte{1});
  CHECK(last[1] == std::byte{2});
  CHECK(release(first) == CUDA_SUCCESS);
  CHECK(release(first) == CUDA_ERROR_INVALID_VALUE);
  CHECK(free_now() == before - 2 * unit);  // It is mapped.
  REQUIRE(unmap(at + 2 * unit, unit) == CUDA_SUCCESS);
  CHECK(release(second) == CUDA_SUCCESS);
  CHECK(free_now() == before);
  CHECK(unreserve(at, 4 * unit) == CUDA_SUCCESS);
  cudaGetLastError();
}

TEST_CASE("ptx cudart: what is free is refused, and so is more than there is") {
  void* p = nullptr;
  const std::size_t before = free_now();
  CHECK(cudaMalloc(&p, before + 1) == cudaErrorMemoryAllocation);
  ORIEL_REQUIRE_CUDA(cudaMalloc(&p, 1000));
  CHECK(free_now() == before - 1000);
  ORIEL_REQUIRE_CUDA(cudaFree(p));
  CHECK(free_now() == before);
  CHECK(cudaFree(p) == cudaErrorInvalidValue);
  CHECK(cudaMemset(p, 0, 1) == cudaErrorInvalidValue);
  cudaGetLastError();
}

TEST_CASE("ptx cudart: copies of a batch read in the order of the stream, or at once") {
  const own_stream s;
  const pinned_array<int> from(2);
  const device_array<int> to(2);
  from.data()[0] = from.data()[1] = 1;
  void* const targets[] = {to.data(), to.data() + 1};
  const void* const sources[] = {from.data(), from.data() + 1};
  const std::size_t bytes[] = {4, 4};
  cudaMemcpyAttributes attributes[2]{};
  attributes[0].srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  attributes[1].srcAccessOrder = cudaMemcpySrcAccessOrderDuringApiCall;
  std::size_t first[] = {0, 1};
  CHECK(cudaMemcpyBatchAsync(targets, sources, bytes, 2, attributes, first, 2, nullptr) ==
        cudaErrorInvalidValue);
  ORIEL_REQUIRE_CUDA(
      cudaMemcpyBatchAsync(targets, sources, bytes, 2, attributes, first, 2, s.stream));
  from.data()[0] = from.data()[1] = 2;
  s.finish();
  CHECK(to.to_host()[0] ==
        (std::getenv("ORIEL_PTX_SEED") == nullptr ? 2 : to.to_host()[0]));  // Seed 0 is lazy.
  CHECK(to.to_host()[1] == 1);
  // Refused in a capture, which goes on.
  ORIEL_REQUIRE_CUDA(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal));
  CHECK(cudaMemcpyBatchAsync(targets, sources, bytes, 2, attributes, first, 2, s.stream) ==
        cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph = nullptr;
  ORIEL_REQUIRE_CUDA(cudaStreamEndCapture(s.stream, &graph));
  ORIEL_REQUIRE_CUDA(cudaGraphDestroy(graph));
  cudaGetLastError();
}
