// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Routers and workers in threads of one process, over one log; run under ThreadSanitizer too.
#include "route/shared_fleet.hpp"
#include "support/scale.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <thread>

using namespace oriel_test;

TEST_CASE("routers in threads of their own share one log, and agree in the end") {
  constexpr std::uint32_t workers = 3, routers = 4;
  const auto rounds = static_cast<std::uint32_t>(scaled(300));
  embedded_log log(1 << 16), wishes(1000);
  std::atomic<std::uint32_t> step{0};  // of the workers; their clock, in 10 ms
  std::vector<std::thread> threads;
  std::vector<std::uint32_t> leaders(routers);
  std::vector<std::vector<std::uint32_t>> homes(routers);
  std::vector<prompt> prompts;
  for (std::uint32_t i = 0; i < workers * 20; ++i) {
    prompts.emplace_back(20, i);
  }
  std::atomic<std::uint32_t> running{workers};
  for (std::uint32_t number = 0; number < workers; ++number) {
    threads.emplace_back([&, number] {
      gated_store to_log(log), to_wishes(wishes);
      shared_worker<gated_store> worker(to_log, to_wishes, number);
      for (std::uint32_t i = 0; i < rounds; ++i) {
        const double now_s = 0.01 * ++step;
        if (i < 20) {
          worker.compute(prompts[number * 20 + i], now_s);
        }
        worker.live(now_s);
      }
      for (std::uint32_t i = rounds; i < 20; ++i) {
        worker.compute(prompts[number * 20 + i], 0.01 * ++step);
      }
      --running;
    });
  }
  for (std::uint32_t number = 0; number < routers; ++number) {
    threads.emplace_back([&, number] {
      gated_store to_log(log), to_wishes(wishes);
      router_options o = plain_options(workers);
      o.router = number;
      o.health.eject_after_s = 1e9;
      shared_router r(to_log, to_wishes, o, number + 1);
      random_stream draw(number);
      bool is_last = false;
      while (!is_last) {
        is_last = running == 0;
        const double now_s = 0.01 * step;
        leaders[number] += to_log.hold("leader", 1.0, now_s);
        r.live(now_s);
        r.place(prompts[draw.next_below(workers * 20)], now_s);
      }
      for (std::uint32_t i = 0; i < workers * 20; ++i) {
        prefix_answer answer;
        r.router.index().look_up(prompts[i].links, answer);
        const auto rows = answer.rows();
        const auto best = std::ranges::max_element(
            rows, {}, [](const worker_prefix& row) { return row.safe_pages[0]; });
        homes[number].push_back(static_cast<std::uint32_t>(best - rows.begin()));
      }
    });
  }
  for (std::thread& t : threads) {
    t.join();
  }
  for (std::uint32_t number = 0; number < routers; ++number) {
    for (std::uint32_t i = 0; i < workers * 20; ++i) {
      CHECK(homes[number][i] == i / 20);
    }
  }
  CHECK(std::ranges::any_of(leaders, [](std::uint32_t n) { return n > 0; }));
}
