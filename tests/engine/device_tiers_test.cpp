// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tiers below the pools of a device that computes and copies as late as it may: every row of logits
// has the bits of a cold run, whatever came from where, and nothing is lost.
#include "engine/engine_life.hpp"
#include "engine/with_blocks.hpp"
#include "support/plain_store.hpp"
#include "support/played_device.hpp"
#include "support/temporary_directory.hpp"

#include <catch2/catch.hpp>
#include <engine/engine_tiers.hpp>
#include <engine/error.hpp>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace device_tiers_test {

using namespace oriel;
using namespace oriel::engine;
using namespace engine_life;
using oriel::test::played_device;

namespace {

/// Two lives of three run on a device; the third on the host, among the same tiers.
device_maker devices() {
  return [](const library& books, std::uint64_t seed, engine_options& o) -> std::shared_ptr<void> {
    if (seed % 3 == 0) {
      return nullptr;
    }
    auto device = std::make_shared<played_device>(books.weights, seed);
    o.make_runner = std::ref(*device);
    return device;
  };
}

std::pair<std::vector<token_id>, request_usage> tokens_of(oriel::engine::engine& e,
                                                          const request& r) {
  REQUIRE(e.submit(r));
  std::pair<std::vector<token_id>, request_usage> answer;
  while (!e.idle()) {
    for (const event& happened : e.step()) {
      answer.second = happened.usage;
      if (happened.token) {
        answer.first.push_back(*happened.token);
      }
    }
  }
  return answer;
}

}  // namespace

TEST_CASE("reuse is exact on a device: hits, heals, preemptions") {
  library books = random_library({0, 16, 33, 16, 1, 16}, false, 15);
  books.device = devices();
  check_exact(books, 24, requests_of(400), 21);
}

TEST_CASE("reuse is exact on a device: through tiers that fail now and then") {
  library books = random_library({0, 16, 33, 16, 1, 16}, true, 15);
  books.device = devices();
  const tier_maker tiers[]{unruly_tiers()};
  const tally t = check_exact(books, 24, requests_of(480), 22, tiers);
  if (t.requests >= 400) {
    for (const std::uint64_t requests : t.from_tier) {
      CHECK(50 * requests >= t.requests);
    }
    CHECK(t.failed_reads >= 5);
    CHECK(t.joined >= 10);
    CHECK(t.cut_off >= 2);
  }
}

TEST_CASE("reuse is exact on a device: drafts and tiers") {
  library books = with_blocks({0, 16, 33, 16}, false, 16, 17);
  books.device = devices();
  const tier_maker tiers[]{unruly_tiers()};
  const tally t = check_exact(books, 16, requests_of(240), 23, tiers);
  if (t.requests >= 240) {
    CHECK(t.drafted > 100);
    CHECK(t.joined >= 5);
  }
}

TEST_CASE("reuse is exact on a device: through host memory and a folder, whose threads are real") {
  library books = random_library({16, 0, 33, 16}, false, 16);
  books.device = devices();
  const temporary_directory place;
  const tier_maker tiers[]{
      [&](const model_geometry& model, const engine_options& o, std::uint64_t) {
        std::vector<tier> made = make_tiers(
            {.host_bytes = 2 << 20, .disk_folder = place.path() / "kv", .disk_bytes = 64 << 20},
            kv_page_shape(model, o, dtype::bf16));
        for (tier& t : made) {
          t.rates = {.latency_s = 0.0, .bytes_per_s = 1e15};  // On paper: they are asked.
        }
        return made;
      }};
  const tally t = check_exact(books, 16, requests_of(240), 24, tiers, steady_now_us);
  if (t.requests >= 240) {
    CHECK(t.from_tier[0] + t.from_tier[1] >= 20);
  }
}

TEST_CASE("reuse is exact on a device: e4m3 KV comes back with its scales") {
  const library books = random_library({0, 16, 33, 16}, false, 19);
  engine_options o{.page_tokens = 16, .chunk_tokens = 32, .context_tokens = 256};
  o.kv = dtype::e4m3;
  o.tier_moves.fetch_us_min = o.tier_moves.fetch_us_max = 10'000'000;
  thread_pool threads{1};
  std::uint64_t fetched = 0;
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    played_device cold_device(books.weights, seed), device(books.weights, seed + 10);
    o.make_runner = std::ref(cold_device);
    o.prefix_cache = false;
    oriel::engine::engine cold(books.model, books.weights, books.tokens, o, threads);
    o.make_runner = std::ref(device);
    o.prefix_cache = true;
    std::vector<tier> tiers =
        make_tiers({.host_bytes = 8 << 20}, kv_page_shape(books.model, o, dtype::e4m3));
    tiers[0].rates = {.latency_s = 0.0, .bytes_per_s = 1e15};  // On paper: it is asked.
    oriel::engine::engine warm(
        books.model, books.weights, books.tokens, o, threads, std::move(tiers));
    random_stream random(seed, 142);
    request r;
    for (std::uint32_t t = 0; t < 150; ++t) {
      r.prompt.push_back(token_id{random.next_below(books.model.vocabulary)});
    }
    r.max_new_tokens = 12;
    r.id = request_id{1};
    const auto [expected, none] = tokens_of(cold, r);
    CHECK(tokens_of(warm, r).first == expected);
    REQUIRE(warm.cache()->tiers()->finish(no_deadline));
    warm.cache()->tree().evict_full(warm.cache()->tree().evictable_full_pages(), steady_now_us());
    r.id = request_id{2};
    const auto [found, usage] = tokens_of(warm, r);
    CHECK(found == expected);
    fetched += usage.fetched_tokens[0];
  }
  CHECK(fetched >= 6 * 64);
}

TEST_CASE("who has no way to tiers says so") {
  const library books = random_library({0, 16}, false, 18);
  engine_options o{.chunk_tokens = 16, .context_tokens = 64};
  std::shared_ptr<played_device> device = std::make_shared<played_device>(books.weights, 1);
  o.make_runner = [device](const runner_setup& setup) {
    runner_setup without = setup;
    without.tiers = 0;
    return (*device)(without);
  };
  thread_pool threads{1};
  CHECK_THROWS_AS(
      oriel::engine::engine(
          books.model, books.weights, books.tokens, o, threads, unruly_tiers()(books.model, o, 1)),
      oriel::engine::error);
}

TEST_CASE("tiers of a device whose shares of the stages hold no page are refused") {
  const library books = random_library({0, 16}, false, 18);
  engine_options o{.chunk_tokens = 16, .context_tokens = 64};
  thread_pool threads{1};
  const auto serves = [&](int count) {
    played_device device(books.weights, 1);  // Six pages each way.
    o.make_runner = std::ref(device);
    std::vector<tier> tiers;
    for (int i = 0; i < count; ++i) {
      tiers.push_back({.store = any_store(std::make_unique<plain_store>(
                           std::make_shared<plain_medium>(), plain_faults{}, 1)),
                       .role = tier_role::host});
    }
    const oriel::engine::engine e(
        books.model, books.weights, books.tokens, o, threads, std::move(tiers));
  };
  CHECK_NOTHROW(serves(6));
  CHECK_THROWS_WITH(serves(7), Catch::Matchers::Contains("room for 6 pages each way"));
}

}  // namespace device_tiers_test
