// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The maps of mma_fragment.cuh and the page layout, against a model of wgmma from the tables of the
// PTX ISA.
#include <oriel/core/random.hpp>

#include <device/attention_machine.hpp>
#include <kernels/attention_case.hpp>

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

  void begin_multiply() {}
  void end_multiply() {}
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
  for (std::uint32_t thread = 0; thread < 128; ++thread) {  // As weigh() packs scores.
    for (std::uint32_t r = 0; r < 32; r += 2) {
      const std::size_t at = detail::fragment_row(thread, detail::fragment_half(r)) * 64 +
                             detail::fragment_column(thread, r);
      m.weight[thread * 16 + r / 2] = detail::two_bf16(weights[at], weights[at + 1]);
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

}  // namespace

TEST_CASE("queries and a copied K tile multiply to scores where the maps say") {
  check_scores<192>();
  check_scores<128>();
  check_scores<64>();
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
