// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Random models whose matrices are e4m3 with blocks of scales, as FP8 checkpoints have them, and
/// the same numbers in bf16 for the host.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/kernels/grouped_gemm.hpp>
#include <oriel/kernels/quantize.hpp>
#include <oriel/model/geometry.hpp>

#include <engine/weight_loader.hpp>
#include <engine/weights.hpp>
#include <engine/weights_packing.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <variant>
#include <vector>

namespace oriel::test {

struct e4m3_twins {
  engine::model_weights e4m3;    ///< plain: what keeps_e4m3 would load
  engine::model_weights packed;  ///< dequantised, each number rounded once to bf16
};

/// A matrix [n, k] of e4m3 with its grid, and the numbers that it stands for.
struct e4m3_matrix {
  std::vector<e4m3> values;
  engine::scale_grid grid;
  std::vector<bf16> dequantised;
};

/// @param block_of  [n] the row of the grid that a row has
inline e4m3_matrix to_e4m3_matrix(std::span<const bf16> from,
                                  std::uint32_t n,
                                  std::uint32_t k,
                                  std::vector<std::uint32_t> block_of) {
  const std::size_t columns = (k - 1) / scale_block + 1;
  e4m3_matrix m{std::vector<e4m3>(from.size()), {}, std::vector<bf16>(from.size())};
  m.grid.scales.assign((block_of.back() + 1) * columns, 0.0f);
  const auto scale_of = [&](std::size_t row, std::size_t column) -> float& {
    return m.grid.scales[block_of[row] * columns + column / scale_block];
  };
  for (std::size_t i = 0; i < from.size(); ++i) {
    float& scale = scale_of(i / k, i % k);
    scale = std::max(scale, std::abs(to_float(from[i])) / 448.0f);
  }
  bool is_plain = true;
  for (std::uint32_t r = 0; r < n; ++r) {
    is_plain = is_plain && block_of[r] == r / scale_block;
    for (std::uint32_t c = 0; c < k; ++c) {
      const std::size_t i = std::size_t{r} * k + c;
      m.values[i] = to_e4m3(to_float(from[i]) / scale_of(r, c));
      m.dequantised[i] = to_bf16(to_float(m.values[i]) * scale_of(r, c));
    }
  }
  m.grid.rows = is_plain ? std::vector<std::uint32_t>() : std::move(block_of);
  return m;
}

inline std::vector<std::uint32_t> sharded_blocks(std::uint32_t n, std::uint32_t shards) {
  std::vector<std::uint32_t> block_of(n);
  fill_sharded_scale_rows(shards, n / shards, block_of.data());
  return block_of;
}

class e4m3_model {
 public:
  e4m3_model(const model_geometry& model, std::uint64_t seed)
      : model_(model),
        twins_{engine::random_weights(model,
                                      dtype::bf16,
                                      seed,
                                      best_isa(),
                                      host::gemm_backend::automatic,
                                      engine::weight_form::plain),
               engine::random_weights(model, dtype::bf16, seed)},
        packing_{dtype::bf16, twins_.packed.path, twins_.packed.backend} {}

  /// QKV of full layers has a grid for each of two shards, of window layers one plain grid.
  e4m3_twins make() && {
    for (std::size_t l = 0; l < model_.layers.size(); ++l) {
      layer(model_.layers[l], twins_.e4m3.layers[l], twins_.packed.layers[l]);
    }
    for (std::size_t s = 0; s < model_.mtp_layers.size(); ++s) {
      layer(model_.mtp_layers[s], twins_.e4m3.mtp[s].layer, twins_.packed.mtp[s].layer);
    }
    return std::move(twins_);
  }

 private:
  static std::span<const bf16> numbers(const std::byte* bytes, std::size_t count) {
    return {reinterpret_cast<const bf16*>(bytes), count};
  }
  static void put(engine::aligned_bytes& to, std::size_t at, const std::vector<e4m3>& values) {
    std::memcpy(to.data() + at, values.data(), values.size());
  }
  static auto source(const e4m3_matrix& m, std::uint32_t n) {
    return [&m, n](auto&& sink) { sink(static_cast<const void*>(m.dequantised.data()), 0u, n); };
  }

  void matrix(engine::packed_matrix& plain, engine::packed_matrix& packed, std::uint32_t shards) {
    const std::uint32_t n = plain.shape.n, k = plain.shape.k;
    e4m3_matrix m = to_e4m3_matrix(
        numbers(plain.bytes.data(), std::size_t{n} * k), n, k, sharded_blocks(n, shards));
    packed = packing_.matrix(n, k, source(m, n));
    plain = {{n, k, dtype::e4m3}, engine::aligned_bytes(m.values.size()), std::move(m.grid)};
    put(plain.bytes, 0, m.values);
  }

  void experts(const ffn_geometry& f, engine::moe_weights& plain, engine::moe_weights& packed) {
    const std::uint32_t h = model_.hidden, inter = f.intermediate;
    std::vector<e4m3_matrix> gate_up, down;
    for (std::size_t e = 0; e < f.experts; ++e) {
      // Gate and up are tensors of their own, and so have grids of their own.
      gate_up.push_back(
          to_e4m3_matrix(numbers(plain.gate_up.data() + e * plain.gate_up_stride_bytes,
                                 2 * std::size_t{inter} * h),
                         2 * inter,
                         h,
                         sharded_blocks(2 * inter, 2)));
      down.push_back(to_e4m3_matrix(
          numbers(plain.down.data() + e * plain.down_stride_bytes, std::size_t{h} * inter),
          h,
          inter,
          sharded_blocks(h, 1)));
    }
    packing_.experts(
        h,
        f,
        dtype::bf16,
        packed,
        [&](std::uint32_t e) { return source(gate_up[e], 2 * inter); },
        [&](std::uint32_t e) { return source(down[e], h); });
    plain.gate_up_shape.weights = plain.down_shape.weights = dtype::e4m3;
    for (std::size_t e = 0; e < f.experts; ++e) {
      put(plain.gate_up, e * plain.gate_up_stride_bytes, gate_up[e].values);
      put(plain.down, e * plain.down_stride_bytes, down[e].values);
      const auto add = [](std::vector<float>& to, const std::vector<float>& scales) {
        to.insert(to.end(), scales.begin(), scales.end());
      };
      add(plain.gate_up_scales, gate_up[e].grid.scales);
      add(plain.down_scales, down[e].grid.scales);
    }
  }

  void layer(const layer_geometry& g, engine::layer_weights& plain, engine::layer_weights& packed) {
    matrix(plain.attention.qkv, packed.attention.qkv, g.attention.window_tokens == 0 ? 2 : 1);
    if (g.ffn.is_moe()) {
      experts(g.ffn,
              std::get<engine::moe_weights>(plain.ffn),
              std::get<engine::moe_weights>(packed.ffn));
      return;
    }
    auto& dense = std::get<engine::dense_ffn_weights>(plain.ffn);
    auto& dense_packed = std::get<engine::dense_ffn_weights>(packed.ffn);
    matrix(dense.gate_up, dense_packed.gate_up, 1);
    matrix(dense.down, dense_packed.down, 1);
  }

  const model_geometry& model_;
  e4m3_twins twins_;
  engine::weights_packing packing_;
};

/// The same (geometry, seed) gives the same models.
inline e4m3_twins random_e4m3_model(const model_geometry& model, std::uint64_t seed) {
  return e4m3_model(model, seed).make();
}

}  // namespace oriel::test
