// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The path that runs anywhere: multiply, round, add, round.
#include <host/detail/gemm_tile.hpp>

#include <bit>

namespace oriel::host::detail {
namespace {

struct scalar_base {
  struct vec {
    float lane[4];
  };
  static constexpr std::uint32_t width = 4;
  static constexpr std::uint32_t panel_vectors = 2;
  static constexpr std::uint32_t rows_max = 4;
  static constexpr std::size_t panels_together(std::size_t) noexcept { return 1; }

  static vec zero() noexcept { return {}; }
  static vec load(const float* from) noexcept { return {{from[0], from[1], from[2], from[3]}}; }
  static void store(float* to, vec a) noexcept { std::memcpy(to, a.lane, sizeof a.lane); }
  static vec add(vec a, vec b) noexcept {
    for (std::uint32_t i = 0; i < width; ++i) {
      a.lane[i] += b.lane[i];
    }
    return a;
  }
  static vec add_product(vec acc, float x, const vec& w) noexcept {
    for (std::uint32_t i = 0; i < width; ++i) {
      acc.lane[i] += x * w.lane[i];
    }
    return acc;
  }
};

struct scalar_f32 : scalar_base {
  static constexpr std::uint32_t k_per_step = 1;
  static constexpr std::uint32_t x_lanes_per_step = 1;
  using weights = vec;
  using operand = float;

  static weights load_weights(const std::byte* from) noexcept {
    weights w;
    std::memcpy(w.lane, from, sizeof w.lane);
    return w;
  }
  static operand broadcast(const std::uint32_t* x) noexcept { return std::bit_cast<float>(*x); }
  static vec mac(vec acc, operand x, const weights& w) noexcept { return add_product(acc, x, w); }
  static void pack_lanes(const float* x, std::uint32_t* lanes) noexcept {
    std::memcpy(lanes, x, chunk_lanes * sizeof(float));
  }
};

struct scalar_bf16 : scalar_base {
  static constexpr std::uint32_t k_per_step = 2;
  static constexpr std::uint32_t x_lanes_per_step = 2;
  struct weights {
    vec even, odd;
  };
  struct operand {
    float even, odd;
  };

  static weights load_weights(const std::byte* from) noexcept {
    std::uint32_t pairs[width];
    std::memcpy(pairs, from, sizeof pairs);
    weights w;
    for (std::uint32_t i = 0; i < width; ++i) {
      w.even.lane[i] = std::bit_cast<float>(pairs[i] << 16);
      w.odd.lane[i] = std::bit_cast<float>(pairs[i] & 0xFFFF'0000u);
    }
    return w;
  }
  static operand broadcast(const std::uint32_t* x) noexcept {
    return {std::bit_cast<float>(x[0]), std::bit_cast<float>(x[1])};
  }
  static vec mac(vec acc, operand x, const weights& w) noexcept {
    return add_product(add_product(acc, x.even, w.even), x.odd, w.odd);
  }
  static void pack_lanes(const float* x, std::uint32_t* lanes) noexcept {
    for (std::uint32_t i = 0; i < chunk_lanes; ++i) {
      lanes[i] = std::bit_cast<std::uint32_t>(round_to_bf16(x[i]));
    }
  }
};

}  // namespace

constexpr gemm_kernel gemm_f32_scalar = make_gemm_kernel<scalar_f32>();
constexpr gemm_kernel gemm_bf16_scalar = make_gemm_kernel<scalar_bf16>();

}  // namespace oriel::host::detail
