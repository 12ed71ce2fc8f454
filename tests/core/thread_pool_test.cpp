// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/thread_pool.hpp>

#include <catch2/catch.hpp>
#include <conformance/executor_suite.hpp>
#include <support/death.hpp>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <thread>
#include <vector>

using oriel::executor_ref;
using oriel::thread_pool;

TEST_CASE("thread_pool keeps the executor's law") {
  for (const std::uint32_t threads : {1u, 2u, 3u, 8u}) {
    thread_pool pool(threads);
    CHECK(pool.concurrency() == threads);
    oriel::conformance::check_executor_law(pool);
  }
}

TEST_CASE("the threads of a pool share the tasks") {
  thread_pool pool(2);
  // Two tasks that wait for each other end only if two workers run them.
  std::atomic<int> arrived{0};
  std::vector<std::uint32_t> worker_of(2);
  executor_ref(pool).for_each(2, [&](std::uint32_t task, std::uint32_t worker) {
    worker_of[task] = worker;
    ++arrived;
    while (arrived.load() < 2) {
      std::this_thread::yield();
    }
  });
  CHECK(worker_of[0] != worker_of[1]);
}

TEST_CASE("a task may run tasks on its own pool") {
  thread_pool pool(3);
  std::vector<std::uint32_t> calls(40 * 40);
  std::atomic<std::uint32_t> moved{0};
  executor_ref(pool).for_each(40, [&](std::uint32_t outer, std::uint32_t outer_worker) {
    executor_ref(pool).for_each(40, [&](std::uint32_t inner, std::uint32_t inner_worker) {
      moved += inner_worker != outer_worker ? 1u : 0u;
      ++calls[outer * 40 + inner];
    });
  });
  CHECK(moved == 0);
  CHECK(calls == std::vector<std::uint32_t>(40 * 40, 1));
}

TEST_CASE("a task may run tasks on another pool") {
  thread_pool outer(2), inner(2);
  std::vector<std::uint32_t> calls(100);
  executor_ref(outer).for_each(1, [&](std::uint32_t, std::uint32_t) {
    executor_ref(inner).for_each(100, [&](std::uint32_t task, std::uint32_t) { ++calls[task]; });
  });
  CHECK(calls == std::vector<std::uint32_t>(100, 1));
}

TEST_CASE("every task rounds as the caller does") {
  const auto one_third = [] {
    volatile float one = 1.0f, three = 3.0f;
    return one / three;
  };
  thread_pool pool(2);
  const int before = std::fegetround();
  for (const int mode : {FE_UPWARD, FE_TOWARDZERO, FE_TONEAREST}) {
    std::fesetround(mode);
    const float want = one_third();
    std::atomic<int> arrived{0}, wrong{0};
    executor_ref(pool).for_each(2, [&](std::uint32_t, std::uint32_t) {
      wrong += one_third() != want ? 1 : 0;
      ++arrived;
      while (arrived.load() < 2) {
        std::this_thread::yield();
      }
    });
    CHECK(wrong == 0);
  }
  std::fesetround(before);
}

TEST_CASE("idle threads burn no processor time") {
  thread_pool pool(4);
  executor_ref(pool).for_each(8, [](std::uint32_t, std::uint32_t) {});
  // Processor time, not wall clock: three spinning threads would take most of a second here.
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC < 0.1);
}

TEST_CASE("pools come and go") {
  for (std::uint32_t i = 0; i < 50; ++i) {
    thread_pool pool(1 + i % 4);
    std::atomic<std::uint32_t> calls{0};
    executor_ref(pool).for_each(i, [&](std::uint32_t, std::uint32_t) { ++calls; });
    CHECK(calls == i);
  }
}

TEST_CASE("a pool of no threads breaks the contract") {
  CHECK(aborts([] { thread_pool pool(0); }));
}
