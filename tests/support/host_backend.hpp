// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `host_backend`: runs step programs on the host, operation by operation, in the memory that they
/// plan: with the host's kernels, packed weights and pools, where a device would have its own. What
/// a program does not write before it reads it, or what two live buffers share, shows in its
/// numbers: before each run everything but the inputs is NaN.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/kernels/draft_rows.hpp>
#include <oriel/kernels/embed.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/kv_append.hpp>
#include <oriel/kernels/moe_gemm.hpp>
#include <oriel/kernels/moe_route.hpp>
#include <oriel/kernels/rms_norm.hpp>
#include <oriel/kernels/round_rows.hpp>
#include <oriel/kernels/swiglu.hpp>
#include <oriel/kernels/verify_chains.hpp>
#include <oriel/kv/dual_pool.hpp>

#include <catch2/catch.hpp>
#include <device/fake_streams.hpp>
#include <engine/aligned_bytes.hpp>
#include <engine/program_runner.hpp>
#include <engine/weights.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>
#include <variant>
#include <vector>

namespace oriel::test {

class host_backend final : public engine::step_backend {
 public:
  /// @param layers_kv  [layers], pages as the host has them
  host_backend(const model_geometry& model,
               const engine::model_weights& weights,
               std::vector<pool_layer> layers_kv)
      : model_(model), weights_(weights), layers_kv_(std::move(layers_kv)) {}

  void take_memory(const engine::backend_needs& needs) override {
    memory_ = engine::aligned_bytes(needs.memory_bytes);
    inputs_ = engine::aligned_bytes(needs.input_bytes);
    outputs_ = engine::aligned_bytes(needs.output_bytes);
    tables_.assign(needs.table_entries, 0);
  }
  std::span<std::byte> inputs() noexcept override { return {inputs_.data(), inputs_.size()}; }
  std::span<const std::byte> outputs() const noexcept override {
    return {outputs_.data(), outputs_.size()};
  }
  const std::uint32_t* tables() const noexcept override { return tables_.data(); }
  void send_tables(std::span<const std::uint32_t> entries,
                   std::span<const engine::table_range> changes) override {
    for (const engine::table_range& range : changes) {
      std::copy_n(entries.begin() + static_cast<std::ptrdiff_t>(range.first),
                  range.count,
                  tables_.begin() + static_cast<std::ptrdiff_t>(range.first));
    }
  }
  const char* arithmetic() const noexcept override { return ""; }
  void need_pages(std::uint32_t pool, std::uint32_t pages) override {
    needed_.resize(std::max<std::size_t>(needed_.size(), pool + 1));
    needed_[pool] = std::max(needed_[pool], pages);
  }

  void run(const engine::step_program& program,
           bool repeats,
           std::span<const engine::fetched_part> parts,
           layer_gate_ref gate) override {
    p_ = &program;
    const auto send_inputs = [&] {
      std::memcpy(memory_.data(), inputs_.data(), program.input_bytes);
    };
    enqueue([&] { std::memset(memory_.data(), 0xFF, memory_.size()); });
    enqueue(send_inputs);
    for (const engine::operation& op : program.operations) {
      if (const auto* o = std::get_if<engine::attend_op>(&op); o != nullptr && gate) {
        ++gated_layers;
        if (!gate.wait(o->layer)) {
          enqueue(send_inputs);
        }
      }
      enqueue([&] { std::visit([&](const auto& o) { interpret(o); }, op); });
    }
    if (moves != nullptr) {
      REQUIRE(moves->mark());
    }
    settle();
    std::memset(outputs_.data(), 0xFF, outputs_.size());
    for (const engine::fetched_part& part : parts) {
      const std::size_t at = program[part.buffer].offset_bytes + part.first_byte;
      REQUIRE(part.first_byte + part.size_bytes <= program[part.buffer].size_bytes);
      std::memcpy(outputs_.data() + at - program.input_bytes, memory_.data() + at, part.size_bytes);
    }
    ++runs;
    graph_runs += repeats ? 1 : 0;
    drafting_runs += program.shape.drafts_next ? 1 : 0;
  }

  void settle() override {
    bool is_done = device == nullptr;
    enqueue([&] { is_done = true; });
    while (!is_done) {
      REQUIRE(device->step());
    }
  }
  page_mover* mover() noexcept override { return moves; }

  std::size_t runs = 0, graph_runs = 0, drafting_runs = 0, gated_layers = 0;
  /// Operations run in its stream 0, when it pleases. Null: at once.
  fake_device* device = nullptr;
  page_mover* moves = nullptr;

 private:
  using slice = engine::matrix_slice;

  /// What the task refers to stays until `settle`.
  void enqueue(fake_device::task task) {
    if (device == nullptr) {
      task();
      return;
    }
    device->run(0, std::move(task));
    device->steps(3);
  }

  template <class T>
  std::span<T> buffer(engine::buffer_id id) {
    const engine::program_buffer& b = (*p_)[id];
    return {reinterpret_cast<T*>(memory_.data() + b.offset_bytes), b.size_bytes / sizeof(T)};
  }
  std::uint32_t count_of(engine::row_set rows) {
    return buffer<std::uint32_t>(p_->inputs.row_counts)[static_cast<std::size_t>(rows)];
  }
  float* floats(const slice& s) {
    REQUIRE(s.type == dtype::f32);
    return buffer<float>(s.buffer).data() + s.offset;
  }
  /// Rows of a slice, side by side, in f32.
  std::vector<float> widened(const slice& s, std::size_t rows, std::size_t width) {
    std::vector<float> values(rows * width);
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < width; ++i) {
        const std::size_t at = s.offset + r * s.stride + i;
        values[r * width + i] = s.type == dtype::f32 ? buffer<float>(s.buffer)[at]
                                                     : to_float(buffer<bf16>(s.buffer)[at]);
      }
    }
    return values;
  }
  void store(std::span<const float> values, const slice& s, std::size_t rows, std::size_t width) {
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < width; ++i) {
        const std::size_t at = s.offset + r * s.stride + i;
        if (s.type == dtype::f32) {
          buffer<float>(s.buffer)[at] = values[r * width + i];
        } else {
          buffer<bf16>(s.buffer)[at] = to_bf16(values[r * width + i]);
        }
      }
    }
  }
  std::span<std::byte> scratch(std::size_t bytes) {
    if (scratch_.size() < bytes) {
      scratch_ = engine::aligned_bytes(bytes);
    }
    return {scratch_.data(), scratch_.size()};
  }

  bool is_main(std::uint32_t layer) const { return layer < model_.layers.size(); }
  const layer_geometry& geometry_of(std::uint32_t layer) const {
    return is_main(layer) ? model_.layers[layer] : model_.mtp_layers[layer - model_.layers.size()];
  }
  const engine::mtp_weights& block_of(std::uint32_t layer) const {
    return weights_.mtp[layer - model_.layers.size()];
  }
  const engine::layer_weights& layer_of(std::uint32_t layer) const {
    return is_main(layer) ? weights_.layers[layer] : block_of(layer).layer;
  }
  const std::vector<float>& vector_of(engine::weight_name name) const {
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
  const engine::packed_matrix& matrix_of(engine::weight_name name) const {
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
        return std::get<engine::moe_weights>(layer_of(name.layer).ffn).router;
      case weight_role::eh_proj:
        return block_of(name.layer).eh_proj;
      default:
        REQUIRE(name.role == weight_role::lm_head);
        return weights_.lm_head;
    }
  }

  void interpret(const engine::embed_op& o) {
    host::run_embed(*host::plan_embed({model_.vocabulary, model_.hidden, weights_.compute}),
                    {floats(o.out),
                     o.out.stride,
                     weights_.embedding.data(),
                     buffer<token_id>(o.tokens).first(count_of(o.rows))},
                    serial_);
  }
  void interpret(const engine::rope_table_op& o) {
    host::fill_rope_table(p_->ropes[o.kind],
                          buffer<std::uint32_t>(o.positions).first(count_of(o.rows)),
                          buffer<float>(o.table),
                          serial_);
  }
  void interpret(const engine::norm_op& o) {
    host::run_rms_norm(
        *host::plan_rms_norm({model_.hidden, static_cast<float>(model_.rms_eps), weights_.compute},
                             weights_.path),
        {.out = floats(o.out),
         .out_stride = o.out.stride,
         .x = floats(o.x),
         .x_stride = o.x.stride,
         .weight = vector_of(o.weight).data(),
         .rows = count_of(o.rows)},
        serial_);
  }
  void interpret(const engine::round_op& o) {
    reference::round_rows({.out = buffer<bf16>(o.out.buffer).data() + o.out.offset,
                           .out_stride = o.out.stride,
                           .x = floats(o.x),
                           .x_stride = o.x.stride,
                           .width = o.width,
                           .rows = count_of(o.rows)});
  }
  void interpret(const engine::gemm_op& o) {
    const engine::packed_matrix& w = matrix_of(o.weight);
    const gemm_shape& shape = o.plan.shape;
    REQUIRE((w.shape.n == shape.n && w.shape.k == shape.k && w.shape.weights == shape.weights));
    const std::uint32_t rows = count_of(o.rows);
    REQUIRE(rows <= o.plan.rows_max);
    if (rows == 0) {
      return;
    }
    const std::vector<float> x = widened(o.x, rows, shape.k);
    std::vector<float> out = o.accumulate ? widened(o.out, rows, shape.n)
                                          : std::vector<float>(std::size_t{rows} * shape.n);
    const auto plan = host::plan_gemm(w.shape, rows, 1, weights_.path, weights_.backend);
    host::run_gemm(*plan,
                   {.out = out.data(),
                    .out_stride = shape.n,
                    .x = x.data(),
                    .x_stride = shape.k,
                    .weights = w.bytes.data(),
                    .rows = rows,
                    .accumulate = o.accumulate},
                   scratch(plan->workspace_bytes),
                   serial_);
    store(out, o.out, rows, shape.n);
  }
  void interpret(const engine::rope_op& o) {
    const std::uint32_t rows = count_of(o.rows);
    positions_.assign(rows, 0);  // What counts is the table.
    host::run_rope(
        p_->ropes[o.kind],
        {.x = floats(o.x), .x_stride = o.x.stride, .heads = o.heads, .positions = positions_},
        buffer<float>(o.table),
        serial_);
  }
  std::span<const paged_sequence> sequences(engine::buffer_id id) {
    return buffer<paged_sequence>(id).first(count_of(engine::row_set::sequences));
  }
  /// Behind the pages that were asked for a device has no memory.
  void expect_needed(pool_id pool, std::uint32_t page_size, std::span<const paged_sequence> of) {
    const std::uint32_t pages = needed_.at(to_index(pool));
    for (const paged_sequence& s : of) {
      for (std::uint32_t row = 0; row < s.rows; ++row) {
        REQUIRE(page_at(s, (s.first_position + row) / page_size) < pages);
      }
    }
  }
  void interpret(const engine::append_op& o) {
    std::uint32_t rows = 0;
    for (const paged_sequence& s : sequences(o.sequences)) {
      rows += s.rows;
    }
    REQUIRE(rows == count_of(o.rows));
    expect_needed(layers_kv_[o.layer].pool, o.shape.page_size, sequences(o.sequences));
    host::run_kv_append(o.shape,
                        {.kv = layers_kv_[o.layer].kv,
                         .k = floats(o.k),
                         .v = floats(o.v),
                         .k_stride = o.k.stride,
                         .v_stride = o.v.stride,
                         .v_scale = static_cast<float>(model_.attention_value_scale),
                         .sequences = sequences(o.sequences)},
                        serial_);
  }
  void interpret(const engine::attend_op& o) {
    const attention_shape& shape = o.plan.shape;
    const std::uint32_t rows = count_of(o.rows);
    for (const paged_sequence& s : sequences(o.sequences)) {
      REQUIRE(s.rows <= o.plan.limits.rows_per_sequence_max);
    }
    const auto plan = host::plan_attention(shape, std::max(rows, 1u), 1, weights_.path);
    const std::vector<float>& sinks = layer_of(o.layer).attention.sinks;
    host::run_attention(*plan,
                        {.out = floats(o.out),
                         .q = floats(o.q),
                         .q_stride = o.q.stride,
                         .kv = layers_kv_[o.layer].kv,
                         .sequences = sequences(o.sequences),
                         .sinks = sinks.empty() ? nullptr : sinks.data(),
                         .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim_qk))},
                        scratch(plan->workspace_bytes),
                        serial_);
    // Also rows that nobody wants: on a device what they read is multiplied by zero for others.
    bool are_numbers = true;
    for (std::uint32_t row = 0; row < rows; ++row) {
      const float* const heads = floats(o.out) + row * o.out.stride;
      are_numbers &= std::all_of(heads,
                                 heads + std::size_t{shape.q_heads} * shape.head_dim_vo,
                                 [](float x) { return std::isfinite(x); });
    }
    REQUIRE(are_numbers);
  }
  void interpret(const engine::swiglu_op& o) {
    const std::uint32_t rows = count_of(o.rows);
    const std::vector<float> gate_up = widened(o.gate_up, rows, 2 * std::size_t{o.inter});
    std::vector<float> out(std::size_t{rows} * o.inter);
    host::run_swiglu(*host::plan_swiglu({o.inter, weights_.compute}, weights_.path),
                     {out.data(), o.inter, gate_up.data(), 2 * std::size_t{o.inter}, rows},
                     serial_);
    store(out, o.out, rows, o.inter);
  }
  void interpret(const engine::route_op& o) {
    const ffn_geometry& f = geometry_of(o.layer).ffn;
    const auto& moe = std::get<engine::moe_weights>(layer_of(o.layer).ffn);
    host::run_moe_route(
        *host::plan_moe_route({.experts = f.experts,
                               .top_k = f.top_k,
                               .groups = model_.expert_groups,
                               .kept_groups = model_.expert_groups_kept,
                               .normalize = model_.norm_topk_prob,
                               .scale = static_cast<float>(model_.routed_scaling_factor)},
                              weights_.path),
        {.ids = buffer<std::uint32_t>(o.ids).data(),
         .weights = buffer<float>(o.weights).data(),
         .logits = floats(o.logits),
         .logits_stride = o.logits.stride,
         .correction_bias = moe.correction_bias.data(),
         .tokens = count_of(o.rows)},
        serial_);
  }
  void interpret(const engine::experts_op& o) {
    const ffn_geometry& f = geometry_of(o.layer).ffn;
    const auto& moe = std::get<engine::moe_weights>(layer_of(o.layer).ffn);
    const std::uint32_t rows = count_of(o.rows);
    const auto plan = host::plan_moe_gemm({.hidden = model_.hidden,
                                           .inter = f.intermediate,
                                           .experts = f.experts,
                                           .top_k = f.top_k,
                                           .weights = weights_.compute,
                                           .activation = weights_.compute},
                                          std::max(rows, 1u),
                                          1,
                                          weights_.path,
                                          weights_.backend);
    std::vector<const std::byte*> gate_up, down;
    for (std::size_t e = 0; e < f.experts; ++e) {
      gate_up.push_back(moe.gate_up.data() + e * moe.gate_up_stride_bytes);
      down.push_back(moe.down.data() + e * moe.down_stride_bytes);
    }
    const std::vector<float> x = widened(o.x, rows, model_.hidden);
    std::vector<float> out(x.size()), sum = widened(o.out, rows, model_.hidden);
    host::run_moe_gemm(*plan,
                       {.out = out.data(),
                        .out_stride = model_.hidden,
                        .x = x.data(),
                        .x_stride = model_.hidden,
                        .tokens = rows,
                        .ids = buffer<std::uint32_t>(o.ids).data(),
                        .weights = buffer<float>(o.weights).data(),
                        .gate_up = gate_up,
                        .down = down},
                       scratch(plan->workspace_bytes),
                       serial_);
    for (std::size_t i = 0; i < sum.size(); ++i) {
      sum[i] += out[i];
    }
    store(sum, o.out, rows, model_.hidden);
    // What a device would overwrite meanwhile.
    for (const engine::buffer_id id : {o.permutation, o.act.buffer, o.y.buffer}) {
      std::ranges::fill(buffer<std::byte>(id), std::byte{0xFF});
    }
  }
  void interpret(const engine::gather_op& o) {
    reference::gather_rows({.width = o.width},
                           {.out = floats(o.out),
                            .out_stride = o.out.stride,
                            .x = floats(o.x),
                            .x_stride = o.x.stride,
                            .rows = buffer<std::uint32_t>(o.index).first(count_of(o.rows))});
  }
  void interpret(const engine::sample_op& o) {
    const std::uint32_t rows = count_of(o.rows);
    const auto plan = host::plan_sample(model_.vocabulary, 1, weights_.path);
    host::run_sample(*plan,
                     {.out = buffer<sampled_token>(o.out).subspan(o.first, rows),
                      .logits = floats(o.logits),
                      .logits_stride = o.logits.stride,
                      .rows = buffer<sample_row>(o.asked).first(rows)},
                     scratch(plan->workspace_bytes),
                     serial_);
  }
  void interpret(const engine::verify_op& o) {
    const std::uint32_t chains = count_of(engine::row_set::sequences);
    reference::verify_chains({.out = buffer<chain_verdict>(o.verdicts).first(chains),
                              .chains = buffer<verify_chain>(o.chains).first(chains),
                              .rows = buffer<sampled_token>(o.sampled),
                              .drafts = buffer<token_id>(o.drafts)});
  }
  void interpret(const engine::draft_rows_op& o) {
    // By sequence: a device has them at the bucket's stride, and skips those behind the batch.
    const std::uint32_t count = count_of(engine::row_set::sequences);
    const std::span<sampled_token> drafted = buffer<sampled_token>(o.drafted);
    const std::size_t stride = p_->shape.sequences;
    std::vector<sampled_token> before;
    for (std::uint32_t b = 0; b < o.block; ++b) {
      const auto of_block = drafted.subspan(b * stride, count);
      before.insert(before.end(), of_block.begin(), of_block.end());
    }
    reference::draft_rows({.tokens = buffer<token_id>(o.tokens),
                           .logit_rows = buffer<std::uint32_t>(o.logit_rows).first(count),
                           .spans = buffer<draft_span>(o.spans).first(count),
                           .known = buffer<token_id>(o.known),
                           .verdicts = buffer<chain_verdict>(o.verdicts).first(count),
                           .sampled = buffer<sampled_token>(o.sampled),
                           .drafted = before,
                           .block = o.block});
  }

  const model_geometry& model_;
  const engine::model_weights& weights_;
  std::vector<pool_layer> layers_kv_;
  engine::aligned_bytes memory_, inputs_, outputs_, scratch_;
  std::vector<std::uint32_t> tables_, positions_, needed_;
  const engine::step_program* p_ = nullptr;
  serial_executor serial_;
};

}  // namespace oriel::test
