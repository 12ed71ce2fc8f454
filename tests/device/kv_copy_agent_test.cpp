// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The copy kernel's program, its permutation and the engines' runs on the host. Every comparison is
// of all bytes of the target pool: what lies between the parts is not touched.
#include <oriel/device/paged_kv_view.cuh>
#include <oriel/kernels/kv_copy.hpp>

#include <cuda/detail/kv_copy_runs.hpp>

#include <device/append_case.hpp>
#include <device/copy_case.hpp>
#include <device/copy_machine.hpp>

#include <type_traits>

namespace kv_copy_agent_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr attention_shape pro{16, 2, 192, 128, 64, 0, dtype::bf16};

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::ranges::equal(a, b);
}

/// Is `from` in the other order `expected`?
template <detail::kv_permutation P>
bool is_permuted(const cuda::kv_part& part,
                 bool is_k,
                 const aligned_bytes& from,
                 const aligned_bytes& expected) {
  const detail::kv_piece_target piece{nullptr, part.tiles * part.tile_bytes, part.tiles, is_k};
  const aligned_bytes to(piece.bytes);
  for (std::uint32_t thread = 0; thread < 7; ++thread) {  // Any number of threads.
    detail::permute_rows<P>(part, piece, from.data(), to.data(), thread, 7);
  }
  return same_bytes(to.span(), expected.span());
}

}  // namespace

TEST_CASE("the copy kernel writes the reference's bytes whatever order its copies come in") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 96)));
  copy_case c(seed);
  INFO("seed " << seed << ", (" << c.shape.layer.head_dim_qk << ", " << c.shape.layer.head_dim_vo
               << "), layers " << c.layers << ", pages " << c.pages.size());
  const auto plan = cuda::plan_kv_copy(
      c.shape,
      {.way = cuda::kv_copy_way::multiprocessors, .multiprocessors = 1 + c.random.next_below(5)});
  REQUIRE(plan);
  const aligned_bytes source(c.from.bytes), target(c.to.bytes);
  std::ranges::copy(c.source, source.data());
  const auto layers = c.layers_in(source.data(), target.data());
  // Sometimes fewer pages than the table has, as a captured graph would.
  const std::uint32_t count =
      c.random.next_below(3) == 0 ? c.random.next_below(c.page_count() + 2) : c.page_count();
  run_copy(*plan, {layers, c.pages, count == c.page_count() ? nullptr : &count}, seed);
  REQUIRE(same_bytes(target.span(), c.expected(std::min(count, c.page_count()))));
}

TEST_CASE("the engines' runs write the reference's bytes, in any order") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 48)));
  INFO("seed " << seed);
  copy_case c(seed);
  c.shape.to = c.shape.from;
  const auto plan = cuda::plan_kv_copy(c.shape, {.way = cuda::kv_copy_way::engine});
  REQUIRE(plan);
  std::vector<std::byte> target(c.to.bytes, poison);
  const auto layers = c.layers_in(c.source.data(), target.data());
  std::vector<detail::kv_copy_run> runs;
  detail::for_each_run(
      *plan, {layers, c.pages}, [&](const detail::kv_copy_run& run) { runs.push_back(run); });
  CHECK(runs.size() <= 2 * c.pages.size() * c.layers);
  while (!runs.empty()) {
    const auto next = runs.begin() + c.random.next_below(static_cast<std::uint32_t>(runs.size()));
    std::memcpy(next->to, next->from, next->bytes);
    runs.erase(next);
  }
  REQUIRE(same_bytes(target, c.expected(c.page_count())));
}

TEST_CASE("a case's parts are all that its copy writes, V as well as K") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 48)));
  INFO("seed " << seed);
  copy_case c(seed);
  const auto a = c.expected(c.page_count(), std::byte{0x00});
  const auto b = c.expected(c.page_count(), std::byte{0xFF});
  std::vector<bool> is_in_a_part(a.size(), false);
  for (std::uint32_t l = 0; l < c.layers; ++l) {
    for (const copy_part& part : c.parts_of(l)) {
      std::fill_n(is_in_a_part.begin() + static_cast<long>(part.to), part.bytes, true);
    }
  }
  std::size_t wrong = 0;  // One check for them all: a million each.
  while (wrong < a.size() && (a[wrong] == b[wrong]) == is_in_a_part[wrong]) {
    ++wrong;
  }
  CHECK(wrong == a.size());
}

TEST_CASE("what lies side by side on both sides is one run") {
  const copy_pool dense(pro, 3, 8, true, false), gaps(pro, 3, 8, true, true);
  const auto runs = [&](const copy_pool& from,
                        const copy_pool& to,
                        std::uint32_t layers,
                        const std::vector<kv_page_pair>& pages) {
    std::vector<std::byte> source(from.bytes), target(to.bytes);
    std::vector<kv_copy_layer> views;
    for (std::uint32_t i = 0; i < layers; ++i) {
      views.push_back({from.layer(i, source.data()), to.layer(i, target.data())});
    }
    const auto plan = cuda::plan_kv_copy({pro, kv_order::device, kv_order::device});
    std::size_t count = 0;
    detail::for_each_run(*plan, {views, pages}, [&](const detail::kv_copy_run&) { ++count; });
    return count;
  };
  CHECK(runs(dense, dense, 3, {{2, 4}, {3, 5}, {4, 6}}) == 1);  // Whole pages in a row.
  CHECK(runs(dense, dense, 3, {{2, 4}, {3, 6}, {4, 5}}) == 3);
  CHECK(runs(dense, dense, 2, {{2, 4}, {3, 5}}) == 2);  // K, V, K, V of a page.
  CHECK(runs(dense, gaps, 2, {{2, 4}, {3, 5}}) == 8);
  CHECK(runs(dense, dense, 3, {}) == 0);
}

TEST_CASE("parts of two allocations that touch by chance are two runs") {
  const copy_pool one(
      pro, 1, 1, true, false);  // A page of one layer; another allocation behind it.
  std::vector<std::byte> source(2 * one.bytes), target(2 * one.bytes);
  std::vector<kv_copy_layer> views;
  for (std::size_t i = 0; i < 2; ++i) {
    views.push_back(
        {one.layer(0, source.data() + i * one.bytes), one.layer(0, target.data() + i * one.bytes)});
  }
  const std::vector<kv_page_pair> pages{{0, 0}};
  const auto plan = cuda::plan_kv_copy({pro, kv_order::device, kv_order::device});
  const auto crosses = [&](const std::byte* p, std::size_t bytes, const std::byte* base) {
    return p < base + one.bytes && p + bytes > base + one.bytes;
  };
  std::size_t bytes = 0;
  detail::for_each_run(*plan, {views, pages}, [&](const detail::kv_copy_run& run) {
    CHECK_FALSE(crosses(run.from, run.bytes, source.data()));
    CHECK_FALSE(crosses(run.to, run.bytes, target.data()));
    bytes += run.bytes;
  });
  CHECK(bytes == source.size());
}

TEST_CASE("a tile of any width is permuted as the two orders are defined, and back") {
  const auto dims = static_cast<std::uint32_t>(GENERATE(range(1, 257)));
  INFO("dims " << dims);
  attention_shape shape = pro;
  shape.head_dim_qk = shape.head_dim_vo = dims;
  shape.page_size = 32;
  random_stream random(dims, 79);
  const auto plan = cuda::plan_kv_copy({shape, kv_order::device, kv_order::host});
  REQUIRE(plan);
  const std::size_t k_bytes = plan->k.tiles * std::size_t{plan->k.tile_bytes},
                    v_bytes = plan->v.tiles * std::size_t{plan->v.tile_bytes};
  const aligned_bytes k(k_bytes), v(v_bytes), host_k(k_bytes), host_v(v_bytes);
  for (const aligned_bytes* bytes : {&k, &v}) {
    std::ranges::generate(bytes->span(),
                          [&] { return static_cast<std::byte>(random.next_below(256)); });
  }
  const kv_copy_layer layer{{k.data(), v.data(), 0}, {host_k.data(), host_v.data(), 0}};
  const kv_page_pair page{0, 0};
  reference::kv_copy({shape, kv_order::device, kv_order::host}, {{&layer, 1}, {&page, 1}});
  using enum detail::kv_permutation;
  REQUIRE(is_permuted<to_host>(plan->k, true, k, host_k));
  REQUIRE(is_permuted<to_host>(plan->v, false, v, host_v));
  REQUIRE(is_permuted<to_device>(plan->k, true, host_k, k));
  REQUIRE(is_permuted<to_device>(plan->v, false, host_v, v));
}

TEST_CASE("pages that the host wrote are a device's after one copy, and the host's after another") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 20)));
  INFO("seed " << seed);
  const append_case c(seed);
  const aligned_bytes host(c.pool_bytes()), device(c.pool_bytes()), back(c.pool_bytes());
  backward_executor backward;
  c.shape.kv == dtype::e4m3 ? reference::kv_append(c.shape, c.args(host.data()))
                            : host::run_kv_append(c.shape, c.args(host.data()), backward);
  std::vector<kv_page_pair> pages;
  for (std::uint32_t p = 0; p < append_case::pages; ++p) {
    pages.push_back({p, p});
  }
  const auto copy =
      [&](kv_order from, kv_order to, const aligned_bytes& a, const aligned_bytes& b) {
        const auto plan =
            cuda::plan_kv_copy({c.shape, from, to}, {.way = cuda::kv_copy_way::multiprocessors});
        REQUIRE(plan);
        const kv_copy_layer layer{c.view(a.data()), c.view(b.data())};
        run_copy(*plan, {{&layer, 1}, pages}, seed);
      };
  copy(kv_order::host, kv_order::device, host, device);
  for (const paged_sequence& part : c.parts) {  // What a kernel of the device finds there.
    for (std::uint32_t r = 0; r < part.rows; ++r) {
      const std::uint32_t position = part.first_position + r;
      if (position < part.first_key) {
        continue;  // Nobody wrote it.
      }
      const std::uint32_t head = position % c.shape.kv_heads;
      const auto same = [&](const auto& view) {
        using element = std::remove_cvref_t<decltype(view.k(part, position, 0, 0))>;
        const std::uint32_t dk = position % c.shape.head_dim_qk,
                            dv = position % c.shape.head_dim_vo;
        const kv_layer_view kv = c.view(host.data());
        element k, v;
        std::memcpy(&k, reference::k_element(c.shape, kv, part, position, head, dk), sizeof k);
        std::memcpy(&v, reference::v_element(c.shape, kv, part, position, head, dv), sizeof v);
        return view.k(part, position, head, dk) == k && view.v(part, position, head, dv) == v;
      };
      const kv_layer_view kv = c.view(device.data());
      REQUIRE((c.shape.kv == dtype::bf16   ? same(paged_kv_view<dtype::bf16>(c.shape, kv))
               : c.shape.kv == dtype::e4m3 ? same(paged_kv_view<dtype::e4m3>(c.shape, kv))
                                           : same(paged_kv_view<dtype::f32>(c.shape, kv))));
    }
  }
  copy(kv_order::device, kv_order::host, device, back);
  REQUIRE(same_bytes(back.span(), host.span()));
}

TEST_CASE("plan_kv_copy: pieces of whole tiles that fit a stage, and the way by size") {
  const auto plan = cuda::plan_kv_copy({pro, kv_order::device, kv_order::host});
  REQUIRE(plan);
  CHECK(plan->permutes);
  CHECK(plan->way == cuda::kv_copy_way::multiprocessors);
  CHECK(plan->blocks == 4);
  CHECK(plan->k.tile_bytes == 6144);
  CHECK(plan->k.tiles == 8);
  CHECK(plan->k.tiles_per_piece == 2);  // 12 KiB.
  CHECK(plan->k.pieces == 4);
  CHECK(plan->v.tile_bytes == 4096);
  CHECK(plan->v.tiles_per_piece == 4);  // 16 KiB.
  CHECK(plan->v.pieces == 2);

  // 80 KiB of K and V: left to the engines, as long as nothing is permuted.
  CHECK(cuda::plan_kv_copy({pro, kv_order::host, kv_order::host})->way ==
        cuda::kv_copy_way::engine);
  attention_shape small = pro;
  small.page_size = 16;
  CHECK(cuda::plan_kv_copy({small, kv_order::host, kv_order::host})->way ==
        cuda::kv_copy_way::multiprocessors);
  attention_shape wide = pro;
  wide.kv = dtype::f32;
  const auto f32 = cuda::plan_kv_copy({wide, kv_order::device, kv_order::host});
  CHECK_FALSE(f32->permutes);
  CHECK(f32->way == cuda::kv_copy_way::engine);
  wide.kv = dtype::e4m3;  // Scales and all, 328 bytes a token and head: 41 KiB.
  const auto e4m3 = cuda::plan_kv_copy({wide, kv_order::device, kv_order::host});
  CHECK_FALSE(e4m3->permutes);
  CHECK(e4m3->k.tile_bytes == 16 * (192 + 4));
  CHECK(e4m3->v.tile_bytes == 16 * (128 + 4));
  CHECK(e4m3->way == cuda::kv_copy_way::multiprocessors);

  // No piece but the last of a part is smaller than the others, and none larger than a stage.
  for (std::uint32_t dims = 1; dims <= 256; ++dims) {
    for (const dtype kv : {dtype::f32, dtype::bf16, dtype::e4m3}) {
      const auto p =
          cuda::plan_kv_copy({{1, 3, dims, dims, 48, 0, kv}, kv_order::host, kv_order::host});
      REQUIRE(p);
      for (const cuda::kv_part& part : {p->k, p->v}) {
        REQUIRE(part.tiles == 9);
        REQUIRE(part.tiles_per_piece * part.tile_bytes <= detail::kv_stage_bytes);
        REQUIRE(part.pieces * part.tiles_per_piece >= part.tiles);
        REQUIRE((part.pieces - 1) * part.tiles_per_piece < part.tiles);
        REQUIRE(part.tile_bytes % 32 == 0);
      }
    }
  }
}

TEST_CASE("plan_kv_copy refuses what nobody copies") {
  const auto code = [](const attention_shape& layer, const cuda::kv_copy_options& options = {}) {
    return cuda::plan_kv_copy({layer, kv_order::device, kv_order::host}, options).error().code;
  };
  attention_shape s = pro;
  s.page_size = 24;
  CHECK(code(s) == errc::unsupported_shape);
  s.page_size = 0;
  CHECK(code(s) == errc::unsupported_shape);
  s = pro;
  s.head_dim_qk = 257;
  CHECK(code(s) == errc::unsupported_shape);
  s.head_dim_qk = 0;
  CHECK(code(s) == errc::unsupported_shape);
  s = pro;
  s.kv_heads = 0;
  CHECK(code(s) == errc::unsupported_shape);
  CHECK(code(pro, {.way = cuda::kv_copy_way::engine}) == errc::unsupported_shape);
  CHECK(code(pro, {.multiprocessors = 0}) == errc::invalid_argument);
}

}  // namespace kv_copy_agent_test
