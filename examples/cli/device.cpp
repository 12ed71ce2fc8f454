// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "device.hpp"
#include "support.hpp"

#include <oriel/config.hpp>

#include <engine/error.hpp>

#if ORIEL_HAS_CUDA
#include <engine/machine_memory.hpp>
#include <engine_cuda/cuda_runner.hpp>
#endif

namespace oriel::cli {

#if ORIEL_HAS_CUDA

compute_device::compute_device(const std::string& name) : is_host_(name == "cpu") {
  if (!is_host_) {
    (void)engine::find_cuda_device();
  }
}

void compute_device::expect(const model_geometry& model,
                            const engine::engine_options& options,
                            dtype compute,
                            const engine::kept_matrices& kept,
                            bool has_tiers) const {
  if (is_host_) {
    return;
  }
  const engine::cuda_device device = engine::find_cuda_device();
  engine::expect_room(
      engine::device_needs_of(model, options, has_tiers, compute, device.multiprocessors, kept),
      model.name,
      device.name,
      device.free_bytes,
      engine::available_memory_bytes());
}

void compute_device::expect(const engine::device_question& asked) const {
  if (is_host_) {
    return;
  }
  const engine::cuda_device device = engine::find_cuda_device();
  engine::expect_room(engine::device_needs_of(asked, device.multiprocessors),
                      asked.model.name,
                      device.name,
                      device.free_bytes,
                      engine::available_memory_bytes());
}

runner_maker compute_device::take(const model_geometry& model,
                                  engine::model_weights& weights) const {
  if (is_host_) {
    return {};
  }
  const engine::cuda_device device = engine::find_cuda_device();
  const auto uploaded = engine::upload_weights(model, weights, device);
  engine::drop_matrices(weights);
  if (shows_progress()) {
    note("{}: {} of weights\n", device.name, bytes_text(engine::bytes_of(*uploaded)));
  }
  if (engine::computes_in_e4m3(*uploaded)) {
    note("{}: FP8 weights are multiplied in FP8, with rows in FP8 (e4m3)\n", model.name);
  }
  if (const std::size_t packed = engine::packed_matrices(*uploaded); packed != 0) {
    note("{}: cuBLASLt has no order-fixed algorithm for {} matrices: Oriel's own product has\n",
         model.name,
         packed);
  }
  return engine::cuda_runners(uploaded, device);
}

#else

compute_device::compute_device(const std::string& name) : is_host_(name == "cpu") {
  if (!is_host_) {
    throw engine::error(
        "--device cuda: this oriel was built without CUDA; configure with -DORIEL_CUDA=ON");
  }
}

void compute_device::expect(const model_geometry&,
                            const engine::engine_options&,
                            dtype,
                            const engine::kept_matrices&,
                            bool) const {}

void compute_device::expect(const engine::device_question&) const {}

runner_maker compute_device::take(const model_geometry&, engine::model_weights&) const {
  return {};
}

#endif

}  // namespace oriel::cli
