// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `host_step_operations`: what each operation of a step program is on the host, but for products.
#pragma once

#include "support/host_step_memory.hpp"
#include "support/host_step_weights.hpp"
#include "support/router_gap.hpp"

#include <oriel/core/executor.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/draft_rows.hpp>
#include <oriel/kernels/embed.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/kv_append.hpp>
#include <oriel/kernels/moe_route.hpp>
#include <oriel/kernels/rms_norm.hpp>
#include <oriel/kernels/rope.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/kernels/swiglu.hpp>
#include <oriel/kernels/verify_chains.hpp>
#include <oriel/kv/dual_pool.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace oriel::test {

class host_step_operations {
 public:
  /// @param layers_kv  [layers], pages as the host has them
  /// @pre memory and weights outlive it
  host_step_operations(host_step_memory& memory,
                       const host_step_weights& weights,
                       std::vector<pool_layer> layers_kv)
      : at_(memory), w_(weights), layers_kv_(std::move(layers_kv)) {}

  void need_pages(std::uint32_t pool, std::uint32_t pages) {
    needed_.resize(std::max<std::size_t>(needed_.size(), pool + 1));
    needed_[pool] = std::max(needed_[pool], pages);
  }

  void interpret(const engine::embed_op& o) {
    host::run_embed(*host::plan_embed({w_.model().vocabulary, w_.model().hidden, w_.all().compute}),
                    {at_.floats(o.out),
                     o.out.stride,
                     w_.all().embedding.data(),
                     at_.buffer<token_id>(o.tokens).first(at_.count_of(o.rows))},
                    serial_);
  }
  void interpret(const engine::rope_table_op& o) {
    host::fill_rope_table(at_.program().ropes[o.kind],
                          at_.buffer<std::uint32_t>(o.positions).first(at_.count_of(o.rows)),
                          at_.buffer<float>(o.table),
                          serial_);
  }
  void interpret(const engine::norm_op& o) {
    const slice& out = o.out.values;
    const slice& plain = out.type == dtype::e4m3 ? o.plain : out;
    rms_norm_args args{.out = nullptr,
                       .out_stride = 0,
                       .x = at_.floats(o.x),
                       .x_stride = o.x.stride,
                       .weight = w_.vector_of(o.weight).data(),
                       .rows = at_.count_of(o.rows)};
    if (plain.buffer == engine::no_buffer) {
      // In e4m3 alone.
    } else if (plain.type == dtype::f32) {
      args.out = at_.floats(plain);
      args.out_stride = plain.stride;
    } else {
      args.rounded = at_.buffer<bf16>(plain.buffer).data() + plain.offset;
      args.rounded_stride = plain.stride;
    }
    if (out.type == dtype::e4m3) {
      args.quantized = at_.quantized(o.out);
    }
    host::run_rms_norm(
        *host::plan_rms_norm(
            {w_.model().hidden, static_cast<float>(w_.model().rms_eps), w_.all().compute},
            w_.all().path),
        args,
        serial_);
  }
  void interpret(const engine::quantize_op& o) {
    const std::uint32_t rows = at_.count_of(o.rows);
    at_.quantise(at_.widened(o.x, rows, o.width), o.width, o.out, rows);
  }
  void interpret(const engine::rope_op& o) {
    const std::uint32_t rows = at_.count_of(o.rows);
    positions_.assign(rows, 0);  // What counts is the table.
    const auto turn = [&](const auto& args) {
      host::run_rope(at_.program().ropes[o.kind], args, at_.buffer<float>(o.table), serial_);
    };
    if (o.q.type == dtype::bf16) {
      turn(rope_qk_args{.q = at_.buffer<bf16>(o.q.buffer).data() + o.q.offset,
                        .q_stride = o.q.stride,
                        .x = at_.floats(o.x),
                        .x_stride = o.x.stride,
                        .q_heads = o.q_heads,
                        .kv_heads = o.kv_heads,
                        .positions = positions_});
    } else {
      REQUIRE(o.q.buffer == o.x.buffer);
      turn(rope_args{.x = at_.floats(o.x),
                     .x_stride = o.x.stride,
                     .heads = o.q_heads + o.kv_heads,
                     .positions = positions_});
    }
  }
  void interpret(const engine::append_op& o) {
    std::uint32_t rows = 0;
    for (const paged_sequence& s : sequences(o.sequences)) {
      rows += s.rows;
    }
    REQUIRE(rows == at_.count_of(o.rows));
    expect_needed(layers_kv_[o.layer].pool, o.shape.page_size, sequences(o.sequences));
    const kv_append_args args{.kv = layers_kv_[o.layer].kv,
                              .k = at_.floats(o.k),
                              .v = at_.floats(o.v),
                              .k_stride = o.k.stride,
                              .v_stride = o.v.stride,
                              .v_scale = static_cast<float>(w_.model().attention_value_scale),
                              .sequences = sequences(o.sequences)};
    o.shape.kv == dtype::e4m3 ? reference::kv_append(o.shape, args)
                              : host::run_kv_append(o.shape, args, serial_);
  }
  void interpret(const engine::attend_op& o) {
    const attention_shape& shape = o.plan.shape;
    const cuda::attention_limits& limits = o.plan.limits;
    const std::vector<float>& sinks = w_.layer_of(o.layer).attention.sinks;
    const std::size_t q_width = std::size_t{shape.q_heads} * shape.head_dim_qk;
    REQUIRE(o.q.type == o.plan.q_type);
    std::size_t row = 0;
    for (const paged_sequence& s : sequences(o.sequences)) {
      if (s.rows >= limits.rows_per_sequence_min && s.rows <= limits.rows_per_sequence_max) {
        std::vector<float> heads(s.rows * o.out.stride);
        slice out = o.out, q = o.q;
        out.offset += row * out.stride;
        q.offset += row * q.stride;
        const std::vector<float> queries = at_.widened(q, s.rows, q_width);
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
        at_.store(heads, out, s.rows, o.out.stride);
      }
      row += s.rows;
    }
  }
  void interpret(const engine::swiglu_op& o) {
    const std::uint32_t rows = at_.count_of(o.rows);
    const std::vector<float> gate_up = at_.widened(o.gate_up, rows, 2 * std::size_t{o.inter});
    std::vector<float> out(std::size_t{rows} * o.inter);
    host::run_swiglu(*host::plan_swiglu({o.inter, w_.all().compute}, w_.all().path),
                     {out.data(), o.inter, gate_up.data(), 2 * std::size_t{o.inter}, rows},
                     serial_);
    if (o.out.values.type == dtype::e4m3) {
      at_.quantise(out, o.inter, o.out, rows);
    } else {
      at_.store(out, o.out.values, rows, o.inter);
    }
  }
  void interpret(const engine::route_op& o) {
    const ffn_geometry& f = w_.geometry_of(o.layer).ffn;
    const engine::moe_weights& moe = w_.experts_of(o.layer);
    const moe_route_shape shape{.experts = f.experts,
                                .top_k = f.top_k,
                                .groups = w_.model().expert_groups,
                                .kept_groups = w_.model().expert_groups_kept,
                                .normalize = w_.model().norm_topk_prob,
                                .scale = static_cast<float>(w_.model().routed_scaling_factor)};
    const moe_route_args args{.ids = at_.buffer<std::uint32_t>(o.ids).data(),
                              .weights = at_.buffer<float>(o.weights).data(),
                              .logits = at_.floats(o.logits),
                              .logits_stride = o.logits.stride,
                              .correction_bias = moe.correction_bias.data(),
                              .tokens = at_.count_of(o.rows)};
    host::run_moe_route(*host::plan_moe_route(shape, w_.all().path), args, serial_);
    if (w_.is_main(o.layer) && args.tokens > 0) {
      const float* const last = args.logits + (args.tokens - 1) * args.logits_stride;
      last_router_gap = std::min(last_router_gap, router_gap(shape, last, args.correction_bias));
    }
  }
  void interpret(const engine::gather_op& o) {
    reference::gather_rows(
        {.width = o.width},
        {.out = at_.floats(o.out),
         .out_stride = o.out.stride,
         .x = at_.floats(o.x),
         .x_stride = o.x.stride,
         .rows = at_.buffer<std::uint32_t>(o.index).first(at_.count_of(o.rows))});
  }
  void interpret(const engine::sample_op& o) {
    const std::uint32_t rows = at_.count_of(o.rows);
    const auto plan = host::plan_sample(w_.model().vocabulary, 1, w_.all().path);
    host::run_sample(*plan,
                     {.out = at_.buffer<sampled_token>(o.out).subspan(o.first, rows),
                      .logits = at_.floats(o.logits),
                      .logits_stride = o.logits.stride,
                      .rows = at_.buffer<sample_row>(o.asked).first(rows)},
                     at_.scratch(plan->workspace_bytes),
                     serial_);
  }
  void interpret(const engine::verify_op& o) {
    const std::uint32_t chains = at_.count_of(engine::row_set::sequences);
    reference::verify_chains({.out = at_.buffer<chain_verdict>(o.verdicts).first(chains),
                              .chains = at_.buffer<verify_chain>(o.chains).first(chains),
                              .rows = at_.buffer<sampled_token>(o.sampled),
                              .drafts = at_.buffer<token_id>(o.drafts)});
  }
  void interpret(const engine::draft_rows_op& o) {
    // By sequence: a device has them at the bucket's stride, and skips those behind the batch.
    const std::uint32_t count = at_.count_of(engine::row_set::sequences);
    const std::span<sampled_token> drafted = at_.buffer<sampled_token>(o.drafted);
    const std::size_t stride = at_.program().shape.sequences;
    std::vector<sampled_token> before;
    for (std::uint32_t b = 0; b < o.block; ++b) {
      const auto of_block = drafted.subspan(b * stride, count);
      before.insert(before.end(), of_block.begin(), of_block.end());
    }
    reference::draft_rows({.tokens = at_.buffer<token_id>(o.tokens),
                           .logit_rows = at_.buffer<std::uint32_t>(o.logit_rows).first(count),
                           .spans = at_.buffer<draft_span>(o.spans).first(count),
                           .known = at_.buffer<token_id>(o.known),
                           .verdicts = at_.buffer<chain_verdict>(o.verdicts).first(count),
                           .sampled = at_.buffer<sampled_token>(o.sampled),
                           .drafted = before,
                           .block = o.block});
  }

  /// Generic attention as a device has it, whose weights of values are not rounded; else the host engine's bits.
  bool rounds_as_a_device = false;
  /// Of the last run's last row: the smallest router_gap of the model's layers.
  float last_router_gap = 0.0f;

 private:
  using slice = host_step_memory::slice;

  std::span<const paged_sequence> sequences(engine::buffer_id id) {
    return at_.buffer<paged_sequence>(id).first(at_.count_of(engine::row_set::sequences));
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
  void attend(const cuda::attention_plan& on_device, const attention_args& args) {
    const attention_shape& shape = on_device.shape;
    if (shape.kv == dtype::e4m3 ||
        (rounds_as_a_device && on_device.unit == cuda::attention_unit::generic)) {
      reference::attention(shape, args);
      return;
    }
    const auto plan =
        host::plan_attention(shape, std::max(args.sequences.front().rows, 1u), 1, w_.all().path);
    host::run_attention(*plan, args, at_.scratch(plan->workspace_bytes), serial_);
  }

  host_step_memory& at_;
  const host_step_weights& w_;
  std::vector<pool_layer> layers_kv_;
  std::vector<std::uint32_t> positions_, needed_;
  serial_executor serial_;
};

}  // namespace oriel::test
