// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a seed draws.
#pragma once

#include <oriel/core/random.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace sim {

/// Draws of one seed.
class dice {
 public:
  explicit dice(std::uint64_t seed) : stream_(seed, 0x51) {}
  [[nodiscard]] std::uint32_t below(std::uint32_t bound) { return stream_.next_below(bound); }
  [[nodiscard]] std::uint32_t between(std::uint32_t low, std::uint32_t high) {
    return low + below(high - low + 1);
  }
  [[nodiscard]] bool one_in(std::uint32_t n) { return below(n) == 0; }
  template <std::size_t N>
  [[nodiscard]] std::uint32_t one_of(const std::array<std::uint32_t, N>& choices) {
    return choices[below(N)];
  }
  /// Small numbers often, large ones rarely.
  [[nodiscard]] std::uint32_t zipf(std::uint32_t bound) { return below(below(bound) + 1); }

 private:
  oriel::random_stream stream_;
};

}  // namespace sim
