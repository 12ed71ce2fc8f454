// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/model/cost.hpp>
#include <oriel/model/presets.hpp>
#include <oriel/sim/node_cost.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <vector>

namespace oriel::sim::node_cost_test {
namespace {

/// A node in plain words, seconds for so many tokens of a prompt that is not cached.
node_cost plain() {
  node_cost c;
  c.step_s = 0.25;
  c.prefill = {.token_s = 1.0, .pair_s = 0.5};
  return c;
}

TEST_CASE("what the operations of a token are comes from the geometry") {
  const calibration c = calibrate_mimo_pro();
  // The specification takes 42 G active parameters; the geometry has 41.9.
  CHECK(c.linear_flops_token == Approx(84.63e9).epsilon(0.005));
  CHECK(c.attention_flops_pair == Approx(0.8192e6).epsilon(1e-12));
  // Counted product by product: the embedding's row is no product.
  const model_geometry model = *preset("mimo-v2.5-pro");
  const double embedding = 2.0 * model.vocabulary * model.hidden;
  const double far = 1e6;
  CHECK(c.linear_flops_token + c.attention_flops_pair * (far + 1) - embedding ==
        Approx(static_cast<double>(flops_per_token(model, 1'000'000))).epsilon(1e-4));
}

TEST_CASE("two rates fitted to half of the published points tell the other half") {
  const calibration c = calibrate_mimo_pro();
  REQUIRE(c.points.size() == 8);
  for (const prefill_point& p : c.points) {
    INFO(p.tokens << " tokens: " << p.predicted_tokens_per_s << " of " << p.published_tokens_per_s
                  << (p.is_held_out ? ", held out" : ""));
    CHECK(std::abs(p.error) < (p.is_held_out ? 0.08 : 0.03));
  }
  CHECK(c.points[1].error == Approx(0.029).margin(0.001));
  CHECK(c.points[3].error == Approx(-0.011).margin(0.001));
  CHECK(c.points[5].error == Approx(0.065).margin(0.001));
  CHECK(c.points[6].error == Approx(-0.026).margin(0.001));
  CHECK(c.worst_held_out == Approx(c.points[5].error));
  CHECK(c.chunk_rate_at_1m == Approx(0.14).margin(0.01));
  // In seconds attention equals the rest near 155 K, and 1 K behind 500 K costs 4.2 times as much.
  CHECK(c.cost.prefill.token_s / c.cost.prefill.pair_s == Approx(155e3).epsilon(0.02));
  CHECK(c.cost.chunk_s(500e3, 1e3) / c.cost.chunk_s(0, 1e3) == Approx(4.2).epsilon(0.02));
}

TEST_CASE("without t0 the fit is the one of the specification") {
  const calibration c = calibrate_mimo_pro({.step_s = 0.0});
  CHECK(c.linear_flops_per_s == Approx(2.69e15).epsilon(0.005));
  CHECK(c.attention_flops_per_s == Approx(4.13e15).epsilon(0.01));
  CHECK(c.points[1].error == Approx(0.013).margin(0.0006));
  CHECK(c.points[3].error == Approx(-0.020).margin(0.0006));
  CHECK(c.points[5].error == Approx(0.066).margin(0.0006));
  CHECK(c.points[6].error == Approx(-0.023).margin(0.0006));
}

TEST_CASE("t0 is not told by the published rates") {
  for (const double step_s : {0.0, 0.0025, 0.005, 0.01}) {
    INFO("t0 " << step_s);
    CHECK(calibrate_mimo_pro({.step_s = step_s}).worst_held_out < 0.08);
  }
}

TEST_CASE("chunks cost what the whole does, and t0 for each step") {
  const node_cost c = plain();
  CHECK(c.seconds(0, 4, 100) == Approx(0.25 + 4 + 0.5 * 8));
  CHECK(c.seconds(10, 4, 3) == Approx(2 * 0.25 + 4 + 0.5 * (40 + 8)));
  CHECK(c.seconds(10, 0, 3) == 0.0);
  CHECK(c.chunk_s(0, 3) + c.chunk_s(3, 4) == Approx(c.chunk_s(0, 7)));
  node_cost with_mtp = c;
  with_mtp.mtp_share = 0.05;
  CHECK(with_mtp.seconds(10, 4, 100) == Approx(0.25 + 1.05 * c.chunk_s(10, 4)));
}

TEST_CASE("a layer ends with the slowest rank, and the experts with all") {
  node_cost c = plain();
  c.expert_share = 0.25;
  c.expert_balance = 0.5;
  // Own work 0.75 * 4 + 1 and 0.75 * 8; the experts 0.25 * 12 / 0.5.
  const std::vector<rank_work> two = {{.linear_s = 4, .attention_s = 1}, {.linear_s = 8}};
  CHECK(c.barrier_s(two) == Approx(0.25 + 2 * 6 + 6));
  // One rank never waits.
  CHECK(c.barrier_s(std::vector<rank_work>{{.linear_s = 4, .attention_s = 1}}) ==
        Approx(0.25 + 4 + 2));
  // An idle rank changes nothing for the busy one, whose part of the node is half.
  const chunk_cost own = c.own_cost(2);
  CHECK(own.seconds(10, 4) == Approx(2 * (0.75 * 4 + 0.5 * (40 + 8))));
}

TEST_CASE("a decode step reads the weights once and everybody's KV") {
  const node_cost c = calibrate_mimo_pro().cost;
  const model_geometry model = *preset("mimo-v2.5-pro");
  const double alone_s = c.decode_step_s(1, 1'000'000);
  CHECK(alone_s * c.bytes_per_s ==
        Approx(static_cast<double>(weight_bytes_per_token(model, dtype::e4m3) +
                                   kv_bytes(model, 1'000'000, dtype::bf16))));
  // More sequences read more experts, at most all of them.
  const double all_s =
      (c.weight_bytes_dense + c.expert_bytes + 1e4 * c.kv_bytes_window) / c.bytes_per_s;
  CHECK(c.decode_step_s(1e4, 0) == Approx(all_s).epsilon(1e-6));
  CHECK(c.decode_step_s(2, 0) < 2 * c.decode_step_s(1, 0));
}

TEST_CASE("of drafts those are accepted that follow accepted ones") {
  const acceptance a = acceptance::of_drafts(0.5, 2);
  CHECK(a.share == std::vector<double>{0.5, 0.25, 0.25});
  CHECK(a.tokens_per_step() == Approx(1.75));
  CHECK(a.tokens_of(0.0) == 1);
  CHECK(a.tokens_of(0.49) == 1);
  CHECK(a.tokens_of(0.5) == 2);
  CHECK(a.tokens_of(0.75) == 3);
  CHECK(a.tokens_of(0.999) == 3);
  CHECK(acceptance{}.tokens_per_step() == 1.0);
  // Published of MiMo-V2.5: 2.94 to 3.08 tokens a step.
  CHECK(calibrate_mimo_pro().cost.accepted.tokens_per_step() == Approx(3.0).margin(0.02));
}

}  // namespace
}  // namespace oriel::sim::node_cost_test
