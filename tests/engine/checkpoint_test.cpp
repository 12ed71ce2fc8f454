// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <engine/checkpoint.hpp>
#include <engine/error.hpp>
#include <engine/weight_loader.hpp>
#include <support/temporary_directory.hpp>
#include <support/tiny_checkpoint.hpp>

#include <cstring>
#include <random>
#include <string>

namespace checkpoint_test {

using namespace oriel;
using namespace oriel::engine;

namespace {

checkpoint opened(const tiny::checkpoint& c, const checkpoint_options& options = {}) {
  const temporary_directory folder;
  c.write(folder.path());
  return open_checkpoint(folder.path(), options);
}

/// The message of the error that opening ends in, or "".
std::string complaint(const tiny::checkpoint& c, const checkpoint_options& options = {}) {
  try {
    (void)opened(c, options);
  } catch (const error& e) {
    return e.what();
  }
  return "";
}

bool mentions(const std::string& text, const std::string& words) {
  INFO(text);
  CHECK(text.find(words) != std::string::npos);
  return text.find(words) != std::string::npos;
}

checkpoint_options with_shards(std::uint32_t shards) {
  return {.qkv_shards = shards};
}

/// Everything a bad file could change in the loaded weights, cheaply: sizes and a few bytes' sum.
std::uint64_t digest(const model_weights& w) {
  std::uint64_t sum = w.bytes();
  const auto add = [&](const aligned_bytes& bytes) {
    for (const std::byte b : bytes.span()) {
      sum = sum * 1099511628211u + static_cast<std::uint64_t>(b);
    }
  };
  add(w.embedding);
  add(w.lm_head.bytes);
  for (const layer_weights& layer : w.layers) {
    add(layer.attention.qkv.bytes);
    add(layer.attention.o.bytes);
    for (const float x : layer.attention.sinks) {
      sum = sum * 31 + std::bit_cast<std::uint32_t>(x);
    }
    if (const auto* const moe = std::get_if<moe_weights>(&layer.ffn)) {
      add(moe->router.bytes);
      add(moe->gate_up);
      add(moe->down);
    }
  }
  return sum;
}

}  // namespace

TEST_CASE("every golden checkpoint opens, all tensors accounted for") {
  for (const char* name : {"native_w4",
                           "native_w7_odd_rotary",
                           "native_w16_groups",
                           "native_w64_dense",
                           "native_w128",
                           "bf16_w8",
                           "bf16_w32",
                           "released_w5"}) {
    INFO(name);
    const checkpoint c = open_checkpoint(std::string(ORIEL_TEST_DIR "/golden/") + name);
    CHECK(c.warnings.empty());
    const model_weights w = load_weights(c);
    CHECK(w.layers.size() == c.config.geometry.layers.size());
    CHECK(w.compute == (std::string(name).starts_with("bf16") ? dtype::bf16 : dtype::f32));
  }
}

TEST_CASE("golden FP8: shapes that tell the shards are believed, others give a warning") {
  const std::string golden = ORIEL_TEST_DIR "/golden/";
  const checkpoint fused = open_checkpoint(golden + "fp8_fused");
  CHECK(fused.warnings.empty());
  CHECK(digest(load_weights(fused)) ==
        digest(load_weights(open_checkpoint(golden + "fp8_split_twin"))));
  for (const char* name : {"fp8_ambiguous", "fused_bf16"}) {
    const checkpoint c = open_checkpoint(golden + name);
    REQUIRE(c.warnings.size() == 1);
    mentions(c.warnings[0], "2 is assumed, and these fit every layer: 1, 2");
  }
  CHECK(open_checkpoint(golden + "pro_mtp").config.geometry.mtp_layers.size() > 0);
}

TEST_CASE("MTP blocks are counted from the tensors") {
  tiny::checkpoint c = tiny::make(dtype::bf16);
  CHECK(opened(c).config.geometry.mtp_layers.size() == 1);
  test_tensors main, mtp;
  for (const auto& [name, t] : c.tensors) {
    (name.starts_with("model.mtp.") ? mtp : main)[name] = t;
  }
  const temporary_directory folder;
  c.tensors = main;
  c.write(folder.path());
  CHECK(open_checkpoint(folder.path()).config.geometry.mtp_layers.empty());
  write_file(folder.path() / "model_mtp.safetensors", safetensors_bytes(mtp));
  CHECK(open_checkpoint(folder.path()).config.geometry.mtp_layers.size() == 1);
  c.tensors["model.mtp.layers.2.enorm.weight"] = mtp.at("model.mtp.layers.0.enorm.weight");
  mentions(complaint(c), "'model.mtp.layers.0.enorm.weight' is missing");
}

TEST_CASE("a generation_config.json beside the configuration adds end-of-text tokens") {
  const temporary_directory folder;
  tiny::checkpoint c = tiny::make(dtype::bf16);
  c.config = tiny::config_json(R"(, "eos_token_id": 3)");
  c.write(folder.path());
  write_file(folder.path() / "generation_config.json", R"({"eos_token_id": [5, 3]})");
  CHECK(open_checkpoint(folder.path()).config.eos_tokens == std::vector{token_id{3}, token_id{5}});
  write_file(folder.path() / "generation_config.json", "{");
  CHECK_THROWS_AS(open_checkpoint(folder.path()), error);
}

TEST_CASE("missing, extra and misshapen tensors are named") {
  const tiny::checkpoint good = tiny::make(dtype::bf16);
  tiny::checkpoint c = good;
  c.tensors.erase("model.layers.2.mlp.experts.3.up_proj.weight");
  mentions(complaint(c), "'model.layers.2.mlp.experts.3.up_proj.weight' is missing");

  c = good;
  c.tensors["model.layers.1.self_attn.q_norm.weight"] = {{1}, dtype::bf16, {0.0f}, {}};
  mentions(complaint(c),
           "'model.layers.1.self_attn.q_norm.weight' [1] of model.safetensors is not");

  c = good;
  c.tensors["model.norm.weight"] = {{2}, dtype::bf16, {0.0f, 0.0f}, {}};
  mentions(complaint(c), "'model.norm.weight' is [2], expected [160]");

  c = good;
  c.config = tiny::config_json(R"(, "add_full_attention_sink_bias": true)");
  mentions(complaint(c), "'model.layers.0.self_attn.attention_sink_bias' is missing");

  c = good;  // The wrong model: a few problems by name, the rest by number.
  c.tensors.clear();
  c.tensors["x"] = {{1}, dtype::bf16, {0.0f}, {}};
  mentions(complaint(c), "; and ");
}

TEST_CASE("types that are not supported are named") {
  const temporary_directory folder;
  const tiny::checkpoint c = tiny::make(dtype::bf16);
  c.write(folder.path());
  std::string file = safetensors_bytes(c.tensors);
  file.replace(file.find(R"("BF16")"), 6, R"("F16" )");
  write_file(folder.path() / "model.safetensors", file);
  CHECK_THROWS_WITH(open_checkpoint(folder.path()),
                    Catch::Contains("'lm_head.weight' is stored as F16"));

  tiny::checkpoint fp8 = tiny::make_fp8().fp8;
  fp8.config = tiny::config_json(R"(, "attention_projection_layout": "fused_qkv")");
  mentions(complaint(fp8), "is F8_E4M3, but config.json has no quantization_config");
}

TEST_CASE("a quantised matrix needs its scales, in f32 and in their shape") {
  const std::string name = "model.layers.0.mlp.up_proj.weight_scale_inv";
  tiny::checkpoint c = tiny::make_fp8().fp8;
  CHECK(complaint(c).empty());
  c.tensors.at(name).shape = {1, 4};
  mentions(complaint(c), "weight_scale_inv' is [1, 4], expected [2, 2]");
  c.tensors.at(name).shape = {2, 2};
  c.tensors.at(name).type = dtype::bf16;
  mentions(complaint(c), "'" + name + "' must be F32");
  c.tensors.erase(name);
  mentions(complaint(c), "'" + name + "' is missing");
}

TEST_CASE("shards of a fused QKV: decided, contradicted, or not told apart") {
  const tiny::checkpoint fp8 = tiny::make_fp8().fp8;
  CHECK(opened(fp8).warnings.empty());
  CHECK(opened(fp8, with_shards(2)).warnings.empty());
  mentions(complaint(fp8, with_shards(1)),
           "layers.0.self_attn.qkv_proj: 4 rows of scales, but 1 shards");
  mentions(complaint(fp8, with_shards(1)), "these fit every layer: 2");
  mentions(complaint(fp8, with_shards(4)), "do not divide 8 query and 2 KV heads");
  mentions(complaint(fp8, with_shards(0)), "0 shards");

  const tiny::checkpoint plain = tiny::with_fused_qkv(tiny::make(dtype::bf16), tiny::shards);
  REQUIRE(opened(plain).warnings.size() == 1);
  mentions(opened(plain).warnings[0], "layers.0.self_attn.qkv_proj: no shape tells");
  mentions(opened(plain).warnings[0], "2 is assumed");
  CHECK(opened(plain, with_shards(1)).warnings.empty());  // Asked for, so nothing is assumed.
  mentions(complaint(plain, with_shards(3)), "3 shards");
}

TEST_CASE("tied embeddings: the head is the embedding") {
  tiny::checkpoint c = tiny::make(dtype::bf16);
  c.tensors["lm_head.weight"] = c.tensors.at("model.embed_tokens.weight");
  const model_weights twice = load_weights(opened(c));
  c.tensors.erase("lm_head.weight");
  mentions(complaint(c), "'lm_head.weight' is missing");
  c.config = tiny::config_json(R"(, "tie_word_embeddings": true)");
  CHECK(digest(load_weights(opened(c))) == digest(twice));
}

TEST_CASE("the encoders of a multimodal checkpoint are left out with a warning") {
  tiny::checkpoint c = tiny::make(dtype::bf16);
  c.tensors["visual.blocks.0.norm.weight"] = {{1}, dtype::bf16, {0.0f}, {}};
  const checkpoint text = opened(c);
  REQUIRE(text.warnings.size() == 1);
  mentions(text.warnings[0], "1 tensors named visual.* are ignored");
}

TEST_CASE("a truncated file is refused, wherever it was cut") {
  const temporary_directory folder;
  const tiny::checkpoint c = tiny::make_fp8().fp8;
  c.write(folder.path());
  const std::string file = safetensors_bytes(c.tensors);
  constexpr unsigned seed = 20261120;
  std::mt19937 random(seed);
  for (int i = 0; i < 200; ++i) {
    // Half of the cuts in the header, which is a small part of the file.
    const std::size_t header = file.find('}', file.rfind("data_offsets")) + 2;
    const std::size_t size = random() % (i % 2 == 0 ? header : file.size());
    write_file(folder.path() / "model.safetensors", std::string_view(file).substr(0, size));
    INFO("seed " << seed << ", cut " << i << " at " << size);
    CHECK_THROWS_AS(open_checkpoint(folder.path()), error);
  }
}

TEST_CASE("a flipped header is refused, or changes nothing") {
  const temporary_directory folder;
  const tiny::checkpoint c = tiny::make(dtype::bf16);
  c.write(folder.path());
  const std::string file = safetensors_bytes(c.tensors);
  const std::uint64_t expected = digest(load_weights(open_checkpoint(folder.path())));
  const std::size_t header = file.find('}', file.rfind("data_offsets")) + 2;
  constexpr unsigned seed = 7;
  std::mt19937 random(seed);
  int refused = 0;
  for (int i = 0; i < 200; ++i) {
    std::string flipped = file;
    const std::size_t at = random() % header;
    const auto change = i % 2 == 0 ? 1u << random() % 8 : random() % 255 + 1;  // A bit, or any.
    flipped[at] = static_cast<char>(static_cast<unsigned char>(flipped[at]) ^ change);
    write_file(folder.path() / "model.safetensors", flipped);
    INFO("seed " << seed << ", flip " << i << " at byte " << at);
    try {
      const model_weights loaded = load_weights(open_checkpoint(folder.path()));
      CHECK(digest(loaded) == expected);
    } catch (const error&) {
      ++refused;
    }
  }
  CHECK(refused > 150);
}

TEST_CASE("a flipped or cut configuration ends in an error or in a model, never in a crash") {
  const temporary_directory folder;
  const tiny::checkpoint c = tiny::make_fp8().fp8;
  c.write(folder.path());
  constexpr unsigned seed = 11;
  std::mt19937 random(seed);
  int refused = 0;
  for (int i = 0; i < 400; ++i) {
    std::string config = c.config;
    const std::size_t at = random() % config.size();
    if (i % 4 == 0) {
      config.resize(at);
    } else {
      config[at] = static_cast<char>(config[at] ^ (1 << random() % 8));
    }
    write_file(folder.path() / "config.json", config);
    INFO("seed " << seed << ", change " << i << " at byte " << at);
    try {
      (void)open_checkpoint(folder.path());
    } catch (const error&) {
      ++refused;
    }
  }
  CHECK(refused > 200);
}

TEST_CASE("a checkpoint's digest tells weights and configurations apart") {
  const auto digest = [](const tiny::checkpoint& c) {
    const temporary_directory folder;
    c.write(folder.path());
    return checkpoint_digest(open_checkpoint(folder.path()));
  };
  const std::string first = digest(tiny::make(dtype::bf16));
  CHECK(first.size() == 32);
  CHECK(digest(tiny::make(dtype::bf16)) == first);
  CHECK(digest(tiny::make(dtype::bf16, 2)) != first);
  CHECK(digest(tiny::make(dtype::f32)) != first);
  tiny::checkpoint other = tiny::make(dtype::bf16);
  other.config = tiny::config_json(R"(, "rms_norm_note": 1)");
  CHECK(digest(other) != first);
}

}  // namespace checkpoint_test
