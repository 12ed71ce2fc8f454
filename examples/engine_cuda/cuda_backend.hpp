// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `cuda_backend`: runs step programs on a CUDA device, in the order of one stream: operation by
/// operation, or from a graph that was captured when the program was met for the second time.
#pragma once

#include <oriel/device/memory.hpp>
#include <oriel/device/preallocation.hpp>
#include <oriel/kernels/device_gemm.hpp>
#include <oriel/kernels/paged_kv.hpp>
#include <oriel/kv/dual_pool.hpp>

#include <cuda_runtime_api.h>

#include <engine/program_runner.hpp>
#include <engine_cuda/cuda_runner.hpp>
#include <engine_cuda/cuda_weights.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace oriel::engine {

/// Owns what the runtime made, and reads as its handle.
template <class Handle, cudaError_t (*End)(Handle)>
class cuda_owned {
 public:
  cuda_owned() noexcept = default;
  explicit cuda_owned(Handle handle) noexcept : handle_(handle) {}
  cuda_owned(cuda_owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  cuda_owned& operator=(cuda_owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~cuda_owned() {
    if (handle_ != nullptr) {
      End(handle_);
    }
  }
  operator Handle() const noexcept { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using owned_stream = cuda_owned<cudaStream_t, cudaStreamDestroy>;
using owned_graph = cuda_owned<cudaGraphExec_t, cudaGraphExecDestroy>;

/// KV on the device: a page has the id, and the layout, of its twin in the engine's pools, which
/// count and never store. Bytes grow with the ids that the tables name.
class cuda_backend final : public step_backend {
 public:
  /// @param moved  [layers] what each keeps, where there are tiers below the pools; else empty
  /// @throws engine::error
  cuda_backend(std::shared_ptr<const cuda_weights> weights,
               const host_pools& pools,
               const cuda_device& device,
               std::span<const kv_layer_shape> moved = {});
  ~cuda_backend() override;
  cuda_backend(const cuda_backend&) = delete;
  cuda_backend& operator=(const cuda_backend&) = delete;

  void take_memory(const backend_needs& needs) override;
  [[nodiscard]] std::span<std::byte> inputs() noexcept override;
  [[nodiscard]] std::span<const std::byte> outputs() const noexcept override;
  [[nodiscard]] const std::uint32_t* tables() const noexcept override;
  void send_tables(std::span<const std::uint32_t> entries,
                   std::span<const table_range> changes) override;
  void need_pages(std::uint32_t pool, std::uint32_t pages) override;
  /// The same bits are promised for one kind of device, one version of cuBLASLt, and weights that
  /// are all in bf16, or kept in e4m3.
  [[nodiscard]] const char* arithmetic() const noexcept override { return arithmetic_.c_str(); }
  void run(const step_program& program,
           bool repeats,
           std::span<const fetched_part> parts,
           layer_gate_ref gate) override;
  void settle() override;
  [[nodiscard]] page_mover* mover() noexcept override { return mover_.get(); }

 private:
  friend class cuda_step;  // enqueues the operations

  static constexpr std::size_t step_memory = 0, device_tables = 1;                  // of device_
  static constexpr std::size_t step_inputs = 0, step_outputs = 1, host_tables = 2;  // of pinned_

  cudaGraphExec_t graph_of(const step_program& program);
  void enqueue(const step_program& program, layer_gate_ref gate = {});
  void make_mover(const host_pools& pools, std::span<const kv_layer_shape> shapes);
  void send_inputs(const step_program& program);

  std::shared_ptr<const cuda_weights> weights_;
  std::uint32_t multiprocessors_;
  std::string arithmetic_;
  owned_stream stream_;
  std::optional<cuda::gemm_library> products_;
  std::vector<cuda::growing_memory> kv_;                      // [pools]
  std::vector<std::size_t> page_bytes_;                       // [pools]
  std::vector<kv_layer_view> layers_kv_;                      // [layers]
  std::optional<preallocation<cuda::device_memory>> device_;  // memory of a step, page tables
  std::optional<preallocation<cuda::pinned_memory>> pinned_;  // inputs, outputs, page tables
  std::map<const step_program*, owned_graph> graphs_;         // null: met once
  owned_stream up_, down_;                                    // of the mover
  std::unique_ptr<page_mover> mover_;  // goes before its streams; null: no tiers
};

}  // namespace oriel::engine
