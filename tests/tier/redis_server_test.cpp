// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Real servers: round trips, time to live, passwords, TLS, servers that stop, die and come back, a
// network in between that spoils things. Clocks decide nothing here but deadlines.
#include "support/scale.hpp"
#include "tier/fault_proxy.hpp"
#include "tier/redis_pages.hpp"
#include "tier/redis_server.hpp"

#include <catch2/catch.hpp>

#include <cerrno>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace redis_server_test {

using namespace oriel;
using redis_test::run;
using redis_test::run_all;
using redis_test::test_page;

namespace {

redis_options quick(const std::string& url) {
  return {.url = url, .backoff_min_us = 1'000, .backoff_max_us = 20'000};
}

std::string url_of(std::uint16_t port) {
  return "redis://127.0.0.1:" + std::to_string(port);
}

/// Until the store is well again: what fails or is refused meanwhile costs nothing but time.
bool comes_back(redis_store& store, const test_page& page, store_outcome wanted) {
  return eventually([&] { return run(store, page.item(store_op::get), 200'000) == wanted; });
}

}  // namespace

TEST_CASE("slices of odd sizes go to Redis and come back, in batches", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const redis_server server;
  redis_store store({.url = server.url()});
  std::vector<std::unique_ptr<test_page>> pages;
  std::vector<store_item> puts, gets;
  for (std::uint32_t i = 0; i < 60; ++i) {
    std::vector<std::size_t> sizes;
    for (std::uint32_t slice = 0; slice <= i % 9; ++slice) {
      sizes.push_back((std::size_t{i} * 7919 + slice * 104'729) % (slice % 3 == 0 ? 200'000 : 17));
    }
    pages.push_back(std::make_unique<test_page>(i, sizes));
    puts.push_back(pages.back()->item(store_op::put));
    gets.push_back(pages.back()->item(store_op::get));
  }
  for (const store_completion& c : run_all(store, puts)) {
    CHECK(c.outcome == store_outcome::done);
  }
  for (const store_completion& c : run_all(store, gets)) {
    CHECK(c.outcome == store_outcome::done);
  }
  for (const auto& page : pages) {
    CHECK(page->has_arrived());
  }
  const store_stats stats = store.stats();
  CHECK(stats.hits == 60);
  CHECK(stats.bytes_read == stats.bytes_written);
  CHECK(run(store, pages[0]->item(store_op::sync)) == store_outcome::refused);
}

TEST_CASE("many layers of which some are wanted", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const redis_server server;
  redis_store store({.url = server.url()});
  test_page page(5, std::vector<std::size_t>(400, 321));  // Its head does not fit the first guess.
  REQUIRE(run(store, page.item(store_op::put)) == store_outcome::done);
  store_item some = page.item(store_op::get);
  some.first_slice = 390;
  some.slices = some.slices.subspan(390, 7);
  CHECK(run(store, some) == store_outcome::done);
  for (std::size_t i = 0; i < 400; ++i) {
    CHECK((page.room[i] == page.content[i]) == (i >= 390 && i < 397));
  }
}

TEST_CASE("what expires is gone from the server too", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const redis_server server;
  redis_store store({.url = server.url()});
  test_page page(1);
  store_item put = page.item(store_op::put);
  put.expires_us = store.now_us() + 400'000;
  REQUIRE(run(store, put) == store_outcome::done);
  CHECK(eventually([&] { return run(store, page.item(store_op::get)) == store_outcome::miss; }));
  CHECK(store.now_us() >= put.expires_us - 10'000);
  CHECK(eventually([&] { return server.ask("KEYS *:p:*").starts_with("*0\r\n"); }));
}

TEST_CASE("a drop of one store is seen by another, and costs two small keys", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const redis_server server;
  redis_store a({.url = server.url()}), b({.url = server.url()});
  test_page one(1), two(2), far(201);
  for (const store_op drop :
       {store_op::drop_space, store_op::drop_tenant, store_op::drop_session}) {
    for (test_page* page : {&one, &two, &far}) {
      REQUIRE(run(a, page->item(store_op::put)) == store_outcome::done);
      REQUIRE(run(b, page->item(store_op::get)) == store_outcome::done);
    }
    CHECK(run(a, one.item(drop)) == store_outcome::done);
    CHECK(run(b, one.item(store_op::get)) == store_outcome::miss);
    CHECK(run(b, two.item(store_op::exists)) == store_outcome::miss);
    const store_outcome elsewhere =
        drop == store_op::drop_space ? store_outcome::done : store_outcome::miss;
    CHECK(run(b, far.item(store_op::get)) == elsewhere);
    // And both may put it again.
    REQUIRE(run(b, one.item(store_op::put)) == store_outcome::done);
    CHECK(run(a, one.item(store_op::get)) == store_outcome::done);
  }
  // Two who drop at a time: neither believes its own stamp.
  REQUIRE(run(a, far.item(store_op::put)) == store_outcome::done);
  REQUIRE(run(b, far.item(store_op::get)) == store_outcome::done);
  CHECK(run(a, far.item(store_op::drop_space)) == store_outcome::done);
  CHECK(run(b, one.item(store_op::drop_space)) == store_outcome::done);
  CHECK(run(b, far.item(store_op::get)) == store_outcome::miss);
  CHECK(run(a, one.item(store_op::get)) == store_outcome::miss);
}

TEST_CASE("an epoch that is lost takes its pages along", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const redis_server server;
  redis_store store({.url = server.url()});
  test_page page(1);
  REQUIRE(run(store, page.item(store_op::put)) == store_outcome::done);
  REQUIRE(run(store, page.item(store_op::drop_session)) == store_outcome::done);
  // As a server short of memory might: every key but the page's.
  for (const std::string kind : {"s:*", "t:*", "o:*", "drops"}) {
    server.ask("EVAL \"for _, k in ipairs(redis.call('KEYS', 'oriel:{e}" + kind +
               "')) do redis.call('DEL', k) end return 1\" 0");
  }
  CHECK(run(store, page.item(store_op::get)) == store_outcome::miss);
  REQUIRE(run(store, page.item(store_op::put)) == store_outcome::done);
  CHECK(run(store, page.item(store_op::get)) == store_outcome::done);
}

TEST_CASE("passwords", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const redis_server server({"--requirepass", "se:cret"});
  server.ask("AUTH se:cret");
  test_page page(1);
  redis_store right(quick(server.url(":se%3Acret@")));
  CHECK(run(right, page.item(store_op::put)) == store_outcome::done);
  redis_store named(quick(server.url("default:se%3Acret@")));
  CHECK(run(named, page.item(store_op::get)) == store_outcome::done);
  for (const std::string who : {"", ":wrong@", "nobody:se%3Acret@"}) {
    redis_store wrong(quick(server.url(who)));
    const auto ended = run_all(wrong, {page.item(store_op::get)});
    CHECK(
        (ended[0].outcome == store_outcome::refused || ended[0].outcome == store_outcome::failed));
    CHECK(ended[0].native == EACCES);
  }
}

TEST_CASE("TLS", "[tier][redis]") {
  if (is_missing("redis-server") || is_missing("openssl")) {
    return;
  }
  const temporary_directory keys;
  const std::string key = keys.path() / "key.pem", certificate = keys.path() / "cert.pem";
  REQUIRE(run_to_end({find_program("openssl"),
                      "req",
                      "-x509",
                      "-newkey",
                      "ec",
                      "-pkeyopt",
                      "ec_paramgen_curve:prime256v1",
                      "-nodes",
                      "-keyout",
                      key,
                      "-out",
                      certificate,
                      "-subj",
                      "/CN=localhost",
                      "-days",
                      "2",
                      "-addext",
                      "subjectAltName=DNS:localhost,IP:127.0.0.1"}));
  const std::uint16_t port = free_port();
  const redis_server server({"--tls-port",
                             std::to_string(port),
                             "--tls-cert-file",
                             certificate,
                             "--tls-key-file",
                             key,
                             "--tls-auth-clients",
                             "no"});
  const std::string number = std::to_string(port);
  test_page page(1, {300'000, 1, 70'000});
  for (const std::string host : {"127.0.0.1", "localhost"}) {
    redis_options options = quick("rediss://" + host + ":" + number);
    options.ca_file = certificate;
    redis_store store(options);
    if (run(store, page.item(store_op::put)) != store_outcome::done) {
      if (server.ask("INFO server").find("redis_version") != std::string::npos &&
          store.last_fault().native == ECONNREFUSED) {
        WARN("skipped: this redis-server has no TLS");
        return;
      }
    }
    page.clear();
    CHECK(run(store, page.item(store_op::get)) == store_outcome::done);
    CHECK(page.has_arrived());
    std::vector<store_item> many(20, page.item(store_op::put));
    for (const store_completion& c : run_all(store, many)) {
      CHECK(c.outcome == store_outcome::done);
    }
  }
  // Nobody vouches for it.
  redis_store unsigned_store(quick("rediss://127.0.0.1:" + number));
  CHECK(run(unsigned_store, page.item(store_op::get)) != store_outcome::done);
  CHECK(unsigned_store.last_fault().native == EPROTO);
  // Vouched for, but as another host.
  redis_options other = quick("rediss://127.0.0.2:" + number);
  other.ca_file = certificate;
  redis_store other_store(other);
  CHECK(run(other_store, page.item(store_op::get)) != store_outcome::done);
  redis_options careless = quick("rediss://127.0.0.1:" + number);
  careless.verifies_certificate = false;
  redis_store careless_store(careless);
  CHECK(run(careless_store, page.item(store_op::get)) == store_outcome::done);
}

TEST_CASE("a server that speaks no TLS is told as a fault, at the first deadline",
          "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const redis_server server;
  redis_options options = quick("rediss" + server.url().substr(5));
  options.connect_timeout_us = 3'600'000'000;  // It says nothing for so long.
  redis_store store(options);
  test_page page(1, {1'000});
  const store_item item = page.item(store_op::get);
  REQUIRE(store.submit({&item, 1}, store.now_us() + 50'000) == 1);
  store_completion done;
  while (store.poll({&done, 1}) == 0) {
    store.wait(no_deadline);
  }
  CHECK(done.outcome != store_outcome::done);
  const store_fault fault = store.last_fault();
  CHECK(fault.count > 0);
  CHECK(fault.operation.starts_with("connect"));
  CHECK(server.url().find(fault.where) != std::string::npos);
}

TEST_CASE("a server that stands still costs deadlines, then nothing, and comes back",
          "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  redis_server server;
  redis_options options = quick(server.url());
  options.lates_to_open = 4;
  options.connect_timeout_us = 50'000;
  redis_store store(options);
  test_page page(1, {100'000, 50'000});
  REQUIRE(run(store, page.item(store_op::put)) == store_outcome::done);
  server.pause();
  int lates = 0;
  CHECK(eventually([&] {
    page.clear();
    const std::uint64_t begin = store.now_us();
    const store_outcome how = run(store, page.item(store_op::get), 5'000);
    CHECK(how != store_outcome::done);
    CHECK((how != store_outcome::late || store.now_us() >= begin + 5'000));
    lates += how == store_outcome::late;
    return how == store_outcome::refused;
  }));
  CHECK(lates >= 1);
  CHECK(store.stats().health == store_health::degraded);
  page.clear(std::byte{0x77});
  // Refused at once, without a wait: a thousand of them take less than one deadline each.
  const std::vector<store_item> many(500, page.item(store_op::get));
  for (const store_completion& c : run_all(store, many)) {
    CHECK(c.outcome == store_outcome::refused);
  }
  CHECK(page.is_clear(std::byte{0x77}));
  server.resume();
  CHECK(comes_back(store, page, store_outcome::done));
  CHECK(page.has_arrived());
  CHECK(store.stats().health == store_health::healthy);
}

TEST_CASE("a server that dies comes back, with or without its pages", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  redis_server server;
  redis_store store(quick(server.url()));
  test_page page(1), gone(2);
  REQUIRE(run(store, page.item(store_op::put)) == store_outcome::done);
  for (int round = 0; round < 3; ++round) {
    server.kill();
    CHECK(eventually(
        [&] { return run(store, page.item(store_op::get), 10'000) == store_outcome::refused; }));
    CHECK(store.stats().health == store_health::degraded);
    server.start();  // Another one, that knows nothing.
    CHECK(comes_back(store, page, store_outcome::miss));
    CHECK(run(store, page.item(store_op::put)) == store_outcome::done);
    CHECK(run(store, page.item(store_op::get)) == store_outcome::done);
  }
}

TEST_CASE("a restart in the middle of a batch ends every item once", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  redis_server server;
  redis_store store(quick(server.url()));
  std::vector<std::unique_ptr<test_page>> pages;
  std::vector<store_item> items;
  for (std::uint32_t i = 0; i < 40; ++i) {
    pages.push_back(std::make_unique<test_page>(i, std::vector<std::size_t>{60'000, 60'000}));
    items.push_back(pages.back()->item(store_op::put));
  }
  REQUIRE(store.submit(items, no_deadline) == items.size());
  server.kill();
  server.start();
  std::size_t ended = 0;
  std::vector<store_completion> done(64);
  CHECK(eventually([&] {
    store.wait(store.now_us() + 1'000);
    ended += store.poll(done);
    return ended == items.size();
  }));
  CHECK(store.pending() == 0);
  CHECK(eventually(
      [&] { return run(store, pages[0]->item(store_op::put), 100'000) == store_outcome::done; }));
  CHECK(run(store, pages[0]->item(store_op::get)) == store_outcome::done);
}

TEST_CASE("a full server refuses puts and goes on with gets", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const redis_server server;
  redis_store store(quick(server.url()));
  test_page page(1), other(2);
  REQUIRE(run(store, page.item(store_op::put)) == store_outcome::done);
  server.ask("CONFIG SET maxmemory 1");
  const auto ended = run_all(store, {other.item(store_op::put)});
  CHECK(ended[0].outcome == store_outcome::refused);
  CHECK(ended[0].native == ENOMEM);
  CHECK(store.stats().health == store_health::write_paused);
  CHECK(run(store, page.item(store_op::get)) == store_outcome::done);
  server.ask("CONFIG SET maxmemory 0");
  CHECK(run(store, other.item(store_op::put)) == store_outcome::done);
  CHECK(store.stats().health == store_health::healthy);
}

TEST_CASE("puts that are late while they are sent let go of their slices at once",
          "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const redis_server server;
  redis_options options = quick(server.url());
  options.lates_to_open = 1'000'000;
  redis_store store(options);
  std::vector<std::unique_ptr<test_page>> pages;
  for (std::uint32_t i = 0; i < 8; ++i) {
    pages.push_back(std::make_unique<test_page>(i, std::vector<std::size_t>{3'000'000, 1'000'000}));
  }
  REQUIRE(run(store, pages[0]->item(store_op::put)) == store_outcome::done);
  std::size_t lates = 0, hits = 0;
  for (std::uint64_t round = 0; round < 12; ++round) {
    std::vector<store_item> puts;
    for (auto& page : pages) {
      for (std::size_t i = 0; i < page->content.size(); ++i) {
        page->room[i] = page->content[i];
        page->target[i] = page->room[i];
      }
      puts.push_back(page->item(store_op::put));
      puts.back().slices = page->target;
    }
    const auto ended = run_all(store, puts, 1'000 + round * 1'000);
    for (std::size_t i = 0; i < ended.size(); ++i) {
      lates += ended[i].outcome == store_outcome::late;
      pages[i]->clear();  // The store may not send this.
    }
    for (auto& page : pages) {
      const store_outcome how = run(store, page->item(store_op::get));
      CHECK((how == store_outcome::miss || (how == store_outcome::done && page->has_arrived())));
      hits += how == store_outcome::done;
    }
  }
  CHECK(lates > 0);
  CHECK(hits > 0);
}

TEST_CASE("a network that spoils replies costs hits, never bytes, and heals", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const redis_server server;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    fault_proxy proxy(server.port(), seed);
    redis_options options = quick(url_of(proxy.port()));
    options.failures_to_open = 5;
    options.silence_timeout_us = 100'000;
    options.connect_timeout_us = 100'000;
    options.backoff_min_us = 100;
    options.backoff_max_us = 2'000;
    options.key_prefix = "seed" + std::to_string(seed) + ":";
    options.seed = seed;
    redis_store store(options);
    std::vector<std::unique_ptr<test_page>> pages;
    for (std::uint32_t i = 0; i < 12; ++i) {
      pages.push_back(
          std::make_unique<test_page>(i, std::vector<std::size_t>{900, 900, 5'000 * i}));
    }
    std::mt19937_64 random(seed);
    for (std::uint64_t round = 0; round < scaled(150) + 8; ++round) {
      INFO("seed " << seed << " round " << round);
      if (round % 8 == 0) {
        proxy.heal();  // Or else most rounds would meet an open breaker.
        CHECK(eventually([&] {
          return run(store, pages[0]->item(store_op::put), 1'000'000) == store_outcome::done;
        }));
        const auto odds = [&] {
          return random() % 3 == 0 ? static_cast<std::uint32_t>(random() % 30 + 2) : 0;
        };
        proxy.now.drop_odds = odds(), proxy.now.cut_odds = odds(),
        proxy.now.duplicate_odds = odds();
        proxy.now.reorder_odds = odds(), proxy.now.swap_odds = odds(), proxy.now.flip_odds = odds();
        if (round == 0) {
          proxy.now.flip_odds = 2;
        }
        proxy.now.delay_us = random() % 4 == 0 ? 3'000 : 0;
        proxy.now.bytes_per_s = random() % 4 == 0 ? 2'000'000 : 0;
        proxy.now.is_black_hole = random() % 12 == 0;
      }
      std::vector<store_item> items;
      std::vector<test_page*> asked;
      for (auto& page : pages) {
        page->clear();
        items.push_back(page->item(random() % 3 == 0 ? store_op::put : store_op::get));
        asked.push_back(page.get());
      }
      const auto ended = run_all(store, items, 20'000);
      for (std::size_t i = 0; i < ended.size(); ++i) {
        const bool is_hit = ended[i].op == store_op::get && ended[i].outcome == store_outcome::done;
        CHECK((!is_hit || asked[i]->has_arrived()));
      }
    }
    proxy.heal();
    CHECK((scaled(150) < 150 || proxy.faults_done() > 0));  // A few rounds may pass by.
    for (auto& page : pages) {
      CHECK(eventually(
          [&] { return run(store, page->item(store_op::put), 1'000'000) == store_outcome::done; }));
      CHECK(run(store, page->item(store_op::get)) == store_outcome::done);
      CHECK(page->has_arrived());
    }
  }
}

}  // namespace redis_server_test
