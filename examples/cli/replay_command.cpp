// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel replay`: what a prefix cache reaches on a trace of real requests.
#include "commands.hpp"
#include "progress.hpp"
#include "replay_report.hpp"
#include "support.hpp"
#include "validators.hpp"

#include <oriel/model/presets.hpp>

#include <engine/error.hpp>
#include <fmt/format.h>
#include <replay/cache_replay.hpp>
#include <replay/cache_sizes.hpp>
#include <replay/read_trace.hpp>
#include <replay/reference_cache.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace oriel::cli {
namespace {

std::string capacity_text(const replay_options& o) {
  return o.capacity_tokens
             ? fmt::format("--capacity-tokens {}", *o.capacity_tokens)
             : fmt::format("--capacity-gib {}", o.capacity_gib.value_or(default_capacity_gib));
}

replay::cache_question question_of(const replay_options& o, std::uint32_t page_tokens) {
  return {.capacity_bytes =
              static_cast<std::uint64_t>(o.capacity_gib.value_or(default_capacity_gib) * gib),
          .capacity_tokens = o.capacity_tokens.value_or(0),
          .pools = o.pools == "dual" ? replay::pool_form::dual : replay::pool_form::uniform,
          .page_tokens = page_tokens,
          .window_share = o.window_share};
}

replay::cache_sizes sizes_of(const replay_options& o,
                             const model_geometry& model,
                             std::uint32_t page_tokens) {
  const auto sizes = replay::plan_cache(model.layers, question_of(o, page_tokens));
  if (!sizes) {
    throw engine::error(
        fmt::format("{} for {} with pages of {} tokens: {}; change the capacity, "
                    "or --page",
                    capacity_text(o),
                    o.preset,
                    page_tokens,
                    sizes.error().detail));
  }
  return *sizes;
}

replay::tier_plan tiers_of(const replay_options& o,
                           const model_geometry& model,
                           const replay::cache_sizes& device,
                           std::uint32_t page_tokens) {
  replay::tier_question tiers = o.tiers.value();
  tiers.writes = o.tier_writes == "selective" ? placement::selective
                 : o.tier_writes == "back"    ? placement::write_back
                                              : placement::write_through;
  const auto plan = replay::plan_tiers(model.layers, question_of(o, page_tokens), device, tiers);
  if (!plan) {
    throw engine::error(fmt::format("--tiers for {} with pages of {} tokens: {}; give it more",
                                    o.preset,
                                    page_tokens,
                                    plan.error().detail));
  }
  return *plan;
}

/// The uniform cache that the bytes of dual pools would buy: its tokens, and what it hits.
void add_uniform(replay_report& r, const replay::trace& trace, const model_geometry& model) {
  const auto uniform = replay::plan_cache(model.layers,
                                          {.capacity_bytes = r.sizes.bytes,
                                           .pools = replay::pool_form::uniform,
                                           .page_tokens = r.page_tokens});
  r.uniform_tokens = uniform ? uniform->capacity_tokens : 0;
  r.uniform_lru =
      replay::lru_cache(trace, static_cast<std::uint32_t>(r.uniform_tokens / trace.page_tokens));
}

void add_references(replay_report& r, const replay::trace& trace, const model_geometry& model) {
  const activity comparing{"replaying reference caches"};
  const auto pages = static_cast<std::uint32_t>(r.sizes.capacity_tokens / trace.page_tokens);
  r.lru = replay::lru_cache(trace, pages);
  r.clairvoyant = replay::clairvoyant_cache(trace, pages);
  r.infinite = replay::infinite_cache(trace);
  if (r.sizes.plan.window_kinds() != 0) {
    add_uniform(r, trace, model);
  }
}

replay::evict_choice evict_choice_of(const std::string& name) {
  return name == "lru"          ? replay::evict_choice::lru
         : name == "s3-fifo"    ? replay::evict_choice::s3_fifo
         : name == "cost-aware" ? replay::evict_choice::cost_aware
                                : replay::evict_choice::hit_density;
}

/// Runs the tree and the pools. The running request is paid from what is given in bytes; beside
/// what is given in tokens.
void add_cache(replay_report& r, const replay::trace& trace, const model_geometry& model) {
  replay::cache_options options{.evict = evict_choice_of(r.options.evict),
                                .retain = r.options.retain,
                                .heal = r.options.heal == "on",
                                .seed = r.options.seed};
  if (r.options.tiers) {
    options.tiers = r.tiers = tiers_of(r.options, model, r.sizes, r.page_tokens);
  }
  if (r.options.capacity_tokens) {
    options.working_pages = replay::working_pages_of(trace, r.page_tokens);
    r.working_bytes =
        options.working_pages * std::uint64_t{r.sizes.plan.layout(full_pool).page_bytes()};
  }
  std::optional<progress_bar> bar;
  std::function<void(std::size_t)> progress;
  if (shows_progress()) {
    bar.emplace(trace.requests.size());
    progress = [&](std::size_t done) { bar->show(done); };
  }
  const auto outcome = replay::replay_cache(trace, model, r.sizes, options, progress);
  if (!outcome) {
    throw engine::error(fmt::format("{} for {}: {}; change the capacity, or --page",
                                    capacity_text(r.options),
                                    r.options.preset,
                                    outcome.error().detail));
  }
  r.cache = *outcome;
}

replay_report make_report(const replay_options& o) {
  const replay::trace trace = [&] {
    const activity reading{"reading the trace"};
    return replay::read_trace(o.trace, {.hours = o.hours});
  }();
  const std::uint32_t page_tokens = o.page_tokens == 0 ? trace.page_tokens : o.page_tokens;
  if (const std::string wrong = wrong_retention(o.retain, page_tokens); !wrong.empty()) {
    throw engine::error("--retain: " + wrong);
  }
  const model_geometry model = preset(o.preset).value();  // The command line is checked for it.
  replay_report r{.options = o,
                  .page_tokens = page_tokens,
                  .requests = trace.requests.size(),
                  .sessions = trace.sessions.size(),
                  .sizes = sizes_of(o, model, page_tokens)};
  add_cache(r, trace, model);
  add_references(r, trace, model);
  return r;
}

}  // namespace

int replay(const replay_options& o) {
  if (o.fleet.workers != 0) {
    return replay_fleet(o);
  }
  const replay_report r = make_report(o);
  if (o.json) {
    print_json(r);
  } else {
    print_table(r);
  }
  return exit_ok;
}

}  // namespace oriel::cli
