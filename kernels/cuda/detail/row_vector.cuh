// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Some elements of a row side by side, in f32: what one thread of a row kernel holds. Eight at a
/// time move in accesses of 16 bytes; where a row or a pointer is not aligned for that, one.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/dtype.hpp>
#include <oriel/device/host_device.cuh>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace oriel::detail {

/// Elements of a row that one thread takes together, where alignment allows.
inline constexpr std::uint32_t row_vector_width = 8;

template <std::uint32_t N>
struct row_vector {
  float lane[N];
};

struct alignas(16) words16 {
  std::uint32_t word[4];
};

/// To nearest, ties to even. On a device a NaN becomes 0x7FFF, whatever its payload was.
ORIEL_HOST_DEVICE inline bf16 nearest_bf16(float x) {
#ifdef __CUDA_ARCH__
  std::uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return static_cast<bf16>(bits);
#else
  return to_bf16(x);
#endif
}

ORIEL_HOST_DEVICE inline float as_float(float x) {
  return x;
}
ORIEL_HOST_DEVICE inline float as_float(bf16 x) {
  return to_float(x);
}

/// `x` in the type that a row is stored in, rounded once.
template <class T>
ORIEL_HOST_DEVICE T stored_as(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return nearest_bf16(x);
  } else {
    return x;
  }
}

/// `x` as an array of type `t` (f32 or bf16) would hold it.
ORIEL_HOST_DEVICE inline float rounded_to(dtype t, float x) {
  return t == dtype::bf16 ? to_float(nearest_bf16(x)) : x;
}

ORIEL_HOST_DEVICE inline words16 load_words(const void* p) {
#ifdef __CUDA_ARCH__
  const uint4 w = *static_cast<const uint4*>(p);
  return {{w.x, w.y, w.z, w.w}};
#else
  ORIEL_EXPECTS(reinterpret_cast<std::uintptr_t>(p) % 16 == 0);  // As a device would.
  words16 w;
  std::memcpy(&w, p, sizeof w);
  return w;
#endif
}

ORIEL_HOST_DEVICE inline void store_words(void* p, const words16& w) {
#ifdef __CUDA_ARCH__
  *static_cast<uint4*>(p) = make_uint4(w.word[0], w.word[1], w.word[2], w.word[3]);
#else
  ORIEL_EXPECTS(reinterpret_cast<std::uintptr_t>(p) % 16 == 0);
  std::memcpy(p, &w, sizeof w);
#endif
}

/// Elements p[0, N), widened. @pre N is 1, or a multiple of 8 and p 16-byte aligned
template <std::uint32_t N, class T>
ORIEL_HOST_DEVICE row_vector<N> load_vector(const T* p) {
  row_vector<N> v;
  if constexpr (N == 1) {
    v.lane[0] = as_float(*p);
  } else if constexpr (std::is_same_v<T, bf16>) {
    for (std::uint32_t i = 0; i < N; i += 8) {
      const words16 w = load_words(p + i);
      for (std::uint32_t j = 0; j < 4; ++j) {
        v.lane[i + 2 * j] = to_float(static_cast<bf16>(w.word[j] & 0xFFFFu));
        v.lane[i + 2 * j + 1] = to_float(static_cast<bf16>(w.word[j] >> 16));
      }
    }
  } else {
    for (std::uint32_t i = 0; i < N; i += 4) {
      const words16 w = load_words(p + i);
      for (std::uint32_t j = 0; j < 4; ++j) {
        v.lane[i + j] = std::bit_cast<float>(w.word[j]);
      }
    }
  }
  return v;
}

/// The inverse; rounds once to T.
template <std::uint32_t N, class T>
ORIEL_HOST_DEVICE void store_vector(T* p, const row_vector<N>& v) {
  if constexpr (N == 1) {
    *p = stored_as<T>(v.lane[0]);
  } else if constexpr (std::is_same_v<T, bf16>) {
    for (std::uint32_t i = 0; i < N; i += 8) {
      words16 w;
      for (std::uint32_t j = 0; j < 4; ++j) {
        const auto low = static_cast<std::uint32_t>(nearest_bf16(v.lane[i + 2 * j]));
        const auto high = static_cast<std::uint32_t>(nearest_bf16(v.lane[i + 2 * j + 1]));
        w.word[j] = low | (high << 16);
      }
      store_words(p + i, w);
    }
  } else {
    for (std::uint32_t i = 0; i < N; i += 4) {
      words16 w;
      for (std::uint32_t j = 0; j < 4; ++j) {
        w.word[j] = std::bit_cast<std::uint32_t>(v.lane[i + j]);
      }
      store_words(p + i, w);
    }
  }
}

/// Can rows that start at `p` and lie `stride` elements apart be read 16 bytes at a time?
template <class T>
[[nodiscard]] ORIEL_HOST_DEVICE inline bool is_vector_aligned(const T* p,
                                                              std::size_t stride) noexcept {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && stride * sizeof(T) % 16 == 0;
}

/// The row kernels: an agent `A` is called once for each (row, first element of a vector).
///
///     A::vector_width      elements that one call takes
///     agent.rows()         rows; agent.width(): elements of a row that are visited
///     agent(row, i)        elements [i, i + vector_width) of the row
///
/// A device gives each call a thread; this loop is the same grid, one call after the other.
template <class A>
void run_on_host(const A& agent, const std::uint32_t* row_count = nullptr) {
  const std::uint32_t rows =
      row_count != nullptr && *row_count < agent.rows() ? *row_count : agent.rows();
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::uint32_t i = 0; i < agent.width(); i += A::vector_width) {
      agent(row, i);
    }
  }
}

}  // namespace oriel::detail
