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

class cuda_weights {
 public:
  /// @throws engine::error, std::bad_alloc
  cuda_weights(const model_geometry& model,
               const model_weights& weights,
               std::uint32_t multiprocessors);

  /// Device address; null where the model has no such weight (sinks of full layers).
  [[nodiscard]] const std::byte* operator[](weight_name name) const noexcept {
    const auto found = at_.find({name.role, name.layer});
    return found == at_.end() ? nullptr : memory_->bytes(found->second).data();
  }
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return memory_->size_bytes(); }
  [[nodiscard]] dtype compute() const noexcept { return compute_; }
  [[nodiscard]] const model_geometry& model() const noexcept { return model_; }

 private:
  model_geometry model_;
  dtype compute_;
  std::map<std::pair<weight_role, std::uint32_t>, std::size_t> at_;  // index of a piece
  std::optional<preallocation<cuda::device_memory>> memory_;
};

/// The grouped products of a MoE layer; their plans pack the weights and run.
[[nodiscard]] grouped_gemm_shape expert_gate_up_shape(const model_geometry& model,
                                                      const ffn_geometry& ffn,
                                                      dtype compute);
[[nodiscard]] grouped_gemm_shape expert_down_shape(const model_geometry& model,
                                                   const ffn_geometry& ffn,
                                                   dtype compute);

}  // namespace oriel::engine
