// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/step_program_builder.hpp>

namespace oriel::engine {

void program_builder::dense(std::uint32_t index, const pass& r, const matrix_slice& normed) {
  const std::uint32_t inter = model_.layer(index).ffn.intermediate;
  const matrix_slice gate_up = matrix("gate, up", r.count, 2 * std::size_t{inter}, model_.compute);
  multiply({.weight = {weight_role::gate_up, index},
            .n = 2 * inter,
            .k = g_.hidden,
            .x = normed,
            .out = gate_up,
            .rows = r.rows});
  p_.operations.emplace_back(swiglu_op{inter, gate_up, gate_up, r.rows});
  multiply({.weight = {weight_role::down, index},
            .n = g_.hidden,
            .k = inter,
            .x = gate_up,
            .out = r.x,
            .rows = r.rows,
            .accumulate = true});
}

void program_builder::experts(std::uint32_t index, const pass& r, const matrix_slice& normed) {
  const ffn_geometry& f = model_.layer(index).ffn;
  const std::size_t pairs = std::size_t{r.count} * f.top_k;
  const matrix_slice logits = matrix("router logits", r.count, f.experts);
  gemm({.weight = {weight_role::router, index},
        .n = f.experts,
        .k = g_.hidden,
        .x = normed,
        .out = logits,
        .rows = r.rows},
       normed);
  const buffer_id ids = add("expert ids", pairs * sizeof(std::uint32_t));
  const buffer_id weights = add("expert weights", pairs * sizeof(float));
  p_.operations.emplace_back(route_op{index, logits, ids, weights, r.rows});
  const auto permute = planned(
      cuda::plan_moe_permute({.experts = f.experts, .top_k = f.top_k, .tokens_max = r.count}),
      "the permutation of experts");
  const bool is_scaled = kind_of({weight_role::expert_gate_up, index}) == product_kind::grouped;
  const scaled_slice x = is_scaled ? scaled_operand(normed, g_.hidden, r.rows)
                                   : scaled_slice{operand(normed, g_.hidden, r.rows)};
  p_.operations.emplace_back(
      experts_op{.layer = index,
                 .permute = permute,
                 .type = is_scaled ? dtype::e4m3 : model_.compute,
                 .x = x,
                 .ids = ids,
                 .weights = weights,
                 .out = r.x,
                 .permutation = add("permutation", permute.workspace_bytes),
                 .act = matrix("experts' activations", pairs, f.intermediate, model_.compute),
                 .act_e4m3 = is_scaled ? scaled("experts' e4m3 activations", pairs, f.intermediate)
                                       : scaled_slice{},
                 .y = matrix("experts' outputs", pairs, g_.hidden),
                 .rows = r.rows,
                 .multiprocessors = model_.multiprocessors});
}

void program_builder::layer(std::uint32_t index, const pass& r) {
  attention(index, r);
  const matrix_slice normed = matrix("normed rows", r.count, g_.hidden);
  norm({weight_role::post_attention_norm, index}, r.x, normed, r.rows);
  model_.layer(index).ffn.is_moe() ? experts(index, r, normed) : dense(index, r, normed);
}

/// The last norm and the logits of rows that stand side by side.
matrix_slice program_builder::head(weight_name norm_weight,
                                   const matrix_slice& x,
                                   std::size_t count,
                                   row_set rows,
                                   buffer_role role) {
  const matrix_slice normed = matrix("normed rows", count, g_.hidden);
  norm(norm_weight, x, normed, rows);
  const matrix_slice logits = matrix("logits", count, g_.vocabulary, dtype::f32, role);
  multiply({.weight = {weight_role::lm_head},
            .n = g_.vocabulary,
            .k = g_.hidden,
            .x = normed,
            .out = logits,
            .rows = rows});
  return logits;
}

}  // namespace oriel::engine
