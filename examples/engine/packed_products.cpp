// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/hash.hpp>

#include <engine/packed_products.hpp>
#include <fmt/format.h>

#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace oriel::engine {
namespace {

constexpr std::uint32_t product_rows_most = 32'768;

std::uint16_t alignment_of(const matrix_slice& s) noexcept {
  const std::size_t bytes = s.offset * size_bytes(s.type) | 16;
  return static_cast<std::uint16_t>(bytes & (~bytes + 1));
}

cuda::gemm_layout layout_of(const matrix_slice& x, const matrix_slice& out, std::uint32_t k) {
  return {.x_stride = x.stride,
          .weight_stride = k,
          .out_stride = out.stride,
          .x_alignment = alignment_of(x),
          .out_alignment = alignment_of(out)};
}

/// Rows that a grouped product can read: 16 bytes at a time.
bool is_copied_whole(const matrix_slice& x) noexcept {
  return (x.offset | x.stride) * size_bytes(x.type) % 16 == 0;
}

/// A product that could be another's, and what it would be.
struct candidate {
  weight_name weight;
  product_kind otherwise;
  library_product product;
};

std::optional<candidate> candidate_in(const operation& op) {
  if (const auto* const o = std::get_if<gemm_op>(&op);
      o != nullptr && o->x.type == dtype::bf16 && is_copied_whole(o->x)) {
    return candidate{
        o->weight, product_kind::packed, {o->plan, layout_of(o->x, o->out, o->plan.shape.k)}};
  }
  if (const auto* const o = std::get_if<scaled_gemm_op>(&op)) {
    if (const auto* const plan = std::get_if<cuda::block_scaled_gemm_plan>(&o->plan)) {
      return candidate{
          o->weight, product_kind::grouped, {*plan, layout_of(o->x.values, o->out, plan->k)}};
    }
  }
  return std::nullopt;
}

/// One of each kind: a matrix is multiplied by one plan in all programs.
std::vector<step_program> programs_of(const program_model& model) {
  const program_shape shape{.sequences = 1, .rows = 4, .logit_rows = 1};
  std::vector<step_program> programs{make_program(model, shape)};
  for (std::uint32_t block = 0; block < model.mtp_blocks; ++block) {
    program_shape draft = shape;
    draft.kind = program_kind::draft;
    draft.block = block;
    programs.push_back(make_program(model, draft));
  }
  return programs;
}

/// Packs what is refused of the products planned for model.product_rows. Has anything changed?
bool pack_refused(program_model& model, const std::function<bool(const library_product&)>& takes) {
  bool has_changed = false;
  for (const step_program& p : programs_of(model)) {
    for (const operation& op : p.operations) {
      const std::optional<candidate> c = candidate_in(op);
      if (c && !takes(c->product)) {
        model.products[c->weight] = c->otherwise;
        has_changed = true;
      }
    }
  }
  return has_changed;
}

/// The sizes, types and order of a plan of either kind.
template <class Plan>
std::string product_text(
    const Plan& plan, std::uint32_t n, std::uint32_t k, dtype in, std::uint32_t rows) {
  return fmt::format("{} rows x {} by a matrix of {} x {}, {} to {}{}",
                     rows,
                     k,
                     n,
                     k,
                     name_of(in),
                     name_of(plan.out),
                     plan.order == cuda::gemm_order::fixed
                         ? fmt::format(", in the order of {} rows", plan.rows_max)
                         : "");
}

std::string told(const std::string& product, dtype in, cuda::gemm_order order, const failure& why) {
  std::string text = fmt::format("no product of {} on this device: {} ({}, cuBLAS status {})",
                                 product,
                                 why.detail,
                                 name_of(why.code),
                                 why.native);
  if (why.code == errc::unsupported_shape) {
    text += "; CUBLASLT_LOG_LEVEL=5 lets cuBLASLt say why; ";
    text +=
        order == cuda::gemm_order::fixed ? "products in no fixed order (--products fastest), " : "";
    text += in == dtype::f32 ? "weights in bf16, " : "";
    text += "another version of cuBLASLt or the host (--device cpu) may have one";
  }
  return text;
}

}  // namespace

std::string refusal_text(const cuda::gemm_plan& plan, std::uint32_t rows, const failure& why) {
  const gemm_shape& s = plan.shape;
  return told(product_text(plan, s.n, s.k, s.weights, rows), s.weights, plan.order, why);
}

std::string refusal_text(const cuda::block_scaled_gemm_plan& plan,
                         std::uint32_t rows,
                         const failure& why) {
  return told(product_text(plan, plan.n, plan.k, dtype::e4m3, rows), dtype::e4m3, plan.order, why);
}

product_kinds with_packed(const model_geometry& geometry,
                          dtype compute,
                          std::uint32_t mtp_blocks,
                          product_kinds kinds,
                          const std::function<bool(const library_product&)>& takes) {
  program_model model{.geometry = &geometry,
                      .compute = compute,
                      .context_tokens = 64,
                      .pool_of = std::vector<std::uint32_t>(geometry.layers.size() + mtp_blocks),
                      .mtp_blocks = mtp_blocks,
                      .products = std::move(kinds)};
  const std::uint32_t least = order_fixed_rows(model, {}, 0);
  for (model.product_rows = least; model.product_rows <= product_rows_most;
       model.product_rows *= 2) {
    while (pack_refused(model, takes)) {  // Where rows lie may depend on who reads them.
    }
  }
  return std::move(model.products);
}

std::uint64_t digest_of(const product_kinds& kinds) {
  std::vector<std::uint64_t> parts;
  for (const auto& [name, kind] : kinds) {
    parts.insert(parts.end(),
                 {static_cast<std::uint64_t>(name.role),
                  std::uint64_t{name.layer},
                  static_cast<std::uint64_t>(kind)});
  }
  return parts.empty() ? 0 : hash64(std::as_bytes(std::span(parts)));
}

}  // namespace oriel::engine
