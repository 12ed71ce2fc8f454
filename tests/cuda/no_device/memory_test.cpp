// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What memory policies say on a machine without a device. Where there is one, nothing is asked.
#include <oriel/device/memory.hpp>

#include <cuda_runtime_api.h>

#include <catch2/catch.hpp>

#include <cstring>

using namespace oriel;  // NOLINT: a test

TEMPLATE_TEST_CASE("without a device, memory is refused with the runtime's code",
                   "",
                   cuda::device_memory,
                   cuda::pinned_memory,
                   cuda::growing_memory) {
  int devices = 0;
  const cudaError_t missing = cudaGetDeviceCount(&devices);
  cudaGetLastError();
  if (missing == cudaSuccess && devices != 0) {
    return;
  }
  CHECK(TestType::reserve(0));
  const auto memory = TestType::reserve(1 << 20);
  REQUIRE_FALSE(memory);
  CHECK(memory.error().code == errc::device_failure);
  CHECK(memory.error().native == missing);
  CHECK(std::strlen(memory.error().detail) != 0);
}
