// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/device/stream_layers.hpp>

#include <cuda/device_array.hpp>
#include <cuda/pinned_array.hpp>

#include <device/copy_case.hpp>

#include <chrono>
#include <thread>

namespace stream_layers_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

using layers_of_device = stream_layers<cuda::device_streams>;

/// A load, or a store, of a case's pages: each layer a copy.
struct layer_copies {
  layer_copies(const cuda::kv_copy_plan& plan,
               std::vector<kv_copy_layer> layers,
               const std::vector<kv_page_pair>& page_pairs)
      : views(std::move(layers)), pairs(page_pairs) {
    for (std::uint32_t l = 0; l < views.size(); ++l) {
      copies.push_back({&plan, {{&views[l], 1}, pairs.span()}, l + 1});
    }
  }
  std::vector<kv_copy_layer> views;
  pinned_array<kv_page_pair> pairs;
  std::vector<layer_copy> copies;
};

void CUDART_CB take_2_ms(void*) {
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

}  // namespace

TEST_CASE("cuda stream_layers: layers are read behind their gates, and go back byte for byte") {
  // From the host's order to the device's; bf16, but for 29, which is e4m3.
  const std::uint64_t seed = GENERATE(5u, 13u, 21u, 29u, 37u);
  INFO("seed " << seed);
  copy_case c(seed);
  const auto expected = c.expected(c.page_count());
  const auto up_plan = cuda::plan_kv_copy(c.shape);
  const auto down_plan =
      cuda::plan_kv_copy({.layer = c.shape.layer, .from = c.shape.to, .to = c.shape.from});
  REQUIRE(up_plan);
  REQUIRE(down_plan);

  const own_stream compute, up, down;
  auto fences = *stream_fences<cuda::device_streams>::make(compute.stream);
  auto loads = *layers_of_device::make(fences, up.stream, c.layers);
  auto stores = *layers_of_device::make(fences, down.stream, c.layers);
  const pinned_array<std::byte> source(c.source), back(c.from.bytes), seen(c.to.bytes);
  const device_array<std::byte> pool(c.to.bytes);
  std::vector<kv_page_pair> reversed;
  for (const kv_page_pair p : c.pages) {
    reversed.push_back({p.to, p.from});
  }
  std::vector<kv_copy_layer> down_views;
  for (const kv_copy_layer& l : c.layers_in(back.data(), pool.data())) {
    down_views.push_back({l.to, l.from});
  }
  const layer_copies load_of(*up_plan, c.layers_in(source.data(), pool.data()), c.pages);
  const layer_copies store_of(*down_plan, down_views, reversed);

  for (int step = 0; step < 6; ++step) {
    std::memset(back.data(), 0xFF, c.from.bytes);
    std::memset(seen.data(), 0xFF, c.to.bytes);
    // The compute's last use of the pages; the load comes behind it.
    ORIEL_REQUIRE_CUDA(cudaMemsetAsync(pool.data(), 0xFF, c.to.bytes, compute.stream));
    REQUIRE(loads.can_begin());
    // Copies begin late, so that a layer that does not wait for its own reads poison.
    ORIEL_REQUIRE_CUDA(cudaLaunchHostFunc(up.stream, take_2_ms, nullptr));
    const stream_load load = loads.begin(load_of.copies, *fences.mark());
    for (std::uint32_t l = 0; l < c.layers; ++l) {
      REQUIRE(loads.wait(load, l));
      for (const copy_part& part : c.parts_of(l)) {
        ORIEL_REQUIRE_CUDA(cudaMemcpyAsync(seen.data() + part.to,
                                           pool.data() + part.to,
                                           part.bytes,
                                           cudaMemcpyDeviceToHost,
                                           compute.stream));
      }
    }
    loads.end(load);
    REQUIRE(stores.can_begin());
    const stream_load store = stores.begin(store_of.copies, *fences.mark());
    REQUIRE(stores.finish(store));
    REQUIRE(*stores.is_in_place(store, 0));
    stores.end(store);
    REQUIRE(*loads.is_done(load));  // The store's fence stands behind it.
    for (std::uint32_t l = 0; l < c.layers; ++l) {
      for (const copy_part& part : c.parts_of(l)) {
        REQUIRE(std::memcmp(seen.data() + part.to, expected.data() + part.to, part.bytes) == 0);
        REQUIRE(std::memcmp(back.data() + part.from, c.source.data() + part.from, part.bytes) == 0);
      }
    }
  }
  CHECK(loads.counters().failed_loads == 0);
}

}  // namespace stream_layers_test
