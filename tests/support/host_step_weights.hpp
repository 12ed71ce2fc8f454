// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `host_step_weights`: the weights that a step program names, as the host has them.
#pragma once

#include <oriel/model/geometry.hpp>

#include <catch2/catch.hpp>
#include <engine/step_program.hpp>
#include <engine/weights.hpp>

#include <cstdint>
#include <variant>
#include <vector>

namespace oriel::test {

class host_step_weights {
 public:
  /// @pre both outlive it
  host_step_weights(const model_geometry& model, const engine::model_weights& weights)
      : model_(model), weights_(weights) {}

  [[nodiscard]] const model_geometry& model() const noexcept { return model_; }
  [[nodiscard]] const engine::model_weights& all() const noexcept { return weights_; }

  [[nodiscard]] bool is_main(std::uint32_t layer) const { return layer < model_.layers.size(); }
  [[nodiscard]] const layer_geometry& geometry_of(std::uint32_t layer) const {
    return is_main(layer) ? model_.layers[layer] : model_.mtp_layers[layer - model_.layers.size()];
  }
  [[nodiscard]] const engine::mtp_weights& block_of(std::uint32_t layer) const {
    return weights_.mtp[layer - model_.layers.size()];
  }
  [[nodiscard]] const engine::layer_weights& layer_of(std::uint32_t layer) const {
    return is_main(layer) ? weights_.layers[layer] : block_of(layer).layer;
  }
  [[nodiscard]] const engine::moe_weights& experts_of(std::uint32_t layer) const {
    return std::get<engine::moe_weights>(layer_of(layer).ffn);
  }
  [[nodiscard]] const std::vector<float>& vector_of(engine::weight_name name) const {
    using engine::weight_role;
    switch (name.role) {
      case weight_role::input_norm:
        return layer_of(name.layer).input_norm;
      case weight_role::post_attention_norm:
        return layer_of(name.layer).post_attention_norm;
      case weight_role::enorm:
        return block_of(name.layer).enorm;
      case weight_role::hnorm:
        return block_of(name.layer).hnorm;
      default:
        REQUIRE(name.role == weight_role::final_norm);
        return name.layer == engine::no_layer ? weights_.final_norm
                                              : block_of(name.layer).final_norm;
    }
  }
  [[nodiscard]] const engine::packed_matrix& matrix_of(engine::weight_name name) const {
    using engine::weight_role;
    switch (name.role) {
      case weight_role::qkv:
        return layer_of(name.layer).attention.qkv;
      case weight_role::o:
        return layer_of(name.layer).attention.o;
      case weight_role::gate_up:
        return std::get<engine::dense_ffn_weights>(layer_of(name.layer).ffn).gate_up;
      case weight_role::down:
        return std::get<engine::dense_ffn_weights>(layer_of(name.layer).ffn).down;
      case weight_role::router:
        return experts_of(name.layer).router;
      case weight_role::eh_proj:
        return block_of(name.layer).eh_proj;
      default:
        REQUIRE(name.role == weight_role::lm_head);
        return weights_.lm_head;
    }
  }

 private:
  const model_geometry& model_;
  const engine::model_weights& weights_;
};

}  // namespace oriel::test
