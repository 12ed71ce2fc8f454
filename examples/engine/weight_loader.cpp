// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/weight_loader.hpp>
#include <engine/weights_packing.hpp>

#include <cstring>
#include <utility>

namespace oriel::engine {
namespace {

std::uint32_t rows_of(const matrix_rows& matrix) {
  std::uint32_t rows = 0;
  for (const row_range& range : matrix) {
    rows += range.rows;
  }
  return rows;
}

/// Follows the layout and fills in the weights.
class loader {
 public:
  loader(const checkpoint& opened,
         const weights_packing& packing,
         bool keeps_e4m3,
         weight_rows& rows)
      : opened_(opened), packing_(packing), keeps_e4m3_(keeps_e4m3), rows_(rows) {}

  aligned_bytes embedding();
  packed_matrix matrix(const matrix_rows& from) {
    if (!stays_e4m3(from)) {
      return matrix(from, packing_.compute);
    }
    packed_matrix scaled = matrix(from, dtype::e4m3);
    scaled.grid = rows_.grid_of(from);
    return scaled;
  }
  layer_weights layer(const layer_layout& from, const layer_geometry& geometry);
  mtp_weights mtp(const mtp_layout& from, const layer_geometry& geometry);

 private:
  template <class Layout>
  bool stays_e4m3(const Layout& from) const {
    return keeps_e4m3_ && weight_rows::is_e4m3(from);
  }
  auto source(const matrix_rows& from, dtype type) {
    return [this, &from, type](auto&& sink) { rows_.for_each_run(from, type, sink); };
  }
  packed_matrix matrix(const matrix_rows& from, dtype type) {
    return packing_.matrix(rows_of(from), from.front().columns, type, source(from, type));
  }
  dense_ffn_weights dense(const ffn_layout& from) {
    return {.gate_up = matrix(from.gate_up), .down = matrix(from.down)};
  }
  moe_weights moe(const moe_layout& from, const ffn_geometry& geometry);

  const checkpoint& opened_;
  const weights_packing& packing_;
  bool keeps_e4m3_;
  weight_rows& rows_;
};

aligned_bytes loader::embedding() {
  const model_geometry& g = opened_.config.geometry;
  const std::size_t row_bytes = g.hidden * size_bytes(packing_.compute);
  aligned_bytes table(g.vocabulary * row_bytes);
  const auto copy = [&](const void* rows, std::uint32_t first, std::uint32_t count) {
    std::memcpy(table.data() + first * row_bytes, rows, count * row_bytes);
  };
  rows_.for_each_run(opened_.layout.embedding, packing_.compute, copy);
  return table;
}

moe_weights loader::moe(const moe_layout& from, const ffn_geometry& geometry) {
  moe_weights to;
  to.router = matrix(from.router, dtype::f32);
  to.correction_bias = rows_.vector(from.correction_bias);
  const bool is_scaled = stays_e4m3(from);
  const dtype type = is_scaled ? dtype::e4m3 : packing_.compute;
  packing_.experts(
      opened_.config.geometry.hidden,
      geometry,
      type,
      to,
      [&](std::uint32_t e) { return source(from.experts[e].gate_up, type); },
      [&](std::uint32_t e) { return source(from.experts[e].down, type); });
  for (std::size_t e = 0; is_scaled && e < from.experts.size(); ++e) {
    const auto add = [&](const matrix_rows& matrix, std::vector<float>& scales) {
      const std::vector<float> more = rows_.grid_of(matrix).scales;
      scales.insert(scales.end(), more.begin(), more.end());
    };
    add(from.experts[e].gate_up, to.gate_up_scales);
    add(from.experts[e].down, to.down_scales);
  }
  return to;
}

layer_weights loader::layer(const layer_layout& from, const layer_geometry& geometry) {
  layer_weights to;
  to.input_norm = rows_.vector(from.input_norm);
  to.post_attention_norm = rows_.vector(from.post_attention_norm);
  to.attention.qkv = matrix(from.attention.qkv);
  to.attention.o = matrix(from.attention.o);
  to.attention.sinks = rows_.vector(from.attention.sinks);
  if (const auto* const experts = std::get_if<moe_layout>(&from.ffn)) {
    to.ffn = moe(*experts, geometry.ffn);
  } else {
    to.ffn = dense(std::get<ffn_layout>(from.ffn));
  }
  return to;
}

mtp_weights loader::mtp(const mtp_layout& from, const layer_geometry& geometry) {
  return {.enorm = rows_.vector(from.enorm),
          .hnorm = rows_.vector(from.hnorm),
          .final_norm = rows_.vector(from.final_norm),
          .eh_proj = matrix(from.eh_proj),
          .layer = layer(from.layer, geometry)};
}

}  // namespace

dtype compute_type_of(const checkpoint& opened) noexcept {
  const dtype stored = *opened.layout.embedding.front().weight->type;
  const bool quantised = opened.config.quantization != weight_quantization::none;
  return stored == dtype::f32 && !quantised ? dtype::f32 : dtype::bf16;
}

model_weights load_weights(const checkpoint& opened, const load_options& options) {
  const weights_packing packing{options.compute.value_or(compute_type_of(opened)),
                                options.path,
                                options.backend,
                                options.form};
  if (packing.compute == dtype::e4m3) {
    throw error("weights are computed with in f32 or bf16, not in e4m3");
  }
  weight_rows rows(opened.tensors, options.progress);
  const bool keeps_e4m3 =
      options.keeps_e4m3 && packing.form == weight_form::plain && packing.compute == dtype::bf16;
  loader loading(opened, packing, keeps_e4m3, rows);
  const model_geometry& g = opened.config.geometry;

  model_weights weights;
  weights.form = packing.form;
  weights.compute = packing.compute;
  weights.path = packing.path;
  weights.backend = packing.backend;
  weights.embedding = loading.embedding();
  for (std::size_t i = 0; i < g.layers.size(); ++i) {
    weights.layers.push_back(loading.layer(opened.layout.layers[i], g.layers[i]));
  }
  weights.final_norm = rows.vector(opened.layout.final_norm);
  weights.lm_head = loading.matrix(opened.layout.lm_head);
  for (std::size_t i = 0; options.with_mtp && i < g.mtp_layers.size(); ++i) {
    weights.mtp.push_back(loading.mtp(opened.layout.mtp[i], g.mtp_layers[i]));
  }
  return weights;
}

}  // namespace oriel::engine
