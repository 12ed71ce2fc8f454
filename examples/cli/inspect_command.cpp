// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// `oriel inspect`: what a model's KV costs, and how many sequences fit.
#include "commands.hpp"
#include "support.hpp"

#include <oriel/kv/capacity.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/cost.hpp>
#include <oriel/model/presets.hpp>

#include <engine/error.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace oriel::cli {
namespace {

constexpr std::uint64_t priced_context_tokens = 131'072;

struct asked_model {
  model_geometry geometry;
  std::uint64_t context_tokens;  ///< of each sequence
};

/// @throws engine::error, also when the model allows no such context
asked_model model_of(const inspect_options& o) {
  if (!o.preset.empty()) {  // The command line is checked for it.
    return {preset(o.preset).value(), o.context_tokens.value_or(priced_context_tokens)};
  }
  const engine::checkpoint model = open_model(model_folder(o.model_dir));
  const std::uint64_t most = model.config.geometry.context_tokens;
  if (o.context_tokens > most) {
    throw engine::error(fmt::format(
        "--context {}: the model allows a context of {} tokens", *o.context_tokens, most));
  }
  return {model.config.geometry, o.context_tokens.value_or(std::min(priced_context_tokens, most))};
}

/// "310.77 G", "9.27 M".
std::string count_text(std::uint64_t count) {
  const auto n = static_cast<double>(count);
  return n < 1e8 ? fmt::format("{:.2f} M", n / 1e6) : fmt::format("{:.2f} G", n / 1e9);
}

constexpr std::uint64_t bookkeeping_bytes_max = std::uint64_t{1} << 30;

/// Refuses a question whose answer takes too much memory to find: the pools and sequences that are
/// filled hold no KV, but they do hold tables. Nothing is allocated before.
/// @throws engine::error
void check_bookkeeping(std::span<const kv_layer_shape> layers, const capacity_question& question) {
  constexpr std::uint64_t page_bytes = 12, sequence_bytes = 512;  // of a pool, of a sequence
  const auto plan = pool_plan::make(layers, question.pools);
  if (!plan || plan->bytes_for(question.sequence_tokens) == 0) {
    return;  // The question itself will be refused.
  }
  const std::uint64_t sequences = question.budget_bytes / plan->bytes_for(question.sequence_tokens);
  std::uint64_t pages = 0;  // of one sequence
  for (std::uint32_t pool = 0; pool < plan->pools(); ++pool) {
    pages += plan->pages_for(pool_id{pool}, question.sequence_tokens);
  }
  const std::uint64_t one = sequence_bytes + 2 * page_bytes * pages;  // In pools and in tables.
  if (sequences > bookkeeping_bytes_max / one) {
    throw engine::error(
        fmt::format("{} hold about {} sequences of {} tokens, {} pages each: counting them takes "
                    "about {}, more than {}; lower --budget-gib, or raise --context or --page",
                    bytes_text(question.budget_bytes),
                    sequences,
                    question.sequence_tokens,
                    pages,
                    bytes_text(sequences * one),
                    bytes_text(bookkeeping_bytes_max)));
  }
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
  asked_model asked = model_of(o);
  report r{.model = std::move(asked.geometry),
           .context_tokens = asked.context_tokens,
           .budget_bytes = static_cast<std::uint64_t>(o.budget_gib * gib),
           .page_tokens = o.page_tokens,
           .fits = {}};
  const std::vector<kv_layer_shape> layers = kv_shapes_of(r.model.layers, r.kv);
  const capacity_question question{
      .budget_bytes = r.budget_bytes,
      .sequence_tokens = static_cast<std::uint32_t>(r.context_tokens),
      .pools = {.page_size = o.page_tokens, .step_tokens = 4, .slack_pages = 1}};
  check_bookkeeping(layers, question);
  const auto fits = sequences_that_fit(layers, question);
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
  print_out("{}\n", object.dump());
}

void print_table(const report& r) {
  const model_geometry& m = r.model;
  const parameter_counts parameters = count_parameters(m);
  const std::uint64_t dual = kv_bytes(m, r.context_tokens, r.kv);
  const std::uint64_t uniform = kv_bytes_uniform(m, r.context_tokens, r.kv);
  print_out("{}: {} full layers, {} window layers, {} MTP blocks; {} parameters, {} active\n\n",
            m.name,
            m.full_layers(),
            m.window_layers(),
            m.mtp_layers.size(),
            count_text(parameters.total),
            count_text(parameters.active));
  print_out("KV in {}, by pool\n", name_of(r.kv));
  for (const pool_cost& pool : kv_pools(m, r.kv)) {
    if (pool.kind == attention_kind::full) {
      print_out("  full          {:>3} layers  {:>12} per token\n",
                pool.layers,
                bytes_text(pool.bytes_per_token));
    } else {
      print_out("  window {:>5}  {:>3} layers  {:>12} per token  {:>12} per sequence\n",
                pool.window_tokens,
                pool.layers,
                bytes_text(pool.bytes_per_token),
                bytes_text(pool.bytes_per_window));
    }
  }
  print_out("\nOne sequence of {} tokens\n", r.context_tokens);
  print_out("  exact rows              {:>12}\n", bytes_text(dual));
  print_out("  whole pages of {:<4}     {:>12}\n",
            r.page_tokens,
            bytes_text(r.fits.bytes_per_sequence_dual));
  print_out("  a uniform cache         {:>12}   {:.2f}x\n",
            bytes_text(uniform),
            static_cast<double>(uniform) / static_cast<double>(dual));
  print_out("\nSequences in {} (pools filled at decode, 4 tokens a step)\n",
            bytes_text(r.budget_bytes));
  print_out("  dual pools              {:>12}\n", r.fits.sequences_dual);
  print_out("  a uniform pool          {:>12}\n", r.fits.sequences_uniform);
  print_out("\nOperations per token: {:.2f} GFLOP at position 0, {:.2f} at {}\n",
            static_cast<double>(flops_per_token(m, 0)) / 1e9,
            static_cast<double>(flops_per_token(m, r.context_tokens - 1)) / 1e9,
            r.context_tokens - 1);
}

}  // namespace

int inspect(const inspect_options& o) {
  const report r = make_report(o);
  if (o.json) {
    print_json(r);
  } else {
    print_table(r);
  }
  return exit_ok;
}

}  // namespace oriel::cli
