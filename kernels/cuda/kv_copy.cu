// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/kv_copy_agent.cuh"
#include "detail/kv_copy_runs.hpp"
#include "detail/launch.cuh"
#include "detail/ptx.cuh"

namespace oriel::cuda {
namespace {

using namespace detail;  // NOLINT: a .cu file

constexpr std::uint32_t barriers_at = kv_stages * kv_stage_bytes;
constexpr std::uint32_t targets_at = barriers_at + kv_stages * 8;
constexpr std::uint32_t shared_bytes = targets_at + kv_stages * sizeof(kv_piece_target);

/// The machine of kv_copy_agent.cuh: this thread's part of it. Thread 0 starts all copies.
class copy_machine {
 public:
  template <class T>
  using var = T;  // of a lane of the first warp

  __device__ explicit copy_machine(std::byte* shared)
      : shared_(shared), address_(ptx::shared_address(shared)) {
    if (threadIdx.x == 0) {
      for (std::uint32_t stage = 0; stage < kv_stages; ++stage) {
        ptx::mbarrier_init(barrier(stage), 1);
      }
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
  }

  template <class F>
  [[nodiscard]] __device__ kv_page_pair lanes(F&& f) const {
    return f(threadIdx.x % 32);
  }
  [[nodiscard]] __device__ kv_page_pair lane(kv_page_pair pair, std::uint32_t i) const {
    return {__shfl_sync(0xFFFF'FFFFu, pair.from, i), __shfl_sync(0xFFFF'FFFFu, pair.to, i)};
  }

  __device__ void load(std::uint32_t stage, const kv_piece& piece) {
    if (threadIdx.x == 0) {
      targets()[stage] = piece.target;
      ptx::mbarrier_arrive_expect(barrier(stage), piece.target.bytes);
      ptx::bulk_copy(
          address_ + stage * kv_stage_bytes, piece.from, piece.target.bytes, barrier(stage));
    }
  }
  __device__ void wait_load(std::uint32_t stage, std::uint32_t parity) const {
    ptx::mbarrier_wait(barrier(stage), parity);
  }
  [[nodiscard]] const __device__ kv_piece_target& target(std::uint32_t stage) const {
    return targets()[stage];
  }
  [[nodiscard]] __device__ std::byte* stage(std::uint32_t i) const {
    return shared_ + i * kv_stage_bytes;
  }

  __device__ void store(std::uint32_t stage, std::byte* to, std::uint32_t bytes) {
    if (threadIdx.x == 0) {
      ptx::bulk_store(to, address_ + stage * kv_stage_bytes, bytes);
      ptx::bulk_commit();
    }
  }
  // Groups are a thread's own: the other lanes have none, and meet it in the next shuffle.
  template <std::uint32_t N>
  __device__ void wait_read() {
    ptx::bulk_wait_read<N>();
  }
  __device__ void wait_written() { ptx::bulk_wait_written(); }

  template <class F>
  __device__ void move(F&& f) {
    if (threadIdx.x < 32) {
      f();
    }
  }
  template <class F>
  __device__ void each(F&& f) const {
    f(threadIdx.x, kv_permute_threads);
  }
  __device__ void meet() { __syncthreads(); }
  __device__ void publish() {
    ptx::fence_async_proxy();
    __syncthreads();
  }

 private:
  [[nodiscard]] __device__ std::uint32_t barrier(std::uint32_t stage) const {
    return address_ + barriers_at + stage * 8;
  }
  [[nodiscard]] __device__ kv_piece_target* targets() const {
    return reinterpret_cast<kv_piece_target*>(shared_ + targets_at);
  }

  std::byte* shared_;
  std::uint32_t address_;
};

template <kv_permutation P>
constexpr std::uint32_t threads_of =
    P == kv_permutation::none ? kv_copy_threads : kv_permute_threads;

template <kv_permutation P>
__global__ void __launch_bounds__(threads_of<P>)
    kv_copy_kernel(const __grid_constant__ kv_copy_call call) {
  extern __shared__ __align__(128) std::byte shared[];
  copy_machine machine(shared);
  const kv_pieces pieces(call, blockIdx.x, gridDim.x);
  if constexpr (P == kv_permutation::none) {
    copy_pieces(pieces, machine);
  } else {
    permute_pieces<P>(call, pieces, machine);
  }
}

template <kv_permutation P>
status launch(const kv_copy_plan& plan, const kv_copy_args& args, CUstream_st* stream) noexcept {
  if (status allowed = allow_shared(kv_copy_kernel<P>, shared_bytes, "kv_copy: shared memory");
      !allowed) {
    return allowed;
  }
  for (std::size_t first = 0; first < args.layers.size(); first += kv_copy_layers) {
    const std::size_t left = args.layers.size() - first;
    const auto layers = args.layers.subspan(first, left < kv_copy_layers ? left : kv_copy_layers);
    const kv_copy_call call = make_kv_copy_call(plan, args, layers);
    kv_copy_kernel<P><<<plan.blocks, threads_of<P>, shared_bytes, stream>>>(call);
    if (status done = launched("kv_copy: launch"); !done) {
      return done;
    }
  }
  return {};
}

/// Runs on their way to the driver, so many a call.
class engine_batch {
 public:
  explicit engine_batch(CUstream_st* stream) noexcept : stream_(stream) {}

  void add(const kv_copy_run& run) noexcept {
    to_[count_] = run.to;
    from_[count_] = run.from;
    bytes_[count_] = run.bytes;
    if (++count_ == runs_max) {
      flush();
    }
  }
  [[nodiscard]] status finish() noexcept {
    flush();
    return outcome_;
  }

 private:
  static constexpr std::size_t runs_max = 256;

  void flush() noexcept {
    if (count_ == 0 || !outcome_) {
      count_ = 0;
      return;
    }
    // In the order of the stream: with cudaMemcpySrcAccessOrderAny an engine may read a page ahead
    // of the events that the stream waits for.
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
    std::size_t first = 0;
    const cudaError_t e =
        cudaMemcpyBatchAsync(to_, from_, bytes_, count_, &attributes, &first, 1, stream_);
    if (e != cudaSuccess) {
      cudaGetLastError();  // Else the next launch takes it for its own.
      outcome_ = failure{errc::device_failure, static_cast<int>(e), "kv_copy: batch of copies"};
    }
    count_ = 0;
  }

  CUstream_st* stream_;
  void* to_[runs_max];
  const void* from_[runs_max];
  std::size_t bytes_[runs_max];
  std::size_t count_ = 0;
  status outcome_;
};

}  // namespace

status run_kv_copy(const kv_copy_plan& plan,
                   const kv_copy_args& args,
                   CUstream_st* stream) noexcept {
  if (args.layers.empty() || args.pages.empty()) {
    return {};
  }
  if (plan.way == kv_copy_way::engine) {
    ORIEL_EXPECTS(args.page_count == nullptr);
    engine_batch batch(stream);
    for_each_run(plan, args, [&](const kv_copy_run& run) { batch.add(run); });
    return batch.finish();
  }
  if (!plan.permutes) {
    return launch<kv_permutation::none>(plan, args, stream);
  }
  return plan.shape.to == kv_order::device ? launch<kv_permutation::to_device>(plan, args, stream)
                                           : launch<kv_permutation::to_host>(plan, args, stream);
}

}  // namespace oriel::cuda
