// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What an engine does with the tiers below its pools: who gets pages when, for how long, and how
// they are forgotten. That answers do not depend on it is prefix_exact_test's.
#include "engine/toy_server.hpp"
#include "support/plain_store.hpp"
#include "support/temporary_directory.hpp"

#include <catch2/catch.hpp>
#include <engine/engine_tiers.hpp>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <unistd.h>

namespace engine_tiers_test {

using namespace toy_engine;

namespace {

constexpr std::uint64_t mib = std::uint64_t{1} << 20;

tier plain_tier(const std::shared_ptr<plain_medium>& medium,
                plain_faults faults = {},
                placement writes = placement::write_through) {
  return {.store = any_store(std::make_unique<plain_store>(medium, faults, 1)),
          .role = tier_role::host,
          .writes = writes};
}

/// Fast on paper, so that they are asked.
std::vector<tier> fast(std::vector<tier> tiers) {
  for (tier& t : tiers) {
    t.rates = {.latency_s = 0.0, .bytes_per_s = 1e15};
  }
  return tiers;
}

std::vector<tier> one(tier t) {
  std::vector<tier> tiers;
  tiers.push_back(std::move(t));
  return fast(std::move(tiers));
}

/// The device has nothing any more.
void evict_all(server& s) {
  REQUIRE(s.engine.cache()->tiers()->finish(no_deadline));
  auto& tree = s.engine.cache()->tree();
  tree.evict_full(tree.evictable_full_pages(), ticking_us());
  REQUIRE(s.engine.cache()->tiers()->finish(no_deadline));
  REQUIRE(tree.full_pages() == 0);
}

std::uint32_t fetched(const ended& e) {
  return e.usage.fetched_tokens[0] + e.usage.fetched_tokens[1] + e.usage.fetched_tokens[2];
}

engine_options patient() {
  engine_options o = options_of(2, 512);
  o.tier_moves.fetch_us_min = 10'000'000;
  o.tier_moves.fetch_us_max = 10'000'000;
  return o;
}

std::size_t pages_of_session(const plain_medium& medium, std::uint64_t session) {
  return static_cast<std::size_t>(std::ranges::count_if(
      medium.pages, [&](const auto& p) { return p.second.owner.session == session; }));
}

}  // namespace

TEST_CASE("a forgotten tenant finds nothing anywhere, the others theirs") {
  const auto medium = std::make_shared<plain_medium>();
  server s(patient(), the_toy().weights, one(plain_tier(medium)));
  const auto prompt = prompt_of(1, 200);
  const ended cold = s.serve(prompt, 4, "a");
  s.serve(prompt, 4, "b");
  evict_all(s);
  CHECK(fetched(s.serve(prompt, 4, "a")) == 192);

  REQUIRE(s.engine.forget("a"));
  CHECK(s.serve(prompt, 1, "a").usage.cached_tokens == 0);
  REQUIRE(s.engine.forget("a"));
  evict_all(s);
  const ended again = s.serve(prompt, 4, "a");
  CHECK(again.usage.cached_tokens == 0);
  CHECK(again.answer == cold.answer);
  CHECK(fetched(s.serve(prompt, 4, "b")) == 192);
}

TEST_CASE("a forgotten session's pages leave the tiers, and the device") {
  const auto medium = std::make_shared<plain_medium>();
  server s(patient(), the_toy().weights, one(plain_tier(medium)));
  s.serve(prompt_of(1, 200), 1, "a", 1);
  s.serve(prompt_of(2, 200), 1, "a", 2);
  REQUIRE(s.engine.cache()->tiers()->finish(no_deadline));
  REQUIRE(pages_of_session(*medium, 1) != 0);
  const std::size_t others = pages_of_session(*medium, 2);
  REQUIRE(s.engine.forget("a", 1));
  CHECK(pages_of_session(*medium, 1) == 0);
  CHECK(pages_of_session(*medium, 2) == others);
  CHECK(s.engine.cache()->tree().full_pages() == 0);
  CHECK(s.serve(prompt_of(1, 200), 1, "a", 1).usage.cached_tokens == 0);
  CHECK(fetched(s.serve(prompt_of(2, 200), 1, "a", 2)) == 192);
}

TEST_CASE("who is being served is not forgotten, and a tier that fails is named by its errno") {
  const auto medium = std::make_shared<plain_medium>();
  server s(patient(), the_toy().weights, one(plain_tier(medium)));
  s.submit(prompt_of(1, 200), 8, "a", 1);
  s.step();
  CHECK(s.engine.forget("a").error().code == errc::invalid_argument);
  CHECK(s.engine.forget("a", 1).error().code == errc::invalid_argument);
  CHECK(s.engine.forget("a", 2));
  CHECK(s.engine.forget("b"));
  s.run();
  CHECK(s.engine.forget("a"));
  CHECK(medium->pages.empty());

  server failing(patient(), the_toy().weights, one(plain_tier(medium, {.fails_orders = true})));
  const status done = failing.engine.forget("a");
  REQUIRE(!done);
  CHECK(done.error().code == errc::io_failure);
  CHECK(done.error().native == EIO);
  CHECK(!failing.engine.sync_tiers());

  server stuck(
      patient(), the_toy().weights, one(plain_tier(medium, {.stuck = 1000, .stuck_polls = 500})));
  const status late = stuck.engine.forget("a", {}, ticking_us() + 100'000);
  REQUIRE(!late);
  CHECK(late.error().native == ETIMEDOUT);
  CHECK(stuck.engine.forget("a"));
  CHECK(stuck.engine.cache()->tiers()->idle());
}

TEST_CASE("a sync covers the tiers that can, and a remote does not stand in its way") {
  const temporary_directory place;
  engine_options o = patient();
  o.now_us = steady_now_us;
  server s(o,
           the_toy().weights,
           make_tiers(
               {.host_bytes = 8 * mib, .disk_folder = place.path() / "kv", .disk_bytes = 64 * mib},
               kv_page_shape(the_toy().model, o, dtype::bf16)));
  s.serve(prompt_of(1, 200), 1);
  CHECK(s.engine.sync_tiers());

  const auto medium = std::make_shared<plain_medium>();
  server remote(patient(), the_toy().weights, one(plain_tier(medium, {.knows_no_sync = true})));
  CHECK(remote.engine.sync_tiers());
}

TEST_CASE("what dear tiers get: all, what is hit twice, what is evicted, nothing") {
  const auto prompt = prompt_of(1, 200);
  for (const placement writes : {placement::write_through,
                                 placement::selective,
                                 placement::write_back,
                                 placement::read_only}) {
    CAPTURE(name_of(writes));
    const auto medium = std::make_shared<plain_medium>();
    server s(patient(), the_toy().weights, one(plain_tier(medium, {}, writes)));
    const auto pages_after = [&](auto&& act) {
      act();
      REQUIRE(s.engine.cache()->tiers()->finish(no_deadline));
      return medium->pages.size();
    };
    const std::size_t computed = pages_after([&] { s.serve(prompt); });
    CHECK((computed != 0) == (writes == placement::write_through));
    const std::size_t hit_once = pages_after([&] { s.serve(prompt); });
    CHECK((hit_once != 0) == (writes == placement::write_through));
    const std::size_t hit_twice = pages_after([&] { s.serve(prompt); });
    CHECK((hit_twice != 0) ==
          (writes == placement::write_through || writes == placement::selective));
    const std::size_t evicted = pages_after([&] { evict_all(s); });
    CHECK((evicted != 0) == (writes != placement::read_only));
    CHECK((fetched(s.serve(prompt)) == 192) == (writes != placement::read_only));
  }
}

TEST_CASE("tiers forget a page when its time is over") {
  for (const bool is_short : {false, true}) {
    engine_options o = patient();
    o.now_us = steady_now_us;
    o.tier_moves.ttl_us = is_short ? 1 : 3'600'000'000;  // Over before it is there, or not at all.
    server s(
        o,
        the_toy().weights,
        fast(make_tiers({.host_bytes = 8 * mib}, kv_page_shape(the_toy().model, o, dtype::bf16))));
    s.serve(prompt_of(1, 200));
    evict_all(s);
    CHECK(fetched(s.serve(prompt_of(1, 200))) == (is_short ? 0 : 192));
  }
}

TEST_CASE("no budget of the disk holds back the opening of a folder") {
  const temporary_directory place;
  engine_options o = patient();
  o.now_us = steady_now_us;
  const page_shape shape = kv_page_shape(the_toy().model, o, dtype::bf16);
  tier_choice choice{.disk_folder = place.path() / "kv", .disk_bytes = 64 * mib};
  {
    server s(o, the_toy().weights, make_tiers(choice, shape));
    s.serve(prompt_of(1, 200));
    REQUIRE(s.engine.cache()->tiers()->finish(no_deadline));
  }
  choice.disk_bytes_per_s_max = 1;  // A block would take an hour.
  const std::vector<tier> tiers = make_tiers(choice, shape);
  CHECK(tiers.front().store.stats().pages != 0);
}

TEST_CASE(
    "a server is connected to before the first prompt, and a silent one does not hold it up") {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(at);
  REQUIRE(::bind(listener, reinterpret_cast<const sockaddr*>(&at), size) == 0);
  REQUIRE(::listen(listener, 4) == 0);
  REQUIRE(::getsockname(listener, reinterpret_cast<sockaddr*>(&at), &size) == 0);
  const tier_choice choice{.host_bytes = 2 * mib,
                           .remote_url = "redis://127.0.0.1:" + std::to_string(ntohs(at.sin_port))};
  engine_options o = patient();
  o.now_us = steady_now_us;
  const std::vector<tier> tiers =
      make_tiers(choice, kv_page_shape(the_toy().model, o, dtype::bf16));
  const int client = ::accept(listener, nullptr, nullptr);
  CHECK(client >= 0);
  for (const tier& t : tiers) {
    CHECK(t.store.pending() == 0);  // What was asked is nobody's answer later.
  }
  ::close(client);
  ::close(listener);
}

TEST_CASE("a tenant fills its share of host memory and of the folder, and no more") {
  const temporary_directory place;
  engine_options o = patient();
  o.now_us = steady_now_us;
  const tier_choice choice{.host_bytes = 2 * mib,
                           .disk_folder = place.path() / "kv",
                           .disk_bytes = 64 * mib,
                           .tenant_share_max = 0.25};
  const page_shape shape = kv_page_shape(the_toy().model, o, dtype::bf16);
  server s(o, the_toy().weights, make_tiers(choice, shape));
  for (std::uint64_t i = 0; i < 40; ++i) {
    s.serve(prompt_of(i, 400), 1, "a");
  }
  REQUIRE(s.engine.cache()->tiers()->finish(no_deadline));
  const auto tiers = s.engine.cache()->tiers()->tiers();
  const store_stats alone = tiers[0].store.stats();
  CHECK(alone.used_bytes <= alone.capacity_bytes / 4);
  CHECK(alone.used_bytes >= alone.capacity_bytes / 8);
  s.serve(prompt_of(100, 400), 1, "b");
  REQUIRE(s.engine.cache()->tiers()->finish(no_deadline));
  CHECK(tiers[0].store.stats().used_bytes > alone.used_bytes);
}

}  // namespace engine_tiers_test
