// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The maps of mma_fragment.cuh and the page layout, against a model of wgmma from the tables of the
// PTX ISA.
#include <oriel/core/random.hpp>

#include <device/attention_machine.hpp>
#include <kernels/attention_case.hpp>

namespace attention_fragment_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr std::uint32_t base = 4096;  // Of operands in a model of shared memory.

void store(std::byte* to, float x) {
  const bf16 rounded = to_bf16(x);
  std::memcpy(to, &rounded, sizeof rounded);
}

std::vector<float> random_bf16(random_stream& random, std::size_t n) {
  std::vector<float> x = random_floats(random, n);
  std::transform(x.begin(), x.end(), x.begin(), round_to_bf16);
  return x;
}

/// a [64, depth] times b [n, depth] transposed, k ascending.
std::vector<float> plain_product(const std::vector<float>& a,
                                 const std::vector<float>& b,
                                 std::uint32_t n,
                                 std::uint32_t depth) {
  std::vector<float> c(64 * n);
  for (std::uint32_t row = 0; row < 64; ++row) {
    for (std::uint32_t column = 0; column < n; ++column) {
      for (std::uint32_t k = 0; k < depth; ++k) {
        c[row * n + column] += a[row * depth + k] * b[column * depth + k];
      }
    }
  }
  return c;
}

/// The machine that multiply_scores and multiply_values ask for, over given shared memory.
struct multiplier {
  std::vector<std::byte>& shared;
  std::vector<float> score = std::vector<float>(128 * 32), out = {};
  std::uint32_t n = 0;  // columns of out
  std::vector<std::uint32_t> weight = {};

  void begin_scores() {}
  void begin_values() {}
  void commit_multiply() {}
  void add_scores(std::uint64_t a, std::uint64_t b, bool accumulate) {
    wgmma::multiply(wgmma::operand(shared.data(), a, 64),
                    wgmma::operand(shared.data(), b, 64),
                    64,
                    accumulate,
                    [&](std::uint32_t t, std::uint32_t r) -> float& { return score[t * 32 + r]; });
  }
  void add_values(std::uint32_t step, std::uint64_t b) {
    wgmma::multiply(
        wgmma::operand_in_registers(
            [&](std::uint32_t t, std::uint32_t j) { return weight[t * 16 + step * 4 + j]; }),
        wgmma::operand(shared.data(), b, n),
        n,
        true,
        [&](std::uint32_t t, std::uint32_t r) -> float& { return out[t * (n / 2) + r]; });
  }
};

template <std::uint32_t Qk>
void check_scores() {
  random_stream random(Qk, 51);
  const auto q = random_bf16(random, 64 * Qk), k = random_bf16(random, 64 * Qk);
  std::vector<std::byte> shared(base + 2 * 64 * Qk * 2);
  for (std::uint32_t row = 0; row < 64; ++row) {
    for (std::uint32_t d = 0; d < Qk; ++d) {
      store(shared.data() + base + detail::core_offset_bytes(Qk, row, d), q[row * Qk + d]);
      const std::size_t tile = std::size_t{row / kv_tile_tokens} * kv_tile_tokens * Qk;
      const std::size_t index =
          tile + device_index_in_k_tile(dtype::bf16, Qk, row % kv_tile_tokens, d);
      store(shared.data() + base + 64 * Qk * 2 + index * 2, k[row * Qk + d]);
    }
  }
  multiplier m{shared};
  detail::multiply_scores<detail::attention_dims<Qk, 64>>(base, base + 64 * Qk * 2, m);
  const auto expected = plain_product(q, k, 64, Qk);
  for (std::uint32_t thread = 0; thread < 128; ++thread) {
    for (std::uint32_t r = 0; r < 32; ++r) {
      const std::uint32_t row = detail::fragment_row(thread, detail::fragment_half(r));
      const std::uint32_t column = detail::fragment_column(thread, r);
      REQUIRE(m.score[thread * 32 + r] == expected[row * 64 + column]);
    }
  }
}

/// Queries of five tokens and twelve heads become an operand of one warpgroup or of two: 60 rows, and
/// 4 that do not exist; of the second three tokens.
template <std::uint32_t Qk>
void check_queries(std::uint32_t warpgroups) {
  using dims = detail::attention_dims<Qk, 64>;
  random_stream random(Qk, 54);
  constexpr std::uint32_t heads = 24, group = 12, tokens_per_tile = 5;
  const std::uint32_t tokens = warpgroups == 1 ? 5 : 8;
  const std::size_t stride = heads * Qk + 8;
  std::vector<bf16> q((tokens + 2) * stride);
  std::ranges::transform(random_bf16(random, q.size()), q.begin(), to_bf16);
  detail::attention_call call{};
  call.group = group;
  call.tokens_per_tile = tokens_per_tile;
  call.warpgroups = warpgroups;
  call.args.q_stride = stride;
  call.q_bf16 = q.data();
  detail::attention_work work{};
  work.kv_head = 1;
  work.batch_row = 2;
  work.tokens = tokens;
  std::vector<std::byte> shared(warpgroups * dims::query_bytes, std::byte{0xFF});
  for (std::uint32_t thread = detail::loader_threads; thread-- > 0;) {
    detail::copy_queries<dims>(
        call,
        work,
        thread,
        [&](std::uint32_t to, const bf16* from, std::uint32_t units, std::uint32_t bytes) {
          std::memset(shared.data() + to, 0, 16);
          std::memcpy(shared.data() + to, from + units * 8, bytes);
        });
  }
  for (std::uint32_t row = 0; row < warpgroups * 64; ++row) {
    const std::uint32_t of_tile = row % 64 / group, token = row / 64 * tokens_per_tile + of_tile;
    const bool exists = of_tile < tokens_per_tile && token < tokens;
    for (std::uint32_t d = 0; d < Qk; ++d) {
      const std::size_t at = (2 + token) * stride + (group + row % 64 % group) * Qk + d;
      REQUIRE(wgmma::bf16_at(shared.data() + row / 64 * dims::query_bytes +
                             detail::core_offset_bytes(Qk, row % 64, d)) ==
              (exists ? to_float(q[at]) : 0.0f));
    }
  }
}

template <std::uint32_t Vo>
void check_values() {
  random_stream random(Vo, 52);
  const auto weights = random_bf16(random, 64 * 64), v = random_bf16(random, Vo * 64);
  std::vector<std::byte> shared(base + 64 * Vo * 2);
  for (std::uint32_t d = 0; d < Vo; ++d) {
    for (std::uint32_t key = 0; key < 64; ++key) {
      const std::size_t tile = std::size_t{key / kv_tile_tokens} * kv_tile_tokens * Vo;
      const std::size_t index =
          tile + device_index_in_v_tile(dtype::bf16, Vo, key % kv_tile_tokens, d);
      store(shared.data() + base + index * 2, v[d * 64 + key]);
    }
  }
  multiplier m{shared};
  m.n = Vo;
  m.out.resize(128 * Vo / 2);
  m.weight.resize(128 * 16);
  for (std::uint32_t thread = 0; thread < 128; ++thread) {  // As pack_weights() does.
    for (std::uint32_t r = 0; r < 32; r += 2) {
      const std::size_t at = detail::fragment_row(thread, detail::fragment_half(r)) * 64 +
                             detail::fragment_column(thread, r);
      m.weight[thread * 16 + r / 2] = detail::nearest_bf16_pair(weights[at], weights[at + 1]);
    }
    for (std::uint32_t step = 0; step < 4; ++step) {
      for (std::uint32_t j = 0; j < 4; ++j) {
        REQUIRE(detail::packed_register(step, j) == 2 * (step * 4 + j));
      }
    }
  }
  detail::multiply_values<detail::attention_dims<64, Vo>>(base, m);
  const auto expected = plain_product(weights, v, Vo, 64);
  for (std::uint32_t thread = 0; thread < 128; ++thread) {
    for (std::uint32_t r = 0; r < Vo / 2; ++r) {
      const std::uint32_t row = detail::fragment_row(thread, detail::fragment_half(r));
      const std::uint32_t column = detail::fragment_column(thread, r);
      REQUIRE(m.out[thread * (Vo / 2) + r] == expected[row * Vo + column]);
    }
  }
}

/// Of tile 1, keys [first, end) of its 64 are there.
template <std::uint32_t Qk, std::uint32_t Vo>
void check_conversion(std::uint32_t first, std::uint32_t end) {
  using dims = detail::attention_dims<Qk, Vo, dtype::e4m3>;
  random_stream random(9, 53);
  std::vector<std::byte> raw(dims::raw_bytes), stage(dims::stage_bytes, std::byte{0xFF});
  // Every code at least once, but for the NaNs, which no page has: their head's scale is one.
  std::vector<e4m3> k(64 * Qk), v(64 * Vo);
  std::uint32_t code = 0;
  for (std::vector<e4m3>* x : {&k, &v}) {
    for (e4m3& y : *x) {
      y = static_cast<e4m3>(code++ & 0xFFu);
      y = std::isnan(to_float(y)) ? e4m3{} : y;
    }
  }
  std::vector<float> scales(128);
  const attention_shape shape{.q_heads = 1,
                              .kv_heads = 1,
                              .head_dim_qk = Qk,
                              .head_dim_vo = Vo,
                              .page_size = 64,
                              .window_tokens = 0,
                              .kv = dtype::e4m3};
  const std::uint32_t page = 0;
  const paged_sequence sequence{&page, 0, 0, 64};
  const kv_layer_view view{raw.data(), raw.data() + dims::raw_k_bytes, 0};
  for (std::uint32_t key = 0; key < 64; ++key) {
    for (std::uint32_t d = 0; d < Qk; ++d) {
      *reference::k_element(shape, view, sequence, key, 0, d) =
          static_cast<std::byte>(k[key * Qk + d]);
    }
    for (std::uint32_t d = 0; d < Vo; ++d) {
      *reference::v_element(shape, view, sequence, key, 0, d) =
          static_cast<std::byte>(v[key * Vo + d]);
    }
    for (const bool is_v : {false, true}) {
      float& scale = scales[key + (is_v ? 64 : 0)] = random.next_uniform(0.1f, 2.0f);
      std::memcpy(is_v ? reference::v_scale(shape, view, sequence, key, 0)
                       : reference::k_scale(shape, view, sequence, key, 0),
                  &scale,
                  sizeof scale);
    }
  }
  detail::attention_work work{};
  work.sequence = &sequence;
  work.key_begin = 64 + first;
  work.key_end = 64 + end;
  for (std::uint32_t thread = 0; thread < detail::converter_threads; ++thread) {
    detail::convert_tile<dims>(work, 1, thread, raw.data(), stage.data());
  }
  const auto number = [&](std::size_t at) {
    bf16 x;
    std::memcpy(&x, stage.data() + at, sizeof x);
    return to_float(x);
  };
  for (std::uint32_t key = 0; key < 64; ++key) {
    const bool is_there = key >= first && key < end;
    const std::size_t tile = key / kv_tile_tokens * std::size_t{kv_tile_tokens};
    for (std::uint32_t d = 0; d < Qk; ++d) {
      const std::size_t at =
          tile * Qk + device_index_in_k_tile(dtype::bf16, Qk, key % kv_tile_tokens, d);
      REQUIRE(number(at * 2) == to_float(k[key * Qk + d]));
    }
    for (std::uint32_t d = 0; d < Vo; ++d) {
      const std::size_t at =
          tile * Vo + device_index_in_v_tile(dtype::bf16, Vo, key % kv_tile_tokens, d);
      REQUIRE(number(dims::k_bytes + at * 2) == (is_there ? to_float(v[key * Vo + d]) : 0.0f));
    }
    float k_scale, v_scale;
    const std::byte* const at = stage.data() + dims::k_bytes + dims::v_bytes;
    std::memcpy(&k_scale, at + key * sizeof(float), sizeof k_scale);
    std::memcpy(&v_scale, at + (64 + key) * sizeof(float), sizeof v_scale);
    REQUIRE(k_scale == (is_there ? scales[key] : 0.0f));
    REQUIRE(v_scale == (is_there ? scales[64 + key] : 0.0f));
  }
}

}  // namespace

TEST_CASE("queries and a copied K tile multiply to scores where the maps say") {
  check_scores<192>();
  check_scores<128>();
  check_scores<64>();
}

TEST_CASE("queries become an operand, rows that do not exist zeros") {
  const std::uint32_t warpgroups = GENERATE(1u, 2u);
  check_queries<192>(warpgroups);
  check_queries<128>(warpgroups);
  check_queries<64>(warpgroups);
}

TEST_CASE("packed weights and a copied V tile multiply to outputs where the maps say") {
  check_values<128>();
  check_values<64>();
}

TEST_CASE("each element of an accumulator has one holder") {
  std::vector<int> holders(64 * 128);
  for (std::uint32_t thread = 0; thread < 128; ++thread) {
    for (std::uint32_t r = 0; r < 64; ++r) {
      ++holders.at(detail::fragment_row(thread, detail::fragment_half(r)) * 128 +
                   detail::fragment_column(thread, r));
    }
  }
  CHECK(std::count(holders.begin(), holders.end(), 1) == 64 * 128);
}

TEST_CASE("a tile of e4m3 becomes the same numbers of bf16, where the operands have them") {
  const auto [first, end] = GENERATE(table<std::uint32_t, std::uint32_t>(
      {{0, 64}, {5, 64}, {0, 53}, {5, 53}, {16, 48}, {63, 64}, {0, 1}, {26, 27}}));
  INFO("keys " << first << " to " << end);
  check_conversion<192, 128>(first, end);
  check_conversion<128, 128>(first, end);
  check_conversion<64, 64>(first, end);
}

}  // namespace attention_fragment_test
