// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What is said of a device before weights are read: what it has no kernel for, and what it has no
// room for.
#include "engine/with_blocks.hpp"
#include "support/device_kv.hpp"
#include "support/host_backend.hpp"

#include <oriel/core/random.hpp>
#include <oriel/tier/stream_mover.hpp>

#include <catch2/catch.hpp>
#include <engine/checkpoint.hpp>
#include <engine/device_needs.hpp>
#include <engine/engine.hpp>
#include <engine/engine_pools.hpp>
#include <engine/error.hpp>
#include <engine/program_runner.hpp>
#include <engine/scaled_products.hpp>
#include <engine/weight_loader.hpp>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace device_needs_test {

using namespace oriel;
using namespace oriel::engine;
using namespace engine_life;

namespace {

constexpr std::uint32_t multiprocessors = 132;

/// What the refusal says; empty: it was none.
std::string refusal(const std::function<void()>& ask) {
  try {
    ask();
  } catch (const oriel::engine::error& e) {
    return e.what();
  }
  return {};
}

bool says(const std::string& text, const char* what) {
  return text.find(what) != std::string::npos;
}

/// Experts of a width that a device reads.
model_geometry some_model(std::uint64_t seed, bool moe) {
  random_stream random(seed, 128);
  model_geometry m = toy_geometry({0, 16, 16, 0}, moe);
  m.hidden = 8 * (1 + random.next_below(12));
  m.mtp_layers.assign(random.next_below(4), toy_geometry({16}, false).layers[0]);
  return m;
}

engine_options options_of(const model_geometry& m, random_stream& random) {
  engine_options o{.chunk_tokens = 16 + random.next_below(100),
                   .sequences_max = 1 + random.next_below(6),
                   .context_tokens = 64 + random.next_below(400)};
  o.heal = false;
  o.prefix_cache = random.next_below(2) == 0;
  if (!m.mtp_layers.empty() && random.next_below(2) == 0) {
    o.speculation.drafter = drafter_kind::mtp;
    o.speculation.drafts_max =
        1 + random.next_below(static_cast<std::uint32_t>(m.mtp_layers.size()));
  }
  return o;
}

}  // namespace

namespace {

/// What an engine's runner takes, beside what was said.
void check_needs(const model_geometry& model,
                 const model_weights& weights,
                 engine_options o,
                 const device_needs& needs,
                 const model_weights* e4m3_weights = nullptr) {
  std::optional<oriel::test::device_kv> kv;
  std::optional<oriel::test::host_backend> backend;
  std::uint64_t kv_bytes = 0;
  o.make_runner = [&](const runner_setup& setup) -> std::unique_ptr<step_runner> {
    const pool_plan& plan = setup.pools.plan();
    for (std::uint32_t i = 0; i < plan.pools(); ++i) {
      kv_bytes += setup.pools.pool(pool_id{i}).capacity() * plan.layout(pool_id{i}).page_bytes();
    }
    program_model m = program_model_of(setup, weights.compute, multiprocessors);
    if (e4m3_weights != nullptr) {
      m.products = scaled_products(*e4m3_weights);
    }
    kv.emplace(setup.pools);
    backend.emplace(setup.model, weights, kv->layers(), e4m3_weights);
    return std::make_unique<program_runner>(m,
                                            setup.limits,
                                            table_entries_of(plan, setup.limits.context_tokens),
                                            setup.drafts_max,
                                            *backend,
                                            setup.order_fixed);
  };
  serial_executor serial;
  const tokenizer tokens = no_text();
  const oriel::engine::engine e(model, weights, tokens, o, serial);
  const std::uint64_t tables = backend->taken.table_entries * sizeof(std::uint32_t);
  CHECK(needs.kv_bytes == kv_bytes);
  CHECK(needs.step_bytes >= backend->taken.memory_bytes + tables);
  CHECK(needs.step_bytes < backend->taken.memory_bytes + tables + 2 * 256);
}

}  // namespace

TEST_CASE("what a device is asked for is what the engine's runner takes") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 12)));
  INFO("seed " << seed);
  random_stream random(seed, 129);
  const model_geometry model = some_model(seed, false);
  const dtype compute = seed % 3 == 0 ? dtype::f32 : dtype::bf16;
  const engine_options o = options_of(model, random);
  const device_needs needs = device_needs_of(model, o, false, compute, multiprocessors);
  check_needs(model, random_weights(model, compute, seed), o, needs);
}

TEST_CASE("weights on a device take what they take as they lie in a checkpoint, experts in tiles") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 12)));
  INFO("seed " << seed);
  const bool moe = seed % 2 == 0;
  const model_geometry model = some_model(seed, moe);
  const dtype compute = !moe && seed % 3 == 0 ? dtype::f32 : dtype::bf16;
  const std::uint64_t bytes =
      random_weights(
          model, compute, seed, best_isa(), host::gemm_backend::automatic, weight_form::plain)
          .bytes();
  const auto blocks = static_cast<std::uint32_t>(model.mtp_layers.size());
  const std::uint64_t needed = device_weight_bytes(model, compute, blocks, multiprocessors);
  const std::uint64_t pieces = 3 + (4 + blocks) * 9 + blocks * 4;
  std::uint64_t tiles = 0;  // A piece has 128 rows of 64 columns.
  for (const layer_geometry& layer : model.layers) {
    tiles += layer.ffn.is_moe() ? 4 * layer.ffn.experts : 0;
  }
  CHECK(needed >= bytes);
  CHECK(needed <= bytes + pieces * 256 + tiles * 128 * 64 * 2);
}

TEST_CASE("of an FP8 checkpoint is known before it is read what stays in e4m3, and what it takes") {
  const std::string name = GENERATE("fp8_fused", "fp8_ambiguous", "fp8_split_twin");
  INFO(name);
  const checkpoint opened =
      open_checkpoint(std::filesystem::path(ORIEL_TEST_DIR) / "golden" / name);
  const model_geometry& model = opened.config.geometry;
  const auto blocks = static_cast<std::uint32_t>(model.mtp_layers.size());
  const model_weights plain =
      load_weights(opened, {.form = weight_form::plain, .keeps_e4m3 = true});
  const kept_matrices kept = kept_in_e4m3(opened, dtype::bf16);
  CHECK(kinds_of(kept) == scaled_products(plain));
  CHECK(kept_in_e4m3(opened, dtype::f32).empty());
  for (const auto& [weight, matrix] : kept) {
    INFO("role " << static_cast<int>(weight.role) << ", layer " << weight.layer);
    if (weight.role == weight_role::qkv && weight.layer < model.layers.size()) {
      const scale_grid& grid = plain.layers[weight.layer].attention.qkv.grid;
      CHECK(matrix.scales == grid.scales.size());
      CHECK(matrix.has_row_map == !grid.rows.empty());
    }
  }
  const std::uint64_t needed =
      device_weight_bytes(model, dtype::bf16, blocks, multiprocessors, kept);
  std::uint64_t tiles = 0;  // A piece has 128 rows of 128 bytes.
  for (const auto& [weight, matrix] : kept) {
    const bool is_expert =
        weight.role == weight_role::expert_gate_up || weight.role == weight_role::expert_down;
    tiles += matrix.kind == product_kind::plain ? 0 : is_expert ? 8 : 32;
  }
  for (const layer_geometry& layer : model.layers) {
    tiles += layer.ffn.is_moe() ? 6 * layer.ffn.experts : 0;
  }
  const std::uint64_t pieces = 3 + (model.layers.size() + blocks) * 15 + blocks * 4;
  CHECK(needed >= plain.bytes());
  CHECK(needed <= plain.bytes() + pieces * 256 + tiles * 128 * 128);
  engine_options o{.context_tokens = 128};
  o.heal = false;
  const device_needs needs = device_needs_of(model, o, false, dtype::bf16, multiprocessors, kept);
  check_needs(model, load_weights(opened), o, needs, &plain);
}

TEST_CASE("e4m3 halves what matrices take on a device, and experts of it may have any width") {
  model_geometry model = toy_geometry({0, 16, 16, 0}, true);
  model.hidden = 1'024;
  for (layer_geometry& layer : model.layers) {
    layer.attention = {.q_heads = 8,
                       .kv_heads = 4,
                       .head_dim_qk = 64,
                       .head_dim_vo = 64,
                       .rotary_dims = 16,
                       .rope_base_dims = 16,
                       .rope_theta = 1e4};
    layer.ffn.intermediate = 512;
  }
  kept_matrices kept;
  for (std::uint32_t l = 0; l < model.layers.size(); ++l) {
    const bool moe = model.layers[l].ffn.is_moe();
    kept[{weight_role::qkv, l}] = {product_kind::grouped, 8 * 8, true};
    kept[{weight_role::o, l}] = {product_kind::block_scaled, 8 * 4, false};
    kept[{moe ? weight_role::expert_gate_up : weight_role::gate_up, l}] = {
        moe ? product_kind::grouped : product_kind::block_scaled, moe ? 0u : 8u * 8u, false};
    kept[{moe ? weight_role::expert_down : weight_role::down, l}] = {
        moe ? product_kind::grouped : product_kind::block_scaled, moe ? 0u : 8u * 4u, false};
  }
  const auto bytes = [&](const kept_matrices& which) {
    return static_cast<double>(device_weight_bytes(model, dtype::bf16, 0, multiprocessors, which));
  };
  // The tables of 61 tokens, norms and the router stay.
  CHECK(bytes(kept) < 0.52 * bytes({}));
  CHECK(bytes(kept) > 0.5 * bytes({}));
  for (layer_geometry& layer : model.layers) {
    layer.ffn.intermediate = layer.ffn.is_moe() ? 516 : 512;
  }
  const engine_options o{.context_tokens = 256};
  const auto ask = [&](const kept_matrices& which) {
    return refusal(
        [&] { (void)device_needs_of(model, o, false, dtype::bf16, multiprocessors, which); });
  };
  CHECK(says(ask({}), "516 numbers"));
  CHECK(ask(kept) == "");
}

TEST_CASE("what a device has no kernel for is refused with its name") {
  model_geometry model = some_model(1, true);
  const engine_options o{.context_tokens = 256};
  const auto ask = [&](dtype compute) {
    return refusal([&] { (void)device_needs_of(model, o, false, compute, multiprocessors); });
  };
  CHECK(ask(dtype::bf16).empty());
  const std::string in_f32 = ask(dtype::f32);
  CHECK(says(in_f32, "toy cannot be computed on a device"));
  CHECK(says(in_f32, "experts"));
  model.hidden = 44;
  CHECK(says(ask(dtype::bf16), "44 numbers"));
  model.hidden = 48;
  CHECK(ask(dtype::bf16).empty());
}

TEST_CASE("a model that does not fit is refused, with what is missing") {
  constexpr std::uint64_t gib = std::uint64_t{1} << 30;
  const device_needs needs{.weight_bytes = 100 * gib, .kv_bytes = 30 * gib, .step_bytes = gib / 2};
  const auto ask = [&](std::uint64_t free_bytes) {
    return refusal([&] { expect_room(needs, "mimo", "H200", free_bytes, 0); });
  };
  CHECK(ask(needs.total_bytes()).empty());
  CHECK_FALSE(ask(needs.total_bytes() - 1).empty());
  const std::string said = ask(120 * gib);
  CHECK(says(said, "mimo does not fit on H200"));
  CHECK(says(said, "100.00 GiB of weights"));
  CHECK(says(said, "30.00 GiB of KV"));
  CHECK(says(said, "0.50 GiB for a step"));
  CHECK(says(said, "10.50 GiB more than the 120.00 GiB that are free"));
}

TEST_CASE("tiers of a device take pinned memory of the host, and multiprocessors from a step") {
  const model_geometry model = some_model(2, false);
  engine_options o{.context_tokens = 256};
  const dtype kv = GENERATE(dtype::bf16, dtype::e4m3);
  o.kv = kv;
  const auto ask = [&](bool has_tiers, std::uint32_t of) {
    return device_needs_of(model, o, has_tiers, dtype::bf16, of);
  };
  const device_needs needs = ask(true, multiprocessors);
  const planned_pools planned = plan_pools(model, o, kv);
  CHECK(needs.stage_bytes == mover_bytes_of(planned.plan));
  CHECK(needs.stage_bytes > 2 * (std::uint64_t{255} << 20));
  CHECK(needs.total_bytes() == needs.weight_bytes + needs.kv_bytes + needs.step_bytes);
  CHECK(ask(false, multiprocessors).stage_bytes == 0);
  CHECK(needs.step_bytes == ask(false, step_multiprocessors(multiprocessors, true)).step_bytes);
  CHECK(step_multiprocessors(multiprocessors, false) == multiprocessors);
  // Pages go up while others go down, each way on multiprocessors of its own.
  CHECK(mover_multiprocessors() == 2 * stream_mover_options{}.copies.multiprocessors);
  CHECK(step_multiprocessors(multiprocessors, true) == multiprocessors - mover_multiprocessors());
  const auto told = [&](std::uint64_t host_bytes) {
    return refusal([&] { expect_room(needs, "toy", "H200", ~std::uint64_t{0}, host_bytes); });
  };
  CHECK(told(needs.stage_bytes).empty());
  const std::string refused = told(needs.stage_bytes - (std::uint64_t{256} << 20));
  CHECK(says(refused, "toy on H200 pins 0.50 GiB of this machine's memory"));
  CHECK(says(refused, "0.25 GiB are available: run without tiers"));
}

}  // namespace device_needs_test
