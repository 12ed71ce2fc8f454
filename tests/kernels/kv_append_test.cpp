// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/kv_append.hpp>
#include <oriel/kernels/reference/kv_element.hpp>

#include <kernels/attention_case.hpp>

#include <cstddef>
#include <vector>

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

TEST_CASE("kv_append writes what the layout's definition says, and nothing else") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 24)));
  random_stream random(seed, 10);
  const attention_shape shape{.q_heads = 4,
                              .kv_heads = 1 + random.next_below(4),
                              .head_dim_qk = 1 + random.next_below(80),
                              .head_dim_vo = 1 + random.next_below(80),
                              .page_size = 16 * (1 + random.next_below(4)),
                              .window_tokens = 0,
                              .kv = seed % 2 ? dtype::bf16 : dtype::f32};
  const std::size_t stride =
      (k_bytes_per_page(shape.page_size, shape.kv_heads, 96, dtype::f32) + 63) / 64 * 64;
  constexpr std::uint32_t pages = 12;
  const aligned_bytes ours(pages * stride * 2), theirs(pages * stride * 2);
  const auto view = [&](const aligned_bytes& m) {
    return kv_layer_view{m.data(), m.data() + pages * stride, stride};
  };
  const std::uint32_t flat[] = {7, 2, 9, 0}, ring[] = {5, 11, 3};
  paged_sequence sequences[] = {{flat, 0, random.next_below(10), 1 + random.next_below(50)},
                                {flat, 0, 0, 0},
                                {ring, 3, 100 + random.next_below(100), random.next_below(30)}};
  sequences[seed % 3].first_key = sequences[seed % 3].first_position + random.next_below(20);
  const std::uint32_t rows = sequences[0].rows + sequences[2].rows;
  const std::size_t k_stride = std::size_t{shape.kv_heads} * shape.head_dim_qk + 3;
  const std::size_t v_stride = std::size_t{shape.kv_heads} * shape.head_dim_vo + 5;
  const auto k = random_floats(random, rows * k_stride), v = random_floats(random, rows * v_stride);
  kv_append_args args{view(ours), k.data(), v.data(), k_stride, v_stride, 0.707f, sequences};
  INFO("seed " << seed);
  backward_executor backward;
  host::run_kv_append(shape, args, backward);
  args.kv = view(theirs);
  reference::kv_append(shape, args);
  REQUIRE(std::memcmp(ours.data(), theirs.data(), ours.span().size()) == 0);
  REQUIRE(std::count(ours.data(), ours.data() + ours.span().size(), poison) > 0);
}

TEST_CASE("an element lies where paged_kv.hpp draws it") {
  const attention_shape shape{2, 2, 3, 5, 32, 0, dtype::bf16};
  const std::uint32_t table[] = {1, 0};
  const paged_sequence sequence{table, 0, 0, 0};
  std::vector<std::byte> pages(2 * 4096);
  const kv_layer_view kv{pages.data(), pages.data(), 4096};
  const auto offset = [&](const std::byte* p) { return p - pages.data(); };
  // Position 20 of page 1, head 1: tile 1 of 2; K pair 1 (dims 2 and the pad), key 4, first of
  // pair.
  CHECK(offset(reference::k_element(shape, kv, sequence, 20, 1, 2)) ==
        4096 + (1 * 2 + 1) * (2 * 16 * 2 * 2) + ((1 * 16 + 4) * 2 + 0) * 2);
  // V: key pair 2, dim 4, first of pair; position 32 starts page 0.
  CHECK(offset(reference::v_element(shape, kv, sequence, 20, 1, 4)) ==
        4096 + (1 * 2 + 1) * (8 * 5 * 2 * 2) + ((2 * 5 + 4) * 2 + 0) * 2);
  CHECK(offset(reference::v_element(shape, kv, sequence, 33, 0, 0)) == 2);
}
