// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Layers that a thread loads while the test computes: real stores, real time. For TSan as well.
#include "conformance/layer_gate_suite.hpp"
#include "support/scale.hpp"
#include "tier/layer_world.hpp"

#include <oriel/tier/any_store.hpp>
#include <oriel/tier/layer_loader.hpp>
#include <oriel/tier/layer_loader_thread.hpp>
#include <oriel/tier/memory_store.hpp>
#include <oriel/tier/store_thread.hpp>

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace layer_thread_test {

using namespace oriel;

static_assert(layer_gate<layer_loader_thread<any_store>>);

namespace {

/// F w w F w w F w: 5 full pages, 2 window pages.
layer_world thread_world() {
  return layer_world(
      {0, 1, 1, 0, 1, 1, 0, 1}, {3'000, 500, 500, 3'000, 500, 500, 3'000, 500}, {5, 2});
}

memory_store_options memory_for(const layer_world& world) {
  memory_store_options o{.page_size = page_maker::page_size, .capacity_bytes = 1 << 20};
  for (std::uint32_t pool = 0; pool < world.layer_in.size(); ++pool) {
    o.slice_bytes.emplace_back();
    for (const auto& r : world.rooms) {
      if (r.page.key.pool == pool) {
        o.slice_bytes.back().clear();
        for (const auto& slice : r.bytes) {
          o.slice_bytes.back().push_back(slice.size());
        }
      }
    }
  }
  o.copy_bytes_per_poll = 4'000;
  return o;
}

/// Puts the world's pages in and wipes them.
template <class Store>
void put_pages(Store& store, layer_world& world) {
  for (auto& r : world.rooms) {
    for (std::uint32_t slot = 0; slot < r.bytes.size(); ++slot) {
      std::ranges::fill(r.bytes[slot], layer_world::content(r.page.key, slot));
    }
    const store_item item{
        .op = store_op::put, .key = r.page.key, .identity = &r.identity, .slices = r.slices};
    REQUIRE(store.submit({&item, 1}, no_deadline) == 1);
    store_completion done;
    while (store.poll({&done, 1}) == 0) {
      store.wait(no_deadline);
    }
    REQUIRE(done.outcome == store_outcome::done);
  }
  world.wipe();
}

/// Each get takes a while, on the thread that drives it; every `failing`th fails.
class slow_store {
 public:
  slow_store(memory_store<>& inner, std::uint64_t us, std::uint64_t failing = 0)
      : inner_(inner), us_(us), failing_(failing) {}
  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    return inner_.submit(items, deadline_us);
  }
  std::size_t poll(std::span<store_completion> done) {
    const std::size_t count = inner_.poll(done.first(std::min<std::size_t>(done.size(), 1)));
    if (count != 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(us_));
      if (failing_ != 0 && ++gets_ % failing_ == 0) {
        done[0].outcome = store_outcome::corrupt;
      }
    }
    return count;
  }
  bool wait(std::uint64_t until_us) { return inner_.wait(until_us); }
  std::size_t pending() const { return inner_.pending(); }
  store_stats stats() const { return inner_.stats(); }
  store_fault last_fault() const { return inner_.last_fault(); }

 private:
  memory_store<>& inner_;
  std::uint64_t us_, failing_, gets_ = 0;
};

/// For the law: a loader, with or without a thread, over a store that fails now and then.
template <class Loader>
struct gate_subject {
  explicit gate_subject(std::uint64_t failing_reads)
      : failing(failing_reads), memory(memory_for(world)), store(memory, 20, failing_reads) {
    put_pages(memory, world);
    loader.emplace(std::vector{&store}, layer_load_options{.read_bytes_min = 1});
  }
  Loader& gate() { return *loader; }
  [[nodiscard]] std::uint32_t layers() const { return world.layers(); }
  void begin() {
    loader->finish();
    world.wipe();
    loader->begin(world.homes, world.pages());
  }
  void compute() { std::this_thread::sleep_for(std::chrono::microseconds(30)); }
  [[nodiscard]] bool is_in_place(std::uint32_t layer) const { return world.has_layer(layer); }
  [[nodiscard]] bool may_fail(std::uint32_t) const { return failing != 0; }

  std::uint64_t failing;
  layer_world world = thread_world();
  memory_store<> memory;
  slow_store store;
  std::optional<Loader> loader;
};

}  // namespace

TEST_CASE("loaders keep the law of gates", "[tier]") {
  const std::uint64_t failing = GENERATE(0u, 7u, 40u);
  check_layer_gate([&] { return gate_subject<layer_loader<slow_store>>(failing); });
  check_layer_gate([&] { return gate_subject<layer_loader_thread<slow_store>>(failing); });
}

TEST_CASE("a thread loads layers while its owner computes", "[tier]") {
  layer_world world = thread_world();
  memory_store<> store(memory_for(world));
  put_pages(store, world);
  const layer_load_options options{.read_bytes_min = GENERATE(1u, 1'200u, 1u << 20),
                                   .in_flight_bytes_max = GENERATE(1u, 1u << 20)};
  layer_loader_thread<memory_store<>> loader({&store}, options);
  const std::uint64_t steps = scaled(200);
  for (std::uint64_t step = 0; step < steps; ++step) {
    world.wipe();
    loader.begin(world.homes, world.pages());
    for (std::uint32_t l = 0; l < world.layers(); ++l) {
      if (loader.ready(l)) {
        REQUIRE(world.has_layer(l));
      }
      REQUIRE(loader.wait(l));
      REQUIRE(world.has_layer(l));
      REQUIRE(loader.waits()[l].passed_us >= loader.waits()[l].ready_us);
    }
    loader.finish();
    REQUIRE(loader.idle());
  }
  const layer_counters& c = loader.counters();
  CHECK(c.loads == steps);
  CHECK(c.layers == steps * world.layers());
  CHECK(c.failed_loads == 0);
  CHECK(c.bytes == steps * (5 * 9'000 + 2 * 2'500));
}

TEST_CASE("a layer that comes late is waited for, and the stall is counted", "[tier]") {
  layer_world world = thread_world();
  memory_store<> memory(memory_for(world));
  put_pages(memory, world);
  slow_store store(memory, 2'000);
  layer_loader_thread<slow_store> loader({&store}, {.read_bytes_min = 1});
  loader.begin(world.homes, world.pages());
  CHECK(loader.wait(0));  // Five pages of 2 ms.
  CHECK(world.has_layer(0));
  const layer_wait first = loader.waits()[0];
  CHECK(first.stall_us() >= 5'000);
  CHECK(first.lead_us() == 0);
  CHECK(loader.counters().stall_us == first.stall_us());
  loader.finish();
  CHECK(loader.ready(7));
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  CHECK(loader.wait(7));
  CHECK(loader.waits()[7].stall_us() == 0);
  CHECK(loader.waits()[7].lead_us() >= 1'000);
  CHECK(loader.counters().late_layers == 1);
}

TEST_CASE("a load that fails in another thread shuts its layers", "[tier]") {
  layer_world world = thread_world();
  memory_store<> memory(memory_for(world));
  put_pages(memory, world);
  for (std::uint64_t failing = 1; failing < 12; ++failing) {
    CAPTURE(failing);
    slow_store store(memory, 0, failing);
    layer_loader_thread<slow_store> loader({&store}, {.read_bytes_min = 1});
    world.wipe();
    loader.begin(world.homes, world.pages());
    bool has_failed = false;
    for (std::uint32_t l = 0; l < world.layers(); ++l) {
      const bool is_open = loader.wait(l);
      has_failed |= !is_open;
      CHECK((!is_open || world.has_layer(l)));
    }
    CHECK(has_failed);
    CHECK(loader.counters().failed_loads == 1);
    loader.finish();
  }
}

TEST_CASE("a deadline ends the wait", "[tier]") {
  layer_world world = thread_world();
  memory_store<> memory(memory_for(world));
  put_pages(memory, world);
  slow_store store(memory, 3'000);
  layer_loader_thread<slow_store> loader({&store}, {.read_bytes_min = 1});
  loader.begin(world.homes, world.pages(), monotonic_clock{}.now_us() + 4'000);
  CHECK(!loader.wait(7));
  loader.finish();
}

TEST_CASE("loads are cancelled, and loaders go, at any moment", "[tier]") {
  layer_world world = thread_world();
  memory_store<> memory(memory_for(world));
  put_pages(memory, world);
  slow_store store(memory, 20);
  for (std::uint64_t n = 0; n < scaled(100); ++n) {
    layer_loader_thread<slow_store> loader({&store},
                                           {.read_bytes_min = 1, .in_flight_bytes_max = 7'000});
    for (std::uint64_t load = 0; load < 2; ++load) {
      loader.begin(world.homes, world.pages());
      std::this_thread::sleep_for(std::chrono::microseconds(37 * (n % 11)));
      if (n % 3 == 0) {
        CHECK((!loader.wait(n % 8) || world.has_layer(n % 8)));
      }
      if (load == 0) {
        loader.cancel();
        loader.finish();
      }
    }
  }
  CHECK(memory.pending() == 0);
}

TEST_CASE("a store with its own thread needs no other", "[tier]") {
  layer_world world = thread_world();
  store_thread<memory_store<>> store({}, memory_for(world));
  put_pages(store, world);
  layer_loader<store_thread<memory_store<>>> loader({&store}, {.read_bytes_min = 1'200});
  for (std::uint64_t step = 0; step < scaled(200); ++step) {
    world.wipe();
    loader.begin(world.homes, world.pages());
    for (std::uint32_t l = 0; l < world.layers(); ++l) {
      REQUIRE(loader.wait(l));
      REQUIRE(world.has_layer(l));
    }
    loader.finish();
  }
}

}  // namespace layer_thread_test
