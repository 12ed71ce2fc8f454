// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The device kernel's threads, one after the other on the host.
#include <oriel/core/executor.hpp>
#include <oriel/device/paged_kv_view.cuh>
#include <oriel/kernels/kv_append.hpp>

#include <cuda/detail/kv_append_agent.cuh>

#include <device/append_case.hpp>
#include <device/device_order.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <vector>

namespace kv_append_agent_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

template <dtype Kv>
void run_blocks(const cuda::kv_append_plan& plan, const kv_append_args& args, bool backwards) {
  const detail::kv_append_agent<Kv> agent{plan.shape, args};
  for (std::uint32_t block = 0; block < plan.row_blocks; ++block) {
    for (std::uint32_t head = 0; head < plan.shape.kv_heads; ++head) {
      detail::kv_append_shared shared;
      std::memset(&shared, 0xFE, sizeof shared);
      agent(detail::host_group<detail::kv_append_threads>(backwards), block, head, shared);
    }
  }
}

void run_grid(const cuda::kv_append_plan& plan, const kv_append_args& args, bool backwards) {
  plan.shape.kv == dtype::e4m3   ? run_blocks<dtype::e4m3>(plan, args, backwards)
  : plan.shape.kv == dtype::bf16 ? run_blocks<dtype::bf16>(plan, args, backwards)
                                 : run_blocks<dtype::f32>(plan, args, backwards);
}

/// The values of `shape`'s pages in the host's order.
void append_on_host(const attention_shape& shape, const kv_append_args& args) {
  backward_executor backward;
  shape.kv == dtype::e4m3 ? reference::kv_append(shape, args)
                          : host::run_kv_append(shape, args, backward);
}

/// In f32 the device's order is the host's; in bf16 the tile is, and the place in it is another.
template <dtype Kv>
void check_offsets(const append_case& c, random_stream& random) {
  std::vector<std::byte> memory(c.pool_bytes());
  const kv_layer_view kv{memory.data(), memory.data(), c.page_bytes};
  const paged_kv_view<Kv> view(c.shape, kv);
  const std::size_t k_tile = k_bytes_per_page(kv_tile_tokens, 1, c.shape.head_dim_qk, Kv);
  const std::size_t v_tile = v_bytes_per_page(kv_tile_tokens, 1, c.shape.head_dim_vo, Kv);
  const auto place = [&](std::size_t offset, std::size_t tile) {
    offset %= c.page_bytes;
    return Kv == dtype::f32 ? offset : offset / tile;
  };
  for (int i = 0; i < 200; ++i) {
    const paged_sequence& part = c.parts[random.next_below(4)];
    const std::uint32_t position = part.first_position + random.next_below(30);
    const std::uint32_t head = random.next_below(c.shape.kv_heads);
    const std::uint32_t dk = random.next_below(c.shape.head_dim_qk);
    const std::uint32_t dv = random.next_below(c.shape.head_dim_vo);
    const auto at = [&](const std::byte* p) { return static_cast<std::size_t>(p - memory.data()); };
    const std::uint32_t key = position % kv_tile_tokens;
    const std::size_t k =
        view.k_tile(part, position, head) +
        device_index_in_k_tile(Kv, view.stored_dims(c.shape.head_dim_qk), key, dk) * size_bytes(Kv);
    const std::size_t v =
        view.v_tile(part, position, head) +
        device_index_in_v_tile(Kv, view.stored_dims_vo(), key, dv) * size_bytes(Kv);
    const std::size_t host_k = at(reference::k_element(c.shape, kv, part, position, head, dk));
    const std::size_t host_v = at(reference::v_element(c.shape, kv, part, position, head, dv));
    REQUIRE(k / c.page_bytes == host_k / c.page_bytes);
    REQUIRE(v / c.page_bytes == host_v / c.page_bytes);
    REQUIRE(place(k, k_tile) == place(host_k, k_tile));
    REQUIRE(place(v, v_tile) == place(host_v, v_tile));
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
  c.shape.kv == dtype::bf16   ? check_offsets<dtype::bf16>(c, random)
  : c.shape.kv == dtype::e4m3 ? check_offsets<dtype::e4m3>(c, random)
                              : check_offsets<dtype::f32>(c, random);
}

TEST_CASE("a device's bf16 tile is core matrices of 8 x 8, K-major, every element once") {
  const std::uint32_t dims = GENERATE(1u, 2u, 7u, 8u, 10u, 64u, 192u, 256u);
  const std::uint32_t stored = paged_kv_view<dtype::bf16>::stored_dims(dims);
  std::vector<int> k_seen(kv_tile_tokens * stored), v_seen(kv_tile_tokens * dims);
  for (std::uint32_t key = 0; key < kv_tile_tokens; ++key) {
    for (std::uint32_t d = 0; d < stored; ++d) {
      const std::size_t k = device_index_in_k_tile(dtype::bf16, stored, key, d);
      ++k_seen.at(k);
      if (stored % 8 == 0) {  // Matrix (key / 8, dim / 8), row key % 8, element dim % 8.
        REQUIRE(k == ((key / 8 * (stored / 8) + d / 8) * 8 + key % 8) * 8 + d % 8);
      }
    }
    for (std::uint32_t d = 0; d < dims; ++d) {
      const std::size_t v = device_index_in_v_tile(dtype::bf16, dims, key, d);
      ++v_seen.at(v);
      if (dims % 8 == 0) {  // Matrix (key / 8, dim / 8), row dim % 8, element key % 8.
        REQUIRE(v == ((key / 8 * (dims / 8) + d / 8) * 8 + d % 8) * 8 + key % 8);
      }
    }
  }
  CHECK(std::count(k_seen.begin(), k_seen.end(), 1) == static_cast<long>(k_seen.size()));
  CHECK(std::count(v_seen.begin(), v_seen.end(), 1) == static_cast<long>(v_seen.size()));
}

TEST_CASE("the device's append writes the values of the host's") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 40)));
  INFO("seed " << seed);
  const append_case c(seed);
  const aligned_bytes host(c.pool_bytes()), device(c.pool_bytes()), reordered(c.pool_bytes());
  const auto plan = cuda::plan_kv_append(c.shape, c.rows + 40);  // A grid may be too large.
  REQUIRE(plan);
  append_on_host(c.shape, c.args(host.data()));
  run_grid(*plan, c.args(device.data()), seed % 2 != 0);
  reorder_pages(
      c.shape, append_case::pages, false, c.view(device.data()), c.view(reordered.data()));
  REQUIRE(std::memcmp(host.data(), reordered.data(), c.pool_bytes()) == 0);
}

TEST_CASE("the device's append finds the rows of many sequences, and leaves no group unfinished") {
  // A page each; among those that decode, prompts that begin and end inside groups of 8 keys.
  const dtype kv = GENERATE(dtype::bf16, dtype::e4m3, dtype::f32);
  constexpr std::uint32_t sequences = 700, page_size = 64;
  const attention_shape shape{4, 2, 24, 10, page_size, 0, kv};
  random_stream random(size_bytes(kv), 33);
  std::vector<std::uint32_t> tables(sequences);
  std::vector<paged_sequence> parts(sequences);
  std::uint32_t rows = 0;
  for (std::uint32_t i = 0; i < sequences; ++i) {
    tables[i] = sequences - 1 - i;
    const std::uint32_t first = random.next_below(page_size), kind = random.next_below(20);
    const std::uint32_t count = kind == 0 ? random.next_below(page_size) : kind < 6 ? 0 : 1;
    parts[i] = {.pages = &tables[i],
                .ring_pages = 0,
                .first_position = first,
                .rows = std::min(count, page_size - first)};
    parts[i].first_key = random.next_below(9) == 0 ? first + 1 : 0;
    rows += parts[i].rows;
  }
  const std::size_t k_stride = 48, v_stride = 20;
  const std::vector<float> k = random_floats(random, rows * k_stride),
                           v = random_floats(random, rows * v_stride);
  const std::size_t k_bytes = k_bytes_per_page(page_size, 2, 24, kv);
  const std::size_t page_bytes = (k_bytes + v_bytes_per_page(page_size, 2, 10, kv) + 63) / 64 * 64;
  REQUIRE(k_bytes % 64 == 0);
  const aligned_bytes host(sequences * page_bytes), device(sequences * page_bytes),
      reordered(sequences * page_bytes);
  const auto view = [&](const aligned_bytes& pool) {
    return kv_layer_view{pool.data(), pool.data() + k_bytes, page_bytes};
  };
  const auto args = [&](const aligned_bytes& pool) {
    return kv_append_args{view(pool), k.data(), v.data(), k_stride, v_stride, 0.707f, parts};
  };
  append_on_host(shape, args(host));
  run_grid(*cuda::plan_kv_append(shape, rows), args(device), true);
  reorder_pages(shape, sequences, false, view(device), view(reordered));
  REQUIRE(std::memcmp(host.data(), reordered.data(), sequences * page_bytes) == 0);
}

TEST_CASE("e4m3: a scale is of one token and head, and numbers are as near as their steps allow") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(2, 5, 8, 11, 14));
  INFO("seed " << seed);
  append_case c(seed);
  REQUIRE(c.shape.kv == dtype::e4m3);
  c.k[1] = 1e-30f;  // A small number beside large ones.
  const aligned_bytes whole(c.pool_bytes()), single(c.pool_bytes());
  const kv_append_args args = c.args(whole.data());
  reference::kv_append(c.shape, args);
  // Token by token, the last first: the same bytes.
  std::size_t row = c.rows;
  for (std::size_t p = c.parts.size(); p-- > 0;) {
    for (std::uint32_t r = c.parts[p].rows; r-- > 0;) {
      --row;
      paged_sequence one = c.parts[p];
      one.first_position += r;
      one.rows = 1;
      kv_append_args alone = c.args(single.data());
      alone.k += row * c.k_stride;
      alone.v += row * c.v_stride;
      alone.sequences = {&one, 1};
      reference::kv_append(c.shape, alone);
    }
  }
  REQUIRE(std::memcmp(whole.data(), single.data(), c.pool_bytes()) == 0);
  row = 0;
  for (const paged_sequence& part : c.parts) {
    for (std::uint32_t r = 0; r < part.rows; ++r, ++row) {
      const std::uint32_t position = part.first_position + r;
      if (position < part.first_key) {
        continue;  // Nobody wrote it.
      }
      for (std::uint32_t head = 0; head < c.shape.kv_heads; ++head) {
        const auto check = [&](const float* x, std::uint32_t dims, float factor, auto&& value) {
          float largest = 0.0f;
          for (std::uint32_t d = 0; d < dims; ++d) {
            largest = std::max(largest, std::abs(x[d] * factor));
          }
          for (std::uint32_t d = 0; d < dims; ++d) {
            const double exact = static_cast<double>(x[d] * factor);
            const double step = std::max(std::abs(exact) * 0x1p-4, largest / 448.0 * 0x1p-10);
            REQUIRE(std::abs(value(d) - exact) <= step * 1.001);
          }
        };
        check(c.k.data() + row * c.k_stride + std::size_t{head} * c.shape.head_dim_qk,
              c.shape.head_dim_qk,
              1.0f,
              [&](std::uint32_t d) {
                return reference::kv_value<reference::kv_part::k>(
                    c.shape, args.kv, part, position, head, d);
              });
        check(c.v.data() + row * c.v_stride + std::size_t{head} * c.shape.head_dim_vo,
              c.shape.head_dim_vo,
              args.v_scale,
              [&](std::uint32_t d) {
                return reference::kv_value<reference::kv_part::v>(
                    c.shape, args.kv, part, position, head, d);
              });
      }
    }
  }
}

TEST_CASE("e4m3: what is no number shows in all of its head, and there alone") {
  const float bad =
      GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  append_case c(2);
  c.k[0] = bad;
  c.parts[0].first_key = 0;
  const aligned_bytes pages(c.pool_bytes()), device(c.pool_bytes());
  const kv_append_args args = c.args(pages.data());
  reference::kv_append(c.shape, args);
  const paged_sequence& part = c.parts[0];
  for (std::uint32_t d = 0; d < c.shape.head_dim_qk; ++d) {
    CHECK_FALSE(std::isfinite(reference::kv_value<reference::kv_part::k>(
        c.shape, args.kv, part, part.first_position, 0, d)));
  }
  CHECK(std::isfinite(reference::kv_value<reference::kv_part::v>(
      c.shape, args.kv, part, part.first_position, 0, 0)));
  run_grid(*cuda::plan_kv_append(c.shape, c.rows), c.args(device.data()), false);
  const kv_layer_view view = c.view(device.data());
  CHECK_FALSE(std::isfinite(
      reference::kv_value<reference::kv_part::k>(c.shape, view, part, part.first_position, 0, 0)));
  CHECK(std::isfinite(reference::kv_value<reference::kv_part::k>(
      c.shape, view, part, part.first_position + 1, 0, 0)));
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
  CHECK(cuda::plan_kv_append(shape, 1));
  shape.kv = dtype::f32;
  shape.kv_heads = 0;
  CHECK_FALSE(cuda::plan_kv_append(shape, 1));
}

}  // namespace kv_append_agent_test
