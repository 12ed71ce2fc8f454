// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The shared state of routers in a real Redis: the law; a server that dies, comes back empty,
// hangs; routers that go by session hash meanwhile and by prefix afterwards.
#include "conformance/state_store_suite.hpp"
#include "route/shared_fleet.hpp"
#include "tier/redis_server.hpp"

#include <oriel/tier/redis_state_store.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <stdexcept>
#include <thread>

namespace redis_state_test {

using namespace oriel_test;

namespace {

double steady_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

redis_state_options options_of(const redis_server& server, const std::string& name) {
  redis_state_options o;
  o.redis.url = server.url();
  o.redis.backoff_min_us = 2'000;
  o.redis.backoff_max_us = 50'000;
  o.redis.silence_timeout_us = 300'000;
  o.redis.connect_timeout_us = 300'000;
  o.name = name;
  return o;
}

struct redis_world {
  std::unique_ptr<redis_server> server = std::make_unique<redis_server>();
  std::deque<redis_state_store> stores = {};

  redis_state_store& join() {
    redis_state_options o = options_of(*server, "law");
    o.entries_max = 20;
    return stores.emplace_back(std::move(o));
  }
  [[nodiscard]] static double now_s() { return steady_s(); }
  static void pass(double seconds) {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  }
  [[nodiscard]] static std::size_t log_max() { return 1000; }
};

/// Workers and routers of one process, each with connections of its own.
struct redis_fleet {
  using worker = shared_worker<redis_state_store>;
  using shared = basic_shared_router<redis_state_store>;
  redis_server server;
  std::deque<redis_state_store> stores;
  std::deque<worker> workers;
  std::deque<shared> routers;

  redis_fleet(std::uint32_t worker_count, std::uint32_t router_count) {
    for (std::uint32_t i = 0; i < worker_count; ++i) {
      redis_state_store& log = door("log", false);
      workers.emplace_back(log, door("wishes"), i);
    }
    for (std::uint32_t i = 0; i < router_count; ++i) {
      add_router();
    }
  }
  redis_state_store& door(const char* name, bool reads = true) {
    redis_state_options o = options_of(server, name);
    o.reads = reads;
    return stores.emplace_back(std::move(o));
  }
  void add_router() {
    router_options o = plain_options(static_cast<std::uint32_t>(workers.size()));
    o.router = routers.size();
    o.health.eject_after_s = 1e9;  // No test fails because a machine is slow.
    redis_state_store& log = door("log");
    routers.emplace_back(log, door("wishes"), o, 100 + routers.size());
  }
  void live() {
    for (worker& w : workers) {
      w.live(steady_s());
    }
    for (shared& r : routers) {
      r.live(steady_s());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  template <class IsSo>
  bool live_until(IsSo is_so) {
    return eventually([&] {
      live();
      return is_so();
    });
  }
  [[nodiscard]] bool all_know(std::uint32_t pages) const {
    return std::ranges::all_of(routers, [&](const shared& r) {
      bool is_sure = r.router.index().memory().pages == pages && !r.router.is_degraded();
      for (std::uint32_t w = 0; w < workers.size(); ++w) {
        is_sure = is_sure && r.router.index().state(worker_id{w}) == worker_state::sure;
      }
      return is_sure;
    });
  }
};

}  // namespace

TEST_CASE("redis_state_store is a state_store", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  check_state_store_laws([] { return redis_world{}; });
}

TEST_CASE("options that make no log say what is wrong", "[tier][redis]") {
  const auto make = [](auto change) {
    redis_state_options o;
    change(o);
    redis_state_store store(std::move(o));
  };
  CHECK_THROWS_AS(make([](auto& o) { o.redis.url = "http://x"; }), std::invalid_argument);
  CHECK_THROWS_AS(make([](auto& o) { o.redis.is_cluster = true; }), std::invalid_argument);
  CHECK_THROWS_AS(make([](auto& o) { o.name = ""; }), std::invalid_argument);
}

TEST_CASE("while the server is away appends wait, up to a bound; a new log is read from its start",
          "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  redis_server server;
  redis_state_options o = options_of(server, "log");
  o.pending_bytes_max = 1000;
  redis_state_store a(o), b(options_of(server, "log"));
  std::vector<state_record> records;
  const auto poll_until = [&](redis_state_store& s, std::size_t count) {
    return eventually([&] {
      a.poll(records, steady_s());
      if (&s != &a) {
        s.poll(records, steady_s());
      }
      return records.size() >= count;
    });
  };
  const std::vector<std::byte> bytes(96);
  a.append(bytes, steady_s());
  REQUIRE(poll_until(a, 1));
  CHECK(records[0].bytes == bytes);
  CHECK(records[0].stored_s == Approx(steady_s()).margin(20.0));
  records.clear();
  server.kill();
  REQUIRE(eventually([&] {
    a.poll(records, steady_s());
    return !a.status().is_connected;
  }));
  int taken = 0;
  for (int i = 0; i < 50; ++i) {
    taken += a.append(bytes, steady_s());
    a.poll(records, steady_s());
  }
  CHECK(taken == 10);
  CHECK(a.status().dropped == 40);
  server.start();
  REQUIRE(poll_until(a, 10));
  CHECK(records.size() == 10);
  CHECK(a.status().reconnects == 1);
  records.clear();
  REQUIRE(eventually([&] {
    b.poll(records, steady_s());
    return records.size() >= 10;
  }));
}

TEST_CASE("a stream that begins anew with lower numbers is read from its start", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  redis_server server;
  redis_state_store a(options_of(server, "log"));
  std::vector<state_record> records;
  const auto poll_until = [&](std::size_t count) {
    return eventually([&] {
      a.poll(records, steady_s());
      return records.size() >= count;
    });
  };
  // A server whose clock is far ahead, and one whose clock is not.
  server.ask("XADD oriel:route:log 99999999999999-1 r " + std::string("xxxx"));
  a.append(std::vector<std::byte>(3), steady_s());
  REQUIRE(poll_until(1));
  server.kill();
  server.start();
  records.clear();
  server.ask("XADD oriel:route:log 1000-1 other field");
  REQUIRE(eventually([&] {
    a.poll(records, steady_s());
    return a.status().logs_lost == 1;
  }));
  a.append(std::vector<std::byte>(5), steady_s());
  REQUIRE(poll_until(1));
  CHECK(records.back().bytes.size() == 5);
}

TEST_CASE(
    "routers over Redis: one is killed, a new one knows as much; Redis restarts empty, and "
    "they go by session hash until they know all again",
    "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  redis_fleet f(3, 2);
  std::vector<prompt> prompts;
  for (std::uint64_t i = 0; i < 30; ++i) {
    prompts.emplace_back(20, i);
    f.workers[i % 3].compute(prompts.back(), steady_s());
  }
  REQUIRE(f.live_until([&] { return f.all_know(30 * 20); }));
  const auto all_at_home = [&] {
    for (auto& r : f.routers) {
      for (std::uint64_t i = 0; i < 30; ++i) {
        if (r.place(prompts[i], steady_s()) != i % 3) {
          return false;
        }
      }
    }
    return true;
  };
  CHECK(all_at_home());
  CHECK(f.live_until([&] { return f.routers[0].mirror.counters().placements == 30; }));

  f.routers.pop_back();
  f.add_router();
  REQUIRE(f.live_until([&] { return f.all_know(30 * 20); }));

  f.server.kill();
  REQUIRE(f.live_until([&] {
    return std::ranges::all_of(f.routers, [](const auto& r) { return r.router.is_degraded(); });
  }));
  const std::uint32_t home = f.routers[0].place(prompts[0], steady_s());
  CHECK(home < 3);
  CHECK(f.routers[0].router.choices().degraded == 1);
  const prompt meanwhile(20, 999);  // nobody hears of it now
  f.workers[1].compute(meanwhile, steady_s());
  f.server.start();
  REQUIRE(f.live_until([&] { return f.all_know(31 * 20); }));
  CHECK(f.routers[0].mirror.counters().degraded == 1);
  f.add_router();  // The log is young: what it lacks is asked for.
  REQUIRE(f.live_until([&] { return f.all_know(31 * 20); }));
  CHECK(f.routers.back().mirror.counters().replays_wanted > 0);
}

}  // namespace redis_state_test
