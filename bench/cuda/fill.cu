// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Random content of device memory, a kernel that does nothing, and one that waits.
#include <oriel/core/dtype.hpp>

#include <cstddef>
#include <cstdint>

namespace oriel::bench {
namespace {

/// A hash of 64 bits (the finaliser of MurmurHash3, by Austin Appleby; public domain).
__device__ std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ x >> 33) * 0xFF51'AFD7'ED55'8CCDull;
  x = (x ^ x >> 33) * 0xC4CE'B9FE'1A85'EC53ull;
  return x ^ x >> 33;
}

/// 8 bytes a thread and turn: sign and mantissa are random, and the low bits of the exponent:
/// magnitudes in [0.125, 0.5), e4m3 [0.125, 2), so that no sum overflows.
__global__ void __launch_bounds__(256)
    fill(std::uint64_t* to, std::size_t words, std::uint64_t seed, int type) {
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < words; i += gridDim.x * 256ull) {
    const std::uint64_t random = mixed(i + (seed << 40));
    switch (type) {
      case 0:  // f32: exponents 124 and 125.
        to[i] = (random & 0x80FF'FFFF'80FF'FFFFull) | 0x3E00'0000'3E00'0000ull;
        break;
      case 1:  // bf16: the same.
        to[i] = (random & 0x80FF'80FF'80FF'80FFull) | 0x3E00'3E00'3E00'3E00ull;
        break;
      default:  // e4m3: exponents 4 to 7.
        to[i] = (random & 0x9F9F'9F9F'9F9F'9F9Full) | 0x2020'2020'2020'2020ull;
    }
  }
}

__global__ void __launch_bounds__(32) empty() {}

__device__ std::uint64_t now_ns() {
  std::uint64_t t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}

__global__ void __launch_bounds__(1) wait(std::uint32_t ns) {
  const std::uint64_t end = now_ns() + ns;
  while (now_ns() < end) {
  }
}

}  // namespace

void fill_random(void* to, std::size_t bytes, dtype type, std::uint64_t seed) {
  const int kind = type == dtype::f32 ? 0 : type == dtype::bf16 ? 1 : 2;
  fill<<<1024, 256>>>(static_cast<std::uint64_t*>(to), bytes / 8, seed, kind);
}

void enqueue_wait(std::uint32_t ns, CUstream_st* stream) {
  wait<<<1, 1, 0, stream>>>(ns);
}

void enqueue_empty_kernel(CUstream_st* stream) {
  empty<<<1, 32, 0, stream>>>();
}

}  // namespace oriel::bench
