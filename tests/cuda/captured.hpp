// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Work recorded once as a CUDA graph, to be launched again with what lies in device memory then.
#pragma once

#include <cuda/device_array.hpp>

namespace oriel::test {

class captured {
 public:
  /// @param enqueue  called once with a stream; what it enqueues is recorded, not run
  template <class F>
  explicit captured(F&& enqueue) {
    ORIEL_REQUIRE_CUDA(cudaStreamCreate(&stream_));
    ORIEL_REQUIRE_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    enqueue(stream_);
    cudaGraph_t graph = nullptr;
    ORIEL_REQUIRE_CUDA(cudaStreamEndCapture(stream_, &graph));
    ORIEL_REQUIRE_CUDA(cudaGraphInstantiate(&graph_, graph, 0));
    ORIEL_REQUIRE_CUDA(cudaGraphDestroy(graph));
  }
  ~captured() {
    cudaGraphExecDestroy(graph_);
    cudaStreamDestroy(stream_);
  }
  captured(const captured&) = delete;
  captured& operator=(const captured&) = delete;

  /// Runs it and waits.
  void launch() {
    ORIEL_REQUIRE_CUDA(cudaGraphLaunch(graph_, stream_));
    ORIEL_REQUIRE_CUDA(cudaStreamSynchronize(stream_));
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace oriel::test
