// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// How many shards interleave the rows of a fused QKV. A wrong guess gives fluent garbage and no
/// load error, so it is checked against every layer's shapes.
#pragma once

#include <engine/config_json.hpp>
#include <engine/safetensors.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace oriel::engine {

/// The asked-for count, or the configuration's. Scale grids are rounded up to whole blocks shard by
/// shard, so their row counts mostly tell counts apart. Where nothing does and nobody asked for a
/// count, a warning is added.
/// @throws error when a layer's heads or scale rows contradict the count
[[nodiscard]] std::uint32_t decide_qkv_shards(const model_config& config,
                                              const safetensors_store& store,
                                              std::optional<std::uint32_t> asked,
                                              std::vector<std::string>& warnings);

}  // namespace oriel::engine
