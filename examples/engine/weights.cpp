// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/weights.hpp>

namespace oriel::engine {
namespace {

std::uint64_t bytes_of(const std::vector<float>& v) noexcept {
  return v.size() * sizeof(float);
}

std::uint64_t bytes_of(const packed_matrix& m) noexcept {
  return m.bytes.size() + bytes_of(m.grid.scales) + m.grid.rows.size() * sizeof(std::uint32_t);
}

std::uint64_t bytes_of(const dense_ffn_weights& w) noexcept {
  return bytes_of(w.gate_up) + bytes_of(w.down);
}

std::uint64_t bytes_of(const moe_weights& w) noexcept {
  return bytes_of(w.router) + bytes_of(w.correction_bias) + w.gate_up.size() + w.down.size() +
         bytes_of(w.gate_up_scales) + bytes_of(w.down_scales);
}

std::uint64_t bytes_of(const layer_weights& w) noexcept {
  return bytes_of(w.input_norm) + bytes_of(w.post_attention_norm) + bytes_of(w.attention.qkv) +
         bytes_of(w.attention.o) + bytes_of(w.attention.sinks) +
         std::visit([](const auto& ffn) { return bytes_of(ffn); }, w.ffn);
}

}  // namespace

std::uint64_t model_weights::bytes() const noexcept {
  std::uint64_t total = embedding.size() + bytes_of(final_norm) + bytes_of(lm_head);
  for (const layer_weights& layer : layers) {
    total += bytes_of(layer);
  }
  for (const mtp_weights& block : mtp) {
    total += bytes_of(block.enorm) + bytes_of(block.hnorm) + bytes_of(block.final_norm) +
             bytes_of(block.eh_proj) + bytes_of(block.layer);
  }
  return total;
}

void drop_matrices(model_weights& weights) noexcept {
  weights.embedding = {};
  weights.layers.clear();
  weights.final_norm.clear();
  weights.lm_head = {};
  for (mtp_weights& block : weights.mtp) {
    block = {};
  }
}

}  // namespace oriel::engine
