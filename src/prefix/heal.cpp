// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/prefix/heal.hpp>

#include <algorithm>

namespace oriel {
namespace {

std::uint32_t healed_length(const heal_model& model, const heal_bounds& bounds) noexcept {
  ORIEL_EXPECTS(model.page_size > 0 && bounds.prompt_tokens > 0);
  const std::uint32_t reusable = std::min(bounds.full_length, bounds.prompt_tokens - 1);
  const std::uint32_t length = reusable / model.page_size * model.page_size;
  ORIEL_EXPECTS(bounds.safe_length <= length && bounds.safe_length % model.page_size == 0);
  return length;
}

/// Calls visit(l, a(l), a(l + 1)) for every layer, the last one first.
template <class Visit>
void for_each_frontier(const heal_model& model,
                       std::uint32_t safe_length,
                       std::uint32_t length,
                       Visit visit) {
  std::uint32_t above = length;  // a(l + 1)
  for (std::size_t l = model.windows.size(); l-- > 0;) {
    std::uint32_t here = above;
    if (const std::uint32_t window = model.windows[l]; window != 0) {
      const std::uint32_t behind =
          window - (ORIEL_MUTANT(heal_starts_one_row_late) && window > 1 ? 2 : 1);
      const std::uint32_t exact = above - std::min(above, behind);
      const std::uint32_t whole = first_healed_page(model, window, length) * model.page_size;
      here = std::min(above,
                      std::max(ORIEL_MUTANT(heal_ignores_safe_windows) ? 0 : safe_length,
                               std::min(exact, ORIEL_MUTANT(heal_has_no_floor) ? exact : whole)));
    }
    visit(l, here, above);
    above = here;
  }
}

}  // namespace

std::vector<std::uint32_t> layer_windows(const model_geometry& model) {
  std::vector<std::uint32_t> windows;
  windows.reserve(model.layers.size());
  for (const layer_geometry& layer : model.layers) {
    windows.push_back(layer.attention.window_tokens);
  }
  return windows;
}

heal_model heal_model_of(const model_geometry& model, const pool_plan& plan) {
  ORIEL_EXPECTS(plan.layers() >= model.layers.size());
  heal_model healing{.page_size = plan.options().page_size,
                     .slack_pages = plan.options().slack_pages};
  healing.windows.reserve(model.layers.size());
  for (std::uint32_t layer = 0; layer < model.layers.size(); ++layer) {
    const std::uint32_t pool = to_index(plan.home(layer).pool);
    healing.windows.push_back(pool == 0 ? 0 : plan.ring(pool - 1).window_tokens);
  }
  return healing;
}

heal_size measure_heal(const heal_model& model, const heal_bounds& bounds) noexcept {
  heal_size size{.length = healed_length(model, bounds)};
  size.first_row = size.length;
  for_each_frontier(model,
                    bounds.safe_length,
                    size.length,
                    [&](std::size_t, std::uint32_t here, std::uint32_t above) {
                      size.layer_rows += size.length - above;
                      size.first_row = here;
                    });
  return size;
}

heal_plan plan_heal(const heal_model& model, const heal_bounds& bounds) {
  heal_plan plan{.page_size = model.page_size,
                 .slack_pages = model.slack_pages,
                 .safe_length = bounds.safe_length,
                 .length = healed_length(model, bounds)};
  plan.frontier.resize(model.windows.size() + 1, plan.length);
  for_each_frontier(model,
                    plan.safe_length,
                    plan.length,
                    [&](std::size_t l, std::uint32_t here, std::uint32_t above) {
                      plan.layer_rows += plan.length - above;
                      plan.frontier[l] = here;
                    });
  return plan;
}

std::uint32_t first_healed_page(const heal_model& model,
                                std::uint32_t window_tokens,
                                std::uint32_t length) noexcept {
  const std::uint64_t behind =
      std::uint64_t{model.slack_pages} * model.page_size + (std::uint64_t{window_tokens} - 1);
  return length <= behind ? 0 : static_cast<std::uint32_t>((length - behind) / model.page_size);
}

double token_equivalents(std::uint64_t layer_rows, std::size_t layers) noexcept {
  return layers == 0 ? 0.0 : static_cast<double>(layer_rows) / static_cast<double>(layers);
}

const char* name_of(reuse_way way) noexcept {
  switch (way) {
    case reuse_way::recompute:
      return "recompute";
    case reuse_way::heal:
      return "heal";
    case reuse_way::fetch:
      return "fetch";
  }
  return "unknown";
}

flop_count recompute_flops(const model_geometry& geometry,
                           std::uint32_t safe_length,
                           std::uint32_t length) noexcept {
  flop_count flops;
  for (std::size_t l = 0; l < geometry.layers.size(); ++l) {
    flops += layer_flops(geometry, l, safe_length, length);
  }
  return flops;
}

flop_count heal_flops(const model_geometry& geometry,
                      const heal_model& model,
                      const heal_bounds& bounds) noexcept {
  ORIEL_EXPECTS(model.windows.size() == geometry.layers.size());
  const std::uint32_t length = healed_length(model, bounds);
  flop_count flops;
  for_each_frontier(model,
                    bounds.safe_length,
                    length,
                    [&](std::size_t l, std::uint32_t here, std::uint32_t above) {
                      flops += layer_flops(geometry, l, above, length);
                      flops.linear += kv_projection_flops(geometry, l, above - here);
                    });
  return flops;
}

reuse_choice choose_reuse(const model_geometry& geometry,
                          const heal_model& model,
                          const heal_bounds& bounds,
                          const compute_rates& rates,
                          double fetch_s) noexcept {
  const std::uint32_t length = healed_length(model, bounds);
  const reuse_seconds seconds{
      .recompute = seconds_of(recompute_flops(geometry, bounds.safe_length, length), rates),
      .heal = seconds_of(heal_flops(geometry, model, bounds), rates),
      .fetch = fetch_s};
  if (bounds.safe_length == length) {
    return {reuse_way::recompute, seconds, "the windows are there: nothing to repair"};
  }
  if (seconds.fetch < std::min(seconds.recompute, seconds.heal)) {
    return {reuse_way::fetch, seconds, "a lower tier brings the windows before they could be run"};
  }
  if (seconds.heal < seconds.recompute) {
    return {reuse_way::heal, seconds, "fewer rows than from the window-safe boundary on"};
  }
  return {reuse_way::recompute,
          seconds,
          "the window-safe boundary is so near that a heal runs as much"};
}

}  // namespace oriel
