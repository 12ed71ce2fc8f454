// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Geometries of published hybrid models, and of random models for timing, by name.
#pragma once

#include <oriel/model/geometry.hpp>

#include <optional>
#include <span>
#include <string_view>

namespace oriel {

/// Every name that `preset` knows: `mimo-v2-flash`, `mimo-v2.5`, `mimo-v2.5-pro`, `gpt-oss-20b`,
/// `gpt-oss-120b`, `gemma-3-27b`, `bench-0.4b`, `bench-0.4b-moe`, `bench-1.4b`.
[[nodiscard]] std::span<const std::string_view> preset_names() noexcept;

/// The model of that name, or nothing.
///
/// A geometry is what memory and cost depend on: gpt-oss's biases and rope scaling and Gemma's
/// norms of q and k are not in it. The two bench models have the MiMo shape, small, yet larger than
/// a CPU's caches: dense, 0.4 G parameters; and mixture of experts, 0.55 G of which a token reads
/// 0.14 G.
[[nodiscard]] std::optional<model_geometry> preset(std::string_view name);

}  // namespace oriel
