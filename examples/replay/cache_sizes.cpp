// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <replay/cache_sizes.hpp>

#include <algorithm>
#include <vector>

namespace oriel::replay {
namespace {

/// A pool's pages are counted with 32 bits, and each has tables in memory.
constexpr std::uint64_t pages_max = std::uint64_t{1} << 30;

failure too_small() {
  return {errc::invalid_argument, 0, "the capacity does not hold one page and one window ring"};
}

}  // namespace

result<cache_sizes> plan_cache(std::span<const layer_geometry> layers,
                               const cache_question& question) {
  std::vector<kv_layer_shape> shapes = kv_shapes_of(layers, dtype::bf16);
  if (question.pools == pool_form::uniform) {
    for (kv_layer_shape& shape : shapes) {
      shape.window_tokens = 0;
    }
  }
  const auto plan = pool_plan::make(shapes,
                                    {.page_size = question.page_tokens,
                                     .step_tokens = question.step_tokens,
                                     .slack_pages = question.slack_pages});
  if (!plan) {
    return plan.error();
  }
  const std::uint64_t full_bytes = plan->layout(full_pool).page_bytes();
  const double share = plan->window_kinds() == 0 ? 0.0 : question.window_share;
  const auto all_bytes = question.capacity_tokens == 0
                             ? static_cast<double>(question.capacity_bytes)
                             : static_cast<double>(question.capacity_tokens) /
                                   question.page_tokens * static_cast<double>(full_bytes) /
                                   (1.0 - share);
  cache_sizes made{*plan, {{0}}, 0, 0};
  for (std::uint32_t kind = 0; kind < plan->window_kinds(); ++kind) {
    const std::uint64_t page_bytes = plan->layout(window_pool(kind)).page_bytes();
    const double pages = all_bytes * share / plan->window_kinds() / static_cast<double>(page_bytes);
    if (pages > static_cast<double>(pages_max)) {
      return failure{errc::invalid_argument, 0, "more window pages than a pool can count"};
    }
    made.sizes.pages.push_back(
        std::max(static_cast<std::uint32_t>(pages), plan->ring(kind).ring_pages()));
    made.bytes += page_bytes * made.sizes.pages.back();
  }
  if (question.capacity_tokens == 0 && question.capacity_bytes < made.bytes + full_bytes) {
    return too_small();
  }
  const std::uint64_t pages = question.capacity_tokens == 0
                                  ? (question.capacity_bytes - made.bytes) / full_bytes
                                  : question.capacity_tokens / question.page_tokens;
  if (pages == 0) {
    return too_small();
  }
  if (pages > pages_max) {
    return failure{errc::invalid_argument, 0, "more full pages than a pool can count"};
  }
  made.sizes.pages[0] = static_cast<std::uint32_t>(pages);
  made.capacity_tokens = pages * question.page_tokens;
  made.bytes += pages * full_bytes;
  return made;
}

}  // namespace oriel::replay
