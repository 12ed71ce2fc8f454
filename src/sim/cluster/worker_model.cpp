// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/presets.hpp>
#include <oriel/sim/worker.hpp>

#include <algorithm>
#include <cmath>

namespace oriel::sim {

const char* name_of(router_kind kind) noexcept {
  constexpr const char* names[router_kinds] = {"predicted_seconds",
                                               "match_minus_load",
                                               "session_hash",
                                               "plain_hash",
                                               "threshold_gate",
                                               "least_load",
                                               "round_robin"};
  return names[static_cast<std::size_t>(kind)];
}

const char* name_of(request_end_kind end) noexcept {
  constexpr const char* names[] = {"completed", "rejected", "cancelled", "timed_out", "failed"};
  return names[static_cast<std::size_t>(end)];
}

node_model mimo_pro_node(double step_s) {
  const calibration fitted = calibrate_mimo_pro({.step_s = step_s});
  return {.model = *preset("mimo-v2.5-pro"),
          .cost = fitted.cost,
          .rates = {.linear_flops_per_s = fitted.linear_flops_per_s,
                    .attention_flops_per_s = fitted.attention_flops_per_s}};
}

worker_model::worker_model(const cluster_options& o, std::uint32_t tokens)
    : options(&o), page_tokens(tokens) {
  const auto plan = pool_plan::make(kv_shapes_of(o.node.model.layers, dtype::bf16),
                                    {.page_size = page_tokens, .step_tokens = 512});
  ORIEL_EXPECTS(static_cast<bool>(plan));
  fetch = fetch_model_of(o.node.model, *plan);
  fetch.may_heal = o.may_heal;
  for (const std::uint32_t window : fetch.windows) {
    windows_in_pages.push_back(window_in_pages(window, page_tokens));
  }
  std::vector<std::uint32_t> layers_of(plan->pools());
  for (const layer_home& home : fetch.layers) {
    ++layers_of[to_index(home.pool)];
  }
  for (const layer_home& home : fetch.layers) {
    const std::uint32_t pool = to_index(home.pool);
    layer_bytes.push_back(fetch.page_bytes[pool] / layers_of[pool]);
  }
}

page_cache_options worker_model::cache_of(std::uint64_t tokens) const {
  page_cache_options made{
      .full_pages = static_cast<std::uint32_t>(std::max<std::uint64_t>(tokens / page_tokens, 1)),
      .windows = windows_in_pages,
      .slack_pages = fetch.healing.slack_pages,
      .offered_pages = 2 * options->chunk_tokens / page_tokens + 64,
      .seed = options->seed};
  const double share = options->tiers.window_share;
  const double full_bytes =
      static_cast<double>(made.full_pages) * static_cast<double>(fetch.page_bytes[0]);
  const auto kinds = static_cast<double>(windows_in_pages.size());
  for (std::size_t kind = 0; kind < windows_in_pages.size(); ++kind) {
    const double pages = full_bytes * share / (1.0 - share) / kinds /
                         static_cast<double>(fetch.page_bytes[kind + 1]);
    // A boundary at least, with its slack.
    made.window_pages.push_back(std::max(static_cast<std::uint32_t>(pages),
                                         windows_in_pages[kind] + fetch.healing.slack_pages));
  }
  return made;
}

}  // namespace oriel::sim
