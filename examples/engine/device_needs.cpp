// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/device_gemm.hpp>
#include <oriel/kernels/embed.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/grouped_gemm.hpp>
#include <oriel/kernels/moe_combine.hpp>
#include <oriel/kernels/moe_route.hpp>
#include <oriel/kernels/rms_norm.hpp>
#include <oriel/kernels/router_logits.hpp>
#include <oriel/kernels/swiglu.hpp>
#include <oriel/tier/stream_mover.hpp>

#include <engine/device_needs.hpp>
#include <engine/engine_pools.hpp>
#include <engine/error.hpp>
#include <engine/program_runner.hpp>
#include <fmt/format.h>

#include <span>
#include <string>

namespace oriel::engine {
namespace {

constexpr std::uint64_t alignment_bytes = 256;  // of a piece of memory on a device

std::uint64_t aligned(std::uint64_t bytes) noexcept {
  return (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
}

template <class Plan>
void expect(const result<Plan>& plan, const model_geometry& model, const char* what) {
  if (!plan) {
    throw error(fmt::format("{} cannot be computed on a device: no kernel for its {}: {}",
                            model.name,
                            what,
                            plan.error().detail));
  }
}

/// Every layer's own kernels; those whose plans are in programs are asked for there.
void expect_kernels(const program_model& m) {
  const model_geometry& g = *m.geometry;
  expect(cuda::plan_embed({g.vocabulary, g.hidden, m.compute}), g, "embedding");
  expect(cuda::plan_rms_norm({g.hidden, static_cast<float>(g.rms_eps), m.compute}), g, "norms");
  expect(cuda::plan_gather_rows({.width = g.hidden}), g, "rows");
  for (std::uint32_t l = 0; l < m.layers(); ++l) {
    const ffn_geometry& f = m.layer(l).ffn;
    if (!f.is_moe()) {
      expect(cuda::plan_swiglu({f.intermediate, m.compute}), g, "SwiGLU");
      continue;
    }
    expect(cuda::plan_router_logits({f.experts, g.hidden}, 1), g, "router");
    expect(cuda::plan_moe_route({.experts = f.experts,
                                 .top_k = f.top_k,
                                 .groups = g.expert_groups,
                                 .kept_groups = g.expert_groups_kept,
                                 .normalize = g.norm_topk_prob,
                                 .scale = static_cast<float>(g.routed_scaling_factor)}),
           g,
           "router");
    expect(cuda::plan_moe_combine({g.hidden, f.top_k}), g, "experts");
  }
}

/// Sizes as the upload has them.
class weight_tally {
 public:
  weight_tally(const model_geometry& model,
               dtype compute,
               std::uint32_t multiprocessors,
               const kept_matrices& kept)
      : g_(model), compute_(compute), multiprocessors_(multiprocessors), kept_(kept) {}

  void table(std::uint64_t n, std::uint64_t k) { add(n * k * size_bytes(compute_)); }
  void vector(std::uint64_t n) { add(n * sizeof(float)); }
  void matrix(weight_name name, std::uint32_t n, std::uint32_t k) {
    const auto kept = kept_.find(name);
    if (kept == kept_.end()) {
      table(n, k);
      return;
    }
    if (kept->second.kind == product_kind::block_scaled) {
      const auto plan = cuda::plan_block_scaled_gemm({n, k, dtype::e4m3}, dtype::f32, 4);
      expect(plan, g_, "e4m3 matrices");
      add(std::uint64_t{n} * k);
      vector(kept->second.scales / scale_columns(k) * plan->weight_scale_stride);
    } else {
      packed({.groups = 1, .n = n, .k = k, .weights = dtype::e4m3}, "e4m3 matrices");
      vector(kept->second.scales);
      vector(kept->second.has_row_map ? n : 0);
    }
  }
  void layer(std::uint32_t index, const layer_geometry& l) {
    const attention_geometry& a = l.attention;
    vector(g_.hidden);
    vector(g_.hidden);
    matrix({weight_role::qkv, index},
           a.q_heads * a.head_dim_qk + a.kv_heads * (a.head_dim_qk + a.head_dim_vo),
           g_.hidden);
    matrix({weight_role::o, index}, g_.hidden, a.q_heads * a.head_dim_vo);
    vector(a.has_sink ? a.q_heads : 0);
    if (!l.ffn.is_moe()) {
      matrix({weight_role::gate_up, index}, 2 * l.ffn.intermediate, g_.hidden);
      matrix({weight_role::down, index}, g_.hidden, l.ffn.intermediate);
      return;
    }
    vector(std::uint64_t{l.ffn.experts} * g_.hidden);  // The router is f32.
    vector(l.ffn.experts);
    experts({weight_role::expert_gate_up, index},
            {.groups = l.ffn.experts,
             .n = l.ffn.intermediate,
             .k = g_.hidden,
             .weights = compute_,
             .swiglu = true});
    experts(
        {weight_role::expert_down, index},
        {.groups = l.ffn.experts, .n = g_.hidden, .k = l.ffn.intermediate, .weights = compute_});
  }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

 private:
  static std::uint64_t scale_columns(std::uint32_t k) noexcept { return (k - 1) / scale_block + 1; }
  void add(std::uint64_t bytes) noexcept { bytes_ += aligned(bytes); }
  void packed(const grouped_gemm_shape& shape, const char* what) {
    const auto plan =
        cuda::plan_grouped_gemm(shape, {.rows_max = 1, .multiprocessors = multiprocessors_});
    expect(plan, g_, what);
    add(plan->packed_bytes * shape.groups);
  }
  void experts(weight_name name, grouped_gemm_shape shape) {
    const bool stays_e4m3 = kept_.contains(name);
    shape.weights = stays_e4m3 ? dtype::e4m3 : shape.weights;
    packed(shape, "experts");
    if (stays_e4m3) {
      vector(shape.groups * shape.plain_grid_rows() * scale_columns(shape.k));
    } else if (shape.k * size_bytes(shape.weights) % 16 != 0) {  // rows lie side by side
      throw error(
          fmt::format("{} cannot be computed on a device: a row of {} numbers, which its experts "
                      "read, is no multiple of 16 bytes",
                      g_.name,
                      shape.k));
    }
  }

  const model_geometry& g_;
  dtype compute_;
  std::uint32_t multiprocessors_;
  const kept_matrices& kept_;
  std::uint64_t bytes_ = 0;
};

std::string gib(std::uint64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (std::uint64_t{1} << 30));
}

}  // namespace

std::uint64_t device_weight_bytes(const model_geometry& model,
                                  dtype compute,
                                  std::uint32_t mtp_blocks,
                                  std::uint32_t multiprocessors,
                                  const kept_matrices& kept) {
  weight_tally tally(model, compute, multiprocessors, kept);
  tally.table(model.vocabulary, model.hidden);  // embedding
  tally.matrix({weight_role::lm_head}, model.vocabulary, model.hidden);
  tally.vector(model.hidden);
  std::uint32_t index = 0;
  for (const layer_geometry& layer : model.layers) {
    tally.layer(index++, layer);
  }
  for (const layer_geometry& layer : std::span(model.mtp_layers).first(mtp_blocks)) {
    tally.vector(model.hidden);  // enorm, hnorm, final norm
    tally.vector(model.hidden);
    tally.vector(model.hidden);
    tally.matrix({weight_role::eh_proj, index}, model.hidden, 2 * model.hidden);
    tally.layer(index++, layer);
  }
  return tally.bytes();
}

device_needs device_needs_of(const device_question& asked, std::uint32_t multiprocessors) {
  program_model m = program_model_of(asked.model,
                                     asked.plan,
                                     asked.limits,
                                     asked.compute,
                                     asked.kv,
                                     step_multiprocessors(multiprocessors, asked.has_tiers));
  m.chains_hidden = asked.chains_hidden;
  m.products = kinds_of(asked.kept);
  expect_kernels(m);
  device_needs needs;
  needs.weight_bytes =
      device_weight_bytes(asked.model, asked.compute, m.mtp_blocks, multiprocessors, asked.kept);
  for (std::uint32_t pool = 0; pool < asked.plan.pools(); ++pool) {
    needs.kv_bytes +=
        std::uint64_t{asked.sizes.pages[pool]} * asked.plan.layout(pool_id{pool}).page_bytes();
  }
  const backend_needs step =
      backend_needs_of(m,
                       asked.limits,
                       table_entries_of(asked.plan, asked.limits.context_tokens),
                       asked.drafts_max,
                       asked.order_fixed);
  needs.step_bytes =
      aligned(step.memory_bytes) + aligned(step.table_entries * sizeof(std::uint32_t));
  needs.stage_bytes = asked.has_tiers ? mover_bytes_of(asked.plan) : 0;
  return needs;
}

device_needs device_needs_of(const model_geometry& model,
                             const engine_options& options,
                             bool has_tiers,
                             dtype compute,
                             std::uint32_t multiprocessors,
                             const kept_matrices& kept) {
  engine_options served = options;
  if (!has_tiers) {
    served.tier_moves.fetches_max = 0;  // As the engine does: nothing is fetched.
  }
  const dtype kv = served.kv.value_or(compute);
  const auto [plan, sizes] = plan_pools(model, served, kv);
  return device_needs_of({.model = model,
                          .plan = plan,
                          .sizes = sizes,
                          .limits = limits_of(served, model),
                          .compute = compute,
                          .kv = kv,
                          .drafts_max = served.speculation.rows_max(),
                          .chains_hidden = served.speculation.chain == mtp_chain::previous_hidden,
                          .order_fixed = is_order_fixed(served),
                          .has_tiers = has_tiers,
                          .kept = kept},
                         multiprocessors);
}

void expect_room(const device_needs& needs,
                 std::string_view model_name,
                 std::string_view device_name,
                 std::uint64_t free_bytes,
                 std::uint64_t host_bytes) {
  if (needs.stage_bytes > host_bytes) {
    throw error(
        fmt::format("{} on {} pins {} of this machine's memory for pages on their way to and from "
                    "tiers; {} are "
                    "available: run without tiers, or free that much first",
                    model_name,
                    device_name,
                    gib(needs.stage_bytes),
                    gib(host_bytes)));
  }
  if (needs.total_bytes() <= free_bytes) {
    return;
  }
  throw error(fmt::format(
      "{} does not fit on {}: {} of weights, {} of KV and {} for a step, {} more than the {} that "
      "are free; lower the context, the cache or --chunk, or take a smaller model",
      model_name,
      device_name,
      gib(needs.weight_bytes),
      gib(needs.kv_bytes),
      gib(needs.step_bytes),
      gib(needs.total_bytes() - free_bytes),
      gib(free_bytes)));
}

}  // namespace oriel::engine
