// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/device_gemm.hpp>

#include <engine/scaled_products.hpp>

#include <cstdint>
#include <variant>

namespace oriel::engine {
namespace {

void add(product_kinds& kinds, weight_name name, const packed_matrix& matrix) {
  if (const product_kind kind = kind_of(matrix); kind != product_kind::plain) {
    kinds[name] = kind;
  }
}

void add_layer(product_kinds& kinds, std::uint32_t index, const layer_weights& w) {
  add(kinds, {weight_role::qkv, index}, w.attention.qkv);
  add(kinds, {weight_role::o, index}, w.attention.o);
  if (const auto* const dense = std::get_if<dense_ffn_weights>(&w.ffn)) {
    add(kinds, {weight_role::gate_up, index}, dense->gate_up);
    add(kinds, {weight_role::down, index}, dense->down);
  } else if (std::get<moe_weights>(w.ffn).gate_up_shape.weights == dtype::e4m3) {
    kinds[{weight_role::expert_gate_up, index}] = product_kind::grouped;
    kinds[{weight_role::expert_down, index}] = product_kind::grouped;
  }
}

}  // namespace

product_kind kind_of(const packed_matrix& matrix) noexcept {
  if (matrix.shape.weights != dtype::e4m3) {
    return product_kind::plain;
  }
  const bool is_plain =
      matrix.grid.rows.empty() && cuda::plan_block_scaled_gemm(matrix.shape, dtype::f32, 4);
  return is_plain ? product_kind::block_scaled : product_kind::grouped;
}

product_kinds scaled_products(const model_weights& weights) {
  product_kinds kinds;
  for (std::uint32_t l = 0; l < weights.layers.size(); ++l) {
    add_layer(kinds, l, weights.layers[l]);
  }
  add(kinds, {weight_role::lm_head}, weights.lm_head);
  for (std::uint32_t s = 0; s < weights.mtp.size(); ++s) {
    const auto index = static_cast<std::uint32_t>(weights.layers.size()) + s;
    add(kinds, {weight_role::eh_proj, index}, weights.mtp[s].eh_proj);
    add_layer(kinds, index, weights.mtp[s].layer);
  }
  return kinds;
}

}  // namespace oriel::engine
