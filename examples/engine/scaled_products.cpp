// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/device_gemm.hpp>

#include <engine/scaled_products.hpp>
#include <engine/weight_rows.hpp>

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

product_kind kind_of_e4m3(const gemm_shape& shape, bool has_row_map) noexcept {
  const bool is_plain = !has_row_map && cuda::plan_block_scaled_gemm(shape, dtype::f32, 4);
  return is_plain ? product_kind::block_scaled : product_kind::grouped;
}

void add(kept_matrices& kept, weight_name name, const matrix_rows& matrix) {
  if (!weight_rows::is_e4m3(matrix)) {
    return;
  }
  gemm_shape shape{.n = 0, .k = matrix.front().columns, .weights = dtype::e4m3};
  for (const row_range& range : matrix) {
    shape.n += range.rows;
  }
  const scale_places places = weight_rows::places_of(matrix);
  const bool has_row_map = !places.rows.empty();
  kept[name] = {kind_of_e4m3(shape, has_row_map), places.scales, has_row_map};
}

void add_layer(kept_matrices& kept, std::uint32_t index, const layer_layout& from) {
  add(kept, {weight_role::qkv, index}, from.attention.qkv);
  add(kept, {weight_role::o, index}, from.attention.o);
  if (const auto* const dense = std::get_if<ffn_layout>(&from.ffn)) {
    add(kept, {weight_role::gate_up, index}, dense->gate_up);
    add(kept, {weight_role::down, index}, dense->down);
  } else if (weight_rows::is_e4m3(std::get<moe_layout>(from.ffn))) {
    kept[{weight_role::expert_gate_up, index}] = {};
    kept[{weight_role::expert_down, index}] = {};
  }
}

}  // namespace

product_kind kind_of(const packed_matrix& matrix) noexcept {
  return matrix.shape.weights != dtype::e4m3
             ? product_kind::plain
             : kind_of_e4m3(matrix.shape, !matrix.grid.rows.empty());
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

kept_matrices kept_in_e4m3(const checkpoint& opened, dtype compute) {
  kept_matrices kept;
  if (compute != dtype::bf16) {
    return kept;
  }
  const checkpoint_layout& layout = opened.layout;
  for (std::uint32_t l = 0; l < layout.layers.size(); ++l) {
    add_layer(kept, l, layout.layers[l]);
  }
  add(kept, {weight_role::lm_head}, layout.lm_head);
  for (std::uint32_t s = 0; s < layout.mtp.size(); ++s) {
    const auto index = static_cast<std::uint32_t>(layout.layers.size()) + s;
    add(kept, {weight_role::eh_proj, index}, layout.mtp[s].eh_proj);
    add_layer(kept, index, layout.mtp[s].layer);
  }
  return kept;
}

product_kinds kinds_of(const kept_matrices& kept) {
  product_kinds kinds;
  for (const auto& [name, matrix] : kept) {
    kinds[name] = matrix.kind;
  }
  return kinds;
}

}  // namespace oriel::engine
