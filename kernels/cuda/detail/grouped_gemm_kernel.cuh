// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The grouped product on a device: grouped_gemm_program.cuh run by a producer warpgroup and two
/// consumer warpgroups, persistently over the items that the block finds in device memory.
#pragma once

#include "grouped_gemm_units.hpp"
#include "launch.cuh"
#include "ptx_gemm.cuh"

namespace oriel::detail {

/// Offsets into a block's shared memory.
template <dtype Type>
struct gemm_memory {
  static constexpr std::uint32_t stages = gemm_tile<Type>::stages;
  static constexpr std::uint32_t barriers = stages * gemm_stage<Type>::bytes;
  static constexpr std::uint32_t table = barriers + 2 * stages * 8;

  [[nodiscard]] static __device__ std::uint32_t stage(std::uint32_t i) {
    return i * gemm_stage<Type>::bytes;
  }
  // Arrivals: of each producer thread when its copies have ended, and of the one that announces the
  // piece of weights.
  static constexpr std::uint32_t full_arrivals = warpgroup_threads + 1;
  [[nodiscard]] static __device__ std::uint32_t full(std::uint32_t i) { return barriers + i * 8; }
  // Arrivals: of each consumer warp.
  static constexpr std::uint32_t free_arrivals = gemm_consumers * warpgroup_threads / warp_threads;
  [[nodiscard]] static __device__ std::uint32_t free(std::uint32_t i) {
    return barriers + (stages + i) * 8;
  }
};

/// The machine of the producer warpgroup: this thread's part of it.
template <dtype Type>
class gemm_producer {
 public:
  using memory = gemm_memory<Type>;

  __device__ __forceinline__ explicit gemm_producer(std::byte* shared)
      : address_(ptx::shared_address(shared)) {}

  template <class F>
  __device__ __forceinline__ void each(F&& f) {
    f(threadIdx.x % warpgroup_threads, thread_);
  }
  __device__ __forceinline__ void begin_stage() const {
    ptx::mbarrier_wait(address_ + memory::free(ring_.stage), ring_.parity ^ 1);
  }
  __device__ __forceinline__ void copy_piece(const std::byte* from) const {
    if (threadIdx.x % warpgroup_threads == 0) {
      const std::uint32_t barrier = address_ + memory::full(ring_.stage);
      ptx::mbarrier_arrive_expect(barrier, gemm_piece_bytes);
      ptx::bulk_copy(address_ + memory::stage(ring_.stage), from, gemm_piece_bytes, barrier);
    }
  }
  /// Both addresses stay in registers: else each copy is four more instructions in a chain.
  [[nodiscard]] __device__ __forceinline__ gemm_chunks chunks(std::uint32_t to,
                                                              const std::byte* from) const {
    gemm_chunks made{address_ + memory::stage(ring_.stage) + to, from};
    ptx::pin(made.to);
    ptx::pin(made.from);
    return made;
  }
  __device__ __forceinline__ void copy_chunk(const gemm_chunks& chunks,
                                             std::uint32_t to,
                                             std::uint32_t units,
                                             std::uint32_t bytes) const {
    ptx::copy_async_16(chunks.to + to, chunks.from, units, bytes);
  }
  __device__ __forceinline__ void copy_whole_chunk(const gemm_chunks& chunks,
                                                   std::uint32_t to,
                                                   std::uint32_t units) const {
    ptx::copy_async_16(chunks.to + to, chunks.from, units);
  }
  __device__ __forceinline__ void copy_scale(std::uint32_t to, const float* from) const {
    ptx::copy_async_4(address_ + memory::stage(ring_.stage) + to, from);
  }
  __device__ __forceinline__ void end_stage() {
    ptx::mbarrier_arrive_after_copies(address_ + memory::full(ring_.stage));
    ring_.advance();
  }

 private:
  std::uint32_t address_;
  stage_ring<memory::stages> ring_;
  gemm_producer_thread<Type> thread_;
};

/// The machine of a consumer warpgroup: this thread's part of it.
template <dtype Type>
class gemm_consumer {
 public:
  using memory = gemm_memory<Type>;
  using thread_state = gemm_thread<Type>;

  __device__ __forceinline__ explicit gemm_consumer(std::byte* shared)
      : shared_(shared), address_(ptx::shared_address(shared)) {}

  std::uint32_t late_part = gemm_no_late_part;  ///< that is stored next

  template <class F>
  __device__ __forceinline__ void each(F&& f) {
    f(threadIdx.x % warpgroup_threads, thread_);
  }
  /// The next stage, when it is full; what threads copied into it may be multiplied.
  [[nodiscard]] __device__ __forceinline__ std::uint32_t wait_stage() {
    const std::uint32_t stage = memory::stage(ring_.stage);
    ptx::mbarrier_wait(address_ + memory::full(ring_.stage), ring_.parity);
    ptx::fence_async_proxy();
    bytes_ = shared_ + stage;
    ring_.advance();
    return address_ + stage;
  }
  /// Of the stage waited for last.
  [[nodiscard]] const __device__ __forceinline__ std::byte* stage_bytes() const { return bytes_; }
  /// Gives the oldest stage back.
  __device__ __forceinline__ void release() {
    __syncwarp();  // Other threads may still be reading scales.
    if (threadIdx.x % warp_threads == 0) {
      ptx::mbarrier_arrive(address_ + memory::free(released_.stage));
    }
    released_.advance();
  }

  /// Sums of the item before are nobody's.
  template <std::uint32_t Columns>
  __device__ __forceinline__ void forget_sums() {
    ORIEL_UNROLL
    for (std::uint32_t r = 0; r < Columns / 2; ++r) {
      thread_.sum[r] = 0.0f;
    }
  }
  template <std::uint32_t Columns>
  __device__ __forceinline__ void begin_multiply() {
    __syncwarp();  // Barriers and stores of the last item let threads of a warp part.
    pin_accumulators<Columns>();
    ptx::wgmma_fence();
  }
  __device__ __forceinline__ void commit_multiply() { ptx::wgmma_commit(); }
  template <std::uint32_t Columns, std::uint32_t Pending>
  __device__ __forceinline__ void wait_multiply() {
    __syncwarp();  // Stores of the item before may have let threads of a warp part.
    ptx::wgmma_wait<Pending>();
    pin_accumulators<Columns>();
  }
  template <std::uint32_t Columns, std::uint32_t Size>
  __device__ __forceinline__ void add(float (thread_state::*to)[Size],
                                      std::uint64_t w,
                                      std::uint64_t x,
                                      bool accumulate) {
    ptx::wgmma_in_shared<Type == dtype::bf16, Columns>(thread_.*to, w, x, accumulate ? 1 : 0);
  }
  template <std::uint32_t Count>
  __device__ __forceinline__ void transpose_pairs() {
    __syncwarp();  // Stores of the pairs before may have let threads part.
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < Count; ++i) {
      thread_.pair[i] = ptx::transpose_8x8(thread_.pair[i]);
    }
  }

 private:
  /// Those of the products of so many columns: others would be kept for nobody.
  template <std::uint32_t Columns>
  __device__ __forceinline__ void pin_accumulators() {
    auto& accumulators = [&]() -> auto& {
      if constexpr (gemm_tile<Type>::is_scaled) {
        return thread_.part;
      } else {
        return thread_.sum;
      }
    }
    ();
    ORIEL_UNROLL
    for (std::uint32_t r = 0; r < Columns / 2; ++r) {
      ptx::pin(accumulators[r]);
    }
  }

  std::byte* shared_;
  std::uint32_t address_;
  const std::byte* bytes_ = nullptr;
  stage_ring<memory::stages> ring_, released_;
  thread_state thread_;
};

// 128 accumulators, the 64 words of an item that leaves late, and what a part of it takes.
inline constexpr std::uint32_t gemm_consumer_registers = 216;
inline constexpr std::uint32_t gemm_producer_registers = 72;
static_assert(2 * gemm_consumer_registers + gemm_producer_registers <= ptx::registers_launched<3>);

template <dtype Type, bool Swiglu, dtype Out>
__global__ void __launch_bounds__(gemm_threads, 1)
    grouped_gemm_kernel(const __grid_constant__ grouped_gemm_call call) {
  using memory = gemm_memory<Type>;
  extern __shared__ __align__(128) std::byte shared[];
  auto* const item_begin = reinterpret_cast<std::uint32_t*>(shared + memory::table);
  if (threadIdx.x == 0) {
    const std::uint32_t address = ptx::shared_address(shared);
    for (std::uint32_t stage = 0; stage < memory::stages; ++stage) {
      ptx::mbarrier_init(address + memory::full(stage), memory::full_arrivals);
      ptx::mbarrier_init(address + memory::free(stage), memory::free_arrivals);
    }
    ptx::fence_mbarrier_init();
  }
  for (std::uint32_t group = threadIdx.x; group < call.shape.groups; group += gemm_threads) {
    item_begin[group] = items_of(call, group);
  }
  __syncthreads();
  if (threadIdx.x < warp_threads) {
    scan_in_place(item_begin, call.shape.groups);
  }
  __syncthreads();

  const std::uint32_t warpgroup = __shfl_sync(0xFFFF'FFFFu, threadIdx.x / warpgroup_threads, 0);
  if (warpgroup == gemm_consumers) {
    ptx::lower_registers<gemm_producer_registers>();
    gemm_producer<Type> producer(shared);
    for_each_item(call, {item_begin, gridDim.x, blockIdx.x}, [&](const grouped_gemm_work& work) {
      produce_item<Type>(call, work, producer);
    });
    ptx::copy_async_wait_all();  // A thread does not leave before its copies have arrived.
  } else {
    ptx::raise_registers<gemm_consumer_registers>();
    gemm_consumer<Type> consumer(shared);
    consume_items<Type, Swiglu, Out>(
        call, {item_begin, gridDim.x, blockIdx.x}, warpgroup, consumer);
  }
}

template <dtype Type>
status launch_grouped_gemm(const cuda::grouped_gemm_plan& plan,
                           const grouped_gemm_call& call,
                           CUstream_st* stream) {
  using kernel_type = void (*)(grouped_gemm_call);
  static constexpr kernel_type kernels[2][2] = {
      {grouped_gemm_kernel<Type, false, dtype::f32>, grouped_gemm_kernel<Type, false, dtype::bf16>},
      {grouped_gemm_kernel<Type, true, dtype::f32>, grouped_gemm_kernel<Type, true, dtype::bf16>}};
  const kernel_type kernel = kernels[call.shape.swiglu][call.out_bf16 != nullptr];
  if (const status allowed = allow_shared(kernel, plan.shared_bytes, "grouped_gemm: shared memory");
      !allowed) {
    return allowed;
  }
  kernel<<<plan.blocks, gemm_threads, plan.shared_bytes, stream>>>(call);
  return launched("grouped_gemm: launch");
}

}  // namespace oriel::detail
