// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/weights.hpp>

namespace oriel::engine {
namespace {

std::uint64_t bytes_of(const std::vector<float>& v) noexcept {
  return v.size() * sizeof(float);
}

std::uint64_t bytes_of(const dense_ffn_weights& w) noexcept {
  return w.gate_up.bytes.size() + w.down.bytes.size();
}

std::uint64_t bytes_of(const moe_weights& w) noexcept {
  return w.router.bytes.size() + bytes_of(w.correction_bias) + w.gate_up.size() + w.down.size();
}

std::uint64_t bytes_of(const layer_weights& w) noexcept {
  return bytes_of(w.input_norm) + bytes_of(w.post_attention_norm) + w.attention.qkv.bytes.size() +
         w.attention.o.bytes.size() + bytes_of(w.attention.sinks) +
         std::visit([](const auto& ffn) { return bytes_of(ffn); }, w.ffn);
}

}  // namespace

std::uint64_t model_weights::bytes() const noexcept {
  std::uint64_t total = embedding.size() + bytes_of(final_norm) + lm_head.bytes.size();
  for (const layer_weights& layer : layers) {
    total += bytes_of(layer);
  }
  for (const mtp_weights& block : mtp) {
    total += bytes_of(block.enorm) + bytes_of(block.hnorm) + bytes_of(block.final_norm) +
             block.eh_proj.bytes.size() + bytes_of(block.layer);
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
