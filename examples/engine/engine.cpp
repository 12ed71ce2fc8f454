// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/engine.hpp>
#include <engine/error.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace oriel::engine {
namespace {

const engine_options& checked(const engine_options& o, const model_geometry& model) {
  if (o.page_tokens == 0 || o.page_tokens % kv_tile_tokens != 0) {
    throw error(
        fmt::format("page size {} is not a multiple of {} tokens", o.page_tokens, kv_tile_tokens));
  }
  if (o.chunk_tokens == 0 || o.sequences_max == 0) {
    throw error("chunk and number of sequences must be at least 1");
  }
  if (o.chunk_tokens < o.sequences_max) {
    throw error(fmt::format(
        "a chunk of {} tokens cannot serve {} sequences a step", o.chunk_tokens, o.sequences_max));
  }
  if (o.context_tokens < 2 || o.context_tokens > model.context_tokens) {
    throw error(fmt::format("context of {} tokens: {} allows 2 to {}",
                            o.context_tokens,
                            model.name,
                            model.context_tokens));
  }
  return o;
}

dual_pool<> make_pools(const model_geometry& model, const engine_options& o, dtype kv) {
  const auto shapes = kv_shapes_of(model.layers, kv);
  const auto plan = pool_plan::make(
      shapes,
      {.page_size = o.page_tokens, .step_tokens = std::min(o.chunk_tokens, o.context_tokens)});
  if (!plan) {
    throw error(fmt::format("the KV pools do not fit the model: {}", plan.error().detail));
  }
  const std::uint64_t tokens =
      o.kv_tokens != 0 ? o.kv_tokens : std::uint64_t{o.sequences_max} * o.context_tokens;
  pool_sizes sizes;
  for (std::uint32_t pool = 0; pool < plan->pools(); ++pool) {
    const std::uint64_t longest = plan->pages_for(pool_id{pool}, o.context_tokens);
    const std::uint64_t pages =
        pool == 0 ? std::max(longest, tokens / o.page_tokens) : longest * o.sequences_max;
    sizes.pages.push_back(static_cast<std::uint32_t>(std::min<std::uint64_t>(pages, 0xFFFF'FFFEu)));
  }
  auto pools = dual_pool<>::make(*plan, sizes);
  if (!pools) {
    throw error(fmt::format(
        "no memory for the KV pools ({} tokens): {}; lower -c", tokens, pools.error().detail));
  }
  return std::move(*pools);
}

std::vector<pool_layer> layer_homes(const dual_pool<>& pools) {
  std::vector<pool_layer> homes;
  for (std::uint32_t layer = 0; layer < pools.plan().layers(); ++layer) {
    homes.push_back(pools.layer(layer));
  }
  return homes;
}

runner_limits limits_of(const engine_options& o) {
  const std::uint64_t tokens = std::uint64_t{o.sequences_max} * o.context_tokens;
  return {.rows_max = static_cast<std::uint32_t>(std::min<std::uint64_t>(o.chunk_tokens, tokens)),
          .logit_rows_max = o.sequences_max,
          .sequences_max = o.sequences_max,
          .context_tokens = o.context_tokens};
}

}  // namespace

engine::engine(const model_geometry& model,
               const model_weights& weights,
               const tokenizer& tokens,
               const engine_options& options,
               executor_ref executor)
    : model_(model),
      tokenizer_(tokens),
      options_(checked(options, model)),
      kv_(options.kv.value_or(weights.compute)),
      executor_(executor),
      pools_(make_pools(model, options, kv_)),
      runner_(model,
              weights,
              layer_homes(pools_),
              options.page_tokens,
              kv_,
              limits_of(options),
              executor),
      sampler_(model.vocabulary, executor.concurrency(), weights.path),
      limits_{.vocabulary = model.vocabulary, .max_context_tokens = options.context_tokens} {
  tables_.resize(options.sequences_max);
}

status engine::submit(request r) {
  if (status fits = check(r, limits_); !fits) {
    return fits;
  }
  const auto has_id = [&](const request& other) { return other.id == r.id; };
  if (std::ranges::any_of(queued_, has_id) ||
      std::ranges::any_of(running_, has_id, &sequence::asked)) {
    return failure{errc::invalid_argument, 0, "a request with this id is being served"};
  }
  queued_.push_back(std::move(r));
  return {};
}

std::optional<event> engine::cancel(request_id id) {
  event last{.id = id, .token = {}, .text = {}, .finish = finish_reason::cancelled};
  const auto queued = std::ranges::find(queued_, id, &request::id);
  if (queued != queued_.end()) {
    queued_.erase(queued);
    metrics_.requests_cancelled.add();
    return last;
  }
  const auto running =
      std::ranges::find_if(running_, [&](const sequence& s) { return s.asked.id == id; });
  if (running == running_.end()) {
    return std::nullopt;
  }
  last.text = running->stream.finish(finish_reason::cancelled);
  promised_pages_ -= running->promised_pages;
  running_.erase(running);
  metrics_.requests_cancelled.add();
  return last;
}

std::span<const event> engine::step() {
  events_.clear();
  admit();
  choose_rows();
  compute();
  emit();
  return events_;
}

/// Admits queued requests in order of arrival while the longest form of the next one fits.
void engine::admit() {
  while (!queued_.empty() && running_.size() < options_.sequences_max) {
    const request& next = queued_.front();
    const auto prompt = static_cast<std::uint32_t>(next.prompt.size());
    // The last token is given out, never computed on.
    const std::uint32_t longest = prompt + next.max_new_tokens - 1;
    const std::uint64_t pages = pools_.plan().pages_for(full_pool, longest);
    if (promised_pages_ + pages > pools_.pool(full_pool).capacity()) {
      return;
    }
    auto kv = pools_.try_admit({.tokens_now = 0, .tokens_max = longest});
    if (!kv) {
      if (!running_.empty()) {
        return;
      }
      // Nobody will give anything back: waiting would be for ever.
      events_.push_back({.id = next.id, .token = {}, .text = {}, .finish = finish_reason::failed});
      metrics_.requests_failed.add();
      queued_.pop_front();
      continue;
    }
    promised_pages_ += pages;
    std::vector<token_id> tokens = next.prompt;
    tokens.reserve(std::size_t{longest} + 1);
    token_stream stream{next.stop, next.max_new_tokens};
    running_.push_back({.asked = std::move(queued_.front()),
                        .kv = std::move(*kv),
                        .stream = std::move(stream),
                        .tokens = std::move(tokens),
                        .promised_pages = pages});
    queued_.pop_front();
  }
}

/// Running sequences that have their prompt decode first; prompts share what is left of the budget.
void engine::choose_rows() {
  std::uint32_t budget = options_.chunk_tokens;
  const auto missing = [](const sequence& s) {
    return static_cast<std::uint32_t>(s.tokens.size()) - s.kv.length();
  };
  for (sequence& s : running_) {
    s.rows = missing(s) == 1 ? 1 : 0;
    budget -= s.rows;
  }
  for (sequence& s : running_) {
    if (s.rows == 0) {
      s.rows = std::min(missing(s), budget);
      budget -= s.rows;
    }
  }
}

/// Reserves pages for the chosen rows and computes them.
void engine::compute() {
  batch_.clear();
  rows_.clear();
  for (sequence& s : running_) {
    if (s.rows == 0) {
      continue;
    }
    const status reserved = s.kv.reserve(s.rows);
    ORIEL_EXPECTS(static_cast<bool>(reserved));  // Promised at admission.
    std::vector<block_table_view>& tables = tables_[batch_.size()];
    tables.clear();
    for (std::uint32_t pool = 0; pool < pools_.plan().pools(); ++pool) {
      tables.push_back(s.kv.table(pool_id{pool}));
    }
    const std::uint32_t first = s.kv.length();
    rows_.push_back({.tokens = std::span(s.tokens).subspan(first, s.rows),
                     .first_position = first,
                     .tables = tables,
                     .logit_rows = first + s.rows == s.tokens.size() ? 1u : 0u});
    batch_.push_back(&s);
  }
  if (rows_.empty()) {
    return;
  }
  logits_ = runner_.forward(rows_);
  std::uint64_t computed = 0;
  for (const step_rows& s : rows_) {
    computed += s.tokens.size();
  }
  metrics_.steps.add();
  metrics_.rows_per_step.add(computed);
}

/// Commits the computed rows, samples the sequences that reached their end, and tells what they
/// said.
void engine::emit() {
  sampled_rows_.clear();
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    sequence& s = *batch_[i];
    const std::size_t prompt = s.asked.prompt.size(), first = s.kv.length();
    metrics_.prompt_tokens.add(std::min<std::size_t>(prompt - std::min(prompt, first), s.rows));
    s.kv.commit(s.rows);
    if (s.rows > 1 && rows_[i].logit_rows != 0) {
      s.kv.give_back_spares(1);  // The prompt is done: a decode step appends one row.
    }
    if (rows_[i].logit_rows != 0) {
      sampled_rows_.push_back({.options = &s.asked.sampling, .position = s.tokens.size()});
    }
  }
  step_usage_ = usage();
  sampled_.resize(sampled_rows_.size());
  sampler_(logits_.data(), model_.vocabulary, sampled_rows_, sampled_, executor_);

  std::size_t next = 0;
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    if (rows_[i].logit_rows == 0) {
      continue;
    }
    take_token(*batch_[i], sampled_[next++]);
  }
  std::erase_if(running_, [&](const sequence& s) {
    const bool finished = s.stream.finished() != finish_reason::none;
    promised_pages_ -= finished ? s.promised_pages : 0;
    return finished;
  });
}

/// Appends the event of a new token; without one (the logits held no number), that of a failure.
void engine::take_token(sequence& s, sampled_token sampled) {
  event happened{.id = s.asked.id, .token = {}, .text = {}};
  if (sampled.probability > 0.0f) {
    s.tokens.push_back(sampled.id);
    happened.token = sampled.id;
    happened.text = s.stream.push(sampled.id, tokenizer_.bytes_of(sampled.id));
    metrics_.output_tokens.add();
  } else {
    happened.text = s.stream.finish(finish_reason::failed);
  }
  happened.finish = s.stream.finished();
  metrics_.requests_stopped.add(happened.finish == finish_reason::stop);
  metrics_.requests_cut.add(happened.finish == finish_reason::length);
  metrics_.requests_failed.add(happened.finish == finish_reason::failed);
  events_.push_back(std::move(happened));
}

kv_usage engine::usage() const noexcept {
  kv_usage usage{.bytes = pools_.used_bytes()};
  std::uint64_t row_bytes = 0;  // of a row that every layer keeps
  for (const layer_geometry& layer : model_.layers) {
    row_bytes += kv_bytes_per_token(layer.attention, kv_);
  }
  for (const sequence& s : running_) {
    const std::uint64_t pages = pools_.plan().pages_for(full_pool, s.kv.length());
    usage.uniform_bytes += row_bytes * pages * options_.page_tokens;
  }
  return usage;
}

}  // namespace oriel::engine
