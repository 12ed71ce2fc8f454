// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What a heal costs beside recomputing the prefix: random weights, 2 full and 10 window layers,
// W = 64, hidden 1,024, prefixes of `F` tokens whose window KV is gone. Both take turns, so that a
// machine shared with others slows both; the ratio is of medians.
#include <oriel/core/thread_pool.hpp>
#include <oriel/kv/dual_pool.hpp>
#include <oriel/model/presets.hpp>
#include <oriel/prefix/heal.hpp>

#include <benchmark/benchmark.h>
#include <engine/model_runner.hpp>
#include <engine/weight_loader.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace {

using namespace oriel;
using sequence = dual_pool<>::sequence_type;

constexpr std::uint32_t page_tokens = 64, chunk_tokens = 512, context = 8'192 + page_tokens;

model_geometry bench_model() {
  model_geometry m = *preset("bench-0.4b");  // Hidden 1,024.
  const layer_geometry full = m.layers[0];
  layer_geometry window = m.layers[1];
  window.attention.window_tokens = 64;
  m.layers.assign(12, window);
  m.layers[0] = m.layers[6] = full;
  m.vocabulary = 1'024;
  return m;
}

class world {
 public:
  world()
      : model_(bench_model()),
        weights_(engine::random_weights(model_, dtype::bf16, 1)),
        windows_(layer_windows(model_)),
        pools_(make_pools()),
        runner_(model_,
                weights_,
                homes(),
                page_tokens,
                dtype::bf16,
                {.rows_max = chunk_tokens,
                 .logit_rows_max = 1,
                 .sequences_max = 1,
                 .context_tokens = context},
                threads_) {
    for (std::uint32_t i = 0; i < context; ++i) {
      tokens_.push_back(token_id{i * 7 % model_.vocabulary});
    }
  }

  heal_plan plan(std::uint32_t full_length) const {
    return plan_heal({windows_, page_tokens},
                     {.full_length = full_length, .prompt_tokens = full_length + 1});
  }

  sequence cold() { return admit({}); }

  sequence healing(const sequence& cached, const heal_plan& plan) {
    const std::uint32_t first_shared = plan.first_healed_page(64);
    return admit({.length = plan.length,
                  .full = cached.full_pages().handles().first(plan.length / page_tokens),
                  .heal = heal_start{plan.first_row(), {&first_shared, 1}}});
  }

  /// Seconds to run the rows up to `length`.
  double run(sequence& s, std::uint32_t length, const heal_plan* heal) {
    const auto begin = std::chrono::steady_clock::now();
    while (s.length() < length) {
      const std::uint32_t rows = std::min(chunk_tokens, length - s.length());
      if (!s.reserve(rows)) {
        throw std::runtime_error("the pools are too small");
      }
      const block_table_view tables[]{s.table(full_pool), s.table(window_pool(0))};
      const engine::step_rows batch{.tokens = std::span(tokens_).subspan(s.length(), rows),
                                    .first_position = s.length(),
                                    .tables = tables,
                                    .heal = heal};
      runner_.forward({&batch, 1});
      s.commit(rows);
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  [[nodiscard]] std::size_t layers() const { return windows_.size(); }

 private:
  dual_pool<> make_pools() const {
    const auto plan = pool_plan::make(kv_shapes_of(model_.layers, dtype::bf16),
                                      {.page_size = page_tokens, .step_tokens = chunk_tokens});
    pool_sizes sizes;
    for (std::uint32_t pool = 0; pool < plan->pools(); ++pool) {
      sizes.pages.push_back(2 * plan->pages_for(pool_id{pool}, context));
    }
    return *dual_pool<>::make(*plan, sizes);
  }

  std::vector<pool_layer> homes() const {
    std::vector<pool_layer> homes;
    for (std::uint32_t l = 0; l < pools_.plan().layers(); ++l) {
      homes.push_back(pools_.layer(l));
    }
    return homes;
  }

  sequence admit(const borrowed_prefix& prefix) {
    auto admitted =
        pools_.try_admit({.tokens_now = prefix.length, .tokens_max = context, .prefix = prefix});
    if (!admitted) {
      throw std::runtime_error("the pools are too small");
    }
    return std::move(*admitted);
  }

  model_geometry model_;
  engine::model_weights weights_;
  std::vector<std::uint32_t> windows_;
  dual_pool<> pools_;
  thread_pool threads_{2};
  engine::model_runner runner_;
  std::vector<token_id> tokens_;
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void heal_beside_recompute(benchmark::State& state) {
  static world w;
  const auto length = static_cast<std::uint32_t>(state.range(0));
  const heal_plan plan = w.plan(length);
  std::vector<double> recompute, heal;
  for (auto _ : state) {
    sequence cached = w.cold();
    recompute.push_back(w.run(cached, length, nullptr));
    sequence healing = w.healing(cached, plan);
    heal.push_back(w.run(healing, length, &plan));
    state.SetIterationTime(heal.back());
  }
  state.counters["recompute_s"] = median(recompute);
  state.counters["heal_s"] = median(heal);
  state.counters["ratio"] = median(heal) / median(recompute);
  state.counters["token_equivalents"] = token_equivalents(plan.layer_rows, w.layers());
}

BENCHMARK(heal_beside_recompute)
    ->ArgName("F")
    ->Arg(2'048)
    ->Arg(8'192)
    ->Iterations(3)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
