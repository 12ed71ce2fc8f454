// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <replay/cache_replay.hpp>
#include <replay/session_cache.hpp>
#include <replay/tiered_replay.hpp>

#include <algorithm>
#include <utility>

namespace oriel::replay {

pool_sizes useful_sizes(const trace& requests,
                        const cache_sizes& sizes,
                        std::uint32_t working_pages) {
  std::uint64_t touched = 1;
  for (const trace_request& r : requests.requests) {
    touched += r.input_tokens / sizes.plan.options().page_size + 1;
  }
  pool_sizes useful;
  for (std::uint32_t pool = 0; pool < sizes.plan.pools(); ++pool) {
    const std::uint64_t asked =
        std::uint64_t{sizes.sizes.pages[pool]} + (pool == 0 ? working_pages : 0);
    const std::uint64_t most = touched + (pool == 0 ? 0 : sizes.plan.ring(pool - 1).ring_pages());
    useful.pages.push_back(static_cast<std::uint32_t>(std::min(asked, most)));
  }
  return useful;
}

std::uint32_t working_pages_of(const trace& requests, std::uint32_t page_tokens) {
  std::uint32_t largest = 0;
  for (const trace_request& r : requests.requests) {
    largest = std::max(largest, r.input_tokens);
  }
  return largest / page_tokens + (largest % page_tokens != 0 ? 1 : 0);
}

result<cache_outcome> replay_cache(const trace& requests,
                                   const model_geometry& model,
                                   const cache_sizes& sizes,
                                   const cache_options& options,
                                   const std::function<void(std::size_t)>& progress) {
  if (options.tiers) {
    return replay_tiers(requests, model, sizes, options, progress);
  }
  auto pools = dual_pool<address_only_memory>::make(
      sizes.plan, useful_sizes(requests, sizes, options.working_pages));
  if (!pools) {
    return pools.error();
  }
  return replay_with<nothing_below>(
      requests, model, sizes, options, std::move(*pools), {}, progress);
}

}  // namespace oriel::replay
