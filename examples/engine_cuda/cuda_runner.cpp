// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <engine/error.hpp>
#include <engine_cuda/cuda_backend.hpp>
#include <engine_cuda/cuda_check.hpp>
#include <engine_cuda/cuda_runner.hpp>
#include <engine_cuda/cuda_weights.hpp>
#include <fmt/format.h>

#include <optional>
#include <utility>

namespace oriel::engine {
namespace {

/// A program_runner with the backend that it borrows.
class cuda_runner final : public step_runner {
 public:
  cuda_runner(std::shared_ptr<const cuda_weights> weights,
              const cuda_device& device,
              const runner_setup& setup)
      : backend_(weights,
                 setup.pools,
                 device,
                 setup.tiers != 0 ? moved_shapes_of(setup) : std::vector<kv_layer_shape>()),
        runner_(model_of(*weights, device, setup),
                setup.limits,
                table_entries_of(setup.pools.plan(), setup.limits.context_tokens),
                setup.drafts_max,
                backend_,
                setup.order_fixed) {}

  std::span<const float> forward(std::span<const step_rows> batch) override {
    return runner_.forward(batch);
  }
  std::span<const float> forward_mtp(std::uint32_t head,
                                     std::span<const step_rows> batch,
                                     mtp_rows output) override {
    return runner_.forward_mtp(head, batch, output);
  }
  std::optional<decoded_rows> decode(std::span<const decoding_rows> batch,
                                     bool drafts_next) override {
    return runner_.decode(batch, drafts_next);
  }
  bool has_decode() const noexcept override { return runner_.has_decode(); }
  hidden_rows hidden_of(std::size_t sequence) const noexcept override {
    return runner_.hidden_of(sequence);
  }
  hidden_rows mtp_hidden_of(std::size_t entry) const noexcept override {
    return runner_.mtp_hidden_of(entry);
  }
  bool is_cut_off(std::size_t sequence) const noexcept override {
    return runner_.is_cut_off(sequence);
  }
  page_mover* mover() noexcept override { return runner_.mover(); }
  const runner_limits& limits() const noexcept override { return runner_.limits(); }
  const runner_counts& counts() const noexcept override { return runner_.counts(); }
  const char* arithmetic() const noexcept override { return runner_.arithmetic(); }
  std::uint64_t workspace_bytes() const noexcept override { return runner_.workspace_bytes(); }

 private:
  static program_model model_of(const cuda_weights& weights,
                                const cuda_device& device,
                                const runner_setup& setup) {
    program_model m = program_model_of(setup, weights.compute(), device.multiprocessors);
    m.products = weights.products();
    return m;
  }

  cuda_backend backend_;
  program_runner runner_;
};

}  // namespace

cuda_device find_cuda_device() {
  if (!cuda::gemm_library::is_built()) {
    throw error(
        "this build has no cuBLASLt, which multiplies on a device: install cuBLAS and configure "
        "with -DORIEL_CUBLASLT=ON");
  }
  int devices = 0;
  expect(cudaGetDeviceCount(&devices), "no CUDA device");
  if (devices == 0) {
    throw error("no CUDA device: the driver knows of none");
  }
  int device = 0;
  expect(cudaGetDevice(&device), "no CUDA device");
  cudaDeviceProp properties{};
  expect(cudaGetDeviceProperties(&properties, device), "the CUDA device");
  if (properties.major != 9 || properties.minor != 0) {
    throw error(fmt::format("the kernels are built for compute capability 9.0; {} has {}.{}",
                            properties.name,
                            properties.major,
                            properties.minor));
  }
  std::size_t free_bytes = 0, total_bytes = 0;
  expect(cudaMemGetInfo(&free_bytes, &total_bytes), "the CUDA device's memory");
  return {.name = properties.name,
          .multiprocessors = static_cast<std::uint32_t>(properties.multiProcessorCount),
          .free_bytes = free_bytes,
          .total_bytes = total_bytes};
}

std::shared_ptr<const cuda_weights> upload_weights(const model_geometry& model,
                                                   const model_weights& weights,
                                                   const cuda_device& device) {
  return std::make_shared<const cuda_weights>(model, weights, device.multiprocessors);
}

std::uint64_t bytes_of(const cuda_weights& weights) noexcept {
  return weights.size_bytes();
}

bool computes_in_e4m3(const cuda_weights& weights) noexcept {
  return has_scaled(weights.products());
}

std::size_t packed_matrices(const cuda_weights& weights) noexcept {
  std::size_t packed = 0;
  for (const auto& [name, kind] : weights.products()) {
    packed += kind == product_kind::packed ? 1 : 0;
  }
  return packed;
}

std::function<std::unique_ptr<step_runner>(const runner_setup&)> cuda_runners(
    std::shared_ptr<const cuda_weights> weights, const cuda_device& device) {
  return [weights, device](const runner_setup& setup) -> std::unique_ptr<step_runner> {
    return std::make_unique<cuda_runner>(weights, device, setup);
  };
}

}  // namespace oriel::engine
