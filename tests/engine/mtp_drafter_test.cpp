// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// mtp_drafter keeps the law of drafters, however its rows come and whoever runs beside it.
#include "engine/with_blocks.hpp"

#include <catch2/catch.hpp>
#include <conformance/drafter_suite.hpp>
#include <engine/engine_pools.hpp>
#include <engine/mtp_drafter.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace mtp_drafter_test {

using namespace oriel;
using namespace oriel::engine;
using namespace engine_life;

namespace {

constexpr std::uint32_t context = 160, sequences = 6;

/// What the drafters of a test share: a model that computes rows, its blocks, pools.
struct shared_model {
  explicit shared_model(const mtp_options& how)
      : books(with_blocks({0, 16, 16}, false, 16, 51)),
        pools(make_pools(books.model, options(), books.weights.compute)),
        runner(books.model,
               books.weights,
               layer_homes(pools),
               options().page_tokens,
               books.weights.compute,
               {.rows_max = context,
                .logit_rows_max = sequences,
                .sequences_max = sequences,
                .context_tokens = context},
               threads),
        choose(books.model.vocabulary, 1),
        blocks(runner, choose, books.model, how) {}

  static engine_options options() {
    engine_options o{
        .chunk_tokens = context, .sequences_max = sequences, .context_tokens = context};
    o.prefix_cache = false;
    o.speculation.drafter = drafter_kind::mtp;
    return o;
  }

  library books;
  thread_pool threads{1};
  host_pools pools;
  model_runner runner;
  sampler choose;
  mtp_blocks blocks;
};

/// mtp_drafter with the part that the engine plays: it computes the rows of the tokens told, but
/// for the last one.
class over_a_model {
 public:
  over_a_model(shared_model& model, const sampling_options& options)
      : model_(&model),
        kv_(std::make_unique<mtp_drafter::sequence_type>(
            *model.pools.try_admit({.tokens_now = 0, .tokens_max = context}))),
        drafter_(model.blocks, *kv_, options) {}

  [[nodiscard]] std::uint32_t max_draft_tokens() const { return drafter_.max_draft_tokens(); }
  void accept(std::span<const token_id> tokens) {
    text_.insert(text_.end(), tokens.begin(), tokens.end());
    drafter_.accept(tokens);
    const auto known = static_cast<std::uint32_t>(text_.size());
    if (known < kv_->length() + 2) {
      return;
    }
    const std::uint32_t rows = known - 1 - kv_->length();
    REQUIRE(kv_->reserve(rows));
    std::vector<block_table_view> tables;
    for (std::uint32_t pool = 0; pool < model_->pools.pools(); ++pool) {
      tables.push_back(kv_->table(pool_id{pool}));
    }
    const step_rows step{.tokens = std::span(text_).subspan(kv_->length(), rows),
                         .first_position = kv_->length(),
                         .tables = tables};
    (void)model_->runner.forward({&step, 1});
    drafter_.add_rows(model_->runner.hidden_of(0).values);
    kv_->accept(rows);
    if (drafter_.rows() > waiting_rows_max) {
      mtp_drafter* const self = &drafter_;
      model_->blocks.run({&self, 1});
    }
    kv_->slide_out();
  }
  std::size_t draft(std::span<drafted_token> out) { return drafter_.draft(out); }

 private:
  shared_model* model_;
  std::unique_ptr<mtp_drafter::sequence_type> kv_;
  mtp_drafter drafter_;
  std::vector<token_id> text_;
};

static_assert(drafter<over_a_model>);

}  // namespace

TEST_CASE("mtp_drafter keeps the law of drafters: sure drafts") {
  shared_model model({.blocks = 3});
  const sampling_options greedy{.temperature = 0.0f};
  check_drafter([&] { return over_a_model(model, greedy); }, model.books.model.vocabulary);
}

TEST_CASE("mtp_drafter keeps the law of drafters: blocks that are told the one before") {
  shared_model model({.blocks = 3, .chains_hidden = true});
  const sampling_options greedy{.temperature = 0.0f};
  check_drafter([&] { return over_a_model(model, greedy); }, model.books.model.vocabulary);
}

TEST_CASE("mtp_drafter keeps the law of drafters: drawn drafts") {
  shared_model model({.blocks = 3, .draws = true});
  const sampling_options drawn{.temperature = 0.8f, .top_k = 20, .seed = 9};
  check_drafter([&] { return over_a_model(model, drawn); }, model.books.model.vocabulary);
  over_a_model d(model, drawn);
  d.accept(drafter_law::text(3, 40, model.books.model.vocabulary));
  std::vector<drafted_token> out(3);
  REQUIRE(d.draft(out) == 3);
  for (const drafted_token& draft : out) {
    CHECK(!draft.is_sure());
    CHECK(draft.proposal.ids.size() == 20);  // After the request's own filters.
  }
}

}  // namespace mtp_drafter_test
