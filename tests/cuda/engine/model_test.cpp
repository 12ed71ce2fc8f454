// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Whole models on a device, through the engine: the host engine's greedy tokens wherever its choice
// is clear, and the same tokens whether or not drafts are verified. Models of e4m3 matrices are
// compared with the same step programs, interpreted on the host with the reference kernels.
#include "support/e4m3_model.hpp"
#include "support/host_backend.hpp"
#include "support/no_text.hpp"
#include "support/toy_geometry.hpp"

#include <oriel/core/executor.hpp>
#include <oriel/core/random.hpp>

#include <catch2/catch.hpp>
#include <engine/checkpoint.hpp>
#include <engine/engine.hpp>
#include <engine/engine_pools.hpp>
#include <engine/program_runner.hpp>
#include <engine/scaled_products.hpp>
#include <engine/weight_loader.hpp>
#include <engine_cuda/cuda_runner.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

using namespace oriel;          // NOLINT: a test
using namespace oriel::engine;  // NOLINT

namespace {

/// How clear each choice was: the distance of the two largest logits, by the largest of all.
class margins final : public logits_observer {
 public:
  void on_logits(request_id id, std::uint32_t, std::span<const float> logits) override {
    std::vector<float> sorted(logits.begin(), logits.end());
    std::ranges::partial_sort(sorted, sorted.begin() + 2, std::ranges::greater());
    float largest = 0.0f;
    for (const float x : logits) {
      largest = std::max(largest, std::abs(x));
    }
    of[static_cast<std::uint64_t>(id)].push_back((sorted[0] - sorted[1]) / largest);
  }
  std::map<std::uint64_t, std::vector<float>> of;
};

using token_lists = std::map<std::uint64_t, std::vector<token_id>>;

struct subject {
  model_geometry model;
  model_weights packed;
  std::shared_ptr<const cuda_weights> uploaded;
  cuda_device device = find_cuda_device();
  std::optional<model_weights> e4m3 = {};  ///< plain; then its programs are what is expected
  std::optional<dtype> kv = {};
  std::uint32_t requests = 6, prompt_tokens_max = 300, new_tokens = 40;

  void upload(const model_weights& plain) { uploaded = upload_weights(model, plain, device); }
};

subject random_subject(model_geometry model, std::uint64_t seed) {
  subject s{.model = std::move(model), .packed = {}, .uploaded = {}};
  s.packed = random_weights(s.model, dtype::bf16, seed);
  s.upload(random_weights(
      s.model, dtype::bf16, seed, best_isa(), host::gemm_backend::automatic, weight_form::plain));
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

/// The programs that a device would run, on the host.
struct host_programs {
  std::unique_ptr<step_runner> operator()(const runner_setup& setup) {
    program_model m{.geometry = &setup.model,
                    .compute = dtype::bf16,
                    .kv = setup.kv,
                    .page_size = setup.page_size,
                    .context_tokens = setup.limits.context_tokens,
                    .chains_hidden = setup.chains_hidden,
                    .products = scaled_products(*s.e4m3)};
    const pool_plan& plan = setup.pools.plan();
    for (std::uint32_t l = 0; l < plan.layers(); ++l) {
      m.pool_of.push_back(to_index(plan.home(l).pool));
    }
    m.mtp_blocks = m.layers() - static_cast<std::uint32_t>(setup.model.layers.size());
    std::vector<std::uint32_t> pages{plan.pages_for(full_pool, setup.limits.context_tokens)};
    for (std::uint32_t kind = 0; kind < plan.window_kinds(); ++kind) {
      pages.push_back(plan.ring(kind).ring_pages());
    }
    backend = std::make_unique<oriel::test::host_backend>(
        setup.model, s.packed, layer_homes(setup.pools), &*s.e4m3);
    return std::make_unique<program_runner>(m, setup.limits, pages, setup.drafts_max, *backend);
  }
  const subject& s;
  std::unique_ptr<oriel::test::host_backend> backend = {};
};

token_lists serve(const subject& s, bool on_device, engine_options o, logits_observer* observer) {
  o.observer = observer;
  o.heal = false;
  o.kv = s.kv;
  std::optional<host_programs> programs;
  if (on_device) {
    o.make_runner = cuda_runners(s.uploaded, s.device);
  } else if (s.e4m3) {
    programs.emplace(host_programs{s});
    o.make_runner = [&](const runner_setup& setup) { return (*programs)(setup); };
  }
  serial_executor serial;
  const tokenizer tokens = no_text();
  engine::engine e(s.model, s.packed, tokens, o, serial);
  random_stream random(7, 130);
  for (std::uint64_t id = 0; id < s.requests; ++id) {
    request r;
    r.id = request_id{id};
    const std::uint32_t length = 1 + random.next_below(s.prompt_tokens_max);
    for (std::uint32_t i = 0; i < length; ++i) {
      r.prompt.push_back(token_id{random.next_below(s.model.vocabulary)});
    }
    r.max_new_tokens = s.new_tokens;
    r.sampling.temperature = 0.0f;
    REQUIRE(e.submit(std::move(r)));
  }
  token_lists found;
  while (!e.idle()) {
    for (const event& happened : e.step()) {
      if (happened.token) {
        found[static_cast<std::uint64_t>(happened.id)].push_back(*happened.token);
      }
    }
  }
  return found;
}

engine_options options_of(const model_geometry& m, drafter_kind drafter) {
  engine_options o{.page_tokens = 64,
                   .chunk_tokens = 128,
                   .sequences_max = 4,
                   .context_tokens = std::min(512u, m.context_tokens)};
  o.speculation.drafter = drafter;
  o.speculation.drafts_max = 3;
  return o;
}

void check(const subject& s) {
  // Of a logit, by the largest: bf16 has 8 bits. A row of e4m3 may round the other way by 2^-4 of a
  // number where sums differ in their last bits.
  const float tolerance = s.e4m3 ? 0x1p-5f : 0x1p-7f;
  margins clear;
  const engine_options plain = options_of(s.model, drafter_kind::none);
  const token_lists expected = serve(s, false, plain, &clear);
  const token_lists found = serve(s, true, plain, nullptr);
  REQUIRE(found.size() == expected.size());
  for (const auto& [id, tokens] : expected) {
    const std::vector<token_id>& other = found.at(id);
    REQUIRE(other.size() == tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (other[i] != tokens[i]) {
        INFO("request " << id << ", token " << i);
        CHECK(clear.of[id][i] <= 4 * tolerance);
        break;  // From here on they answer something else.
      }
    }
  }
  if (!s.model.mtp_layers.empty()) {
    CHECK(serve(s, true, options_of(s.model, drafter_kind::mtp), nullptr) == found);
  }
  CHECK(serve(s, true, options_of(s.model, drafter_kind::lookup), nullptr) == found);
}

}  // namespace

TEST_CASE("cuda engine: the family's shapes, on tensor cores") {
  check(random_subject(family_model(), 1));
}

TEST_CASE("cuda engine: another shape, by the generic attention unit") {
  model_geometry m = toy_geometry({0, 16, 16, 0}, true);
  m.hidden = 64;
  m.mtp_layers.assign(3, toy_geometry({16}, false).layers[0]);
  check(random_subject(std::move(m), 2));
}

TEST_CASE("cuda engine: the nano model") {
  const checkpoint opened = open_checkpoint(ORIEL_NANO_DIR);
  subject s{.model = opened.config.geometry, .packed = {}, .uploaded = {}};
  s.packed = load_weights(opened, {.compute = dtype::bf16});
  s.upload(load_weights(opened, {.compute = dtype::bf16, .form = weight_form::plain}));
  check(s);
}

namespace {

/// Few and short requests: references are slow.
subject e4m3_subject(model_geometry model, model_weights packed, model_weights e4m3) {
  subject s{.model = std::move(model),
            .packed = std::move(packed),
            .uploaded = {},
            .e4m3 = std::move(e4m3),
            .requests = 3,
            .prompt_tokens_max = 50,
            .new_tokens = 12};
  s.upload(*s.e4m3);
  REQUIRE(computes_in_e4m3(*s.uploaded));
  return s;
}

}  // namespace

TEST_CASE("cuda engine: the family's shapes in e4m3") {
  model_geometry m = family_model();
  oriel::test::e4m3_twins twins = oriel::test::random_e4m3_model(m, 3);
  subject s = e4m3_subject(std::move(m), std::move(twins.packed), std::move(twins.e4m3));
  check(s);
  s.kv = dtype::e4m3;  // K and V as well.
  check(s);
}

TEST_CASE("cuda engine: an FP8 checkpoint with fused QKV") {
  const checkpoint opened =
      open_checkpoint(std::filesystem::path(ORIEL_TEST_DIR) / "golden" / "fp8_fused");
  check(e4m3_subject(opened.config.geometry,
                     load_weights(opened),
                     load_weights(opened, {.form = weight_form::plain, .keeps_e4m3 = true})));
}
