// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/config_json.hpp>
#include <engine/config_json_fields.hpp>
#include <engine/file_bytes.hpp>
#include <engine/printable.hpp>

#include <algorithm>
#include <string>
#include <utility>

namespace oriel::engine {
namespace {

constexpr double number_max = 1e30;

/// `fields` and what was decided from them on the way.
struct config_reader {
  const config_fields& fields;
  const config_limits& limits;
  bool transformers_defaults;  ///< model_type mimo_v2_flash: absent keys have documented defaults

  void refuse_unsupported() const;
  std::vector<attention_kind> layer_kinds(std::uint32_t layers) const;
  std::vector<bool> moe_layers(std::uint32_t layers) const;
  std::pair<double, double> rope(attention_kind kind) const;
  attention_geometry attention(attention_kind kind) const;
  std::uint32_t window_tokens() const;
  ffn_geometry dense_ffn() const;
  ffn_geometry moe_ffn() const;
  weight_quantization quantization() const;
  bool fused_qkv() const;
  void require_known_dtype() const;
  void scalars(model_geometry& g) const;
};

/// A key whose other values ask for arithmetic that Oriel does not do.
void require_text(const config_fields& fields, const char* key, const char* supported) {
  const auto text = fields.try_text(key);
  if (text && *text != supported) {
    fields.refuse(key, fmt::format("{} is not supported, only '{}'", printable(*text), supported));
  }
}

void require_default_rope(const config_fields& rope) {
  require_text(rope, "rope_type", "default");
  require_text(rope, "type", "default");
}

void config_reader::refuse_unsupported() const {
  require_text(fields, "hidden_act", "silu");
  require_text(fields, "scoring_func", "sigmoid");
  require_text(fields, "topk_method", "noaux_tc");
  require_text(fields, "moe_router_dtype", "float32");
  for (const char* key : {"attention_bias", "mlp_bias", "use_qk_norm", "attention_output_gate"}) {
    if (fields.flag(key, false)) {
      fields.refuse(key, "true is not supported");
    }
  }
  if (fields.try_count("n_shared_experts", 0, limits.experts).value_or(0) != 0) {
    fields.refuse("n_shared_experts", "shared experts are not supported");
  }
  for (const char* key : {"final_logit_softcapping", "attn_logit_softcapping"}) {
    if (fields.has(key)) {
      fields.refuse(key, "soft-capping is not supported");
    }
  }
  if (const auto scaling = fields.try_object("rope_scaling")) {
    require_default_rope(*scaling);
  }
}

std::vector<attention_kind> config_reader::layer_kinds(std::uint32_t layers) const {
  const auto pattern = fields.try_counts("hybrid_layer_pattern", layers, 1);
  const auto types = fields.try_texts("layer_types", layers);
  if (!pattern && !types && !transformers_defaults) {
    fields.refuse("hybrid_layer_pattern", "this key (or layer_types) is missing");
  }
  std::vector<attention_kind> kinds;
  for (std::uint32_t i = 0; i < layers; ++i) {
    bool window = i != 0 && (i + 1) % 6 != 0;  // transformers' default: every sixth layer is full.
    if (types) {
      window = (*types)[i] == "sliding_attention";
      if (!window && (*types)[i] != "full_attention") {
        fields.refuse("layer_types", "expected 'full_attention' or 'sliding_attention'");
      }
    }
    if (pattern) {
      if (types && window != ((*pattern)[i] == 1)) {
        fields.refuse("layer_types",
                      fmt::format("contradicts hybrid_layer_pattern at layer {}", i));
      }
      window = (*pattern)[i] == 1;
    }
    kinds.push_back(window ? attention_kind::window : attention_kind::full);
  }
  return kinds;
}

std::vector<bool> config_reader::moe_layers(std::uint32_t layers) const {
  const auto pattern = fields.try_counts("moe_layer_freq", layers, 1);
  const auto types = fields.try_texts("mlp_layer_types", layers);
  if (!pattern && !types && !transformers_defaults) {
    fields.refuse("moe_layer_freq", "this key (or mlp_layer_types) is missing");
  }
  std::vector<bool> moe;
  for (std::uint32_t i = 0; i < layers; ++i) {
    bool sparse = i != 0;  // transformers' default: the first layer alone is dense.
    if (types) {
      sparse = (*types)[i] == "sparse";
      if (!sparse && (*types)[i] != "dense") {
        fields.refuse("mlp_layer_types", "expected 'dense' or 'sparse'");
      }
    }
    if (pattern) {
      if (types && sparse != ((*pattern)[i] == 1)) {
        fields.refuse("mlp_layer_types", fmt::format("contradicts moe_layer_freq at layer {}", i));
      }
      sparse = (*pattern)[i] == 1;
    }
    moe.push_back(sparse);
  }
  return moe;
}

/// Theta and the share of a head that rotates. Three spellings: flat released keys, one
/// rope_parameters object for the full layers, or one per layer type.
std::pair<double, double> config_reader::rope(attention_kind kind) const {
  const bool full = kind == attention_kind::full;
  const char* const flat_key = full ? "rope_theta" : "swa_rope_theta";
  const auto flat_theta = fields.try_number(flat_key, 1e-3, number_max);
  const auto flat_share = fields.try_number("partial_rotary_factor", 0.0, 1.0);
  const auto parameters = fields.try_object("rope_parameters");
  if (!parameters) {
    if (transformers_defaults && !fields.has("rope_theta") && !fields.has("swa_rope_theta")) {
      return {full ? 5e6 : 1e4, flat_share.value_or(0.334)};
    }
    return {fields.number(flat_key, 1e-3, number_max),
            fields.number("partial_rotary_factor", 0.0, 1.0)};
  }
  const bool per_type = parameters->has("full_attention") || parameters->has("sliding_attention");
  if (!per_type && !full) {
    return {fields.number(flat_key, 1e-3, number_max),
            flat_share ? *flat_share : parameters->number("partial_rotary_factor", 0.0, 1.0)};
  }
  const char* const type = full ? "full_attention" : "sliding_attention";
  const auto own = per_type ? parameters->try_object(type) : parameters;
  if (!own) {
    parameters->refuse(type, "this key is missing");
  }
  require_default_rope(*own);
  const double theta = own->number("rope_theta", 1e-3, number_max);
  const auto own_share = own->try_number("partial_rotary_factor", 0.0, 1.0);
  if (flat_theta.value_or(theta) != theta) {
    fields.refuse(flat_key, "contradicts rope_parameters");
  }
  if (own_share && flat_share.value_or(*own_share) != *own_share) {
    fields.refuse("partial_rotary_factor", "contradicts rope_parameters");
  }
  return {theta, own_share.value_or(flat_share.value_or(0.334))};
}

std::uint32_t config_reader::window_tokens() const {
  const auto window = fields.try_count("sliding_window", 1, limits.context_tokens);
  const auto size = fields.try_count("sliding_window_size", 1, limits.context_tokens);
  if (!window && !size) {
    fields.refuse("sliding_window", "this key is missing");
  }
  return window ? *window : *size;
}

attention_geometry config_reader::attention(attention_kind kind) const {
  const auto limited = [&](const char* key, std::uint32_t max) {
    return fields.try_count(key, 1, max);
  };
  attention_geometry a;
  a.kind = kind;
  a.q_heads = fields.count("num_attention_heads", limits.heads);
  a.kv_heads = fields.count("num_key_value_heads", limits.heads);
  a.head_dim_qk = fields.count("head_dim", limits.head_dim);
  a.head_dim_vo = fields.count("v_head_dim", limits.head_dim);
  if (kind == attention_kind::window) {
    a.window_tokens = window_tokens();
    a.q_heads = limited("swa_num_attention_heads", limits.heads).value_or(a.q_heads);
    // transformers has no key for it and doubles the heads; k_proj's rows will confirm or object.
    a.kv_heads = limited("swa_num_key_value_heads", limits.heads).value_or(2 * a.kv_heads);
    a.head_dim_qk = limited("swa_head_dim", limits.head_dim).value_or(a.head_dim_qk);
    a.head_dim_vo = limited("swa_v_head_dim", limits.head_dim).value_or(a.head_dim_vo);
    a.has_sink = fields.flag("add_swa_attention_sink_bias", true);
  } else {
    a.has_sink = fields.flag("add_full_attention_sink_bias", false);
  }
  const auto [theta, share] = rope(kind);
  a.rope_theta = theta;
  a.rope_base_dims = static_cast<std::uint32_t>(a.head_dim_qk * share);
  a.rotary_dims = a.rope_base_dims + a.rope_base_dims % 2;
  return a;
}

ffn_geometry config_reader::dense_ffn() const {
  return {.intermediate = fields.count("intermediate_size", limits.intermediate)};
}

ffn_geometry config_reader::moe_ffn() const {
  const char* const experts =
      fields.has("n_routed_experts") ? "n_routed_experts" : "num_local_experts";
  return {.intermediate = fields.count("moe_intermediate_size", limits.intermediate),
          .experts = fields.count(experts, limits.experts),
          .top_k = fields.count("num_experts_per_tok", limits.experts)};
}

weight_quantization config_reader::quantization() const {
  const auto q = fields.try_object("quantization_config");
  if (!q) {
    return weight_quantization::none;
  }
  if (!q->has("quant_method")) {
    q->refuse("quant_method", "this key is missing");
  }
  require_text(*q, "quant_method", "fp8");
  require_text(*q, "fmt", "e4m3");
  require_text(*q, "activation_scheme", "dynamic");
  if (q->has("store_dtype")) {
    q->refuse("store_dtype", "weights stored in another type than e4m3 are not supported");
  }
  const auto block = q->try_counts("weight_block_size", 2, 1u << 20);
  if (!block || (*block)[0] != 128 || (*block)[1] != 128) {
    q->refuse("weight_block_size", "expected [128, 128]");
  }
  return weight_quantization::fp8_block;
}

bool config_reader::fused_qkv() const {
  const auto layout = fields.try_text("attention_projection_layout");
  if (layout && *layout != "split" && *layout != "fused_qkv") {
    fields.refuse("attention_projection_layout", "expected 'split' or 'fused_qkv'");
  }
  return layout && *layout == "fused_qkv";
}

/// Each tensor states its own type; this one is only refused early.
void config_reader::require_known_dtype() const {
  const char* const key = fields.has("dtype") ? "dtype" : "torch_dtype";
  const auto name = fields.try_text(key);
  if (name && *name != "float32" && *name != "bfloat16") {
    fields.refuse(key, printable(*name) + " is not supported, only 'float32' and 'bfloat16'");
  }
}

void config_reader::scalars(model_geometry& g) const {
  g.hidden = fields.count("hidden_size", limits.hidden);
  g.vocabulary = fields.count("vocab_size", limits.vocabulary);
  g.context_tokens = fields.count("max_position_embeddings", limits.context_tokens);
  const auto released_eps = fields.try_number("layernorm_epsilon", 0.0, 1.0);
  const auto eps = fields.try_number("rms_norm_eps", 0.0, 1.0);
  if (!eps && !released_eps) {
    fields.refuse("layernorm_epsilon", "this key (or rms_norm_eps) is missing");
  }
  if (eps && released_eps && *eps != *released_eps) {
    fields.refuse("layernorm_epsilon", "contradicts rms_norm_eps");
  }
  g.rms_eps = eps ? *eps : *released_eps;
  if (!fields.states("attention_value_scale")) {
    fields.refuse("attention_value_scale", "this key is missing; null means 1");
  }
  constexpr double max = 1e6;
  g.attention_value_scale = fields.try_number("attention_value_scale", -max, max).value_or(1.0);
  g.routed_scaling_factor = fields.try_number("routed_scaling_factor", -max, max).value_or(1.0);
  g.norm_topk_prob = fields.flag("norm_topk_prob", true);
  g.expert_groups = fields.try_count("n_group", 1, limits.experts).value_or(1);
  g.expert_groups_kept = fields.try_count("topk_group", 1, limits.experts).value_or(1);
  g.tied_embeddings = fields.flag("tie_word_embeddings", false);
}

/// An id beyond the vocabulary can never come up, so it is dropped: small models cut from large
/// ones often keep the large one's.
void add_eos_tokens(model_config& config,
                    const config_fields& fields,
                    const config_limits& limits) {
  for (const std::uint32_t n :
       fields.one_or_more("eos_token_id", limits.eos_tokens, 0xFFFF'FFFFu)) {
    const token_id id{n};
    std::vector<token_id>& known = config.eos_tokens;
    if (n < config.geometry.vocabulary &&
        std::find(known.begin(), known.end(), id) == known.end()) {
      known.push_back(id);
    }
  }
}

model_config read(const config_fields& fields, const config_limits& limits) {
  const std::string type = fields.try_text("model_type").value_or("");
  if (type != "mimo_v2_flash" && type != "mimo_v2") {
    fields.refuse("model_type", "expected 'mimo_v2_flash' or 'mimo_v2', not " + printable(type));
  }
  const config_reader reader{fields, limits, type == "mimo_v2_flash"};
  reader.refuse_unsupported();

  model_config config;
  config.geometry.name = type;
  reader.scalars(config.geometry);
  const std::uint32_t layers = fields.count("num_hidden_layers", limits.layers);
  const std::vector<attention_kind> kinds = reader.layer_kinds(layers);
  const std::vector<bool> moe = reader.moe_layers(layers);
  const auto there = [&](attention_kind k) {
    return std::count(kinds.begin(), kinds.end(), k) != 0;
  };
  const bool any_moe = std::count(moe.begin(), moe.end(), true) != 0;
  const attention_geometry full =
      there(attention_kind::full) ? reader.attention(attention_kind::full) : attention_geometry{};
  const attention_geometry window = there(attention_kind::window)
                                        ? reader.attention(attention_kind::window)
                                        : attention_geometry{};
  const ffn_geometry dense = reader.dense_ffn(), sparse = any_moe ? reader.moe_ffn() : dense;
  for (std::uint32_t i = 0; i < layers; ++i) {
    config.geometry.layers.push_back(
        {kinds[i] == attention_kind::full ? full : window, moe[i] ? sparse : dense});
  }
  if (there(attention_kind::window)) {
    config.mtp_block = layer_geometry{window, dense};
  }
  config.fused_qkv = reader.fused_qkv();
  config.qkv_shards = fields.count("num_key_value_heads", limits.heads);
  config.quantization = reader.quantization();
  reader.require_known_dtype();
  add_eos_tokens(config, fields, limits);
  return config;
}

/// `parser` owns what the object refers to.
simdjson::dom::object parse_object(simdjson::dom::parser& parser,
                                   std::string_view json,
                                   std::string_view where) {
  simdjson::dom::element root;
  if (const auto failed = parser.parse(json.data(), json.size()).get(root)) {
    throw error(fmt::format("{}: not valid JSON: {}", where, simdjson::error_message(failed)));
  }
  simdjson::dom::object object;
  if (root.get(object) != simdjson::SUCCESS) {
    throw error(fmt::format("{}: expected a JSON object", where));
  }
  return object;
}

}  // namespace

model_config parse_config(std::string_view json,
                          std::string_view where,
                          const config_limits& limits) {
  simdjson::dom::parser parser;
  const config_fields fields(parse_object(parser, json, where), std::string(where), "");
  model_config config = read(fields, limits);
  if (const auto problem = problem_in(config.geometry)) {
    throw error(fmt::format("{}: {}", where, *problem));
  }
  return config;
}

model_config read_config(const std::filesystem::path& file, const config_limits& limits) {
  return parse_config(read_file(file, limits.file_bytes), file.string(), limits);
}

void add_generation_config(model_config& config,
                           const std::filesystem::path& file,
                           const config_limits& limits) {
  simdjson::dom::parser parser;
  const std::string text = read_file(file, limits.file_bytes);
  const std::string where = file.string();
  add_eos_tokens(config, config_fields(parse_object(parser, text, where), where, ""), limits);
}

}  // namespace oriel::engine
