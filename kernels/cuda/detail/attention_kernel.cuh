// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The attention kernel on a device: attention_program.cuh run by `Warpgroups` consumer warpgroups
/// and one producer warp, persistently over the items that the block finds in device memory. With
/// e4m3 KV the producer fills raw stages, from which three converter warps fill stages of bf16.
#pragma once

#include "attention_convert.cuh"
#include "attention_program.cuh"
#include "attention_units.hpp"
#include "launch.cuh"

namespace oriel::detail {

/// Offsets into a block's shared memory.
template <class Dims, std::uint32_t Warpgroups>
struct attention_memory {
  static constexpr std::uint32_t stages =
      Dims::is_scaled ? converted_stages : attention_stages(Dims::stage_bytes);
  static constexpr std::uint32_t raw_stages =
      Dims::is_scaled ? attention_raw_stages(Dims::raw_bytes) : 0;
  static constexpr std::uint32_t first_stage = Warpgroups * Dims::query_bytes;
  static constexpr std::uint32_t first_raw = first_stage + stages * Dims::stage_bytes;
  static constexpr std::uint32_t barriers = first_raw + raw_stages * Dims::raw_bytes;
  static constexpr std::uint32_t raw_barriers = barriers + 3 * stages * 8;
  static constexpr std::uint32_t tables = raw_barriers + 2 * raw_stages * 8;

  [[nodiscard]] static __device__ std::uint32_t k_stage(std::uint32_t stage) {
    return first_stage + stage * Dims::stage_bytes;
  }
  [[nodiscard]] static __device__ std::uint32_t v_stage(std::uint32_t stage) {
    return k_stage(stage) + Dims::k_bytes;
  }
  // Barriers: K there, V there, stage free.
  [[nodiscard]] static __device__ std::uint32_t k_full(std::uint32_t stage) {
    return barriers + stage * 8;
  }
  [[nodiscard]] static __device__ std::uint32_t v_full(std::uint32_t stage) {
    return barriers + (stages + stage) * 8;
  }
  [[nodiscard]] static __device__ std::uint32_t free(std::uint32_t stage) {
    return barriers + (2 * stages + stage) * 8;
  }
  // e4m3: k_full says that the converted stage is there, V and scales included; v_full is idle.
  [[nodiscard]] static __device__ std::uint32_t raw_stage(std::uint32_t stage) {
    return first_raw + stage * Dims::raw_bytes;
  }
  [[nodiscard]] static __device__ std::uint32_t raw_full(std::uint32_t stage) {
    return raw_barriers + stage * 8;
  }
  [[nodiscard]] static __device__ std::uint32_t raw_free(std::uint32_t stage) {
    return raw_barriers + (raw_stages + stage) * 8;
  }
};

/// The machine of a consumer warpgroup: this thread's part of it.
template <class Dims, std::uint32_t Warpgroups>
class attention_consumer {
 public:
  using memory = attention_memory<Dims, Warpgroups>;

  __device__ __forceinline__ attention_consumer(std::byte* shared, std::uint32_t warpgroup)
      : shared_(shared), address_(ptx::shared_address(shared)), warpgroup_(warpgroup) {}

  template <class F>
  __device__ __forceinline__ void each(F&& f) {
    f(threadIdx.x % warpgroup_threads, thread_);
  }
  [[nodiscard]] __device__ __forceinline__ std::byte* queries() const {
    return shared_ + warpgroup_ * Dims::query_bytes;
  }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t queries_address() const {
    return address_ + warpgroup_ * Dims::query_bytes;
  }
  [[nodiscard]] __device__ __forceinline__ std::byte* values() const {
    return shared_ + memory::v_stage(ring_.stage);
  }
  [[nodiscard]] __device__ __forceinline__ const float* scales() const {
    return reinterpret_cast<const float*>(values() + Dims::v_bytes);
  }

  __device__ __forceinline__ void meet() const {
    ptx::named_barrier(1 + warpgroup_, warpgroup_threads);
  }
  __device__ __forceinline__ void publish() const {
    ptx::fence_async_proxy();
    meet();
  }
  __device__ __forceinline__ void publish_to_all() const {
    ptx::fence_async_proxy();
    ptx::named_barrier(1 + Warpgroups, Warpgroups * warpgroup_threads);
  }
  __device__ __forceinline__ std::uint32_t wait_k() const {
    ptx::mbarrier_wait(address_ + memory::k_full(ring_.stage), ring_.parity);
    return address_ + memory::k_stage(ring_.stage);
  }
  __device__ __forceinline__ std::uint32_t wait_v() const {
    if constexpr (!Dims::is_scaled) {
      ptx::mbarrier_wait(address_ + memory::v_full(ring_.stage), ring_.parity);
    }
    return address_ + memory::v_stage(ring_.stage);
  }
  __device__ __forceinline__ void release() {
    if (threadIdx.x % warp_threads == 0) {
      ptx::mbarrier_arrive(address_ + memory::free(ring_.stage));
    }
    ring_.advance();
  }

  __device__ __forceinline__ void begin_multiply() {
    pin_accumulators();
    ptx::wgmma_fence();
  }
  __device__ __forceinline__ void end_multiply() {
    ptx::wgmma_commit();
    ptx::wgmma_wait();
    pin_accumulators();
  }
  __device__ __forceinline__ void add_scores(std::uint64_t q, std::uint64_t k, bool accumulate) {
    ptx::wgmma_64x64(thread_.score, q, k, accumulate ? 1 : 0);
  }
  __device__ __forceinline__ void add_values(std::uint32_t step, std::uint64_t v) {
    const std::uint32_t weights[4] = {thread_.weight[step * 4],
                                      thread_.weight[step * 4 + 1],
                                      thread_.weight[step * 4 + 2],
                                      thread_.weight[step * 4 + 3]};
    ptx::wgmma_add(thread_.out, weights, v);
  }

  /// The four threads of a row.
  using pair_member = float (attention_thread<Dims>::*)[2];
  __device__ __forceinline__ void quad_max(pair_member member) {
    quad(member, [](float a, float b) { return fmaxf(a, b); });
  }
  __device__ __forceinline__ void quad_sum(pair_member member) {
    quad(member, [](float a, float b) { return a + b; });
  }

 private:
  template <class F>
  __device__ __forceinline__ void quad(pair_member member, F&& f) {
    ORIEL_UNROLL
    for (float& x : thread_.*member) {
      x = f(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
      x = f(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
    }
  }
  __device__ __forceinline__ void pin_accumulators() {
    ORIEL_UNROLL
    for (float& x : thread_.score) {
      ptx::pin(x);
    }
    ORIEL_UNROLL
    for (float& x : thread_.out) {
      ptx::pin(x);
    }
  }

  std::byte* shared_;
  std::uint32_t address_;
  std::uint32_t warpgroup_;
  stage_ring<memory::stages> ring_;
  attention_thread<Dims> thread_;
};

/// The machine of the producer warp: where a lane's copies go.
template <class Dims, std::uint32_t Warpgroups>
class attention_producer {
 public:
  using memory = attention_memory<Dims, Warpgroups>;

  __device__ __forceinline__ explicit attention_producer(std::byte* shared)
      : address_(ptx::shared_address(shared)) {}

  __device__ __forceinline__ void produce(const attention_call& call, const attention_work& work) {
    const std::uint32_t lane = threadIdx.x % warp_threads, last_tile = work.last_tile();
    for (std::uint32_t tile = work.first_tile(); tile < last_tile; ++tile) {
      const tile_piece piece = piece_of(call, work, tile, lane);  // While the stage is still busy.
      ptx::mbarrier_wait(address_ + memory::free(ring_.stage), ring_.parity ^ 1);
      if (lane == 0) {
        const key_range keys = copied_keys(work, tile);
        const std::uint32_t bytes = (keys.hi - keys.lo) * 2;
        ptx::mbarrier_arrive_expect(address_ + memory::k_full(ring_.stage), bytes * Dims::qk);
        ptx::mbarrier_arrive_expect(address_ + memory::v_full(ring_.stage), bytes * Dims::vo);
      }
      __syncwarp();
      copy_piece<Dims>(call, work, tile, piece, *this);
      ring_.advance();
    }
  }
  __device__ __forceinline__ void copy_k(std::uint32_t to, const void* from, std::uint32_t bytes) {
    ptx::bulk_copy(address_ + memory::k_stage(ring_.stage) + to,
                   from,
                   bytes,
                   address_ + memory::k_full(ring_.stage));
  }
  __device__ __forceinline__ void copy_v(std::uint32_t to, const void* from, std::uint32_t bytes) {
    ptx::bulk_copy(address_ + memory::v_stage(ring_.stage) + to,
                   from,
                   bytes,
                   address_ + memory::v_full(ring_.stage));
  }

 private:
  std::uint32_t address_;
  stage_ring<memory::stages> ring_;
};

/// The producer warp where tiles are converted: K and V of a tile arrive together.
template <class Dims, std::uint32_t Warpgroups>
class attention_raw_producer {
 public:
  using memory = attention_memory<Dims, Warpgroups>;

  __device__ __forceinline__ explicit attention_raw_producer(std::byte* shared)
      : address_(ptx::shared_address(shared)) {}

  __device__ __forceinline__ void produce(const attention_call& call, const attention_work& work) {
    const std::uint32_t lane = threadIdx.x % warp_threads, last_tile = work.last_tile();
    for (std::uint32_t tile = work.first_tile(); tile < last_tile; ++tile) {
      const tile_piece piece = piece_of(call, work, tile, lane);  // While the stage is still busy.
      ptx::mbarrier_wait(address_ + memory::raw_free(ring_.stage), ring_.parity ^ 1);
      if (lane == 0) {
        const key_range keys = copied_keys(work, tile);
        ptx::mbarrier_arrive_expect(address_ + memory::raw_full(ring_.stage),
                                    (keys.hi - keys.lo) * (Dims::k_key_bytes + Dims::v_key_bytes));
      }
      __syncwarp();
      copy_piece<Dims>(call, work, tile, piece, *this);
      ring_.advance();
    }
  }
  __device__ __forceinline__ void copy_k(std::uint32_t to, const void* from, std::uint32_t bytes) {
    ptx::bulk_copy(address_ + memory::raw_stage(ring_.stage) + to,
                   from,
                   bytes,
                   address_ + memory::raw_full(ring_.stage));
  }
  __device__ __forceinline__ void copy_v(std::uint32_t to, const void* from, std::uint32_t bytes) {
    copy_k(Dims::raw_k_bytes + to, from, bytes);
  }

 private:
  std::uint32_t address_;
  stage_ring<memory::raw_stages> ring_;
};

/// A converter thread. `index`: of converter_threads.
template <class Dims, std::uint32_t Warpgroups>
class attention_converter {
 public:
  using memory = attention_memory<Dims, Warpgroups>;

  __device__ __forceinline__ attention_converter(std::byte* shared, std::uint32_t index)
      : shared_(shared), address_(ptx::shared_address(shared)), index_(index) {}

  __device__ __forceinline__ void convert(const attention_work& work) {
    const std::uint32_t last_tile = work.last_tile();
    for (std::uint32_t tile = work.first_tile(); tile < last_tile; ++tile) {
      ptx::mbarrier_wait(address_ + memory::raw_full(raw_.stage), raw_.parity);
      ptx::mbarrier_wait(address_ + memory::free(ring_.stage), ring_.parity ^ 1);
      convert_tile<Dims>(work,
                         tile,
                         index_,
                         converter_threads,
                         shared_ + memory::raw_stage(raw_.stage),
                         shared_ + memory::k_stage(ring_.stage));
      ptx::fence_async_proxy();
      ptx::mbarrier_arrive(address_ + memory::k_full(ring_.stage));
      ptx::mbarrier_arrive(address_ + memory::raw_free(raw_.stage));
      raw_.advance();
      ring_.advance();
    }
  }

 private:
  std::byte* shared_;
  std::uint32_t address_;
  std::uint32_t index_;
  stage_ring<memory::raw_stages> raw_;
  stage_ring<memory::stages> ring_;
};

/// Threads of the producer: a warp copies. Beside two consumers it is a whole warpgroup, because
/// only a warpgroup can hand its registers to others.
template <std::uint32_t Warpgroups>
inline constexpr std::uint32_t producer_threads =
    Warpgroups == 1 ? warp_threads : warpgroup_threads;
inline constexpr std::uint32_t consumer_registers = 232;
inline constexpr std::uint32_t producer_registers = 40;
static_assert(2 * consumer_registers + producer_registers <= ptx::registers_launched<3>);
/// e4m3: the third warpgroup is the producer and the converters.
inline constexpr std::uint32_t scaled_consumer_registers = 208;
inline constexpr std::uint32_t supplier_registers = 88;
static_assert(2 * scaled_consumer_registers + supplier_registers <= ptx::registers_launched<3>);

/// Counts items and rows of each sequence, and sums them up. All threads.
__device__ __forceinline__ void fill_tables(const attention_call& call,
                                            std::uint32_t* item_begin,
                                            std::uint32_t* row_begin) {
  const auto n = static_cast<std::uint32_t>(call.args.sequences.size());
  for (std::uint32_t s = threadIdx.x; s < n; s += blockDim.x) {
    const paged_sequence sequence = call.args.sequences.data()[s];
    item_begin[s] = items_of(call, sequence);
    row_begin[s] = sequence.rows;
  }
  __syncthreads();
  if (threadIdx.x < warp_threads) {
    scan_in_place(item_begin, n);
    scan_in_place(row_begin, n);
  }
}

template <class Dims, std::uint32_t Warpgroups>
__global__ void __launch_bounds__(Warpgroups* warpgroup_threads + producer_threads<Warpgroups>, 1)
    attention_kernel(const __grid_constant__ attention_call call) {
  using memory = attention_memory<Dims, Warpgroups>;
  extern __shared__ __align__(128) std::byte shared[];
  const auto n = static_cast<std::uint32_t>(call.args.sequences.size());
  auto* const item_begin = reinterpret_cast<std::uint32_t*>(shared + memory::tables);
  std::uint32_t* const row_begin = item_begin + n + 1;
  if (threadIdx.x == 0) {
    const std::uint32_t address = ptx::shared_address(shared);
    constexpr std::uint32_t consumer_warps = Warpgroups * warpgroup_threads / warp_threads;
    for (std::uint32_t stage = 0; stage < memory::stages; ++stage) {
      ptx::mbarrier_init(address + memory::k_full(stage), 1);
      ptx::mbarrier_init(address + memory::v_full(stage), 1);
      ptx::mbarrier_init(address + memory::free(stage), consumer_warps);
    }
    ptx::fence_mbarrier_init();
  }
  fill_tables(call, item_begin, row_begin);
  __syncthreads();

  const std::uint32_t warpgroup = threadIdx.x / warpgroup_threads;
  if (warpgroup == Warpgroups) {
    if constexpr (Warpgroups > 1) {
      ptx::lower_registers<producer_registers>();
    }
    if (threadIdx.x < Warpgroups * warpgroup_threads + warp_threads) {
      attention_producer<Dims, Warpgroups> producer(shared);
      for_each_item(
          call, item_begin, row_begin, blockIdx.x, gridDim.x, [&](const attention_work& work) {
            producer.produce(call, work);
          });
    }
  } else {
    if constexpr (Warpgroups > 1) {
      ptx::raise_registers<consumer_registers>();
    }
    attention_consumer<Dims, Warpgroups> consumer(shared, warpgroup);
    for_each_item(
        call, item_begin, row_begin, blockIdx.x, gridDim.x, [&](const attention_work& work) {
          attend_item<Dims>(call, work, warpgroup, consumer);
        });
  }
}

/// e4m3: a warpgroup more, whose first warp copies and whose others convert.
template <class Dims, std::uint32_t Warpgroups>
__global__ void __launch_bounds__((Warpgroups + 1) * warpgroup_threads, 1)
    attention_scaled_kernel(const __grid_constant__ attention_call call) {
  using memory = attention_memory<Dims, Warpgroups>;
  extern __shared__ __align__(128) std::byte shared[];
  const auto n = static_cast<std::uint32_t>(call.args.sequences.size());
  auto* const item_begin = reinterpret_cast<std::uint32_t*>(shared + memory::tables);
  std::uint32_t* const row_begin = item_begin + n + 1;
  if (threadIdx.x == 0) {
    const std::uint32_t address = ptx::shared_address(shared);
    constexpr std::uint32_t consumer_warps = Warpgroups * warpgroup_threads / warp_threads;
    for (std::uint32_t stage = 0; stage < memory::stages; ++stage) {
      ptx::mbarrier_init(address + memory::k_full(stage), converter_threads);
      ptx::mbarrier_init(address + memory::free(stage), consumer_warps);
    }
    for (std::uint32_t stage = 0; stage < memory::raw_stages; ++stage) {
      ptx::mbarrier_init(address + memory::raw_full(stage), 1);
      ptx::mbarrier_init(address + memory::raw_free(stage), converter_threads);
    }
    ptx::fence_mbarrier_init();
  }
  fill_tables(call, item_begin, row_begin);
  __syncthreads();

  const std::uint32_t warpgroup = threadIdx.x / warpgroup_threads;
  const auto for_items = [&](auto&& f) {
    for_each_item(call, item_begin, row_begin, blockIdx.x, gridDim.x, f);
  };
  if (warpgroup == Warpgroups) {
    if constexpr (Warpgroups > 1) {
      ptx::lower_registers<supplier_registers>();
    }
    if (const std::uint32_t index = threadIdx.x % warpgroup_threads; index < warp_threads) {
      attention_raw_producer<Dims, Warpgroups> producer(shared);
      for_items([&](const attention_work& work) { producer.produce(call, work); });
    } else {
      attention_converter<Dims, Warpgroups> converter(shared, index - warp_threads);
      for_items([&](const attention_work& work) { converter.convert(work); });
    }
  } else {
    if constexpr (Warpgroups > 1) {
      ptx::raise_registers<scaled_consumer_registers>();
    }
    const std::uint32_t index = Warpgroups == 1 ? 0 : warpgroup;  // Known, it takes no register.
    attention_consumer<Dims, Warpgroups> consumer(shared, index);
    for_items([&](const attention_work& work) { attend_item<Dims>(call, work, index, consumer); });
  }
}

/// As launch_attention.
template <class Dims>
status launch_scaled_attention(const attention_launch& launch,
                               const attention_call& call,
                               CUstream_st* stream) {
  const auto kernel =
      call.warpgroups == 2 ? attention_scaled_kernel<Dims, 2> : attention_scaled_kernel<Dims, 1>;
  if (const status allowed = allow_shared(kernel, launch.shared_bytes, "attention: shared memory");
      !allowed) {
    return allowed;
  }
  kernel<<<launch.blocks, (call.warpgroups + 1) * warpgroup_threads, launch.shared_bytes, stream>>>(
      call);
  return launched("attention: launch");
}

/// Enqueues the kernel with one or two consumer warpgroups.
template <class Dims>
status launch_attention(const attention_launch& launch,
                        const attention_call& call,
                        CUstream_st* stream) {
  const bool two = call.warpgroups == 2;
  const auto kernel = two ? attention_kernel<Dims, 2> : attention_kernel<Dims, 1>;
  if (const status allowed = allow_shared(kernel, launch.shared_bytes, "attention: shared memory");
      !allowed) {
    return allowed;
  }
  const std::uint32_t threads =
      call.warpgroups * warpgroup_threads + (two ? producer_threads<2> : producer_threads<1>);
  kernel<<<launch.blocks, threads, launch.shared_bytes, stream>>>(call);
  return launched("attention: launch");
}

}  // namespace oriel::detail
