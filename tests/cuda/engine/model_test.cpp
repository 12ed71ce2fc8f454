// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Whole models on a device, through the engine: the greedy tokens of the same step programs, played on
// the host with a device's roundings, and of checkpoints those of the host's engine, wherever the choice
// is clear; and order-fixed, the bits of a cold run whatever was batched, chunked, cached, drafted or
// preempted. Hits of the busy runs may be healed ones.
#include "support/device_kv.hpp"
#include "support/e4m3_model.hpp"
#include "support/golden.hpp"
#include "support/greedy_comparison.hpp"
#include "support/host_backend.hpp"
#include "support/no_text.hpp"
#include "support/scale.hpp"
#include "support/toy_geometry.hpp"

#include <oriel/core/executor.hpp>
#include <oriel/core/random.hpp>

#include <catch2/catch.hpp>
#include <engine/checkpoint.hpp>
#include <engine/device_needs.hpp>
#include <engine/engine.hpp>
#include <engine/engine_pools.hpp>
#include <engine/error.hpp>
#include <engine/program_runner.hpp>
#include <engine/scaled_products.hpp>
#include <engine/weight_loader.hpp>
#include <engine_cuda/cuda_runner.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace model_test {

using namespace oriel;          // NOLINT: a test
using namespace oriel::engine;  // NOLINT
using namespace oriel::test;    // NOLINT

namespace {

struct agreement_limits {
  double error_max = 0.0;        ///< of a logit, by the largest, on average but the worst twentieth
  double margin_min = 0.0;       ///< by the largest logit; a token with less is a near tie
  float router_gap_min = 0.0f;   ///< an expert with less is
  double clear_share_min = 0.5;  ///< of tokens: else to compare them says little
};

/// What golden prompts of models in bf16 keep (tests/golden/README.md).
constexpr float bf16_router_gap = 0.02f;

/// Of a device and its step programs played on the host with the same roundings. By the generic attention unit only
/// the order of sums differs. On tensor cores it is also the largest score so far, from which weights of values are
/// rounded. A number of e4m3 may round the other way where sums differ in their last bits, and then others behind it:
/// two runs may differ as roundings do, for which docs/device.md allows a quarter.
constexpr agreement_limits by_generic_attention{
    .error_max = 0.006, .margin_min = 4 * 0.006, .router_gap_min = 0x1p-9f};
constexpr agreement_limits on_tensor_cores{
    .error_max = 0x1p-7, .margin_min = 4 * 0x1p-7, .router_gap_min = bf16_router_gap};
constexpr agreement_limits in_e4m3{
    .error_max = 0x1p-2, .margin_min = 0x1p-3, .router_gap_min = 0.0f, .clear_share_min = 0.2};

struct subject {
  model_geometry model;
  model_weights packed;
  std::shared_ptr<const cuda_weights> uploaded;
  cuda_device device = find_cuda_device();
  std::optional<model_weights> e4m3 = {};      ///< plain; its products have no engine on the host
  std::optional<dtype> kv = {};                ///< of K and V; none: as products are computed
  std::shared_ptr<const subject> in_f32 = {};  ///< for the host: what rounding to bf16 changes
  agreement_limits limits = by_generic_attention;

  void upload(const model_weights& plain) { uploaded = upload_weights(model, plain, device); }
};

subject random_subject(model_geometry model, std::uint64_t seed) {
  subject s{.model = std::move(model), .packed = {}, .uploaded = {}};
  s.packed = random_weights(s.model, dtype::bf16, seed);
  s.upload(random_weights(
      s.model, dtype::bf16, seed, best_isa(), host::gemm_backend::automatic, weight_form::plain));
  return s;
}

/// What was said of the weights before they were read, but for routers without biases.
void check_size(const subject& s, const kept_matrices& kept) {
  const std::uint64_t said =
      device_weight_bytes(s.model,
                          dtype::bf16,
                          static_cast<std::uint32_t>(s.model.mtp_layers.size()),
                          s.device.multiprocessors,
                          kept);
  CHECK(said >= bytes_of(*s.uploaded));
  CHECK(said <= bytes_of(*s.uploaded) + 4096 * s.model.layers.size());
}

subject loaded_subject(const std::filesystem::path& folder) {
  const checkpoint opened = open_checkpoint(folder);
  subject s{.model = opened.config.geometry, .packed = {}, .uploaded = {}};
  s.packed = load_weights(opened, {.compute = dtype::bf16});
  s.in_f32 = std::make_shared<const subject>(subject{
      .model = s.model, .packed = load_weights(opened, {.compute = dtype::f32}), .uploaded = {}});
  s.upload(load_weights(opened, {.compute = dtype::bf16, .form = weight_form::plain}));
  check_size(s, {});
  return s;
}

/// Heads of 192 and 128 dims in groups of 16, MTP blocks, experts: the family's shapes, few layers.
model_geometry family_model() {
  model_geometry m = toy_geometry({0, 128, 128, 0}, true);
  m.hidden = 256;
  m.vocabulary = 1'024;
  for (layer_geometry& layer : m.layers) {
    layer.attention.q_heads = 16;
    layer.attention.kv_heads = 1;
    layer.attention.head_dim_qk = 192;
    layer.attention.head_dim_vo = 128;
    layer.attention.rotary_dims = layer.attention.rope_base_dims = 64;
    layer.ffn.intermediate = layer.ffn.is_moe() ? 128 : 512;
  }
  m.mtp_layers.assign(3, m.layers[1]);
  return m;
}

/// Where a device is slow (ORIEL_TEST_SCALE below 0.3) prompts and answers are fewer and shorter: still of several pages
/// and chunks, beyond the windows, with companions, drafts, hits.
const bool is_slow = scaled(10) <= 2;
const std::uint32_t answer_tokens = is_slow ? 6 : 40;
const std::size_t prompts_asked = is_slow ? 3 : 6;

std::uint32_t context_of(const subject& s) {
  return std::min(is_slow ? 192u : 512u, s.model.context_tokens);
}

/// Some begin as the one before them does.
std::vector<greedy_prompt> random_prompts(const subject& s,
                                          std::size_t count,
                                          std::uint32_t tokens_max,
                                          std::uint32_t new_tokens) {
  random_stream random(7, 130);
  std::vector<greedy_prompt> prompts(count);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const std::uint32_t length = 1 + random.next_below(tokens_max);
    if (i % 2 == 1) {
      prompts[i].tokens = prompts[i - 1].tokens;
      prompts[i].tokens.resize(std::min<std::size_t>(prompts[i].tokens.size(), length / 4 * 3));
    }
    while (prompts[i].tokens.size() < length) {
      prompts[i].tokens.push_back(token_id{random.next_below(s.model.vocabulary)});
    }
    prompts[i].new_tokens = new_tokens;
  }
  return prompts;
}

std::vector<greedy_prompt> random_prompts(const subject& s) {
  return random_prompts(s, prompts_asked, context_of(s) - answer_tokens, answer_tokens);
}

/// The programs that a device would run, on the host.
struct host_programs {
  std::unique_ptr<step_runner> operator()(const runner_setup& setup) {
    const pool_plan& plan = setup.pools.plan();
    program_model m = program_model_of(setup, dtype::bf16, s.device.multiprocessors);
    if (s.e4m3) {
      m.products = scaled_products(*s.e4m3);
    }
    kv = std::make_unique<device_kv>(setup.pools);
    backend = std::make_unique<host_backend>(
        setup.model, s.packed, kv->layers(), s.e4m3 ? &*s.e4m3 : nullptr);
    return std::make_unique<program_runner>(m,
                                            setup.limits,
                                            table_entries_of(plan, setup.limits.context_tokens),
                                            setup.drafts_max,
                                            *backend,
                                            setup.order_fixed);
  }
  const subject& s;
  std::unique_ptr<device_kv> kv = {};
  std::unique_ptr<host_backend> backend = {};
};

/// One request at a time, nothing cached and nothing drafted.
engine_options cold_options(const subject& s) {
  engine_options o{
      .page_tokens = 64, .chunk_tokens = 128, .sequences_max = 1, .context_tokens = context_of(s)};
  o.heal = false;
  o.kv = s.kv;
  o.prefix_cache = false;
  o.order_fixed = true;
  return o;
}

/// The same with companions, other chunks, a cache, and drafts.
engine_options busy_options(const subject& s, drafter_kind drafter) {
  engine_options o = cold_options(s);
  o.chunk_tokens = 48;
  o.sequences_max = 4;
  o.heal = true;
  o.prefix_cache = true;
  o.speculation.drafter = drafter;
  o.speculation.drafts_max = 3;
  return o;
}

/// Who answers: the engine on the host; its bits, by the programs that a device would run; those with a device's
/// roundings; a device.
enum class answerer { host, programs, played_device, device };

struct served {
  std::vector<std::vector<token_id>> tokens;
  std::vector<std::vector<float>> router_gaps;  ///< [prompts][tokens] of programs, cold
  std::uint64_t cached_tokens = 0, accepted_tokens = 0;
};

/// Keeps how clear the routers' choices were, row by row, of requests that are served one by one.
struct kept_router_gaps final : logits_observer {
  kept_router_gaps(const host_programs& from, logits_observer* behind, std::size_t requests)
      : programs(from), next(behind), of(requests) {}
  void on_logits(request_id id, std::uint32_t position, std::span<const float> logits) override {
    of.at(static_cast<std::size_t>(id)).push_back(programs.backend->operations.last_router_gap);
    if (next != nullptr) {
      next->on_logits(id, position, logits);
    }
  }
  const host_programs& programs;
  logits_observer* next;
  std::vector<std::vector<float>> of;  ///< [requests][tokens]
};

/// @param times  that the prompts are answered, by one engine; the last time counts
served serve(const subject& s,
             answerer by,
             engine_options o,
             std::span<const greedy_prompt> prompts,
             int times = 1) {
  host_programs programs{s};
  kept_router_gaps gaps(programs, o.observer, prompts.size());
  if (by == answerer::device) {
    o.make_runner = cuda_runners(s.uploaded, s.device);
  } else if (by != answerer::host) {
    o.make_runner = [&](const runner_setup& setup) {
      auto runner = programs(setup);
      programs.backend->operations.rounds_as_a_device = by == answerer::played_device;
      return runner;
    };
    o.observer = &gaps;
  }
  serial_executor serial;
  const tokenizer tokens = no_text();
  engine::engine e(s.model, s.packed, tokens, o, serial);
  served result;
  for (int i = 0; i < times; ++i) {
    result.tokens = answer_greedily(e, prompts, static_cast<std::uint64_t>(i) * prompts.size());
  }
  result.router_gaps = std::move(gaps.of);
  result.cached_tokens = e.metrics().cached_tokens.value();
  result.accepted_tokens = e.metrics().accepted_tokens.value();
  return result;
}

/// What was said, with the logits of each token.
struct transcript {
  served said;
  kept_logits logits;
};

transcript observe(const subject& s, answerer by, std::span<const greedy_prompt> prompts) {
  transcript result;
  engine_options o = cold_options(s);
  o.observer = &result.logits;
  result.said = serve(s, by, o, prompts);
  return result;
}

/// Of a logit, by the largest, on average over the rows whose routers chose clearly, as long as both say the same; but
/// the worst twentieth of them, where a row before may have had another expert.
double average_error(std::span<const greedy_prompt> prompts,
                     const transcript& expected,
                     const transcript& seen,
                     float router_gap_min) {
  std::vector<double> errors;
  for (std::uint64_t id = 0; id < prompts.size(); ++id) {
    REQUIRE(expected.logits.of.at(id).size() == prompts[id].new_tokens);
    REQUIRE(seen.logits.of.at(id).size() == prompts[id].new_tokens);
    for (std::size_t t = 0; t < prompts[id].new_tokens; ++t) {
      const std::vector<float>&a = expected.logits.of.at(id)[t], &b = seen.logits.of.at(id)[t];
      float largest = 0.0f, error = 0.0f;
      bool is_finite = true;
      for (std::size_t i = 0; i < a.size(); ++i) {
        largest = std::max(largest, std::abs(a[i]));
        error = std::max(error, std::abs(a[i] - b[i]));
        is_finite = is_finite && std::isfinite(a[i]) && std::isfinite(b[i]);
      }
      INFO("request " << id << ", token " << t);
      REQUIRE(is_finite);
      if (expected.said.router_gaps[id][t] >= router_gap_min) {
        errors.push_back(error / largest);
      }
      if (expected.said.tokens[id][t] != seen.said.tokens[id][t]) {
        break;  // From here on they answer something else.
      }
    }
  }
  REQUIRE(!errors.empty());
  std::ranges::sort(errors);
  errors.resize(errors.size() - errors.size() / 20);
  return std::accumulate(errors.begin(), errors.end(), 0.0) / static_cast<double>(errors.size());
}

/// A device agrees with others: logits on average, and tokens wherever the choice is clear, which it is not where a
/// router of its row has a near tie: where that falls the other way, other experts change a logit by up to the half of
/// the largest. The largest error is not bounded, for the rows before have routers, too.
void check_agreement(const subject& s,
                     std::span<const greedy_prompt> prompts,
                     const transcript& expected,
                     const transcript& on_device,
                     const agreement_limits& limits) {
  const double error = average_error(prompts, expected, on_device, limits.router_gap_min);
  CHECK(error <= limits.error_max);
  std::vector<std::vector<float>> margins(prompts.size());  // 0 where a router has a near tie
  for (std::uint64_t id = 0; id < prompts.size(); ++id) {
    for (std::size_t t = 0; t < prompts[id].new_tokens; ++t) {
      const bool is_clear = expected.said.router_gaps[id][t] >= limits.router_gap_min;
      margins[id].push_back(is_clear ? top_margin(expected.logits.of.at(id)[t]) : 0.0f);
    }
  }
  const greedy_agreement found =
      compare_greedy(prompts,
                     expected.said.tokens,
                     margins,
                     static_cast<float>(limits.margin_min),
                     [&](std::span<const greedy_prompt> asked) {
                       return serve(s, answerer::device, cold_options(s), asked).tokens;
                     });
  CHECK(found.wrong == 0);
  CHECK(found.tokens == prompts.size() * prompts[0].new_tokens);
  // Of a few tokens most may be near ties, but not all.
  CHECK(static_cast<double>(found.clear) >
        (is_slow ? 0.0 : limits.clear_share_min * static_cast<double>(found.tokens)));
}

/// With the same programs and roundings on the host; and of checkpoints with the host's engine, which in generic
/// attention rounds the weights of values, too: the device may change twice as much as that engine's own rounding to
/// bf16, and says its tokens where the margin is above four times that and routers are as clear as for golden prompts in
/// bf16.
void check_agreement(const subject& s, std::span<const greedy_prompt> prompts) {
  const transcript on_device = observe(s, answerer::device, prompts);
  {
    INFO("against its own roundings, played on the host");
    check_agreement(s, prompts, observe(s, answerer::played_device, prompts), on_device, s.limits);
  }
  if (!s.in_f32) {
    return;
  }
  INFO("against the host's engine");
  const transcript host = observe(s, answerer::programs, prompts);
  CHECK(serve(s, answerer::host, cold_options(s), prompts).tokens == host.said.tokens);
  const transcript exact = observe(*s.in_f32, answerer::host, prompts);
  const double tolerance = 2.0 * average_error(prompts, host, exact, bf16_router_gap);
  CHECK((is_slow || tolerance <= 0x1p-4));
  check_agreement(s,
                  prompts,
                  host,
                  on_device,
                  {.error_max = tolerance,
                   .margin_min = 4.0 * tolerance,
                   .router_gap_min = bf16_router_gap,
                   .clear_share_min = 0.2});
}

bool same_bits(const kept_logits& a, const kept_logits& b, std::uint64_t first_id_of_b) {
  for (const auto& [id, rows] : a.of) {
    const auto other = b.of.find(id + first_id_of_b);
    if (other == b.of.end() || other->second.size() != rows.size()) {
      return false;
    }
    for (std::size_t t = 0; t < rows.size(); ++t) {
      if (std::memcmp(rows[t].data(), other->second[t].data(), rows[t].size() * sizeof(float)) !=
          0) {
        return false;
      }
    }
  }
  return true;
}

/// Order-fixed, no schedule changes a bit: of the logits where they are looked at (steps then come
/// in pieces), of the tokens where steps are graphs.
void check_order(const subject& s, std::span<const greedy_prompt> prompts) {
  kept_logits cold_logits;
  engine_options cold = cold_options(s);
  cold.observer = &cold_logits;
  const served expected = serve(s, answerer::device, cold, prompts);
  CHECK(serve(s, answerer::device, cold_options(s), prompts).tokens == expected.tokens);
  for (const drafter_kind drafter : {drafter_kind::none, drafter_kind::lookup, drafter_kind::mtp}) {
    if (drafter == drafter_kind::mtp && s.model.mtp_layers.empty()) {
      continue;
    }
    INFO("drafter " << static_cast<int>(drafter));
    kept_logits logits;
    engine_options o = busy_options(s, drafter);
    o.observer = &logits;
    const served observed = serve(s, answerer::device, o, prompts, 2);
    CHECK(observed.tokens == expected.tokens);
    CHECK(observed.cached_tokens > 0);
    CHECK(same_bits(cold_logits, logits, 0));
    CHECK(same_bits(cold_logits, logits, prompts.size()));
    const served unobserved = serve(s, answerer::device, busy_options(s, drafter), prompts, 2);
    CHECK(unobserved.tokens == expected.tokens);
    CHECK(unobserved.cached_tokens > 0);
  }
}

void check(const subject& s) {
  const std::vector<greedy_prompt> prompts = random_prompts(s);
  check_agreement(s, prompts);
  check_order(s, prompts);
}

}  // namespace

TEST_CASE("cuda engine: the family's shapes, on tensor cores") {
  subject s = random_subject(family_model(), 1);
  s.limits = on_tensor_cores;
  check(s);
}

TEST_CASE("cuda engine: another shape, by the generic attention unit") {
  model_geometry m = toy_geometry({0, 16, 16, 0}, true);
  m.hidden = 64;
  m.mtp_layers.assign(3, toy_geometry({16}, false).layers[0]);
  check(random_subject(std::move(m), 2));
}

TEST_CASE("cuda engine: a preempted answer goes on as if nothing had happened") {
  const subject s = random_subject(family_model(), 3);
  const std::vector<greedy_prompt> prompts = random_prompts(s);
  const served expected = serve(s, answerer::device, cold_options(s), prompts);
  engine_options o = busy_options(s, drafter_kind::mtp);
  o.make_runner = cuda_runners(s.uploaded, s.device);
  serial_executor serial;
  const tokenizer tokens = no_text();
  engine::engine e(s.model, s.packed, tokens, o, serial);
  std::vector<std::vector<token_id>> found(prompts.size());
  for (std::uint64_t id = 0; id < prompts.size(); ++id) {
    request r;
    r.id = request_id{id};
    r.prompt = prompts[id].tokens;
    r.max_new_tokens = answer_tokens;
    r.sampling.temperature = 0.0f;
    REQUIRE(e.submit(std::move(r)));
  }
  random_stream random(3, 131);
  while (!e.idle()) {
    for (const event& happened : e.step()) {
      if (happened.token) {
        found[static_cast<std::uint64_t>(happened.id)].push_back(*happened.token);
      }
    }
    if (random.next_below(is_slow ? 3 : 8) == 0) {
      (void)e.preempt(request_id{random.next_below(static_cast<std::uint32_t>(prompts.size()))});
    }
  }
  CHECK(e.metrics().requests_preempted.value() > 0);
  CHECK(found == expected.tokens);
}

TEST_CASE("cuda engine: the nano model") {
  check(loaded_subject(ORIEL_NANO_DIR));
}

TEST_CASE("cuda engine: golden checkpoints") {
  std::size_t models = 0;
  for (const std::filesystem::path& folder : golden_folders()) {
    INFO(folder.filename().string());
    std::unique_ptr<subject> s;
    try {
      s = std::make_unique<subject>(loaded_subject(folder));
    } catch (const engine::error& e) {
      // What a device has no kernel for, it must say.
      INFO(e.what());
      CHECK(std::string(e.what()).find("device") != std::string::npos);
      continue;
    }
    ++models;
    check(*s);
  }
  CHECK(models >= 5);
}

namespace {

subject e4m3_subject(model_geometry model, model_weights packed, model_weights e4m3) {
  subject s{.model = std::move(model),
            .packed = std::move(packed),
            .uploaded = {},
            .e4m3 = std::move(e4m3),
            .limits = in_e4m3};
  s.upload(*s.e4m3);
  REQUIRE(computes_in_e4m3(*s.uploaded));
  return s;
}

void check_e4m3(const subject& s) {
  check_agreement(s, random_prompts(s, 3, 50, 12));  // Few and short: references are slow.
  check_order(s, random_prompts(s));
}

}  // namespace

TEST_CASE("cuda engine: the family's shapes in e4m3") {
  model_geometry m = family_model();
  e4m3_twins twins = random_e4m3_model(m, 3);
  subject s = e4m3_subject(std::move(m), std::move(twins.packed), std::move(twins.e4m3));
  s.limits.clear_share_min = 0.125;  // 7 of 36 are.
  check_e4m3(s);
  s.kv = dtype::e4m3;  // K and V as well.
  check_e4m3(s);
}

TEST_CASE("cuda engine: an FP8 checkpoint with fused QKV") {
  const checkpoint opened =
      open_checkpoint(std::filesystem::path(ORIEL_TEST_DIR) / "golden" / "fp8_fused");
  const subject s =
      e4m3_subject(opened.config.geometry,
                   load_weights(opened),
                   load_weights(opened, {.form = weight_form::plain, .keeps_e4m3 = true}));
  check_size(s, kept_in_e4m3(opened, dtype::bf16));
  check_e4m3(s);
}

}  // namespace model_test
