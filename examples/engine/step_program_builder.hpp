// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `program_builder`: writes a step program down, operation by operation, for step_program.cpp
/// alone. Its parts, each with a unit of its own:
///
///     step_program_passes.cpp     the kinds of program: forward, draft, decode
///     step_program_layers.cpp     a layer: its norms and feed-forward part; and the head
///     step_program_attention.cpp  a layer's attention, with rope and append
///     step_program_products.cpp   products of matrices, and the rows that they read
///     step_program_memory.cpp     where each buffer of a finished program lies
#pragma once

#include <oriel/core/result.hpp>

#include <engine/error.hpp>
#include <engine/step_program.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace oriel::engine {

/// Rows that were open before a decoding step with MTP blocks, at most. A multiple of 4, so that
/// the step's own, which stand behind them, begin at a multiple of 16 bytes whatever their width: a
/// product's algorithm may depend on that.
inline std::uint32_t carried_rows_of(const program_model& model, std::uint32_t sequences) noexcept {
  const std::uint32_t open = std::max(model.mtp_blocks, 1u) - 1;
  return (sequences * open + 3) / 4 * 4;
}

/// Products of scaled rows compute whole fours.
inline std::size_t in_fours(std::size_t rows) {
  return (rows + 3) / 4 * 4;
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

/// Finds out when each buffer is used, and gives it its place: inputs, outputs, then scratch, the
/// largest first, each at the lowest offset that no buffer in use at the same time covers.
void place_buffers(step_program& p);

/// Writes one program: `make` is called once.
class program_builder {
 public:
  program_builder(const program_model& model, const program_shape& shape)
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
  void norm(weight_name weight, const matrix_slice& x, const operand_slice& out, row_set rows) {
    p_.operations.emplace_back(norm_op{weight, x, out, {}, rows});
  }

  // Products.
  /// out = x * weights, or out += it.
  struct product {
    weight_name weight;
    std::uint32_t n, k;  // rows and columns of the weights
    operand_slice x;     // [rows, k]
    matrix_slice out;    // [rows, n]
    row_set rows;
    bool accumulate = false;
  };
  /// How products over these rows are planned.
  struct product_limits {
    std::uint32_t rows_max;
    cuda::gemm_order order;
  };
  [[nodiscard]] std::uint32_t rows_of(row_set rows) const {
    return static_cast<std::uint32_t>(p_.rows_of[static_cast<std::size_t>(rows)]);
  }
  [[nodiscard]] product_limits product_limits_of(row_set rows) const;
  [[nodiscard]] product_kind kind_of(weight_name weight) const;
  /// Room for rows as a product with `weight` reads them.
  operand_slice operand(const char* name,
                        weight_name weight,
                        std::size_t rows,
                        std::size_t columns);
  operand_slice scaled(const char* name, std::size_t rows, std::size_t columns);
  /// `x` as a product with `weight` reads it: itself, or in e4m3.
  operand_slice as_operand(weight_name weight,
                           const matrix_slice& x,
                           std::uint32_t width,
                           row_set rows);
  void need_workspace(std::size_t bytes);
  /// A product with a matrix of weights, whatever its kind. @pre x is its operand
  void multiply(const product& p);
  void gemm(const product& p);
  void scaled_gemm(const product& p);

  // Attention.
  std::uint32_t rope_kind(const attention_geometry& a);
  std::vector<buffer_id> rope_tables(buffer_id positions,
                                     row_set rows,
                                     std::size_t count,
                                     std::uint32_t first_layer,
                                     std::uint32_t end_layer);
  [[nodiscard]] std::vector<cuda::attention_plan> attention_plans(const attention_shape& shape,
                                                                  const pass& rows) const;
  void attention(std::uint32_t index, const pass& rows);

  // Layers.
  void layer(std::uint32_t index, const pass& rows);
  void dense(std::uint32_t index, const pass& rows);
  void experts(std::uint32_t index, const pass& rows);
  matrix_slice head(weight_name norm_weight,
                    const matrix_slice& x,
                    std::size_t count,
                    row_set rows,
                    buffer_role role);

  // Passes.
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

}  // namespace oriel::engine
