// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/draft_rows_agent.cuh"
#include "detail/launch.cuh"
#include "detail/ptx.cuh"
#include "detail/sample_agent.cuh"
#include "detail/verify_agent.cuh"

#include <algorithm>

namespace oriel::cuda {
namespace {

using detail::sample_message;
using detail::sample_parts;
using detail::sample_shared;
using detail::sample_slot;
using detail::sample_threads;

/// The 8 blocks of a cluster, as sample_tokens.cuh tells.
class device_cluster {
 public:
  static constexpr std::uint32_t parts = sample_parts;

  __device__ explicit device_cluster(std::byte* shared)
      : shared_(reinterpret_cast<sample_shared*>(shared)),
        logits_(reinterpret_cast<float*>(shared + sizeof(sample_shared))) {}

  template <class F>
  ORIEL_HOST_DEVICE void each_part(F&& f) {
#ifdef __CUDA_ARCH__
    f(detail::device_group<sample_threads>(), blockIdx.x % sample_parts, *shared_, logits_);
#endif
  }
  ORIEL_HOST_DEVICE void sync() {
#ifdef __CUDA_ARCH__
    detail::ptx::cluster_arrive();
    detail::ptx::cluster_wait();
#endif
  }
  ORIEL_HOST_DEVICE const sample_shared& front() const {
    return *shared_;
  }
  ORIEL_HOST_DEVICE void copy_ahead(void* to, const void* from) {
#ifdef __CUDA_ARCH__
    detail::ptx::copy_async(detail::ptx::shared_address(to), from);
#endif
  }
  ORIEL_HOST_DEVICE void wait_for_copies() {
#ifdef __CUDA_ARCH__
    detail::ptx::copies_wait();
#endif
  }

  ORIEL_HOST_DEVICE void open() {
#ifdef __CUDA_ARCH__
    if (threadIdx.x == 0) {
      for (std::uint64_t& barrier : shared_->inbox_barrier) {
        detail::ptx::mbarrier_init(detail::ptx::shared_address(&barrier), 1);
      }
      detail::ptx::fence_mbarrier_init();
      expect_messages(0);
      expect_messages(1);
    }
    detail::ptx::cluster_arrive_relaxed();
    detail::ptx::cluster_wait();
#endif
  }
  ORIEL_HOST_DEVICE void publish() {
#ifdef __CUDA_ARCH__
    detail::ptx::fence_device();
#endif
  }
  ORIEL_HOST_DEVICE void send(sample_shared& shared,
                              std::uint32_t part,
                              std::uint32_t to,
                              const sample_message& message) {
#ifdef __CUDA_ARCH__
    const std::uint32_t set = rounds_ % 2;
    detail::ptx::store_remote(
        detail::ptx::remote_address(detail::ptx::shared_address(&shared.inbox[set][part]), to),
        message.first,
        message.second,
        detail::ptx::remote_address(detail::ptx::shared_address(&shared.inbox_barrier[set]), to));
#endif
  }
  template <class Group>
  ORIEL_HOST_DEVICE const sample_message* hear(Group&, sample_shared& shared) {
    const std::uint32_t set = rounds_ % 2;
#ifdef __CUDA_ARCH__
    detail::ptx::mbarrier_wait_cluster(detail::ptx::shared_address(&shared.inbox_barrier[set]),
                                       rounds_ / 2 % 2);
    if (threadIdx.x == 0) {
      expect_messages(set);  // Of the next round but one: this block has sent none of the next.
    }
#endif
    ++rounds_;
    return shared.inbox[set];
  }

 private:
  __device__ void expect_messages(std::uint32_t set) {
    detail::ptx::mbarrier_arrive_expect(detail::ptx::shared_address(&shared_->inbox_barrier[set]),
                                        sample_parts * sizeof(sample_message));
  }

  sample_shared* shared_;
  float* logits_;
  std::uint32_t rounds_ = 0;
};

__global__ void __cluster_dims__(sample_parts, 1, 1) __launch_bounds__(sample_threads, 2)
    sample_kernel(const __grid_constant__ detail::sample_agent agent,
                  sample_slot* slots,
                  const std::uint32_t* row_count) {
  extern __shared__ __align__(16) std::byte shared[];
  device_cluster cluster(shared);
  const std::uint32_t id = blockIdx.x / sample_parts, clusters = gridDim.x / sample_parts;
  const auto rows = static_cast<std::uint32_t>(agent.args.rows.size());
  const std::uint32_t now = row_count != nullptr && *row_count < rows ? *row_count : rows;
  agent(cluster, id, clusters, now, slots + std::size_t{id} * detail::sample_slots);
}

constexpr std::uint32_t verify_threads = 64;

__global__ void __launch_bounds__(verify_threads)
    verify_kernel(const __grid_constant__ verify_args args, const std::uint32_t* chain_count) {
  const std::uint32_t chain = blockIdx.x * verify_threads + threadIdx.x;
  if (chain < args.chains.size() && detail::has_row(chain, chain_count)) {
    args.out.data()[chain] = detail::judge_chain(args, args.chains.data()[chain]);
  }
}

__global__ void __launch_bounds__(verify_threads)
    draft_rows_kernel(const __grid_constant__ draft_rows_args args,
                      const std::uint32_t* sequence_count) {
  const std::uint32_t sequence = blockIdx.x * verify_threads + threadIdx.x;
  if (sequence < args.spans.size() && detail::has_row(sequence, sequence_count)) {
    detail::draft_rows_of(args, sequence);
  }
}

/// How many clusters the device has room for at once. A row that waits for another one's cluster to
/// end would cost as much as all rows of that cluster.
result<std::uint32_t> resident_clusters(const sample_plan& plan) noexcept {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3{plan.clusters * sample_parts};
  config.blockDim = dim3{sample_threads};
  config.dynamicSmemBytes = plan.shared_bytes;
  int clusters = 0;
  const cudaError_t e = cudaOccupancyMaxActiveClusters(&clusters, sample_kernel, &config);
  if (e != cudaSuccess || clusters < 1) {
    cudaGetLastError();  // Else the next launch takes it for its own.
    return failure{
        errc::device_failure, static_cast<int>(e), "sample: no room for a cluster of 8 blocks"};
  }
  return static_cast<std::uint32_t>(clusters);
}

}  // namespace

status run_sample(const sample_plan& plan,
                  const sample_args& args,
                  std::span<std::byte> workspace,
                  CUstream_st* stream,
                  const std::uint32_t* row_count) noexcept {
  ORIEL_EXPECTS(workspace.size() >= plan.workspace_bytes);
  ORIEL_EXPECTS(args.out.size() == args.rows.size());
  if (args.rows.empty()) {
    return {};
  }
  if (const status s =
          detail::allow_shared(sample_kernel, plan.shared_bytes, "sample: shared memory");
      !s) {
    return s;
  }
  const result<std::uint32_t> resident = resident_clusters(plan);
  if (!resident) {
    return resident.error();
  }
  const auto rows = static_cast<std::uint32_t>(args.rows.size());
  const std::uint32_t clusters = std::min({rows, plan.clusters, *resident});
  sample_kernel<<<clusters * sample_parts, sample_threads, plan.shared_bytes, stream>>>(
      {plan.vocabulary, plan.part_tokens, args},
      reinterpret_cast<sample_slot*>(workspace.data()),
      row_count);
  return detail::launched("sample: launch");
}

status run_verify_chains(const verify_args& args,
                         CUstream_st* stream,
                         const std::uint32_t* chain_count) noexcept {
  ORIEL_EXPECTS(args.out.size() == args.chains.size());
  if (args.chains.empty()) {
    return {};
  }
  const auto chains = static_cast<std::uint32_t>(args.chains.size());
  verify_kernel<<<(chains - 1) / verify_threads + 1, verify_threads, 0, stream>>>(args,
                                                                                  chain_count);
  return detail::launched("verify_chains: launch");
}

status run_draft_rows(const draft_rows_args& args,
                      CUstream_st* stream,
                      const std::uint32_t* sequence_count) noexcept {
  ORIEL_EXPECTS(args.logit_rows.size() == args.spans.size());
  if (args.spans.empty()) {
    return {};
  }
  const auto sequences = static_cast<std::uint32_t>(args.spans.size());
  draft_rows_kernel<<<(sequences - 1) / verify_threads + 1, verify_threads, 0, stream>>>(
      args, sequence_count);
  return detail::launched("draft_rows: launch");
}

}  // namespace oriel::cuda
