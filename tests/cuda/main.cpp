// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The main of tests that need a device. Without one the exit code is 77, which CTest reports as
// "skipped", test by test.
#include "support/session.hpp"

#include <oriel/kernels/device_gemm.hpp>

#include <cuda_runtime_api.h>

#include <cstdio>
#include <string>
#include <string_view>

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]).starts_with("--list")) {
      return oriel_test::run_session(argc, argv);
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
  return oriel_test::run_session(argc, argv);
}
