// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/weight_loader.hpp>
#include <engine/weights_packing.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace oriel::engine {
namespace {

/// SplitMix64 of Steele, Lea and Flood, by index: no state between draws, so the compiler can
/// compute several at once. Philox would take ten times as long for nothing that timing needs.
constexpr std::uint64_t mixed(std::uint64_t index) noexcept {
  std::uint64_t z = index * 0x9E37'79B9'7F4A'7C15u;
  z = (z ^ (z >> 30)) * 0xBF58'476D'1CE4'E5B9u;
  z = (z ^ (z >> 27)) * 0x94D0'49BB'1331'11EBu;
  return z ^ (z >> 31);
}

/// Draws rows of matrices whose elements are uniform in [-limit, limit].
class random_rows {
 public:
  explicit random_rows(std::uint64_t seed) : index_(mixed(seed + 1)) {}

  /// A source (weights_packing.hpp) for a matrix [rows, columns]. The variance is 1 / columns, so
  /// that a product keeps the magnitude of its input.
  auto source(std::uint32_t rows, std::uint32_t columns, dtype type) {
    return [this, rows, columns, type](auto&& sink) {
      constexpr std::uint32_t run = 64;
      const float limit = std::sqrt(3.0f / static_cast<float>(columns));
      run_.resize(std::size_t{run} * columns * size_bytes(type));
      for (std::uint32_t r = 0; r < rows; r += run) {
        const std::uint32_t count = std::min(run, rows - r);
        fill(std::size_t{count} * columns, limit, type, run_.data());
        sink(static_cast<const void*>(run_.data()), r, count);
      }
    };
  }

  void fill(std::size_t count, float limit, dtype type, std::byte* to) {
    const float step = limit * 0x1p-15f;
    for (std::size_t i = 0; i < count; i += 4) {
      const std::uint64_t word = mixed(index_++);
      for (std::size_t j = 0; j < std::min<std::size_t>(4, count - i); ++j) {
        const auto draw = static_cast<std::int16_t>(word >> (16 * j));
        const float x = static_cast<float>(draw) * step;
        if (type == dtype::f32) {
          std::memcpy(to + 4 * (i + j), &x, sizeof x);
        } else {
          const bf16 rounded = to_bf16(x);
          std::memcpy(to + 2 * (i + j), &rounded, sizeof rounded);
        }
      }
    }
  }

  std::vector<float> vector(std::uint32_t count, float limit) {
    std::vector<float> values(count);
    fill(count, limit, dtype::f32, reinterpret_cast<std::byte*>(values.data()));
    return values;
  }

 private:
  std::uint64_t index_;
  std::vector<std::byte> run_;
};

class random_model {
 public:
  random_model(const model_geometry& geometry, const weights_packing& packing, std::uint64_t seed)
      : geometry_(geometry), packing_(packing), rows_(seed) {}

  model_weights make();

 private:
  std::vector<float> norm() const { return std::vector<float>(geometry_.hidden, 1.0f); }
  packed_matrix matrix(std::uint32_t n, std::uint32_t k) {
    return packing_.matrix(n, k, rows_.source(n, k, packing_.compute));
  }
  moe_weights moe(const ffn_geometry& f);
  layer_weights layer(const layer_geometry& g);

  const model_geometry& geometry_;
  const weights_packing& packing_;
  random_rows rows_;
};

moe_weights random_model::moe(const ffn_geometry& f) {
  const std::uint32_t hidden = geometry_.hidden;
  moe_weights to;
  to.router =
      packing_.matrix(f.experts, hidden, dtype::f32, rows_.source(f.experts, hidden, dtype::f32));
  to.correction_bias = rows_.vector(f.experts, 0.01f);
  packing_.experts(
      hidden,
      f,
      packing_.compute,
      to,
      [&](std::uint32_t) { return rows_.source(2 * f.intermediate, hidden, packing_.compute); },
      [&](std::uint32_t) { return rows_.source(hidden, f.intermediate, packing_.compute); });
  return to;
}

layer_weights random_model::layer(const layer_geometry& g) {
  const attention_geometry& a = g.attention;
  layer_weights to;
  to.input_norm = norm();
  to.post_attention_norm = norm();
  to.attention.qkv = matrix(
      a.q_heads * a.head_dim_qk + a.kv_heads * (a.head_dim_qk + a.head_dim_vo), geometry_.hidden);
  to.attention.o = matrix(geometry_.hidden, a.q_heads * a.head_dim_vo);
  if (a.has_sink) {
    to.attention.sinks = rows_.vector(a.q_heads, 1.0f);
  }
  if (g.ffn.is_moe()) {
    to.ffn = moe(g.ffn);
  } else {
    to.ffn = dense_ffn_weights{.gate_up = matrix(2 * g.ffn.intermediate, geometry_.hidden),
                               .down = matrix(geometry_.hidden, g.ffn.intermediate)};
  }
  return to;
}

model_weights random_model::make() {
  model_weights weights;
  weights.form = packing_.form;
  weights.compute = packing_.compute;
  weights.path = packing_.path;
  weights.backend = packing_.backend;
  const std::size_t elements = std::size_t{geometry_.vocabulary} * geometry_.hidden;
  weights.embedding = aligned_bytes(elements * size_bytes(packing_.compute));
  rows_.fill(elements, std::sqrt(3.0f), packing_.compute, weights.embedding.data());
  for (const layer_geometry& g : geometry_.layers) {
    weights.layers.push_back(layer(g));
  }
  weights.final_norm = norm();
  weights.lm_head = matrix(geometry_.vocabulary, geometry_.hidden);
  for (const layer_geometry& g : geometry_.mtp_layers) {
    weights.mtp.push_back({.enorm = norm(),
                           .hnorm = norm(),
                           .final_norm = norm(),
                           .eh_proj = matrix(geometry_.hidden, 2 * geometry_.hidden),
                           .layer = layer(g)});
  }
  return weights;
}

}  // namespace

model_weights random_weights(const model_geometry& geometry,
                             dtype compute,
                             std::uint64_t seed,
                             isa path,
                             host::gemm_backend backend,
                             weight_form form) {
  const weights_packing packing{compute, path, backend, form};
  return random_model(geometry, packing, seed).make();
}

}  // namespace oriel::engine
