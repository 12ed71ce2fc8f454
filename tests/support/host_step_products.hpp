// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `host_step_products`: dense products and experts of a step program on the host. Those of the model's
/// own type are the host kernels', over packed weights; those of e4m3 the references', over plain ones.
#pragma once

#include "support/host_step_memory.hpp"
#include "support/host_step_weights.hpp"

#include <oriel/core/executor.hpp>
#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/grouped_gemm.hpp>
#include <oriel/kernels/moe_combine.hpp>
#include <oriel/kernels/moe_gemm.hpp>
#include <oriel/kernels/moe_permute.hpp>

#include <catch2/catch.hpp>
#include <engine/aligned_bytes.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

namespace oriel::test {

class host_step_products {
 public:
  /// @param e4m3  the model again, plain, loaded with keeps_e4m3; may be null
  /// @pre all outlive it
  host_step_products(host_step_memory& memory,
                     const host_step_weights& weights,
                     const engine::model_weights* e4m3)
      : at_(memory), w_(weights) {
    if (e4m3 != nullptr) {
      kept_.emplace(weights.model(), *e4m3);
    }
  }

  void interpret(const engine::gemm_op& o) { multiply(o, o.plan.shape, o.plan.rows_max); }
  void interpret(const engine::router_op& o) {
    const engine::packed_matrix& w = w_.matrix_of({engine::weight_role::router, o.layer});
    REQUIRE((w.shape.n == o.plan.shape.experts && w.shape.k == o.plan.shape.hidden));
    REQUIRE(w.shape.weights == dtype::f32);
    REQUIRE(o.x.type == w_.all().compute);
    multiply(w, o.x, o.logits, at_.count_of(o.rows), false);
  }
  void interpret(const engine::scaled_gemm_op& o) {
    if (const auto* const grouped = std::get_if<cuda::grouped_gemm_plan>(&o.plan);
        grouped != nullptr && grouped->shape.weights == dtype::bf16) {
      REQUIRE((o.x.values.offset | o.x.values.stride) % 8 == 0);  // Copied 16 bytes at a time.
      REQUIRE((!o.accumulate || o.out.type == dtype::f32));
      const grouped_gemm_shape& s = grouped->shape;
      multiply(o, {.n = s.n, .k = s.k, .weights = s.weights}, grouped->limits.rows_max);
      ++packed_count;
      return;
    }
    const engine::packed_matrix& w = kept().matrix_of(o.weight);
    const std::uint32_t rows = at_.count_of(o.rows);
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
    ++(block_scaled != nullptr ? block_scaled_count : grouped_count);
    const grouped_gemm_shape shape{1, w.shape.n, w.shape.k, dtype::e4m3};
    std::vector<float> out = o.accumulate ? at_.widened(o.out, rows, shape.n)
                                          : std::vector<float>(std::size_t{rows} * shape.n);
    auto args = scaled_args(shape, o.x, w.bytes.data(), w.grid.scales);
    args.weight_scale_rows = w.grid.rows.empty() ? nullptr : w.grid.rows.data();
    args.out = out.data();
    args.rows = rows;
    args.accumulate = o.accumulate;
    reference::grouped_gemm(shape, args);
    at_.store(out, o.out, rows, shape.n);
    // cuBLASLt writes whole fours of rows; behind the batch they are nobody's.
    const std::size_t written = block_scaled != nullptr ? o.x.scale_stride : rows;
    const std::vector<float> nothing((written - rows) * shape.n, NAN);
    slice behind = o.out;
    behind.offset += rows * o.out.stride;
    at_.store(nothing, behind, written - rows, shape.n);
  }
  void interpret(const engine::experts_op& o) {
    const ffn_geometry& f = w_.geometry_of(o.layer).ffn;
    const engine::moe_weights& moe = w_.experts_of(o.layer);
    const std::uint32_t rows = at_.count_of(o.rows);
    if (o.type == dtype::e4m3) {
      scaled_experts(o, rows);
      return;
    }
    const auto plan = host::plan_moe_gemm({.hidden = w_.model().hidden,
                                           .inter = f.intermediate,
                                           .experts = f.experts,
                                           .top_k = f.top_k,
                                           .weights = w_.all().compute,
                                           .activation = w_.all().compute},
                                          std::max(rows, 1u),
                                          1,
                                          w_.all().path,
                                          w_.all().backend);
    std::vector<const std::byte*> gate_up, down;
    for (std::size_t e = 0; e < f.experts; ++e) {
      gate_up.push_back(moe.gate_up.data() + e * moe.gate_up_stride_bytes);
      down.push_back(moe.down.data() + e * moe.down_stride_bytes);
    }
    const std::vector<float> x = at_.widened(o.x.values, rows, w_.model().hidden);
    std::vector<float> out(x.size()), sum = at_.widened(o.out, rows, w_.model().hidden);
    host::run_moe_gemm(*plan,
                       {.out = out.data(),
                        .out_stride = w_.model().hidden,
                        .x = x.data(),
                        .x_stride = w_.model().hidden,
                        .tokens = rows,
                        .ids = at_.buffer<std::uint32_t>(o.ids).data(),
                        .weights = at_.buffer<float>(o.weights).data(),
                        .gate_up = gate_up,
                        .down = down},
                       at_.scratch(plan->workspace_bytes),
                       serial_);
    for (std::size_t i = 0; i < sum.size(); ++i) {
      sum[i] += out[i];
    }
    at_.store(sum, o.out, rows, w_.model().hidden);
    // What a device would overwrite meanwhile.
    for (const engine::buffer_id id : {o.permutation, o.act.buffer, o.y.buffer}) {
      std::ranges::fill(at_.buffer<std::byte>(id), std::byte{0xFF});
    }
  }

  /// Products so far that are no plain ones, by who would multiply on a device.
  std::size_t block_scaled_count = 0, grouped_count = 0, packed_count = 0;

 private:
  using slice = host_step_memory::slice;

  const host_step_weights& kept() const {
    REQUIRE(kept_);
    return *kept_;
  }
  /// A product of the model's own type. @tparam Op  has its operands
  template <class Op>
  void multiply(const Op& o, const gemm_shape& shape, std::uint32_t rows_max) {
    const engine::packed_matrix& w = w_.matrix_of(o.weight);
    REQUIRE((w.shape.n == shape.n && w.shape.k == shape.k && w.shape.weights == shape.weights));
    REQUIRE(at_.count_of(o.rows) <= rows_max);
    multiply(w, values_of(o.x), o.out, at_.count_of(o.rows), o.accumulate);
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
    const std::vector<float> x = at_.widened(from, rows, shape.k);
    std::vector<float> out = accumulate ? at_.widened(to, rows, shape.n)
                                        : std::vector<float>(std::size_t{rows} * shape.n);
    const auto plan = host::plan_gemm(shape, rows, 1, w_.all().path, w_.all().backend);
    host::run_gemm(*plan,
                   {.out = out.data(),
                    .out_stride = shape.n,
                    .x = x.data(),
                    .x_stride = shape.k,
                    .weights = w.bytes.data(),
                    .rows = rows,
                    .accumulate = accumulate},
                   at_.scratch(plan->workspace_bytes),
                   serial_);
    at_.store(out, to, rows, shape.n);
  }
  static const slice& values_of(const slice& s) { return s; }
  static const slice& values_of(const engine::operand_slice& s) { return s.values; }
  /// For the reference, which has plain weights.
  grouped_gemm_args<float> scaled_args(const grouped_gemm_shape& shape,
                                       const engine::operand_slice& x,
                                       const std::byte* weights,
                                       std::span<const float> scales) {
    const std::size_t columns = (shape.k - 1) / scale_block + 1;
    return {.out = nullptr,
            .out_stride = shape.n,
            .x = at_.buffer<e4m3>(x.values.buffer).data() + x.values.offset,
            .x_stride = x.values.stride,
            .row_index = nullptr,
            .row_divisor = 1,
            .weights = weights,
            .offsets = nullptr,
            .rows = 0,
            .x_scales = at_.buffer<float>(x.scales).data(),
            .x_scale_row_stride = 1,
            .x_scale_column_stride = x.scale_stride,
            .weight_scales = scales.data(),
            .weight_scale_group_stride = scales.size() / shape.groups,
            .weight_scale_stride = columns,
            .weight_scale_rows = nullptr};
  }
  /// Permute, gate and up with SwiGLU, to e4m3, down, combine: as a device has it.
  void scaled_experts(const engine::experts_op& o, std::uint32_t rows) {
    const ffn_geometry& f = w_.geometry_of(o.layer).ffn;
    const engine::moe_weights& moe = kept().experts_of(o.layer);
    const std::uint32_t pairs = rows * f.top_k;
    std::vector<std::uint32_t> offsets(f.experts + 1), pair_of_row(pairs), row_of_pair(pairs);
    reference::moe_permute({.experts = f.experts, .top_k = f.top_k, .tokens_max = rows},
                           at_.buffer<std::uint32_t>(o.ids).first(pairs),
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
    const auto act = multiply({f.experts, f.intermediate, w_.model().hidden, dtype::e4m3, true},
                              o.x,
                              moe.gate_up,
                              moe.gate_up_stride_bytes,
                              moe.gate_up_scales,
                              true);
    at_.store(act, o.act, pairs, f.intermediate);
    at_.quantise(at_.widened(o.act, pairs, f.intermediate), f.intermediate, o.act_e4m3, pairs);
    const auto y = multiply({f.experts, w_.model().hidden, f.intermediate, dtype::e4m3},
                            o.act_e4m3,
                            moe.down,
                            moe.down_stride_bytes,
                            moe.down_scales,
                            false);
    reference::moe_combine({w_.model().hidden, f.top_k},
                           {.out = at_.floats(o.out),
                            .out_stride = o.out.stride,
                            .y = y.data(),
                            .y_stride = w_.model().hidden,
                            .weights = at_.buffer<float>(o.weights).data(),
                            .row_of_pair = row_of_pair.data(),
                            .tokens = rows,
                            .accumulate = true});
    for (const engine::buffer_id id : {o.permutation, o.act.buffer, o.y.buffer}) {
      std::ranges::fill(at_.buffer<std::byte>(id), std::byte{0xFF});
    }
  }

  host_step_memory& at_;
  const host_step_weights& w_;
  std::optional<host_step_weights> kept_;  ///< in e4m3
  serial_executor serial_;
};

}  // namespace oriel::test
