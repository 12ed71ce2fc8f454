// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/model/cost.hpp>

#include <algorithm>

namespace oriel {
namespace {

std::uint64_t rows_kept(const attention_geometry& a, std::uint64_t tokens) noexcept {
  return a.kind == attention_kind::full ? tokens : std::min<std::uint64_t>(tokens, a.window_tokens);
}

/// Keys that the rows at positions [0, rows) see, all together.
std::uint64_t keys_below(const attention_geometry& a, std::uint64_t rows) noexcept {
  const std::uint64_t growing = rows_kept(a, rows);  // Rows that see every position up to theirs.
  return growing * (growing + 1) / 2 + (rows - growing) * a.window_tokens;
}

std::uint64_t projection_weights(const attention_geometry& a, std::uint64_t hidden) noexcept {
  const std::uint64_t q = std::uint64_t{a.q_heads} * a.head_dim_qk;
  const std::uint64_t kv = std::uint64_t{a.kv_heads} * (a.head_dim_qk + a.head_dim_vo);
  const std::uint64_t o = std::uint64_t{a.q_heads} * a.head_dim_vo;
  return (q + kv + o) * hidden;
}

/// Weights of a SwiGLU: gate, up and down.
std::uint64_t swiglu_weights(const ffn_geometry& f, std::uint64_t hidden) noexcept {
  return 3 * hidden * f.intermediate;
}

std::uint64_t router_weights(const ffn_geometry& f, std::uint64_t hidden) noexcept {
  return f.experts * hidden;
}

/// Parameters of one layer when `experts` of its experts are counted.
std::uint64_t layer_parameters(const layer_geometry& layer,
                               std::uint64_t hidden,
                               std::uint32_t experts) noexcept {
  const std::uint64_t norms = 2 * hidden;
  const std::uint64_t sinks = layer.attention.has_sink ? layer.attention.q_heads : 0;
  const ffn_geometry& f = layer.ffn;
  const std::uint64_t ffn =
      f.is_moe() ? router_weights(f, hidden) + f.experts + experts * swiglu_weights(f, hidden)
                 : swiglu_weights(f, hidden);
  return norms + sinks + projection_weights(layer.attention, hidden) + ffn;
}

std::uint64_t head_weights(const model_geometry& m) noexcept {
  return std::uint64_t{m.vocabulary} * m.hidden;
}

}  // namespace

std::vector<pool_cost> kv_pools(const model_geometry& model, dtype kv) {
  std::vector<pool_cost> pools;
  for (const layer_geometry& layer : model.layers) {
    const attention_geometry& a = layer.attention;
    auto pool = std::find_if(pools.begin(), pools.end(), [&](const pool_cost& p) {
      return p.kind == a.kind && p.window_tokens == a.window_tokens;
    });
    if (pool == pools.end()) {
      pools.push_back({.kind = a.kind, .window_tokens = a.window_tokens});
      pool = pools.end() - 1;
    }
    ++pool->layers;
    pool->bytes_per_token += kv_bytes_per_token(a, kv);
    pool->bytes_per_window += a.window_tokens * kv_bytes_per_token(a, kv);
  }
  std::sort(pools.begin(), pools.end(), [](const pool_cost& x, const pool_cost& y) {
    return x.window_tokens < y.window_tokens;  // The full pool's is 0.
  });
  return pools;
}

std::uint64_t kv_bytes_per_token_full(const model_geometry& model, dtype kv) noexcept {
  std::uint64_t bytes = 0;
  for (const layer_geometry& layer : model.layers) {
    const bool full = layer.attention.kind == attention_kind::full;
    bytes += full ? kv_bytes_per_token(layer.attention, kv) : 0;
  }
  return bytes;
}

std::uint64_t window_bytes_per_sequence(const model_geometry& model, dtype kv) noexcept {
  std::uint64_t bytes = 0;
  for (const layer_geometry& layer : model.layers) {
    bytes += layer.attention.window_tokens * kv_bytes_per_token(layer.attention, kv);
  }
  return bytes;
}

std::uint64_t kv_bytes(const model_geometry& model, std::uint64_t tokens, dtype kv) noexcept {
  std::uint64_t bytes = 0;
  for (const layer_geometry& layer : model.layers) {
    bytes += rows_kept(layer.attention, tokens) * kv_bytes_per_token(layer.attention, kv);
  }
  return bytes;
}

std::uint64_t kv_bytes_uniform(const model_geometry& model,
                               std::uint64_t tokens,
                               dtype kv) noexcept {
  std::uint64_t bytes = 0;
  for (const layer_geometry& layer : model.layers) {
    bytes += tokens * kv_bytes_per_token(layer.attention, kv);
  }
  return bytes;
}

parameter_counts count_parameters(const model_geometry& model) noexcept {
  const std::uint64_t hidden = model.hidden;
  const std::uint64_t embedding = head_weights(model);
  const std::uint64_t shared = embedding + (model.tied_embeddings ? 0 : embedding) + hidden;
  parameter_counts counts{.total = shared, .active = shared};
  for (const layer_geometry& layer : model.layers) {
    counts.total += layer_parameters(layer, hidden, layer.ffn.experts);
    counts.active += layer_parameters(layer, hidden, layer.ffn.top_k);
  }
  for (const layer_geometry& layer : model.mtp_layers) {
    const std::uint64_t eh_proj = 2 * hidden * hidden, norms = 3 * hidden;
    counts.mtp += layer_parameters(layer, hidden, layer.ffn.experts) + eh_proj + norms;
  }
  return counts;
}

std::uint64_t flops_per_token(const model_geometry& model, std::uint64_t position) noexcept {
  std::uint64_t multiplications = head_weights(model);
  for (const layer_geometry& layer : model.layers) {
    const attention_geometry& a = layer.attention;
    const ffn_geometry& f = layer.ffn;
    const std::uint64_t keys = rows_kept(a, position + 1);
    multiplications += projection_weights(a, model.hidden);
    multiplications += keys * a.q_heads * (a.head_dim_qk + a.head_dim_vo);
    multiplications += router_weights(f, model.hidden);
    multiplications += (f.is_moe() ? f.top_k : 1) * swiglu_weights(f, model.hidden);
  }
  return 2 * multiplications;
}

flop_count layer_flops(const model_geometry& model,
                       std::size_t layer,
                       std::uint64_t first,
                       std::uint64_t last) noexcept {
  ORIEL_EXPECTS(layer < model.layers.size() && first <= last);
  const layer_geometry& l = model.layers[layer];
  const std::uint64_t weights =
      projection_weights(l.attention, model.hidden) + router_weights(l.ffn, model.hidden) +
      (l.ffn.is_moe() ? l.ffn.top_k : 1) * swiglu_weights(l.ffn, model.hidden);
  const std::uint64_t per_key =
      std::uint64_t{l.attention.q_heads} * (l.attention.head_dim_qk + l.attention.head_dim_vo);
  const std::uint64_t keys = keys_below(l.attention, last) - keys_below(l.attention, first);
  return {.linear = 2 * (last - first) * weights, .attention = 2 * keys * per_key};
}

std::uint64_t kv_projection_flops(const model_geometry& model,
                                  std::size_t layer,
                                  std::uint64_t rows) noexcept {
  ORIEL_EXPECTS(layer < model.layers.size());
  const attention_geometry& a = model.layers[layer].attention;
  const std::uint64_t kv = std::uint64_t{a.kv_heads} * (a.head_dim_qk + a.head_dim_vo);
  return 2 * rows * kv * model.hidden;
}

double seconds_of(const flop_count& flops, const compute_rates& rates) noexcept {
  ORIEL_EXPECTS(rates.linear_flops_per_s > 0.0 && rates.attention_flops_per_s > 0.0);
  return static_cast<double>(flops.linear) / rates.linear_flops_per_s +
         static_cast<double>(flops.attention) / rates.attention_flops_per_s;
}

std::uint64_t weight_bytes_per_token(const model_geometry& model, dtype weights) noexcept {
  std::uint64_t elements = head_weights(model), router_elements = 0;
  for (const layer_geometry& layer : model.layers) {
    const ffn_geometry& f = layer.ffn;
    elements += projection_weights(layer.attention, model.hidden);
    elements += (f.is_moe() ? f.top_k : 1) * swiglu_weights(f, model.hidden);
    router_elements += router_weights(f, model.hidden);
  }
  return elements * size_bytes(weights) + router_elements * size_bytes(dtype::f32);
}

std::uint64_t kv_bytes_read_per_token(const model_geometry& model,
                                      std::uint64_t position,
                                      dtype kv) noexcept {
  return kv_bytes(model, position + 1, kv);
}

}  // namespace oriel
