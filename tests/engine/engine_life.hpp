// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Lives of engines on documents that share prefixes: whatever a request finds in the cache, and
/// whoever drafts for it, its logits have the bits of a cold run.
#pragma once

#include "support/cold_reference.hpp"
#include "support/engine_accounts.hpp"
#include "support/no_text.hpp"
#include "support/plain_store.hpp"
#include "support/scale.hpp"
#include "support/toy_model.hpp"

#include <oriel/core/random.hpp>
#include <oriel/core/thread_pool.hpp>

#include <catch2/catch.hpp>
#include <engine/engine.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/weight_loader.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace engine_life {

using namespace oriel;
using namespace oriel::engine;

/// Makes the tiers of one engine.
using tier_maker =
    std::function<std::vector<tier>(const model_geometry&, const engine_options&, std::uint64_t)>;

/// Two millisecond steps: eviction orders see time pass, and always the same time.
inline std::uint64_t ticking_us() {
  static std::uint64_t now = 0;
  return now += 2000;
}

struct library;
/// Has the steps of an engine computed elsewhere: says so in its options. What it returns is kept
/// longer than the engine.
using device_maker =
    std::function<std::shared_ptr<void>(const library&, std::uint64_t seed, engine_options&)>;

/// A model and documents that share prefixes.
struct library {
  model_geometry model;
  model_weights weights;
  tokenizer tokens;
  std::uint32_t context = 400;
  std::uint32_t answer_tokens = 5;
  std::uint32_t cut_answer_tokens = 1;  ///< of a prompt that is cut off somewhere
  bool speculates = false;              ///< each life drafts in its own way
  bool edits_drafts = true;             ///< most lives replace drafts by right and wrong ones
  std::vector<token_id> text = {};      ///< what documents are pieces of; none: of random tokens
  std::vector<document> documents = {};
  device_maker device = {};        ///< empty: the host computes
  std::uint64_t window_reach = 0;  // sum of (W - 1) over the layers

  /// Each document leaves an earlier one somewhere, mostly inside a page.
  void write(std::uint32_t count, std::uint64_t seed) {
    for (const layer_geometry& layer : model.layers) {
      window_reach +=
          layer.attention.kind == attention_kind::full ? 0 : layer.attention.window_tokens - 1;
    }
    random_stream draw(seed, 1);
    cold_reference reference(model, weights, context);
    for (std::uint32_t i = 0; i < count; ++i) {
      std::vector<token_id> prompt;
      const std::uint32_t length = context - 105 - answer_tokens + draw.next_below(100);
      if (i % 6 != 0) {
        const document& parent = documents[i - 1 - draw.next_below(std::min(i, 4u))];
        const std::uint32_t shared = draw.next_below(std::min(length, parent.prompt_tokens));
        prompt.assign(parent.tokens.begin(), parent.tokens.begin() + shared);
      }
      const auto more = static_cast<std::uint32_t>(length - prompt.size());
      if (!text.empty()) {
        const auto at = draw.next_below(static_cast<std::uint32_t>(text.size()) - more);
        prompt.insert(prompt.end(), text.begin() + at, text.begin() + at + more);
      }
      while (prompt.size() < length) {
        prompt.push_back(token_id{draw.next_below(model.vocabulary)});
      }
      documents.push_back(reference.run(std::move(prompt), answer_tokens));
    }
  }
};

/// What happened to the requests of a test.
struct tally {
  std::uint64_t requests = 0, logit_rows = 0;
  std::uint64_t long_heals = 0;  // that heal, with T > sum of (W - 1) + 2 P
  std::uint64_t safe = 0;        // with a window-safe boundary S > 0
  std::uint64_t whole_hits = 0, partial_hits = 0, safe_heals = 0, misses = 0;
  std::uint64_t diverged = 0;  // from what was cached, inside a page or a node
  std::uint64_t preempted = 0, cancelled = 0, waited = 0;
  std::uint64_t evicted_full = 0, evicted_windows = 0;
  std::array<std::uint64_t, tier_roles> from_tier = {};  // requests that a tier brought pages for
  std::uint64_t failed_reads = 0, late_fetches = 0;
  std::uint64_t joined = 0, cut_off = 0;  // requests that started while their pages came
  std::uint64_t drafted = 0, accepted = 0, missing_mtp_rows = 0;
  std::set<std::pair<const document*, std::uint32_t>> drafted_prompts = {};  // text, length
  std::uint64_t demanded = 0;  // plans in which the guard had the say
};

/// One engine and its requests; compares every row of logits as it comes.
class life final : public logits_observer, public draft_editor {
 public:
  /// @param tiers  null: none
  life(const library& books,
       std::uint64_t seed,
       tally& counts,
       const tier_maker& tiers,
       std::uint64_t (*now_us)())
      : books_(books),
        draw_(seed, 2),
        counts_(counts),
        seed_(seed),
        disturbs_(draw_.next_below(2) == 0),
        first_document_(
            draw_.next_below(static_cast<std::uint32_t>(books.documents.size()) - shelf)),
        options_(draw_options(tiers != nullptr, now_us)),
        reference_(books.model, books.weights, books.context),
        engine_(books.model,
                books.weights,
                books.tokens,
                options_,
                threads_,
                tiers ? tiers(books.model, options_, seed) : std::vector<tier>{}) {}

  void run(std::uint32_t requests) {
    INFO("seed " << seed_);
    const engine_options& o = engine_.options();
    CAPTURE(o.page_tokens, o.chunk_tokens, o.sequences_max, o.prefix_cache, o.heal, disturbs_);
    CAPTURE(name_of(o.order), o.prefill_share, o.guard.least_wait_s);
    while (requests != 0) {
      lose_some();
      const std::uint32_t together = std::min(requests, 1 + draw_.next_below(4));
      for (std::uint32_t i = 0; i < together; ++i) {
        submit();
      }
      requests -= together;
      while (!engine_.idle()) {
        step();
      }
    }
    check_end();
  }

  void on_logits(request_id id, std::uint32_t position, std::span<const float> logits) override {
    const auto expected = asked_.at(id).text->logits_behind(position - 1, books_.model.vocabulary);
    wrong_rows_ += std::memcmp(expected.data(), logits.data(), logits.size_bytes()) != 0;
    ++counts_.logit_rows;
  }

  /// Drafts that are right for as long as this life has it, at random, or never.
  void on_drafts(request_id id,
                 std::span<const token_id> known,
                 std::vector<token_id>& drafts) override {
    const document& d = *asked_.at(id).text;
    for (std::size_t i = 0; i < drafts.size(); ++i) {
      const std::size_t at = known.size() + i;
      const std::uint32_t right = at < d.tokens.size() ? to_index(d.tokens[at]) : 0;
      const bool is_right = draw_.next_below(8) < rightness_;
      drafts[i] = token_id{is_right ? right : (right + 1) % books_.model.vocabulary};
    }
    if (draw_.next_below(8) == 0) {
      drafts.resize(draw_.next_below(static_cast<std::uint32_t>(drafts.size()) + 1));
    }
  }

 private:
  static constexpr std::uint32_t shelf = 6;

  struct asked {
    const document* text;   // what is computed when the prompt runs alone
    const document* whole;  // that it was cut from
    std::uint32_t prompt_tokens;
    bool was_disturbed = false;
    std::vector<token_id> answer = {};
  };

  engine_options draw_options(bool has_tiers, std::uint64_t (*now_us)()) {
    engine_options o;
    o.page_tokens = draw_.next_below(3) == 0 ? 32 : 16;
    o.sequences_max = 1 + draw_.next_below(4);
    const std::uint32_t chunks[]{o.sequences_max, 7, 16, 33, 64, 200};
    o.chunk_tokens = std::max(o.sequences_max, chunks[draw_.next_below(6)]);
    o.context_tokens = books_.context;
    o.kv_tokens = draw_.next_below(3) == 0 ? 1 : 0;  // 1: room for one of the longest
    o.prefix_cache = has_tiers || draw_.next_below(12) != 0;
    o.heal = draw_.next_below(8) != 0;
    o.retain = {.every_tokens = draw_.next_below(3) != 0 ? 96u : 0u,
                .branch_points = draw_.next_below(2) == 0,
                .dense_head_tokens = draw_.next_below(3) == 0 ? 64u : 0u};
    o.cache_tokens = draw_.next_below(5) == 0 ? 0 : 1000 + draw_.next_below(5000);
    if (draw_.next_below(3) == 0) {
      o.cache_windows = draw_.next_below(4);
    }
    o.tenant_shares = 1 + draw_.next_below(2);
    o.order = static_cast<order_kind>(draw_.next_below(4));
    o.prefill_share = draw_.next_below(2) == 0 ? 0.25 : 0.75;
    o.guard = {.least_wait_s = draw_.next_below(2) == 0 ? 60.0 : 0.0, .factor = 1.5};
    o.now_us = now_us;
    o.observer = this;
    o.model_digest = "books";
    const std::uint32_t fetches[]{1, 2, 4};
    o.tier_moves = {.copies_max = draw_.next_below(4) == 0 ? 8u : 4096u,
                    .fetches_max = fetches[draw_.next_below(3)],
                    .fetch_us_min = draw_.next_below(4) == 0 ? 200'000u : 10'000'000u,
                    .fetch_us_max = 10'000'000,
                    .selective_hits = 1 + draw_.next_below(3)};
    if (books_.speculates) {
      o.speculation = draw_speculation();
    }
    device_ = books_.device ? books_.device(books_, seed_, o) : nullptr;
    return o;
  }

  speculation_options draw_speculation() {
    speculation_options s;
    const auto blocks = static_cast<std::uint32_t>(books_.model.mtp_layers.size());
    s.drafter = draw_.next_below(4) == 0 ? drafter_kind::lookup : drafter_kind::mtp;
    s.drafts_max = 1 + draw_.next_below(s.uses_mtp() ? blocks : 7);
    s.is_adaptive = draw_.next_below(4) == 0;
    s.chain = draw_.next_below(4) == 0 ? mtp_chain::previous_hidden : mtp_chain::main_hidden;
    s.mtp_in_prefill = draw_.next_below(8) != 0;
    s.accept = draw_.next_below(2) == 0 ? accept_kind::rejection : accept_kind::match;  // Greedy.
    const std::uint32_t ways[]{8, 8, 0, 4, 6, 7};
    rightness_ = ways[draw_.next_below(6)];
    s.editor = draw_.next_below(8) != 0 && books_.edits_drafts ? this : nullptr;
    return s;
  }

  /// The cache forgets windows, pages or everything, as it would under pressure.
  void lose_some() {
    if (engine_.cache() == nullptr) {
      return;
    }
    auto& tree = engine_.cache()->tree();
    const std::uint32_t what = draw_.next_below(32);
    for (std::uint32_t kind = 0; what < 22 && kind < tree.options().windows.size(); ++kind) {
      const std::uint32_t pages = tree.evictable_window_pages(kind);
      tree.evict_window(kind, what < 4 ? pages : draw_.next_below(pages * 3 / 4 + 1));
    }
    if (what == 22) {
      tree.evict_full(draw_.next_below(tree.evictable_full_pages() + 1), options_.now_us());
    } else if (what == 23 && draw_.next_below(2) == 0) {
      tree.clear();
    } else if (what > 23 && engine_.cache()->tiers() != nullptr) {  // Below, it may still be there.
      tree.evict_full(tree.evictable_full_pages(), options_.now_us());
    }
  }

  void submit() {
    const document& d = books_.documents[first_document_ + draw_.next_below(shelf)];
    const bool whole = draw_.next_below(books_.cut_answer_tokens > 1 ? 4 : 2) == 0;
    const std::uint32_t shortest = draw_.next_below(8) == 0 ? 1 : d.prompt_tokens * 2 / 3;
    request r;
    r.id = request_id{++last_id_};
    const std::uint32_t length =
        whole ? d.prompt_tokens : shortest + draw_.next_below(d.prompt_tokens - shortest);
    r.prompt.assign(d.tokens.begin(), d.tokens.begin() + length);
    r.max_new_tokens =
        whole ? 1 + draw_.next_below(books_.answer_tokens) : books_.cut_answer_tokens;
    r.sampling.temperature = 0;
    r.tenant = draw_.next_below(12) == 0 ? "another" : "";
    const bool is_known = whole || books_.cut_answer_tokens == 1;
    asked_[r.id] = {is_known ? &d : &continued(d, length), &d, length};
    REQUIRE(engine_.submit(std::move(r)));
    ++counts_.requests;
  }

  /// What a document is continued with when it is cut off here.
  const document& continued(const document& d, std::uint32_t length) {
    const auto [at, is_new] = continued_.try_emplace({&d, length});
    if (is_new) {
      at->second = reference_.run(
          {d.tokens.begin(), d.tokens.begin() + length}, books_.cut_answer_tokens, false);
    }
    return at->second;
  }

  void step() {
    disturb();
    for (const event& happened : engine_.step()) {
      asked& a = asked_.at(happened.id);
      REQUIRE(happened.token.has_value());
      a.answer.push_back(*happened.token);
      if (happened.finish != finish_reason::none) {
        REQUIRE(happened.finish == finish_reason::length);
        take_last(a, happened.usage);
        if (happened.drafts.drafted[0] != 0) {
          counts_.drafted_prompts.emplace(a.whole, a.prompt_tokens);
        }
      }
    }
    REQUIRE(wrong_rows_ == 0);
    const std::string wrong = wrong_accounts(engine_);
    REQUIRE(wrong == "");
  }

  void disturb() {
    if (!disturbs_ || engine_.running() == 0 || draw_.next_below(16) != 0) {
      return;
    }
    const request_id id{last_id_ - draw_.next_below(4)};
    const auto found = asked_.find(id);
    if (found == asked_.end()) {
      return;
    }
    if (draw_.next_below(8) == 0) {
      if (const auto last = engine_.cancel(id)) {
        cached_ += last->usage.cached_tokens;
        ++counts_.cancelled;
      }
    } else if (engine_.preempt(id)) {
      found->second.was_disturbed = true;
      ++counts_.preempted;
    }
  }

  /// @pre it was the last event of the request
  void take_last(const asked& a, const request_usage& usage) {
    REQUIRE(usage.cached_tokens + usage.computed_tokens == a.prompt_tokens);
    REQUIRE(usage.healed_tokens <= usage.cached_tokens);
    const bool is_known = a.prompt_tokens == a.text->prompt_tokens;
    for (std::size_t i = 0; i < a.answer.size() && is_known; ++i) {
      REQUIRE(a.answer[i] == a.text->tokens[a.prompt_tokens + i]);
    }
    cached_ += usage.cached_tokens;
    for (std::size_t role = 0; role < tier_roles; ++role) {
      counts_.from_tier[role] += usage.fetched_tokens[role] != 0;
    }
    const std::uint32_t page = engine_.options().page_tokens;
    const std::uint32_t safe = usage.cached_tokens - usage.healed_tokens;
    const bool heals = usage.healed_tokens != 0;
    counts_.long_heals +=
        heals && !a.was_disturbed && usage.cached_tokens > books_.window_reach + 2 * page;
    counts_.safe += safe != 0;
    counts_.safe_heals += heals && safe != 0;
    counts_.whole_hits += !heals && safe != 0 && safe == (a.prompt_tokens - 1) / page * page;
    counts_.partial_hits += !heals && safe != 0 && safe < (a.prompt_tokens - 1) / page * page;
    counts_.diverged +=
        usage.cached_tokens != 0 && usage.cached_tokens < (a.prompt_tokens - 1) / page * page;
    counts_.misses += usage.cached_tokens == 0;
    if (heals && is_plain()) {
      const heal_size size = measure_heal(engine_.cache()->healing(),
                                          {.full_length = usage.cached_tokens,
                                           .prompt_tokens = a.prompt_tokens,
                                           .safe_length = safe});
      // Programs run all rows in all layers.
      heal_layer_rows_ += options_.make_runner ? std::uint64_t{size.length - size.first_row} *
                                                     books_.model.layers.size()
                                               : size.layer_rows;
      ++heals_;
    }
  }

  /// Nobody was preempted, by the test or by the guard: each request started once.
  [[nodiscard]] bool is_plain() const {
    return !disturbs_ && engine_.metrics().requests_preempted.value() == 0;
  }

  /// Hits are what the events said, layer-rows what the plans said, and no page is left behind.
  void check_end() {
    const engine_metrics& m = engine_.metrics();
    const runner_counts& rows = engine_.rows_computed();
    CHECK(m.cached_tokens.value() == cached_);
    counts_.waited += m.requests_waited.value();
    counts_.joined += m.requests_joined.value();
    counts_.demanded += m.guard_demands.value();
    counts_.cut_off += m.requests_cut_off.value();
    if (is_plain()) {
      CHECK(rows.heal_layer_rows == heal_layer_rows_);
    }
    counts_.drafted += m.drafted_tokens.value();
    counts_.accepted += m.accepted_tokens.value();
    counts_.missing_mtp_rows += m.missing_mtp_rows.value();
    if (is_plain() && m.requests_cut_off.value() == 0 &&
        !books_.speculates) {  // Else some rows end in some layer.
      CHECK(rows.layer_rows == heal_layer_rows_ + (m.rows_per_step.sum() - m.heal_rows.value()) *
                                                      books_.model.layers.size());
    }
    if (engine_.cache() != nullptr) {
      const prefix_counters& c = engine_.cache()->tree().counters();
      counts_.evicted_full += c.evicted_full_pages;
      counts_.evicted_windows += c.evicted_window_pages;
      if (is_plain()) {
        CHECK(c.hit_tokens == cached_);
        CHECK(c.healed_tokens == m.healed_tokens.value());
        CHECK(c.heals == heals_);
      }
      if (auto* tiers = engine_.cache()->tiers(); tiers != nullptr) {
        CHECK(tiers->finish(no_deadline));
        CHECK(tiers->copies_under_way() == 0);
        CHECK(tiers->fetches() == 0);
        counts_.late_fetches += tiers->counters().fetches_late;
        for (const std::uint64_t failed : tiers->counters().failed_reads) {
          counts_.failed_reads += failed;
        }
      }
      CHECK(engine_.cache()->tree().leases() == 0);
      engine_.cache()->tree().clear();
    } else {
      CHECK(cached_ == 0);
    }
    for (std::uint32_t pool = 0; pool < engine_.kv_pools().pools(); ++pool) {
      CHECK(engine_.kv_pools().pool(pool_id{pool}).used() == 0);
    }
  }

  const library& books_;
  random_stream draw_;
  tally& counts_;
  std::uint64_t seed_;
  std::uint32_t rightness_ = 0;  // of drafts, in eighths
  bool disturbs_;
  std::uint32_t first_document_;  // of the few that this life asks for
  thread_pool threads_{1};
  std::shared_ptr<void> device_;
  engine_options options_;
  cold_reference reference_;
  oriel::engine::engine engine_;
  std::map<request_id, asked> asked_;
  std::map<std::pair<const document*, std::uint32_t>, document> continued_;  // by length
  std::uint64_t last_id_ = 0;
  std::uint64_t wrong_rows_ = 0, cached_ = 0, heal_layer_rows_ = 0, heals_ = 0;
};

inline library random_library(const std::vector<std::uint32_t>& windows,
                              bool moe,
                              std::uint64_t seed) {
  model_geometry model = toy_model(windows, moe);
  model_weights weights = random_weights(model, dtype::bf16, seed);
  return {.model = std::move(model), .weights = std::move(weights), .tokens = no_text()};
}

/// Lives of 60 requests until there are `requests`, and enough of every sort among them.
inline tally check_exact(library& books,
                         std::uint32_t documents,
                         std::uint64_t requests,
                         std::uint64_t seed,
                         std::span<const tier_maker> tiers = {},
                         std::uint64_t (*now_us)() = ticking_us) {
  books.write(documents, seed);
  tally t;
  for (std::uint64_t i = 0; t.requests < requests; ++i) {
    life(books, seed * 1000 + i, t, tiers.empty() ? tier_maker() : tiers[i % tiers.size()], now_us)
        .run(60);
  }
  WARN("requests " << t.requests << ", rows of logits " << t.logit_rows << ", long heals "
                   << t.long_heals << ", S > 0 " << t.safe << ", both " << t.safe_heals
                   << ", whole hits " << t.whole_hits << ", partial hits " << t.partial_hits
                   << ", diverged " << t.diverged << ", misses " << t.misses << ", preempted "
                   << t.preempted << ", cancelled " << t.cancelled << ", waits " << t.waited
                   << ", evicted " << t.evicted_full << " + " << t.evicted_windows
                   << ", from tiers " << t.from_tier[0] << " + " << t.from_tier[1] << " + "
                   << t.from_tier[2] << ", reads failed " << t.failed_reads << ", late "
                   << t.late_fetches << ", joined " << t.joined << ", cut off " << t.cut_off
                   << ", demanded " << t.demanded << ", prompts with drafts "
                   << t.drafted_prompts.size() << ", drafted " << t.drafted << ", accepted "
                   << t.accepted << ", MTP rows missing " << t.missing_mtp_rows);
  if (t.requests < 400) {
    return t;  // A sanitizer's share is too small to hold every sort.
  }
  if (!tiers.empty()) {
    return t;
  }
  CHECK(4 * t.long_heals >= t.requests);
  CHECK(4 * t.safe >= t.requests);
  for (const std::uint64_t count : {t.safe_heals,
                                    t.whole_hits,
                                    t.partial_hits,
                                    t.diverged,
                                    t.misses,
                                    t.preempted,
                                    t.cancelled,
                                    t.waited,
                                    t.evicted_full,
                                    t.evicted_windows,
                                    t.demanded}) {
    CHECK(count >= 1);
  }
  return t;
}

/// Tiers that outlive every engine, answer late and out of order, and fail now and then.
inline tier_maker unruly_tiers() {
  std::vector<std::shared_ptr<plain_medium>> media;
  for (std::size_t i = 0; i < tier_roles; ++i) {
    media.push_back(std::make_shared<plain_medium>());
  }
  return [media](const model_geometry&, const engine_options&, std::uint64_t seed) {
    random_stream draw(seed, 3);
    std::vector<tier> tiers;
    for (std::size_t i = 0; i + 1 < media.size();
         ++i) {  // The next engine has to ask further down.
      if (draw.next_below(2 + 2 * static_cast<std::uint32_t>(i)) == 0) {
        media[i]->pages.clear();
      }
    }
    for (std::size_t i = 0; i < media.size(); ++i) {
      const bool is_fine = draw.next_below(3) == 0;
      const plain_faults faults{.misses = is_fine ? 0 : draw.next_below(60),
                                .fails = is_fine ? 0 : draw.next_below(60),
                                .refuses = is_fine ? 0 : draw.next_below(200),
                                .stuck = is_fine ? 0 : draw.next_below(30),
                                .turns_max = draw.next_below(6),
                                .queue_max = 1 + draw.next_below(100)};
      const placement ways[]{placement::write_through,
                             placement::write_through,
                             placement::selective,
                             placement::write_back};
      tiers.push_back(
          {.store = any_store(std::make_unique<plain_store>(media[i], faults, seed * 8 + i)),
           .role = static_cast<tier_role>(i),
           .writes = ways[draw.next_below(4)],
           .rates = {.latency_s = 0.0, .bytes_per_s = 1e15}});  // On paper.
    }
    return tiers;
  };
}

inline std::uint64_t requests_of(std::uint64_t in_ci) {
  return is_long_run() ? 5 * in_ci : scaled(in_ci);
}

}  // namespace engine_life
