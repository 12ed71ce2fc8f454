// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What every launch ends with, and the launch of the agents of row_vector.cuh.
#pragma once

#include "row_vector.cuh"
#include "shared_memory.hpp"

#include <oriel/core/result.hpp>

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace oriel::detail {

/// Success, or why the launch just made was refused. `what`: "kernel: launch".
[[nodiscard]] inline status launched(const char* what) noexcept {
  if (const cudaError_t e = cudaGetLastError(); e != cudaSuccess) {
    return failure{errc::device_failure, static_cast<int>(e), what};
  }
  return {};
}

/// Lets a kernel that has only dynamic shared memory have this much, and all that a block may: another plan of it, in
/// another thread or between the capture of a graph and its instantiation, must not find the limit lowered. No work for
/// the device. @pre bytes <= block_shared_bytes_max
template <class Kernel>
[[nodiscard]] status allow_shared(Kernel* kernel, std::size_t bytes, const char* what) noexcept {
  constexpr std::size_t allowed_anyway = 48 * 1024;
  if (bytes <= allowed_anyway) {
    return {};
  }
  const cudaError_t e = cudaFuncSetAttribute(kernel,
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(block_shared_bytes_max));
  if (e != cudaSuccess) {
    cudaGetLastError();  // Else the next launch takes it for its own.
    return failure{errc::device_failure, static_cast<int>(e), what};
  }
  return {};
}

#ifdef __CUDACC__
inline constexpr std::uint32_t row_threads = 128;

/// Is there such a row? `row_count` is null where all are.
__device__ inline bool has_row(std::uint32_t row, const std::uint32_t* row_count) {
  return row_count == nullptr || row < *row_count;
}

/// 8 blocks a multiprocessor leave 64 registers a thread: what loads that are under way together
/// need. Left to itself the compiler issues them two by two to save some.
template <class Agent>
__global__ void __launch_bounds__(row_threads, 8)
    row_kernel(const __grid_constant__ Agent agent, const std::uint32_t* row_count) {
  const std::uint32_t row = blockIdx.x * rows_per_call<Agent>;
  const std::uint32_t i = (blockIdx.y * row_threads + threadIdx.x) * Agent::vector_width;
  if (i < agent.width() && has_row(row, row_count)) {
    call_agent(agent, row, row_count, i);
  }
}

/// Every vector of every row, a thread each.
template <class Agent>
[[nodiscard]] status launch_rows(const Agent& agent,
                                 CUstream_st* stream,
                                 const std::uint32_t* row_count,
                                 const char* what) noexcept {
  if (agent.rows() == 0 || agent.width() == 0) {
    return {};
  }
  constexpr std::uint32_t per_block = row_threads * Agent::vector_width;
  const dim3 grid((agent.rows() - 1) / rows_per_call<Agent> + 1,
                  (agent.width() - 1) / per_block + 1);
  row_kernel<<<grid, row_threads, 0, stream>>>(agent, row_count);
  return launched(what);
}
#endif

}  // namespace oriel::detail
