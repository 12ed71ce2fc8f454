// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/thread_pool.hpp>
#include <oriel/kernels/attention.hpp>

#include <kernels/attention_bounds.hpp>
#include <kernels/attention_case.hpp>
#include <support/death.hpp>
#include <support/scale.hpp>

#include <algorithm>
#include <cmath>

namespace attention_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

attention_shape random_shape(random_stream& random, dtype kv) {
  const auto pick = [&](std::initializer_list<std::uint32_t> x) {
    return x.begin()[random.next_below(static_cast<std::uint32_t>(x.size()))];
  };
  const std::uint32_t kv_heads = 1 + random.next_below(3), group = 1 + random.next_below(16);
  const auto dim = [&] {
    return random.next_below(2) ? pick({16, 32, 64, 80, 128, 192, 256})
                                : 1 + random.next_below(256);
  };
  return {.q_heads = kv_heads * group,
          .kv_heads = kv_heads,
          .head_dim_qk = dim(),
          .head_dim_vo = dim(),
          .page_size = pick({16, 32, 48, 64, 128}),
          .window_tokens = random.next_below(2) ? 0 : 1 + random.next_below(300),
          .kv = kv};
}

/// Runs `tokens` through `bench` in chunks of the given sizes (the last one repeats).
std::vector<float> run_in_chunks(attention_bench& bench,
                                 const token_stream& tokens,
                                 std::uint32_t table,
                                 const std::vector<std::uint32_t>& sizes,
                                 isa path,
                                 executor_ref executor,
                                 const std::vector<float>& sinks) {
  std::vector<float> all;
  std::size_t i = 0;
  for (std::uint32_t first = 0; first < tokens.length;) {
    const std::uint32_t rows =
        std::min(sizes[std::min(i++, sizes.size() - 1)], tokens.length - first);
    const chunk c{&tokens, table, first, rows};
    const std::vector<float> out = bench.step({&c, 1}, path, executor, sinks);
    all.insert(all.end(), out.begin(), out.end());
    first += rows;
  }
  return all;
}

constexpr std::uint32_t pool_pages = 120;

}  // namespace

TEST_CASE("attention agrees with the reference within its roundings") {
  const dtype kv = GENERATE(dtype::f32, dtype::bf16);
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 30)));
  if (is_left_out(seed, 30)) {
    return;
  }
  random_stream random(seed, 1);
  const attention_shape shape = random_shape(random, kv);
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const std::uint32_t length =
      random.next_below(3) ? 1 + random.next_below(90) : 500 + random.next_below(700);
  const std::uint32_t rows = std::min(length, 1 + random.next_below(length < 100 ? 90 : 9));
  const token_stream a = random_tokens(shape, length, random);
  const token_stream b = random_tokens(shape, 1 + random.next_below(20), random);

  attention_bench bench(shape, pool_pages, seed);
  const chunk whole[] = {{&a, bench.add_table(a.length), 0, a.length},
                         {&b, bench.add_table(b.length), 0, b.length}};
  bench.append(whole, serial);
  const chunk part[] = {{&a, 0, length - rows, rows}, {&b, 1, 0, 0}, {&b, 1, 0, b.length}};
  const auto expected = bench.expect(part, sinks, kv == dtype::bf16);
  const double bound = error_bound(shape, a, keys_seen(shape, length)) +
                       error_bound(shape, b, keys_seen(shape, b.length));
  for (const isa path : paths_here()) {
    INFO("seed " << seed << " " << describe(shape, path) << " length " << length);
    CHECK(largest_difference(bench.attend(part, path, serial, sinks), expected) <= bound);
  }
}

TEST_CASE("a row's bits do not depend on chunks, pages, rings, companions or threads") {
  const dtype kv = GENERATE(dtype::f32, dtype::bf16);
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 12)));
  if (is_left_out(seed, 12)) {
    return;
  }
  random_stream random(seed, 2);
  attention_shape shape = random_shape(random, kv);
  serial_executor serial;
  thread_pool two(2), three(3);
  backward_executor backward;
  const std::uint32_t length =
      seed % 3 == 0 ? 530 + random.next_below(100) : 2 + random.next_below(90);
  if (length > 500) {  // Few heads are enough to cross a split.
    shape.kv_heads = 1, shape.q_heads = 1 + random.next_below(3);
  }
  const auto sinks = random_sinks(shape, random);
  const token_stream tokens = random_tokens(shape, length, random);
  const token_stream other = random_tokens(shape, 40, random);

  for (const isa path : paths_here()) {
    INFO("seed " << seed << " " << describe(shape, path) << " length " << length);
    const auto fresh = [&](std::uint32_t page_size) {
      attention_shape s = shape;
      s.page_size = page_size;
      return attention_bench(s, pool_pages, seed + page_size);
    };
    attention_bench plain = fresh(16);
    plain.add_table(length);
    const auto expected = run_in_chunks(plain, tokens, 0, {length}, path, serial, sinks);

    // One token at a time: whatever lies beyond a row's position is poison still.
    attention_bench single = fresh(64);
    single.add_table(length);
    CHECK(same_bits(run_in_chunks(single, tokens, 0, {1}, path, serial, sinks), expected));

    attention_bench chunked = fresh(32);
    chunked.add_table(length);
    const std::vector<std::uint32_t> sizes = {
        1 + random.next_below(20), 1 + random.next_below(9), 1 + random.next_below(64), 7};
    CHECK(same_bits(run_in_chunks(chunked, tokens, 0, sizes, path, two, sinks), expected));

    if (shape.window_tokens != 0) {
      attention_bench ring = fresh(16);
      ring.add_table(length, 24);
      CHECK(
          same_bits(run_in_chunks(ring, tokens, 0, {24, 5, 1, 11}, path, three, sinks), expected));
    }

    const chunk both[] = {{&other, plain.add_table(40), 0, 40}, {&tokens, 0, 0, length}};
    plain.append(both, serial);
    for (executor_ref executor : {executor_ref(two), executor_ref(backward)}) {
      const auto batch = plain.attend(both, path, executor, sinks);
      CHECK(same_bits({batch.end() - static_cast<std::ptrdiff_t>(expected.size()), batch.end()},
                      expected));
    }
  }
}

TEST_CASE("keys before the first of a sequence are as if it began there") {
  const dtype kv = GENERATE(dtype::f32, dtype::bf16);
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 20)));
  if (is_left_out(seed, 20)) {
    return;
  }
  random_stream random(seed, 6);
  const attention_shape shape = random_shape(random, kv);
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const std::uint32_t length = 2 + random.next_below(random.next_below(2) ? 90 : 900);
  const std::uint32_t begin = 1 + random.next_below(length - 1);
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, pool_pages, seed);
  const std::uint32_t table = bench.add_table(length);
  const std::uint32_t rows = std::min(length - begin, 80u);
  const chunk written{&a, table, begin, length - begin};  // What is before it is poison.
  const chunk part{&a, table, length - rows, rows, begin};
  bench.append({&written, 1}, serial);
  const auto expected = bench.expect({&part, 1}, sinks, kv == dtype::bf16);
  const double bound = error_bound(shape, a, keys_seen(shape, length));
  for (const isa path : paths_here()) {
    INFO("seed " << seed << " " << describe(shape, path) << " length " << length << " from "
                 << begin);
    const auto got = bench.attend({&part, 1}, path, serial, sinks);
    CHECK(largest_difference(got, expected) <= bound);
    const chunk last{&a, table, length - 1, 1, begin};
    const auto alone = bench.attend({&last, 1}, path, serial, sinks);
    CHECK(same_bits(alone, {got.end() - static_cast<std::ptrdiff_t>(alone.size()), got.end()}));
  }
}

TEST_CASE("keys that a row does not see may hold anything") {
  const dtype kv = GENERATE(dtype::f32, dtype::bf16);
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 12)));
  if (is_left_out(seed, 12)) {
    return;
  }
  random_stream random(seed, 3);
  attention_shape shape = random_shape(random, kv);
  serial_executor serial;
  const std::uint32_t length = 8 + random.next_below(100);
  token_stream tokens = random_tokens(shape, length, random);
  if (seed % 2 == 1) {  // Rows before the bad key and rows whose window has left it behind.
    shape.window_tokens = 1 + random.next_below(length / 2);
  }
  // Even and odd keys: both halves of a bf16 pair.
  const std::uint32_t bad =
      random.next_below(length / 4) * 2 + static_cast<std::uint32_t>(seed / 2 % 2);
  const std::uint32_t window = shape.window_tokens == 0 ? length : shape.window_tokens;
  const std::size_t row_floats = std::size_t{shape.q_heads} * shape.head_dim_vo;

  for (const isa path : paths_here()) {
    INFO("seed " << seed << " " << describe(shape, path) << " length " << length << " bad " << bad);
    attention_bench bench(shape, pool_pages, seed);
    const chunk all{&tokens, bench.add_table(length), 0, length};
    const auto clean = bench.step({&all, 1}, path, serial, {});
    token_stream broken = tokens;
    const std::size_t k_row = std::size_t{shape.kv_heads} * shape.head_dim_qk;
    const std::size_t v_row = std::size_t{shape.kv_heads} * shape.head_dim_vo;
    std::fill_n(broken.k.begin() + static_cast<std::ptrdiff_t>(bad * k_row), k_row, NAN);
    std::fill_n(broken.v.begin() + static_cast<std::ptrdiff_t>(bad * v_row), v_row, INFINITY);
    const chunk all_broken{&broken, 0, 0, length};
    const auto dirty = bench.step({&all_broken, 1}, path, serial, {});
    for (std::uint32_t row = 0; row < length; ++row) {
      const bool sees = row >= bad && row - bad < window;
      const float* got = dirty.data() + row * row_floats;
      INFO("row " << row);
      if (sees) {
        REQUIRE(std::isnan(got[0]));
      } else {
        REQUIRE(std::memcmp(got, clean.data() + row * row_floats, row_floats * 4) == 0);
      }
    }
  }
}

/// What a framework does in bf16: every intermediate tensor is rounded to bf16, sums are f32.
static std::vector<float> framework_bf16(const attention_shape& s, const token_stream& t) {
  std::vector<float> out(std::size_t{t.length} * s.q_heads * s.head_dim_vo);
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim_qk));
  for (std::uint32_t row = 0; row < t.length; ++row) {
    for (std::uint32_t h = 0; h < s.q_heads; ++h) {
      const std::uint32_t kv_head = h / (s.q_heads / s.kv_heads);
      const float* q = t.q.data() + (std::size_t{row} * s.q_heads + h) * s.head_dim_qk;
      std::vector<float> p(row + 1);
      float max = -INFINITY, sum = 0.0f;
      for (std::uint32_t key = 0; key <= row; ++key) {
        const float* k = t.k.data() + (std::size_t{key} * s.kv_heads + kv_head) * s.head_dim_qk;
        float dot = 0.0f;
        for (std::uint32_t d = 0; d < s.head_dim_qk; ++d) {
          dot += round_to_bf16(q[d]) * round_to_bf16(k[d]);
        }
        p[key] = round_to_bf16(round_to_bf16(dot) * scale);
        max = std::max(max, p[key]);
      }
      for (float& x : p) {
        x = std::exp(x - max);
        sum += x;
      }
      for (std::uint32_t d = 0; d < s.head_dim_vo; ++d) {
        float o = 0.0f;
        for (std::uint32_t key = 0; key <= row; ++key) {
          const std::size_t v = (std::size_t{key} * s.kv_heads + kv_head) * s.head_dim_vo + d;
          o += round_to_bf16(p[key] / sum) * round_to_bf16(t.v[v]);
        }
        out[(std::size_t{row} * s.q_heads + h) * s.head_dim_vo + d] = round_to_bf16(o);
      }
    }
  }
  return out;
}

TEST_CASE("bf16 attention errs no more than twice as much as a framework's") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 4)));
  random_stream random(seed, 4);
  const attention_shape shape{8, 1, 192, 128, 16, 0, dtype::bf16};
  const token_stream tokens = random_tokens(shape, 64, random);
  attention_bench bench(shape, pool_pages, seed);
  attention_shape exact_shape = shape;
  exact_shape.kv = dtype::f32;
  attention_bench exact(exact_shape, pool_pages, seed);
  serial_executor serial;
  const chunk all{&tokens, bench.add_table(64), 0, 64};
  exact.add_table(64);
  exact.append({&all, 1}, serial);
  bench.append({&all, 1}, serial);
  const auto expected = exact.expect({&all, 1}, {});  // From unrounded q, k and v.
  const auto theirs = framework_bf16(shape, tokens);
  for (const isa path : paths_here()) {
    INFO(describe(shape, path));
    const auto ours = bench.attend({&all, 1}, path, serial, {});
    CHECK(largest_difference(ours, expected) <= 2 * largest_difference(theirs, expected));
  }
}

TEST_CASE("a sink takes its share of the softmax and gives no value") {
  const attention_shape shape{2, 1, 16, 16, 16, 4, dtype::f32};
  random_stream random(5);
  token_stream tokens = random_tokens(shape, 1, random);
  std::fill(tokens.k.begin(), tokens.k.end(), 0.0f);  // Score 0: weight e^0 against e^sink.
  std::fill(tokens.v.begin(), tokens.v.end(), 1.0f);
  attention_bench bench(shape, 1, 5);
  serial_executor serial;
  const chunk all{&tokens, bench.add_table(1), 0, 1};
  for (const isa path : paths_here()) {
    const auto out = bench.step({&all, 1}, path, serial, {0.0f, std::log(3.0f)});
    CHECK(out[0] == Approx(0.5f).epsilon(1e-6));
    CHECK(out[16] == Approx(0.25f).epsilon(1e-6));
  }
}

TEST_CASE("shapes outside the documented ranges are refused, empty batches are not") {
  const attention_shape good{16, 1, 192, 128, 16, 0, dtype::bf16};
  const auto code = [](attention_shape s) {
    const auto plan = host::plan_attention(s, 1, 1);
    return plan ? errc{} : plan.error().code;
  };
  for (const auto& bad : {attention_shape{17, 1, 64, 64, 16, 0, dtype::f32},
                          attention_shape{3, 2, 64, 64, 16, 0, dtype::f32},
                          attention_shape{4, 0, 64, 64, 16, 0, dtype::f32},
                          attention_shape{4, 1, 0, 64, 16, 0, dtype::f32},
                          attention_shape{4, 1, 64, 257, 16, 0, dtype::f32},
                          attention_shape{4, 1, 64, 64, 24, 0, dtype::f32},
                          attention_shape{4, 1, 64, 64, 0, 0, dtype::f32},
                          attention_shape{4, 1, 64, 64, 16, 0, dtype::e4m3}}) {
    CHECK(code(bad) == errc::unsupported_shape);
  }
  const auto plan = host::plan_attention(good, 0, 2);
  REQUIRE(plan);
  const aligned_bytes workspace(plan->workspace_bytes);
  serial_executor serial;
  attention_args args{};
  args.scale = 1.0f;
  args.q_stride = std::size_t{good.q_heads} * good.head_dim_qk;
  host::run_attention(*plan, args, workspace.span(), serial);
  const paged_sequence one{nullptr, 0, 0, 1};
  args.sequences = {&one, 1};
  CHECK(aborts([&] { host::run_attention(*plan, args, workspace.span(), serial); }));
}

}  // namespace attention_test
