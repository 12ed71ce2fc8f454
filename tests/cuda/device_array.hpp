// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Arrays on the device for tests. A CUDA call that fails fails the test.
#pragma once

#include <cuda_runtime_api.h>

#include <catch2/catch.hpp>

#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#define ORIEL_REQUIRE_CUDA(call)                     \
  do {                                               \
    const cudaError_t outcome = (call);              \
    INFO(#call ": " << cudaGetErrorString(outcome)); \
    REQUIRE(outcome == cudaSuccess);                 \
  } while (false)

namespace oriel::test {

/// ORIEL_TEST_NO_POISON, which tests/gpu.sh sets for initcheck: to that tool memory that was
/// poisoned was written, and a read of it no error.
inline bool is_poisoned() {
  static const bool is = std::getenv("ORIEL_TEST_NO_POISON") == nullptr;
  return is;
}

/// `n` elements on the device, every byte 0xFF (a NaN) until written, unless nothing is poisoned:
/// who looks at what nobody writes calls poison().
///
/// Filled when the constructor returns, for streams that do not wait for the default stream, too.
template <class T>
class device_array {
 public:
  explicit device_array(std::size_t n) : size_(n) {
    ORIEL_REQUIRE_CUDA(cudaMalloc(reinterpret_cast<void**>(&data_), n * sizeof(T) + 1));
    if (is_poisoned()) {
      poison();
    }
  }
  explicit device_array(std::span<const T> host) : device_array(host.size()) {
    ORIEL_REQUIRE_CUDA(cudaMemcpy(data_, host.data(), host.size_bytes(), cudaMemcpyHostToDevice));
    ORIEL_REQUIRE_CUDA(cudaStreamSynchronize(nullptr));
  }
  ~device_array() { cudaFree(data_); }
  device_array(const device_array&) = delete;
  device_array& operator=(const device_array&) = delete;

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }

  /// Every byte 0xFF; waits for it.
  void poison() const {
    ORIEL_REQUIRE_CUDA(cudaMemset(data_, 0xFF, size_ * sizeof(T)));
    ORIEL_REQUIRE_CUDA(cudaStreamSynchronize(nullptr));
  }
  /// Waits for all work before it.
  [[nodiscard]] std::vector<T> to_host() const {
    std::vector<T> host(size_);
    ORIEL_REQUIRE_CUDA(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

template <class T>
device_array<T> to_device(const std::vector<T>& host) {
  return device_array<T>(std::span<const T>(host));
}

}  // namespace oriel::test
