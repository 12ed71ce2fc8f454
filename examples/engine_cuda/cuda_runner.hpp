// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The engine's steps on a CUDA device. Only in builds with ORIEL_CUDA.
///
///     const cuda_device device = find_cuda_device();           // throws: why there is none
///     auto model = upload_weights(geometry, plain, device);    // weight_form::plain
///     options.make_runner = cuda_runners(model, device);
#pragma once

#include <oriel/model/geometry.hpp>

#include <engine/step_runner.hpp>
#include <engine/weights.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace oriel::engine {

struct cuda_device {
  std::string name;
  std::uint32_t multiprocessors = 0;
  std::uint64_t free_bytes = 0, total_bytes = 0;  ///< of memory
};

/// The calling thread's device.
/// @throws engine::error: the build has no cuBLASLt, there is no device, its driver is too old, or
/// the kernels are not for it
[[nodiscard]] cuda_device find_cuda_device();

/// A model's weights on the device.
class cuda_weights;

/// Copies the weights to the device, tensor by tensor; experts, and e4m3 matrices with ragged grids
/// of scales, are packed for the grouped products on the way. The host's may go then. What was
/// loaded in e4m3 (load_options::keeps_e4m3) is multiplied in e4m3.
/// @pre weights.form == weight_form::plain
/// @throws engine::error, std::bad_alloc
[[nodiscard]] std::shared_ptr<const cuda_weights> upload_weights(const model_geometry& model,
                                                                 const model_weights& weights,
                                                                 const cuda_device& device);
[[nodiscard]] std::uint64_t bytes_of(const cuda_weights& weights) noexcept;
/// Are matrices multiplied in e4m3, for the checkpoint has them so?
[[nodiscard]] bool computes_in_e4m3(const cuda_weights& weights) noexcept;
/// Matrices of bf16 for which cuBLASLt has no order-fixed algorithm: a grouped product has.
[[nodiscard]] std::size_t packed_matrices(const cuda_weights& weights) noexcept;

/// What engine_options::make_runner wants.
[[nodiscard]] std::function<std::unique_ptr<step_runner>(const runner_setup&)> cuda_runners(
    std::shared_ptr<const cuda_weights> weights, const cuda_device& device);

}  // namespace oriel::engine
