// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kernels/draft_rows.hpp>
#include <oriel/kernels/quantize_rows.hpp>
#include <oriel/kernels/verify_chains.hpp>

#include <engine/error.hpp>
#include <engine/step_program.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

namespace oriel::engine {
namespace {

constexpr std::size_t alignment_bytes = 256;
constexpr std::uint32_t rows_least = 16;            // of a prompt's bucket
constexpr std::uint32_t product_rows_least = 1024;  // where products are order-fixed

/// Rows that were open before a decoding step with MTP blocks, at most. A multiple of 4, so that
/// the step's own, which stand behind them, begin at a multiple of 16 bytes whatever their width: a
/// product's algorithm may depend on that.
std::uint32_t carried_rows_of(const program_model& model, std::uint32_t sequences) noexcept {
  const std::uint32_t open = std::max(model.mtp_blocks, 1u) - 1;
  return (sequences * open + 3) / 4 * 4;
}

/// Products of scaled rows compute whole fours.
std::size_t in_fours(std::size_t rows) {
  return (rows + 3) / 4 * 4;
}

std::size_t aligned(std::size_t bytes) {
  return (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
}

/// A plan, or an engine::error that says for what there is none.
template <class Plan>
Plan planned(const result<Plan>& plan, const char* what) {
  if (!plan) {
    throw error(fmt::format(
        "no device kernel for {}: {} ({})", what, name_of(plan.error().code), plan.error().detail));
  }
  return *plan;
}

/// Gives every buffer its place: inputs, outputs, then scratch, the largest first, each at the
/// lowest offset that no buffer in use at the same time covers.
void place_buffers(step_program& p) {
  std::vector<program_buffer*> scratch, placed;
  std::size_t end = 0;
  const auto append = [&](buffer_role role) {
    for (program_buffer& b : p.buffers) {
      if (b.role == role) {
        b.offset_bytes = end;
        b.first_use = 0;
        b.last_use = p.operations.size();
        end += aligned(b.size_bytes);
      }
    }
  };
  append(buffer_role::input);
  p.input_bytes = end;
  append(buffer_role::output);
  p.output_bytes = end - p.input_bytes;
  p.memory_bytes = end;
  for (program_buffer& b : p.buffers) {
    if (b.role == buffer_role::scratch) {
      scratch.push_back(&b);
    }
  }
  std::ranges::stable_sort(scratch, std::ranges::greater(), &program_buffer::size_bytes);
  for (program_buffer* const b : scratch) {
    std::vector<const program_buffer*> met;
    for (const program_buffer* const other : placed) {
      if (other->first_use <= b->last_use && b->first_use <= other->last_use) {
        met.push_back(other);
      }
    }
    std::ranges::sort(met, {}, &program_buffer::offset_bytes);
    std::size_t at = end;
    for (const program_buffer* const other : met) {
      if (at + aligned(b->size_bytes) <= other->offset_bytes) {
        break;
      }
      at = std::max(at, other->offset_bytes + aligned(other->size_bytes));
    }
    b->offset_bytes = at;
    placed.push_back(b);
    p.memory_bytes = std::max(p.memory_bytes, at + aligned(b->size_bytes));
  }
}

void note_uses(step_program& p) {
  for (program_buffer& b : p.buffers) {
    b.first_use = p.operations.size();
    b.last_use = 0;
  }
  for (std::size_t i = 0; i < p.operations.size(); ++i) {
    visit_buffers(p.operations[i], [&](buffer_id id) {
      if (id != no_buffer) {
        program_buffer& b = p.buffers[static_cast<std::size_t>(id)];
        b.first_use = std::min(b.first_use, i);
        b.last_use = std::max(b.last_use, i);
      }
    });
  }
}

class builder {
 public:
  builder(const program_model& model, const program_shape& shape)
      : model_(model), g_(*model.geometry), shape_(shape) {
    p_.shape = shape;
  }

  step_program make();

 private:
  /// Rows that go through layers together.
  struct pass {
    row_set rows;
    std::uint32_t count, per_sequence;
    const std::vector<buffer_id>& sequences;  // [pools]
    matrix_slice x;                           // the residual stream
    std::vector<buffer_id> rope_tables;       // [ropes]
  };

  buffer_id add(const char* name, std::size_t bytes, buffer_role role = buffer_role::scratch) {
    p_.buffers.push_back({.name = name, .size_bytes = bytes, .role = role});
    return static_cast<buffer_id>(p_.buffers.size() - 1);
  }
  template <class T>
  buffer_id input(const char* name, std::size_t count) {
    return add(name, count * sizeof(T), buffer_role::input);
  }
  matrix_slice matrix(const char* name,
                      std::size_t rows,
                      std::size_t columns,
                      dtype type = dtype::f32,
                      buffer_role role = buffer_role::scratch) {
    return {add(name, in_fours(rows) * columns * size_bytes(type), role), type, 0, columns};
  }
  static matrix_slice columns_from(matrix_slice m, std::size_t column) {
    m.offset += column;
    return m;
  }

  std::vector<buffer_id> sequence_inputs(const char* name) {
    std::vector<buffer_id> ids;
    for (std::uint32_t pool = 0; pool < model_.pools(); ++pool) {
      ids.push_back(input<paged_sequence>(name, shape_.sequences));
    }
    return ids;
  }
  std::uint32_t rope_kind(const attention_geometry& a);
  std::vector<buffer_id> rope_tables(buffer_id positions,
                                     row_set rows,
                                     std::size_t count,
                                     std::uint32_t first_layer,
                                     std::uint32_t end_layer);
  /// `x` as a product of matrices reads it: itself, or rounded.
  matrix_slice operand(const matrix_slice& x, std::uint32_t width, std::size_t rows, row_set set);
  scaled_slice scaled(const char* name, std::size_t rows, std::size_t columns);
  /// `x` as a product with e4m3 weights reads it.
  scaled_slice scaled_operand(const matrix_slice& x,
                              std::uint32_t width,
                              std::size_t rows,
                              row_set set);
  void norm(weight_name weight, const matrix_slice& x, const matrix_slice& out, row_set rows) {
    p_.operations.emplace_back(norm_op{weight, x, out, rows});
  }
  /// How products over these rows are planned.
  struct product_limits {
    std::uint32_t rows_max;
    cuda::gemm_order order;
  };
  [[nodiscard]] product_limits product_limits_of(row_set rows) const {
    const auto count = static_cast<std::uint32_t>(p_.rows_of[static_cast<std::size_t>(rows)]);
    if (model_.product_rows == 0 || ORIEL_MUTANT(products_are_planned_for_their_bucket)) {
      return {count, cuda::gemm_order::fastest};
    }
    ORIEL_EXPECTS(count <= model_.product_rows);
    return {model_.product_rows, cuda::gemm_order::fixed};
  }
  void gemm(weight_name weight,
            std::uint32_t n,
            std::uint32_t k,
            const matrix_slice& x,
            const matrix_slice& out,
            bool accumulate,
            row_set rows) {
    const product_limits limits = product_limits_of(rows);
    const auto plan =
        planned(cuda::plan_gemm(
                    {.n = n, .k = k, .weights = x.type}, out.type, limits.rows_max, limits.order),
                "a product");
    program_buffer& workspace = p_.buffers[static_cast<std::size_t>(gemm_workspace_)];
    workspace.size_bytes = std::max(workspace.size_bytes, plan.workspace_bytes);
    p_.operations.emplace_back(gemm_op{weight, plan, x, out, accumulate, gemm_workspace_, rows});
  }
  [[nodiscard]] product_kind kind_of(weight_name weight) const {
    const auto found = model_.products.find(weight);
    return found == model_.products.end() ? product_kind::plain : found->second;
  }
  void scaled_gemm(weight_name weight,
                   std::uint32_t n,
                   std::uint32_t k,
                   const scaled_slice& x,
                   const matrix_slice& out,
                   bool accumulate,
                   row_set rows);
  /// A product with a matrix of weights, whatever its kind; `x` is brought into its form.
  void product(weight_name weight,
               std::uint32_t n,
               std::uint32_t k,
               const matrix_slice& x,
               const matrix_slice& out,
               bool accumulate,
               row_set rows) {
    const std::size_t count = p_.rows_of[static_cast<std::size_t>(rows)];
    if (kind_of(weight) == product_kind::plain) {
      gemm(weight, n, k, operand(x, k, count, rows), out, accumulate, rows);
    } else {
      scaled_gemm(weight, n, k, scaled_operand(x, k, count, rows), out, accumulate, rows);
    }
  }
  void layer(std::uint32_t index, const pass& rows);
  [[nodiscard]] std::vector<cuda::attention_plan> attention_plans(const attention_shape& shape,
                                                                  const pass& rows) const;
  void attention(std::uint32_t index, const pass& rows);
  void dense(std::uint32_t index, const pass& rows, const matrix_slice& normed);
  void experts(std::uint32_t index, const pass& rows, const matrix_slice& normed);
  matrix_slice head(weight_name norm_weight,
                    const matrix_slice& x,
                    std::size_t count,
                    row_set rows,
                    buffer_role role);
  void main_pass(const matrix_slice& x);
  void block(std::uint32_t s, const matrix_slice& told, buffer_id tokens, pass& rows);
  void make_forward();
  void make_draft();
  void make_decode();
  void sample(const matrix_slice& logits,
              buffer_id asked,
              buffer_id out,
              std::size_t first,
              std::uint32_t count,
              row_set rows);
  void draft_blocks(const matrix_slice& hiddens);

  const program_model& model_;
  const model_geometry& g_;
  const program_shape& shape_;
  step_program p_;
  buffer_id gemm_workspace_ = no_buffer;
};

std::uint32_t builder::rope_kind(const attention_geometry& a) {
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
std::vector<buffer_id> builder::rope_tables(buffer_id positions,
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

matrix_slice builder::operand(const matrix_slice& x,
                              std::uint32_t width,
                              std::size_t rows,
                              row_set set) {
  if (x.type == model_.compute) {
    return x;
  }
  const matrix_slice rounded = matrix("rounded rows", rows, width, dtype::bf16);
  p_.operations.emplace_back(round_op{width, x, rounded, set});
  return rounded;
}

/// One for all sequences, or one for those with a few rows, whose splits over a long context are
/// computed apart, and one for the rest: shares of splits of all rows of a prompt would take
/// gigabytes, and a prompt has rows enough for the device.
std::vector<cuda::attention_plan> builder::attention_plans(const attention_shape& shape,
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

scaled_slice builder::scaled(const char* name, std::size_t rows, std::size_t columns) {
  constexpr std::size_t row_unit = 16;  // bytes that products copy at a time
  const std::size_t stride = (columns + row_unit - 1) / row_unit * row_unit;
  const std::size_t groups = (columns + quantize_group - 1) / quantize_group;
  return {.values = matrix(name, rows, stride, dtype::e4m3),
          .scales = add("scales of rows", groups * in_fours(rows) * sizeof(float)),
          .scale_stride = in_fours(rows)};
}

scaled_slice builder::scaled_operand(const matrix_slice& x,
                                     std::uint32_t width,
                                     std::size_t rows,
                                     row_set set) {
  const scaled_slice out = scaled("e4m3 rows", rows, width);
  p_.operations.emplace_back(quantize_op{width, x, out, set});
  return out;
}

void builder::scaled_gemm(weight_name weight,
                          std::uint32_t n,
                          std::uint32_t k,
                          const scaled_slice& x,
                          const matrix_slice& out,
                          bool accumulate,
                          row_set rows) {
  const product_limits limits = product_limits_of(rows);
  const auto rows_max = static_cast<std::uint32_t>(in_fours(limits.rows_max));
  scaled_gemm_op op{weight, {}, x, out, accumulate, gemm_workspace_, rows};
  if (kind_of(weight) == product_kind::block_scaled) {
    const auto plan =
        planned(cuda::plan_block_scaled_gemm(
                    {.n = n, .k = k, .weights = dtype::e4m3}, out.type, rows_max, limits.order),
                "a product of e4m3");
    program_buffer& workspace = p_.buffers[static_cast<std::size_t>(gemm_workspace_)];
    workspace.size_bytes = std::max(workspace.size_bytes, plan.workspace_bytes);
    op.plan = plan;
  } else {
    // These have one order for any number of rows.
    const auto count = static_cast<std::uint32_t>(p_.rows_of[static_cast<std::size_t>(rows)]);
    op.plan = planned(
        cuda::plan_grouped_gemm({.groups = 1, .n = n, .k = k, .weights = dtype::e4m3},
                                {.rows_max = count, .multiprocessors = model_.multiprocessors}),
        "a product of e4m3");
  }
  p_.operations.emplace_back(op);
}

void builder::attention(std::uint32_t index, const pass& r) {
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
  const matrix_slice normed = matrix("normed rows", r.count, g_.hidden);
  norm({weight_role::input_norm, index}, r.x, normed, r.rows);
  const matrix_slice qkv = matrix("q, k, v", r.count, width);
  product({weight_role::qkv, index}, width, g_.hidden, normed, qkv, false, r.rows);
  // q and k heads lie side by side in a row, so one call rotates both.
  const std::uint32_t kind = rope_kind(a);
  p_.operations.emplace_back(
      rope_op{kind, a.q_heads + a.kv_heads, qkv, r.rope_tables[kind], r.rows});
  const bool skips_cached = shape_.kind == program_kind::forward && model_.pool_of[index] == 0;
  p_.operations.emplace_back(append_op{index,
                                       shape,
                                       columns_from(qkv, k_at),
                                       columns_from(qkv, v_at),
                                       skips_cached ? p_.inputs.written : sequences,
                                       r.rows});
  const std::uint32_t heads_width = a.q_heads * a.head_dim_vo;
  const matrix_slice heads = matrix("heads", r.count, heads_width);
  for (const cuda::attention_plan& plan : attention_plans(shape, r)) {
    p_.operations.emplace_back(attend_op{index,
                                         plan,
                                         qkv,
                                         heads,
                                         sequences,
                                         add("attention workspace", plan.workspace_bytes),
                                         r.rows});
  }
  product({weight_role::o, index}, g_.hidden, heads_width, heads, r.x, true, r.rows);
}

void builder::dense(std::uint32_t index, const pass& r, const matrix_slice& normed) {
  const std::uint32_t inter = model_.layer(index).ffn.intermediate;
  const matrix_slice gate_up = matrix("gate, up", r.count, 2 * std::size_t{inter}, model_.compute);
  product({weight_role::gate_up, index}, 2 * inter, g_.hidden, normed, gate_up, false, r.rows);
  p_.operations.emplace_back(swiglu_op{inter, gate_up, gate_up, r.rows});
  product({weight_role::down, index}, g_.hidden, inter, gate_up, r.x, true, r.rows);
}

void builder::experts(std::uint32_t index, const pass& r, const matrix_slice& normed) {
  const ffn_geometry& f = model_.layer(index).ffn;
  const std::size_t pairs = std::size_t{r.count} * f.top_k;
  const matrix_slice logits = matrix("router logits", r.count, f.experts);
  gemm({weight_role::router, index}, f.experts, g_.hidden, normed, logits, false, r.rows);
  const buffer_id ids = add("expert ids", pairs * sizeof(std::uint32_t));
  const buffer_id weights = add("expert weights", pairs * sizeof(float));
  p_.operations.emplace_back(route_op{index, logits, ids, weights, r.rows});
  const auto permute = planned(
      cuda::plan_moe_permute({.experts = f.experts, .top_k = f.top_k, .tokens_max = r.count}),
      "the permutation of experts");
  const bool is_scaled = kind_of({weight_role::expert_gate_up, index}) == product_kind::grouped;
  const scaled_slice x = is_scaled ? scaled_operand(normed, g_.hidden, r.count, r.rows)
                                   : scaled_slice{operand(normed, g_.hidden, r.count, r.rows)};
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

void builder::layer(std::uint32_t index, const pass& r) {
  attention(index, r);
  const matrix_slice normed = matrix("normed rows", r.count, g_.hidden);
  norm({weight_role::post_attention_norm, index}, r.x, normed, r.rows);
  model_.layer(index).ffn.is_moe() ? experts(index, r, normed) : dense(index, r, normed);
}

/// The last norm and the logits of rows that stand side by side.
matrix_slice builder::head(weight_name norm_weight,
                           const matrix_slice& x,
                           std::size_t count,
                           row_set rows,
                           buffer_role role) {
  const matrix_slice normed = matrix("normed rows", count, g_.hidden);
  norm(norm_weight, x, normed, rows);
  const matrix_slice logits = matrix("logits", count, g_.vocabulary, dtype::f32, role);
  product({weight_role::lm_head}, g_.vocabulary, g_.hidden, normed, logits, false, rows);
  return logits;
}

/// Embedding and the model's layers over the batch's rows, whose residual stream is `x`.
void builder::main_pass(const matrix_slice& x) {
  p_.operations.emplace_back(embed_op{p_.inputs.tokens, x, row_set::rows});
  const auto layers = static_cast<std::uint32_t>(g_.layers.size());
  const pass rows{
      .rows = row_set::rows,
      .count = shape_.rows,
      .per_sequence = shape_.kind == program_kind::decode ? 1 + shape_.drafts : shape_.rows,
      .sequences = p_.inputs.sequences,
      .x = x,
      .rope_tables = rope_tables(p_.inputs.positions, row_set::rows, shape_.rows, 0, layers)};
  for (std::uint32_t l = 0; l < layers; ++l) {
    layer(l, rows);
  }
}

void builder::make_forward() {
  p_.inputs.written = input<paged_sequence>("written rows", shape_.sequences);
  p_.inputs.logit_rows = input<std::uint32_t>("logit rows", shape_.logit_rows);
  const matrix_slice x =
      matrix("residual stream", shape_.rows, g_.hidden, dtype::f32, buffer_role::output);
  p_.outputs.hidden = x.buffer;
  main_pass(x);
  if (shape_.logit_rows != 0) {
    const matrix_slice last = matrix("last rows", shape_.logit_rows, g_.hidden);
    p_.operations.emplace_back(
        gather_op{g_.hidden, x, p_.inputs.logit_rows, last, row_set::logit_rows});
    p_.outputs.logits = head({weight_role::final_norm},
                             last,
                             shape_.logit_rows,
                             row_set::logit_rows,
                             buffer_role::output)
                            .buffer;
  }
}

/// One MTP block over rows that are told `told`; leaves its residual stream in rows.x.
void builder::block(std::uint32_t s, const matrix_slice& told, buffer_id tokens, pass& r) {
  const std::uint32_t index = static_cast<std::uint32_t>(g_.layers.size()) + s;
  const matrix_slice embedded = matrix("embedded rows", r.count, g_.hidden);
  p_.operations.emplace_back(embed_op{tokens, embedded, r.rows});
  // [rows, 2 * hidden]: embedding first, hidden second.
  const matrix_slice pair = matrix("embedding, hidden", r.count, 2 * std::size_t{g_.hidden});
  norm({weight_role::enorm, index}, embedded, pair, r.rows);
  norm({weight_role::hnorm, index}, told, columns_from(pair, g_.hidden), r.rows);
  product({weight_role::eh_proj, index}, g_.hidden, 2 * g_.hidden, pair, r.x, false, r.rows);
  layer(index, r);
}

void builder::make_draft() {
  const std::uint32_t index = static_cast<std::uint32_t>(g_.layers.size()) + shape_.block;
  p_.inputs.logit_rows = input<std::uint32_t>("logit rows", shape_.logit_rows);
  p_.inputs.hidden = input<float>("hidden states", std::size_t{shape_.rows} * g_.hidden);
  const matrix_slice x =
      matrix("residual stream", shape_.rows, g_.hidden, dtype::f32, buffer_role::output);
  p_.outputs.hidden = x.buffer;
  pass rows{.rows = row_set::rows,
            .count = shape_.rows,
            .per_sequence = shape_.rows,
            .sequences = p_.inputs.sequences,
            .x = x,
            .rope_tables =
                rope_tables(p_.inputs.positions, row_set::rows, shape_.rows, index, index + 1)};
  const matrix_slice told{p_.inputs.hidden, dtype::f32, 0, g_.hidden};
  block(shape_.block, told, p_.inputs.tokens, rows);
  if (shape_.logit_rows != 0) {
    const matrix_slice last = matrix("last rows", shape_.logit_rows, g_.hidden);
    p_.operations.emplace_back(
        gather_op{g_.hidden, x, p_.inputs.logit_rows, last, row_set::logit_rows});
    p_.outputs.logits = head({weight_role::final_norm, index},
                             last,
                             shape_.logit_rows,
                             row_set::logit_rows,
                             buffer_role::output)
                            .buffer;
  }
}

void builder::sample(const matrix_slice& logits,
                     buffer_id asked,
                     buffer_id out,
                     std::size_t first,
                     std::uint32_t count,
                     row_set rows) {
  const auto plan = planned(cuda::plan_sample(g_.vocabulary, count), "sampling");
  p_.operations.emplace_back(sample_op{
      plan, logits, asked, out, add("sampling workspace", plan.workspace_bytes), first, rows});
}

/// Every MTP block over the rows that were open before the step and those it computed.
/// @param hiddens  [carried_rows + rows, hidden]
void builder::draft_blocks(const matrix_slice& hiddens) {
  program_inputs& in = p_.inputs;
  const std::size_t carried = p_.rows_of[static_cast<std::size_t>(row_set::carried_rows)];
  const auto count =
      static_cast<std::uint32_t>(p_.rows_of[static_cast<std::size_t>(row_set::draft_rows)]);
  const auto first_layer = static_cast<std::uint32_t>(g_.layers.size());
  in.carried = input<float>("carried hidden states", carried * g_.hidden);
  in.carried_index = input<std::uint32_t>("carried rows", carried);
  in.told_index = input<std::uint32_t>("told rows", count);
  in.draft_positions = input<std::uint32_t>("draft positions", count);
  in.draft_sequences = sequence_inputs("draft sequences");
  in.draft_spans = input<draft_span>("draft spans", shape_.sequences);
  in.known = input<token_id>("known tokens", carried);
  in.greedy_rows = input<sample_row>("how drafts are chosen", shape_.sequences);
  p_.outputs.drafted =
      add("drafted",
          std::size_t{model_.mtp_blocks} * shape_.sequences * sizeof(sampled_token),
          buffer_role::output);
  const matrix_slice front{hiddens.buffer, dtype::f32, 0, g_.hidden};
  p_.operations.emplace_back(gather_op{g_.hidden,
                                       {in.carried, dtype::f32, 0, g_.hidden},
                                       in.carried_index,
                                       front,
                                       row_set::carried_rows});
  matrix_slice told = matrix("told rows", count, g_.hidden);
  p_.operations.emplace_back(gather_op{g_.hidden, front, in.told_index, told, row_set::draft_rows});
  const std::vector<buffer_id> tables = rope_tables(
      in.draft_positions, row_set::draft_rows, count, first_layer, first_layer + model_.mtp_blocks);
  for (std::uint32_t s = 0; s < model_.mtp_blocks; ++s) {
    const buffer_id tokens = add("draft tokens", count * sizeof(token_id));
    const buffer_id last = add("draft logit rows", shape_.sequences * sizeof(std::uint32_t));
    p_.operations.emplace_back(draft_rows_op{.block = s,
                                             .spans = in.draft_spans,
                                             .known = in.known,
                                             .verdicts = p_.outputs.verdicts,
                                             .sampled = p_.outputs.sampled,
                                             .drafted = p_.outputs.drafted,
                                             .tokens = tokens,
                                             .logit_rows = last});
    pass rows{.rows = row_set::draft_rows,
              .count = count,
              .per_sequence = model_.mtp_blocks + shape_.drafts,
              .sequences = in.draft_sequences,
              .x = matrix("draft residual stream", count, g_.hidden),
              .rope_tables = tables};
    block(s, told, tokens, rows);
    const matrix_slice said = matrix("last rows", shape_.sequences, g_.hidden);
    p_.operations.emplace_back(gather_op{g_.hidden, rows.x, last, said, row_set::sequences});
    const matrix_slice logits = head({weight_role::final_norm, first_layer + s},
                                     said,
                                     shape_.sequences,
                                     row_set::sequences,
                                     buffer_role::scratch);
    sample(logits,
           in.greedy_rows,
           p_.outputs.drafted,
           std::size_t{s} * shape_.sequences,
           shape_.sequences,
           row_set::sequences);
    told = model_.chains_hidden ? rows.x : told;
  }
}

void builder::make_decode() {
  program_inputs& in = p_.inputs;
  const std::size_t carried = p_.rows_of[static_cast<std::size_t>(row_set::carried_rows)];
  in.sample_rows = input<sample_row>("how rows are sampled", shape_.rows);
  in.chains = input<verify_chain>("chains", shape_.sequences);
  in.drafts = input<token_id>("drafts", std::size_t{shape_.sequences} * shape_.drafts);
  p_.outputs.sampled = add("sampled", shape_.rows * sizeof(sampled_token), buffer_role::output);
  p_.outputs.verdicts =
      add("verdicts", shape_.sequences * sizeof(chain_verdict), buffer_role::output);
  const bool keeps_hidden = model_.mtp_blocks != 0;
  matrix_slice hiddens = matrix("residual stream",
                                carried + in_fours(shape_.rows),
                                g_.hidden,
                                dtype::f32,
                                keeps_hidden ? buffer_role::output : buffer_role::scratch);
  p_.outputs.hidden = keeps_hidden ? hiddens.buffer : no_buffer;
  hiddens.offset = carried * g_.hidden;
  main_pass(hiddens);
  const matrix_slice logits =
      head({weight_role::final_norm}, hiddens, shape_.rows, row_set::rows, buffer_role::scratch);
  sample(logits, in.sample_rows, p_.outputs.sampled, 0, shape_.rows, row_set::rows);
  p_.operations.emplace_back(
      verify_op{in.chains, p_.outputs.sampled, in.drafts, p_.outputs.verdicts});
  if (shape_.drafts_next) {
    draft_blocks(hiddens);
  }
}

step_program builder::make() {
  ORIEL_EXPECTS(shape_.sequences != 0 && shape_.rows != 0);
  const auto set = [&](row_set rows) -> std::size_t& {
    return p_.rows_of[static_cast<std::size_t>(rows)];
  };
  set(row_set::rows) = shape_.rows;
  set(row_set::logit_rows) = shape_.kind == program_kind::decode ? shape_.rows : shape_.logit_rows;
  set(row_set::sequences) = shape_.sequences;
  if (shape_.drafts_next) {
    set(row_set::carried_rows) = carried_rows_of(model_, shape_.sequences);
    set(row_set::draft_rows) = set(row_set::carried_rows) + shape_.rows;
  }
  p_.inputs.row_counts = input<std::uint32_t>("row counts", row_sets);
  p_.inputs.tokens = input<token_id>("tokens", shape_.rows);
  p_.inputs.positions = input<std::uint32_t>("positions", shape_.rows);
  p_.inputs.sequences = sequence_inputs("sequences");
  gemm_workspace_ = add("workspace of products", 0);
  switch (shape_.kind) {
    case program_kind::forward:
      make_forward();
      break;
    case program_kind::draft:
      make_draft();
      break;
    case program_kind::decode:
      make_decode();
      break;
  }
  note_uses(p_);
  place_buffers(p_);
  return std::move(p_);
}

}  // namespace

std::uint32_t program_model::pools() const noexcept {
  std::uint32_t pools = 0;
  for (const std::uint32_t pool : pool_of) {
    pools = std::max(pools, pool + 1);
  }
  return pools;
}

program_shape bucket_of(const program_shape& shape, const program_shape& most) {
  const auto up_to = [](std::uint32_t wanted, std::uint32_t limit) {
    return std::min(wanted, limit);
  };
  program_shape bucket = shape;
  const std::uint32_t sequences =
      shape.sequences <= 8 ? std::bit_ceil(shape.sequences) : (shape.sequences + 7) / 8 * 8;
  bucket.sequences = up_to(sequences, most.sequences);
  if (shape.kind == program_kind::decode) {
    bucket.rows = bucket.sequences * (1 + shape.drafts);
    bucket.logit_rows = bucket.rows;
    return bucket;
  }
  bucket.rows = up_to(std::bit_ceil(std::max(shape.rows, rows_least)), most.rows);
  bucket.logit_rows =
      shape.logit_rows == 0 ? 0 : up_to(std::bit_ceil(shape.logit_rows), most.logit_rows);
  return bucket;
}

std::uint32_t order_fixed_rows(const program_model& model,
                               const program_shape& most,
                               std::uint32_t drafts_max) noexcept {
  const std::uint32_t decoding = most.sequences * (1 + drafts_max);
  return std::bit_ceil(std::max({most.rows,
                                 most.logit_rows,
                                 carried_rows_of(model, most.sequences) + decoding,
                                 product_rows_least}));
}

step_program make_program(const program_model& model, const program_shape& shape) {
  return builder(model, shape).make();
}

}  // namespace oriel::engine
