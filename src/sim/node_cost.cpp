// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/model/cost.hpp>
#include <oriel/model/presets.hpp>
#include <oriel/sim/node_cost.hpp>

#include <algorithm>
#include <array>
#include <cmath>

namespace oriel::sim {
namespace {

constexpr double k_tokens = 1'024.0;

/// A node of 8 H200, MiMo-V2.5-Pro, nothing cached: "Full-Pipeline Inference Optimization for
/// MiMo-V2.5 Series" (arXiv 2607.13095). Half of the points are held out of the fit.
constexpr std::array published = {
    prefill_point{.tokens = 4 * k_tokens, .published_tokens_per_s = 30'800},
    prefill_point{.tokens = 16 * k_tokens, .published_tokens_per_s = 29'850, .is_held_out = true},
    prefill_point{.tokens = 64 * k_tokens, .published_tokens_per_s = 26'650},
    prefill_point{.tokens = 128 * k_tokens, .published_tokens_per_s = 23'000, .is_held_out = true},
    prefill_point{.tokens = 256 * k_tokens, .published_tokens_per_s = 17'900},
    prefill_point{.tokens = 512 * k_tokens, .published_tokens_per_s = 11'300, .is_held_out = true},
    prefill_point{.tokens = 768 * k_tokens, .published_tokens_per_s = 9'400, .is_held_out = true},
    prefill_point{.tokens = 1'024 * k_tokens, .published_tokens_per_s = 7'300},
};

/// Operations of a token that do not grow with its position: two for each active parameter, as
/// published counts do, and the attention of full windows.
double linear_flops_of(const model_geometry& model) {
  double flops = 2.0 * static_cast<double>(count_parameters(model).active);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const attention_geometry& a = model.layers[i].attention;
    if (a.kind == attention_kind::window) {
      flops += static_cast<double>(
          layer_flops(model, i, a.window_tokens, a.window_tokens + 1).attention);
    }
  }
  return flops;
}

/// Operations of a token for each one before it.
double attention_flops_of(const model_geometry& model) {
  double flops = 0.0;
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    if (model.layers[i].attention.kind == attention_kind::full) {
      flops += static_cast<double>(layer_flops(model, i, 0, 1).attention);
    }
  }
  return flops;
}

/// x and y of least squares of x * a + y * b = c, row by row.
struct two_rates {
  double aa = 0.0, ab = 0.0, bb = 0.0, ac = 0.0, bc = 0.0;
  void add(double a, double b, double c) {
    aa += a * a;
    ab += a * b;
    bb += b * b;
    ac += a * c;
    bc += b * c;
  }
  [[nodiscard]] double x() const { return (ac * bb - bc * ab) / (aa * bb - ab * ab); }
  [[nodiscard]] double y() const { return (bc * aa - ac * ab) / (aa * bb - ab * ab); }
};

void set_decode(node_cost& cost, const model_geometry& model, dtype weights, dtype kv) {
  double chosen_bytes = 0.0;  // of the experts that one token reads
  for (const layer_geometry& layer : model.layers) {
    if (layer.ffn.is_moe()) {
      const double one =
          3.0 * layer.ffn.intermediate * model.hidden * static_cast<double>(size_bytes(weights));
      chosen_bytes += layer.ffn.top_k * one;
      cost.expert_bytes += layer.ffn.experts * one;
      cost.experts = layer.ffn.experts;
      cost.top_k = layer.ffn.top_k;
    }
  }
  cost.weight_bytes_dense =
      static_cast<double>(weight_bytes_per_token(model, weights)) - chosen_bytes;
  cost.kv_bytes_token = static_cast<double>(kv_bytes_per_token_full(model, kv));
  cost.kv_bytes_window = static_cast<double>(window_bytes_per_sequence(model, kv));
}

}  // namespace

acceptance acceptance::of_drafts(double rate, std::uint32_t drafts) {
  ORIEL_EXPECTS(rate >= 0.0 && rate <= 1.0);
  acceptance a;
  a.share.clear();
  double reached = 1.0;
  for (std::uint32_t i = 0; i < drafts; ++i) {
    a.share.push_back(reached * (1.0 - rate));
    reached *= rate;
  }
  a.share.push_back(reached);
  return a;
}

double acceptance::tokens_per_step() const noexcept {
  double sum = 0.0;
  for (std::size_t i = 0; i < share.size(); ++i) {
    sum += share[i] * static_cast<double>(i + 1);
  }
  return sum;
}

std::uint32_t acceptance::tokens_of(double uniform) const noexcept {
  std::uint32_t tokens = 1;
  for (std::size_t i = 0; i + 1 < share.size() && uniform >= share[i]; ++i) {
    uniform -= share[i];
    ++tokens;
  }
  return tokens;
}

double node_cost::seconds(double behind, double tokens, double chunk_tokens) const noexcept {
  ORIEL_EXPECTS(chunk_tokens > 0.0);
  // The seconds of chunks one behind another are those of all at once.
  return step_s * std::ceil(tokens / chunk_tokens) + chunk_s(behind, tokens);
}

double node_cost::barrier_s(std::span<const rank_work> ranks) const noexcept {
  ORIEL_EXPECTS(!ranks.empty());
  double slowest_s = 0.0, linear_s = 0.0;
  for (const rank_work& r : ranks) {
    const double own_s = r.attention_s + (1.0 - expert_share) * r.linear_s;
    slowest_s = ORIEL_MUTANT(barrier_waits_for_nobody)
                    ? slowest_s + own_s / static_cast<double>(ranks.size())
                    : std::max(slowest_s, own_s);
    linear_s += r.linear_s;
  }
  return step_s + (1.0 + mtp_share) * (static_cast<double>(ranks.size()) * slowest_s +
                                       expert_share * linear_s / expert_balance);
}

chunk_cost node_cost::own_cost(std::uint32_t ranks) const noexcept {
  const double share = (1.0 + mtp_share) * ranks;
  return {.token_s = share * (1.0 - expert_share) * prefill.token_s,
          .pair_s = share * prefill.pair_s};
}

double node_cost::decode_step_s(double sequences, double resident_tokens) const noexcept {
  const double touched = 1.0 - std::pow(1.0 - top_k / experts, sequences);
  return (weight_bytes_dense + touched * expert_bytes + sequences * kv_bytes_window +
          resident_tokens * kv_bytes_token) /
         bytes_per_s;
}

std::span<const prefill_point> published_prefill() noexcept {
  return published;
}

calibration calibrate(const model_geometry& model, const calibration_options& options) {
  calibration c;
  c.linear_flops_token = linear_flops_of(model);
  c.attention_flops_pair = attention_flops_of(model);
  const double more = 1.0 + options.mtp_share;
  two_rates fit;  // Rows are shares of the published seconds, so that all points count the same.
  for (const prefill_point& p : published) {
    const double all_s = p.tokens / p.published_tokens_per_s;
    const double steps_s = options.step_s * std::ceil(p.tokens / options.chunk_tokens);
    ORIEL_EXPECTS(steps_s >= 0.0 && steps_s < all_s);
    if (!p.is_held_out || ORIEL_MUTANT(held_out_points_are_fitted)) {
      fit.add(c.linear_flops_token * more * p.tokens / all_s,
              c.attention_flops_pair * more * p.tokens * p.tokens / 2.0 / all_s,
              (all_s - steps_s) / all_s);
    }
  }
  c.linear_flops_per_s = 1.0 / fit.x();
  c.attention_flops_per_s = 1.0 / fit.y();
  c.cost.step_s = options.step_s;
  c.cost.mtp_share = options.mtp_share;
  c.cost.prefill = {.token_s = c.linear_flops_token * fit.x(),
                    .pair_s = c.attention_flops_pair * fit.y()};
  for (prefill_point p : published) {
    p.predicted_tokens_per_s = p.tokens / c.cost.seconds(0.0, p.tokens, options.chunk_tokens);
    p.error = p.predicted_tokens_per_s / p.published_tokens_per_s - 1.0;
    c.worst_held_out =
        p.is_held_out ? std::max(c.worst_held_out, std::abs(p.error)) : c.worst_held_out;
    c.points.push_back(p);
  }
  const double chunk = 16 * k_tokens;
  c.chunk_rate_at_1m =
      c.cost.seconds(0.0, chunk, chunk) / c.cost.seconds(1'024 * k_tokens, chunk, chunk);
  set_decode(c.cost, model, dtype::e4m3, dtype::bf16);
  return c;
}

calibration calibrate_mimo_pro(const calibration_options& options) {
  calibration c = calibrate(*preset("mimo-v2.5-pro"), options);
  c.cost.accepted = acceptance::of_drafts(0.81, 3);
  return c;
}

}  // namespace oriel::sim
