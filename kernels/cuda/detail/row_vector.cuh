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

/// Two of them, `low` in the lower half.
ORIEL_HOST_DEVICE inline std::uint32_t nearest_bf16_pair(float low, float high) {
#ifdef __CUDA_ARCH__
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return static_cast<std::uint32_t>(to_bf16(low)) |
         (static_cast<std::uint32_t>(to_bf16(high)) << 16);
#endif
}

/// Two numbers as e4m3, the first in the low byte.
ORIEL_HOST_DEVICE inline std::uint32_t to_e4m3_pair(float first, float second) {
#ifdef __CUDA_ARCH__
  std::uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(pair) : "f"(first), "f"(second));
  return pair;
#else
  return static_cast<std::uint32_t>(to_e4m3(first)) |
         (static_cast<std::uint32_t>(to_e4m3(second)) << 8);
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

/// As store_words. @pre `p` is in a device's global memory, which the compiler need not see: it
/// splits store_words where it does not.
ORIEL_HOST_DEVICE inline void store_global_words(void* p, const words16& w) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p),
               "r"(w.word[0]),
               "r"(w.word[1]),
               "r"(w.word[2]),
               "r"(w.word[3])
               : "memory");
#else
  store_words(p, w);
#endif
}

/// N elements as they lie in memory: loads that are to be under way together are of these.
template <std::uint32_t N, class T>
struct stored_vector {
  words16 words[N * sizeof(T) / 16];
};
template <class T>
struct stored_vector<1, T> {
  T element;
};

/// Elements p[0, N). @pre N is 1, or a multiple of 8 and p 16-byte aligned
template <std::uint32_t N, class T>
ORIEL_HOST_DEVICE stored_vector<N, T> load_stored(const T* p) {
  stored_vector<N, T> v;
  if constexpr (N == 1) {
    v.element = *p;
  } else {
    constexpr std::uint32_t step = 16 / sizeof(T);
    for (std::uint32_t i = 0; i < N / step; ++i) {
      v.words[i] = load_words(p + i * step);
    }
  }
  return v;
}

/// The inverse.
template <std::uint32_t N, class T>
ORIEL_HOST_DEVICE void store_stored(T* p, const stored_vector<N, T>& v) {
  if constexpr (N == 1) {
    *p = v.element;
  } else {
    constexpr std::uint32_t step = 16 / sizeof(T);
    for (std::uint32_t i = 0; i < N / step; ++i) {
      store_words(p + i * step, v.words[i]);
    }
  }
}

template <std::uint32_t N, class T>
ORIEL_HOST_DEVICE row_vector<N> widened(const stored_vector<N, T>& stored) {
  row_vector<N> v;
  if constexpr (N == 1) {
    v.lane[0] = as_float(stored.element);
  } else if constexpr (std::is_same_v<T, bf16>) {
    for (std::uint32_t i = 0; i < N; i += 2) {
      const std::uint32_t word = stored.words[i / 8].word[i % 8 / 2];
      v.lane[i] = to_float(static_cast<bf16>(word & 0xFFFFu));
      v.lane[i + 1] = to_float(static_cast<bf16>(word >> 16));
    }
  } else {
    for (std::uint32_t i = 0; i < N; ++i) {
      v.lane[i] = std::bit_cast<float>(stored.words[i / 4].word[i % 4]);
    }
  }
  return v;
}

/// Elements p[0, N), widened. @pre as load_stored
template <std::uint32_t N, class T>
ORIEL_HOST_DEVICE row_vector<N> load_vector(const T* p) {
  return widened(load_stored<N>(p));
}

/// The inverse of load_vector; rounds once to T.
template <std::uint32_t N, class T>
ORIEL_HOST_DEVICE void store_vector(T* p, const row_vector<N>& v) {
  if constexpr (N == 1) {
    *p = stored_as<T>(v.lane[0]);
  } else if constexpr (std::is_same_v<T, bf16>) {
    for (std::uint32_t i = 0; i < N; i += 8) {
      words16 w;
      for (std::uint32_t j = 0; j < 4; ++j) {
        w.word[j] = nearest_bf16_pair(v.lane[i + 2 * j], v.lane[i + 2 * j + 1]);
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
/// or, of an agent that takes several rows a call:
///
///     A::rows_in_call        how many
///     agent(row, rows, i)    those of the rows [row, row + rows_in_call) that are below `rows`
template <class A>
inline constexpr std::uint32_t rows_per_call = [] {
  if constexpr (requires { A::rows_in_call; }) {
    return A::rows_in_call;
  } else {
    return 1u;
  }
}();

/// One call. @param row_count  null where all rows are there
template <class A>
ORIEL_HOST_DEVICE void call_agent(const A& agent,
                                  std::uint32_t row,
                                  const std::uint32_t* row_count,
                                  std::uint32_t i) {
  if constexpr (requires { A::rows_in_call; }) {
    const std::uint32_t rows = agent.rows();
    agent(row, row_count != nullptr && *row_count < rows ? *row_count : rows, i);
  } else {
    agent(row, i);
  }
}

/// A device gives each call a thread; this loop is the same grid, one call after the other.
template <class A>
void run_on_host(const A& agent, const std::uint32_t* row_count = nullptr) {
  const std::uint32_t rows =
      row_count != nullptr && *row_count < agent.rows() ? *row_count : agent.rows();
  for (std::uint32_t row = 0; row < rows; row += rows_per_call<A>) {
    for (std::uint32_t i = 0; i < agent.width(); i += A::vector_width) {
      call_agent(agent, row, row_count, i);
    }
  }
}

}  // namespace oriel::detail
