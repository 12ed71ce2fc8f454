// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Catch2's main for tests that need a device. Without one the exit code is 77, which CTest reports
// as "skipped", test by test.
#define CATCH_CONFIG_RUNNER
#include <oriel/kernels/device_gemm.hpp>

#include <cuda_runtime_api.h>

#include <catch2/catch.hpp>

#include <cstdio>
#include <string>
#include <string_view>

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]).starts_with("--list")) {
      return Catch::Session().run(argc, argv);
    }
  }
  int devices = 0;
  const cudaError_t e = cudaGetDeviceCount(&devices);
  if (e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver ||
      (e == cudaSuccess && devices == 0)) {
    std::printf("skipped: no CUDA device (%s)\n", cudaGetErrorString(e));
    return 77;
  }
  if (e != cudaSuccess) {
    std::printf("no CUDA device answers: %s\n", cudaGetErrorString(e));
    return 1;
  }
  // tests/gpu.sh reads it: without cuBLASLt a test of dense products passes and tests nothing.
  std::printf("cuBLASLt: %s\n",
              oriel::cuda::gemm_library::is_built()
                  ? std::to_string(oriel::cuda::gemm_library::version()).c_str()
                  : "NONE");
  return Catch::Session().run(argc, argv);
}
