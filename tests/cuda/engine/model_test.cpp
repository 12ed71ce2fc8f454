// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Whole models on a device, through the engine: the host engine's greedy tokens wherever its choice
// is clear, and the same tokens whether or not drafts are verified.
#include "support/no_text.hpp"
#include "support/toy_geometry.hpp"

#include <oriel/core/executor.hpp>
#include <oriel/core/random.hpp>

#include <catch2/catch.hpp>
#include <engine/checkpoint.hpp>
#include <engine/engine.hpp>
#include <engine/weight_loader.hpp>
#include <engine_cuda/cuda_runner.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
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

token_lists serve(const subject& s, bool on_device, engine_options o, logits_observer* observer) {
  o.observer = observer;
  o.heal = false;
  if (on_device) {
    o.make_runner = cuda_runners(s.uploaded, s.device);
  }
  serial_executor serial;
  const tokenizer tokens = no_text();
  engine::engine e(s.model, s.packed, tokens, o, serial);
  random_stream random(7, 130);
  for (std::uint64_t id = 0; id < 6; ++id) {
    request r;
    r.id = request_id{id};
    const std::uint32_t length = 1 + random.next_below(300);
    for (std::uint32_t i = 0; i < length; ++i) {
      r.prompt.push_back(token_id{random.next_below(s.model.vocabulary)});
    }
    r.max_new_tokens = 40;
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
  constexpr float tolerance = 0x1p-7f;  // Of a logit, by the largest: bf16 has 8 bits.
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
