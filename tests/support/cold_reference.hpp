// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a model says when nothing is cached: the logits of every position of a document, from one
/// sequence that runs alone in pools of its own.
#pragma once

#include <oriel/core/thread_pool.hpp>
#include <oriel/kv/dual_pool.hpp>

#include <engine/model_runner.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

/// A prompt, what follows it greedily, and the logits behind each token.
struct document {
  std::vector<oriel::token_id> tokens;  ///< prompt and answer
  std::uint32_t prompt_tokens = 0;
  std::vector<float> logits = {};  ///< [rows, vocabulary]: row i is behind token first_row + i
  std::uint32_t first_row = 0;

  /// Behind the token at `row`. @pre row >= first_row
  [[nodiscard]] std::span<const float> logits_behind(std::uint32_t row,
                                                     std::uint32_t vocabulary) const {
    return std::span(logits).subspan(std::size_t{row - first_row} * vocabulary, vocabulary);
  }
};

class cold_reference {
 public:
  cold_reference(const oriel::model_geometry& model,
                 const oriel::engine::model_weights& weights,
                 std::uint32_t context_tokens)
      : model_(model),
        context_(context_tokens),
        pools_(make_pools(model, weights.compute, context_tokens)),
        runner_(model,
                weights,
                homes(),
                page_tokens,
                weights.compute,
                {.rows_max = chunk,
                 .logit_rows_max = chunk,
                 .sequences_max = 1,
                 .context_tokens = context_tokens},
                threads_) {}

  /// @param keeps_all  the logits of the prompt as well; else only those behind it
  [[nodiscard]] document run(std::vector<oriel::token_id> prompt,
                             std::uint32_t answer_tokens,
                             bool keeps_all = true) {
    document d{.tokens = std::move(prompt)};
    d.prompt_tokens = static_cast<std::uint32_t>(d.tokens.size());
    d.first_row = keeps_all ? 0 : d.prompt_tokens - 1;
    auto sequence = pools_.try_admit({.tokens_now = 0, .tokens_max = context_});
    while (d.tokens.size() < std::size_t{d.prompt_tokens} + answer_tokens) {
      const std::uint32_t first = sequence->length();
      const std::uint32_t rows =
          std::min(chunk, static_cast<std::uint32_t>(d.tokens.size()) - first);
      if (!sequence->reserve(rows)) {
        throw std::runtime_error("the reference's pools are too small");
      }
      std::vector<oriel::block_table_view> tables;
      for (std::uint32_t pool = 0; pool < pools_.pools(); ++pool) {
        tables.push_back(sequence->table(oriel::pool_id{pool}));
      }
      const oriel::engine::step_rows step{
          .tokens = std::span(d.tokens).subspan(first, rows),
          .first_position = first,
          .tables = tables,
          .logit_rows = std::min(rows, first + rows - std::min(d.first_row, first + rows))};
      const std::span<const float> logits = runner_.forward({&step, 1});
      d.logits.insert(d.logits.end(), logits.begin(), logits.end());
      sequence->commit(rows);
      if (sequence->length() == d.tokens.size()) {
        const auto row = logits.last(model_.vocabulary);
        const auto best = std::ranges::max_element(row) - row.begin();
        d.tokens.push_back(oriel::token_id{static_cast<std::uint32_t>(best)});
      }
    }
    return d;
  }

 private:
  static constexpr std::uint32_t chunk = 64, page_tokens = 16;

  static oriel::dual_pool<> make_pools(const oriel::model_geometry& model,
                                       oriel::dtype kv,
                                       std::uint32_t context) {
    auto plan = oriel::pool_plan::make(oriel::kv_shapes_of(model.layers, kv),
                                       {.page_size = page_tokens, .step_tokens = chunk});
    oriel::pool_sizes sizes;
    for (std::uint32_t pool = 0; pool < plan->pools(); ++pool) {
      sizes.pages.push_back(plan->pages_for(oriel::pool_id{pool}, context));
    }
    return *oriel::dual_pool<>::make(*plan, sizes);
  }

  [[nodiscard]] std::vector<oriel::pool_layer> homes() const {
    std::vector<oriel::pool_layer> homes;
    for (std::uint32_t l = 0; l < pools_.plan().layers(); ++l) {
      homes.push_back(pools_.layer(l));
    }
    return homes;
  }

  const oriel::model_geometry& model_;
  std::uint32_t context_;
  oriel::thread_pool threads_{1};
  oriel::dual_pool<> pools_;
  oriel::engine::model_runner runner_;
};
