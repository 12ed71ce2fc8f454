// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Which reads a step's pages come in, and the stall that follows.
#include "support/scale.hpp"
#include "tier/layer_world.hpp"

#include <oriel/tier/layer_plan.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace layer_plan_test {

using namespace oriel;

namespace {

struct stretch {
  std::uint32_t page, first_slot, slots, first_layer;
  bool operator==(const stretch&) const = default;
};

std::vector<stretch> stretches(const layer_plan& plan) {
  std::vector<stretch> all;
  for (const layer_read& r : plan.reads) {
    all.push_back({r.page, r.first_slot, r.slots, r.first_layer});
  }
  return all;
}

}  // namespace

TEST_CASE("layers are read in the order of compute, small ones together", "[tier]") {
  // F w w w F w w F: pages 0 and 1 are full ones of 100 bytes a layer, page 2 a window page of 40.
  const layer_world world({0, 1, 1, 1, 0, 1, 1, 0}, {100, 40, 40, 40, 100, 40, 40, 100}, {2, 1});
  const auto pages = world.pages();
  constexpr double together = 1e3;
  SECTION("a read takes neighbours until it is large enough") {
    const layer_plan plan = plan_layer_reads(
        world.homes, pages, {.read_bytes_min = 100, .together_share_max = together});
    CHECK(stretches(plan) == std::vector<stretch>{{0, 0, 1, 0},
                                                  {1, 0, 1, 0},
                                                  {2, 0, 3, 1},
                                                  {0, 1, 1, 4},
                                                  {1, 1, 1, 4},
                                                  {2, 3, 2, 5},
                                                  {0, 2, 1, 7},
                                                  {1, 2, 1, 7}});
    CHECK(plan.reads_of == std::vector<std::uint32_t>{2, 1, 1, 1, 2, 1, 1, 2});
    CHECK(plan.arrival_bytes == std::vector<std::uint64_t>{200, 120, 0, 0, 200, 80, 0, 200});
    CHECK(plan.bytes == 800);
  }
  SECTION("the first layer comes alone, and none is wanted too early") {
    const layer_plan plan = plan_layer_reads(
        world.homes,
        pages,
        {.read_bytes_min = 1'000, .ahead_layers_max = 4, .together_share_max = together});
    CHECK(stretches(plan) ==
          std::vector<stretch>{
              {0, 0, 1, 0}, {1, 0, 1, 0}, {2, 0, 4, 1}, {0, 1, 2, 4}, {1, 1, 2, 4}, {2, 4, 1, 6}});
    CHECK(plan.arrival_bytes == std::vector<std::uint64_t>{200, 160, 0, 0, 400, 0, 40, 0});
  }
  SECTION("pages of one pool only: the others' layers wait for nothing") {
    const layer_plan plan =
        plan_layer_reads(world.homes, std::span(pages).last(1), {.together_share_max = together});
    CHECK(stretches(plan) == std::vector<stretch>{{0, 0, 1, 1}, {0, 1, 4, 2}});
    CHECK(plan.reads_of == std::vector<std::uint32_t>{0, 1, 1, 1, 0, 1, 1, 0});
  }
  SECTION("nothing to load") {
    const layer_plan plan = plan_layer_reads(world.homes, {}, {});
    CHECK(plan.reads.empty());
    CHECK(plan.layers() == 8);
    CHECK(predict_stall(plan.arrival_bytes, std::vector<double>(8, 1.0), {1.0, 1.0}, 0) == 0);
  }
}

TEST_CASE("loads of 80 % of their layers' compute stall a step by the first layer's alone",
          "[tier]") {
  for (const std::uint32_t layers : {2u, 7u, 16u, 61u}) {
    CAPTURE(layers);
    // Layers so small that twenty of them would be one read.
    const layer_world world(
        std::vector<std::uint32_t>(layers, 0), std::vector<std::uint32_t>(layers, 50), {4});
    const layer_plan plan = plan_layer_reads(world.homes, world.pages(), {.read_bytes_min = 1'000});
    const transfer_rates rate{.latency_s = 0.0, .bytes_per_s = 200.0};  // A layer loads in 1 s.
    const double stall_s =
        predict_stall(plan.arrival_bytes, std::vector<double>(layers, 1 / 0.8), rate, 0.0);
    CHECK(stall_s == Approx(1.0));
    CHECK(plan.reads.size() <= 4 * layers);
    CHECK((layers < 16 || plan.reads.size() < 4 * layers));  // Later ones come together.
  }
}

TEST_CASE("every slice of every page is in one read, in order", "[tier]") {
  for (std::uint64_t seed = 0; seed < scaled(300); ++seed) {
    CAPTURE(seed);
    random_stream draw(seed, 42);
    const std::uint32_t layers = 1 + draw.next_below(20), pools = 1 + draw.next_below(3);
    std::vector<std::uint32_t> pool_of, bytes, pages_in;
    for (std::uint32_t l = 0; l < layers; ++l) {
      pool_of.push_back(draw.next_below(pools));
      bytes.push_back(1 + draw.next_below(64));
    }
    for (std::uint32_t p = 0; p < pools; ++p) {
      pages_in.push_back(draw.next_below(5));
    }
    const layer_world world(pool_of, bytes, pages_in);
    const auto pages = world.pages();
    const layer_load_options options{.read_bytes_min = 1 + draw.next_below(150),
                                     .ahead_layers_max = draw.next_below(9),
                                     .together_share_max = 0.1 * draw.next_below(20)};
    const layer_plan plan = plan_layer_reads(world.homes, pages, options);
    std::map<std::pair<std::uint32_t, std::uint32_t>, int> seen;
    std::uint64_t total = 0;
    std::uint32_t last = 0;
    for (const layer_read& r : plan.reads) {
      const auto& in = world.layer_in[pages[r.page].key.pool];
      REQUIRE(r.first_layer == in[r.first_slot]);
      REQUIRE(r.first_layer >= last);
      last = r.first_layer;
      REQUIRE(in[r.first_slot + r.slots - 1] - r.first_layer <= options.ahead_layers_max);
      std::uint64_t sum = 0;
      for (std::uint32_t s = r.first_slot; s < r.first_slot + r.slots; ++s) {
        REQUIRE(++seen[{r.page, s}] == 1);
        REQUIRE(sum < options.read_bytes_min);
        sum += pages[r.page].slices[s].size();
      }
      REQUIRE(sum == r.bytes);
      total += sum;
    }
    std::size_t slices = 0;
    for (const layer_page& p : pages) {
      slices += p.slices.size();
    }
    REQUIRE(seen.size() == slices);
    REQUIRE(plan.bytes == total);
    std::uint64_t arrivals = 0;
    for (const std::uint64_t b : plan.arrival_bytes) {
      arrivals += b;
    }
    REQUIRE(arrivals == total);
  }
}

TEST_CASE("the stall of a step follows from bytes, rate and lead", "[tier]") {
  const std::vector<std::uint64_t> bytes(10, 80);
  const std::vector<double> seconds(10, 1.0);
  const transfer_rates rate{.latency_s = 0.0, .bytes_per_s = 100.0};  // A layer loads in 0.8 s.
  CHECK(predict_stall(bytes, seconds, rate, 0.0) == Approx(0.8));     // Layer 0, and no other.
  CHECK(predict_stall(bytes, seconds, rate, 0.5) == Approx(0.3));
  CHECK(predict_stall(bytes, seconds, rate, 0.8) == Approx(0.0).margin(1e-12));
  CHECK(predict_stall(bytes, seconds, {0.25, 100.0}, 0.8) == Approx(0.25));
  // Loads longer than compute: what is missing at the end, however it came about.
  CHECK(predict_stall(bytes, seconds, {0.0, 50.0}, 0.0) == Approx(10 * 1.6 - 9 * 1.0));
  // One large layer in the middle hides behind those before it.
  std::vector<std::uint64_t> hybrid(10, 1);
  hybrid[6] = 700;
  CHECK(predict_stall(hybrid, seconds, rate, 0.0) == Approx(7.06 - 6.0));
  CHECK(predict_stall(hybrid, seconds, rate, 2.0) == Approx(0.0).margin(1e-12));
}

}  // namespace layer_plan_test
