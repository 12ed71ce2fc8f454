// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "conformance/kv_store_suite.hpp"
#include "support/scale.hpp"
#include "tier/page_maker.hpp"

#include <oriel/tier/memory_store.hpp>
#include <oriel/tier/store_thread.hpp>

#include <catch2/catch.hpp>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <thread>
#include <vector>

namespace store_thread_test {

using namespace oriel;

namespace {

using threaded = store_thread<memory_store<>>;

const std::vector<std::uint64_t> sizes = {4'096, 8'192};

memory_store_options small_memory(const kv_store_law& law) {
  return {.page_size = law.page_size,
          .slice_bytes = law.slice_bytes,
          .capacity_bytes = 4 << 20,
          .copy_bytes_per_poll = 20'000};
}

struct thread_subject {
  explicit thread_subject(const store_thread_options& options, const memory_store_options& memory)
      : tested(options, memory) {}
  threaded& store() { return tested; }
  std::uint64_t now_us() const { return monotonic_clock{}.now_us(); }
  void advance(std::uint64_t us) { std::this_thread::sleep_for(std::chrono::microseconds(us)); }
  threaded tested;
};

/// Takes nothing, or completes nothing, as long as it is told so.
struct stubborn_store {
  explicit stubborn_store(std::atomic<bool>& gate) : is_open(&gate) {}
  std::size_t submit(std::span<const store_item> items, std::uint64_t) {
    if (!is_open->load() || items.empty()) {
      return 0;
    }
    held.push_back({.user = items[0].user, .op = items[0].op, .outcome = store_outcome::done});
    return 1;
  }
  std::size_t poll(std::span<store_completion> done) {
    if (held.empty() || done.empty()) {
      return 0;
    }
    done[0] = held.back();
    held.pop_back();
    return 1;
  }
  bool wait(std::uint64_t) { return !held.empty(); }
  std::size_t pending() const { return held.size(); }
  store_stats stats() const { return {}; }
  store_fault last_fault() const { return {}; }

  std::atomic<bool>* is_open;
  std::vector<store_completion> held;
};

std::uint64_t process_cpu_us() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return static_cast<std::uint64_t>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1'000'000 +
         static_cast<std::uint64_t>(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

void sleep_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

}  // namespace

TEST_CASE("store_thread is a kv_store", "[tier]") {
  const kv_store_law law{.random_items = scaled(4'000)};
  store_thread_options options;
  options.queue_items = GENERATE(std::size_t{256}, std::size_t{3});
  check_kv_store([&] { return thread_subject(options, small_memory(law)); }, law);
}

TEST_CASE("a deadline holds though the store takes nothing", "[tier]") {
  std::atomic<bool> gate{false};
  store_thread<stubborn_store> store({}, gate);
  const std::uint64_t begin = monotonic_clock{}.now_us();
  const store_item get{.op = store_op::exists, .key = {}, .user = 5};
  REQUIRE(store.submit({&get, 1}, begin + 20'000) == 1);
  REQUIRE(store.submit({&get, 1}, no_deadline) == 1);
  REQUIRE(store.wait(begin + 30'000'000));
  store_completion done[2];
  REQUIRE(store.poll(done) == 1);
  CHECK(done[0].outcome == store_outcome::late);
  CHECK(done[0].user == 5);
  CHECK(monotonic_clock{}.now_us() >= begin + 20'000);
  CHECK(store.stats().late == 1);
  CHECK(!store.wait(monotonic_clock{}.now_us() + 1'000));
  gate.store(true);
  CHECK(store.wait(no_deadline));
  REQUIRE(store.poll(done) == 1);
  CHECK(done[0].outcome == store_outcome::done);
}

TEST_CASE("a deadline that is the store's wakes nobody", "[tier]") {
  struct standing_clock {
    std::uint64_t now_us() const noexcept { return 1'000; }
  };
  struct busy_store {  // takes all, ends nothing
    explicit busy_store(std::atomic<std::uint64_t>& until) : waits_until(&until) {}
    std::size_t submit(std::span<const store_item> items, std::uint64_t) {
      held += items.size();
      return items.size();
    }
    std::size_t poll(std::span<store_completion>) { return 0; }
    bool wait(std::uint64_t until_us) {
      waits_until->store(until_us);
      waits_until->notify_all();
      sleep_ms(1);
      return false;
    }
    std::size_t pending() const { return held; }
    store_stats stats() const { return {}; }
    store_fault last_fault() const { return {}; }
    std::atomic<std::uint64_t>* waits_until;
    std::size_t held = 0;
  };
  std::atomic<std::uint64_t> until{0};
  store_thread<busy_store, standing_clock> store(
      standing_clock{}, {.look_us = 500}, std::ref(until));
  const store_item get{.op = store_op::exists, .key = {}, .user = 5};
  REQUIRE(store.submit({&get, 1}, 900) == 1);  // over by now, and in the store's hands
  until.wait(0);
  CHECK(until.load() == 1'500);
}

TEST_CASE("a store that throws is gone, and every item ends", "[tier]") {
  struct throwing_store {
    throwing_store(std::vector<std::uint64_t>& in, const char* where)
        : held(&in), throws_in(where) {}
    ~throwing_store() { held->clear(); }  // touches no slices from now on
    std::size_t submit(std::span<const store_item> items, std::uint64_t) {
      if (held->size() >= 3 && *throws_in == 's') {
        throw std::bad_alloc();
      }
      held->push_back(items[0].user);
      return 1;
    }
    std::size_t poll(std::span<store_completion> done) {
      if (held->size() == 3 && *throws_in == 'p') {
        throw std::bad_alloc();
      }
      if (held->size() == 5) {  // one of them ends before
        done[0] = {.user = held->back(), .outcome = store_outcome::done};
        held->pop_back();
        return 1;
      }
      return 0;
    }
    bool wait(std::uint64_t) {
      if (held->size() == 4 && *throws_in == 'w') {
        throw std::bad_alloc();
      }
      return false;
    }
    std::size_t pending() const { return held->size(); }
    store_stats stats() const { return {}; }
    store_fault last_fault() const { return {}; }
    std::vector<std::uint64_t>* held;
    const char* throws_in;
  };
  for (const char* where : {"submit", "poll", "wait"}) {
    INFO(where);
    std::vector<std::uint64_t> held;
    store_thread<throwing_store> store({}, held, where);
    const std::size_t items = *where == 'p' ? 3 : 5;
    for (std::uint64_t i = 0; i < items; ++i) {
      const store_item get{.op = store_op::exists, .key = {}, .user = 7 * i};
      REQUIRE(store.submit({&get, 1}, no_deadline) == 1);
    }
    std::vector<bool> has_ended(items);
    while (store.pending() != 0) {
      store_completion done;
      REQUIRE(store.wait(no_deadline));
      while (store.poll({&done, 1}) == 1) {
        CHECK(!has_ended.at(done.user / 7));
        has_ended.at(done.user / 7) = true;
        // Refused: what the thread took after that.
        CHECK((done.outcome == store_outcome::done || done.native == ENOMEM));
      }
    }
    CHECK(std::ranges::count(has_ended, true) == static_cast<std::ptrdiff_t>(items));
    CHECK(store.stats().health == store_health::degraded);
    CHECK(store.last_fault().native == ENOMEM);
    const store_item late{.op = store_op::exists, .key = {}, .user = 9};
    REQUIRE(store.submit({&late, 1}, no_deadline) == 1);
    REQUIRE(store.wait(no_deadline));
    store_completion done;
    REQUIRE(store.poll({&done, 1}) == 1);
    CHECK(done.outcome == store_outcome::refused);
    CHECK_THROWS_AS(store.with_store([](auto&) {}), std::bad_alloc);
  }
}

TEST_CASE("a thread that has nothing to do sleeps", "[tier]") {
  const kv_store_law law;
  threaded store({.nice = 3}, small_memory(law));
  run_one(store, store_op::exists, page_maker::chain(1, 1)[0], sizes);
  sleep_ms(20);
  const std::uint64_t before = process_cpu_us();
  sleep_ms(200);
  CHECK(process_cpu_us() - before < 20'000);
}

TEST_CASE("a thread keeps to its share of a CPU", "[tier]") {
  const kv_store_law law;
  memory_store_options options = small_memory(law);
  options.slice_bytes = {{std::uint64_t{1} << 20}};
  options.capacity_bytes = 64 << 20;
  options.copy_bytes_per_poll = 4 << 20;
  threaded store({.share = 0.2}, options);
  const std::vector<std::uint64_t> one_mib = {std::uint64_t{1} << 20};
  const std::uint64_t begin = monotonic_clock{}.now_us(), cpu = store.cpu_us();
  while (monotonic_clock{}.now_us() - begin < 300'000) {
    run_one(
        store, store_op::put, page_maker::chain(static_cast<std::uint32_t>(begin), 1)[0], one_mib);
    run_one(
        store, store_op::get, page_maker::chain(static_cast<std::uint32_t>(begin), 1)[0], one_mib);
  }
  // A rest follows the work, so the last bit of it is not paid for yet.
  CHECK(static_cast<double>(store.cpu_us() - cpu) <
        0.25 * static_cast<double>(monotonic_clock{}.now_us() - begin) + 5'000);
  store.set_share(1.0);
  CHECK(run_one(store, store_op::sync, page_maker::chain(1, 1)[0], one_mib) == store_outcome::done);
}

TEST_CASE("the owner may call into the store", "[tier]") {
  const kv_store_law law;
  threaded store({}, small_memory(law));
  run_one(store, store_op::put, page_maker::chain(1, 1)[0], {4'096, 8'192, 4'096});
  std::uint64_t pages = 0;
  for (int i = 0; i < 100; ++i) {
    store.with_store([&](memory_store<>& inner) { pages += inner.stats().pages; });
  }
  CHECK(pages == 100);
  CHECK(store.stats().pages == 1);
}

TEST_CASE("many threads come and go", "[tier]") {
  const kv_store_law law;
  for (std::uint64_t i = scaled(200); i > 0; --i) {
    threaded store({}, small_memory(law));
    const store_item item{.op = store_op::exists, .key = {}};
    for (std::uint64_t n = i % 5; n > 0; --n) {
      store.submit({&item, 1}, no_deadline);
    }
  }
}

}  // namespace store_thread_test
