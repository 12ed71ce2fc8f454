// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What the index answers, against a set of pages: any order of stores and removals, gaps, forks,
// several window kinds, hundreds of workers, links that collide in the table.
#include "route/index_model.hpp"
#include "support/scale.hpp"

#include <catch2/catch.hpp>

#include <algorithm>

namespace prefix_index_test {

using namespace oriel;

namespace {

using kind = worker_event_kind;

std::vector<chain_hash> a_chain(std::uint32_t pages, std::uint64_t seed = 1) {
  random_stream draw(seed);
  std::vector<chain_hash> chain(pages);
  for (chain_hash& link : chain) {
    link = {std::uint64_t{draw.next_bits()} << 32 | draw.next_bits(), draw.next_bits()};
  }
  return chain;
}

/// An index, events in order, and a model of each worker.
struct world {
  prefix_index index;
  std::vector<obvious_pages> models;
  std::vector<std::uint64_t> sequences, epochs;
  prefix_answer answer = {};

  explicit world(const prefix_index_options& options)
      : index(options),
        models(options.workers),
        sequences(options.workers),
        epochs(options.workers, 1) {}

  void send(std::uint32_t worker,
            kind what,
            std::uint8_t tier,
            std::uint32_t pool,
            std::span<const chain_hash> chain,
            std::uint32_t first,
            std::uint32_t end) {
    const worker_event event{.worker = worker_id{worker},
                             .kind = what,
                             .tier = tier,
                             .pool = pool,
                             .first_page = first,
                             .epoch = epochs[worker],
                             .sequence = ++sequences[worker],
                             .parent = first > 0 ? chain[first - 1] : chain_hash{},
                             .links = chain.subspan(first, end - first)};
    REQUIRE(index.apply(event) == event_outcome::applied);
    models[worker].apply(event);
  }
  void remove(std::uint32_t worker) {
    index.remove(worker_id{worker});
    models[worker] = {};
    sequences[worker] = 0;
    ++epochs[worker];
  }
  const worker_prefix& ask(std::span<const chain_hash> prompt, std::uint32_t worker) {
    index.look_up(prompt, answer);
    return answer[worker_id{worker}];
  }
  void compare(std::span<const chain_hash> prompt) {
    index.look_up(prompt, answer);
    for (std::uint32_t worker = 0; worker < models.size(); ++worker) {
      const worker_prefix expected = models[worker].row(index.options(), prompt);
      const worker_prefix& row = answer[worker_id{worker}];
      if (!is_same(row, expected)) {
        for (std::size_t tier = 0; tier < page_tiers; ++tier) {
          UNSCOPED_INFO("worker " << worker << " tier " << tier << ": full " << row.full_pages[tier]
                                  << " of " << expected.full_pages[tier] << ", safe "
                                  << row.safe_pages[tier] << " of " << expected.safe_pages[tier]);
        }
        FAIL("the index and the model differ");
      }
    }
  }
  void expect_nothing() {
    const prefix_index_memory memory = index.memory();
    CHECK(memory.pages == 0);
    CHECK(memory.strands == 0);
    CHECK(memory.holders == 0);
    CHECK(memory.link_bytes == 0);
    CHECK(memory.holder_bytes == 0);
    CHECK(memory.held_bytes == 0);
  }
};

struct mix {
  const char* name;
  prefix_index_options options;
  std::uint32_t pages_max;  // of a chain
  std::uint32_t busy;       // workers that do most of it
  bool weak = false;
};

/// A stretch of a chain; its tail more often than not, as prompts grow and caches evict.
std::pair<std::uint32_t, std::uint32_t> a_stretch(random_stream& draw, std::uint32_t pages) {
  const std::uint32_t end = draw.next_below(3) == 0 ? 1 + draw.next_below(pages) : pages;
  const std::uint32_t first =
      draw.next_below(3) == 0 ? 0 : end - 1 - draw.next_below(std::min(end, 6u));
  return {first, end};
}

void one_operation(world& w, const mix& m, random_stream& draw, std::span<const chain_hash> chain) {
  const std::uint32_t workers = draw.next_below(4) == 0 ? m.options.workers : m.busy;
  const std::uint32_t worker = draw.next_below(workers);
  const auto pools = static_cast<std::uint32_t>(1 + m.options.windows.size());
  const auto tier = static_cast<std::uint8_t>(std::min(draw.next_below(6), 3u));
  const std::uint32_t pool = draw.next_below(2) == 0 ? 0 : draw.next_below(pools);
  const auto [first, end] = a_stretch(draw, static_cast<std::uint32_t>(chain.size()));
  const std::uint32_t what = draw.next_below(1000);
  if (what < 560) {
    w.send(worker, kind::stored, tier, pool, chain, first, end);
  } else if (what < 985) {
    w.send(worker, kind::removed, tier, pool, chain, first, end);
  } else if (what < 995) {
    w.send(worker, kind::cleared, tier, 0, {}, 0, 0);
  } else {
    w.remove(worker);
  }
}

void live(const mix& m, std::uint64_t seed, std::uint64_t operations) {
  INFO(m.name << ", seed " << seed);
  random_stream draw(seed);
  const auto chains = forking_chains(draw, 12, m.pages_max, m.weak);
  world w(m.options);
  for (std::uint64_t i = 0; i < operations; ++i) {
    INFO("operation " << i);
    one_operation(w, m, draw, chains[draw.next_below(static_cast<std::uint32_t>(chains.size()))]);
    const auto& prompt = chains[draw.next_below(static_cast<std::uint32_t>(chains.size()))];
    w.compare(std::span(prompt).first(prompt.size() - draw.next_below(2)));
    if (i % 32 == 0) {
      REQUIRE(w.index.is_sound());
      std::set<std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>> pages;
      for (const obvious_pages& model : w.models) {
        for (const auto& [t, p, position, low, high] : model.pages()) {
          pages.insert({position, low, high});
        }
      }
      REQUIRE(w.index.memory().pages == pages.size());
    }
  }
  for (std::uint32_t worker = 0; worker < m.options.workers; ++worker) {
    w.remove(worker);
  }
  w.expect_nothing();
}

}  // namespace

TEST_CASE("answers equal the definition, whatever workers do") {
  const mix mixes[] = {
      {"one kind", {.page_size = 64, .windows = {128}, .workers = 9}, 40, 3},
      {"three kinds", {.page_size = 16, .windows = {128, 40, 1}, .workers = 9}, 40, 2},
      {"no windows", {.page_size = 16, .windows = {}, .workers = 6}, 30, 3},
      {"pages of one token", {.page_size = 1, .windows = {7, 2}, .workers = 5}, 24, 2},
      {"hundreds of workers", {.page_size = 64, .windows = {128}, .workers = 300}, 12, 300},
      {"weak", {.page_size = 64, .windows = {100, 200}, .workers = 5}, 30, 3, true},
  };
  for (const mix& m : mixes) {
    for (std::uint64_t seed = 1; seed <= 6; ++seed) {
      live(m, seed, scaled(m.options.workers > 100 ? 120 : 1200));
    }
  }
}

TEST_CASE("links that are no chain give bad advice and break nothing") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    INFO("seed " << seed);
    random_stream draw(seed);
    world w({.page_size = 64, .windows = {200}, .workers = 4});
    for (std::uint64_t i = 0; i < scaled(2000); ++i) {
      std::vector<chain_hash> links(1 + draw.next_below(20));
      for (chain_hash& link : links) {
        link = {draw.next_below(16), 0};  // 4 bits
      }
      const std::uint32_t first = draw.next_below(static_cast<std::uint32_t>(links.size()));
      w.send(draw.next_below(4),
             draw.next_below(2) == 0 ? kind::stored : kind::removed,
             static_cast<std::uint8_t>(draw.next_below(4)),
             draw.next_below(2),
             links,
             first,
             static_cast<std::uint32_t>(links.size()));
      for (std::uint32_t worker = 0; worker < 4; ++worker) {
        const worker_prefix& row = w.ask(links, worker);
        for (std::size_t tier = 0; tier < page_tiers; ++tier) {
          REQUIRE(row.safe_pages[tier] <= row.full_pages[tier]);
          REQUIRE(row.full_pages[tier] <= links.size());
          REQUIRE((tier == 0 || row.full_pages[tier - 1] <= row.full_pages[tier]));
        }
      }
      if (i % 32 == 0) {
        REQUIRE(w.index.is_sound());
      }
    }
    for (std::uint32_t worker = 0; worker < 4; ++worker) {
      w.remove(worker);
    }
    w.expect_nothing();
  }
}

TEST_CASE("a boundary is safe when its window is there, of every kind") {
  world w({.page_size = 2, .windows = {4, 4}, .workers = 1});  // two pages before a boundary
  const auto chain = a_chain(12);
  w.send(0, kind::stored, 0, 0, chain, 0, 12);
  CHECK(w.ask(chain, 0).safe_pages[0] == 0);
  w.send(0, kind::stored, 0, 1, chain, 3, 6);
  CHECK(w.ask(chain, 0).safe_pages[0] == 0);
  w.send(0, kind::stored, 0, 2, chain, 2, 5);
  CHECK(w.ask(chain, 0).safe_pages[0] == 5);
  CHECK(w.ask(std::span(chain).first(4), 0).safe_pages[0] == 0);
  w.send(0, kind::stored, 0, 1, chain, 0, 1);
  w.send(0, kind::stored, 0, 2, chain, 0, 1);
  CHECK(w.ask(std::span(chain).first(4), 0).safe_pages[0] == 1);
  CHECK(w.ask(chain, 0).full_pages[0] == 12);
}

TEST_CASE("kinds lower each other's boundary until all agree") {
  world w({.page_size = 2, .windows = {4, 4}, .workers = 1});
  const auto chain = a_chain(6);
  w.send(0, kind::stored, 0, 0, chain, 0, 6);
  w.send(0, kind::stored, 0, 1, chain, 0, 6);
  w.send(0, kind::stored, 0, 2, chain, 4, 5);  // half a window
  w.send(0, kind::stored, 0, 2, chain, 0, 2);
  CHECK(w.ask(chain, 0).safe_pages[0] == 2);
}

TEST_CASE("a window may begin in the strand before, and kinds reach back differently far") {
  world w({.page_size = 2, .windows = {10, 3}, .workers = 2});  // five pages, one
  const auto trunk = a_chain(20);
  auto branch = a_chain(20, 2);
  std::ranges::copy(std::span(trunk).first(8), branch.begin());
  w.send(0, kind::stored, 0, 0, trunk, 0, 20);
  w.send(1, kind::stored, 0, 0, branch, 0, 20);
  w.send(1, kind::stored, 0, 1, branch, 6, 11);  // from the trunk into the branch
  w.send(1, kind::stored, 0, 2, branch, 10, 11);
  CHECK(w.index.memory().strands == 2);
  CHECK(w.ask(branch, 1).safe_pages[0] == 11);
  w.send(1, kind::removed, 0, 1, branch, 7, 8);
  CHECK(w.ask(branch, 1).safe_pages[0] == 0);
}

TEST_CASE("a tier counts what is on it or nearer") {
  world w({.page_size = 64, .windows = {128}, .workers = 1});
  const auto chain = a_chain(10);
  w.send(0, kind::stored, 0, 0, chain, 0, 4);
  w.send(0, kind::stored, 1, 0, chain, 4, 6);
  w.send(0, kind::stored, 2, 0, chain, 2, 10);
  w.send(0, kind::stored, 0, 1, chain, 3, 4);
  w.send(0, kind::stored, 2, 1, chain, 2, 3);
  w.send(0, kind::stored, 3, 1, chain, 8, 10);
  const worker_prefix row = w.ask(chain, 0);
  CHECK(std::vector(row.full_pages, row.full_pages + 4) ==
        std::vector<std::uint32_t>{4, 6, 10, 10});
  CHECK(std::vector(row.safe_pages, row.safe_pages + 4) == std::vector<std::uint32_t>{0, 0, 4, 10});
}

TEST_CASE("a page that nobody has splits its strand, and fills the gap again") {
  world w({.page_size = 64, .windows = {}, .workers = 2});
  const auto chain = a_chain(1000);
  w.send(0, kind::stored, 0, 0, chain, 0, 1000);
  w.send(0, kind::removed, 0, 0, chain, 300, 301);
  CHECK(w.ask(chain, 0).full_pages[0] == 300);
  CHECK(w.index.memory().strands == 2);
  w.send(1, kind::stored, 0, 0, chain, 300, 301);
  CHECK(w.ask(chain, 0).full_pages[0] == 300);
  w.send(0, kind::stored, 0, 0, chain, 300, 301);
  CHECK(w.ask(chain, 0).full_pages[0] == 1000);
  CHECK(w.index.is_sound());
}

TEST_CASE("pages for which there is no room are not known, and no more than that") {
  world w({.page_size = 64, .windows = {}, .workers = 2, .capacity_pages = 100});
  const auto chain = a_chain(150), other = a_chain(50, 2);
  w.send(0, kind::stored, 0, 0, chain, 0, 150);
  CHECK(w.ask(chain, 0).full_pages[0] == 100);
  CHECK(w.index.counters().refused_pages == 50);
  w.send(1, kind::stored, 0, 0, chain, 0, 150);
  CHECK(w.ask(chain, 1).full_pages[0] == 100);
  w.send(0, kind::removed, 0, 0, chain, 0, 150);
  w.send(1, kind::removed, 0, 0, chain, 0, 150);
  w.send(1, kind::stored, 0, 0, other, 0, 50);
  CHECK(w.ask(other, 1).full_pages[0] == 50);
  CHECK(w.index.is_sound());
}

}  // namespace prefix_index_test
