// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The device kernel's threads, one after the other on the host.
#include <oriel/core/executor.hpp>
#include <oriel/device/paged_kv_view.cuh>
#include <oriel/kernels/kv_append.hpp>

#include <cuda/detail/kv_append_agent.cuh>

#include <device/append_case.hpp>

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

template <dtype Kv>
void run_grid(const cuda::kv_append_plan& plan, const kv_append_args& args) {
  for (std::uint32_t block = 0; block < plan.row_blocks; ++block) {
    for (std::uint32_t head = 0; head < plan.shape.kv_heads; ++head) {
      for (std::uint32_t thread = 0; thread < detail::kv_append_threads; ++thread) {
        detail::kv_append_thread<Kv>(plan.shape, args, block, head, thread);
      }
    }
  }
}

template <dtype Kv>
void check_offsets(const append_case& c, random_stream& random) {
  const kv_layer_view kv{nullptr, nullptr, c.page_bytes};
  const paged_kv_view<Kv> view(c.shape, kv);
  for (int i = 0; i < 200; ++i) {
    const paged_sequence& part = c.parts[random.next_below(4)];
    const std::uint32_t position = part.first_position + random.next_below(30);
    const std::uint32_t head = random.next_below(c.shape.kv_heads);
    const std::uint32_t dk = random.next_below(c.shape.head_dim_qk);
    const std::uint32_t dv = random.next_below(c.shape.head_dim_vo);
    const auto at = [](const std::byte* p) { return reinterpret_cast<std::uintptr_t>(p); };
    REQUIRE(view.k_offset_bytes(part, position, head, dk) ==
            at(reference::k_element(c.shape, kv, part, position, head, dk)));
    REQUIRE(view.v_offset_bytes(part, position, head, dv) ==
            at(reference::v_element(c.shape, kv, part, position, head, dv)));
  }
}

}  // namespace

TEST_CASE("the device's view of a page finds the elements the layout defines") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 20)));
  INFO("seed " << seed);
  append_case c(seed);
  for (paged_sequence& part : c.parts) {  // Room for positions past the rows: rings everywhere.
    part.ring_pages = 3;
  }
  random_stream random(seed, 32);
  c.shape.kv == dtype::bf16 ? check_offsets<dtype::bf16>(c, random)
                            : check_offsets<dtype::f32>(c, random);
}

TEST_CASE("the device's append writes the bytes of the host's") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 40)));
  INFO("seed " << seed);
  const append_case c(seed);
  const aligned_bytes host(c.pool_bytes()), device(c.pool_bytes());
  backward_executor backward;
  host::run_kv_append(c.shape, c.args(host.data()), backward);
  const auto plan = cuda::plan_kv_append(c.shape, c.rows + 40);  // A grid may be too large.
  REQUIRE(plan);
  c.shape.kv == dtype::bf16 ? run_grid<dtype::bf16>(*plan, c.args(device.data()))
                            : run_grid<dtype::f32>(*plan, c.args(device.data()));
  REQUIRE(std::memcmp(host.data(), device.data(), c.pool_bytes()) == 0);
}

TEST_CASE("plan_kv_append covers the rows, and refuses what no kernel does") {
  attention_shape shape{8, 2, 192, 128, 16, 128, dtype::bf16};
  CHECK(cuda::plan_kv_append(shape, 0)->row_blocks == 0);
  CHECK(cuda::plan_kv_append(shape, 1)->row_blocks == 1);
  CHECK(cuda::plan_kv_append(shape, 16)->row_blocks == 1);
  CHECK(cuda::plan_kv_append(shape, 17)->row_blocks == 2);
  shape.page_size = 24;
  CHECK(cuda::plan_kv_append(shape, 1).error().code == errc::unsupported_shape);
  shape.page_size = 0;
  CHECK_FALSE(cuda::plan_kv_append(shape, 1));
  shape.page_size = 32;
  shape.kv = dtype::e4m3;
  CHECK_FALSE(cuda::plan_kv_append(shape, 1));
  shape.kv = dtype::f32;
  shape.kv_heads = 0;
  CHECK_FALSE(cuda::plan_kv_append(shape, 1));
}
