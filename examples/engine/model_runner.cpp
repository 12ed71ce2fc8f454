// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <engine/error.hpp>
#include <engine/model_runner.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <variant>

namespace oriel::engine {
namespace {

/// A plan, or an engine::error that says for what there is none.
template <class Plan>
Plan plan_of(const result<Plan>& plan, const char* what) {
  if (!plan) {
    throw error(fmt::format(
        "no kernel for {}: {} ({})", what, name_of(plan.error().code), plan.error().detail));
  }
  return *plan;
}

std::size_t heads_width(const attention_geometry& a) {
  return std::size_t{a.q_heads} * std::max(a.head_dim_qk, a.head_dim_vo);
}

std::uint32_t qkv_width(const attention_geometry& a) {
  return (a.q_heads + a.kv_heads) * a.head_dim_qk + a.kv_heads * a.head_dim_vo;
}

float* floats(aligned_bytes& bytes) {
  return reinterpret_cast<float*>(bytes.data());
}

/// The part of a sequence's rows at `position` and behind it.
paged_sequence rows_from(paged_sequence s, std::uint32_t position) {
  const std::uint32_t before =
      position > s.first_position ? std::min(s.rows, position - s.first_position) : 0;
  s.first_position += before;
  s.rows -= before;
  return s;
}

/// Moves `rows` rows of `width` elements forward, from row `from` to row `to` <= from.
template <class T>
void move_rows(T* values, std::size_t width, std::size_t from, std::size_t to, std::size_t rows) {
  std::copy_n(values + from * width, rows * width, values + to * width);
}

aligned_bytes make_floats(std::size_t count) {
  return aligned_bytes{count * sizeof(float)};
}

}  // namespace

model_runner::model_runner(const model_geometry& model,
                           const model_weights& weights,
                           std::span<const pool_layer> layers_kv,
                           std::uint32_t page_size,
                           dtype kv,
                           const runner_limits& limits,
                           executor_ref executor)
    : model_(model),
      weights_(weights),
      layers_kv_(layers_kv.begin(), layers_kv.end()),
      page_size_(page_size),
      kv_(kv),
      limits_(limits),
      executor_(executor) {
  const std::size_t mtp_blocks = layers_kv_.size() - model.layers.size();
  ORIEL_EXPECTS(layers_kv_.size() >= model.layers.size() && mtp_blocks <= weights.mtp.size());
  layers_ = model.layers;
  layers_.insert(layers_.end(),
                 model.mtp_layers.begin(),
                 model.mtp_layers.begin() + static_cast<std::ptrdiff_t>(mtp_blocks));
  const std::uint32_t threads = executor.concurrency();
  embed_ =
      plan_of(host::plan_embed({model.vocabulary, model.hidden, weights.compute}, weights.path),
              "the embedding");
  norm_ =
      plan_of(host::plan_rms_norm(
                  {model.hidden, static_cast<float>(model.rms_eps), weights.compute}, weights.path),
              "the norms");
  lm_head_ = plan_of(
      host::plan_gemm(
          weights.lm_head.shape, limits.logit_rows_max, threads, weights.path, weights.backend),
      "lm_head");
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const bool is_main = l < model.layers.size();
    plan_layer(layers_[l],
               is_main ? weights.layers[l] : weights.mtp[l - model.layers.size()].layer);
  }
  for (std::size_t s = 0; s < mtp_blocks; ++s) {
    eh_proj_.push_back(plan_of(
        host::plan_gemm(
            weights.mtp[s].eh_proj.shape, limits.rows_max, threads, weights.path, weights.backend),
        "eh_proj"));
  }
  take_memory();
}

void model_runner::take_memory() {
  const std::size_t rows = limits_.rows_max;
  std::size_t qkv = 0, heads = 0, dense = 0, experts = 0, pairs = 0;
  std::size_t workspace = lm_head_.workspace_bytes;
  const auto need = [&](const auto& plan) {
    workspace = std::max(workspace, plan.workspace_bytes);
  };
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const layer_geometry& g = layers_[l];
    const layer_plans& p = plans_[l];
    qkv = std::max<std::size_t>(qkv, qkv_width(g.attention));
    heads = std::max(heads, heads_width(g.attention));
    need(p.attention.qkv);
    need(p.attention.o);
    need(p.attention.attention);
    if (g.ffn.is_moe()) {
      experts = std::max<std::size_t>(experts, g.ffn.experts);
      pairs = std::max<std::size_t>(pairs, g.ffn.top_k);
      need(p.ffn.router);
      need(p.ffn.experts);
    } else {
      dense = std::max<std::size_t>(dense, g.ffn.intermediate);
      need(p.ffn.gate_up);
      need(p.ffn.down);
    }
  }
  for (const host::gemm_plan& plan : eh_proj_) {
    need(plan);
  }
  const std::size_t hidden = rows * model_.hidden;
  hidden_ = make_floats(hidden);
  normed_ = make_floats(hidden);
  qkv_ = make_floats(rows * qkv);
  heads_ = make_floats(rows * heads);
  gate_up_ = make_floats(rows * 2 * dense);
  ffn_out_ = make_floats(experts != 0 ? hidden : 0);
  router_ = make_floats(rows * experts);
  logits_ = make_floats(std::size_t{limits_.logit_rows_max} * model_.vocabulary);
  workspace_ = aligned_bytes{workspace};
  mtp_hidden_ = make_floats(eh_proj_.empty() ? 0 : hidden);
  mtp_input_ = make_floats(eh_proj_.empty() ? 0 : 2 * hidden);
  expert_ids_.resize(rows * pairs);
  expert_weights_.resize(rows * pairs);
  tokens_.reserve(rows);
  positions_.reserve(rows);
  for (rope_kind& kind : rope_) {
    kind.table.resize(kind.plan.table_size(rows));
  }
  std::uint32_t tables = 0;
  for (const pool_layer& layer : layers_kv_) {
    tables = std::max(tables, to_index(layer.pool) + 1);
  }
  tables_.resize(tables);
  for (auto& table : tables_) {
    table.reserve(limits_.sequences_max);
  }
  heals_.reserve(limits_.sequences_max);
  gates_.reserve(limits_.sequences_max);
  is_cut_off_.reserve(limits_.sequences_max);
  outputs_.reserve(limits_.sequences_max);
  hidden_of_.reserve(limits_.sequences_max);
}

/// The rope kind of a layer; layers that rotate alike share one table.
std::size_t model_runner::rope_index(const attention_geometry& a) {
  for (std::size_t i = 0; i < rope_.size(); ++i) {
    const rope_shape& s = rope_[i].plan.shape;
    if (s.head_dim == a.head_dim_qk && s.rotary_dims == a.rotary_dims &&
        s.rope_base_dims == a.rope_base_dims && s.theta == a.rope_theta) {
      return i;
    }
  }
  rope_.push_back({plan_of(host::plan_rope({.head_dim = a.head_dim_qk,
                                            .rotary_dims = a.rotary_dims,
                                            .rope_base_dims = a.rope_base_dims,
                                            .theta = a.rope_theta}),
                           "rope"),
                   {}});
  return rope_.size() - 1;
}

void model_runner::plan_layer(const layer_geometry& layer, const layer_weights& weights) {
  const isa path = weights_.path;
  const host::gemm_backend backend = weights_.backend;
  const std::uint32_t rows = limits_.rows_max, threads = executor_.concurrency();
  const auto gemm = [&](const packed_matrix& w, const char* what) {
    return plan_of(host::plan_gemm(w.shape, rows, threads, path, backend), what);
  };
  layer_plans p{};
  const attention_geometry& a = layer.attention;
  p.attention.qkv = gemm(weights.attention.qkv, "the q, k and v projection");
  p.attention.o = gemm(weights.attention.o, "the output projection");
  p.attention.rope = rope_index(a);
  p.attention.attention = plan_of(host::plan_attention({.q_heads = a.q_heads,
                                                        .kv_heads = a.kv_heads,
                                                        .head_dim_qk = a.head_dim_qk,
                                                        .head_dim_vo = a.head_dim_vo,
                                                        .page_size = page_size_,
                                                        .window_tokens = a.window_tokens,
                                                        .kv = kv_},
                                                       rows,
                                                       threads,
                                                       path),
                                  "attention");
  plan_ffn(layer, weights, p.ffn);
  plans_.push_back(std::move(p));
}

void model_runner::plan_ffn(const layer_geometry& layer,
                            const layer_weights& weights,
                            ffn_plans& plans) {
  const isa path = weights_.path;
  const host::gemm_backend backend = weights_.backend;
  const std::uint32_t rows = limits_.rows_max, threads = executor_.concurrency();
  const auto gemm = [&](const packed_matrix& w, const char* what) {
    return plan_of(host::plan_gemm(w.shape, rows, threads, path, backend), what);
  };
  if (const auto* dense = std::get_if<dense_ffn_weights>(&weights.ffn)) {
    plans.gate_up = gemm(dense->gate_up, "the gate and up projection");
    plans.down = gemm(dense->down, "the down projection");
    plans.swiglu =
        plan_of(host::plan_swiglu({layer.ffn.intermediate, weights_.compute}, path), "swiglu");
    return;
  }
  const auto& moe = std::get<moe_weights>(weights.ffn);
  plans.router = gemm(moe.router, "the router");
  plans.route =
      plan_of(host::plan_moe_route({.experts = layer.ffn.experts,
                                    .top_k = layer.ffn.top_k,
                                    .groups = model_.expert_groups,
                                    .kept_groups = model_.expert_groups_kept,
                                    .normalize = model_.norm_topk_prob,
                                    .scale = static_cast<float>(model_.routed_scaling_factor)},
                                   path),
              "expert routing");
  plans.experts = plan_of(host::plan_moe_gemm({.hidden = model_.hidden,
                                               .inter = layer.ffn.intermediate,
                                               .experts = layer.ffn.experts,
                                               .top_k = layer.ffn.top_k,
                                               .weights = weights_.compute,
                                               .activation = weights_.compute},
                                              rows,
                                              threads,
                                              path,
                                              backend),
                          "the experts");
  for (std::size_t e = 0; e < layer.ffn.experts; ++e) {
    plans.gate_up_of.push_back(moe.gate_up.data() + e * moe.gate_up_stride_bytes);
    plans.down_of.push_back(moe.down.data() + e * moe.down_stride_bytes);
  }
}

std::span<const float> model_runner::forward(std::span<const step_rows> batch) {
  start_batch(batch);
  float* x = floats(hidden_);
  host::run_embed(embed_, {x, model_.hidden, weights_.embedding.data(), tokens_}, executor_);
  for (std::size_t l = 0; l < model_.layers.size() && rows_ != 0; ++l) {
    run_layer(l, weights_.layers[l], x);
  }
  for (std::size_t l = model_.layers.size(); l < layers_.size() && rows_ != 0; ++l) {
    drop_rows_without_kv(l, x, nullptr, 0);  // What comes for MTP blocks has come, or nothing has.
  }
  note_hidden_rows();
  const std::span<const float> logits = run_head(batch, x, weights_.final_norm);
  if (ORIEL_MUTANT(blocks_are_told_normed_hidden)) {
    norm(weights_.final_norm, x, x, model_.hidden, rows_);
  }
  return logits;
}

void model_runner::note_hidden_rows() {
  hidden_of_.clear();
  std::size_t row = 0;
  for (const paged_sequence& s : tables_[0]) {
    hidden_of_.push_back(
        {s.first_position,
         {floats(hidden_) + row * model_.hidden, std::size_t{s.rows} * model_.hidden}});
    row += s.rows;
  }
}

hidden_rows model_runner::mtp_hidden_of(std::size_t entry) const noexcept {
  std::size_t row = 0;
  for (std::size_t i = 0; i < entry; ++i) {
    row += tables_[0][i].rows;
  }
  const paged_sequence& s = tables_[0][entry];
  const auto* const values = reinterpret_cast<const float*>(mtp_hidden_.data());
  return {s.first_position, {values + row * model_.hidden, std::size_t{s.rows} * model_.hidden}};
}

std::span<const float> model_runner::forward_mtp(std::uint32_t head,
                                                 std::span<const step_rows> batch,
                                                 mtp_rows output) {
  ORIEL_EXPECTS(head < eh_proj_.size());
  const std::uint32_t hidden = model_.hidden;
  start_batch(batch);
  ORIEL_EXPECTS(!healing_ && !is_gated_);
  const mtp_weights& w = weights_.mtp[ORIEL_MUTANT(first_block_is_used_again) ? 0 : head];
  float* const x = floats(mtp_hidden_);
  float* const input = floats(mtp_input_);  // [rows, 2 * hidden]: embedding first, hidden second
  host::run_embed(embed_, {x, hidden, weights_.embedding.data(), tokens_}, executor_);
  std::size_t embedding_at = 0;
  if (ORIEL_MUTANT(hidden_stands_first)) {
    embedding_at = hidden;
  }
  norm(w.enorm, x, input + embedding_at, 2 * std::size_t{hidden}, rows_);
  float* told = input + hidden - embedding_at;
  for (const step_rows& s : batch) {
    const auto rows = static_cast<std::uint32_t>(s.tokens.size());
    ORIEL_EXPECTS(s.hidden != nullptr || rows == 0);
    norm(w.hnorm, s.hidden, told, 2 * std::size_t{hidden}, rows);
    told += 2 * std::size_t{hidden} * rows;
    outputs_.push_back(output == mtp_rows::all ? rows : s.logit_rows);
  }
  gemm(eh_proj_[head], w.eh_proj, input, x, rows_, false);
  run_layer(model_.layers.size() + head, w.layer, x);
  return run_head(batch, x, w.final_norm);
}

void model_runner::start_batch(std::span<const step_rows> batch) {
  ORIEL_EXPECTS(batch.size() <= limits_.sequences_max);
  tokens_.clear();
  positions_.clear();
  heals_.clear();
  gates_.clear();
  is_cut_off_.clear();
  outputs_.clear();
  healing_ = is_gated_ = false;
  for (auto& table : tables_) {
    table.clear();
  }
  for (const step_rows& s : batch) {
    ORIEL_EXPECTS(tokens_.size() + s.tokens.size() <= limits_.rows_max);
    ORIEL_EXPECTS(s.tables.size() >= tables_.size() && s.logit_rows <= s.tokens.size());
    ORIEL_EXPECTS(s.first_position + s.tokens.size() <= limits_.context_tokens);
    tokens_.insert(tokens_.end(), s.tokens.begin(), s.tokens.end());
    for (std::uint32_t i = 0; i < s.tokens.size(); ++i) {
      positions_.push_back(s.first_position + i);
    }
    for (std::size_t t = 0; t < tables_.size(); ++t) {
      tables_[t].push_back(
          s.tables[t].rows_at(s.first_position, static_cast<std::uint32_t>(s.tokens.size())));
      tables_[t].back().first_key = s.first_key;
    }
    const bool heals = s.heal != nullptr && s.first_position < s.heal->length;
    ORIEL_EXPECTS(!heals || (s.heal->layers() == model_.layers.size() &&
                             s.first_position >= s.heal->first_row()));
    heals_.push_back(heals ? s.heal : nullptr);
    healing_ |= heals;
    gates_.push_back(s.gate);
    is_cut_off_.push_back(false);
    is_gated_ |= static_cast<bool>(s.gate);
  }
  rows_ = static_cast<std::uint32_t>(tokens_.size());
  for (rope_kind& kind : rope_) {
    host::fill_rope_table(kind.plan, positions_, kind.table, executor_);
  }
}

void model_runner::run_layer(std::size_t index, const layer_weights& weights, float* x) {
  run_attention_block(index, weights, x);
  if (rows_ == 0) {
    return;
  }
  counts_.layer_rows += rows_;
  norm(weights.post_attention_norm, x, floats(normed_), model_.hidden, rows_);
  if (const auto* dense = std::get_if<dense_ffn_weights>(&weights.ffn)) {
    run_dense_ffn(plans_[index].ffn, *dense, x);
  } else {
    run_moe_ffn(plans_[index].ffn, std::get<moe_weights>(weights.ffn), x);
  }
}

void model_runner::run_attention_block(std::size_t index, const layer_weights& weights, float* x) {
  const attention_geometry& a = layers_[index].attention;
  const attention_plans& plans = plans_[index].attention;
  const pool_layer& home = layers_kv_[index];
  const std::span<const paged_sequence> sequences = tables_[to_index(home.pool)];
  const std::size_t width = qkv_width(a);
  float* const q = floats(qkv_);
  float* const k = q + std::size_t{a.q_heads} * a.head_dim_qk;
  float* const v = k + std::size_t{a.kv_heads} * a.head_dim_qk;

  norm(weights.input_norm, x, floats(normed_), model_.hidden, rows_);
  gemm(plans.qkv, weights.attention.qkv, floats(normed_), q, rows_, false);
  // q and k heads lie side by side in a row, so one call rotates both.
  const rope_kind& rope = rope_[plans.rope];
  host::run_rope(
      rope.plan,
      {.x = q, .x_stride = width, .heads = a.q_heads + a.kv_heads, .positions = positions_},
      rope.table,
      executor_);
  append_kv(index, k, v, width);
  drop_rows_below_frontier(index + 1, x, q, width);
  drop_rows_without_kv(index, x, q, width);
  drop_rows_without_logits(x, q, width);
  if (rows_ == 0) {
    return;
  }
  host::run_attention(
      plans.attention,
      {.out = floats(heads_),
       .q = q,
       .q_stride = width,
       .kv = home.kv,
       .sequences = sequences,
       .sinks = weights.attention.sinks.empty() ? nullptr : weights.attention.sinks.data(),
       .scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim_qk))},
      {workspace_.data(), workspace_.size()},
      executor_);
  gemm(plans.o, weights.attention.o, floats(heads_), x, rows_, true);
}

/// Writes K and V of the batch's rows, those excepted that a full layer has cached for a heal.
void model_runner::append_kv(std::size_t index,
                             const float* k,
                             const float* v,
                             std::size_t stride) {
  const pool_layer& home = layers_kv_[index];
  const std::span<const paged_sequence> sequences = tables_[to_index(home.pool)];
  const auto append = [&](std::span<const paged_sequence> rows, std::size_t first_row) {
    host::run_kv_append(plans_[index].attention.attention.shape,
                        {.kv = home.kv,
                         .k = k + first_row * stride,
                         .v = v + first_row * stride,
                         .k_stride = stride,
                         .v_stride = stride,
                         .v_scale = static_cast<float>(model_.attention_value_scale),
                         .sequences = rows},
                        executor_);
  };
  if (!healing_ || home.pool != full_pool) {
    append(sequences, 0);
    return;
  }
  std::size_t row = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const std::uint32_t cached = heals_[s] != nullptr ? heals_[s]->length : 0;
    const paged_sequence written = rows_from(sequences[s], cached);
    if (written.rows != 0) {
      append({&written, 1}, row + sequences[s].rows - written.rows);
    }
    row += sequences[s].rows;
  }
}

/// Leaves the last kept(s) rows of sequence s in the batch; they move together. What stands in
/// `qkv` beside x moves along.
template <class Kept>
void model_runner::keep_rows(float* x, float* qkv, std::size_t qkv_width, Kept&& kept_of) {
  std::uint32_t from = 0, to = 0;
  for (std::size_t s = 0; s < heals_.size(); ++s) {
    const paged_sequence before = tables_[0][s];
    const std::uint32_t kept = kept_of(s, before);
    const std::uint32_t dropped = before.rows - kept;
    from += dropped;
    if (from != to) {
      move_rows(x, model_.hidden, from, to, kept);
      move_rows(qkv, qkv_width, from, to, kept);
      move_rows(positions_.data(), 1, from, to, kept);
      for (rope_kind& rope : rope_) {
        move_rows(rope.table.data(), rope.plan.table_size(1), from, to, kept);
      }
    }
    for (auto& table : tables_) {
      table[s].first_position += dropped;
      table[s].rows = kept;
    }
    from += kept;
    to += kept;
  }
  rows_ = to;
  positions_.resize(rows_);
}

/// Takes the rows out of the batch that the layers from `layer` on do not compute.
void model_runner::drop_rows_below_frontier(std::size_t layer,
                                            float* x,
                                            float* qkv,
                                            std::size_t qkv_width) {
  if (!healing_) {
    return;
  }
  keep_rows(x, qkv, qkv_width, [&](std::size_t s, const paged_sequence& rows) {
    const heal_plan* const heal = heals_[s];
    return heal == nullptr ? rows.rows : rows_from(rows, heal->frontier[layer]).rows;
  });
  for (std::size_t s = 0; s < heals_.size(); ++s) {
    if (heals_[s] != nullptr) {
      const paged_sequence& kept = tables_[0][s];
      counts_.heal_layer_rows += kept.rows - rows_from(kept, heals_[s]->length).rows;
    }
  }
}

/// Waits for the KV that others bring of a layer. A sequence whose KV does not come leaves the
/// batch: what must not be read is not, and the other sequences' rows do not notice.
void model_runner::drop_rows_without_kv(std::size_t layer,
                                        float* x,
                                        float* qkv,
                                        std::size_t qkv_width) {
  bool has_failed = false;
  for (std::size_t s = 0; is_gated_ && s < gates_.size(); ++s) {
    if (tables_[0][s].rows != 0 && !gates_[s].wait(static_cast<std::uint32_t>(layer))) {
      is_cut_off_[s] = !ORIEL_MUTANT(sequence_without_kv_runs_on);
      has_failed = true;
    }
  }
  if (has_failed) {
    keep_rows(x, qkv, qkv_width, [&](std::size_t s, const paged_sequence& rows) {
      return is_cut_off_[s] ? 0 : rows.rows;
    });
  }
}

/// In an MTP block, the KV of a row is all that other rows see of it.
void model_runner::drop_rows_without_logits(float* x, float* qkv, std::size_t qkv_width) {
  if (!outputs_.empty()) {
    keep_rows(x, qkv, qkv_width, [&](std::size_t s, const paged_sequence&) { return outputs_[s]; });
  }
}

void model_runner::run_dense_ffn(const ffn_plans& plans,
                                 const dense_ffn_weights& weights,
                                 float* x) {
  const std::size_t inter = plans.swiglu.shape.inter;
  float* const gate_up = floats(gate_up_);
  gemm(plans.gate_up, weights.gate_up, floats(normed_), gate_up, rows_, false);
  host::run_swiglu(plans.swiglu,
                   {.out = gate_up,
                    .out_stride = 2 * inter,
                    .gate_up = gate_up,
                    .gate_up_stride = 2 * inter,
                    .rows = rows_},
                   executor_);
  host::run_gemm(plans.down,
                 {.out = x,
                  .out_stride = model_.hidden,
                  .x = gate_up,
                  .x_stride = 2 * inter,
                  .weights = weights.down.bytes.data(),
                  .rows = rows_,
                  .accumulate = true},
                 {workspace_.data(), workspace_.size()},
                 executor_);
}

void model_runner::run_moe_ffn(const ffn_plans& plans, const moe_weights& weights, float* x) {
  const std::uint32_t experts = plans.route.shape.experts;
  gemm(plans.router, weights.router, floats(normed_), floats(router_), rows_, false);
  host::run_moe_route(plans.route,
                      {.ids = expert_ids_.data(),
                       .weights = expert_weights_.data(),
                       .logits = floats(router_),
                       .logits_stride = experts,
                       .correction_bias = weights.correction_bias.data(),
                       .tokens = rows_},
                      executor_);
  host::run_moe_gemm(plans.experts,
                     {.out = floats(ffn_out_),
                      .out_stride = model_.hidden,
                      .x = floats(normed_),
                      .x_stride = model_.hidden,
                      .tokens = rows_,
                      .ids = expert_ids_.data(),
                      .weights = expert_weights_.data(),
                      .gate_up = plans.gate_up_of,
                      .down = plans.down_of},
                     {workspace_.data(), workspace_.size()},
                     executor_);
  const std::size_t count = std::size_t{rows_} * model_.hidden;
  const float* added = floats(ffn_out_);
  for (std::size_t i = 0; i < count; ++i) {
    x[i] += added[i];
  }
}

std::span<const float> model_runner::run_head(std::span<const step_rows> batch,
                                              const float* x,
                                              const std::vector<float>& final_norm) {
  const std::size_t hidden = model_.hidden;
  std::uint32_t wanted = 0;  // rows with logits, normed and gathered
  std::size_t row = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const step_rows& s = batch[i];
    const std::uint32_t rows = tables_[0][i].rows;  // A heal may have dropped some.
    ORIEL_EXPECTS(wanted + s.logit_rows <= limits_.logit_rows_max);
    if (is_cut_off_[i]) {  // Zeros, so that the others' logits are where they always are.
      std::fill_n(floats(normed_) + wanted * hidden, s.logit_rows * hidden, 0.0f);
      wanted += s.logit_rows;
      continue;
    }
    ORIEL_EXPECTS(s.logit_rows <= rows);
    row += rows;
    norm(final_norm,
         x + (row - s.logit_rows) * hidden,
         floats(normed_) + wanted * hidden,
         hidden,
         s.logit_rows);
    wanted += s.logit_rows;
  }
  gemm(lm_head_, weights_.lm_head, floats(normed_), floats(logits_), wanted, false);
  return {floats(logits_), std::size_t{wanted} * model_.vocabulary};
}

void model_runner::norm(const std::vector<float>& weight,
                        const float* x,
                        float* out,
                        std::size_t out_stride,
                        std::uint32_t rows) {
  host::run_rms_norm(norm_,
                     {.out = out,
                      .out_stride = out_stride,
                      .x = x,
                      .x_stride = model_.hidden,
                      .weight = weight.data(),
                      .rows = rows},
                     executor_);
}

void model_runner::gemm(const host::gemm_plan& plan,
                        const packed_matrix& weights,
                        const float* x,
                        float* out,
                        std::uint32_t rows,
                        bool accumulate) {
  if (rows == 0) {
    return;
  }
  host::run_gemm(plan,
                 {.out = out,
                  .out_stride = plan.shape.n,
                  .x = x,
                  .x_stride = plan.shape.k,
                  .weights = weights.bytes.data(),
                  .rows = rows,
                  .accumulate = accumulate},
                 {workspace_.data(), workspace_.size()},
                 executor_);
}

std::uint64_t model_runner::workspace_bytes() const noexcept {
  return hidden_.size() + normed_.size() + qkv_.size() + heads_.size() + gate_up_.size() +
         ffn_out_.size() + router_.size() + logits_.size() + workspace_.size() +
         mtp_hidden_.size() + mtp_input_.size();
}

}  // namespace oriel::engine
