// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <engine/config_json.hpp>
#include <engine/error.hpp>

#include <map>
#include <string>
#include <string_view>

namespace config_test {

using namespace oriel;
using namespace oriel::engine;

namespace {

/// The keys of V2.5-Pro as released, with three layers.
std::map<std::string, std::string> released_keys() {
  return {{"model_type", R"("mimo_v2")"},
          {"hidden_size", "6144"},
          {"vocab_size", "152576"},
          {"max_position_embeddings", "1048576"},
          {"num_hidden_layers", "3"},
          {"hybrid_layer_pattern", "[0, 1, 1]"},
          {"moe_layer_freq", "[0, 1, 1]"},
          {"num_attention_heads", "128"},
          {"num_key_value_heads", "8"},
          {"head_dim", "192"},
          {"v_head_dim", "128"},
          {"swa_num_attention_heads", "128"},
          {"swa_num_key_value_heads", "8"},
          {"swa_head_dim", "192"},
          {"swa_v_head_dim", "128"},
          {"rope_theta", "10000000"},
          {"swa_rope_theta", "10000"},
          {"partial_rotary_factor", "0.334"},
          {"sliding_window", "128"},
          {"sliding_window_size", "128"},
          {"attention_value_scale", "0.612"},
          {"add_swa_attention_sink_bias", "true"},
          {"add_full_attention_sink_bias", "false"},
          {"attention_projection_layout", R"("fused_qkv")"},
          {"intermediate_size", "16384"},
          {"moe_intermediate_size", "2048"},
          {"n_routed_experts", "384"},
          {"num_experts_per_tok", "8"},
          {"n_group", "1"},
          {"topk_group", "1"},
          {"n_shared_experts", "null"},
          {"norm_topk_prob", "true"},
          {"routed_scaling_factor", "null"},
          {"scoring_func", R"("sigmoid")"},
          {"topk_method", R"("noaux_tc")"},
          {"hidden_act", R"("silu")"},
          {"attention_bias", "false"},
          {"layernorm_epsilon", "1e-05"},
          {"tie_word_embeddings", "false"},
          {"torch_dtype", R"("bfloat16")"},
          {"eos_token_id", "151645"},
          {"quantization_config",
           R"({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
               "weight_block_size": [128, 128], "ignored_layers": ["a"]})"}};
}

/// What transformers writes for mimo_v2_flash: no swa_* keys, rope by layer type.
std::map<std::string, std::string> transformers_keys() {
  return {{"model_type", R"("mimo_v2_flash")"},
          {"hidden_size", "64"},
          {"vocab_size", "100"},
          {"max_position_embeddings", "512"},
          {"num_hidden_layers", "3"},
          {"layer_types", R"(["full_attention", "sliding_attention", "full_attention"])"},
          {"mlp_layer_types", R"(["dense", "sparse", "dense"])"},
          {"num_attention_heads", "8"},
          {"num_key_value_heads", "2"},
          {"head_dim", "10"},
          {"v_head_dim", "6"},
          {"rope_parameters",
           R"({"full_attention": {"rope_type": "default", "rope_theta": 5e6,
                                  "partial_rotary_factor": 0.75},
               "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})"},
          {"sliding_window", "32"},
          {"attention_value_scale", "null"},
          {"intermediate_size", "96"},
          {"moe_intermediate_size", "16"},
          {"n_routed_experts", "12"},
          {"num_experts_per_tok", "3"},
          {"n_group", "4"},
          {"topk_group", "2"},
          {"norm_topk_prob", "false"},
          {"routed_scaling_factor", "1.5"},
          {"rms_norm_eps", "1e-06"},
          {"dtype", R"("float32")"},
          {"eos_token_id", "[7, 9, 200]"}};
}

std::string json(const std::map<std::string, std::string>& keys) {
  std::string text;
  for (const auto& [key, value] : keys) {
    text += (text.empty() ? "{\"" : ",\"") + key + "\":" + value;
  }
  return text + "}";
}

model_config parsed(const std::map<std::string, std::string>& keys) {
  return parse_config(json(keys), "config.json");
}

/// The message of the error that parsing ends in, or "".
std::string complaint(std::string_view text) {
  try {
    (void)parse_config(text, "config.json");
  } catch (const error& e) {
    return e.what();
  }
  return "";
}

using keys_of = std::map<std::string, std::string> (*)();

struct flaw {
  keys_of keys;
  const char* key;
  const char* value;  ///< null: the key is taken away
  const char* words;
};

}  // namespace

TEST_CASE("released keys give the geometry of MiMo-V2.5-Pro") {
  const model_config c = parsed(released_keys());
  const model_geometry& g = c.geometry;
  CHECK(g.hidden == 6144);
  CHECK(g.context_tokens == 1048576);
  CHECK(g.full_layers() == 1);
  CHECK(g.window_layers() == 2);
  CHECK(g.rms_eps == 1e-5);
  CHECK(g.attention_value_scale == 0.612);
  CHECK(g.routed_scaling_factor == 1.0);
  CHECK_FALSE(g.layers[0].ffn.is_moe());
  CHECK(g.layers[1].ffn == ffn_geometry{.intermediate = 2048, .experts = 384, .top_k = 8});
  const attention_geometry window{.kind = attention_kind::window,
                                  .window_tokens = 128,
                                  .q_heads = 128,
                                  .kv_heads = 8,
                                  .head_dim_qk = 192,
                                  .head_dim_vo = 128,
                                  .rotary_dims = 64,
                                  .rope_base_dims = 64,
                                  .rope_theta = 1e4,
                                  .has_sink = true};
  CHECK(g.layers[2].attention == window);
  CHECK(g.layers[0].attention.rope_theta == 1e7);
  CHECK_FALSE(g.layers[0].attention.has_sink);
  REQUIRE(c.mtp_block);
  CHECK(c.mtp_block->attention == window);
  CHECK(c.mtp_block->ffn.intermediate == 16384);
  CHECK(c.fused_qkv);
  CHECK(c.qkv_shards == 8);
  CHECK(c.quantization == weight_quantization::fp8_block);
  CHECK(c.eos_tokens == std::vector{token_id{151645}});
}

TEST_CASE("transformers' keys: doubled KV heads, rope by layer type, odd rotary dims") {
  const model_config c = parsed(transformers_keys());
  const model_geometry& g = c.geometry;
  CHECK(g.layers[0].attention.kv_heads == 2);
  CHECK(g.layers[1].attention.kv_heads == 4);
  CHECK(g.layers[1].attention.has_sink);
  CHECK(g.layers[0].attention.rope_base_dims == 7);  // int(10 * 0.75)
  CHECK(g.layers[0].attention.rotary_dims == 8);
  CHECK(g.layers[1].attention.rope_base_dims == 3);  // int(10 * 0.334)
  CHECK(g.layers[1].attention.rope_theta == 1e4);
  CHECK(g.layers[1].attention.window_tokens == 32);
  CHECK(g.attention_value_scale == 1.0);
  CHECK(g.expert_groups == 4);
  CHECK(g.expert_groups_kept == 2);
  CHECK_FALSE(g.norm_topk_prob);
  CHECK_FALSE(c.fused_qkv);
  CHECK(c.eos_tokens == std::vector{token_id{7}, token_id{9}});  // 200 is beyond the vocabulary.
}

TEST_CASE("the window counts the query, whichever key states it") {
  auto keys = released_keys();
  keys["sliding_window_size"] = "127";
  CHECK(parsed(keys).geometry.layers[1].attention.window_tokens == 128);
  keys.erase("sliding_window");
  CHECK(parsed(keys).geometry.layers[1].attention.window_tokens == 127);
}

TEST_CASE("one flat rope_parameters object speaks for the full layers") {
  auto keys = released_keys();
  keys.erase("rope_theta");
  keys.erase("partial_rotary_factor");
  keys["rope_parameters"] =
      R"({"rope_type": "default", "rope_theta": 3e6, "partial_rotary_factor": 0.5})";
  const model_geometry g = parsed(keys).geometry;
  CHECK(g.layers[0].attention.rope_theta == 3e6);
  CHECK(g.layers[1].attention.rope_theta == 1e4);
  CHECK(g.layers[1].attention.rotary_dims == 96);
}

TEST_CASE("what would change the arithmetic is refused, with file and key") {
  const flaw flaws[] = {
      {released_keys, "model_type", R"("llama")", "model_type"},
      {released_keys, "hidden_act", R"("gelu")", "hidden_act"},
      {released_keys, "scoring_func", R"("softmax")", "scoring_func"},
      {released_keys, "attention_bias", "true", "attention_bias"},
      {released_keys, "n_shared_experts", "1", "n_shared_experts"},
      {released_keys, "moe_router_dtype", R"("bfloat16")", "moe_router_dtype"},
      {released_keys, "rope_scaling", R"({"type": "yarn", "factor": 4})", "rope_scaling.type"},
      {released_keys, "hidden_size", nullptr, "hidden_size: this key is missing"},
      {released_keys, "hidden_size", "0", "between 1 and"},
      {released_keys, "hidden_size", "1e3", "hidden_size"},
      {released_keys, "hidden_size", "4294967297", "hidden_size"},
      {released_keys, "num_hidden_layers", "4", "hybrid_layer_pattern: expected a list of 4"},
      {released_keys, "hybrid_layer_pattern", "[0, 2, 1]", "hybrid_layer_pattern"},
      {released_keys, "hybrid_layer_pattern", nullptr, "hybrid_layer_pattern"},
      {released_keys,
       "layer_types",
       R"(["full_attention","full_attention","full_attention"])",
       "contradicts hybrid_layer_pattern at layer 1"},
      {released_keys, "num_key_value_heads", "7", "kv_heads must divide"},
      {released_keys, "swa_rope_theta", nullptr, "swa_rope_theta"},
      {released_keys, "partial_rotary_factor", "1.5", "partial_rotary_factor"},
      {released_keys, "partial_rotary_factor", nullptr, "partial_rotary_factor"},
      {released_keys, "rms_norm_eps", "1e-6", "contradicts rms_norm_eps"},
      {released_keys, "attention_value_scale", nullptr, "attention_value_scale"},
      {released_keys, "attention_projection_layout", R"("odd")", "attention_projection_layout"},
      {released_keys, "num_experts_per_tok", "385", "top_k"},
      {released_keys, "torch_dtype", R"("float16")", "torch_dtype"},
      {released_keys, "quantization_config", R"({"quant_method": "awq"})", "quant_method"},
      {released_keys, "quantization_config", R"({"quant_method": "fp8"})", "weight_block_size"},
      {released_keys,
       "quantization_config",
       R"({"quant_method": "fp8", "weight_block_size": [64, 128]})",
       "weight_block_size"},
      {released_keys,
       "quantization_config",
       R"({"quant_method": "fp8", "weight_block_size": [128, 128], "store_dtype": "mxfp4"})",
       "store_dtype"},
      {transformers_keys,
       "rope_parameters",
       R"({"full_attention": {"rope_type": "yarn", "rope_theta": 1e6},
           "sliding_attention": {"rope_theta": 1e4}})",
       "rope_parameters.full_attention.rope_type"},
      {transformers_keys,
       "rope_parameters",
       R"({"full_attention": {"rope_theta": 1e6}})",
       "rope_parameters.sliding_attention: this key is missing"},
      {transformers_keys, "rope_theta", "12", "rope_theta: contradicts rope_parameters"},
      {transformers_keys, "sliding_window", nullptr, "sliding_window"},
      {transformers_keys, "eos_token_id", R"("x")", "eos_token_id"},
  };
  for (const flaw& f : flaws) {
    auto keys = f.keys();
    if (f.value != nullptr) {
      keys[f.key] = f.value;
    } else {
      keys.erase(f.key);
    }
    const std::string words = complaint(json(keys));
    INFO(f.key << " -> " << (f.value != nullptr ? f.value : "absent") << ": " << words);
    CHECK(words.starts_with("config.json: "));
    CHECK(words.find(f.words) != std::string::npos);
  }
}

TEST_CASE("text that is no configuration is refused") {
  CHECK(complaint("").find("not valid JSON") != std::string::npos);
  CHECK(complaint("[1]").find("expected a JSON object") != std::string::npos);
  CHECK(complaint(json(released_keys()).substr(0, 200)).find("not valid JSON") !=
        std::string::npos);
  CHECK(complaint(R"({"model_type": "mimo_v2", "model_type": "mimo_v2"})").find("twice") !=
        std::string::npos);
  CHECK(complaint(R"({"model_type": 3})").find("expected a string") != std::string::npos);
}

TEST_CASE("the configurations of the golden checkpoints are read") {
  const std::string golden = ORIEL_TEST_DIR "/golden/";
  CHECK(read_config(golden + "native_w128/config.json").geometry.window_layers() == 1);
  CHECK(read_config(golden + "released_w5/config.json").geometry.layers[1].attention.kv_heads == 2);
  const model_geometry odd = read_config(golden + "native_w7_odd_rotary/config.json").geometry;
  CHECK(odd.layers[0].attention.rope_base_dims == 7);
  CHECK(odd.layers[1].attention.rope_base_dims == 3);
  CHECK_THROWS_AS(read_config(golden + "nowhere/config.json"), error);
}

}  // namespace config_test
