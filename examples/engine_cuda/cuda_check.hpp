// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Failures of the runtime and of kernels, thrown as the engine's.
#pragma once

#include <oriel/core/result.hpp>

#include <cuda_runtime_api.h>

#include <engine/error.hpp>
#include <fmt/format.h>

#include <utility>

namespace oriel::engine {

/// @throws engine::error unless it succeeded: "<what>: <the runtime's words> (CUDA error <number>)"
inline void expect(cudaError_t outcome, const char* what) {
  if (outcome != cudaSuccess) {
    cudaGetLastError();  // Else the next launch takes it for its own.
    throw error(fmt::format(
        "{}: {} (CUDA error {})", what, cudaGetErrorString(outcome), static_cast<int>(outcome)));
  }
}

/// @throws engine::error unless it succeeded
inline void expect(const status& outcome) {
  if (!outcome) {
    throw error(fmt::format("{}: {} ({})",
                            outcome.error().detail,
                            name_of(outcome.error().code),
                            outcome.error().native));
  }
}

/// What was made. @throws engine::error unless it was
template <class T>
T checked(result<T> made, const char* what) {
  if (!made) {
    throw error(fmt::format("{}: {}: {} ({})",
                            what,
                            made.error().detail,
                            name_of(made.error().code),
                            made.error().native));
  }
  return std::move(*made);
}

}  // namespace oriel::engine
