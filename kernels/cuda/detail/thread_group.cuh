// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A group of threads that a kernel's program is written for once, and that a device and a host
/// run.
///
///     G::threads               threads of the group, a multiple of 32
///     G::var<T>                a value that each thread has one of; v[thread]
///     g.each(f)                every thread calls f(thread), thread in [0, G::threads)
///     g.each_warp(f)           every warp calls f(group of its 32 threads, warp)
///     g.sync()                 a barrier: what threads wrote to shared memory before it is seen
///                              after
///     g.max_over<W>(v)         every thread gets the largest v of its W neighbours (thread / W),
///                              for 32-bit unsigned numbers; W divides 32
///     g.sum_over_warp(v)       the sum, likewise, of 64-bit unsigned numbers
///     g.scan_warp(v)           the sum of v over the threads of the warp before this one
///     g.peers_before(v)        how many threads of the warp before this one have the same v, and
///                              how many of all have it
///     g.ballot(v)              which threads of the warp have a v other than 0, a bit each
///     g.add_shared(p, x)       adds to a number in shared memory that others add to; p's old value.
///                              32 bits: of 64 a device would make a loop of compare and swap
///
/// All sums are of integers, so they have no order that could differ. Threads of one `each` must
/// not depend on each other: a device runs them together, `host_group` one after the other,
/// forwards or backwards, and a test runs both. All threads reach every call but those inside
/// `each`.
#pragma once

#include <oriel/device/host_device.cuh>

#include <bit>
#include <cstdint>
#include <cstring>

namespace oriel::detail {

/// How many bits are 1.
ORIEL_HOST_DEVICE inline std::uint32_t set_bits(std::uint32_t mask) {
#ifdef __CUDA_ARCH__
  return static_cast<std::uint32_t>(__popc(mask));
#else
  return static_cast<std::uint32_t>(std::popcount(mask));
#endif
}

/// How many of a warp have a value.
struct peers {
  std::uint32_t before;
  std::uint32_t all;
};

/// On the host, thread after thread.
template <std::uint32_t Threads>
class host_group {
 public:
  static constexpr std::uint32_t threads = Threads;
  static_assert(Threads % 32 == 0);

  template <class T>
  struct var {
    T value[Threads] = {};
    T& operator[](std::uint32_t thread) { return value[thread]; }
    const T& operator[](std::uint32_t thread) const { return value[thread]; }
  };

  explicit host_group(bool backwards = false) : backwards_(backwards) {}

  template <class F>
  void each(F&& f) {
    for (std::uint32_t i = 0; i < Threads; ++i) {
      f(backwards_ ? Threads - 1 - i : i);
    }
  }
  template <class F>
  void each_warp(F&& f) {
    for (std::uint32_t i = 0; i < Threads / 32; ++i) {
      f(host_group<32>(backwards_), backwards_ ? Threads / 32 - 1 - i : i);
    }
  }
  void sync() {}
  void sync_warp() {}

  template <std::uint32_t W>
  var<std::uint32_t> max_over(const var<std::uint32_t>& v) {
    var<std::uint32_t> r;
    for (std::uint32_t t = 0; t < Threads; ++t) {
      std::uint32_t& largest = r[t / W * W];
      largest = largest > v[t] ? largest : v[t];
    }
    for (std::uint32_t t = 0; t < Threads; ++t) {
      r[t] = r[t / W * W];
    }
    return r;
  }
  var<std::uint64_t> sum_over_warp(const var<std::uint64_t>& v) {
    var<std::uint64_t> r;
    for (std::uint32_t t = 0; t < Threads; ++t) {
      for (std::uint32_t lane = 0; lane < 32; ++lane) {
        r[t] += v[t / 32 * 32 + lane];
      }
    }
    return r;
  }
  var<std::uint64_t> scan_warp(const var<std::uint64_t>& v) {
    var<std::uint64_t> r;
    for (std::uint32_t t = 1; t < Threads; ++t) {
      r[t] = t % 32 == 0 ? 0 : r[t - 1] + v[t - 1];
    }
    return r;
  }
  var<peers> peers_before(const var<std::uint32_t>& v) {
    var<peers> r;
    for (std::uint32_t t = 0; t < Threads; ++t) {
      for (std::uint32_t u = t / 32 * 32; u < t / 32 * 32 + 32; ++u) {
        r[t].before += u < t && v[u] == v[t] ? 1u : 0u;
        r[t].all += v[u] == v[t] ? 1u : 0u;
      }
    }
    return r;
  }
  var<std::uint32_t> ballot(const var<std::uint32_t>& v) {
    var<std::uint32_t> r;
    for (std::uint32_t t = 0; t < Threads; ++t) {
      r[t / 32 * 32] |= (v[t] != 0 ? 1u : 0u) << (t % 32);
    }
    for (std::uint32_t t = 0; t < Threads; ++t) {
      r[t] = r[t / 32 * 32];
    }
    return r;
  }
  std::uint32_t add_shared(std::uint32_t* p, std::uint32_t x) {
    const std::uint32_t old = *p;
    *p += x;
    return old;
  }

 private:
  bool backwards_;
};

#ifdef __CUDACC__
/// On a device: the threads of a block (or, with Threads = 32, of each warp for itself).
template <std::uint32_t Threads>
class device_group {
 public:
  static constexpr std::uint32_t threads = Threads;
  static_assert(Threads % 32 == 0);

  template <class T>
  struct var {
    T value{};
    ORIEL_HOST_DEVICE T& operator[](std::uint32_t) { return value; }
    ORIEL_HOST_DEVICE const T& operator[](std::uint32_t) const { return value; }
  };

  template <class F>
  ORIEL_HOST_DEVICE void each(F&& f) {
    f(thread());
  }
  template <class F>
  ORIEL_HOST_DEVICE void each_warp(F&& f) {
    f(device_group<32>(), thread() / 32);
  }
  ORIEL_HOST_DEVICE void sync() {
#ifdef __CUDA_ARCH__
    if constexpr (Threads == 32) {
      __syncwarp();
    } else {
      __syncthreads();
    }
#endif
  }

  ORIEL_HOST_DEVICE void sync_warp() {
#ifdef __CUDA_ARCH__
    __syncwarp();
#endif
  }

  template <std::uint32_t W>
  ORIEL_HOST_DEVICE var<std::uint32_t> max_over(const var<std::uint32_t>& v) {
#ifdef __CUDA_ARCH__
    if constexpr (W == 32) {
      return {__reduce_max_sync(0xFFFF'FFFFu, v.value)};
    } else {
      std::uint32_t x = v.value;
      for (std::uint32_t step = W / 2; step != 0; step /= 2) {
        const std::uint32_t other = __shfl_xor_sync(0xFFFF'FFFFu, x, step);
        x = x > other ? x : other;
      }
      return {x};
    }
#else
    return v;
#endif
  }
  ORIEL_HOST_DEVICE var<std::uint64_t> sum_over_warp(const var<std::uint64_t>& v) {
#ifdef __CUDA_ARCH__
    unsigned long long x = v.value;
    for (std::uint32_t step = 16; step != 0; step /= 2) {
      x += __shfl_xor_sync(0xFFFF'FFFFu, x, step);
    }
    return {x};
#else
    return v;
#endif
  }
  ORIEL_HOST_DEVICE var<std::uint64_t> scan_warp(const var<std::uint64_t>& v) {
#ifdef __CUDA_ARCH__
    unsigned long long x = v.value;
    const std::uint32_t lane = threadIdx.x % 32;
    for (std::uint32_t step = 1; step < 32; step *= 2) {
      const unsigned long long other = __shfl_up_sync(0xFFFF'FFFFu, x, step);
      x += lane >= step ? other : 0;
    }
    return {x - v.value};
#else
    return v;
#endif
  }
  ORIEL_HOST_DEVICE var<peers> peers_before(const var<std::uint32_t>& v) {
#ifdef __CUDA_ARCH__
    const std::uint32_t same = __match_any_sync(0xFFFF'FFFFu, v.value);
    const std::uint32_t lower = (1u << (threadIdx.x % 32)) - 1;
    return {{static_cast<std::uint32_t>(__popc(same & lower)),
             static_cast<std::uint32_t>(__popc(same))}};
#else
    return {{v.value, 1}};
#endif
  }
  ORIEL_HOST_DEVICE var<std::uint32_t> ballot(const var<std::uint32_t>& v) {
#ifdef __CUDA_ARCH__
    return {__ballot_sync(0xFFFF'FFFFu, v.value != 0)};
#else
    return v;
#endif
  }
  ORIEL_HOST_DEVICE std::uint32_t add_shared(std::uint32_t* p, std::uint32_t x) {
#ifdef __CUDA_ARCH__
    return atomicAdd(p, x);
#else
    return *p += x;
#endif
  }

 private:
  ORIEL_HOST_DEVICE static std::uint32_t thread() {
#ifdef __CUDA_ARCH__
    return threadIdx.x % Threads;
#else
    return 0;
#endif
  }
};
#endif

/// The sum of v over the threads of the group before each thread.
/// @param warp_sums  [Group::threads / 32] shared memory, free before and after
template <class Group>
ORIEL_HOST_DEVICE typename Group::template var<std::uint64_t> scan_group(
    Group& g, const typename Group::template var<std::uint64_t>& v, std::uint64_t* warp_sums) {
  auto before = g.scan_warp(v);
  g.each([&](std::uint32_t thread) {
    if (thread % 32 == 31) {
      warp_sums[thread / 32] = before[thread] + v[thread];
    }
  });
  g.sync();
  g.each([&](std::uint32_t thread) {
    for (std::uint32_t warp = 0; warp < thread / 32; ++warp) {
      before[thread] += warp_sums[warp];
    }
  });
  g.sync();
  return before;
}

}  // namespace oriel::detail
