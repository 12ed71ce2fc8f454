// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Counter-based random numbers: Philox4x32-10 of J. K. Salmon, M. A. Moraes, R. O. Dror and
/// D. E. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11.
///
/// A draw is a pure function of (key, counter): no state to keep, share or replay. A request whose
/// counter is its own position gives the same tokens whatever else is in the batch.
#pragma once

#include <array>
#include <cstdint>

namespace oriel {

/// Ten rounds of Philox4x32: four independent 32-bit words for each (counter, key). Constant time.
[[nodiscard]] constexpr std::array<std::uint32_t, 4> philox4x32(
    std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD251'1F53u} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E'8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key = {key[0] + 0x9E37'79B9u, key[1] + 0xBB67'AE85u};  // Weyl sequence.
  }
  return counter;
}

/// A word as a float in [0, 1): a multiple of 2^-24.
[[nodiscard]] constexpr float to_unit_float(std::uint32_t word) noexcept {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

/// One stream of draws. (seed, stream, index) names a draw; streams never overlap.
class random_stream {
 public:
  /// `stream` tells apart the consumers of one seed: a request, a tensor, a test.
  constexpr explicit random_stream(std::uint64_t seed, std::uint64_t stream = 0) noexcept
      : seed_(seed), stream_(stream) {}

  /// Draw number `index`, uniform over 32 bits.
  [[nodiscard]] constexpr std::uint32_t bits(std::uint64_t index) const noexcept {
    return words(index / 4)[index % 4];
  }

  /// Draw number `index`, uniform in [0, 1).
  [[nodiscard]] constexpr float uniform(std::uint64_t index) const noexcept {
    return to_unit_float(bits(index));
  }

  /// The next draw in order: the stream as a generator, for tests and initial weights.
  [[nodiscard]] constexpr std::uint32_t next_bits() noexcept {
    if (next_ % 4 == 0) {
      words_ = words(next_ / 4);
    }
    return words_[next_++ % 4];
  }
  [[nodiscard]] constexpr float next_uniform() noexcept { return to_unit_float(next_bits()); }

  /// The next draw, uniform in [low, high). @pre low <= high
  [[nodiscard]] constexpr float next_uniform(float low, float high) noexcept {
    return low + (high - low) * next_uniform();
  }

  /// The next draw, an integer in [0, bound), by multiplication (bias below bound / 2^32).
  /// @pre bound > 0
  [[nodiscard]] constexpr std::uint32_t next_below(std::uint32_t bound) noexcept {
    return static_cast<std::uint32_t>((std::uint64_t{next_bits()} * bound) >> 32);
  }

 private:
  /// Draws 4 * `block` and the three behind it.
  [[nodiscard]] constexpr std::array<std::uint32_t, 4> words(std::uint64_t block) const noexcept {
    return philox4x32({static_cast<std::uint32_t>(block),
                       static_cast<std::uint32_t>(block >> 32),
                       static_cast<std::uint32_t>(stream_),
                       static_cast<std::uint32_t>(stream_ >> 32)},
                      {static_cast<std::uint32_t>(seed_), static_cast<std::uint32_t>(seed_ >> 32)});
  }

  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t next_ = 0;
  std::array<std::uint32_t, 4> words_{};  ///< those that draw number `next_` - 1 belongs to
};

}  // namespace oriel
