// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Where the answer of a replay with tiers can be had in another way: simple caches that share no
// code with it, sizes at which nothing is forgotten, traces of a few pages.
#include "replay/replay_world.hpp"
#include "support/plain_store.hpp"

#include <catch2/catch.hpp>
#include <replay/reference_cache.hpp>
#include <replay/replay_stores.hpp>
#include <replay/tier_sizes.hpp>
#include <replay/tiered_replay.hpp>
#include <support/scale.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <tuple>
#include <vector>

namespace tiered_replay_test {

using namespace oriel_test;

namespace {

constexpr std::uint64_t plenty_tokens = std::uint64_t{1} << 22;

cache_question uniform_question(std::uint32_t pages) {
  return {.capacity_tokens = std::uint64_t{pages} * page,
          .pools = pool_form::uniform,
          .page_tokens = page};
}

tier_plan tiers_for(const cache_question& question, const tier_question& tiers) {
  const model_geometry model = small_model();
  const auto plan = plan_tiers(model.layers, question, sizes_for(question), tiers);
  if (!plan) {
    FAIL(plan.error().detail);
  }
  return *plan;
}

/// Requests compute beside the pool, so slowly that every fetch pays.
cache_options slow(const trace& t, const tier_plan& tiers, evict_choice evict = evict_choice::lru) {
  cache_options options = beside(t, {.evict = evict});
  options.rates = {.linear_flops_per_s = 1e12, .attention_flops_per_s = 1e12};
  options.tiers = tiers;
  return options;
}

cache_outcome tiered(const trace& t, std::uint32_t device_pages, const tier_question& tiers) {
  const cache_question question = uniform_question(device_pages);
  return outcome_of(t, sizes_for(question), slow(t, tiers_for(question, tiers)));
}

auto facts_of(const cache_outcome& c) {
  return std::tuple(c.input_tokens,
                    c.hit_tokens,
                    c.healed_tokens,
                    c.clipped_tokens,
                    c.heals,
                    c.evicted_full_pages,
                    c.evicted_window_pages,
                    c.peak_bytes,
                    c.cached_pages);
}

void check_sums(const cache_outcome& c) {
  CHECK(c.levels[0].hit_tokens + c.levels[1].hit_tokens + c.levels[2].hit_tokens == c.hit_tokens);
  CHECK(c.fetches >= std::max(c.levels[1].fetches, c.levels[2].fetches));
  CHECK(c.fetches <= c.levels[1].fetches + c.levels[2].fetches);
}

/// A request of these pages for each, 3 s apart.
trace trace_of(const std::vector<std::vector<std::uint32_t>>& inputs, std::uint32_t distinct) {
  trace t;
  t.page_tokens = page;
  t.sessions = {"a"};
  t.distinct_pages = distinct;
  for (const auto& input : inputs) {
    add_request(t, input, 0);
  }
  return t;
}

}  // namespace

TEST_CASE("without tiers below, the replay that asks for them gives what the other gives") {
  for (std::uint64_t seed = 0; seed < scaled(8); ++seed) {
    const trace t = random_trace(seed, 80, 25);
    for (const cache_sizes& sizes : {dual_pools(60, 0.1), dual_pools(4'000, 0.1), one_pool(90)}) {
      for (const bool is_beside : {true, false}) {
        CAPTURE(seed, sizes.sizes.pages, is_beside);
        cache_options options{.evict = every_order[seed % 4]};
        options.working_pages = is_beside ? working_pages_of(t, page) : 0;
        const cache_outcome plain = outcome_of(t, sizes, options);
        options.tiers.emplace();
        const cache_outcome asked = outcome_of(t, sizes, options);
        CHECK(facts_of(asked) == facts_of(plain));
        CHECK(asked.levels[0].hit_tokens == plain.hit_tokens);
        CHECK(asked.levels[0].evicted_pages >=
              plain.evicted_full_pages + plain.evicted_window_pages);
        CHECK(asked.fetches == 0);
      }
    }
  }
}

TEST_CASE("above a tier that forgets nothing, the device hits what LRU hits, the tier the rest") {
  for (std::uint64_t seed = 0; seed < scaled(20); ++seed) {
    const trace t = random_trace(seed, 60, 8);
    const std::uint64_t all = infinite_cache(t).hit_tokens;
    for (const std::uint32_t pages : {1u, 5u, 17u, 40u, 90u}) {
      const std::uint64_t device = lru_cache(t, pages).hit_tokens;
      for (const bool is_disk : {false, true}) {
        CAPTURE(seed, pages, is_disk);
        tier_question below;
        (is_disk ? below.disk : below.host).tokens = plenty_tokens;
        const cache_outcome c = tiered(t, pages, below);
        const level_outcome& tier = c.levels[is_disk ? 2 : 1];
        check_sums(c);
        CHECK(c.hit_tokens == all);
        CHECK(c.levels[0].hit_tokens == device);
        CHECK(tier.hit_tokens == all - device);
        CHECK(tier.evicted_pages + c.dropped_copies == 0);
        CHECK(tier.copied_bytes ==
              tier.copied_pages * one_pool(1).plan.layout(full_pool).page_bytes());
        CHECK(c.checked_pages == all / page);
      }
    }
  }
}

TEST_CASE("what is copied when it is evicted, or hit twice, is found later") {
  for (std::uint64_t seed = 0; seed < scaled(10); ++seed) {
    const trace t = random_trace(seed, 120, 8);
    const std::uint64_t alone = lru_cache(t, 40).hit_tokens, all = infinite_cache(t).hit_tokens;
    for (const placement writes : {placement::write_back, placement::selective}) {
      CAPTURE(seed, name_of(writes));
      const cache_outcome c = tiered(t, 40, {.host = {.tokens = plenty_tokens}, .writes = writes});
      check_sums(c);
      CHECK(c.hit_tokens > alone);
      CHECK(c.hit_tokens <= all);
      CHECK(c.levels[1].hit_tokens > 0);
      CHECK(c.levels[1].pages <= t.distinct_pages);
    }
  }
}

TEST_CASE("more room below never hits less, and a small host leaves the rest to the disk") {
  const trace t = random_trace(4, static_cast<std::uint32_t>(scaled(400)), 12);
  const std::uint64_t all = infinite_cache(t).hit_tokens;
  std::uint64_t before = tiered(t, 20, {}).hit_tokens, host_before = 0;
  for (const std::uint64_t host_pages : {10u, 40u, 160u, 640u, 60'000u}) {
    CAPTURE(host_pages);
    const cache_outcome c = tiered(t, 20, {.host = {.tokens = host_pages * page}});
    check_sums(c);
    CHECK(c.hit_tokens >= before);
    before = c.hit_tokens;
    const cache_outcome both =
        tiered(t, 20, {.host = {.tokens = host_pages * page}, .disk = {.tokens = plenty_tokens}});
    check_sums(both);
    CHECK(both.hit_tokens == all);
    CHECK(both.levels[0].hit_tokens == lru_cache(t, 20).hit_tokens);
    CHECK(both.levels[1].hit_tokens >= host_before);
    host_before = both.levels[1].hit_tokens;
  }
  CHECK(before == all);
}

TEST_CASE("a disk that is too small evicts whole segments and hits less") {
  const trace t = random_trace(6, static_cast<std::uint32_t>(scaled(400)), 12);
  std::uint64_t before = tiered(t, 20, {}).hit_tokens;
  for (const std::uint64_t pages : {600u, 2'400u, 60'000u}) {
    CAPTURE(pages);
    const cache_outcome c = tiered(t, 20, {.disk = {.tokens = pages * page}});
    check_sums(c);
    CHECK(c.hit_tokens >= before);
    CHECK(c.levels[2].pages <= pages);
    CHECK((c.levels[2].evicted_pages != 0) == (t.distinct_pages > pages));
    before = c.hit_tokens;
  }
  CHECK(before == infinite_cache(t).hit_tokens);
}

TEST_CASE("dual pools over tiers: windows come along, and nothing is lost") {
  for (std::uint64_t seed = 0; seed < scaled(6); ++seed) {
    const trace t = random_trace(seed, 80, 25);
    const std::uint64_t all = infinite_cache(t).hit_tokens;
    const cache_question question{
        .capacity_tokens = 100 * page, .page_tokens = page, .window_share = 0.2};
    for (const bool heal : {true, false}) {
      for (const placement writes :
           {placement::write_through, placement::selective, placement::write_back}) {
        CAPTURE(seed, heal, name_of(writes));
        const tier_plan tiers = tiers_for(
            question,
            {.host = {.tokens = 200 * page}, .disk = {.tokens = plenty_tokens}, .writes = writes});
        cache_options options = slow(t, tiers);
        options.heal = heal;
        const cache_outcome c = outcome_of(t, sizes_for(question), options);
        options.tiers.reset();
        const cache_outcome device = outcome_of(t, sizes_for(question), options);
        check_sums(c);
        CHECK(c.hit_tokens >= device.hit_tokens);
        CHECK(c.hit_tokens <= all);
        if (writes == placement::write_through) {
          CHECK(c.hit_tokens > device.hit_tokens);
          CHECK(c.levels[1].fetched_pages * page > c.levels[1].hit_tokens);  // Windows too.
        }
        // Facts of the same run twice.
        options.tiers = tiers;
        const cache_outcome again = outcome_of(t, sizes_for(question), options);
        CHECK(facts_of(again) == facts_of(c));
        CHECK(again.levels[2].evicted_age_us_sum == c.levels[2].evicted_age_us_sum);
        CHECK(again.levels[1].fetched_bytes == c.levels[1].fetched_bytes);
      }
    }
  }
}

TEST_CASE("what is brought up has the bytes of the model's pages") {
  const trace t = trace_of({{0, 1, 2}, {3, 4, 5}, {0, 1, 2}}, 6);
  const cache_outcome c = tiered(t, 3, {.host = {.tokens = plenty_tokens}});
  const std::uint64_t page_bytes = one_pool(1).plan.layout(full_pool).page_bytes();
  CHECK(c.levels[1].hit_tokens == 3 * page);
  CHECK(c.levels[1].fetched_pages == 3);
  CHECK(c.levels[1].fetched_bytes == 3 * page_bytes);
  CHECK(c.levels[1].copied_bytes == 6 * page_bytes);
  CHECK(c.bytes_per_fetch() == 3 * page_bytes);
  CHECK(c.fetched_bytes_uniform == 3 * page_bytes);  // Every layer does keep every row here.
}

TEST_CASE("a page's age at its eviction is the time since its last use") {
  // Used at 0 and 3 s, pushed out at 6 s; the second at 9 s, 3 s after it came.
  const trace t = trace_of({{0}, {0}, {1}, {2}}, 3);
  const cache_outcome c = tiered(t, 1, {.host = {.tokens = page}});
  CHECK(c.levels[0].evicted_pages == 2);
  CHECK(c.levels[0].evicted_age_us_sum == 6'000'000);
  CHECK(c.levels[0].mean_age_at_eviction_s() == 3.0);
  CHECK(c.levels[1].evicted_pages == 2);
  CHECK(c.levels[1].evicted_age_us_sum == 6'000'000);
  CHECK(c.levels[2].mean_age_at_eviction_s() == std::nullopt);
}

TEST_CASE("tiers have the pages that their sizes pay for") {
  const model_geometry model = preset("mimo-v2.5-pro").value();
  const cache_question question{.capacity_tokens = 1'000'000, .page_tokens = 64};
  const auto device = plan_cache(model.layers, question);
  REQUIRE(device);
  const auto same = plan_tiers(model.layers, question, *device, {.host = {.tokens = 1'000'000}});
  REQUIRE(same);
  CHECK(same->host_pages == device->sizes.pages);
  CHECK(same->host_bytes == device->bytes);
  CHECK(same->disk_bytes == 0);
  const auto bytes = plan_tiers(model.layers,
                                question,
                                *device,
                                {.host = {.bytes = device->bytes}, .disk = {.tokens = 1u << 25}});
  REQUIRE(bytes);
  CHECK(bytes->host_bytes <= device->bytes);
  CHECK(bytes->host_bytes > device->bytes / 100 * 99);
  // 60 window layers and 10 full ones, all alike: a window's record is 6 of a full page's.
  CHECK(bytes->record_blocks == std::vector<std::uint32_t>{2, 12});
  const double full_bytes = static_cast<double>(device->plan.layout(full_pool).page_bytes());
  CHECK(bytes->block_bytes * 2 == Approx(full_bytes).epsilon(0.01));
  CHECK(bytes->segment_bytes >= 8 * device->plan.layout(window_pool(0)).page_bytes());
  CHECK(bytes->disk_bytes / bytes->segment_bytes <= 512);
  for (const std::string_view name : preset_names()) {  // Records keep their proportions.
    for (const std::uint32_t tokens : {16u, 64u, 512u, 4'096u}) {
      CAPTURE(name, tokens);
      const model_geometry other = preset(name).value();
      const cache_question asked{.capacity_tokens = 1u << 24, .page_tokens = tokens};
      const auto pools = plan_cache(other.layers, asked);
      REQUIRE(pools);
      const auto plan =
          plan_tiers(other.layers, asked, *pools, {.disk = {.tokens = std::uint64_t{1} << 30}});
      REQUIRE(plan);
      for (std::uint32_t pool = 0; pool < pools->plan.pools(); ++pool) {
        const page_layout& layout = pools->plan.layout(pool_id{pool});
        const double exact = static_cast<double>(layout.page_bytes()) / plan->block_bytes;
        CHECK(plan->record_blocks[pool] >= exact * 0.8);  // Headers and padding come on top.
        CHECK((tokens == 16 || plan->record_blocks[pool] <= exact * 1.25));
      }
    }
  }
  CHECK_FALSE(plan_tiers(model.layers, question, *device, {.host = {.tokens = 1}}));
  CHECK_FALSE(plan_tiers(model.layers, question, *device, {.disk = {.bytes = 1 << 20}}));
}

TEST_CASE("bytes of another page are found where a fetch ends") {
  const auto medium = std::make_shared<plain_medium>();
  stand_in_store store(any_store(std::make_unique<plain_store>(medium, plain_faults{}, 1)),
                       {1'000'000, 2'000'000},
                       {0, 8'192});
  std::array<store_completion, 4> done;
  const auto carry_out = [&](const store_item& item) {
    REQUIRE(store.submit({&item, 1}, no_deadline) == 1);
    while (store.poll(std::span(done).first(1)) == 0) {
      store.wait(no_deadline);
    }
    CHECK(done[0].user == item.user);
    return done[0].outcome;
  };
  for (const std::uint32_t pool : {0u, 1u}) {
    std::array<std::byte, 64> bytes = {};
    const std::span<std::byte> slice(bytes);
    const std::vector<token_id> tokens(4);
    const page_identity identity{
        .name_space = {}, .parent = {}, .first_token = 0, .tokens = tokens};
    page_key key{.link = {}, .pool = pool};
    key.link.bytes[20] = std::byte{5};
    write_mark(slice, key);
    store_item item{.op = store_op::put,
                    .key = key,
                    .identity = &identity,
                    .slices = {&slice, 1},
                    .user = 77 + pool};
    REQUIRE(carry_out(item) == store_outcome::done);
    CHECK(done[0].bytes == 1'000'000 * (pool + 1));
    CHECK(medium->pages.at(key).slices.size() == pool + 1);
    bytes = {};
    item.op = store_op::get;
    CHECK(carry_out(item) == store_outcome::done);
    CHECK(has_mark(bytes, key));
    CHECK_FALSE(has_mark(bytes, {key.link, 1 - pool}));
    medium->pages.at(key).slices[0][3] ^= std::byte{1};
    CHECK(carry_out(item) == store_outcome::corrupt);
    CHECK(store.stats().corrupt == pool + 1);
  }
}

}  // namespace tiered_replay_test
