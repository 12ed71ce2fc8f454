// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// How a step program's operations become kernels.
#include <oriel/core/contract.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/draft_rows.hpp>
#include <oriel/kernels/embed.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/grouped_gemm.hpp>
#include <oriel/kernels/kv_append.hpp>
#include <oriel/kernels/moe_combine.hpp>
#include <oriel/kernels/moe_permute.hpp>
#include <oriel/kernels/moe_route.hpp>
#include <oriel/kernels/quantize_rows.hpp>
#include <oriel/kernels/rms_norm.hpp>
#include <oriel/kernels/rope.hpp>
#include <oriel/kernels/router_logits.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/kernels/swiglu.hpp>
#include <oriel/kernels/verify_chains.hpp>

#include <engine/packed_products.hpp>
#include <engine_cuda/cuda_backend.hpp>
#include <engine_cuda/cuda_check.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

namespace oriel::engine {

/// The operations of one program, on one stream.
class cuda_step {
 public:
  cuda_step(cuda_backend& device, const step_program& program)
      : d_(device),
        p_(program),
        model_(device.weights_->model()),
        base_(device.device_->bytes(cuda_backend::step_memory).data()) {}

  /// @param gate  asked before the attention of each layer
  void enqueue(layer_gate_ref gate) {
    for (const operation& op : p_.operations) {
      if (const auto* o = std::get_if<attend_op>(&op);
          gate && o != nullptr && !gate.wait(o->layer)) {
        d_.send_inputs(p_);
      }
      std::visit([&](const auto& o) { run(o); }, op);
    }
  }

 private:
  template <class T>
  [[nodiscard]] std::span<T> buffer(buffer_id id) const {
    const program_buffer& b = p_[id];
    return {reinterpret_cast<T*>(base_ + b.offset_bytes), b.size_bytes / sizeof(T)};
  }
  template <class T>
  [[nodiscard]] T* at(const matrix_slice& s) const {
    return buffer<T>(s.buffer).data() + s.offset;
  }
  [[nodiscard]] std::uint32_t most(row_set rows) const {
    return static_cast<std::uint32_t>(p_.rows_of[static_cast<std::size_t>(rows)]);
  }
  /// Where the device reads how many rows there are.
  [[nodiscard]] const std::uint32_t* count(row_set rows) const {
    return buffer<std::uint32_t>(p_.inputs.row_counts).data() + static_cast<std::size_t>(rows);
  }
  template <class T>
  [[nodiscard]] const T* weight(weight_name name) const {
    return reinterpret_cast<const T*>((*d_.weights_)[name]);
  }
  [[nodiscard]] dtype compute() const { return d_.weights_->compute(); }
  [[nodiscard]] const ffn_geometry& ffn_of(std::uint32_t layer) const {
    const std::size_t main = model_.layers.size();
    return layer < main ? model_.layers[layer].ffn : model_.mtp_layers[layer - main].ffn;
  }

  void run(const embed_op& o) {
    const auto plan =
        checked(cuda::plan_embed({model_.vocabulary, model_.hidden, compute()}), "embedding");
    expect(cuda::run_embed(plan,
                           {at<float>(o.out),
                            o.out.stride,
                            weight<std::byte>({weight_role::embedding}),
                            buffer<token_id>(o.tokens).first(most(o.rows))},
                           d_.stream_,
                           count(o.rows)));
  }
  void run(const rope_table_op& o) {
    expect(cuda::fill_rope_table(p_.ropes[o.kind],
                                 buffer<std::uint32_t>(o.positions).first(most(o.rows)),
                                 buffer<float>(o.table),
                                 d_.stream_,
                                 count(o.rows)));
  }
  void run(const norm_op& o) {
    const auto plan =
        checked(cuda::plan_rms_norm({model_.hidden, static_cast<float>(model_.rms_eps), compute()}),
                "norm");
    const matrix_slice& out = o.out.values;
    const matrix_slice& plain = out.type == dtype::e4m3 ? o.plain : out;
    rms_norm_args args{.out = nullptr,
                       .out_stride = 0,
                       .x = at<float>(o.x),
                       .x_stride = o.x.stride,
                       .weight = weight<float>(o.weight),
                       .rows = most(o.rows)};
    if (plain.buffer == no_buffer) {
      // In e4m3 alone.
    } else if (plain.type == dtype::f32) {
      args.out = at<float>(plain);
      args.out_stride = plain.stride;
    } else {
      args.rounded = at<bf16>(plain);
      args.rounded_stride = plain.stride;
    }
    if (out.type == dtype::e4m3) {
      args.quantized = quantized(o.out);
    }
    expect(cuda::run_rms_norm(plan, args, d_.stream_, count(o.rows)));
  }
  template <class Plan>
  static void expect_product(const status& outcome, const Plan& plan, std::uint32_t rows) {
    if (!outcome) {
      throw error(refusal_text(plan, rows, outcome.error()));
    }
  }
  template <class X, class Out>
  void multiply(const gemm_op& o) {
    const device_gemm_args<X, Out> args{.out = at<Out>(o.out),
                                        .out_stride = o.out.stride,
                                        .x = at<X>(o.x),
                                        .x_stride = o.x.stride,
                                        .weights = weight<X>(o.weight),
                                        .weight_stride = o.plan.shape.k,
                                        .rows = most(o.rows),
                                        .accumulate = o.accumulate};
    expect_product(
        cuda::run_gemm(*d_.products_, o.plan, args, buffer<std::byte>(o.workspace), d_.stream_),
        o.plan,
        args.rows);
  }
  void run(const gemm_op& o) {
    if (o.x.type == dtype::f32) {
      multiply<float, float>(o);
    } else if (o.out.type == dtype::f32) {
      multiply<bf16, float>(o);
    } else {
      multiply<bf16, bf16>(o);
    }
  }
  [[nodiscard]] quantized_rows quantized(const operand_slice& s) const {
    return {.values = at<e4m3>(s.values),
            .stride = s.values.stride,
            .scales = buffer<float>(s.scales).data(),
            .scale_row_stride = 1,
            .scale_group_stride = s.scale_stride};
  }
  template <class T>
  void quantise(std::uint32_t width,
                const matrix_slice& x,
                const operand_slice& out,
                std::uint32_t rows,
                const std::uint32_t* row_count) {
    const auto plan = checked(cuda::plan_quantize_rows({width}), "rows to e4m3");
    expect(cuda::run_quantize_rows(
        plan,
        basic_quantize_rows_args<T>{
            .out = quantized(out), .x = at<T>(x), .x_stride = x.stride, .rows = rows},
        d_.stream_,
        row_count));
  }
  void run(const quantize_op& o) {
    if (o.x.type == dtype::f32) {
      quantise<float>(o.width, o.x, o.out, most(o.rows), count(o.rows));
    } else {
      quantise<bf16>(o.width, o.x, o.out, most(o.rows), count(o.rows));
    }
  }
  /// Rows in whole fours, which the buffers have.
  template <class Out>
  void multiply(const scaled_gemm_op& o, const cuda::block_scaled_gemm_plan& plan) {
    const block_scaled_gemm_args<Out> args{.out = at<Out>(o.out),
                                           .out_stride = o.out.stride,
                                           .x = at<e4m3>(o.x.values),
                                           .x_stride = o.x.values.stride,
                                           .x_scales = buffer<float>(o.x.scales).data(),
                                           .weights = weight<e4m3>(o.weight),
                                           .weight_stride = plan.k,
                                           .weight_scales = scales(o.weight),
                                           .weight_scale_stride = plan.weight_scale_stride,
                                           .rows = static_cast<std::uint32_t>(o.x.scale_stride),
                                           .accumulate = o.accumulate};
    expect_product(cuda::run_block_scaled_gemm(
                       *d_.products_, plan, args, buffer<std::byte>(o.workspace), d_.stream_),
                   plan,
                   args.rows);
  }
  template <class Out>
  void multiply(const scaled_gemm_op& o, const cuda::grouped_gemm_plan& plan) {
    grouped_gemm_args<Out> args = grouped<Out>(plan, o.weight, o.x, o.out);
    args.rows = most(o.rows);
    args.accumulate = o.accumulate;
    expect(cuda::run_grouped_gemm(plan, args, d_.stream_));
  }
  void run(const scaled_gemm_op& o) {
    std::visit(
        [&](const auto& plan) {
          o.out.type == dtype::f32 ? multiply<float>(o, plan) : multiply<bf16>(o, plan);
        },
        o.plan);
  }
  [[nodiscard]] const float* scales(weight_name name) const {
    return reinterpret_cast<const float*>(d_.weights_->part(name, weight_part::scales));
  }
  /// Of the rows in their order, scales included where the weights have some.
  template <class Out>
  [[nodiscard]] grouped_gemm_args<Out> grouped(const cuda::grouped_gemm_plan& plan,
                                               weight_name name,
                                               const operand_slice& x,
                                               const matrix_slice& out) const {
    grouped_gemm_args<Out> args{};
    args.out = at<Out>(out);
    args.out_stride = out.stride;
    args.x = x.values.type == dtype::e4m3 ? static_cast<const void*>(at<e4m3>(x.values))
                                          : at<bf16>(x.values);
    args.x_stride = x.values.stride;
    args.row_divisor = 1;
    args.weights = weight<std::byte>(name);
    if (plan.shape.weights == dtype::e4m3) {
      const std::size_t columns = (plan.shape.k - 1) / scale_block + 1;
      args.x_scales = buffer<float>(x.scales).data();
      args.x_scale_row_stride = 1;
      args.x_scale_column_stride = x.scale_stride;
      args.weight_scales = scales(name);
      args.weight_scale_group_stride = plan.shape.plain_grid_rows() * columns;
      args.weight_scale_stride = columns;
      args.weight_scale_rows =
          reinterpret_cast<const std::uint32_t*>(d_.weights_->part(name, weight_part::scale_rows));
    }
    return args;
  }
  void run(const rope_op& o) {
    // The table has the positions; they are named for their number.
    const std::span<const std::uint32_t> positions = buffer<std::uint32_t>(
        o.rows == row_set::draft_rows ? p_.inputs.draft_positions : p_.inputs.positions);
    const auto turn = [&](const auto& args) {
      expect(cuda::run_rope(
          p_.ropes[o.kind], args, buffer<float>(o.table), d_.stream_, count(o.rows)));
    };
    if (o.q.type == dtype::bf16) {
      turn(rope_qk_args{.q = at<bf16>(o.q),
                        .q_stride = o.q.stride,
                        .x = at<float>(o.x),
                        .x_stride = o.x.stride,
                        .q_heads = o.q_heads,
                        .kv_heads = o.kv_heads,
                        .positions = positions.first(most(o.rows))});
    } else {
      turn(rope_args{.x = at<float>(o.x),
                     .x_stride = o.x.stride,
                     .heads = o.q_heads + o.kv_heads,
                     .positions = positions.first(most(o.rows))});
    }
  }
  void run(const append_op& o) {
    const auto plan = checked(cuda::plan_kv_append(o.shape, most(o.rows)), "KV append");
    expect(cuda::run_kv_append(plan,
                               {.kv = d_.layers_kv_[o.layer],
                                .k = at<float>(o.k),
                                .v = at<float>(o.v),
                                .k_stride = o.k.stride,
                                .v_stride = o.v.stride,
                                .v_scale = static_cast<float>(model_.attention_value_scale),
                                .sequences = buffer<paged_sequence>(o.sequences)},
                               d_.stream_));
  }
  template <class Q, class Out>
  void attend(const attend_op& o) {
    expect(cuda::run_attention(
        o.plan,
        basic_attention_args<Q, Out>{
            .out = at<Out>(o.out),
            .q = at<Q>(o.q),
            .q_stride = o.q.stride,
            .kv = d_.layers_kv_[o.layer],
            .sequences = buffer<paged_sequence>(o.sequences),
            .sinks = weight<float>({weight_role::sinks, o.layer}),
            .scale = 1.0f / std::sqrt(static_cast<float>(o.plan.shape.head_dim_qk))},
        buffer<std::byte>(o.workspace),
        d_.stream_));
  }
  void run(const attend_op& o) {
    if (o.q.type == dtype::bf16) {
      o.out.type == dtype::bf16 ? attend<bf16, bf16>(o) : attend<bf16, float>(o);
    } else {
      o.out.type == dtype::bf16 ? attend<float, bf16>(o) : attend<float, float>(o);
    }
  }
  void activate(const swiglu_op& o, const auto& args) {
    const auto plan = checked(cuda::plan_swiglu({o.inter, compute()}), "swiglu");
    expect(cuda::run_swiglu(plan, args, d_.stream_, count(o.rows)));
  }
  template <class T>
  [[nodiscard]] basic_swiglu_args<T> swiglu_args_of(const swiglu_op& o) const {
    return {.out = at<T>(o.out.values),
            .out_stride = o.out.values.stride,
            .gate_up = at<T>(o.gate_up),
            .gate_up_stride = o.gate_up.stride,
            .rows = most(o.rows)};
  }
  void run(const swiglu_op& o) {
    if (o.out.values.type == dtype::e4m3) {
      activate(o,
               quantized_swiglu_args{.out = quantized(o.out),
                                     .gate_up = at<bf16>(o.gate_up),
                                     .gate_up_stride = o.gate_up.stride,
                                     .rows = most(o.rows)});
    } else if (o.out.values.type == dtype::bf16) {
      activate(o, swiglu_args_of<bf16>(o));
    } else {
      activate(o, swiglu_args_of<float>(o));
    }
  }
  void run(const router_op& o) {
    ORIEL_EXPECTS(o.x.type == dtype::bf16);  // A model with experts in f32 has been refused.
    expect(cuda::run_router_logits(o.plan,
                                   {.logits = at<float>(o.logits),
                                    .logits_stride = o.logits.stride,
                                    .x = at<bf16>(o.x),
                                    .x_stride = o.x.stride,
                                    .weights = weight<float>({weight_role::router, o.layer}),
                                    .tokens = most(o.rows)},
                                   d_.stream_,
                                   count(o.rows)));
  }
  void run(const route_op& o) {
    const ffn_geometry& f = ffn_of(o.layer);
    const auto plan =
        checked(cuda::plan_moe_route({.experts = f.experts,
                                      .top_k = f.top_k,
                                      .groups = model_.expert_groups,
                                      .kept_groups = model_.expert_groups_kept,
                                      .normalize = model_.norm_topk_prob,
                                      .scale = static_cast<float>(model_.routed_scaling_factor)}),
                "the router");
    expect(cuda::run_moe_route(
        plan,
        {.ids = buffer<std::uint32_t>(o.ids).data(),
         .weights = buffer<float>(o.weights).data(),
         .logits = at<float>(o.logits),
         .logits_stride = o.logits.stride,
         .correction_bias = weight<float>({weight_role::correction_bias, o.layer}),
         .tokens = most(o.rows)},
        d_.stream_,
        count(o.rows)));
  }
  void run(const experts_op& o) {
    const ffn_geometry& f = ffn_of(o.layer);
    const std::uint32_t tokens = most(o.rows), pairs = tokens * f.top_k;
    const std::span<std::byte> permutation = buffer<std::byte>(o.permutation);
    expect(cuda::run_moe_permute(o.permute,
                                 buffer<std::uint32_t>(o.ids).first(pairs),
                                 permutation,
                                 d_.stream_,
                                 count(o.rows)));
    const moe_permutation rows = cuda::permutation_in(o.permute, permutation);
    const cuda::grouped_gemm_limits limits{.rows_max = pairs, .multiprocessors = o.multiprocessors};
    const auto gate_up = checked(
        cuda::plan_grouped_gemm(expert_gate_up_shape(model_, f, o.type), limits), "experts");
    const auto down =
        checked(cuda::plan_grouped_gemm(expert_down_shape(model_, f, o.type), limits), "experts");
    auto first = grouped<bf16>(gate_up, {weight_role::expert_gate_up, o.layer}, o.x, o.act);
    first.row_index = rows.pair_of_row.data();
    first.row_divisor = f.top_k;
    first.offsets = rows.expert_offsets.data();
    first.rows = pairs;
    expect(cuda::run_grouped_gemm(gate_up, first, d_.stream_));
    operand_slice act{o.act};
    if (o.type == dtype::e4m3) {
      act = o.act_e4m3;
      // The last offset is the number of pairs.
      quantise<bf16>(f.intermediate, o.act, act, pairs, rows.expert_offsets.data() + f.experts);
    }
    auto second = grouped<float>(down, {weight_role::expert_down, o.layer}, act, o.y);
    second.offsets = rows.expert_offsets.data();
    second.rows = pairs;
    expect(cuda::run_grouped_gemm(down, second, d_.stream_));
    const auto combine = checked(cuda::plan_moe_combine({model_.hidden, f.top_k}), "experts");
    expect(cuda::run_moe_combine(combine,
                                 moe_combine_args{.out = at<float>(o.out),
                                                  .out_stride = o.out.stride,
                                                  .y = at<float>(o.y),
                                                  .y_stride = o.y.stride,
                                                  .weights = buffer<float>(o.weights).data(),
                                                  .row_of_pair = rows.row_of_pair.data(),
                                                  .tokens = tokens,
                                                  .accumulate = true},
                                 d_.stream_,
                                 count(o.rows)));
  }
  void run(const gather_op& o) {
    const auto plan = checked(cuda::plan_gather_rows({.width = o.width}), "row gather");
    expect(cuda::run_gather_rows(
        plan,
        gather_rows_args{.out = at<float>(o.out),
                         .out_stride = o.out.stride,
                         .x = at<float>(o.x),
                         .x_stride = o.x.stride,
                         .rows = buffer<std::uint32_t>(o.index).first(most(o.rows))},
        d_.stream_,
        count(o.rows)));
  }
  void run(const sample_op& o) {
    expect(cuda::run_sample(o.plan,
                            {.out = buffer<sampled_token>(o.out).subspan(o.first, most(o.rows)),
                             .logits = at<float>(o.logits),
                             .logits_stride = o.logits.stride,
                             .rows = buffer<sample_row>(o.asked).first(most(o.rows))},
                            buffer<std::byte>(o.workspace),
                            d_.stream_,
                            count(o.rows)));
  }
  void run(const verify_op& o) {
    expect(cuda::run_verify_chains({.out = buffer<chain_verdict>(o.verdicts),
                                    .chains = buffer<verify_chain>(o.chains),
                                    .rows = buffer<sampled_token>(o.sampled),
                                    .drafts = buffer<token_id>(o.drafts)},
                                   d_.stream_,
                                   count(row_set::sequences)));
  }
  void run(const draft_rows_op& o) {
    expect(cuda::run_draft_rows({.tokens = buffer<token_id>(o.tokens),
                                 .logit_rows = buffer<std::uint32_t>(o.logit_rows),
                                 .spans = buffer<draft_span>(o.spans),
                                 .known = buffer<token_id>(o.known),
                                 .verdicts = buffer<chain_verdict>(o.verdicts),
                                 .sampled = buffer<sampled_token>(o.sampled),
                                 .drafted = buffer<sampled_token>(o.drafted),
                                 .block = o.block},
                                d_.stream_,
                                count(row_set::sequences)));
  }

  cuda_backend& d_;
  const step_program& p_;
  const model_geometry& model_;
  std::byte* base_;
};

void cuda_backend::enqueue(const step_program& program, layer_gate_ref gate) {
  cuda_step(*this, program).enqueue(gate);
}

}  // namespace oriel::engine
