// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `plan_cache`: the pools that a byte budget, or a number of tokens, buys for one model.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/geometry.hpp>

#include <cstdint>
#include <span>

namespace oriel::replay {

enum class pool_form : std::uint8_t {
  uniform,  ///< one pool: every layer keeps every position
  dual,     ///< a full pool, and a pool per window kind
};

/// What the pools are for. Exactly one capacity is given.
struct cache_question {
  std::uint64_t capacity_bytes = 0;   ///< of all pools together
  std::uint64_t capacity_tokens = 0;  ///< of the full pool; the window pools come on top
  pool_form pools = pool_form::dual;
  std::uint32_t page_tokens = 64;
  std::uint32_t step_tokens = 512;  ///< rows of a prefill step at most
  std::uint32_t slack_pages = 1;
  /// Of all bytes, to the window pools, in equal parts. Each gets a sequence's ring at least.
  double window_share = 0.015;
};

struct cache_sizes {
  pool_plan plan;
  pool_sizes sizes;
  std::uint64_t capacity_tokens = 0;  ///< of the full pool, whole pages
  std::uint64_t bytes = 0;            ///< of all pools
};

/// KV is stored as bf16.
/// @returns errc::invalid_argument if the capacity does not buy a page, and a ring of each kind, or
///          has more pages than a pool can count
[[nodiscard]] result<cache_sizes> plan_cache(std::span<const layer_geometry> layers,
                                             const cache_question& question);

}  // namespace oriel::replay
