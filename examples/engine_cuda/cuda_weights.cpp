// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>

#include <cuda_runtime_api.h>

#include <engine/error.hpp>
#include <engine/packed_products.hpp>
#include <engine/scaled_products.hpp>
#include <engine_cuda/cuda_check.hpp>
#include <engine_cuda/cuda_weights.hpp>
#include <fmt/format.h>

#include <cstring>
#include <functional>
#include <span>
#include <variant>
#include <vector>

namespace oriel::engine {
namespace {

/// A tensor that will be on the device: its size there, and who writes it into `to` on the host.
struct upload {
  weight_name name;
  weight_part part;
  std::size_t size_bytes;
  std::function<std::span<const std::byte>(std::vector<std::byte>& staging)> bytes;
};

class uploads {
 public:
  uploads(const model_geometry& model,
          const model_weights& weights,
          const product_kinds& products,
          std::uint32_t multiprocessors)
      : model_(model), weights_(weights), products_(products), multiprocessors_(multiprocessors) {}

  std::vector<upload> list();

 private:
  void add(weight_name name,
           std::span<const std::byte> bytes,
           weight_part part = weight_part::values) {
    if (!bytes.empty()) {
      all_.push_back(
          {name, part, bytes.size(), [bytes](std::vector<std::byte>&) { return bytes; }});
    }
  }
  void add(weight_name name, const packed_matrix& m);
  void add(weight_name name, const std::vector<float>& v) {
    add(name, std::as_bytes(std::span(v)));
  }
  void add_grouped(weight_name name,
                   const grouped_gemm_shape& shape,
                   const aligned_bytes& plain,
                   std::size_t stride_bytes);
  void add_plain_grid(weight_name name, const packed_matrix& m);
  void add_layer(std::uint32_t index, const layer_geometry& g, const layer_weights& w);

  const model_geometry& model_;
  const model_weights& weights_;
  const product_kinds& products_;
  std::uint32_t multiprocessors_;
  std::vector<upload> all_;
};

void uploads::add(weight_name name, const packed_matrix& m) {
  const auto found = products_.find(name);
  const product_kind kind = found == products_.end() ? product_kind::plain : found->second;
  switch (kind) {
    case product_kind::plain:
      add(name, m.bytes.span());
      break;
    case product_kind::block_scaled:
      add(name, m.bytes.span());
      add_plain_grid(name, m);
      break;
    case product_kind::packed:
    case product_kind::grouped:
      add_grouped(name,
                  {.groups = 1, .n = m.shape.n, .k = m.shape.k, .weights = m.shape.weights},
                  m.bytes,
                  m.bytes.size());
      add(name, std::as_bytes(std::span(m.grid.scales)), weight_part::scales);
      add(name, std::as_bytes(std::span(m.grid.rows)), weight_part::scale_rows);
      break;
  }
}

/// Rows of the grid at the stride that cuBLASLt wants.
void uploads::add_plain_grid(weight_name name, const packed_matrix& m) {
  const std::size_t columns = (m.shape.k - 1) / scale_block + 1;
  const std::size_t stride =
      cuda::plan_block_scaled_gemm(m.shape, dtype::f32, 4)->weight_scale_stride;
  const std::size_t rows = m.grid.scales.size() / columns;
  all_.push_back({name,
                  weight_part::scales,
                  rows * stride * sizeof(float),
                  [=, &m](std::vector<std::byte>& staging) {
                    staging.assign(rows * stride * sizeof(float), std::byte{0});
                    for (std::size_t r = 0; r < rows; ++r) {
                      std::memcpy(staging.data() + r * stride * sizeof(float),
                                  m.grid.scales.data() + r * columns,
                                  columns * sizeof(float));
                    }
                    return std::span<const std::byte>(staging);
                  }});
}

void uploads::add_grouped(weight_name name,
                          const grouped_gemm_shape& shape,
                          const aligned_bytes& plain,
                          std::size_t stride_bytes) {
  const auto plan =
      cuda::plan_grouped_gemm(shape, {.rows_max = 1, .multiprocessors = multiprocessors_});
  if (!plan) {
    throw error(fmt::format("a product cannot be computed on a device: {}", plan.error().detail));
  }
  // Rows of bf16 lie side by side in a step's memory.
  if (shape.weights == dtype::bf16 && shape.k % 8 != 0) {
    throw error(
        fmt::format("products of rows of {} numbers cannot be computed on a device: "
                    "a row is no multiple of 16 bytes",
                    shape.k));
  }
  all_.push_back({name,
                  weight_part::values,
                  plan->packed_bytes * shape.groups,
                  [=, &plain](std::vector<std::byte>& staging) {
                    staging.resize(plan->packed_bytes * shape.groups);
                    for (std::size_t e = 0; e < shape.groups; ++e) {
                      cuda::pack_grouped_weights(*plan,
                                                 plain.data() + e * stride_bytes,
                                                 0,
                                                 shape.weight_rows(),
                                                 staging.data() + e * plan->packed_bytes);
                    }
                    return std::span<const std::byte>(staging);
                  }});
}

void uploads::add_layer(std::uint32_t index, const layer_geometry& g, const layer_weights& w) {
  add({weight_role::input_norm, index}, w.input_norm);
  add({weight_role::post_attention_norm, index}, w.post_attention_norm);
  add({weight_role::qkv, index}, w.attention.qkv);
  add({weight_role::o, index}, w.attention.o);
  add({weight_role::sinks, index}, w.attention.sinks);
  if (const auto* const dense = std::get_if<dense_ffn_weights>(&w.ffn)) {
    add({weight_role::gate_up, index}, dense->gate_up);
    add({weight_role::down, index}, dense->down);
    return;
  }
  const auto& moe = std::get<moe_weights>(w.ffn);
  add({weight_role::router, index}, moe.router);
  add({weight_role::correction_bias, index}, moe.correction_bias);
  const weight_name gate_up{weight_role::expert_gate_up, index};
  const weight_name down{weight_role::expert_down, index};
  add_grouped(gate_up,
              expert_gate_up_shape(model_, g.ffn, moe.gate_up_shape.weights),
              moe.gate_up,
              moe.gate_up_stride_bytes);
  add_grouped(down,
              expert_down_shape(model_, g.ffn, moe.down_shape.weights),
              moe.down,
              moe.down_stride_bytes);
  add(gate_up, std::as_bytes(std::span(moe.gate_up_scales)), weight_part::scales);
  add(down, std::as_bytes(std::span(moe.down_scales)), weight_part::scales);
}

std::vector<upload> uploads::list() {
  add({weight_role::embedding}, weights_.embedding.span());
  for (std::uint32_t l = 0; l < model_.layers.size(); ++l) {
    add_layer(l, model_.layers[l], weights_.layers[l]);
  }
  add({weight_role::final_norm}, weights_.final_norm);
  add({weight_role::lm_head}, weights_.lm_head);
  for (std::uint32_t s = 0; s < weights_.mtp.size(); ++s) {
    const mtp_weights& w = weights_.mtp[s];
    const auto index = static_cast<std::uint32_t>(model_.layers.size()) + s;
    add({weight_role::enorm, index}, w.enorm);
    add({weight_role::hnorm, index}, w.hnorm);
    add({weight_role::eh_proj, index}, w.eh_proj);
    add({weight_role::final_norm, index}, w.final_norm);
    add_layer(index, model_.mtp_layers[s], w.layer);
  }
  return std::move(all_);
}

/// As cuBLASLt on this device has algorithms.
product_kinds products_of(const model_geometry& model, const model_weights& weights) {
  const auto library = cuda::gemm_library::create();
  if (!library) {
    throw error(fmt::format("no products on the device: {}", library.error().detail));
  }
  const auto takes = [&](const library_product& p) {
    return std::visit(
        [&](const auto& plan) {
          const status found = cuda::find_gemm(*library, plan, p.layout);
          if (!found && found.error().code != errc::unsupported_shape) {
            throw error(refusal_text(plan, plan.rows_max, found.error()));
          }
          return bool{found};
        },
        p.plan);
  };
  return with_packed(model,
                     weights.compute,
                     static_cast<std::uint32_t>(weights.mtp.size()),
                     scaled_products(weights),
                     takes);
}

}  // namespace

grouped_gemm_shape expert_gate_up_shape(const model_geometry& model,
                                        const ffn_geometry& ffn,
                                        dtype type) {
  return {.groups = ffn.experts,
          .n = ffn.intermediate,
          .k = model.hidden,
          .weights = type,
          .swiglu = true};
}

grouped_gemm_shape expert_down_shape(const model_geometry& model,
                                     const ffn_geometry& ffn,
                                     dtype type) {
  return {.groups = ffn.experts, .n = model.hidden, .k = ffn.intermediate, .weights = type};
}

cuda_weights::cuda_weights(const model_geometry& model,
                           const model_weights& weights,
                           std::uint32_t multiprocessors)
    : model_(model), compute_(weights.compute), products_(products_of(model, weights)) {
  ORIEL_EXPECTS(weights.form == weight_form::plain);
  const std::vector<upload> all = uploads(model, weights, products_, multiprocessors).list();
  std::vector<memory_piece> pieces;
  for (const upload& u : all) {
    at_[{u.name, u.part}] = pieces.size();
    pieces.push_back({"weights", u.size_bytes});
  }
  auto memory = preallocation<cuda::device_memory>::make(pieces);
  if (!memory) {
    throw error(fmt::format("no device memory for the weights of {}: {} ({})",
                            model.name,
                            memory.error().detail,
                            memory.error().native));
  }
  memory_.emplace(std::move(*memory));
  std::vector<std::byte> staging;
  cudaError_t copied = cudaSuccess;
  for (std::size_t i = 0; i < all.size() && copied == cudaSuccess; ++i) {
    const std::span<const std::byte> bytes = all[i].bytes(staging);
    copied =
        cudaMemcpy(memory_->bytes(i).data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice);
  }
  if (copied == cudaSuccess) {
    copied = cudaDeviceSynchronize();  // The last bytes may still be on their way.
  }
  expect(copied, "the weights do not get to the device");
}

}  // namespace oriel::engine
