// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/device/copy_streams.hpp>

#include <cuda_runtime_api.h>

namespace oriel::cuda {
namespace {

/// Takes the error away where it can be: the next launch would find it and think that it is its
/// own.
failure failed(cudaError_t e, const char* what) {
  cudaGetLastError();
  return {errc::device_failure, static_cast<int>(e), what};
}
status outcome(cudaError_t e, const char* what) {
  return e == cudaSuccess ? status() : status(failed(e, what));
}

}  // namespace

result<device_streams::event> device_streams::make_event() const noexcept {
  event e = nullptr;  // With timing: elapsed_us.
  if (const cudaError_t made = cudaEventCreateWithFlags(&e, cudaEventDefault);
      made != cudaSuccess) {
    return failed(made, "copy_streams: event");
  }
  return e;
}

void device_streams::drop(event e) const noexcept {
  cudaEventDestroy(e);
}

status device_streams::record(event e, stream s) const noexcept {
  return outcome(cudaEventRecord(e, s), "copy_streams: record");
}

status device_streams::wait(stream s, event e) const noexcept {
  return outcome(cudaStreamWaitEvent(s, e, cudaEventWaitDefault), "copy_streams: wait");
}

result<bool> device_streams::is_done(event e) const noexcept {
  const cudaError_t state = cudaEventQuery(e);
  if (state == cudaSuccess) {
    return true;
  }
  const failure not_yet = failed(state, "copy_streams: query");  // Also an error, to the runtime.
  return state == cudaErrorNotReady ? result<bool>(false) : not_yet;
}

status device_streams::finish(event e) const noexcept {
  return outcome(cudaEventSynchronize(e), "copy_streams: finish");
}

status device_streams::copy(const kv_copy_plan& plan,
                            const kv_copy_args& args,
                            stream s) const noexcept {
  return run_kv_copy(plan, args, s);
}

result<double> device_streams::elapsed_us(event from, event to) const noexcept {
  float ms = 0.0f;
  if (const cudaError_t e = cudaEventElapsedTime(&ms, from, to); e != cudaSuccess) {
    return failed(e, "copy_streams: elapsed");
  }
  return double{ms} * 1000.0;
}

}  // namespace oriel::cuda
