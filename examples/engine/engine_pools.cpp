// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/engine_pools.hpp>
#include <engine/error.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace oriel::engine {
namespace {

constexpr std::uint64_t cached_tokens_per_window = 512;

std::uint32_t pool_pages(std::uint64_t pages) {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(pages, to_index(null_page) - 1));
}

pool_sizes sizes_of(const pool_plan& plan, const engine_options& o) {
  const std::uint64_t tokens =
      o.kv_tokens != 0 ? o.kv_tokens : std::uint64_t{o.sequences_max} * o.context_tokens;
  const std::uint64_t cached = o.prefix_cache ? o.cache_tokens.value_or(tokens) : 0;
  const std::uint64_t kept_windows =
      o.cache_windows.value_or(static_cast<std::uint32_t>(std::clamp<std::uint64_t>(
          cached / cached_tokens_per_window, o.sequences_max, to_index(null_page))));
  const std::uint64_t longest = plan.pages_for(full_pool, o.context_tokens);
  pool_sizes sizes;
  sizes.pages.push_back(
      pool_pages(std::max(longest, tokens / o.page_tokens) + cached / o.page_tokens));
  for (std::uint32_t kind = 0; kind < plan.window_kinds(); ++kind) {
    const std::uint64_t held = plan.pages_for(window_pool(kind), o.context_tokens);
    std::uint64_t pages = held * o.sequences_max;
    if (o.prefix_cache) {
      const ring_geometry& ring = plan.ring(kind);
      const std::uint64_t window = ring.ceil_pages(ring.window_tokens - 1);
      pages += window * o.sequences_max +
               (window + ring.slack_pages) * (kept_windows + o.tier_moves.fetches_max);
    }
    sizes.pages.push_back(pool_pages(pages));
  }
  return sizes;
}

}  // namespace

planned_pools plan_pools(const model_geometry& model, const engine_options& o, dtype kv) {
  auto plan = pool_plan::make(kv_layers_of(model, o, kv),
                              {.page_size = o.page_tokens,
                               .step_tokens = std::max(std::min(o.chunk_tokens, o.context_tokens),
                                                       1 + o.speculation.rows_max())});
  if (!plan) {
    throw error(fmt::format("the KV pools do not fit the model: {}", plan.error().detail));
  }
  pool_sizes sizes = sizes_of(*plan, o);
  return {std::move(*plan), std::move(sizes)};
}

host_pools make_pools(const model_geometry& model, const engine_options& o, dtype kv) {
  const auto [plan, sizes] = plan_pools(model, o, kv);
  auto pools = host_pools::make(
      plan, sizes, o.make_runner ? &engine_memory::reserve_addresses : &engine_memory::reserve);
  if (!pools) {
    throw error(fmt::format("no {} for the KV pools ({} tokens): {}; lower -c",
                            o.make_runner ? "addresses" : "memory",
                            std::uint64_t{sizes.pages[0]} * o.page_tokens,
                            pools.error().detail));
  }
  return std::move(*pools);
}

std::vector<kv_layer_shape> kv_layers_of(const model_geometry& model,
                                         const engine_options& o,
                                         dtype kv) {
  std::vector<kv_layer_shape> shapes = kv_shapes_of(model.layers, kv);
  if (o.speculation.uses_mtp()) {
    for (kv_layer_shape soft : kv_shapes_of(model.mtp_layers, kv)) {
      soft.is_soft = true;
      shapes.push_back(soft);
    }
  }
  return shapes;
}

std::vector<pool_layer> layer_homes(const host_pools& pools) {
  std::vector<pool_layer> homes;
  for (std::uint32_t layer = 0; layer < pools.plan().layers(); ++layer) {
    homes.push_back(pools.layer(layer));
  }
  return homes;
}

}  // namespace oriel::engine
