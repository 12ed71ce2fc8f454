// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Geometries of the family at toy size.
#pragma once

#include <oriel/model/geometry.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

/// `windows` per layer (0 = full), every third layer with experts if `moe`.
inline oriel::model_geometry toy_geometry(const std::vector<std::uint32_t>& windows, bool moe) {
  oriel::model_geometry m;
  m.name = "toy";
  m.hidden = 48;
  m.vocabulary = 61;
  m.context_tokens = 2048;
  m.attention_value_scale = 0.7;
  for (std::size_t l = 0; l < windows.size(); ++l) {
    const bool full = windows[l] == 0;
    const oriel::attention_geometry attention{
        .kind = full ? oriel::attention_kind::full : oriel::attention_kind::window,
        .window_tokens = windows[l],
        .q_heads = 4,
        .kv_heads = full ? 1u : 2u,
        .head_dim_qk = 12,
        .head_dim_vo = 8,
        .rotary_dims = 4,
        .rope_base_dims = 4,
        .rope_theta = full ? 1e6 : 1e4,
        .has_sink = !full};
    const bool routed = moe && l % 3 == 2;
    m.layers.push_back({attention,
                        routed ? oriel::ffn_geometry{.intermediate = 16, .experts = 6, .top_k = 2}
                               : oriel::ffn_geometry{.intermediate = 64}});
  }
  return m;
}
