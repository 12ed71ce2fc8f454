// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/model/geometry.hpp>

#include <catch2/catch.hpp>

#include <functional>

namespace geometry_test {

using namespace oriel;

namespace {

model_geometry small_model() {
  model_geometry m;
  m.name = "small";
  m.hidden = 64;
  m.vocabulary = 100;
  m.context_tokens = 512;
  const attention_geometry full{.kind = attention_kind::full,
                                .q_heads = 8,
                                .kv_heads = 1,
                                .head_dim_qk = 24,
                                .head_dim_vo = 16,
                                .rotary_dims = 8,
                                .rope_base_dims = 8,
                                .rope_theta = 1e6};
  attention_geometry window = full;
  window.kind = attention_kind::window;
  window.window_tokens = 32;
  window.kv_heads = 2;
  window.has_sink = true;
  const ffn_geometry dense{.intermediate = 128}, moe{.intermediate = 32, .experts = 8, .top_k = 2};
  m.layers = {{full, dense}, {window, moe}, {window, moe}};
  m.mtp_layers = {{window, dense}};
  return m;
}

}  // namespace

TEST_CASE("a geometry counts its layers by kind, MTP blocks apart") {
  const model_geometry m = small_model();
  CHECK(m.full_layers() == 1);
  CHECK(m.window_layers() == 2);
  CHECK(kv_bytes_per_token(m.layers[0].attention, dtype::bf16) == 1 * (24 + 16) * 2);
  CHECK(kv_bytes_per_token(m.layers[1].attention, dtype::f32) == 2 * (24 + 16) * 4);
  CHECK(kv_bytes_per_token(m.layers[1].attention, dtype::e4m3) == 2 * (24 + 16 + 2 * 4));
  CHECK_FALSE(problem_in(m));
}

TEST_CASE("problem_in names the layer and what is wrong with it") {
  struct flaw {
    const char* words;
    std::function<void(model_geometry&)> make;
  };
  const flaw flaws[] = {
      {"at least one layer", [](auto& m) { m.layers.clear(); }},
      {"vocabulary", [](auto& m) { m.vocabulary = 0; }},
      {"rms_eps", [](auto& m) { m.rms_eps = 0.0; }},
      {"layer 1: kv_heads must divide", [](auto& m) { m.layers[1].attention.kv_heads = 3; }},
      {"layer 0: window_tokens", [](auto& m) { m.layers[0].attention.window_tokens = 4; }},
      {"layer 2: window_tokens", [](auto& m) { m.layers[2].attention.window_tokens = 0; }},
      {"layer 0: rotary_dims", [](auto& m) { m.layers[0].attention.rotary_dims = 26; }},
      {"layer 0: rope_base_dims", [](auto& m) { m.layers[0].attention.rope_base_dims = 6; }},
      {"layer 0: rope_theta", [](auto& m) { m.layers[0].attention.rope_theta = 0.0; }},
      {"layer 1: top_k", [](auto& m) { m.layers[1].ffn.top_k = 9; }},
      {"layer 0: a dense FFN", [](auto& m) { m.layers[0].ffn.top_k = 1; }},
      {"layer 1: expert_groups", [](auto& m) { m.expert_groups = 3; }},
      {"layer 1: an expert group", [](auto& m) { m.expert_groups = 8; }},
      {"MTP layer 0: head dims", [](auto& m) { m.mtp_layers[0].attention.head_dim_vo = 0; }},
  };
  for (const flaw& f : flaws) {
    model_geometry m = small_model();
    f.make(m);
    const auto problem = problem_in(m);
    INFO(f.words);
    REQUIRE(problem);
    CHECK(problem->find(f.words) != std::string::npos);
  }
}

}  // namespace geometry_test
