// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/random.hpp>
#include <oriel/device/memory.hpp>
#include <oriel/kernels/kv_copy.hpp>

#include <cuda/captured.hpp>
#include <cuda/device_array.hpp>
#include <cuda/pinned_array.hpp>

#include <device/copy_case.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace kv_copy_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

void copy_and_compare(copy_case& c, const cuda::kv_copy_plan& plan) {
  const auto expected = c.expected(c.page_count());
  const pinned_array<std::byte> host_source(c.source), host_target(c.to.bytes);
  const device_array<std::byte> source{std::span<const std::byte>(c.source)}, target(c.to.bytes);
  const pinned_array<kv_page_pair> pages(c.pages);
  const own_stream stream;
  target.poison();  // What nobody copies to is compared, too.
  const auto copy = [&](std::byte* from, std::byte* to) {
    const auto layers = c.layers_in(from, to);
    REQUIRE(cuda::run_kv_copy(plan, {layers, pages.span()}, stream.stream));
    stream.finish();
  };
  copy(host_source.data(), target.data());  // Host to device.
  REQUIRE((target.to_host() == expected));  // Not as text, which would take half a minute.
  copy(source.data(), host_target.data());  // Device to host.
  REQUIRE(std::ranges::equal(host_target.span(), expected));
  const device_array<std::byte> other(c.to.bytes);
  other.poison();
  copy(source.data(), other.data());  // Device to device.
  REQUIRE((other.to_host() == expected));
}

}  // namespace

TEST_CASE("cuda kv_copy by multiprocessors: the reference's bytes, to and from the host") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 32)));
  INFO("seed " << seed);
  copy_case c(seed);
  const auto plan = cuda::plan_kv_copy(
      c.shape,
      {.way = cuda::kv_copy_way::multiprocessors, .multiprocessors = 1 + c.random.next_below(8)});
  REQUIRE(plan);
  copy_and_compare(c, *plan);
}

TEST_CASE("cuda kv_copy by engines: the reference's bytes, to and from the host") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 16)));
  INFO("seed " << seed);
  copy_case c(seed);
  c.shape.to = c.shape.from;
  const auto plan = cuda::plan_kv_copy(c.shape, {.way = cuda::kv_copy_way::engine});
  REQUIRE(plan);
  copy_and_compare(c, *plan);
}

TEST_CASE("cuda kv_copy by engines: pages that lie across the steps of growing memory") {
  const attention_shape layer{.q_heads = 0,
                              .kv_heads = 3,
                              .head_dim_qk = 192,
                              .head_dim_vo = 128,
                              .page_size = 64,
                              .window_tokens = 0,
                              .kv = dtype::bf16};
  const copy_pool pool(layer, 1, 160, true, false);  // 18.75 MiB: a page lies across 16 MiB.
  auto memory = cuda::growing_memory::reserve(pool.bytes);
  REQUIRE(memory);
  REQUIRE(memory->commit(1));
  REQUIRE(memory->commit(pool.bytes));
  const pinned_array<std::byte> from(pool.bytes), back(pool.bytes);
  random_stream random(1, 74);
  for (std::size_t i = 0; i < pool.bytes; ++i) {
    from.data()[i] = static_cast<std::byte>(random.next_below(256));
  }
  std::vector<kv_page_pair> pages;
  for (std::uint32_t i = 0; i < pool.pages; ++i) {
    pages.push_back({i, pool.pages - 1 - i});
  }
  const auto plan = cuda::plan_kv_copy({layer, kv_order::host, kv_order::host},
                                       {.way = cuda::kv_copy_way::engine});
  REQUIRE(plan);
  const own_stream stream;
  const auto copy = [&](std::byte* source, std::byte* target) {
    const kv_copy_layer layers[] = {{pool.layer(0, source), pool.layer(0, target)}};
    REQUIRE(cuda::run_kv_copy(*plan, {layers, pages}, stream.stream));
    stream.finish();
  };
  copy(from.data(), memory->base());
  copy(memory->base(), back.data());  // In reverse twice: where they were.
  REQUIRE(std::ranges::equal(back.span(), from.span()));
}

TEST_CASE("cuda kv_copy captured once serves other pages and counts") {
  copy_case c(3);  // bf16, device to host: permuted.
  const auto plan = cuda::plan_kv_copy(c.shape);
  REQUIRE(plan);
  REQUIRE(plan->permutes);
  const device_array<std::byte> source{std::span<const std::byte>(c.source)};
  const pinned_array<std::byte> target(c.to.bytes);
  const pinned_array<kv_page_pair> pages(c.pages);
  const pinned_array<std::uint32_t> count(std::size_t{1});
  const auto layers = c.layers_in(source.data(), target.data());
  captured copy([&](cudaStream_t stream) {
    REQUIRE(cuda::run_kv_copy(*plan, {layers, pages.span(), count.data()}, stream));
  });
  for (std::uint32_t n = 0; n <= c.page_count(); ++n) {
    std::memset(target.data(), 0xFF, c.to.bytes);
    std::ranges::reverse(c.pages);
    std::ranges::copy(c.pages, pages.data());
    *count.data() = n;
    copy.launch();
    REQUIRE(std::ranges::equal(target.span(), c.expected(n)));
  }
}

TEST_CASE("cuda kv_copy by engines says that it cannot be captured") {
  copy_case c(1);
  c.shape.to = c.shape.from;
  const auto plan = cuda::plan_kv_copy(c.shape, {.way = cuda::kv_copy_way::engine});
  REQUIRE(plan);
  const device_array<std::byte> source{std::span<const std::byte>(c.source)}, target(c.to.bytes);
  const auto layers = c.layers_in(source.data(), target.data());
  captured nothing([&](cudaStream_t stream) {
    const status done = cuda::run_kv_copy(*plan, {layers, c.pages}, stream);
    REQUIRE_FALSE(done);
    CHECK(done.error().code == errc::device_failure);
  });
}

}  // namespace kv_copy_test
