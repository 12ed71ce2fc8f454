// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Measuring on a device: memory with random content, time by events, graphs, the yardsticks COPY
/// and GEMM, and a program's main.
#pragma once

#include "figures.hpp"

#include <oriel/core/dtype.hpp>

#include <cuda_runtime_api.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

namespace oriel::bench {

/// @throws std::runtime_error with `what` and the device's last error
void require(bool ok, const char* what);
#define ORIEL_CUDA_CALL(call) ::oriel::bench::require((call) == cudaSuccess, #call)

/// Memory of the device, of random numbers of the given type, of magnitudes around 1/4.
class device_bytes {
 public:
  device_bytes() = default;
  device_bytes(std::size_t bytes, dtype type);
  device_bytes(device_bytes&& other) noexcept { *this = std::move(other); }
  device_bytes& operator=(device_bytes&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~device_bytes() { cudaFree(data_); }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  template <class T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// `from`, in memory of the device.
template <class T>
device_bytes on_device(const std::vector<T>& from) {
  device_bytes to(from.size() * sizeof(T), dtype::f32);
  ORIEL_CUDA_CALL(
      cudaMemcpy(to.data(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  return to;
}

/// A stream, and what its work takes.
class stopwatch {
 public:
  stopwatch();
  ~stopwatch();
  stopwatch(const stopwatch&) = delete;
  stopwatch& operator=(const stopwatch&) = delete;

  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  /// Milliseconds of what enqueue(stream) gives the stream; nothing else runs on the device before.
  template <class F>
  double ms(const F& enqueue) {
    start();
    enqueue(stream_);
    return stop();
  }

 private:
  void start();
  double stop();

  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// `nodes` calls of enqueue(stream, i), recorded once: what launching costs the host is left out.
/// On the device from the beginning on.
class recorded {
 public:
  recorded(cudaStream_t stream,
           std::uint32_t nodes,
           const std::function<void(cudaStream_t, std::uint32_t)>& enqueue);
  ~recorded() { cudaGraphExecDestroy(graph_); }
  recorded(const recorded&) = delete;
  recorded& operator=(const recorded&) = delete;

  void operator()(cudaStream_t stream) const { ORIEL_CUDA_CALL(cudaGraphLaunch(graph_, stream)); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

/// One copy of 1 GiB on the device: 2 GiB read and written.
class copy_yardstick {
 public:
  copy_yardstick() : from_(bytes, dtype::bf16), to_(bytes, dtype::bf16) {}
  void operator()(cudaStream_t stream) const {
    ORIEL_CUDA_CALL(
        cudaMemcpyAsync(to_.data(), from_.data(), bytes, cudaMemcpyDeviceToDevice, stream));
  }
  /// Bytes read and written.
  static constexpr double moved = 2.0 * (std::size_t{1} << 30);

 private:
  static constexpr std::size_t bytes = std::size_t{1} << 30;
  device_bytes from_, to_;
};

/// out[m, n] = x[m, k] w[n, k]^T in bf16 by cuBLASLt: the best of the algorithms that it offers,
/// tried out. @throws std::runtime_error also in a build without cuBLASLt
class dense_gemm {
 public:
  dense_gemm(std::uint32_t m, std::uint32_t n, std::uint32_t k, stopwatch& watch);
  ~dense_gemm();
  void operator()(cudaStream_t stream) const;
  [[nodiscard]] double flops() const { return flops_; }
  struct state;

 private:
  std::unique_ptr<state> state_;
  double flops_;
};

/// A kernel of one warp that does nothing.
void enqueue_empty_kernel(cudaStream_t stream);

struct device_facts {
  std::uint32_t multiprocessors;
  std::size_t cache_bytes;  ///< L2
};
[[nodiscard]] device_facts facts();

/// Reports `bytes` in the time of `run` (of one of `runs` that it enqueues), beside COPY.
void beside_copy(const std::string& id,
                 double bytes,
                 std::uint32_t rounds,
                 const std::function<void(cudaStream_t)>& run,
                 double runs = 1);

/// What a program measures for some figures.
struct task {
  std::vector<std::string> ids;  ///< of the figures that it promises
  std::function<void()> run;
  std::string peer = {};  ///< whose they are; empty: ours
};

/// Prints a figure's line.
void report(const figure& f);

/// bench.cuda.x [seconds] [id...]: runs the tasks, all or those that have one of the ids. A task
/// that throws, is not begun within `seconds` (default: no limit), or comes after one that lost the
/// device, has its figures reported as missing.
/// @returns for main; 77 where there is no device
int run_tasks(int count, char** arguments, const std::vector<task>& tasks);

}  // namespace oriel::bench
