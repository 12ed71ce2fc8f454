// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/moe_gemm.hpp>

#include <catch2/catch.hpp>
#include <engine/error.hpp>
#include <engine/weight_loader.hpp>
#include <support/temporary_directory.hpp>
#include <support/tiny_checkpoint.hpp>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace weights_test {

using namespace oriel;
using namespace oriel::engine;

namespace {

model_weights loaded(const tiny::checkpoint& c, const load_options& options = {}) {
  const temporary_directory folder;
  c.write(folder.path());
  return load_weights(open_checkpoint(folder.path()), options);
}

bool same(const aligned_bytes& a, const aligned_bytes& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

bool same(const packed_matrix& a, const packed_matrix& b) {
  return a.shape.n == b.shape.n && a.shape.k == b.shape.k && a.shape.weights == b.shape.weights &&
         same(a.bytes, b.bytes);
}

bool same(const layer_weights& a, const layer_weights& b) {
  if (a.input_norm != b.input_norm || a.post_attention_norm != b.post_attention_norm ||
      !same(a.attention.qkv, b.attention.qkv) || !same(a.attention.o, b.attention.o) ||
      a.attention.sinks != b.attention.sinks || a.ffn.index() != b.ffn.index()) {
    return false;
  }
  if (const auto* const x = std::get_if<dense_ffn_weights>(&a.ffn)) {
    const auto& y = std::get<dense_ffn_weights>(b.ffn);
    return same(x->gate_up, y.gate_up) && same(x->down, y.down);
  }
  const auto &x = std::get<moe_weights>(a.ffn), &y = std::get<moe_weights>(b.ffn);
  return same(x.router, y.router) && x.correction_bias == y.correction_bias &&
         same(x.gate_up, y.gate_up) && same(x.down, y.down) &&
         x.gate_up_stride_bytes == y.gate_up_stride_bytes &&
         x.down_stride_bytes == y.down_stride_bytes;
}

bool same(const model_weights& a, const model_weights& b) {
  bool equal = a.compute == b.compute && same(a.embedding, b.embedding) &&
               a.final_norm == b.final_norm && same(a.lm_head, b.lm_head) &&
               a.layers.size() == b.layers.size() && a.mtp.size() == b.mtp.size();
  for (std::size_t i = 0; equal && i < a.layers.size(); ++i) {
    equal = same(a.layers[i], b.layers[i]);
  }
  for (std::size_t i = 0; equal && i < a.mtp.size(); ++i) {
    const mtp_weights &x = a.mtp[i], &y = b.mtp[i];
    equal = x.enorm == y.enorm && x.hnorm == y.hnorm && x.final_norm == y.final_norm &&
            same(x.eh_proj, y.eh_proj) && same(x.layer, y.layer);
  }
  return equal;
}

/// The plain matrix again: a product with the identity gives each element exactly.
std::vector<float> unpacked(const packed_matrix& w) {
  const std::uint32_t n = w.shape.n, k = w.shape.k;
  const auto plan = host::plan_gemm(w.shape, k, 1);
  REQUIRE(plan.has_value());
  std::vector<float> identity(std::size_t{k} * k), out(std::size_t{k} * n);
  for (std::size_t i = 0; i < k; ++i) {
    identity[i * k + i] = 1.0f;
  }
  aligned_bytes workspace(plan->workspace_bytes);
  serial_executor serial;
  const gemm_args args{.out = out.data(),
                       .out_stride = n,
                       .x = identity.data(),
                       .x_stride = k,
                       .weights = w.bytes.data(),
                       .rows = k};
  host::run_gemm(*plan, args, {workspace.data(), workspace.size()}, serial);
  std::vector<float> matrix(std::size_t{n} * k);
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t c = 0; c < k; ++c) {
      matrix[r * k + c] = out[c * n + r];
    }
  }
  return matrix;
}

/// Values of several tensors, one after another.
std::vector<float> joined(const tiny::checkpoint& c, const std::vector<std::string>& names) {
  std::vector<float> values;
  for (const std::string& name : names) {
    const std::vector<float>& more = c.tensors.at(name).values;
    values.insert(values.end(), more.begin(), more.end());
  }
  return values;
}

}  // namespace

TEST_CASE("loaded matrices hold the tensors' values, row range by row range") {
  const dtype type = GENERATE(dtype::bf16, dtype::f32);
  const tiny::checkpoint c = tiny::make(type);
  const model_weights w = loaded(c);
  CHECK(w.compute == type);
  const std::string at = "model.layers.1.self_attn.";
  const attention_weights& a = w.layers[1].attention;
  CHECK(unpacked(a.qkv) ==
        joined(c, {at + "q_proj.weight", at + "k_proj.weight", at + "v_proj.weight"}));
  CHECK(unpacked(a.o) == c.tensors.at(at + "o_proj.weight").values);
  CHECK(a.sinks == c.tensors.at(at + "attention_sink_bias").values);
  CHECK(w.layers[0].attention.sinks.empty());
  const auto& dense = std::get<dense_ffn_weights>(w.layers[0].ffn);
  const std::string mlp = "model.layers.0.mlp.";
  CHECK(unpacked(dense.gate_up) == joined(c, {mlp + "gate_proj.weight", mlp + "up_proj.weight"}));
  CHECK(unpacked(dense.down) == c.tensors.at(mlp + "down_proj.weight").values);
  const auto& moe = std::get<moe_weights>(w.layers[2].ffn);
  CHECK(moe.router.shape.weights == dtype::f32);
  CHECK(unpacked(moe.router) == c.tensors.at("model.layers.2.mlp.gate.weight").values);
  CHECK(moe.correction_bias ==
        c.tensors.at("model.layers.2.mlp.gate.e_score_correction_bias").values);
  CHECK(w.layers[2].post_attention_norm ==
        c.tensors.at("model.layers.2.post_attention_layernorm.weight").values);
  REQUIRE(w.mtp.size() == 1);
  CHECK(unpacked(w.mtp[0].eh_proj) == c.tensors.at("model.mtp.layers.0.eh_proj.weight").values);
  CHECK(w.mtp[0].layer.post_attention_norm ==
        c.tensors.at("model.mtp.layers.0.pre_mlp_layernorm.weight").values);
  CHECK(unpacked(w.lm_head) == c.tensors.at("lm_head.weight").values);
  CHECK(w.bytes() > std::size_t{tiny::vocabulary} * tiny::hidden * 2 * size_bytes(type));
}

TEST_CASE("experts are packed in their places") {
  const tiny::checkpoint c = tiny::make(dtype::bf16);
  const model_weights w = loaded(c);
  const auto& moe = std::get<moe_weights>(w.layers[1].ffn);
  const moe_gemm_shape shape{.hidden = tiny::hidden,
                             .inter = tiny::expert_inter,
                             .experts = tiny::experts,
                             .top_k = 2,
                             .weights = dtype::bf16,
                             .activation = dtype::bf16};
  const auto plan = host::plan_moe_gemm(shape, 64, 2);
  REQUIRE(plan.has_value());
  for (std::uint32_t e = 0; e < tiny::experts; ++e) {
    const std::string at = fmt::format("model.layers.1.mlp.experts.{}.", e);
    const std::string gate = stored_bytes(c.tensors.at(at + "gate_proj.weight"));
    const std::string up = stored_bytes(c.tensors.at(at + "up_proj.weight"));
    const std::string down = stored_bytes(c.tensors.at(at + "down_proj.weight"));
    aligned_bytes gate_up(plan->gate_up_bytes), packed_down(plan->down_bytes);
    host::pack_moe_gate_up(*plan, (gate + up).data(), 0, 2 * tiny::expert_inter, gate_up.data());
    host::pack_moe_down(*plan, down.data(), 0, tiny::hidden, packed_down.data());
    CHECK(std::memcmp(moe.gate_up.data() + e * moe.gate_up_stride_bytes,
                      gate_up.data(),
                      gate_up.size()) == 0);
    CHECK(std::memcmp(moe.down.data() + e * moe.down_stride_bytes,
                      packed_down.data(),
                      packed_down.size()) == 0);
  }
}

TEST_CASE("fused QKV, fused experts and the other names give the same weights") {
  const tiny::checkpoint c = tiny::make(dtype::bf16);
  const model_weights expected = loaded(c);
  CHECK(same(loaded(tiny::with_fused_qkv(c, tiny::shards)), expected));
  CHECK_FALSE(same(loaded(tiny::with_fused_qkv(c, 1)), expected));  // Another interleaving.
  CHECK(same(loaded(tiny::with_fused_experts(c)), expected));
  CHECK(same(loaded(tiny::with_fused_qkv(tiny::with_fused_experts(c), tiny::shards)), expected));
}

TEST_CASE("FP8 with its scales by shard gives the weights of its bf16 twin") {
  const tiny::fp8_twins twins = tiny::make_fp8();
  const model_weights expected = loaded(twins.plain);
  const model_weights w = loaded(twins.fp8);
  CHECK(w.compute == dtype::bf16);
  CHECK(same(w, expected));
  const load_options wide{.compute = dtype::f32};
  CHECK(same(loaded(twins.fp8, wide), loaded(twins.plain, wide)));
}

TEST_CASE("FP8 stays FP8 in the plain form, each row with the scales of its shard") {
  const tiny::fp8_twins twins = tiny::make_fp8();
  const load_options kept{.form = weight_form::plain, .keeps_e4m3 = true};
  const model_weights w = loaded(twins.fp8, kept);
  const model_weights expected = loaded(twins.plain, {.form = weight_form::plain});
  std::size_t matrices = 0;
  const auto compare = [&](const std::byte* codes,
                           const float* scales,
                           const std::uint32_t* rows,
                           const gemm_shape& shape,
                           const std::byte* plain) {
    REQUIRE(shape.weights == dtype::e4m3);
    const std::size_t columns = (shape.k + 127) / 128;
    for (std::size_t i = 0; i < std::size_t{shape.n} * shape.k; ++i) {
      const std::size_t r = i / shape.k, row = rows != nullptr ? rows[r] : r / 128;
      const float scale = scales[row * columns + i % shape.k / 128];
      const bf16 x = to_bf16(to_float(static_cast<e4m3>(codes[i])) * scale);
      REQUIRE(std::memcmp(&x, plain + 2 * i, sizeof x) == 0);
    }
    ++matrices;
  };
  const auto compare_matrix = [&](const packed_matrix& a, const packed_matrix& b) {
    compare(a.bytes.data(),
            a.grid.scales.data(),
            a.grid.rows.empty() ? nullptr : a.grid.rows.data(),
            a.shape,
            b.bytes.data());
  };
  const auto compare_layer = [&](const layer_weights& a, const layer_weights& b) {
    compare_matrix(a.attention.qkv, b.attention.qkv);
    CHECK(same(a.attention.o, b.attention.o));
    if (const auto* const x = std::get_if<dense_ffn_weights>(&a.ffn)) {
      compare_matrix(x->gate_up, std::get<dense_ffn_weights>(b.ffn).gate_up);
      compare_matrix(x->down, std::get<dense_ffn_weights>(b.ffn).down);
      return;
    }
    const auto &x = std::get<moe_weights>(a.ffn), &y = std::get<moe_weights>(b.ffn);
    CHECK(same(x.router, y.router));
    const std::size_t gate_up_scales = x.gate_up_scales.size() / tiny::experts;
    const std::size_t down_scales = x.down_scales.size() / tiny::experts;
    std::vector<std::uint32_t> rows(x.gate_up_shape.n);  // The gate's grid, then the up's.
    for (std::uint32_t r = 0; r < rows.size(); ++r) {
      rows[r] = r / tiny::expert_inter;
    }
    for (std::size_t e = 0; e < tiny::experts; ++e) {
      compare(x.gate_up.data() + e * x.gate_up_stride_bytes,
              x.gate_up_scales.data() + e * gate_up_scales,
              rows.data(),
              x.gate_up_shape,
              y.gate_up.data() + e * y.gate_up_stride_bytes);
      compare(x.down.data() + e * x.down_stride_bytes,
              x.down_scales.data() + e * down_scales,
              nullptr,
              x.down_shape,
              y.down.data() + e * y.down_stride_bytes);
    }
  };
  for (std::size_t l = 0; l < w.layers.size(); ++l) {
    compare_layer(w.layers[l], expected.layers[l]);
  }
  compare_layer(w.mtp[0].layer, expected.mtp[0].layer);
  CHECK(same(w.mtp[0].eh_proj, expected.mtp[0].eh_proj));
  CHECK(matrices == 4 + 2 * 2 + 2 * 2 * tiny::experts);
  CHECK(w.bytes() < expected.bytes());
  // Elsewhere it is dequantised as ever.
  const load_options packed{.keeps_e4m3 = true};
  CHECK(same(loaded(twins.fp8, packed), loaded(twins.plain)));
}

TEST_CASE("weights can be computed with in another type than they are stored in") {
  const load_options as_bf16{.compute = dtype::bf16}, as_f32{.compute = dtype::f32};
  const tiny::checkpoint f32 = tiny::make(dtype::f32);
  tiny::checkpoint rounded = f32;
  for (auto& [name, t] : rounded.tensors) {
    for (float& x : t.values) {
      const bool kept = name.find("norm") != std::string::npos ||
                        name.find("sink") != std::string::npos ||
                        name.find("mlp.gate.") != std::string::npos;
      x = kept ? x : round_to_bf16(x);
    }
  }
  CHECK(same(loaded(f32, as_bf16), loaded(rounded, as_bf16)));
  const tiny::checkpoint bf16 = tiny::make(dtype::bf16);
  const model_weights wide = loaded(bf16, as_f32);
  CHECK(wide.lm_head.shape.weights == dtype::f32);
  CHECK(unpacked(wide.lm_head) == bf16.tensors.at("lm_head.weight").values);
  CHECK_THROWS_AS(loaded(bf16, {.compute = dtype::e4m3}), error);
}

TEST_CASE("progress ends at the bytes of all tensors") {
  const tiny::checkpoint c = tiny::make(dtype::f32);
  load_progress last;
  (void)loaded(c, {.progress = [&](const load_progress& p) {
                 CHECK(p.done_bytes >= last.done_bytes);
                 last = p;
               }});
  CHECK(last.total_bytes > 0);
  CHECK(last.done_bytes == last.total_bytes);
}

TEST_CASE("random weights have the geometry's shapes, and their seed decides them") {
  const temporary_directory folder;
  tiny::make(dtype::bf16).write(folder.path());
  const model_geometry g = open_checkpoint(folder.path()).config.geometry;
  const model_weights a = random_weights(g, dtype::bf16, 1), b = random_weights(g, dtype::bf16, 1);
  CHECK(same(a, b));
  CHECK_FALSE(same(a, random_weights(g, dtype::bf16, 2)));
  CHECK(a.bytes() == load_weights(open_checkpoint(folder.path())).bytes());
  double sum = 0, squares = 0;
  const std::vector<float> w = unpacked(a.lm_head);
  for (const float x : w) {
    sum += static_cast<double>(x);
    squares += static_cast<double>(x) * static_cast<double>(x);
  }
  const auto count = static_cast<double>(w.size());
  CHECK(std::abs(sum / count) < 0.005);
  CHECK(squares / count * tiny::hidden == Approx(1.0).epsilon(0.05));
}

}  // namespace weights_test
