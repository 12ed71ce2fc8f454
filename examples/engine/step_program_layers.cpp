// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/step_program_builder.hpp>

namespace oriel::engine {

void program_builder::dense(std::uint32_t index, const pass& r) {
  const std::uint32_t inter = model_.layer(index).ffn.intermediate;
  const weight_name gate_up_weight{weight_role::gate_up, index},
      down_weight{weight_role::down, index};
  const operand_slice normed = operand("normed rows", gate_up_weight, r.count, g_.hidden);
  norm({weight_role::post_attention_norm, index}, r.x, normed, r.rows);
  const matrix_slice gate_up = matrix("gate, up", r.count, 2 * std::size_t{inter}, model_.compute);
  multiply({.weight = gate_up_weight,
            .n = 2 * inter,
            .k = g_.hidden,
            .x = normed,
            .out = gate_up,
            .rows = r.rows});
  // An operand that has no scales goes over the gates.
  const operand_slice act = is_scaled(kind_of(down_weight))
                                ? scaled("e4m3 activations", r.count, inter)
                                : operand_slice{gate_up};
  p_.operations.emplace_back(swiglu_op{inter, gate_up, act, r.rows});
  multiply({.weight = down_weight,
            .n = g_.hidden,
            .k = inter,
            .x = act,
            .out = r.x,
            .rows = r.rows,
            .accumulate = true});
}

void program_builder::experts(std::uint32_t index, const pass& r) {
  const ffn_geometry& f = model_.layer(index).ffn;
  const std::size_t pairs = std::size_t{r.count} * f.top_k;
  // The experts' operand. The router reads rows as a plain product does.
  const operand_slice x =
      operand("normed rows", {weight_role::expert_gate_up, index}, r.count, g_.hidden);
  const bool is_scaled = x.values.type == dtype::e4m3;
  norm_op normed{{weight_role::post_attention_norm, index}, r.x, x, {}, r.rows};
  if (is_scaled) {
    normed.plain = matrix("the router's rows", r.count, g_.hidden, model_.compute);
  }
  p_.operations.emplace_back(normed);
  const matrix_slice logits = matrix("router logits", r.count, f.experts);
  p_.operations.emplace_back(router_op{
      .layer = index,
      .plan = planned(cuda::plan_router_logits({f.experts, g_.hidden}, r.count), "the router"),
      .x = is_scaled ? normed.plain : x.values,
      .logits = logits,
      .rows = r.rows});
  const buffer_id ids = add("expert ids", pairs * sizeof(std::uint32_t));
  const buffer_id weights = add("expert weights", pairs * sizeof(float));
  p_.operations.emplace_back(route_op{index, logits, ids, weights, r.rows});
  const auto permute = planned(
      cuda::plan_moe_permute({.experts = f.experts, .top_k = f.top_k, .tokens_max = r.count}),
      "the permutation of experts");
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
                                       : operand_slice{},
                 .y = matrix("experts' outputs", pairs, g_.hidden),
                 .rows = r.rows,
                 .multiprocessors = model_.multiprocessors});
}

void program_builder::layer(std::uint32_t index, const pass& r) {
  attention(index, r);
  model_.layer(index).ffn.is_moe() ? experts(index, r) : dense(index, r);
}

/// The last norm and the logits of rows that stand side by side.
matrix_slice program_builder::head(weight_name norm_weight,
                                   const matrix_slice& x,
                                   std::size_t count,
                                   row_set rows,
                                   buffer_role role) {
  const operand_slice normed = operand("normed rows", {weight_role::lm_head}, count, g_.hidden);
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
