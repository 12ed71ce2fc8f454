// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: planning a step of 256 decoding sequences on a device: every plan that a MoE model with two
//       kinds of attention needs, and the parts of both kinds, which say where its sequences are.
// Why:  goal: at most 15 us, no wait for a device, no allocation. The program is linked with no
//       CUDA at all, and counts allocations. Processor time of one thread.
#include "figures.hpp"

#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/device_gemm.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/grouped_gemm.hpp>
#include <oriel/kernels/kv_append.hpp>
#include <oriel/kernels/moe_combine.hpp>
#include <oriel/kernels/moe_permute.hpp>
#include <oriel/kernels/moe_route.hpp>
#include <oriel/kernels/rms_norm.hpp>
#include <oriel/kernels/sample.hpp>

#include <cstdlib>
#include <ctime>
#include <memory>
#include <new>

namespace {

std::size_t allocations = 0;

}  // namespace

void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* p = std::malloc(bytes)) {
    return p;
  }
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}

namespace {

using namespace oriel;  // NOLINT: a program

constexpr std::uint32_t sequences = 256, rows = sequences, pages_max = 2048, ring_pages = 4;

/// Where a sequence's pages are listed, and how long it is.
struct step_input {
  std::uint32_t tables[sequences][pages_max];
  std::uint32_t rings[sequences][ring_pages];
  std::uint32_t lengths[sequences];
};

/// What a step hands to the device.
struct step_plan {
  paged_sequence full[sequences], window[sequences];
  std::size_t bytes;  ///< of workspaces
};

void plan_step(const step_input& in, step_plan& out) {
  std::size_t bytes = 0;
  bool is_fine = true;
  const auto take = [&](const auto& plan) {
    is_fine = is_fine && static_cast<bool>(plan);
    if constexpr (requires { plan->workspace_bytes; }) {
      bytes += is_fine ? plan->workspace_bytes : 0;
    }
  };
  const cuda::attention_limits limits{.sequences_max = sequences,
                                      .rows_max = rows,
                                      .rows_per_sequence_max = 1,
                                      .keys_max = pages_max * 64};
  const attention_shape full{64, 4, 192, 128, 64, 0, dtype::bf16};
  const attention_shape window{64, 8, 192, 128, 64, 128, dtype::bf16};
  take(cuda::plan_attention(full, limits));
  take(cuda::plan_attention(window, limits));
  take(cuda::plan_kv_append(full, rows));
  take(cuda::plan_kv_append(window, rows));
  take(cuda::plan_rms_norm({.width = 4096, .eps = 1e-5f, .activation = dtype::bf16}));
  for (const auto& [n, k] : {std::pair{13'568u, 4096u}, {4096u, 8192u}, {256u, 4096u}}) {
    take(cuda::plan_gemm({.n = n, .k = k, .weights = dtype::bf16}, dtype::bf16, rows));
  }
  take(cuda::plan_moe_route({.experts = 256, .top_k = 8}));
  take(cuda::plan_moe_permute({256, 8, rows}));
  take(cuda::plan_grouped_gemm({256, 2048, 4096, dtype::bf16, true}, {rows * 8, 132}));
  take(cuda::plan_grouped_gemm({256, 4096, 2048, dtype::bf16}, {rows * 8, 132}));
  take(cuda::plan_moe_combine({4096, 8}));
  take(cuda::plan_gather_rows({.width = 4096}));
  take(cuda::plan_gemm({.n = 152'576, .k = 4096, .weights = dtype::bf16}, dtype::f32, rows));
  take(cuda::plan_sample(152'576, rows));
  for (std::uint32_t i = 0; i < sequences; ++i) {
    out.full[i] = {in.tables[i], 0, in.lengths[i], 1};
    out.window[i] = {in.rings[i], ring_pages, in.lengths[i], 1};
  }
  if (!is_fine) {
    std::fprintf(stderr, "bench.cuda.plan: a plan was refused\n");
    std::exit(1);
  }
  out.bytes = bytes;
}

double now_us() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) * 1e-3;
}

}  // namespace

int main() {
  const auto in = std::make_unique<step_input>();
  const auto out = std::make_unique<step_plan>();
  constexpr std::uint32_t times = 1000;
  std::size_t in_plans = 0;
  const auto once = [&] {
    const std::size_t before = allocations;
    const double begin = now_us();
    for (std::uint32_t i = 0; i < times; ++i) {
      in->lengths[i % sequences] = i;
      plan_step(*in, *out);
      asm volatile("" : : "r"(out.get()) : "memory");  // Somebody reads it.
    }
    const double took = (now_us() - begin) / times;
    in_plans += allocations - before;
    return took;
  };
  bench::race r;
  const auto ours = r.add(once);
  r.run(101);
  constexpr double goal_us = 15;
  if (in_plans != 0) {
    std::fprintf(stderr, "bench.cuda.plan: %zu allocations: no figure\n", in_plans);
    return 1;
  }
  std::printf(
      "%s\n",
      bench::line_of({"plan", "", r.took(ours), "us", "the goal", goal_us, r.took(ours) / goal_us})
          .c_str());
  return 0;
}
