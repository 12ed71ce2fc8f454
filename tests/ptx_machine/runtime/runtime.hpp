// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the functions of the drop-in libcudart share: the one device of the process, and how a call
/// ends.
#pragma once

#include "device_memory.hpp"
#include "streams.hpp"

#include <cuda_runtime_api.h>

#include <new>

namespace oriel::ptx_machine {

/// Made at the first call, by the environment: ORIEL_PTX_SEED (0), ORIEL_PTX_MULTIPROCESSORS (4),
/// ORIEL_PTX_MEMORY_MB (4096). Never ends: work may be under way when the process does.
struct runtime {
  std::uint32_t multiprocessors;
  device_memory memory;
  streams all_streams;

  [[nodiscard]] static runtime& of_process();

 private:
  runtime();
};

/// What every call says once something that ran on the device was an error; the first to ask prints
/// it.
[[nodiscard]] cudaError_t lost_device();

/// Remembers a refusal for cudaGetLastError, and hands it on.
cudaError_t told(cudaError_t outcome);

/// A call of the API: refused where the device is lost, and in a host function of a stream.
template <class F>
cudaError_t call(F&& f) {
  if (work_queue::is_in_work()) {
    return told(cudaErrorNotPermitted);
  }
  if (const cudaError_t lost = lost_device(); lost != cudaSuccess) {
    return told(lost);
  }
  try {
    return told(f(runtime::of_process()));
  } catch (const std::bad_alloc&) {
    return told(cudaErrorMemoryAllocation);
  }
}

/// A call that has waited for work: that may have lost the device.
template <class F>
cudaError_t waiting_call(F&& f) {
  const cudaError_t outcome = call(std::forward<F>(f));
  return outcome == cudaSuccess ? told(lost_device()) : outcome;
}

}  // namespace oriel::ptx_machine
