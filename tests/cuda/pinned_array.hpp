// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Arrays that host and device share, and streams, for tests of copies.
#pragma once

#include <cuda/device_array.hpp>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

namespace oriel::test {

/// Pinned memory of the host, mapped.
template <class T>
class pinned_array {
 public:
  explicit pinned_array(std::size_t n) : size_(n) {
    ORIEL_REQUIRE_CUDA(cudaMallocHost(reinterpret_cast<void**>(&data_), n * sizeof(T) + 1));
    std::memset(static_cast<void*>(data_), 0xFF, n * sizeof(T));
  }
  explicit pinned_array(const std::vector<T>& from) : pinned_array(from.size()) {
    std::ranges::copy(from, data_);
  }
  ~pinned_array() { cudaFreeHost(data_); }
  pinned_array(const pinned_array&) = delete;
  pinned_array& operator=(const pinned_array&) = delete;

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] std::span<const T> span() const { return {data_, size_}; }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

/// A stream of its own: the engines take no default stream.
struct own_stream {
  own_stream() { ORIEL_REQUIRE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)); }
  ~own_stream() { cudaStreamDestroy(stream); }
  own_stream(const own_stream&) = delete;
  own_stream& operator=(const own_stream&) = delete;
  void finish() const { ORIEL_REQUIRE_CUDA(cudaStreamSynchronize(stream)); }
  cudaStream_t stream = nullptr;
};

}  // namespace oriel::test
