// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The tables of docs/simulator.md: how well the fitted cost tells the published rates, and what
/// the assumed t0 changes.
#include <oriel/sim/node_cost.hpp>

#include <cstdio>

int main() {
  using namespace oriel::sim;
  const calibration c = calibrate_mimo_pro();
  std::printf("%.2f GFLOP a token, %.4f MFLOP a pair; F_lin %.3f, F_att %.3f PFLOP/s; t0 %.1f ms\n",
              c.linear_flops_token * 1e-9,
              c.attention_flops_pair * 1e-6,
              c.linear_flops_per_s * 1e-15,
              c.attention_flops_per_s * 1e-15,
              c.cost.step_s * 1e3);
  for (const prefill_point& p : c.points) {
    std::printf("%6.0f K: published %6.0f, predicted %6.0f tokens/s, %+5.1f %%%s\n",
                p.tokens / 1024.0,
                p.published_tokens_per_s,
                p.predicted_tokens_per_s,
                100.0 * p.error,
                p.is_held_out ? ", held out" : "");
  }
  std::printf("a chunk of 16 K behind 1 M: %.3f of the rate behind nothing\n", c.chunk_rate_at_1m);
  for (const double step_s : {0.0, 0.0025, 0.005, 0.01, 0.02}) {
    const calibration other = calibrate_mimo_pro({.step_s = step_s});
    const node_cost& cost = other.cost;
    std::printf(
        "t0 %4.1f ms: F_lin %.3f, F_att %.3f; worst held out %.1f %%; 727 tokens behind 117 K "
        "%.1f ms, 94 K behind nothing %.2f s\n",
        step_s * 1e3,
        other.linear_flops_per_s * 1e-15,
        other.attention_flops_per_s * 1e-15,
        100.0 * other.worst_held_out,
        1e3 * cost.seconds(117e3, 727, 16'384),
        cost.seconds(0.0, 94e3, 16'384));
  }
  for (const double sequences : {1.0, 16.0, 64.0, 256.0}) {
    std::printf("decode, %3.0f sequences of 117 K tokens: %.1f ms a step, %.0f tokens/s\n",
                sequences,
                1e3 * c.cost.decode_step_s(sequences, sequences * 117e3),
                sequences * c.cost.accepted.tokens_per_step() /
                    c.cost.decode_step_s(sequences, sequences * 117e3));
  }
}
