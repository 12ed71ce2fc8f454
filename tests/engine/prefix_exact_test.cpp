// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Whatever a request finds in the cache, its logits have the bits of a cold run: hits, partial
// hits, divergence inside a page or a node, heals, chunks, preemptions, twins, eviction, several
// tenants.
#include "engine/engine_life.hpp"
#include "support/plain_store.hpp"
#include "support/temporary_directory.hpp"
#include "tier/redis_server.hpp"

#include <oriel/core/random.hpp>
#include <oriel/core/thread_pool.hpp>

#include <catch2/catch.hpp>
#include <engine/checkpoint.hpp>
#include <engine/engine.hpp>
#include <engine/engine_tiers.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/weight_loader.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace prefix_exact_test {

using namespace oriel;
using namespace oriel::engine;
using namespace engine_life;

namespace {

/// One real tier: what `oriel run` makes of this choice. Its speed is made up, so that it is asked.
tier_maker real_tier(tier_choice choice) {
  return [choice](const model_geometry& model, const engine_options& o, std::uint64_t) {
    std::vector<tier> tiers = make_tiers(choice, kv_page_shape(model, o, dtype::bf16));
    for (tier& t : tiers) {
      t.rates = {.latency_s = 0.0, .bytes_per_s = 1e15};
    }
    return tiers;
  };
}

}  // namespace

TEST_CASE("reuse is exact: one full layer in eight, W = 16") {
  library books = random_library({0, 16, 16, 16, 16, 16, 16, 16}, false, 11);
  check_exact(books, 24, requests_of(1200), 1);
}

TEST_CASE("reuse is exact: two window sizes, experts") {
  library books = random_library({16, 0, 40, 16, 0, 40}, true, 12);
  check_exact(books, 24, requests_of(1200), 2);
}

TEST_CASE("reuse is exact: windows of whole pages, and of one token") {
  library books = random_library({17, 0, 33, 1, 17}, false, 13);
  check_exact(books, 24, requests_of(900), 3);
}

TEST_CASE("reuse is exact: through tiers that outlive the engine and fail now and then") {
  library books = random_library({0, 16, 33, 16, 1, 16}, false, 15);
  const tier_maker tiers[]{unruly_tiers()};
  const tally t = check_exact(books, 24, requests_of(1200), 5, tiers);
  if (t.requests >= 400) {
    for (const std::uint64_t requests : t.from_tier) {
      CHECK(50 * requests >= t.requests);
    }
    CHECK(t.failed_reads >= 20);
    CHECK(t.late_fetches >= 2);
    CHECK(t.joined >= 50);
    CHECK(t.cut_off >= 5);
  }
}

TEST_CASE("reuse is exact: through host memory, a folder, and a Redis server") {
  library books = random_library({16, 0, 33, 16}, true, 16);
  const temporary_directory place;
  std::optional<redis_server> redis;
  std::vector<tier_maker> tiers{
      real_tier({.host_bytes = 64 << 20}),
      real_tier({.disk_folder = place.path() / "kv", .disk_bytes = 64 << 20})};
  if (!is_missing("redis-server")) {  // Then the rest goes on without it.
    redis.emplace();
    tiers.push_back(real_tier({.remote_url = redis->url()}));
  }
  const std::size_t single = tiers.size();
  tiers.push_back(real_tier({.host_bytes = 2 << 20,
                             .disk_folder = place.path() / "beside",
                             .disk_bytes = 64 << 20,
                             .remote_url = redis ? redis->url() : ""}));
  const tally t = check_exact(books, 24, requests_of(1200), 6, tiers, steady_now_us);
  for (std::size_t i = 0; i < single && t.requests >= 400; ++i) {
    CHECK(t.from_tier[i] >= 50);
  }
}

TEST_CASE("reuse is exact: the nano model") {
  const std::filesystem::path folder =
      std::filesystem::path{ORIEL_TEST_DIR} / ".." / "examples" / "models" / "nano";
  const checkpoint opened = open_checkpoint(folder);
  library books{.model = opened.config.geometry,
                .weights = load_weights(opened, {.with_mtp = false}),
                .tokens = tokenizer::load((folder / "tokenizer.json").string()),
                .context = 400};
  books.model.mtp_layers.clear();
  check_exact(books, 12, requests_of(420), 4);
}

}  // namespace prefix_exact_test
