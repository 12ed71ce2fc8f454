// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/mutation.hpp>

#include <engine/step_program_builder.hpp>

#include <algorithm>

namespace oriel::engine {

std::uint32_t program_builder::rope_kind(const attention_geometry& a) {
  for (std::uint32_t i = 0; i < p_.ropes.size(); ++i) {
    const rope_shape& s = p_.ropes[i].shape;
    if (s.head_dim == a.head_dim_qk && s.rotary_dims == a.rotary_dims &&
        s.rope_base_dims == a.rope_base_dims && s.theta == a.rope_theta) {
      return i;
    }
  }
  p_.ropes.push_back(planned(host::plan_rope({.head_dim = a.head_dim_qk,
                                              .rotary_dims = a.rotary_dims,
                                              .rope_base_dims = a.rope_base_dims,
                                              .theta = a.rope_theta}),
                             "rope"));
  return static_cast<std::uint32_t>(p_.ropes.size() - 1);
}

/// One table for each kind of rope that layers [first_layer, end_layer) have; no_buffer for others.
std::vector<buffer_id> program_builder::rope_tables(buffer_id positions,
                                                    row_set rows,
                                                    std::size_t count,
                                                    std::uint32_t first_layer,
                                                    std::uint32_t end_layer) {
  std::vector<buffer_id> tables;
  for (std::uint32_t l = first_layer; l < end_layer; ++l) {
    const std::uint32_t kind = rope_kind(model_.layer(l).attention);
    tables.resize(std::max<std::size_t>(tables.size(), kind + std::size_t{1}), no_buffer);
    if (tables[kind] == no_buffer) {
      tables[kind] = add("rope table", p_.ropes[kind].table_size(count) * sizeof(float));
      p_.operations.emplace_back(rope_table_op{kind, positions, tables[kind], rows});
    }
  }
  return tables;
}

/// One for all sequences, or one for those with a few rows, whose splits over a long context are
/// computed apart, and one for the rest: shares of splits of all rows of a prompt would take
/// gigabytes, and a prompt has rows enough for the device.
std::vector<cuda::attention_plan> program_builder::attention_plans(const attention_shape& shape,
                                                                   const pass& r) const {
  cuda::attention_limits limits{.sequences_max = shape_.sequences,
                                .rows_max = r.count,
                                .rows_per_sequence_max = r.per_sequence,
                                .keys_max = model_.context_tokens,
                                .multiprocessors = model_.multiprocessors};
  std::vector<cuda::attention_plan> plans;
  if (r.per_sequence > model_.decode_rows_max && !ORIEL_MUTANT(few_rows_are_a_prompt)) {
    cuda::attention_limits few = limits;
    few.rows_per_sequence_max = model_.decode_rows_max;
    const auto plan = planned(cuda::plan_attention(shape, few), "attention");
    if (plan.splits_max != 0) {
      plans.push_back(plan);
      limits.rows_per_sequence_min = model_.decode_rows_max + 1;
    }
  }
  plans.push_back(planned(cuda::plan_attention(shape, limits), "attention"));
  return plans;
}

void program_builder::attention(std::uint32_t index, const pass& r) {
  const attention_geometry& a = model_.layer(index).attention;
  const std::uint32_t k_at = a.q_heads * a.head_dim_qk, v_at = k_at + a.kv_heads * a.head_dim_qk;
  const std::uint32_t width = v_at + a.kv_heads * a.head_dim_vo;
  const buffer_id sequences = r.sequences[model_.pool_of[index]];
  const attention_shape shape{.q_heads = a.q_heads,
                              .kv_heads = a.kv_heads,
                              .head_dim_qk = a.head_dim_qk,
                              .head_dim_vo = a.head_dim_vo,
                              .page_size = model_.page_size,
                              .window_tokens = a.window_tokens,
                              .kv = model_.kv};
  const weight_name qkv_weight{weight_role::qkv, index}, o_weight{weight_role::o, index};
  const operand_slice normed = operand("normed rows", qkv_weight, r.count, g_.hidden);
  norm({weight_role::input_norm, index}, r.x, normed, r.rows);
  const matrix_slice qkv = matrix("q, k, v", r.count, width);
  multiply(
      {.weight = qkv_weight, .n = width, .k = g_.hidden, .x = normed, .out = qkv, .rows = r.rows});
  // q and k heads lie side by side in a row, so one call rotates both.
  const std::uint32_t kind = rope_kind(a);
  const std::vector<cuda::attention_plan> plans = attention_plans(shape, r);
  const matrix_slice q =
      plans.front().q_type == qkv.type ? qkv : matrix("q", r.count, k_at, plans.front().q_type);
  p_.operations.emplace_back(
      rope_op{kind, a.q_heads, a.kv_heads, qkv, q, r.rope_tables[kind], r.rows});
  const bool skips_cached = shape_.kind == program_kind::forward && model_.pool_of[index] == 0;
  p_.operations.emplace_back(append_op{index,
                                       shape,
                                       columns_from(qkv, k_at),
                                       columns_from(qkv, v_at),
                                       skips_cached ? p_.inputs.written : sequences,
                                       r.rows});
  const std::uint32_t heads_width = a.q_heads * a.head_dim_vo;
  // Rows in e4m3 are quantised of f32: rounded before, they would be others.
  const bool is_rounded =
      !is_scaled(kind_of(o_weight)) || ORIEL_MUTANT(heads_are_rounded_before_they_are_quantised);
  const dtype heads_type = is_rounded ? model_.compute : dtype::f32;
  const matrix_slice heads = matrix("heads", r.count, heads_width, heads_type);
  for (const cuda::attention_plan& plan : plans) {
    p_.operations.emplace_back(attend_op{index,
                                         plan,
                                         q,
                                         heads,
                                         sequences,
                                         add("attention workspace", plan.workspace_bytes),
                                         r.rows});
  }
  multiply({.weight = o_weight,
            .n = g_.hidden,
            .k = heads_width,
            .x = as_operand(o_weight, heads, heads_width, r.rows),
            .out = r.x,
            .rows = r.rows,
            .accumulate = true});
}

}  // namespace oriel::engine
