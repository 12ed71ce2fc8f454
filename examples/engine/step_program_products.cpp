// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kernels/quantize_rows.hpp>

#include <engine/step_program_builder.hpp>

#include <algorithm>

namespace oriel::engine {

program_builder::product_limits program_builder::product_limits_of(row_set rows) const {
  if (model_.product_rows == 0 || ORIEL_MUTANT(products_are_planned_for_their_bucket)) {
    return {rows_of(rows), cuda::gemm_order::fastest};
  }
  ORIEL_EXPECTS(rows_of(rows) <= model_.product_rows);
  return {model_.product_rows, cuda::gemm_order::fixed};
}

product_kind program_builder::kind_of(weight_name weight) const {
  const auto found = model_.products.find(weight);
  return found == model_.products.end() ? product_kind::plain : found->second;
}

operand_slice program_builder::operand(const char* name,
                                       weight_name weight,
                                       std::size_t rows,
                                       std::size_t columns) {
  return is_scaled(kind_of(weight)) ? scaled(name, rows, columns)
                                    : operand_slice{matrix(name, rows, columns, model_.compute)};
}

operand_slice program_builder::scaled(const char* name, std::size_t rows, std::size_t columns) {
  constexpr std::size_t row_unit = 16;  // bytes that products copy at a time
  const std::size_t stride = (columns + row_unit - 1) / row_unit * row_unit;
  const std::size_t groups = (columns + quantize_group - 1) / quantize_group;
  return {.values = matrix(name, rows, stride, dtype::e4m3),
          .scales = add("scales of rows", groups * in_fours(rows) * sizeof(float)),
          .scale_stride = in_fours(rows)};
}

operand_slice program_builder::as_operand(weight_name weight,
                                          const matrix_slice& x,
                                          std::uint32_t width,
                                          row_set rows) {
  if (!is_scaled(kind_of(weight))) {
    return {x};
  }
  const operand_slice out = scaled("e4m3 rows", rows_of(rows), width);
  p_.operations.emplace_back(quantize_op{width, x, out, rows});
  return out;
}

void program_builder::need_workspace(std::size_t bytes) {
  program_buffer& workspace = p_.buffers[static_cast<std::size_t>(gemm_workspace_)];
  workspace.size_bytes = std::max(workspace.size_bytes, bytes);
}

void program_builder::multiply(const product& p) {
  kind_of(p.weight) == product_kind::plain ? gemm(p) : scaled_gemm(p);
}

void program_builder::gemm(const product& p) {
  const matrix_slice& x = p.x.values;
  const product_limits limits = product_limits_of(p.rows);
  const auto plan = planned(
      cuda::plan_gemm(
          {.n = p.n, .k = p.k, .weights = x.type}, p.out.type, limits.rows_max, limits.order),
      "a product");
  need_workspace(plan.workspace_bytes);
  p_.operations.emplace_back(
      gemm_op{p.weight, plan, x, p.out, p.accumulate, gemm_workspace_, p.rows});
}

void program_builder::scaled_gemm(const product& p) {
  const product_kind kind = kind_of(p.weight);
  const dtype type = is_scaled(kind) ? dtype::e4m3 : dtype::bf16;
  ORIEL_EXPECTS(p.x.values.type == type);
  const product_limits limits = product_limits_of(p.rows);
  const auto rows_max = static_cast<std::uint32_t>(in_fours(limits.rows_max));
  scaled_gemm_op op{p.weight, {}, p.x, p.out, p.accumulate, gemm_workspace_, p.rows};
  if (kind == product_kind::block_scaled) {
    const auto plan = planned(
        cuda::plan_block_scaled_gemm(
            {.n = p.n, .k = p.k, .weights = dtype::e4m3}, p.out.type, rows_max, limits.order),
        "a product of e4m3");
    need_workspace(plan.workspace_bytes);
    op.plan = plan;
  } else {
    // These have one order for any number of rows.
    op.plan = planned(cuda::plan_grouped_gemm(
                          {.groups = 1, .n = p.n, .k = p.k, .weights = type},
                          {.rows_max = rows_of(p.rows), .multiprocessors = model_.multiprocessors}),
                      "a packed product");
  }
  p_.operations.emplace_back(op);
}

}  // namespace oriel::engine
