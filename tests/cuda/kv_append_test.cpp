// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/kv_append.hpp>

#include <cuda/device_array.hpp>

#include <device/append_case.hpp>
#include <device/device_order.hpp>

namespace kv_append_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

TEST_CASE("cuda kv_append writes the values of the host's") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 20)));
  INFO("seed " << seed);
  const append_case c(seed);
  const aligned_bytes host(c.pool_bytes());
  backward_executor backward;
  c.shape.kv == dtype::e4m3 ? reference::kv_append(c.shape, c.args(host.data()))
                            : host::run_kv_append(c.shape, c.args(host.data()), backward);

  const device_array<std::byte> pool(c.pool_bytes());
  pool.poison();  // What nobody appends to is compared, too.
  const auto k = to_device(c.k), v = to_device(c.v);
  const device_array<std::uint32_t> tables{std::span<const std::uint32_t>(c.tables)};
  auto parts = c.parts;
  for (paged_sequence& part : parts) {
    part.pages = tables.data() + (part.pages - c.tables.data());
  }
  const device_array<paged_sequence> sequences{std::span<const paged_sequence>(parts)};

  const auto plan = cuda::plan_kv_append(c.shape, c.rows + 40);
  REQUIRE(plan);
  kv_append_args args = c.args(pool.data());
  args.k = k.data();
  args.v = v.data();
  args.sequences = {sequences.data(), sequences.size()};
  REQUIRE(cuda::run_kv_append(*plan, args, nullptr));
  std::vector<std::byte> device = pool.to_host();
  const aligned_bytes reordered(c.pool_bytes());
  reorder_pages(
      c.shape, append_case::pages, false, c.view(device.data()), c.view(reordered.data()));
  REQUIRE(std::memcmp(host.data(), reordered.data(), c.pool_bytes()) == 0);
}

}  // namespace kv_append_test
