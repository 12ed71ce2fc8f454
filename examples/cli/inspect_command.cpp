// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel inspect`: what a model's KV costs, and how many sequences fit.
#include "commands.hpp"
#include "support.hpp"

#include <oriel/kv/capacity.hpp>
#include <oriel/model/cost.hpp>
#include <oriel/model/presets.hpp>

#include <engine/error.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <limits>
#include <string>

namespace oriel::cli {
namespace {

constexpr double gib = 1024.0 * 1024.0 * 1024.0;

model_geometry geometry_of(const inspect_options& o) {
  if (o.preset.empty()) {
    return open_model(model_folder(o.model_dir)).config.geometry;
  }
  std::optional<model_geometry> known = preset(o.preset);
  if (!known) {
    throw engine::error(fmt::format(
        "no preset '{}': the known ones are {}", o.preset, fmt::join(preset_names(), ", ")));
  }
  return std::move(*known);
}

/// Everything that is printed, in both forms.
struct report {
  model_geometry model;
  std::uint64_t context_tokens;
  std::uint64_t budget_bytes;
  std::uint32_t page_tokens;
  dtype kv = dtype::bf16;
  capacity_answer fits;
};

report make_report(const inspect_options& o) {
  report r{.model = geometry_of(o),
           .context_tokens = o.context_tokens,
           .budget_bytes = static_cast<std::uint64_t>(o.budget_gib * gib),
           .page_tokens = o.page_tokens,
           .fits = {}};
  const auto fits = sequences_that_fit(
      kv_shapes_of(r.model.layers, r.kv),
      {.budget_bytes = r.budget_bytes,
       .sequence_tokens = static_cast<std::uint32_t>(o.context_tokens),
       .pools = {.page_size = o.page_tokens, .step_tokens = 4, .slack_pages = 1}});
  if (!fits) {
    throw engine::error(fmt::format("--budget-gib {} with --page {}: {} ({})",
                                    o.budget_gib,
                                    o.page_tokens,
                                    fits.error().detail,
                                    name_of(fits.error().code)));
  }
  r.fits = *fits;
  return r;
}

void print_json(const report& r) {
  const model_geometry& m = r.model;
  const parameter_counts parameters = count_parameters(m);
  nlohmann::ordered_json pools = nlohmann::ordered_json::array();
  for (const pool_cost& pool : kv_pools(m, r.kv)) {
    pools.push_back({{"kind", pool.kind == attention_kind::full ? "full" : "window"},
                     {"window_tokens", pool.window_tokens},
                     {"layers", pool.layers},
                     {"bytes_per_token", pool.bytes_per_token},
                     {"bytes_per_window", pool.bytes_per_window}});
  }
  const nlohmann::ordered_json object{
      {"model", m.name},
      {"full_layers", m.full_layers()},
      {"window_layers", m.window_layers()},
      {"mtp_layers", m.mtp_layers.size()},
      {"parameters", parameters.total},
      {"parameters_active", parameters.active},
      {"kv_dtype", name_of(r.kv)},
      {"context_tokens", r.context_tokens},
      {"page_tokens", r.page_tokens},
      {"kv_bytes_per_token_full", kv_bytes_per_token_full(m, r.kv)},
      {"window_bytes_per_sequence", window_bytes_per_sequence(m, r.kv)},
      {"pools", std::move(pools)},
      {"kv_bytes", kv_bytes(m, r.context_tokens, r.kv)},
      {"kv_bytes_allocated", r.fits.bytes_per_sequence_dual},
      {"kv_bytes_uniform", kv_bytes_uniform(m, r.context_tokens, r.kv)},
      {"budget_bytes", r.budget_bytes},
      {"sequences_dual", r.fits.sequences_dual},
      {"sequences_uniform", r.fits.sequences_uniform},
      {"flops_per_token_first", flops_per_token(m, 0)},
      {"flops_per_token_last", flops_per_token(m, r.context_tokens - 1)}};
  fmt::print("{}\n", object.dump());
}

void print_table(const report& r) {
  const model_geometry& m = r.model;
  const parameter_counts parameters = count_parameters(m);
  const std::uint64_t dual = kv_bytes(m, r.context_tokens, r.kv);
  const std::uint64_t uniform = kv_bytes_uniform(m, r.context_tokens, r.kv);
  fmt::print(
      "{}: {} full layers, {} window layers, {} MTP blocks; {:.2f} G parameters, {:.2f} G "
      "active\n\n",
      m.name,
      m.full_layers(),
      m.window_layers(),
      m.mtp_layers.size(),
      static_cast<double>(parameters.total) / 1e9,
      static_cast<double>(parameters.active) / 1e9);
  fmt::print("KV in {}, by pool\n", name_of(r.kv));
  for (const pool_cost& pool : kv_pools(m, r.kv)) {
    if (pool.kind == attention_kind::full) {
      fmt::print("  full          {:>3} layers  {:>12} per token\n",
                 pool.layers,
                 bytes_text(pool.bytes_per_token));
    } else {
      fmt::print("  window {:>5}  {:>3} layers  {:>12} per token  {:>12} per sequence\n",
                 pool.window_tokens,
                 pool.layers,
                 bytes_text(pool.bytes_per_token),
                 bytes_text(pool.bytes_per_window));
    }
  }
  fmt::print("\nOne sequence of {} tokens\n", r.context_tokens);
  fmt::print("  exact rows              {:>12}\n", bytes_text(dual));
  fmt::print("  whole pages of {:<4}     {:>12}\n",
             r.page_tokens,
             bytes_text(r.fits.bytes_per_sequence_dual));
  fmt::print("  a uniform cache         {:>12}   {:.2f}x\n",
             bytes_text(uniform),
             static_cast<double>(uniform) / static_cast<double>(dual));
  fmt::print("\nSequences in {} (pools filled at decode, 4 tokens a step)\n",
             bytes_text(r.budget_bytes));
  fmt::print("  dual pools              {:>12}\n", r.fits.sequences_dual);
  fmt::print("  a uniform pool          {:>12}\n", r.fits.sequences_uniform);
  fmt::print("\nOperations per token: {:.2f} GFLOP at position 0, {:.2f} at {}\n",
             static_cast<double>(flops_per_token(m, 0)) / 1e9,
             static_cast<double>(flops_per_token(m, r.context_tokens - 1)) / 1e9,
             r.context_tokens - 1);
}

}  // namespace

int inspect(const inspect_options& o) {
  if (o.page_tokens % 16 != 0) {
    throw engine::error(fmt::format("--page {}: must be a multiple of 16", o.page_tokens));
  }
  const report r = make_report(o);
  if (o.json) {
    print_json(r);
  } else {
    print_table(r);
  }
  return exit_ok;
}

}  // namespace oriel::cli
