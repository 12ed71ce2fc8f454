// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The attention kernel on a device: attention_program.cuh run by `Warpgroups` consumer warpgroups,
/// one producer warp and three loader warps, persistently over the items that the block finds in
/// device memory. With e4m3 KV the producer fills raw stages, from which the loaders, converters
/// then, fill stages of bf16.
#pragma once

#include "attention_convert.cuh"
#include "attention_program.cuh"
#include "attention_units.hpp"
#include "launch.cuh"
#include "ptx_gemm.cuh"

namespace oriel::detail {

/// Offsets into a block's shared memory.
template <class Dims, std::uint32_t Warpgroups>
struct attention_memory {
  static constexpr std::uint32_t query_bytes = Warpgroups * Dims::query_bytes;
  static constexpr std::uint32_t stages =
      Dims::is_scaled ? converted_stages : attention_stages(Dims::stage_bytes);
  static constexpr std::uint32_t raw_stages =
      Dims::is_scaled ? attention_raw_stages(Dims::raw_bytes, query_bytes, Dims::stage_bytes) : 0;
  static constexpr std::uint32_t first_raw = query_bytes + stages * Dims::stage_bytes;
  static constexpr std::uint32_t barriers = first_raw + raw_stages * Dims::raw_bytes;
  static constexpr std::uint32_t raw_barriers = barriers + 3 * stages * 8;
  // The item at hand: a barrier says that it is there, with its queries, one that both may be
  // overwritten.
  static constexpr std::uint32_t item_full = raw_barriers + 2 * raw_stages * 8;
  static constexpr std::uint32_t item_free = item_full + 8;
  static constexpr std::uint32_t item = item_full + 16;
  static constexpr std::uint32_t tables = item_full + attention_item_bytes;

  [[nodiscard]] static __device__ std::uint32_t k_stage(std::uint32_t stage) {
    return query_bytes + stage * Dims::stage_bytes;
  }
  [[nodiscard]] static __device__ std::uint32_t v_stage(std::uint32_t stage) {
    return k_stage(stage) + Dims::k_bytes;
  }
  // Barriers: K there, V there, stage free. e4m3: k_full says that all of the converted stage is
  // there; v_full is idle.
  [[nodiscard]] static __device__ std::uint32_t k_full(std::uint32_t stage) {
    return barriers + stage * 8;
  }
  [[nodiscard]] static __device__ std::uint32_t v_full(std::uint32_t stage) {
    return barriers + (stages + stage) * 8;
  }
  [[nodiscard]] static __device__ std::uint32_t free(std::uint32_t stage) {
    return barriers + (2 * stages + stage) * 8;
  }
  [[nodiscard]] static __device__ std::uint32_t raw_stage(std::uint32_t stage) {
    return first_raw + stage * Dims::raw_bytes;
  }
  [[nodiscard]] static __device__ std::uint32_t raw_full(std::uint32_t stage) {
    return raw_barriers + stage * 8;
  }
  [[nodiscard]] static __device__ std::uint32_t raw_free(std::uint32_t stage) {
    return raw_barriers + (raw_stages + stage) * 8;
  }
  /// One thread, before all others.
  static __device__ void init_barriers(std::uint32_t shared) {
    constexpr std::uint32_t consumer_warps = Warpgroups * warpgroup_threads / warp_threads;
    for (std::uint32_t stage = 0; stage < stages; ++stage) {
      ptx::mbarrier_init(shared + k_full(stage), Dims::is_scaled ? converter_threads : 1);
      ptx::mbarrier_init(shared + v_full(stage), 1);
      ptx::mbarrier_init(shared + free(stage), consumer_warps);
    }
    for (std::uint32_t stage = 0; Dims::is_scaled && stage != raw_stages; ++stage) {
      ptx::mbarrier_init(shared + raw_full(stage), 2);  // K is announced, and V.
      ptx::mbarrier_init(shared + raw_free(stage), converter_threads);
    }
    ptx::mbarrier_init(shared + item_full, loader_threads + 1);  // The item, and their queries.
    ptx::mbarrier_init(shared + item_free, consumer_warps);
    ptx::fence_mbarrier_init();
  }
};

/// Where bulk copies bring tiles, and what counts their bytes: the consumers' stages.
template <class Dims, std::uint32_t Warpgroups, bool IsScaled = Dims::is_scaled>
struct attention_landing {
  using memory = attention_memory<Dims, Warpgroups>;
  static constexpr std::uint32_t stages = memory::stages;
  [[nodiscard]] static __device__ std::uint32_t k(std::uint32_t stage) {
    return memory::k_stage(stage);
  }
  [[nodiscard]] static __device__ std::uint32_t v(std::uint32_t stage) {
    return memory::v_stage(stage);
  }
  [[nodiscard]] static __device__ std::uint32_t k_full(std::uint32_t stage) {
    return memory::k_full(stage);
  }
  [[nodiscard]] static __device__ std::uint32_t v_full(std::uint32_t stage) {
    return memory::v_full(stage);
  }
  [[nodiscard]] static __device__ std::uint32_t free(std::uint32_t stage) {
    return memory::free(stage);
  }
};
/// Where tiles are converted: raw stages, each with one barrier.
template <class Dims, std::uint32_t Warpgroups>
struct attention_landing<Dims, Warpgroups, true> {
  using memory = attention_memory<Dims, Warpgroups>;
  static constexpr std::uint32_t stages = memory::raw_stages;
  [[nodiscard]] static __device__ std::uint32_t k(std::uint32_t stage) {
    return memory::raw_stage(stage);
  }
  [[nodiscard]] static __device__ std::uint32_t v(std::uint32_t stage) {
    return memory::raw_stage(stage) + Dims::raw_k_bytes;
  }
  [[nodiscard]] static __device__ std::uint32_t k_full(std::uint32_t stage) {
    return memory::raw_full(stage);
  }
  [[nodiscard]] static __device__ std::uint32_t v_full(std::uint32_t stage) {
    return memory::raw_full(stage);
  }
  [[nodiscard]] static __device__ std::uint32_t free(std::uint32_t stage) {
    return memory::raw_free(stage);
  }
};

/// The machine of a consumer warpgroup: this thread's part of it.
template <class Dims, std::uint32_t Warpgroups>
class attention_consumer {
 public:
  using memory = attention_memory<Dims, Warpgroups>;

  __device__ __forceinline__ attention_consumer(std::byte* shared, std::uint32_t warpgroup)
      : address_(ptx::shared_address(shared)), warpgroup_(warpgroup) {}

  template <class F>
  __device__ __forceinline__ void each(F&& f) {
    f(threadIdx.x % warpgroup_threads, thread_);
  }
  /// f for all threads of each warp of which one says so.
  template <class Says, class F>
  __device__ __forceinline__ void each_in_warps_with(Says&& says, F&& f) {
    if (__any_sync(0xFFFFFFFFu, says(thread_))) {
      f(thread_);
    }
  }
  /// For the compiler new each time: it would keep the descriptors made of it in registers.
  [[nodiscard]] __device__ __forceinline__ std::uint32_t queries_address() const {
    std::uint32_t address = address_ + warpgroup_ * Dims::query_bytes;
    ptx::pin(address);
    return address;
  }
  /// V of the tile whose K was waited for last, when it is there.
  [[nodiscard]] __device__ __forceinline__ std::byte* wait_values() const {
    const auto [stage, parity] = next_.before();
    ptx::mbarrier_wait(address_ + memory::v_full(stage), parity);
    __syncwarp();
    return ptx::shared_pointer(address_ + memory::v_stage(stage));
  }
  /// Of the tile that was waited for last.
  [[nodiscard]] __device__ __forceinline__ const float* scales() const {
    return reinterpret_cast<const float*>(
        ptx::shared_pointer(address_ + memory::v_stage(next_.before().stage) + Dims::v_bytes));
  }

  __device__ __forceinline__ void publish_to_all() const {
    ptx::fence_async_proxy();
    __syncwarp();
    ptx::named_barrier(1, Warpgroups * warpgroup_threads);
  }
  // Turns of two warpgroups, the first of which begins: both have the same tiles. Not with e4m3,
  // where both wait for converters, and no register is left.
  static constexpr bool has_turns = Warpgroups == 2 && !Dims::is_scaled;
  __device__ __forceinline__ void begin_turns() const {
    if (has_turns && warpgroup_ != 0) {
      pass_turn();
    }
  }
  __device__ __forceinline__ void take_turn() const {
    if constexpr (has_turns) {
      __syncwarp();
      if (warpgroup_ == 0) {
        ptx::named_barrier(first_turn, Warpgroups * warpgroup_threads);
      } else {
        ptx::named_barrier(second_turn, Warpgroups * warpgroup_threads);
      }
    }
  }
  __device__ __forceinline__ void pass_turn() const {
    if constexpr (has_turns) {
      if (warpgroup_ == 0) {
        ptx::named_barrier_arrive(second_turn, Warpgroups * warpgroup_threads);
      } else {
        ptx::named_barrier_arrive(first_turn, Warpgroups * warpgroup_threads);
      }
    }
  }
  /// The last one is passed to the first warpgroup.
  __device__ __forceinline__ void end_turns() const {
    if (has_turns && warpgroup_ == 0) {
      take_turn();
    }
  }
  /// The next item, when it is there with its queries. An empty one ends all.
  [[nodiscard]] __device__ __forceinline__ attention_work next_item() {
    ptx::mbarrier_wait(address_ + memory::item_full, item_parity_);
    __syncwarp();
    ptx::fence_async_proxy();
    item_parity_ ^= 1;
    return *reinterpret_cast<const attention_work*>(ptx::shared_pointer(address_ + memory::item));
  }
  /// This warp has read the item and will not read its queries again.
  __device__ __forceinline__ void release_queries() const {
    if (threadIdx.x % warp_threads == 0) {
      ptx::mbarrier_arrive(address_ + memory::item_free);
    }
  }
  /// K of the next tile.
  [[nodiscard]] __device__ __forceinline__ std::uint32_t wait_k() {
    const std::uint32_t stage = memory::k_stage(next_.stage);
    ptx::mbarrier_wait(address_ + memory::k_full(next_.stage), next_.parity);
    next_.advance();
    return address_ + stage;
  }
  /// V of the oldest tile whose stage was not given back.
  __device__ __forceinline__ std::uint32_t wait_v() const {
    if constexpr (!Dims::is_scaled) {
      ptx::mbarrier_wait(address_ + memory::v_full(held_.stage), held_.parity);
    }
    return address_ + memory::v_stage(held_.stage);
  }
  /// Gives the oldest stage back.
  __device__ __forceinline__ void release() {
    if (threadIdx.x % warp_threads == 0) {
      ptx::mbarrier_arrive(address_ + memory::free(held_.stage));
    }
    held_.advance();
  }

  // Waits, branches, and what one lane does alone let the threads of a warp part; wgmma, and
  // barriers of the block, want them together.
  __device__ __forceinline__ void begin_scores() {  // They begin at zero: no pin.
    __syncwarp();
    ptx::wgmma_fence();
  }
  __device__ __forceinline__ void begin_values() {
    __syncwarp();
    pin_out();
    ORIEL_UNROLL
    for (std::uint32_t& x : thread_.weight) {
      ptx::pin(x);
    }
    ptx::wgmma_fence();
  }
  __device__ __forceinline__ void commit_multiply() { ptx::wgmma_commit(); }
  /// Weights are computed here, under the products, and not behind the next wait: ptxas moves waits
  /// up, past all that it may. A sum has all weights of a row, and none is negative: nothing is
  /// stored. A trap instead of the store would cost registers.
  __device__ __forceinline__ void finish_weights() const {
    ptx::store_negative(address_, thread_.split_sum[0], thread_.split_sum[1]);
  }
  /// Waits until at most the `Pending` products started last are under way. If that is one, it is
  /// that of the values.
  template <std::uint32_t Pending>
  __device__ __forceinline__ void wait_multiply() {
    __syncwarp();
    ptx::wgmma_wait<Pending>();
    pin_scores();
    if constexpr (Pending == 0) {
      pin_out();
    }
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

  /// Of each four words of a thread's `weight`, thread q of four gets the q-th of all four.
  __device__ __forceinline__ void exchange_in_quads() {
    const bool is_odd = threadIdx.x % 2 != 0, is_high = threadIdx.x % 4 >= 2;
    ORIEL_UNROLL
    for (std::uint32_t k = 0; k < Dims::vo / core_side; k += 4) {
      std::uint32_t* const w = thread_.weight + k;
      swap_across(w[0], w[1], is_odd, 1);
      swap_across(w[2], w[3], is_odd, 1);
      swap_across(w[0], w[2], is_high, 2);
      swap_across(w[1], w[3], is_high, 2);
    }
  }

 private:
  /// The barriers at which a warpgroup waits for its turn. Constants: with a computed number the
  /// descriptors of products leave the uniform registers, and each product takes two instructions
  /// more to start.
  static constexpr std::uint32_t first_turn = 2, second_turn = 3;
  /// Between two threads: the upper one's `low` for the other's `high`.
  static __device__ __forceinline__ void swap_across(std::uint32_t& low,
                                                     std::uint32_t& high,
                                                     bool is_upper,
                                                     std::uint32_t distance) {
    const std::uint32_t got =
        __shfl_xor_sync(0xFFFFFFFFu, is_upper ? low : high, static_cast<int>(distance));
    low = is_upper ? got : low;
    high = is_upper ? high : got;
  }
  template <class F>
  __device__ __forceinline__ void quad(pair_member member, F&& f) {
    ORIEL_UNROLL
    for (float& x : thread_.*member) {
      x = f(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
      x = f(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
    }
  }
  __device__ __forceinline__ void pin_scores() {
    ORIEL_UNROLL
    for (float& x : thread_.score) {
      ptx::pin(x);
    }
  }
  __device__ __forceinline__ void pin_out() {
    ORIEL_UNROLL
    for (float& x : thread_.out) {
      ptx::pin(x);
    }
  }

  std::uint32_t address_;
  std::uint32_t warpgroup_;
  std::uint32_t item_parity_ = 0;
  stage_ring<memory::stages> next_, held_;
  attention_thread<Dims> thread_;
};

/// The machine of the producer warp: a lane's copies.
template <class Dims, class Landing>
class attention_producer {
 public:
  __device__ __forceinline__ explicit attention_producer(std::byte* shared)
      : address_(ptx::shared_address(shared)) {}

  __device__ __forceinline__ void produce(const attention_call& call, const attention_work& work) {
    const std::uint32_t lane = threadIdx.x % warp_threads, last_tile = work.last_tile();
    for (std::uint32_t tile = work.first_tile(); tile < last_tile; ++tile) {
      const tile_piece piece = piece_of(call, work, tile, lane);  // While the stage is still busy.
      ptx::mbarrier_wait(address_ + Landing::free(ring_.stage), ring_.parity ^ 1);
      if (lane == 0) {
        const key_range range = copied_keys(call, work, tile);
        const std::uint32_t keys = range.hi - range.lo;
        ptx::mbarrier_arrive_expect(address_ + Landing::k_full(ring_.stage),
                                    keys * Dims::k_key_bytes);
        ptx::mbarrier_arrive_expect(address_ + Landing::v_full(ring_.stage),
                                    keys * Dims::v_key_bytes);
      }
      __syncwarp();
      copy_piece<Dims>(call, work, tile, piece, *this);
      ring_.advance();
    }
  }
  __device__ __forceinline__ void copy_k(std::uint32_t to, const void* from, std::uint32_t bytes) {
    ptx::bulk_copy(address_ + Landing::k(ring_.stage) + to,
                   from,
                   bytes,
                   address_ + Landing::k_full(ring_.stage));
  }
  __device__ __forceinline__ void copy_v(std::uint32_t to, const void* from, std::uint32_t bytes) {
    ptx::bulk_copy(address_ + Landing::v(ring_.stage) + to,
                   from,
                   bytes,
                   address_ + Landing::v_full(ring_.stage));
  }

 private:
  std::uint32_t address_;
  stage_ring<Landing::stages> ring_;
};

/// A loader thread. `index`: of loader_threads.
template <class Dims, std::uint32_t Warpgroups>
class attention_loader {
 public:
  using memory = attention_memory<Dims, Warpgroups>;

  __device__ __forceinline__ attention_loader(std::byte* shared, std::uint32_t index)
      : address_(ptx::shared_address(shared)), index_(index) {}

  /// Each consumer warp gives item i back before it waits for i + 1, and item i + 1 is not there
  /// before all have given i back: neither side is ever two phases behind the other. Between the
  /// wait here and the arrivals no consumer reads the item or its queries.
  __device__ __forceinline__ void hand_over(const attention_call& call,
                                            const attention_work& work) {
    ptx::mbarrier_wait(address_ + memory::item_free, parity_ ^ 1);
    parity_ ^= 1;
    if (index_ == 0) {
      *reinterpret_cast<attention_work*>(ptx::shared_pointer(address_ + memory::item)) = work;
      // Apart from the arrival behind this thread's copies, which does not release its stores.
      ptx::mbarrier_arrive(address_ + memory::item_full);
    }
    if (!work.is_empty()) {
      copy_queries<Dims>(
          call,
          work,
          index_,
          [&](std::uint32_t to, const bf16* from, std::uint32_t units, std::uint32_t bytes) {
            ptx::copy_async_16(address_ + to, from, units, bytes);
          });
    }
    ptx::mbarrier_arrive_after_copies(address_ + memory::item_full);
  }

 private:
  std::uint32_t address_;
  std::uint32_t index_;
  std::uint32_t parity_ = 0;
};

/// A converter thread. `index`: of converter_threads.
template <class Dims, std::uint32_t Warpgroups>
class attention_converter {
 public:
  using memory = attention_memory<Dims, Warpgroups>;

  __device__ __forceinline__ attention_converter(std::byte* shared, std::uint32_t index)
      : address_(ptx::shared_address(shared)), index_(index) {}

  __device__ __forceinline__ void convert(const attention_work& work) {
    const std::uint32_t last_tile = work.last_tile();
    for (std::uint32_t tile = work.first_tile(); tile < last_tile; ++tile) {
      ptx::mbarrier_wait(address_ + memory::raw_full(raw_.stage), raw_.parity);
      ptx::mbarrier_wait(address_ + memory::free(ring_.stage), ring_.parity ^ 1);
      convert_tile<Dims>(work,
                         tile,
                         index_,
                         ptx::shared_pointer(address_ + memory::raw_stage(raw_.stage)),
                         ptx::shared_pointer(address_ + memory::k_stage(ring_.stage)));
      ptx::fence_async_proxy();
      ptx::mbarrier_arrive(address_ + memory::k_full(ring_.stage));
      ptx::mbarrier_arrive(address_ + memory::raw_free(raw_.stage));
      raw_.advance();
      ring_.advance();
    }
  }

 private:
  std::uint32_t address_;
  std::uint32_t index_;
  stage_ring<memory::raw_stages> raw_;
  stage_ring<memory::stages> ring_;
};

/// Threads of a block, and the registers that those of two consumer warpgroups are handed over by
/// the suppliers, a warpgroup: the producer's warp and the loaders.
template <class Dims, std::uint32_t Warpgroups>
struct attention_threads {
  static constexpr bool hands_over = Warpgroups > 1;
  static constexpr std::uint32_t all = (Warpgroups + 1) * warpgroup_threads;
  static constexpr std::uint32_t consumer_registers = Dims::is_scaled ? 216 : 232;
  static constexpr std::uint32_t supplier_registers = Dims::is_scaled ? 72 : 40;
  static_assert(!hands_over || Warpgroups * consumer_registers + supplier_registers <=
                                   ptx::registers_launched<Warpgroups + 1>);
};

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
  if (threadIdx.x < 2 * warp_threads) {  // A warp each: each sum is a chain of shuffles.
    scan_in_place(threadIdx.x < warp_threads ? item_begin : row_begin, n);
  }
}

template <class Dims, std::uint32_t Warpgroups>
__global__ void __launch_bounds__(attention_threads<Dims, Warpgroups>::all, 1)
    attention_kernel(const __grid_constant__ attention_call call) {
  using memory = attention_memory<Dims, Warpgroups>;
  using threads = attention_threads<Dims, Warpgroups>;
  extern __shared__ __align__(128) std::byte shared[];
  auto* const item_begin = reinterpret_cast<std::uint32_t*>(shared + memory::tables);
  std::uint32_t* const row_begin = item_begin + call.args.sequences.size() + 1;
  if (threadIdx.x == 0) {
    memory::init_barriers(ptx::shared_address(shared));
  }
  fill_tables(call, item_begin, row_begin);
  __syncthreads();

  const std::uint32_t warpgroup = threadIdx.x / warpgroup_threads;
  const auto for_items = [&](auto&& f) {
    for_each_item(call, item_begin, row_begin, blockIdx.x, gridDim.x, f);
  };
  if (warpgroup == Warpgroups) {
    if constexpr (threads::hands_over) {
      ptx::lower_registers<threads::supplier_registers>();
    }
    if (const std::uint32_t index = threadIdx.x % warpgroup_threads; index < warp_threads) {
      attention_producer<Dims, attention_landing<Dims, Warpgroups>> producer(shared);
      for_items([&](const attention_work& work) { producer.produce(call, work); });
    } else {
      attention_loader<Dims, Warpgroups> loader(shared, index - warp_threads);
      if constexpr (Dims::is_scaled) {
        attention_converter<Dims, Warpgroups> converter(shared, index - warp_threads);
        for_items([&](const attention_work& work) {
          loader.hand_over(call, work);
          converter.convert(work);
        });
      } else {
        for_items([&](const attention_work& work) { loader.hand_over(call, work); });
      }
      loader.hand_over(call, {});
    }
  } else {
    if constexpr (threads::hands_over) {
      ptx::raise_registers<threads::consumer_registers>();
    }
    const std::uint32_t index = Warpgroups == 1 ? 0 : warpgroup;  // Known, it takes no register.
    attention_consumer<Dims, Warpgroups> consumer(shared, index);
    consumer.begin_turns();
    for (attention_work work = consumer.next_item(); !work.is_empty();
         work = consumer.next_item()) {
      attend_item<Dims>(call, work, index, consumer);
    }
    consumer.end_turns();
  }
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
      two ? attention_threads<Dims, 2>::all : attention_threads<Dims, 1>::all;
  kernel<<<launch.blocks, threads, launch.shared_bytes, stream>>>(call);
  return launched("attention: launch");
}

}  // namespace oriel::detail
