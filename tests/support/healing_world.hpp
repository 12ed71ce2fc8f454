// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Pools and a model runner over random weights, for tests of heals: a cold run that keeps what a
/// prefix tree would keep, and heals of the same tokens in poisoned memory.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/core/thread_pool.hpp>
#include <oriel/kv/dual_pool.hpp>
#include <oriel/prefix/heal.hpp>

#include <engine/model_runner.hpp>
#include <engine/weight_loader.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

struct cold_options {
  std::vector<oriel::token_id> prompt;
  std::uint32_t decoded = 0;        ///< tokens generated behind it, greedily
  std::uint32_t chunk = 64;         ///< rows of a step at most
  std::uint32_t safe_length = 0;    ///< S: window pages are kept here; 0 = none
  std::uint32_t healed_length = 0;  ///< T: full pages are kept up to here, and its window pages
};

/// What a cold run leaves. The pages hold references that live as long as the world.
struct cold_run {
  std::vector<oriel::token_id> tokens;  ///< prompt and decoded ones
  std::uint32_t safe_length = 0, healed_length = 0;
  std::vector<float> logits;                                  ///< of the rows from T on
  std::vector<oriel::page_handle> full;                       ///< [T / page_size]
  std::vector<std::vector<oriel::page_handle>> safe_windows;  ///< [kinds] ends at S
  std::vector<std::vector<std::vector<std::byte>>> windows;   ///< [kinds][last pages before T]
};

struct heal_options {
  std::uint32_t chunk = 64;
  bool company = false;               ///< cold sequences and a second heal run in the same steps
  bool cut_at_healed_length = false;  ///< a chunk ends at T
};

struct heal_run {
  bool same_logits = false;           ///< from T on, decoded tokens included
  bool same_pages = true;             ///< window pages from the first published one on
  bool full_pages_untouched = false;  ///< the lent ones
  std::uint32_t pages_compared = 0;
  std::uint64_t heal_layer_rows = 0;  ///< of one heal
};

/// What a runner is made of.
struct healing_setup {
  const oriel::model_geometry& model;
  const oriel::engine::model_weights& weights;
  const oriel::pool_plan& plan;
  std::vector<oriel::pool_layer> layers_kv;
  oriel::engine::runner_limits limits;
};

class healing_world {
 public:
  using runner_maker =
      std::function<std::unique_ptr<oriel::engine::step_runner>(const healing_setup&)>;
  using pools_type = oriel::dual_pool<>;
  using sequence = pools_type::sequence_type;

  healing_world(const oriel::model_geometry& model,
                oriel::dtype compute,
                std::uint32_t page_tokens,
                std::uint64_t seed,
                const runner_maker& maker = {})
      : model_(model),
        weights_(oriel::engine::random_weights(model, compute, seed)),
        windows_(oriel::layer_windows(model)),
        page_tokens_(page_tokens),
        pools_(make_pools(model, compute, page_tokens)),
        runner_(make_runner(maker, compute)) {
    for (const std::uint32_t w : windows_) {  // In the order in which pool_plan numbers the kinds.
      if (w != 0 && std::ranges::find(kinds_, w) == kinds_.end()) {
        kinds_.push_back(w);
      }
    }
  }

  [[nodiscard]] const std::vector<std::uint32_t>& windows() const { return windows_; }
  [[nodiscard]] std::size_t window_kinds() const { return kinds_.size(); }

  [[nodiscard]] std::vector<oriel::token_id> random_tokens(std::uint32_t count,
                                                           std::uint64_t seed) const {
    oriel::random_stream draw(seed, 99);
    std::vector<oriel::token_id> tokens;
    for (std::uint32_t i = 0; i < count; ++i) {
      tokens.push_back(oriel::token_id{draw.next_below(model_.vocabulary)});
    }
    return tokens;
  }

  /// Runs every row, in chunks that end at S, T and the prompt's end too.
  cold_run run_cold(const cold_options& o) {
    cold_run run;
    run.tokens = o.prompt;
    run.safe_length = o.safe_length;
    run.healed_length = o.healed_length;
    const std::uint32_t last = size_of(o.prompt) + o.decoded;
    std::vector<part> parts;
    parts.push_back({admit({.tokens_now = 0, .tokens_max = context})});
    part& s = parts.front();
    while (s.kv.length() < last) {
      const std::uint32_t at = s.kv.length();
      std::uint32_t end = std::min(at + o.chunk, size_of(run.tokens));
      for (const std::uint32_t stop : {o.safe_length, o.healed_length}) {
        end = at < stop ? std::min(end, stop) : end;
      }
      s.rows = end - at;
      s.logit_rows = at >= o.healed_length ? s.rows : 0;
      const std::span<const float> logits = step(parts, run.tokens);
      run.logits.insert(run.logits.end(), logits.begin(), logits.end());
      if (end == size_of(run.tokens)) {
        const auto row = logits.last(model_.vocabulary);
        const auto best = std::ranges::max_element(row) - row.begin();
        run.tokens.push_back(oriel::token_id{static_cast<std::uint32_t>(best)});
      }
      keep_pages(s.kv, run);
    }
    run.tokens.pop_back();  // Never computed on.
    return run;
  }

  /// Makes the lent full pages hold something else, so that a write of the right bytes shows.
  void overwrite_full_pages(const cold_run& cold) {
    for (const oriel::page_handle page : cold.full) {
      std::ranges::fill(pools_.pool(oriel::full_pool).bytes(page), std::byte{0x11});
    }
  }

  /// Runs the heal and then the rest of the tokens, and compares.
  heal_run heal(const cold_run& cold, const oriel::heal_plan& plan, const heal_options& o) {
    poison_free_pages();
    const auto full_before = bytes_of(oriel::full_pool, cold.full);
    const std::uint64_t rows_before = runner_->counts().heal_layer_rows;
    std::vector<part> parts;
    const std::size_t me = o.company ? 1 : 0;
    if (o.company) {  // A stranger, the heal, another stranger, the same heal once more.
      parts.push_back({admit({.tokens_now = 0, .tokens_max = context})});
      parts.push_back({start_heal(cold, plan), &plan});
      parts.push_back({admit({.tokens_now = 0, .tokens_max = context})});
    }
    parts.push_back({start_heal(cold, plan), &plan});
    heal_run result;
    std::vector<float> logits;
    const std::uint32_t tokens = size_of(cold.tokens), stop = plan.length;
    for (std::uint32_t n = 0; parts[me].kv.length() < tokens; ++n) {
      for (std::size_t i = 0; i < parts.size(); ++i) {  // The others run at a pace of their own.
        const std::uint32_t left = tokens - parts[i].kv.length();
        parts[i].rows = std::min(left, (n * 5 + static_cast<std::uint32_t>(i) * 3) % (o.chunk + 2));
      }
      part& s = parts[me];
      const std::uint32_t at = s.kv.length();
      std::uint32_t end = std::min(at + o.chunk, tokens);
      end = o.cut_at_healed_length && at < stop ? std::min(end, stop) : end;
      s.rows = end - at;
      s.logit_rows = end > stop ? end - std::max(at, stop) : 0;
      const std::span<const float> out = step(parts, cold.tokens);
      logits.insert(logits.end(), out.begin(), out.end());
      if (at < stop && end >= stop) {
        compare_pages(cold, s.kv, plan, result);
      }
    }
    parts[me].rows = parts[me].logit_rows = 0;
    finish_heals(parts, me, cold.tokens);
    result.heal_layer_rows =
        (runner_->counts().heal_layer_rows - rows_before) / (o.company ? 2 : 1);
    result.same_logits =
        logits.size() == cold.logits.size() &&
        std::memcmp(logits.data(), cold.logits.data(), logits.size() * sizeof(float)) == 0;
    result.full_pages_untouched = bytes_of(oriel::full_pool, cold.full) == full_before;
    return result;
  }

 private:
  std::unique_ptr<oriel::engine::step_runner> make_runner(const runner_maker& maker,
                                                          oriel::dtype compute) {
    const oriel::engine::runner_limits limits{.rows_max = sequences_max * step_max,
                                              .logit_rows_max = step_max,
                                              .sequences_max = sequences_max,
                                              .context_tokens = context};
    if (maker) {
      return maker({model_, weights_, pools_.plan(), homes(), limits});
    }
    return std::make_unique<oriel::engine::model_runner>(
        model_, weights_, homes(), page_tokens_, compute, limits, threads_);
  }

  static constexpr std::uint32_t step_max = 72, context = 512, sequences_max = 4;

  /// One sequence of a batch.
  struct part {
    sequence kv;
    const oriel::heal_plan* heal = nullptr;
    std::uint32_t rows = 0, logit_rows = 0;  // of the next step
  };

  static std::uint32_t size_of(const std::vector<oriel::token_id>& tokens) {
    return static_cast<std::uint32_t>(tokens.size());
  }

  static pools_type make_pools(const oriel::model_geometry& model,
                               oriel::dtype kv,
                               std::uint32_t page_tokens) {
    auto plan = oriel::pool_plan::make(oriel::kv_shapes_of(model.layers, kv),
                                       {.page_size = page_tokens, .step_tokens = step_max});
    oriel::pool_sizes sizes;
    for (std::uint32_t pool = 0; pool < plan->pools(); ++pool) {
      sizes.pages.push_back(8 * plan->pages_for(oriel::pool_id{pool}, context));
    }
    return *pools_type::make(*plan, sizes);
  }

  [[nodiscard]] std::vector<oriel::pool_layer> homes() const {
    std::vector<oriel::pool_layer> homes;
    for (std::uint32_t l = 0; l < pools_.plan().layers(); ++l) {
      homes.push_back(pools_.layer(l));
    }
    return homes;
  }

  sequence admit(const oriel::admission& wanted) {
    auto admitted = pools_.try_admit(wanted);
    if (!admitted) {
      throw std::runtime_error("the test's pools are too small");
    }
    return std::move(*admitted);
  }

  sequence start_heal(const cold_run& cold, const oriel::heal_plan& plan) {
    std::vector<std::uint32_t> first_shared;
    for (const std::uint32_t window : kinds_) {
      first_shared.push_back(plan.first_healed_page(window));
    }
    const std::vector<std::span<const oriel::page_handle>> lent(cold.safe_windows.begin(),
                                                                cold.safe_windows.end());
    oriel::borrowed_prefix prefix{.length = plan.length, .full = cold.full};
    if (plan.reads_window_at_safe_length()) {
      prefix.windows = lent;
    }
    if (plan.first_row() < plan.length) {
      prefix.heal = oriel::heal_start{plan.first_row(), first_shared};
    } else if (!plan.reads_window_at_safe_length()) {
      // No row to run: windows of one token have no page to lend either.
      empty_.assign(kinds_.size(), {});
      prefix.windows = empty_;
    }
    return admit({.tokens_now = plan.length, .tokens_max = context, .prefix = prefix});
  }

  /// One forward pass over the parts that have rows.
  std::span<const float> step(std::vector<part>& parts,
                              const std::vector<oriel::token_id>& tokens) {
    std::vector<oriel::engine::step_rows> batch;
    std::vector<std::vector<oriel::block_table_view>> tables(parts.size());
    for (std::size_t i = 0; i < parts.size(); ++i) {
      part& p = parts[i];
      if (!p.kv.reserve(p.rows)) {
        throw std::runtime_error("the test's pools are too small");
      }
      for (std::uint32_t pool = 0; pool < pools_.pools(); ++pool) {
        tables[i].push_back(p.kv.table(oriel::pool_id{pool}));
      }
      if (p.rows != 0) {
        batch.push_back({.tokens = std::span(tokens).subspan(p.kv.length(), p.rows),
                         .first_position = p.kv.length(),
                         .tables = tables[i],
                         .logit_rows = p.logit_rows,
                         .heal = p.heal});
      }
    }
    const std::span<const float> logits = runner_->forward(batch);
    for (part& p : parts) {
      p.kv.commit(p.rows);
    }
    return logits;
  }

  /// Runs on until every heal is through, so that its rows can be counted.
  void finish_heals(std::vector<part>& parts,
                    std::size_t done,
                    const std::vector<oriel::token_id>& tokens) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      while (i != done && parts[i].heal != nullptr && parts[i].kv.healing()) {
        for (part& p : parts) {
          p.rows = &p == &parts[i] ? std::min(step_max, p.heal->length - p.kv.length()) : 0;
        }
        (void)step(parts, tokens);
      }
    }
  }

  /// Keeps what a prefix tree would, when the cold run stands at S or T.
  void keep_pages(sequence& s, cold_run& run) {
    const std::uint32_t pages = s.length() / page_tokens_;
    for (std::uint32_t kind = 0; kind < kinds_.size(); ++kind) {
      const oriel::pool_id pool = oriel::window_pool(kind);
      if (s.length() == run.safe_length) {
        run.safe_windows.emplace_back();
        const std::uint32_t behind = kinds_[kind] - 1;
        const std::uint32_t first = s.length() > behind ? (s.length() - behind) / page_tokens_ : 0;
        for (std::uint32_t j = first; j < pages; ++j) {
          run.safe_windows.back().push_back(s.share(pool, j));
        }
      }
      if (s.length() == run.healed_length) {
        run.windows.emplace_back();
        for (std::uint32_t j = s.ring(kind).first_page(); j < pages; ++j) {
          const auto bytes = pools_.pool(pool).bytes(s.ring(kind)[j]);
          run.windows.back().emplace_back(bytes.begin(), bytes.end());
        }
      }
    }
    for (std::uint32_t j = 0; s.length() == run.healed_length && j < pages; ++j) {
      run.full.push_back(s.share(oriel::full_pool, j));
    }
  }

  /// The pages that the heal may publish and that have not slid out, against the cold run's.
  void compare_pages(const cold_run& cold,
                     const sequence& s,
                     const oriel::heal_plan& plan,
                     heal_run& result) {
    const std::uint32_t pages = plan.length / page_tokens_;
    for (std::uint32_t kind = 0; kind < kinds_.size(); ++kind) {
      const auto& expected = cold.windows[kind];
      const std::uint32_t oldest = pages - static_cast<std::uint32_t>(expected.size());
      const std::uint32_t first = s.ring(kind).first_shareable_page();
      result.same_pages &= first >= oldest;
      for (std::uint32_t j = std::max(first, oldest); j < pages; ++j) {
        const auto bytes = pools_.pool(oriel::window_pool(kind)).bytes(s.ring(kind)[j]);
        result.same_pages &= std::ranges::equal(bytes, expected[j - oldest]);
        ++result.pages_compared;
      }
    }
  }

  /// What nobody holds becomes NaN everywhere.
  void poison_free_pages() {
    for (std::uint32_t i = 0; i < pools_.pools(); ++i) {
      auto& pool = pools_.pool(oriel::pool_id{i});
      std::vector<oriel::page_handle> pages(pool.available());
      (void)pool.try_allocate(pages);
      for (const oriel::page_handle page : pages) {
        std::ranges::fill(pool.bytes(page), std::byte{0xFF});
      }
      pool.release(pages);
    }
  }

  [[nodiscard]] std::vector<std::byte> bytes_of(oriel::pool_id pool,
                                                const std::vector<oriel::page_handle>& pages) {
    std::vector<std::byte> all;
    for (const oriel::page_handle page : pages) {
      const auto bytes = pools_.pool(pool).bytes(page);
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  }

  const oriel::model_geometry& model_;
  oriel::engine::model_weights weights_;
  std::vector<std::uint32_t> windows_;  // [layers]
  std::vector<std::uint32_t> kinds_;    // [window kinds] tokens
  std::vector<std::span<const oriel::page_handle>> empty_;
  std::uint32_t page_tokens_;
  oriel::thread_pool threads_{1};
  pools_type pools_;
  std::unique_ptr<oriel::engine::step_runner> runner_;
};
