// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A model's weights in device memory, by the names that step programs use.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/device/memory.hpp>
#include <oriel/device/preallocation.hpp>
#include <oriel/kernels/grouped_gemm.hpp>
#include <oriel/model/geometry.hpp>

#include <engine/step_program.hpp>
#include <engine/weights.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>

namespace oriel::engine {

/// What lies on the device of a matrix.
enum class weight_part : std::uint8_t {
  values,     ///< as in a checkpoint; packed for grouped products
  scales,     ///< of e4m3: [groups, grid rows, ceil(k / 128)]; block_scaled: at the plan's stride
  scale_rows  ///< of ragged grids: [n] row of the grid
};

class cuda_weights {
 public:
  /// @throws engine::error, std::bad_alloc
  cuda_weights(const model_geometry& model,
               const model_weights& weights,
               std::uint32_t multiprocessors);

  /// Device address; null where the model has no such weight (sinks of full layers).
  [[nodiscard]] const std::byte* operator[](weight_name name) const noexcept {
    return part(name, weight_part::values);
  }
  [[nodiscard]] const std::byte* part(weight_name name, weight_part part) const noexcept {
    const auto found = at_.find({name, part});
    return found == at_.end() ? nullptr : memory_->bytes(found->second).data();
  }
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return memory_->size_bytes(); }
  [[nodiscard]] dtype compute() const noexcept { return compute_; }
  /// Of the matrices that are not plain: those of e4m3, and those that cuBLASLt refuses.
  [[nodiscard]] const product_kinds& products() const noexcept { return products_; }
  [[nodiscard]] const model_geometry& model() const noexcept { return model_; }

 private:
  model_geometry model_;
  dtype compute_;
  product_kinds products_;
  std::map<std::pair<weight_name, weight_part>, std::size_t> at_;  // index of a piece
  std::optional<preallocation<cuda::device_memory>> memory_;
};

/// The grouped products of a MoE layer; their plans pack the weights and run. `type`: of the
/// experts.
[[nodiscard]] grouped_gemm_shape expert_gate_up_shape(const model_geometry& model,
                                                      const ffn_geometry& ffn,
                                                      dtype type);
[[nodiscard]] grouped_gemm_shape expert_down_shape(const model_geometry& model,
                                                   const ffn_geometry& ffn,
                                                   dtype type);

}  // namespace oriel::engine
