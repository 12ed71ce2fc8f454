// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `host_backend`: runs step programs on the host, operation by operation, in the memory that they
/// plan: with the host's kernels, packed weights and pools, where a device would have its own. What
/// a program does not write before it reads it, or what two live buffers share, shows in its
/// numbers: before each run everything but the inputs is NaN.
#pragma once

#include "support/router_gap.hpp"

#include <oriel/core/executor.hpp>
#include <oriel/kernels/draft_rows.hpp>
#include <oriel/kernels/embed.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/grouped_gemm.hpp>
#include <oriel/kernels/kv_append.hpp>
#include <oriel/kernels/moe_combine.hpp>
#include <oriel/kernels/moe_gemm.hpp>
#include <oriel/kernels/moe_permute.hpp>
#include <oriel/kernels/moe_route.hpp>
#include <oriel/kernels/quantize_rows.hpp>
#include <oriel/kernels/rms_norm.hpp>
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
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace oriel::test {

class host_backend final : public engine::step_backend {
 public:
  /// @param layers_kv  [layers], pages as the host has them
  /// @param e4m3_weights  the model again, plain, loaded with keeps_e4m3: for products of e4m3
  host_backend(const model_geometry& model,
               const engine::model_weights& weights,
               std::vector<pool_layer> layers_kv,
               const engine::model_weights* e4m3_weights = nullptr)
      : model_(model),
        weights_(weights),
        e4m3_weights_(e4m3_weights),
        layers_kv_(std::move(layers_kv)) {}

  void take_memory(const engine::backend_needs& needs) override {
    taken = needs;
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
  const char* arithmetic() const noexcept override { return named; }
  void need_pages(std::uint32_t pool, std::uint32_t pages) override {
    needed_.resize(std::max<std::size_t>(needed_.size(), pool + 1));
    needed_[pool] = std::max(needed_[pool], pages);
  }

  void run(const engine::step_program& program,
           bool repeats,
           std::span<const engine::fetched_part> parts,
           layer_gate_ref gate) override {
    p_ = &program;
    last_router_gap = std::numeric_limits<float>::infinity();
    const auto send_inputs = [&] {
      std::memcpy(memory_.data(), inputs_.data(), program.input_bytes);
    };
    enqueue([&] { poison(program); });
    enqueue(send_inputs);
    for (const engine::operation& op : program.operations) {
      if (const auto* o = std::get_if<engine::attend_op>(&op); o != nullptr && gate) {
        ++gated_attentions;
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
    computed_rows += count_of(engine::row_set::rows);
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

  /// Generic attention as a device has it, whose weights of values are not rounded; else the host engine's bits.
  bool rounds_as_a_device = false;
  /// Of the last run's last row: the smallest router_gap of the model's layers.
  float last_router_gap = 0.0f;
  engine::backend_needs taken;
  const char* named = "";  ///< the arithmetic; set before a runner is made
  std::size_t runs = 0, computed_rows = 0, graph_runs = 0, drafting_runs = 0,
              block_scaled_products = 0, grouped_products = 0, packed_products = 0,
              gated_attentions = 0;
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
  /// All that an operation here could take for written: not the 32 MiB that a device's products work in.
  void poison(const engine::step_program& program) {
    std::vector<bool> is_read(program.buffers.size(), true);
    for (const engine::operation& op : program.operations) {
      if (const auto* product = std::get_if<engine::gemm_op>(&op)) {
        is_read[static_cast<std::size_t>(product->workspace)] = false;
      }
      if (const auto* product = std::get_if<engine::scaled_gemm_op>(&op)) {
        is_read[static_cast<std::size_t>(product->workspace)] = false;
      }
    }
    for (std::size_t i = 0; i < is_read.size(); ++i) {
      const engine::program_buffer& b = program.buffers[i];
      if (is_read[i]) {
        std::memset(memory_.data() + b.offset_bytes, 0xFF, b.size_bytes);
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
    return block_of(weights_, layer);
  }
  const engine::mtp_weights& block_of(const engine::model_weights& of, std::uint32_t layer) const {
    return of.mtp[layer - model_.layers.size()];
  }
  const engine::layer_weights& layer_of(std::uint32_t layer) const {
    return layer_of(weights_, layer);
  }
  const engine::layer_weights& layer_of(const engine::model_weights& of,
                                        std::uint32_t layer) const {
    return is_main(layer) ? of.layers[layer] : block_of(of, layer).layer;
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
  const engine::packed_matrix& matrix_of(const engine::model_weights& of,
                                         engine::weight_name name) const {
    using engine::weight_role;
    switch (name.role) {
      case weight_role::qkv:
        return layer_of(of, name.layer).attention.qkv;
      case weight_role::o:
        return layer_of(of, name.layer).attention.o;
      case weight_role::gate_up:
        return std::get<engine::dense_ffn_weights>(layer_of(of, name.layer).ffn).gate_up;
      case weight_role::down:
        return std::get<engine::dense_ffn_weights>(layer_of(of, name.layer).ffn).down;
      case weight_role::router:
        return std::get<engine::moe_weights>(layer_of(of, name.layer).ffn).router;
      case weight_role::eh_proj:
        return block_of(of, name.layer).eh_proj;
      default:
        REQUIRE(name.role == weight_role::lm_head);
        return of.lm_head;
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
    const slice& out = o.out.values;
    const slice& plain = out.type == dtype::e4m3 ? o.plain : out;
    rms_norm_args args{.out = nullptr,
                       .out_stride = 0,
                       .x = floats(o.x),
                       .x_stride = o.x.stride,
                       .weight = vector_of(o.weight).data(),
                       .rows = count_of(o.rows)};
    if (plain.buffer == engine::no_buffer) {
      // In e4m3 alone.
    } else if (plain.type == dtype::f32) {
      args.out = floats(plain);
      args.out_stride = plain.stride;
    } else {
      args.rounded = buffer<bf16>(plain.buffer).data() + plain.offset;
      args.rounded_stride = plain.stride;
    }
    if (out.type == dtype::e4m3) {
      args.quantized = quantized(o.out);
    }
    host::run_rms_norm(
        *host::plan_rms_norm({model_.hidden, static_cast<float>(model_.rms_eps), weights_.compute},
                             weights_.path),
        args,
        serial_);
  }
  void interpret(const engine::gemm_op& o) { multiply(o, o.plan.shape, o.plan.rows_max); }
  /// A product of the model's own type. @tparam Op  has its operands
  template <class Op>
  void multiply(const Op& o, const gemm_shape& shape, std::uint32_t rows_max) {
    const engine::packed_matrix& w = matrix_of(weights_, o.weight);
    REQUIRE((w.shape.n == shape.n && w.shape.k == shape.k && w.shape.weights == shape.weights));
    REQUIRE(count_of(o.rows) <= rows_max);
    multiply(w, values_of(o.x), o.out, count_of(o.rows), o.accumulate);
  }
  void interpret(const engine::router_op& o) {
    const engine::packed_matrix& w = matrix_of(weights_, {engine::weight_role::router, o.layer});
    REQUIRE((w.shape.n == o.plan.shape.experts && w.shape.k == o.plan.shape.hidden));
    REQUIRE(w.shape.weights == dtype::f32);
    REQUIRE(o.x.type == weights_.compute);
    multiply(w, o.x, o.logits, count_of(o.rows), false);
  }
  void multiply(const engine::packed_matrix& w,
                const slice& from,
                const slice& to,
                std::uint32_t rows,
                bool accumulate) {
    if (rows == 0) {
      return;
    }
    const gemm_shape& shape = w.shape;
    const std::vector<float> x = widened(from, rows, shape.k);
    std::vector<float> out =
        accumulate ? widened(to, rows, shape.n) : std::vector<float>(std::size_t{rows} * shape.n);
    const auto plan = host::plan_gemm(shape, rows, 1, weights_.path, weights_.backend);
    host::run_gemm(*plan,
                   {.out = out.data(),
                    .out_stride = shape.n,
                    .x = x.data(),
                    .x_stride = shape.k,
                    .weights = w.bytes.data(),
                    .rows = rows,
                    .accumulate = accumulate},
                   scratch(plan->workspace_bytes),
                   serial_);
    store(out, to, rows, shape.n);
  }
  static const slice& values_of(const slice& s) { return s; }
  static const slice& values_of(const engine::operand_slice& s) { return s.values; }
  quantized_rows quantized(const engine::operand_slice& s) {
    REQUIRE(s.values.type == dtype::e4m3);
    return {.values = buffer<e4m3>(s.values.buffer).data() + s.values.offset,
            .stride = s.values.stride,
            .scales = buffer<float>(s.scales).data(),
            .scale_row_stride = 1,
            .scale_group_stride = s.scale_stride};
  }
  /// Rows that lie side by side to e4m3, by the reference.
  void quantise(std::span<const float> x,
                std::uint32_t width,
                const engine::operand_slice& out,
                std::uint32_t rows) {
    reference::quantize_rows(
        {width}, {.out = quantized(out), .x = x.data(), .x_stride = width, .rows = rows});
  }
  void interpret(const engine::quantize_op& o) {
    const std::uint32_t rows = count_of(o.rows);
    quantise(widened(o.x, rows, o.width), o.width, o.out, rows);
  }
  /// For the reference, which has plain weights.
  grouped_gemm_args<float> scaled_args(const grouped_gemm_shape& shape,
                                       const engine::operand_slice& x,
                                       const std::byte* weights,
                                       std::span<const float> scales) {
    const std::size_t columns = (shape.k - 1) / scale_block + 1;
    return {.out = nullptr,
            .out_stride = shape.n,
            .x = buffer<e4m3>(x.values.buffer).data() + x.values.offset,
            .x_stride = x.values.stride,
            .row_index = nullptr,
            .row_divisor = 1,
            .weights = weights,
            .offsets = nullptr,
            .rows = 0,
            .x_scales = buffer<float>(x.scales).data(),
            .x_scale_row_stride = 1,
            .x_scale_column_stride = x.scale_stride,
            .weight_scales = scales.data(),
            .weight_scale_group_stride = scales.size() / shape.groups,
            .weight_scale_stride = columns,
            .weight_scale_rows = nullptr};
  }
  void interpret(const engine::scaled_gemm_op& o) {
    if (const auto* const grouped = std::get_if<cuda::grouped_gemm_plan>(&o.plan);
        grouped != nullptr && grouped->shape.weights == dtype::bf16) {
      REQUIRE((o.x.values.offset | o.x.values.stride) % 8 == 0);  // Copied 16 bytes at a time.
      REQUIRE((!o.accumulate || o.out.type == dtype::f32));
      const grouped_gemm_shape& s = grouped->shape;
      multiply(o, {.n = s.n, .k = s.k, .weights = s.weights}, grouped->limits.rows_max);
      ++packed_products;
      return;
    }
    const engine::packed_matrix& w = matrix_of(*e4m3_weights_, o.weight);
    const std::uint32_t rows = count_of(o.rows);
    const auto* const block_scaled = std::get_if<cuda::block_scaled_gemm_plan>(&o.plan);
    if (block_scaled != nullptr) {
      REQUIRE((block_scaled->n == w.shape.n && block_scaled->k == w.shape.k));
      REQUIRE((w.grid.rows.empty() && o.x.scale_stride <= block_scaled->rows_max));
      REQUIRE(o.x.scale_stride % 4 == 0);
    } else {
      const auto& grouped = std::get<cuda::grouped_gemm_plan>(o.plan);
      REQUIRE((grouped.shape.n == w.shape.n && grouped.shape.k == w.shape.k));
      REQUIRE(o.x.values.stride % 16 == 0);
    }
    ++(block_scaled != nullptr ? block_scaled_products : grouped_products);
    const grouped_gemm_shape shape{1, w.shape.n, w.shape.k, dtype::e4m3};
    std::vector<float> out = o.accumulate ? widened(o.out, rows, shape.n)
                                          : std::vector<float>(std::size_t{rows} * shape.n);
    auto args = scaled_args(shape, o.x, w.bytes.data(), w.grid.scales);
    args.weight_scale_rows = w.grid.rows.empty() ? nullptr : w.grid.rows.data();
    args.out = out.data();
    args.rows = rows;
    args.accumulate = o.accumulate;
    reference::grouped_gemm(shape, args);
    store(out, o.out, rows, shape.n);
    // cuBLASLt writes whole fours of rows; behind the batch they are nobody's.
    const std::size_t written = block_scaled != nullptr ? o.x.scale_stride : rows;
    const std::vector<float> nothing((written - rows) * shape.n, NAN);
    slice behind = o.out;
    behind.offset += rows * o.out.stride;
    store(nothing, behind, written - rows, shape.n);
  }
  void interpret(const engine::rope_op& o) {
    const std::uint32_t rows = count_of(o.rows);
    positions_.assign(rows, 0);  // What counts is the table.
    const auto turn = [&](const auto& args) {
      host::run_rope(p_->ropes[o.kind], args, buffer<float>(o.table), serial_);
    };
    if (o.q.type == dtype::bf16) {
      turn(rope_qk_args{.q = buffer<bf16>(o.q.buffer).data() + o.q.offset,
                        .q_stride = o.q.stride,
                        .x = floats(o.x),
                        .x_stride = o.x.stride,
                        .q_heads = o.q_heads,
                        .kv_heads = o.kv_heads,
                        .positions = positions_});
    } else {
      REQUIRE(o.q.buffer == o.x.buffer);
      turn(rope_args{.x = floats(o.x),
                     .x_stride = o.x.stride,
                     .heads = o.q_heads + o.kv_heads,
                     .positions = positions_});
    }
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
    const kv_append_args args{.kv = layers_kv_[o.layer].kv,
                              .k = floats(o.k),
                              .v = floats(o.v),
                              .k_stride = o.k.stride,
                              .v_stride = o.v.stride,
                              .v_scale = static_cast<float>(model_.attention_value_scale),
                              .sequences = sequences(o.sequences)};
    o.shape.kv == dtype::e4m3 ? reference::kv_append(o.shape, args)
                              : host::run_kv_append(o.shape, args, serial_);
  }
  void interpret(const engine::attend_op& o) {
    const attention_shape& shape = o.plan.shape;
    const cuda::attention_limits& limits = o.plan.limits;
    const std::vector<float>& sinks = layer_of(o.layer).attention.sinks;
    const std::size_t q_width = std::size_t{shape.q_heads} * shape.head_dim_qk;
    REQUIRE(o.q.type == o.plan.q_type);
    std::size_t row = 0;
    for (const paged_sequence& s : sequences(o.sequences)) {
      if (s.rows >= limits.rows_per_sequence_min && s.rows <= limits.rows_per_sequence_max) {
        std::vector<float> heads(s.rows * o.out.stride);
        slice out = o.out, q = o.q;
        out.offset += row * out.stride;
        q.offset += row * q.stride;
        const std::vector<float> queries = widened(q, s.rows, q_width);
        attend(o.plan,
               {.out = heads.data(),
                .q = queries.data(),
                .q_stride = q_width,
                .kv = layers_kv_[o.layer].kv,
                .sequences = {&s, 1},
                .sinks = sinks.empty() ? nullptr : sinks.data(),
                .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim_qk))});
        // Also of rows that nobody wants: a device multiplies what they have by zero for others.
        REQUIRE(std::ranges::all_of(heads, [](float x) { return std::isfinite(x); }));
        store(heads, out, s.rows, o.out.stride);
      }
      row += s.rows;
    }
  }
  void attend(const cuda::attention_plan& on_device, const attention_args& args) {
    const attention_shape& shape = on_device.shape;
    if (shape.kv == dtype::e4m3 ||
        (rounds_as_a_device && on_device.unit == cuda::attention_unit::generic)) {
      reference::attention(shape, args);
      return;
    }
    const auto plan =
        host::plan_attention(shape, std::max(args.sequences.front().rows, 1u), 1, weights_.path);
    host::run_attention(*plan, args, scratch(plan->workspace_bytes), serial_);
  }
  void interpret(const engine::swiglu_op& o) {
    const std::uint32_t rows = count_of(o.rows);
    const std::vector<float> gate_up = widened(o.gate_up, rows, 2 * std::size_t{o.inter});
    std::vector<float> out(std::size_t{rows} * o.inter);
    host::run_swiglu(*host::plan_swiglu({o.inter, weights_.compute}, weights_.path),
                     {out.data(), o.inter, gate_up.data(), 2 * std::size_t{o.inter}, rows},
                     serial_);
    if (o.out.values.type == dtype::e4m3) {
      quantise(out, o.inter, o.out, rows);
    } else {
      store(out, o.out.values, rows, o.inter);
    }
  }
  void interpret(const engine::route_op& o) {
    const ffn_geometry& f = geometry_of(o.layer).ffn;
    const auto& moe = std::get<engine::moe_weights>(layer_of(o.layer).ffn);
    const moe_route_shape shape{.experts = f.experts,
                                .top_k = f.top_k,
                                .groups = model_.expert_groups,
                                .kept_groups = model_.expert_groups_kept,
                                .normalize = model_.norm_topk_prob,
                                .scale = static_cast<float>(model_.routed_scaling_factor)};
    const moe_route_args args{.ids = buffer<std::uint32_t>(o.ids).data(),
                              .weights = buffer<float>(o.weights).data(),
                              .logits = floats(o.logits),
                              .logits_stride = o.logits.stride,
                              .correction_bias = moe.correction_bias.data(),
                              .tokens = count_of(o.rows)};
    host::run_moe_route(*host::plan_moe_route(shape, weights_.path), args, serial_);
    if (is_main(o.layer) && args.tokens > 0) {
      const float* const last = args.logits + (args.tokens - 1) * args.logits_stride;
      last_router_gap = std::min(last_router_gap, router_gap(shape, last, args.correction_bias));
    }
  }
  void interpret(const engine::experts_op& o) {
    const ffn_geometry& f = geometry_of(o.layer).ffn;
    const auto& moe = std::get<engine::moe_weights>(layer_of(o.layer).ffn);
    const std::uint32_t rows = count_of(o.rows);
    if (o.type == dtype::e4m3) {
      scaled_experts(o, rows);
      return;
    }
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
    const std::vector<float> x = widened(o.x.values, rows, model_.hidden);
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
  /// Permute, gate and up with SwiGLU, to e4m3, down, combine: as a device has it.
  void scaled_experts(const engine::experts_op& o, std::uint32_t rows) {
    const ffn_geometry& f = geometry_of(o.layer).ffn;
    const auto& moe = std::get<engine::moe_weights>(layer_of(*e4m3_weights_, o.layer).ffn);
    const std::uint32_t pairs = rows * f.top_k;
    std::vector<std::uint32_t> offsets(f.experts + 1), pair_of_row(pairs), row_of_pair(pairs);
    reference::moe_permute({.experts = f.experts, .top_k = f.top_k, .tokens_max = rows},
                           buffer<std::uint32_t>(o.ids).first(pairs),
                           offsets,
                           pair_of_row,
                           row_of_pair);
    const auto multiply = [&](const grouped_gemm_shape& shape,
                              const engine::operand_slice& x,
                              const engine::aligned_bytes& weights,
                              std::size_t stride_bytes,
                              std::span<const float> scales,
                              bool gathers) {
      const std::size_t expert_bytes = std::size_t{shape.weight_rows()} * shape.k;
      std::vector<std::byte> side_by_side;  // without the padding between experts
      for (std::size_t e = 0; e < shape.groups; ++e) {
        const std::byte* const from = weights.data() + e * stride_bytes;
        side_by_side.insert(side_by_side.end(), from, from + expert_bytes);
      }
      std::vector<float> out(std::size_t{pairs} * shape.n);
      auto args = scaled_args(shape, x, side_by_side.data(), scales);
      args.out = out.data();
      args.row_index = gathers ? pair_of_row.data() : nullptr;
      args.row_divisor = gathers ? f.top_k : 1;
      args.offsets = offsets.data();
      args.rows = pairs;
      reference::grouped_gemm(shape, args);
      return out;
    };
    const auto act = multiply({f.experts, f.intermediate, model_.hidden, dtype::e4m3, true},
                              o.x,
                              moe.gate_up,
                              moe.gate_up_stride_bytes,
                              moe.gate_up_scales,
                              true);
    store(act, o.act, pairs, f.intermediate);
    quantise(widened(o.act, pairs, f.intermediate), f.intermediate, o.act_e4m3, pairs);
    const auto y = multiply({f.experts, model_.hidden, f.intermediate, dtype::e4m3},
                            o.act_e4m3,
                            moe.down,
                            moe.down_stride_bytes,
                            moe.down_scales,
                            false);
    reference::moe_combine({model_.hidden, f.top_k},
                           {.out = floats(o.out),
                            .out_stride = o.out.stride,
                            .y = y.data(),
                            .y_stride = model_.hidden,
                            .weights = buffer<float>(o.weights).data(),
                            .row_of_pair = row_of_pair.data(),
                            .tokens = rows,
                            .accumulate = true});
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
  const engine::model_weights* e4m3_weights_;
  std::vector<pool_layer> layers_kv_;
  engine::aligned_bytes memory_, inputs_, outputs_, scratch_;
  std::vector<std::uint32_t> tables_, positions_, needed_;
  const engine::step_program* p_ = nullptr;
  serial_executor serial_;
};

}  // namespace oriel::test
