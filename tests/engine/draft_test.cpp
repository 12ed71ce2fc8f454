// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What MTP blocks draft is what they draft when everything is computed at once from scratch:
// however prompts are cut, whoever runs beside, whatever was accepted before, and after hits of the
// cache.
#include "engine/engine_life.hpp"
#include "engine/with_blocks.hpp"

#include <catch2/catch.hpp>
#include <engine/engine_pools.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace draft_test {

using namespace oriel;
using namespace oriel::engine;
using namespace engine_life;

namespace {

constexpr std::uint32_t window = 16;  // of the blocks

engine_options drafting(std::uint32_t context, mtp_chain chain) {
  engine_options o{.chunk_tokens = context, .context_tokens = context};
  o.prefix_cache = false;
  o.speculation = {.drafter = drafter_kind::mtp, .drafts_max = 3, .chain = chain};
  o.now_us = ticking_us;
  return o;
}

/// Drafts behind a text, with nothing kept from before.
class draft_reference {
 public:
  draft_reference(const model_geometry& model, const model_weights& weights, std::uint32_t context)
      : model_(model),
        context_(context),
        pools_(make_pools(model, drafting(context, {}), weights.compute)),
        runner_(model,
                weights,
                layer_homes(pools_),
                16,
                weights.compute,
                {.rows_max = context, .sequences_max = 1, .context_tokens = context},
                threads_) {}

  /// @param start      rows before it were computed by another sequence, which saw all of them
  /// @param first_row  the rows from `start` on see nothing before this one
  /// @param left       all tokens of that sequence: its last rows were told some behind `tokens`
  std::vector<token_id> drafts(std::span<const token_id> tokens,
                               std::size_t count,
                               mtp_chain chain,
                               std::uint32_t start = 0,
                               std::uint32_t first_row = 0,
                               std::span<const token_id> left = {}) {
    auto sequence = *pools_.try_admit({.tokens_now = 0, .tokens_max = context_});
    const auto rows = static_cast<std::uint32_t>(tokens.size()) - 1;
    REQUIRE(sequence.reserve(rows));
    std::vector<block_table_view> tables;
    for (std::uint32_t pool = 0; pool < pools_.pools(); ++pool) {
      tables.push_back(sequence.table(pool_id{pool}));
    }
    step_rows step{.tokens = tokens.first(rows), .tables = tables, .logit_rows = 1};
    (void)runner_.forward({&step, 1});
    const auto made = runner_.hidden_of(0).values;
    std::vector<float> hidden(made.begin(), made.end());
    std::vector<token_id> text(tokens.begin(), tokens.end());
    for (std::uint32_t block = 0; block < count; ++block) {
      const auto run = [&](std::span<const token_id> from,
                           std::uint32_t first,
                           std::uint32_t end,
                           std::uint32_t first_key) {
        step.tokens = from.subspan(first + 1 + block, end - first);
        step.first_position = first;
        step.first_key = first_key;
        step.hidden = hidden.data() + std::size_t{first} * model_.hidden;
        const auto logits = runner_.forward_mtp(block, {&step, 1}, mtp_rows::all);
        if (chain == mtp_chain::previous_hidden) {
          std::ranges::copy(runner_.mtp_hidden_of(0).values,
                            hidden.begin() + std::ptrdiff_t{first} * model_.hidden);
        }
        return std::ranges::max_element(logits) - logits.begin();
      };
      if (start != 0) {
        step.logit_rows = 0;
        (void)run(left.size() > start + block ? left : text, 0, start, 0);
        step.logit_rows = 1;
      }
      text.push_back(token_id{static_cast<std::uint32_t>(run(text, start, rows, first_row))});
    }
    return {text.begin() + static_cast<std::ptrdiff_t>(tokens.size()), text.end()};
  }

 private:
  const model_geometry& model_;
  std::uint32_t context_;
  thread_pool threads_{1};
  host_pools pools_;
  model_runner runner_;
};

/// Compares drafts as they are made, then makes some of them right, so that chains are accepted.
class judge final : public draft_editor {
 public:
  judge(library& books, draft_reference& reference, mtp_chain chain, std::uint64_t seed)
      : books_(books), reference_(reference), chain_(chain), draw_(seed, 9) {}

  void on_drafts(request_id id,
                 std::span<const token_id> known,
                 std::vector<token_id>& drafts) override {
    ++chains;
    std::uint32_t start = 0, first_row = 0;  // of what the blocks have of it
    if (served_ != nullptr) {
      const engine_metrics& m = served_->metrics();
      const std::uint32_t reach = books_.model.mtp_layers[0].attention.window_tokens - 1;
      start = static_cast<std::uint32_t>(m.cached_tokens.value() - cached_before_);
      const auto missing = static_cast<std::uint32_t>(m.missing_mtp_rows.value() - missing_before_);
      first_row = start - (std::min(start, reach) - missing);
    }
    std::vector<token_id>& said = said_[static_cast<std::uint64_t>(id) % books_.documents.size()];
    const bool is_told_all = start + 3 <= known.size();
    wrong += drafts != reference_.drafts(known,
                                         drafts.size(),
                                         chain_,
                                         start,
                                         first_row,
                                         is_told_all ? std::span<const token_id>() : said);
    if (said.size() < known.size()) {
      said.assign(known.begin(), known.end());
    }
    const document& d = books_.documents[static_cast<std::uint64_t>(id) % books_.documents.size()];
    const std::uint32_t right = draw_.next_below(5);
    for (std::size_t i = 0; i < drafts.size(); ++i) {
      const std::size_t at = known.size() + i;
      const token_id next = at < d.tokens.size() ? d.tokens[at] : token_id{0};
      drafts[i] = i < right ? next : token_id{(to_index(next) + 1) % books_.model.vocabulary};
    }
  }
  /// From here on one request runs, which may start on what the cache has.
  void begin(const oriel::engine::engine& served) {
    served_ = &served;
    cached_before_ = served.metrics().cached_tokens.value();
    missing_before_ = served.metrics().missing_mtp_rows.value();
  }
  std::uint64_t chains = 0, wrong = 0;

 private:
  const oriel::engine::engine* served_ = nullptr;
  std::uint64_t cached_before_ = 0, missing_before_ = 0;
  std::map<std::uint64_t, std::vector<token_id>> said_;  // of each document, with its answer
  library& books_;
  draft_reference& reference_;
  mtp_chain chain_;
  random_stream draw_;
};

void submit(oriel::engine::engine& served,
            const document& d,
            std::uint64_t id,
            std::uint32_t tokens,
            std::uint32_t cut = 0) {
  request r;
  r.id = request_id{id};
  r.prompt.assign(d.tokens.begin(), d.tokens.begin() + d.prompt_tokens - cut);
  r.max_new_tokens = tokens;
  r.sampling.temperature = 0;
  REQUIRE(served.submit(std::move(r)));
}

}  // namespace

TEST_CASE("drafts do not depend on chunks, companions, or what was accepted before") {
  library books = with_blocks({0, 16, 16}, false, window, 31);
  books.context = 160;
  books.write(8, 31);
  draft_reference reference(books.model, books.weights, books.context);
  std::uint64_t chains = 0;
  for (const mtp_chain chain : {mtp_chain::main_hidden, mtp_chain::previous_hidden}) {
    for (const std::uint32_t chunk : {4u, 7u, 16u, 33u, 160u}) {
      for (const std::uint32_t drafts : {1u, 3u}) {
        CAPTURE(static_cast<int>(chain), chunk, drafts);
        judge watching(books, reference, chain, chunk);
        engine_options o = drafting(books.context, chain);
        o.chunk_tokens = chunk;
        o.sequences_max = 1 + chunk % 4;
        o.speculation.drafts_max = drafts;
        o.speculation.editor = &watching;
        thread_pool threads{1};
        oriel::engine::engine served{books.model, books.weights, books.tokens, o, threads};
        for (std::uint64_t id = 0; id < books.documents.size(); id += 1 + (drafts == 1)) {
          submit(served, books.documents[id], id, 12);
        }
        while (!served.idle()) {
          (void)served.step();
        }
        CHECK(watching.wrong == 0);
        chains += watching.chains;
      }
    }
  }
  CHECK(chains > 500);
}

namespace {

/// How much of its end the first documents are asked without: they end where a page does, or just
/// behind it, and the last rows there are told what follows, the same each time.
std::uint32_t cut_of(const library& books, std::size_t text) {
  const std::uint32_t behind = books.documents[text].prompt_tokens % 16;
  return text < 4 && behind >= 1 ? behind - static_cast<std::uint32_t>(text % 2) : 0;
}

/// Documents of which none goes on otherwise, within three tokens behind the end of a page, than
/// another that was there before it: a block's last rows of a page depend on that.
library apart_from_pages(std::uint32_t blocks_window) {
  for (std::uint64_t seed = 32;; ++seed) {
    library books = with_blocks({0, 16, 40}, false, blocks_window, 32);
    books.context = 160;
    books.write(8, seed);
    bool is_good = true;
    for (std::size_t a = 0; a < 8; ++a) {
      for (std::size_t b = 0; b < 8; ++b) {
        const document& one = books.documents[a];
        const auto at = std::ranges::mismatch(one.tokens, books.documents[b].tokens).in1;
        const auto shared = static_cast<std::uint32_t>(at - one.tokens.begin());
        is_good = is_good && (a == b || shared < 16 ||
                              (shared % 16 >= 3 && shared < one.prompt_tokens - cut_of(books, a)));
      }
    }
    if (is_good) {
      return books;
    }
  }
}

/// What the hits of a test were lent of the rows that blocks see.
struct lent_counts {
  std::uint64_t whole = 0, part = 0, none = 0, healed = 0;
};

/// Requests that start on what others left in a cache which loses pages now and then, and the
/// blocks' more often. Every chain of drafts is compared, and published rows never change.
/// @param only_cold  each hit is on what a request from scratch left: what a block that is told the
///                   one before keeps depends on all that its own sequence saw
lent_counts compare_after_hits(library& books,
                               mtp_chain chain,
                               bool only_cold,
                               std::uint64_t requests) {
  draft_reference reference(books.model, books.weights, books.context);
  judge watching(books, reference, chain, 3);
  engine_options o = drafting(books.context, chain);
  o.chunk_tokens = 24;
  o.prefix_cache = true;
  o.cache_tokens = 4000;
  o.cache_windows = 64;
  o.speculation.editor = &watching;
  thread_pool threads{1};
  oriel::engine::engine served{books.model, books.weights, books.tokens, o, threads};
  auto& tree = served.cache()->tree();
  const std::uint32_t soft = *tree.options().soft_kind;
  const std::uint32_t reach = books.model.mtp_layers[0].attention.window_tokens - 1;
  lent_counts counts;
  random_stream draw(5, 5);
  std::map<page_handle, std::vector<std::byte>, decltype([](page_handle a, page_handle b) {
             return std::pair(a.id, a.generation) < std::pair(b.id, b.generation);
           })>
      seen;
  std::uint64_t text = 0;
  for (std::uint64_t i = 0; i < requests; ++i) {
    if (only_cold && i % 2 == 0) {
      tree.clear();
    }
    text = only_cold && i % 2 == 1 && draw.next_below(4) != 0 ? text : draw.next_below(8);
    const std::uint64_t id = i * books.documents.size() + text;
    const std::uint64_t missing_before = served.metrics().missing_mtp_rows.value();
    watching.begin(served);
    // Some end earlier, but not so close to a page, and others find what is behind their heals.
    const document& d = books.documents[text];
    std::uint32_t cut = cut_of(books, text);
    if (!only_cold && text >= 4 && draw.next_below(2) == 0) {
      cut = draw.next_below(24);
      cut += (d.prompt_tokens - cut) % o.page_tokens < 4 ? 4u : 0u;
    }
    submit(served, d, id, 10, cut);
    request_usage usage;
    while (!served.idle()) {
      for (const event& happened : served.step()) {
        usage = happened.usage;
      }
      // Published rows never change.
      tree.visit_pages([&](const cached_page&, std::uint32_t pool, page_handle page) {
        if (pool != 1 + soft) {
          return;
        }
        const auto bytes = served.kv_pools().pool(pool_id{pool}).bytes(page);
        std::vector<std::byte> now(bytes.begin(), bytes.end());
        const auto [at, is_new] = seen.emplace(page, now);
        REQUIRE((is_new || at->second == now));
      });
    }
    const std::uint32_t start = usage.cached_tokens, want = std::min(start, reach);
    const auto missing =
        static_cast<std::uint32_t>(served.metrics().missing_mtp_rows.value() - missing_before);
    counts.whole += start != 0 && missing == 0;
    counts.part += missing != 0 && missing < want;
    counts.none += missing != 0 && missing == want;
    counts.healed += usage.healed_tokens != 0;
    for (std::uint32_t kind = 0; kind < tree.options().windows.size(); ++kind) {
      if (draw.next_below(kind == soft ? 3 : 10) == 0) {
        tree.evict_window(kind, draw.next_below(tree.evictable_window_pages(kind) + 1));
      }
    }
    if (draw.next_below(12) == 0) {
      tree.clear();  // A heal leaves a boundary without rows of the blocks for good.
    }
  }
  CHECK(watching.wrong == 0);
  return counts;
}

}  // namespace

TEST_CASE("after a hit, blocks have what the cache has of their rows, and nothing else") {
  for (const std::uint32_t blocks_window : {window, 40u}) {
    for (const mtp_chain chain : {mtp_chain::main_hidden, mtp_chain::previous_hidden}) {
      const bool only_cold = chain == mtp_chain::previous_hidden;
      library books = apart_from_pages(blocks_window);
      const auto requests = std::max<std::uint64_t>(80, scaled(only_cold ? 160 : 400));
      const lent_counts lent = compare_after_hits(books, chain, only_cold, requests);
      INFO("window " << blocks_window << ", chain " << static_cast<int>(chain) << ": whole "
                     << lent.whole << ", part " << lent.part << ", none " << lent.none
                     << ", healed " << lent.healed);
      CHECK(lent.whole > requests / 40);
      CHECK(lent.none > requests / 40);
      CHECK(lent.healed > requests / 80);
      // One page has all of the smaller window.
      CHECK((lent.part > requests / 40 || blocks_window == window || only_cold));
    }
  }
}

namespace {

std::uint64_t work_us = 0;  // the clock of the test below

std::uint64_t worked_us() {
  return work_us;
}

/// Runs what many threads would share, and counts it as time.
struct counting_executor {
  [[nodiscard]] std::uint32_t concurrency() const noexcept { return 32; }
  void run_tasks(std::uint32_t tasks, task_function f, void* context) noexcept {
    for (std::uint32_t t = 0; t < tasks; ++t) {
      f(context, t, 0);
    }
    work_us += tasks;
  }
};

class never_right final : public draft_editor {
 public:
  explicit never_right(const library& books) : books_(books) {}
  void on_drafts(request_id id,
                 std::span<const token_id> known,
                 std::vector<token_id>& drafts) override {
    const document& d = books_.documents[static_cast<std::uint64_t>(id) % books_.documents.size()];
    for (std::size_t i = 0; i < drafts.size(); ++i) {
      const std::size_t at = std::min(known.size() + i, d.tokens.size() - 1);
      drafts[i] = token_id{(to_index(d.tokens[at]) + 1) % books_.model.vocabulary};
    }
  }

 private:
  const library& books_;
};

}  // namespace

TEST_CASE("what blocks take for a prompt does not make drafts look cheap") {
  library books = with_blocks({0, 16, 16}, false, window, 33);
  books.write(6, 33);
  never_right editor(books);
  engine_options o = drafting(books.context, mtp_chain::main_hidden);
  o.now_us = worked_us;
  o.speculation.is_adaptive = true;
  o.speculation.editor = &editor;
  counting_executor counting;
  oriel::engine::engine served{books.model, books.weights, books.tokens, o, counting};
  std::uint64_t tokens = 0;
  for (std::uint64_t id = 0; id < 60; ++id) {  // Short answers: each begins behind a prompt.
    submit(served, books.documents[id % books.documents.size()], id, 6);
    while (!served.idle()) {
      tokens += served.step().size();
    }
  }
  INFO(served.metrics().drafted_tokens.value() << " drafted for " << tokens << " tokens");
  CHECK(served.metrics().accepted_tokens.value() == 0);
  CHECK(served.metrics().drafted_tokens.value() < tokens / 40);
}

}  // namespace draft_test
