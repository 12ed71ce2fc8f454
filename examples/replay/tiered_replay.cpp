// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <replay/replay_stores.hpp>
#include <replay/session_cache.hpp>
#include <replay/tiered_replay.hpp>
#include <replay/tiers_below.hpp>

#include <algorithm>
#include <utility>

namespace oriel::replay {

result<cache_outcome> replay_tiers(const trace& requests,
                                   const model_geometry& model,
                                   const cache_sizes& sizes,
                                   const cache_options& options,
                                   const std::function<void(std::size_t)>& progress) {
  tier_plan tiers = options.tiers.value();
  // A host's tables take memory for every page, too.
  if (!tiers.host_pages.empty()) {
    tiers.host_pages = useful_sizes(requests, {sizes.plan, {tiers.host_pages}, 0, 0}, 0).pages;
  }
  const auto thin = thin_plan(sizes.plan);
  if (!thin) {
    return thin.error();
  }
  auto pools =
      dual_pool<host_memory>::make(*thin, useful_sizes(requests, sizes, options.working_pages));
  if (!pools) {
    return pools.error();
  }
  trace_clock::set(0);
  return replay_with<tiers_below>(requests,
                                  model,
                                  sizes,
                                  options,
                                  std::move(*pools),
                                  {.tiers = tiers, .model = sizes.plan},
                                  progress);
}

}  // namespace oriel::replay
