// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>

#include <engine/machine_peaks.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace oriel::engine {
namespace {

constexpr std::size_t piece_bytes = huge_page_memory::huge_page_bytes;
constexpr std::size_t streams = 4;             // Neighbouring parts read together; one is slower.
constexpr std::size_t ahead_bytes = 2048;      // Prefetch distance of each stream.
constexpr std::size_t line_group_bytes = 128;  // Read of each stream in turn.
constexpr int multiply_rounds = 1 << 20;

// What the loops compute must be used, or the compiler drops them.
std::atomic<std::uint64_t> sink{0};

double seconds_now() noexcept {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::uint64_t read_plain(const std::byte* from, std::size_t bytes) noexcept {
  std::uint64_t folded[8] = {};
  for (std::size_t i = 0; i + sizeof folded <= bytes; i += sizeof folded) {
    std::uint64_t words[8];
    std::memcpy(words, from + i, sizeof words);
    for (std::size_t w = 0; w < 8; ++w) {
      folded[w] ^= words[w];
    }
  }
  return folded[0] ^ folded[1] ^ folded[2] ^ folded[3] ^ folded[4] ^ folded[5] ^ folded[6] ^
         folded[7];
}

#if defined(__x86_64__)

[[gnu::target("avx512f")]] std::uint64_t read_avx512(const std::byte* from,
                                                     std::size_t bytes) noexcept {
  __m512i folded[2 * streams];
  for (__m512i& f : folded) {
    f = _mm512_setzero_si512();
  }
  const std::size_t part = bytes / streams;
  for (std::size_t i = 0; i < part; i += line_group_bytes) {
#pragma GCC unroll 4
    for (std::size_t s = 0; s < streams; ++s) {
      const std::byte* at = from + s * part + i;
      __builtin_prefetch(at + ahead_bytes);
      __builtin_prefetch(at + ahead_bytes + 64);
      folded[2 * s] = _mm512_xor_si512(folded[2 * s], _mm512_load_si512(at));
      folded[2 * s + 1] = _mm512_xor_si512(folded[2 * s + 1], _mm512_load_si512(at + 64));
    }
  }
  for (std::size_t f = 1; f < 2 * streams; ++f) {
    folded[0] = _mm512_xor_si512(folded[0], folded[f]);
  }
  std::uint64_t words[8];
  _mm512_storeu_si512(words, folded[0]);
  return words[0] ^ words[7];
}

// 24 chains hide the latency of any multiply-add; the empty asm keeps the loops as they are.
[[gnu::target("avx512f")]] double multiply_f32_avx512() noexcept {
  constexpr int chains = 24;
  __m512 sum[chains];
  for (__m512& s : sum) {
    s = _mm512_setzero_ps();
  }
  __m512 x = _mm512_set1_ps(1e-3f);
  for (int round = 0; round < multiply_rounds; ++round) {
    asm volatile("" : "+v"(x));
#pragma GCC unroll 24
    for (int c = 0; c < chains; ++c) {
      sum[c] = _mm512_fmadd_ps(x, x, sum[c]);
    }
  }
  for (int c = 0; c < chains; ++c) {
    asm volatile("" : : "v"(sum[c]));
  }
  return 2.0 * 16 * chains * multiply_rounds;
}

[[gnu::target("avx512f,avx512bf16")]] double multiply_bf16_avx512() noexcept {
  constexpr int chains = 24;
  __m512 sum[chains];
  for (__m512& s : sum) {
    s = _mm512_setzero_ps();
  }
  __m512i x = _mm512_set1_epi32(0x3C003C00);
  for (int round = 0; round < multiply_rounds; ++round) {
    asm volatile("" : "+v"(x));
#pragma GCC unroll 24
    for (int c = 0; c < chains; ++c) {
      sum[c] =
          _mm512_dpbf16_ps(sum[c], reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(x));
    }
  }
  for (int c = 0; c < chains; ++c) {
    asm volatile("" : : "v"(sum[c]));
  }
  return 2.0 * 32 * chains * multiply_rounds;
}

[[gnu::target("avx2,fma")]] double multiply_f32_avx2() noexcept {
  constexpr int chains = 12;
  __m256 sum[chains];
  for (__m256& s : sum) {
    s = _mm256_setzero_ps();
  }
  __m256 x = _mm256_set1_ps(1e-3f);
  for (int round = 0; round < multiply_rounds; ++round) {
    asm volatile("" : "+x"(x));
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) {
      sum[c] = _mm256_fmadd_ps(x, x, sum[c]);
    }
  }
  for (int c = 0; c < chains; ++c) {
    asm volatile("" : : "x"(sum[c]));
  }
  return 2.0 * 8 * chains * multiply_rounds;
}

#endif

double multiply_f32_scalar() noexcept {
  constexpr int chains = 32;
  float sum[chains] = {};
  volatile float source = 1e-3f;
  for (int round = 0; round < multiply_rounds; ++round) {
    const float x = source;
    for (float& s : sum) {
      s += x * x;
    }
  }
  float total = 0;
  for (const float s : sum) {
    total += s;
  }
  sink += static_cast<std::uint64_t>(total);
  return 2.0 * chains * multiply_rounds;
}

}  // namespace

read_bandwidth_probe::read_bandwidth_probe(std::size_t buffer_bytes) {
  const std::size_t pieces = std::max(buffer_bytes / piece_bytes, std::size_t{1});
  auto memory = huge_page_memory::reserve(pieces * piece_bytes);
  if (!memory) {
    throw std::bad_alloc();
  }
  buffer_ = *std::move(memory);
  std::memset(buffer_.base(), 1, buffer_.size_bytes());
}

std::size_t read_bandwidth_probe::read_once(executor_ref executor, double fraction) noexcept {
  ORIEL_EXPECTS(fraction > 0 && fraction <= 1);
  const std::size_t all = buffer_.size_bytes() / piece_bytes;
  const auto pieces =
      static_cast<std::uint32_t>(std::max(1.0, fraction * static_cast<double>(all)));
  // Long runs for each worker: a task is as many neighbouring pieces as give each worker four.
  const std::uint32_t per_task = std::max(1u, pieces / (4 * executor.concurrency()));
  const std::uint32_t tasks = (pieces + per_task - 1) / per_task;
  executor.for_each(tasks, [&](std::uint32_t task, std::uint32_t) {
    const std::uint32_t begin = task * per_task, end = std::min(begin + per_task, pieces);
    for (std::size_t piece = position_ + begin; piece < position_ + end; ++piece) {
      const std::byte* from = buffer_.base() + piece % all * piece_bytes;
#if defined(__x86_64__)
      sink += is_supported(isa::avx512) ? read_avx512(from, piece_bytes)
                                        : read_plain(from, piece_bytes);
#else
      sink += read_plain(from, piece_bytes);
#endif
    }
  });
  position_ = (position_ + pieces) % all;
  return pieces * piece_bytes;
}

double read_bandwidth_probe::measure(executor_ref executor, double fraction) noexcept {
  const double begin = seconds_now();
  const auto bytes = static_cast<double>(read_once(executor, fraction));
  return bytes / (seconds_now() - begin);
}

double multiply_once(multiply_kind kind, isa path) noexcept {
  ORIEL_EXPECTS(is_supported(path));
#if defined(__x86_64__)
  if (path == isa::avx512_bf16 && kind == multiply_kind::bf16) {
    return multiply_bf16_avx512();
  }
  if (path >= isa::avx512) {
    return multiply_f32_avx512();
  }
  if (path == isa::avx2) {
    return multiply_f32_avx2();
  }
#endif
  static_cast<void>(kind);
  return multiply_f32_scalar();
}

double measure_multiply_rate(multiply_kind kind, isa path) noexcept {
  const double begin = seconds_now();
  const double operations = multiply_once(kind, path);
  return operations / (seconds_now() - begin);
}

}  // namespace oriel::engine
