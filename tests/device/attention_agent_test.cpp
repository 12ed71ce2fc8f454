// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The device's attention programs on the host: schedule, copies, masks, softmax, splits, merge,
// sink.
#include <oriel/core/executor.hpp>
#include <oriel/kernels/attention.hpp>

#include <device/attention_machine.hpp>
#include <device/device_order.hpp>
#include <kernels/attention_bounds.hpp>
#include <kernels/attention_case.hpp>
#include <support/death.hpp>
#include <support/scale.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace attention_agent_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

/// Pages for 4,000 tokens and a few parts of pages.
std::uint32_t pool_pages(const attention_shape& s) {
  return 4000 / s.page_size + 8;
}

std::uint32_t pick(random_stream& random, std::initializer_list<std::uint32_t> x) {
  return x.begin()[random.next_below(static_cast<std::uint32_t>(x.size()))];
}

/// A shape that has a tensor-core unit.
attention_shape random_shape(random_stream& random, dtype kv) {
  const std::uint32_t dims = random.next_below(3);
  const std::uint32_t kv_heads = 1 + random.next_below(2);
  const std::uint32_t group =
      random.next_below(2) ? pick(random, {8, 16}) : pick(random, {1, 5, 12});
  return {.q_heads = kv_heads * group,
          .kv_heads = kv_heads,
          .head_dim_qk = dims == 0   ? 192u
                         : dims == 1 ? 128u
                                     : 64u,
          .head_dim_vo = dims == 2 ? 64u : 128u,
          .page_size = pick(random, {16, 32, 48, 64, 128}),
          .window_tokens =
              random.next_below(2) ? 0 : pick(random, {1, 5, 63, 64, 65, 128, 200, 512, 1024}),
          .kv = kv};
}

/// Each type with short and with long contexts, which every third seed has.
dtype kv_of(std::uint64_t seed) {
  return seed % 4 < 2 ? dtype::bf16 : dtype::e4m3;
}

/// With outputs stored as bf16.
void attend_in_bf16(const cuda::attention_plan& plan,
                    const attention_args& args,
                    std::uint32_t rows) {
  std::vector<bf16> out(std::size_t{rows} * plan.shape.q_heads * plan.shape.head_dim_vo);
  run_attention_on_host(plan, args, rows, out.data());
  std::transform(out.begin(), out.end(), args.out, [](bf16 x) { return to_float(x); });
}

/// Rows of the sequences that a call is for.
struct row_class {
  std::uint32_t least, most;
};

/// The device's programs over the bench's pages, reordered, call after call.
std::vector<float> attend_as_device(const attention_bench& bench,
                                    std::span<const chunk> chunks,
                                    const std::vector<float>& sinks,
                                    std::uint32_t keys_max,
                                    std::span<const row_class> classes,
                                    std::uint32_t multiprocessors,
                                    bool in_bf16) {
  const aligned_bytes pages(bench.pool().size());
  const kv_layer_view host = bench.view();
  const kv_layer_view device{
      pages.data(), pages.data() + (host.v - host.k), host.page_stride_bytes};
  reorder_pages(bench.shape(),
                static_cast<std::uint32_t>(bench.pool().size() / host.page_stride_bytes),
                true,
                host,
                device);
  return bench.call(chunks, sinks, [&](attention_args args, std::uint32_t rows) {
    args.kv = device;
    for (const row_class& c : classes) {
      const auto plan =
          cuda::plan_attention(bench.shape(),
                               {.sequences_max = static_cast<std::uint32_t>(chunks.size()) + 2,
                                .rows_max = rows + 3,
                                .rows_per_sequence_max = c.most,
                                .keys_max = keys_max,
                                .multiprocessors = multiprocessors,
                                .rows_per_sequence_min = c.least});
      REQUIRE(plan);
      in_bf16 ? attend_in_bf16(*plan, args, rows)
              : run_attention_on_host(*plan, args, rows, args.out);
    }
  });
}

/// By one call. `per_sequence`: the plan's limit, which decides between rows that keep their splits
/// and splits that are merged.
std::vector<float> attend_as_device(const attention_bench& bench,
                                    std::span<const chunk> chunks,
                                    const std::vector<float>& sinks,
                                    std::uint32_t keys_max,
                                    std::uint32_t per_sequence,
                                    std::uint32_t multiprocessors = 3,
                                    bool in_bf16 = false) {
  const row_class all{1, per_sequence};
  return attend_as_device(bench, chunks, sinks, keys_max, {&all, 1}, multiprocessors, in_bf16);
}

}  // namespace

TEST_CASE("the device's attention agrees with the reference within its roundings") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 48)));
  if (seed >= std::max<std::uint64_t>(6, scaled(48))) {
    return;
  }
  random_stream random(seed, 41);
  attention_shape shape = random_shape(random, kv_of(seed));
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  // Every third is long: with three splits, and for decoding or verifying.
  const bool is_long = seed % 3 == 0;
  const std::uint32_t length =
      is_long ? 1000 + random.next_below(1500) : 1 + random.next_below(200);
  const std::uint32_t rows = std::min(length, 1 + random.next_below(is_long ? 8 : 40));
  const token_stream a = random_tokens(shape, length, random);
  const token_stream b = random_tokens(shape, 1 + random.next_below(8), random);
  attention_bench bench(shape, pool_pages(shape), seed);
  const chunk whole[] = {{&a, bench.add_table(a.length), 0, a.length},
                         {&b, bench.add_table(b.length), 0, b.length}};
  bench.append(whole, serial);
  const chunk part[] = {
      {&a, 0, length - rows, rows}, {&b, 1, 0, 0}, {&b, 1, 0, b.length}, {&b, 1, b.length - 1, 1}};
  const auto expected = bench.expect(part, sinks, true);
  const double bound = error_bound(shape, a, keys_seen(shape, length)) +
                       error_bound(shape, b, keys_seen(shape, b.length));
  INFO("seed " << seed << " " << describe(shape, isa::scalar) << " length " << length << " rows "
               << rows);
  const std::uint32_t most = std::max(rows, b.length);
  for (const std::uint32_t per_sequence : {most, std::max(most, 8u), 100u}) {
    INFO("limit of rows " << per_sequence);
    const auto got = attend_as_device(bench, part, sinks, length + 5, per_sequence);
    CHECK(largest_difference(got, expected) <= bound);
  }
}

TEST_CASE(
    "on the device, a row's bits do not depend on chunks, pages, rings, splits or companions") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 12)));
  if (seed >= std::max<std::uint64_t>(3, scaled(12))) {
    return;
  }
  random_stream random(seed, 42);
  attention_shape shape = random_shape(random, kv_of(seed));
  serial_executor serial;
  const bool is_long = seed % 3 == 0;
  if (is_long) {  // Rows on both sides of a split's border.
    shape.kv_heads = 1, shape.q_heads = 16, shape.window_tokens = seed % 2 == 0 ? 0 : 512;
  }
  const std::uint32_t length = is_long ? 2048 + 3 : 2 + random.next_below(150);
  const std::uint32_t rows = std::min(length, 8u);
  const auto sinks = random_sinks(shape, random);
  const token_stream tokens = random_tokens(shape, length, random);
  const token_stream other = random_tokens(shape, 7, random);
  INFO("seed " << seed << " " << describe(shape, isa::scalar) << " length " << length);
  const auto fresh = [&](std::uint32_t page_size) {
    attention_shape s = shape;
    s.page_size = page_size;
    return attention_bench(s, pool_pages(s), seed + page_size);
  };
  attention_bench plain = fresh(16);
  const chunk all{&tokens, plain.add_table(length), 0, length};
  plain.append({&all, 1}, serial);
  const chunk last{&tokens, 0, length - rows, rows};
  const auto expected = attend_as_device(plain, {&last, 1}, sinks, length, 100);

  // The same rows one by one, what lies beyond them still poison, and their splits merged.
  attention_bench single = fresh(64);
  single.add_table(length);
  std::vector<float> one_by_one;
  const chunk before{&tokens, 0, 0, length - rows};
  single.append({&before, 1}, serial);
  for (std::uint32_t row = length - rows; row < length; ++row) {
    const chunk c{&tokens, 0, row, 1};
    single.append({&c, 1}, serial);
    const auto out = attend_as_device(single, {&c, 1}, sinks, length, 1, 132);
    one_by_one.insert(one_by_one.end(), out.begin(), out.end());
  }
  CHECK(same_bits(one_by_one, expected));

  // Verified together, in a batch with others and for a larger limit of keys.
  const chunk both[] = {{&other, plain.add_table(7), 0, 7}, last};
  plain.append({both, 1}, serial);
  for (const std::uint32_t per_sequence : {8u, 100u}) {
    const auto batch = attend_as_device(plain, both, sinks, 5000, per_sequence, 7);
    CHECK(same_bits({batch.end() - static_cast<std::ptrdiff_t>(expected.size()), batch.end()},
                    expected));
  }

  if (shape.window_tokens != 0) {
    attention_bench ring = fresh(32);
    ring.add_table(length, 24);
    for (std::uint32_t first = 0; first < length - rows; first += 24) {
      const chunk c{&tokens, 0, first, std::min(24u, length - rows - first)};
      ring.append({&c, 1}, serial);
    }
    ring.append({&last, 1}, serial);
    CHECK(same_bits(attend_as_device(ring, {&last, 1}, sinks, length, 8), expected));
  }
}

TEST_CASE("decoding sequences and prompts of a step may be two calls, with the bits of one") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 8)));
  if (seed >= std::max<std::uint64_t>(4, scaled(8))) {
    return;
  }
  random_stream random(seed, 47);
  const bool is_generic = seed % 4 == 3;
  const attention_shape shape{.q_heads = 8,
                              .kv_heads = 1,
                              .head_dim_qk = is_generic ? 24u : 64u,
                              .head_dim_vo = is_generic ? 24u : 64u,
                              .page_size = 64,
                              .window_tokens = 0,
                              .kv = dtype::bf16};
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const std::uint32_t length = 2'048 + random.next_below(100), few = 1 + random.next_below(4);
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, pool_pages(shape), seed);
  const chunk all{&a, bench.add_table(length), 0, length};
  bench.append({&all, 1}, serial);
  // Any order, empty ones between; each kind is there, at a long context and at a short one.
  std::vector<chunk> step;
  for (int i = 0; i < 6; ++i) {
    const std::uint32_t rows = i % 3 == 0   ? few + 1 + random.next_below(12)
                               : i % 3 == 1 ? 1 + random.next_below(few)
                                            : random.next_below(2) * (few + 1);
    const std::uint32_t end = i < 3 ? length : rows + random.next_below(1'100);
    step.push_back({&a, 0, end - rows, rows});
    std::swap(step.back(), step[random.next_below(static_cast<std::uint32_t>(step.size()))]);
  }
  INFO("seed " << seed << ", few rows are up to " << few);
  const auto expected = attend_as_device(bench, step, sinks, length, 100);
  const row_class both[] = {{1, few}, {few + 1, 100}};
  CHECK(same_bits(attend_as_device(bench, step, sinks, length, both, 5, false), expected));
  // One of them leaves the other's rows as they were.
  const auto alone = attend_as_device(bench, step, sinks, length, {both, 1}, 5, false);
  const auto untouched = bench.call(step, sinks, [](const attention_args&, std::uint32_t) {});
  const std::size_t width = std::size_t{shape.q_heads} * shape.head_dim_vo;
  std::size_t at = 0;
  for (const chunk& c : step) {
    const std::vector<float>& from = c.rows <= few ? expected : untouched;
    const std::size_t count = c.rows * width;
    CHECK(std::memcmp(alone.data() + at, from.data() + at, count * sizeof(float)) == 0);
    at += count;
  }
}

TEST_CASE("on the device, keys before the first of a sequence are as if it began there") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 8)));
  random_stream random(seed, 43);
  attention_shape shape = random_shape(random, kv_of(seed));
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const std::uint32_t length = 2 + random.next_below(seed == 0 ? 1200 : 150);
  const std::uint32_t begin = 1 + random.next_below(length - 1);
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, pool_pages(shape), seed);
  const std::uint32_t table = bench.add_table(length);
  const std::uint32_t rows = std::min(length - begin, 20u);
  const chunk written{&a, table, begin, length - begin};  // What is before it is poison.
  const chunk part{&a, table, length - rows, rows, begin};
  bench.append({&written, 1}, serial);
  INFO("seed " << seed << " " << describe(shape, isa::scalar) << " " << begin << " to " << length);
  const auto expected = bench.expect({&part, 1}, sinks, true);
  const double bound = error_bound(shape, a, keys_seen(shape, length));
  CHECK(largest_difference(attend_as_device(bench, {&part, 1}, sinks, length, rows), expected) <=
        bound);
}

TEST_CASE("the device's generic attention agrees with the reference for any shape") {
  const dtype kv = GENERATE(dtype::f32, dtype::bf16, dtype::e4m3);
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 16)));
  if (seed >= std::max<std::uint64_t>(4, scaled(16))) {
    return;
  }
  random_stream random(seed, 44);
  const std::uint32_t kv_heads = 1 + random.next_below(3), group = 1 + random.next_below(16);
  const attention_shape shape{.q_heads = kv_heads * group,
                              .kv_heads = kv_heads,
                              .head_dim_qk = 1 + random.next_below(256),
                              .head_dim_vo = 1 + random.next_below(256),
                              .page_size = pick(random, {16, 48, 64}),
                              .window_tokens = random.next_below(2) ? 0 : 1 + random.next_below(90),
                              .kv = kv};
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const std::uint32_t length = 1 + random.next_below(120), rows = std::min(length, 4u);
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, pool_pages(shape), seed);
  const chunk all{&a, bench.add_table(length), 0, length}, none{&a, 0, 0, 0};
  bench.append({&all, 1}, serial);
  const chunk part[] = {none, {&a, 0, length - rows, rows}};
  INFO("seed " << seed << " " << describe(shape, isa::scalar) << " length " << length);
  const auto expected = bench.expect(part, sinks, kv != dtype::f32);
  const auto got = attend_as_device(bench, part, sinks, length, 4);
  CHECK(largest_difference(got, expected) <= error_bound(shape, a, keys_seen(shape, length)));
  const chunk last{&a, 0, length - 1, 1};  // Alone, the same bits.
  const auto alone = attend_as_device(bench, {&last, 1}, sinks, length, 1);
  CHECK(same_bits(alone, {got.end() - static_cast<std::ptrdiff_t>(alone.size()), got.end()}));
}

TEST_CASE("on the device, scores of minus infinity weigh nothing, in a whole split, too") {
  const bool is_generic = GENERATE(false, true);
  attention_shape shape{.q_heads = 2,
                        .kv_heads = 1,
                        .head_dim_qk = is_generic ? 80u : 64u,
                        .head_dim_vo = 64,
                        .page_size = 64,
                        .window_tokens = 0,
                        .kv = dtype::bf16};
  random_stream random(1, 45);
  serial_executor serial;
  constexpr std::uint32_t length = 1100;
  token_stream a = random_tokens(shape, length, random);
  std::fill(a.q.begin(), a.q.end(), 1.0f);
  std::fill_n(a.k.begin(), std::size_t{1040} * shape.head_dim_qk, -3e38f);
  attention_bench bench(shape, pool_pages(shape), 1);
  const chunk all{&a, bench.add_table(length), 0, length}, last{&a, 0, length - 1, 1};
  bench.append({&all, 1}, serial);
  const auto expected = bench.expect({&last, 1}, {}, true);
  for (const std::uint32_t per_sequence : {1u, 100u}) {
    const auto got = attend_as_device(bench, {&last, 1}, {}, length, per_sequence);
    CHECK(largest_difference(got, expected) <= 0x1p-8 * largest_magnitude(a.v));
  }
}

TEST_CASE("outputs in bf16 are the device's, rounded") {
  // One for each unit, and KV in f32, whose queries are, too.
  const auto [dims, kv] = GENERATE(
      table<std::uint32_t, dtype>({{64u, dtype::bf16}, {65u, dtype::bf16}, {65u, dtype::f32}}));
  const attention_shape shape{.q_heads = 6,
                              .kv_heads = 2,
                              .head_dim_qk = dims,
                              .head_dim_vo = dims,
                              .page_size = 16,
                              .window_tokens = 0,
                              .kv = kv};
  random_stream random(dims, 46);
  serial_executor serial;
  const std::uint32_t length = 1030;  // A row with one split and one whose two are merged.
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, pool_pages(shape), 1);
  const chunk all{&a, bench.add_table(length), 0, length};
  bench.append({&all, 1}, serial);
  const chunk part[] = {{&a, 0, length - 2, 2}, {&a, 0, 20, 1}};
  const auto sinks = random_floats(random, shape.q_heads);
  auto expected = attend_as_device(bench, part, sinks, length, 2);
  std::transform(expected.begin(), expected.end(), expected.begin(), round_to_bf16);
  CHECK(same_bits(attend_as_device(bench, part, sinks, length, 2, 3, true), expected));
}

TEST_CASE("queries that are not as the plan says are refused") {
  attention_shape shape{.q_heads = 6,
                        .kv_heads = 2,
                        .head_dim_qk = 64,
                        .head_dim_vo = 64,
                        .page_size = 16,
                        .window_tokens = 0,
                        .kv = dtype::bf16};
  const std::vector<bf16> q(64);
  const auto is_refused = [&]<class T>(const T* queries, std::size_t stride) {
    const auto plan = cuda::plan_attention(
        shape, {.sequences_max = 1, .rows_max = 1, .rows_per_sequence_max = 1, .keys_max = 16});
    basic_attention_args<T, float> args{};
    args.q = queries;
    args.q_stride = stride;
    return aborts([&] { static_cast<void>(detail::make_attention_call(*plan, args, nullptr)); });
  };
  const float* const none = nullptr;
  CHECK_FALSE(is_refused(q.data(), 384));
  CHECK(is_refused(q.data() + 1, 384));
  CHECK(is_refused(q.data(), 385));
  CHECK(is_refused(none, 384));
  shape.head_dim_vo = 80;  // The generic unit takes any alignment.
  CHECK_FALSE(is_refused(q.data() + 1, 385));
  CHECK(is_refused(none, 384));
  shape.kv = dtype::f32;
  CHECK_FALSE(is_refused(none, 384));
  CHECK(is_refused(q.data(), 384));
}

}  // namespace attention_agent_test
