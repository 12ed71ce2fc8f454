// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/ids.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/geometry.hpp>

#include <algorithm>
#include <limits>

namespace oriel {
namespace {

constexpr failure invalid(const char* detail) noexcept {
  return {errc::invalid_argument, 0, detail};
}

/// Far above any real layer, far below where a product of three could overflow.
constexpr std::uint32_t count_max = 1u << 20;
constexpr std::uint32_t tokens_max = 1u << 24;  // of a window, of a step

bool is_storable(const kv_layer_shape& l) noexcept {
  const auto in_range = [](std::uint32_t n) { return n > 0 && n <= count_max; };
  return in_range(l.kv_heads) && in_range(l.head_dim_qk) && in_range(l.head_dim_vo) &&
         l.window_tokens <= tokens_max;
}

/// floor(a * b / c) without a wider type, for a * (b mod c) within 64 bits.
std::uint64_t scaled(std::uint64_t a, std::uint64_t b, std::uint64_t c) noexcept {
  return b / c * a + b % c * a / c;
}

}  // namespace

result<pool_plan> pool_plan::make(std::span<const kv_layer_shape> layers,
                                  const pool_options& options) {
  if (layers.empty() || !std::all_of(layers.begin(), layers.end(), is_storable)) {
    return invalid("no layer, or a layer whose heads, widths or window are out of range");
  }
  if (options.page_size == 0 || options.page_size > count_max || options.step_tokens == 0 ||
      options.step_tokens > tokens_max || options.slack_pages > count_max) {
    return invalid("page_size, step_tokens or slack_pages out of range");
  }
  struct kind {
    std::uint32_t window_tokens;  // 0 = full
    bool is_soft;
    bool operator==(const kind&) const = default;
  };
  const auto kind_of = [](const kv_layer_shape& l) { return kind{l.window_tokens, l.is_soft}; };
  std::vector<kind> kinds{{0, false}};  // [pools]
  for (const kv_layer_shape& l : layers) {
    if (std::find(kinds.begin(), kinds.end(), kind_of(l)) == kinds.end()) {
      kinds.push_back(kind_of(l));
    }
  }

  pool_plan plan;
  for (std::uint32_t pool = 0; pool < kinds.size(); ++pool) {
    if (!kinds[pool].is_soft) {
      continue;
    }
    if (kinds[pool].window_tokens == 0 || plan.soft_kind_) {
      return invalid("soft layers need a window, and all the same");
    }
    plan.soft_kind_ = pool - 1;
  }
  plan.options_ = options;
  plan.homes_.resize(layers.size());
  for (std::uint32_t pool = 0; pool < kinds.size(); ++pool) {
    std::vector<kv_layer_shape> members;
    double page_bytes = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (kind_of(layers[i]) == kinds[pool]) {
        plan.homes_[i] = {pool_id{pool}, static_cast<std::uint32_t>(members.size())};
        members.push_back(layers[i]);
        page_bytes += 4.0 * options.page_size * layers[i].kv_heads *
                      (double{1} + layers[i].head_dim_qk + layers[i].head_dim_vo);
      }
    }
    if (page_bytes > 0x1p62) {
      return invalid("a page larger than the address space");
    }
    plan.layouts_.emplace_back(options.page_size, members);
    if (pool != 0) {
      plan.rings_.push_back(
          {options.page_size, kinds[pool].window_tokens, options.step_tokens, options.slack_pages});
    }
  }
  return plan;
}

std::uint32_t pool_plan::pages_for(pool_id pool, std::uint32_t tokens) const noexcept {
  ORIEL_EXPECTS(to_index(pool) < pools());
  const std::uint32_t pages =
      tokens / options_.page_size + (tokens % options_.page_size != 0 ? 1u : 0u);
  return pool == full_pool ? pages : std::min(pages, rings_[to_index(pool) - 1].ring_pages());
}

std::uint64_t pool_plan::bytes_for(std::uint32_t tokens) const noexcept {
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < pools(); ++i) {
    bytes += std::uint64_t{pages_for(pool_id{i}, tokens)} * layouts_[i].page_bytes();
  }
  return bytes;
}

result<pool_sizes> pool_plan::size_for_mix(std::uint64_t budget_bytes,
                                           std::span<const std::uint32_t> mix) const {
  ORIEL_EXPECTS(mix.size() == pools() && mix[0] > 0);
  std::uint64_t mix_bytes = 0;
  for (std::uint32_t i = 0; i < pools(); ++i) {
    mix_bytes += std::uint64_t{mix[i]} * layouts_[i].page_bytes();
  }
  ORIEL_EXPECTS(mix_bytes > 0);
  constexpr std::uint64_t pages_max = to_index(null_page) - 1;
  const std::uint64_t full = std::min(scaled(mix[0], budget_bytes, mix_bytes), pages_max);
  pool_sizes sizes;
  for (std::uint32_t i = 0; i < pools(); ++i) {
    const std::uint64_t pages = std::min(scaled(mix[i], full, mix[0]), pages_max);
    if (pages == 0) {
      return invalid("the byte budget does not hold one page of every kind");
    }
    sizes.pages.push_back(static_cast<std::uint32_t>(pages));
  }
  return sizes;
}

result<pool_sizes> pool_plan::size_for_tokens(std::uint64_t budget_bytes,
                                              std::uint32_t typical_tokens) const {
  ORIEL_EXPECTS(typical_tokens > 0);
  std::vector<std::uint32_t> mix(pools());
  for (std::uint32_t i = 0; i < pools(); ++i) {
    mix[i] = pages_for(pool_id{i}, typical_tokens);
  }
  return size_for_mix(budget_bytes, mix);
}

std::vector<kv_layer_shape> kv_shapes_of(std::span<const layer_geometry> layers, dtype kv) {
  std::vector<kv_layer_shape> shapes;
  shapes.reserve(layers.size());
  for (const layer_geometry& layer : layers) {
    const attention_geometry& a = layer.attention;
    shapes.push_back({.kv_heads = a.kv_heads,
                      .head_dim_qk = a.head_dim_qk,
                      .head_dim_vo = a.head_dim_vo,
                      .window_tokens = a.kind == attention_kind::window ? a.window_tokens : 0,
                      .kv = kv});
  }
  return shapes;
}

}  // namespace oriel
