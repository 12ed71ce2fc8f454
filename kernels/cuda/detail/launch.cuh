// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What every launch ends with.
#pragma once

#include <oriel/core/result.hpp>

#include <cuda_runtime_api.h>

namespace oriel::detail {

/// Success, or why the launch just made was refused. `what`: "kernel: launch".
[[nodiscard]] inline status launched(const char* what) noexcept {
  if (const cudaError_t e = cudaGetLastError(); e != cudaSuccess) {
    return failure{errc::device_failure, static_cast<int>(e), what};
  }
  return {};
}

}  // namespace oriel::detail
