// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Pages of the soft kind come along, if they come: nobody waits for them, and one that fails costs
// itself and those before it, nothing else.
#include "tier/tiered_world.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace soft_fetch_test {

using namespace tiered;

namespace {

constexpr std::uint32_t soft_pool = 2;

/// A tier that has all pages of a prompt; of the soft kind two at its end.
media kept_of(const std::vector<token_id>& tokens, std::size_t tiers) {
  media kept = new_media(tiers);
  world w(kept, {.has_soft = true});
  w.compute(tokens);
  REQUIRE(w.tiers->finish(no_deadline));
  return kept;
}

/// The get of a page of the soft kind says no, though the look-up says yes. @param index  of them
void lose_soft(plain_medium& medium, std::uint32_t index) {
  for (auto& [key, kept] : medium.pages) {
    if (key.pool == soft_pool && index-- == 0) {
      kept.parent = {};
    }
  }
}

std::uint32_t soft_pages_of_a_hit(world& w, const std::vector<token_id>& tokens) {
  const prefix_match m = w.tree.match(w.space, tokens);
  auto lease = w.tree.pin(w.space, tokens, m, pin_extent::hit(m), ticking_us());
  borrowed_pages pages;
  w.tree.borrow(lease, pages);
  const auto count = static_cast<std::uint32_t>(pages.windows[1].size());
  w.tree.release(lease, {}, ticking_us());
  return count;
}

}  // namespace

TEST_CASE("a page of the soft kind that does not come ends no fetch", "[tier]") {
  const auto tokens = tokens_of(12 * page + 3);
  std::uint32_t fewer = 0;
  for (const bool by_layers : {false, true}) {
    const media whole = kept_of(tokens, 1);
    const std::size_t soft_pages = pages_of(*whole[0], soft_pool);
    REQUIRE(soft_pages >= 2);
    for (std::uint32_t lost = 0; lost <= soft_pages; ++lost) {  // The last: none.
      CAPTURE(by_layers, lost);
      const media kept = kept_of(tokens, 1);
      lose_soft(*kept[0], lost);
      world_options o{.faults = {.turns_max = 8}, .by_layers = by_layers, .has_soft = true};
      o.limits.layers.read_bytes_min = 1;
      world w(kept, o);
      w.poison_free_pages();
      CHECK(w.fetch(tokens)[0] == 12 * page);
      CHECK(w.check_hit(tokens) == 12 * page);
      CHECK(w.tiers->counters().fetches_late == 0);
      const std::uint32_t came = soft_pages_of_a_hit(w, tokens);
      CHECK(came <= 2);
      fewer += came < 2;
    }
  }
  CHECK(fewer >= 4);  // Both of the last two, either way.
}

TEST_CASE("a step joins whatever becomes of the soft kind, and is lent what has come", "[tier]") {
  const auto tokens = tokens_of(12 * page + 3);
  std::uint32_t lent_soft = 0, without = 0;
  for (std::uint32_t round = 0; round < 40; ++round) {
    const media kept = kept_of(tokens, 1);
    if (round % 2 == 1) {
      lose_soft(*kept[0], round / 2 % static_cast<std::uint32_t>(pages_of(*kept[0], soft_pool)));
    }
    world_options o{.faults = {.turns_max = 12}, .by_layers = true, .has_soft = true};
    o.limits.layers.read_bytes_min = 1;
    world w(kept, o);
    w.poison_free_pages();
    const std::uint32_t id = w.begin(tokens);
    for (std::uint32_t turns = 0; turns < round || !w.tiers->can_join(id); ++turns) {
      if (!w.tiers->is_fetching(id)) {
        break;
      }
      w.tiers->turn();
    }
    if (!w.tiers->can_join(id)) {
      (void)w.tiers->end_fetch(id);
      continue;
    }
    const borrowed_prefix lent = w.tiers->lend(id);
    REQUIRE(lent.length == 12 * page);
    const std::span<const page_handle> soft = lent.windows[1];
    for (std::uint32_t i = 0; i < soft.size(); ++i) {  // What is lent is there already.
      w.check(tokens, soft_pool, 12 - static_cast<std::uint32_t>(soft.size()) + i, soft[i]);
    }
    lent_soft += !soft.empty();
    without += soft.empty();
    auto kv = w.pools.try_admit({.tokens_now = lent.length,
                                 .tokens_max = static_cast<std::uint32_t>(tokens.size()),
                                 .prefix = lent});
    REQUIRE(kv);
    CHECK(kv->soft_rows().first == (12 - soft.size()) * page);
    auto gate = w.tiers->join(id);
    for (std::uint32_t layer = 0; layer < world::homes(true).size(); ++layer) {
      REQUIRE(gate.wait(layer));
    }
    CHECK(w.tiers->end_fetch(id)[0] == 12 * page);
    CHECK(w.check_hit(tokens) == 12 * page);
    kv->release();
    CHECK(w.tiers->finish(no_deadline));
    CHECK(w.tree.audit() == nullptr);
  }
  CHECK(lent_soft >= 3);
  CHECK(without >= 3);
}

TEST_CASE("nobody waits to hear whether there are pages of the soft kind", "[tier]") {
  const auto tokens = tokens_of(2 * page + 3);  // Of which the first tier has all else.
  const media kept = kept_of(tokens, 2);
  std::erase_if(kept[0]->pages, [](const auto& p) { return p.first.pool == soft_pool; });
  world w(kept, {.silent_tier = 1, .has_soft = true});
  const std::uint64_t begin_us = ticking_us();
  CHECK(w.fetch(tokens)[0] == 2 * page);
  CHECK(ticking_us() - begin_us < 100'000);  // The silent tier would take half the time there is.
  CHECK(w.tiers->counters().fetches_late == 0);
  CHECK(w.check_hit(tokens) == 2 * page);
  CHECK(soft_pages_of_a_hit(w, tokens) == 0);
}

}  // namespace soft_fetch_test
