// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Arrays for kernel tests: aligned, poisoned, random.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/kernels/isa.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

/// The paths this CPU can run.
inline std::vector<oriel::isa> supported_paths() {
  std::vector<oriel::isa> paths;
  for (const oriel::isa path :
       {oriel::isa::scalar, oriel::isa::avx2, oriel::isa::avx512, oriel::isa::avx512_bf16}) {
    if (oriel::is_supported(path)) {
      paths.push_back(path);
    }
  }
  return paths;
}

/// Bytes on a cache line, filled with a NaN pattern, so that a read before a write shows.
class workspace_bytes {
 public:
  explicit workspace_bytes(std::size_t bytes) : lines_(bytes / 64 + 1), bytes_(bytes) {
    std::memset(lines_.data(), 0xFF, lines_.size() * 64);
  }
  std::span<std::byte> span() noexcept {
    return {reinterpret_cast<std::byte*>(lines_.data()), bytes_};
  }

 private:
  struct alignas(64) line {
    std::byte bytes[64];
  };
  std::vector<line> lines_;
  std::size_t bytes_;
};

/// `count` floats, uniform in [low, high).
inline std::vector<float> random_floats(std::size_t count,
                                        oriel::random_stream& random,
                                        float low = -1.0f,
                                        float high = 1.0f) {
  std::vector<float> v(count);
  for (float& x : v) {
    x = random.next_uniform(low, high);
  }
  return v;
}

/// `count` floats that no kernel should leave behind.
inline std::vector<float> poisoned_floats(std::size_t count) {
  return std::vector<float>(count, std::numeric_limits<float>::quiet_NaN());
}

/// Equal bit by bit.
inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}
