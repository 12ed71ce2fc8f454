// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: the router of 384 experts and its product, the sort of pairs, gathering tokens by expert,
//       combining.
// Why:  the rows of routing and permuting in the goals (bench/cuda/table.py). Bytes are those that
//       come from memory and go there.
#include "measure.hpp"

#include <oriel/core/random.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/moe_combine.hpp>
#include <oriel/kernels/moe_permute.hpp>
#include <oriel/kernels/moe_route.hpp>
#include <oriel/kernels/router_logits.hpp>

namespace {

using namespace oriel;         // NOLINT: a program
using namespace oriel::bench;  // NOLINT

constexpr std::uint32_t experts = 384, top_k = 8, hidden = 4096, tokens_max = 32768;

/// Microseconds of a node that does `run(stream, i)`, of `nodes` with inputs of their own.
/// @param goal_us  0: there is none
void beside_goal(const std::string& id,
                 double goal_us,
                 std::uint32_t nodes,
                 const std::function<void(cudaStream_t, std::uint32_t)>& run) {
  stopwatch watch;
  const recorded ours(watch.stream(), nodes, run);
  const recorded nothing(
      watch.stream(), nodes, [](cudaStream_t s, std::uint32_t) { enqueue_empty_kernel(s); });
  race r;
  const auto took = r.add([&] { return 1e3 * watch.ms(ours) / nodes; });
  const auto empty = r.add([&] { return 1e3 * watch.ms(nothing) / nodes; });
  r.run(30);
  figure ours_took{id, "", r.took(took), "us"};
  if (goal_us != 0) {
    ours_took.limit = "the goal";
    ours_took.limit_value = goal_us;
    ours_took.ratio = r.took(took) / goal_us;
  }
  report(ours_took);
  report({id, "an empty graph node", r.took(empty), "us"});
}

void router(const std::string& id, std::uint32_t tokens, double goal_us) {
  const auto plan = cuda::plan_moe_route({.experts = experts, .top_k = top_k});
  require(static_cast<bool>(plan), "plan_moe_route");
  const std::size_t logits_bytes = std::size_t{tokens} * experts * sizeof(float);
  const auto copies = static_cast<std::uint32_t>(cold_copies(logits_bytes, facts().cache_bytes));
  const device_bytes logits(copies * logits_bytes, dtype::f32), bias(experts * 4, dtype::f32),
      ids(std::size_t{tokens} * top_k * 4, dtype::f32),
      weights(std::size_t{tokens} * top_k * 4, dtype::f32);
  beside_goal(id, goal_us, copies, [&](cudaStream_t stream, std::uint32_t i) {
    const moe_route_args args{.ids = ids.as<std::uint32_t>(),
                              .weights = weights.as<float>(),
                              .logits = logits.as<float>() + i * (logits_bytes / sizeof(float)),
                              .logits_stride = experts,
                              .correction_bias = bias.as<float>(),
                              .tokens = tokens};
    require(static_cast<bool>(cuda::run_moe_route(*plan, args, stream)), "run_moe_route");
  });
}

/// x in bf16 times weights in f32 (9.4 MB), which are another layer's in each node.
void router_product(const std::string& id, std::uint32_t tokens) {
  constexpr router_logits_shape shape{.experts = experts, .hidden = 6144};
  const auto plan = cuda::plan_router_logits(shape, tokens);
  require(static_cast<bool>(plan), "plan_router_logits");
  constexpr std::size_t weights = std::size_t{experts} * shape.hidden;
  const auto layers =
      static_cast<std::uint32_t>(cold_copies(weights * sizeof(float), facts().cache_bytes));
  const device_bytes matrices(layers * weights * sizeof(float), dtype::f32),
      x(std::size_t{tokens} * shape.hidden * sizeof(bf16), dtype::bf16),
      logits(std::size_t{tokens} * experts * sizeof(float), dtype::f32);
  beside_goal(id, 0, layers, [&](cudaStream_t stream, std::uint32_t i) {
    const router_logits_args args{.logits = logits.as<float>(),
                                  .logits_stride = experts,
                                  .x = x.as<bf16>(),
                                  .x_stride = shape.hidden,
                                  .weights = matrices.as<float>() + i * weights,
                                  .tokens = tokens};
    require(static_cast<bool>(cuda::run_router_logits(*plan, args, stream)), "run_router_logits");
  });
}

/// 16,384 tokens, each to 8 experts: the sort; rows gathered (2.1 GB); rows combined (1.2 GB).
class permutation {
 public:
  permutation() {
    random_stream random(1);
    std::vector<std::uint32_t> ids;
    for (std::uint32_t t = 0; t < tokens; ++t) {
      const std::uint32_t first = random.next_below(experts);
      for (std::uint32_t slot = 0; slot < top_k; ++slot) {
        ids.push_back((first + slot * 47) % experts);
      }
    }
    ids_ = on_device(ids);
    const auto plan = cuda::plan_moe_permute({experts, top_k, tokens});
    require(static_cast<bool>(plan), "plan_moe_permute");
    plan_ = *plan;
    workspace_ = device_bytes(plan_.workspace_bytes, dtype::f32);
    sort(nullptr);
    ORIEL_CUDA_CALL(cudaDeviceSynchronize());
  }
  void sort(cudaStream_t stream) const {
    require(static_cast<bool>(
                cuda::run_moe_permute(plan_, {ids_.as<std::uint32_t>(), pairs}, bytes(), stream)),
            "run_moe_permute");
  }
  [[nodiscard]] moe_permutation rows() const { return cuda::permutation_in(plan_, bytes()); }
  static constexpr std::uint32_t tokens = 16384, pairs = tokens * top_k;

 private:
  [[nodiscard]] std::span<std::byte> bytes() const {
    return {workspace_.data(), plan_.workspace_bytes};
  }
  cuda::moe_permute_plan plan_{};
  device_bytes ids_, workspace_;
};

constexpr double row = 2.0 * hidden;  // bytes, bf16

void sort_pairs() {
  const permutation p;
  stopwatch watch;
  race r;
  const auto ours =
      r.add([&] { return 1e3 * watch.ms([&](cudaStream_t stream) { p.sort(stream); }); });
  r.run(30);
  report({"sort_pairs", "", r.took(ours), "us"});
}

/// For each pair a token's row is read and a row of the result is written, and that is what is
/// counted. In the order of experts a token comes again after 47 of them or more, which are 256 MB
/// read and written: no cache still has it.
void gather() {
  const permutation p;
  const auto plan = cuda::plan_gather_rows({.width = hidden, .divisor = top_k});
  require(static_cast<bool>(plan), "plan_gather_rows");
  const device_bytes x(p.tokens * std::size_t{2} * hidden, dtype::bf16),
      out(p.pairs * std::size_t{2} * hidden, dtype::bf16);
  const basic_gather_rows_args<bf16> args{.out = out.as<bf16>(),
                                          .out_stride = hidden,
                                          .x = x.as<bf16>(),
                                          .x_stride = hidden,
                                          .rows = p.rows().pair_of_row};
  beside_copy("gather", 2.0 * p.pairs * row, 30, [&](cudaStream_t stream) {
    require(static_cast<bool>(cuda::run_gather_rows(*plan, args, stream)), "run_gather_rows");
  });
}

void combine() {
  const permutation p;
  const auto plan = cuda::plan_moe_combine({hidden, top_k});
  require(static_cast<bool>(plan), "plan_moe_combine");
  const device_bytes y(p.pairs * std::size_t{2} * hidden, dtype::bf16),
      out(p.tokens * std::size_t{2} * hidden, dtype::bf16),
      weights(std::size_t{p.pairs} * sizeof(float), dtype::f32);
  const basic_moe_combine_args<bf16> args{.out = out.as<bf16>(),
                                          .out_stride = hidden,
                                          .y = y.as<bf16>(),
                                          .y_stride = hidden,
                                          .weights = weights.as<float>(),
                                          .row_of_pair = p.rows().row_of_pair.data(),
                                          .tokens = p.tokens};
  beside_copy("combine", (p.tokens + p.pairs) * row, 30, [&](cudaStream_t stream) {
    require(static_cast<bool>(cuda::run_moe_combine(*plan, args, stream)), "run_moe_combine");
  });
}

}  // namespace

int main(int count, char** arguments) {
  return run_tasks(
      count,
      arguments,
      {{{"router_128"}, [] { router("router_128", 128, 6); }},
       {{"router_32k"}, [] { router("router_32k", tokens_max, 35); }},
       {{"router_product_1"}, [] { router_product("router_product_1", 1); }},
       {{"router_product_64"}, [] { router_product("router_product_64", 64); }},
       {{"router_product_32k"}, [] { router_product("router_product_32k", tokens_max); }},
       {{"sort_pairs"}, sort_pairs},
       {{"gather"}, gather},
       {{"combine"}, combine}});
}
