// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// GEMM on packed weights, one thread, beside what the machine can do and beside oneDNN.
//
// Each iteration measures all of them in turn, by the thread's processor time; counters are medians
// of the ratios. Weights rotate through a buffer larger than the caches.
#include <oriel/core/random.hpp>
#include <oriel/kernels/gemm.hpp>

#include <benchmark/benchmark.h>
#include <engine/machine_peaks.hpp>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <time.h>

#if defined(ORIEL_BENCH_ONEDNN)
#include <dnnl.hpp>
#include <omp.h>
#endif

namespace {

using oriel::dtype;
using oriel::isa;

constexpr std::size_t buffer_bytes = std::size_t{1} << 30;

double cpu_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Huge pages for whatever is streamed, ours and the peer's.
std::unique_ptr<std::byte, void (*)(void*)> allocate(std::size_t bytes) {
  constexpr std::size_t page = std::size_t{2} << 20;
  const std::size_t rounded = (bytes + page - 1) / page * page;
  auto* p = static_cast<std::byte*>(std::aligned_alloc(page, rounded));
  ::madvise(p, rounded, MADV_HUGEPAGE);
  std::memset(p, 0, rounded);
  return {p, &std::free};
}

struct size {
  std::uint32_t m, n, k;
};

// Ours: packed random weights, as many copies as fill the buffer.
class own_gemm {
 public:
  own_gemm(size s, dtype weights, isa path)
      : size_(s),
        plan_(*oriel::host::plan_gemm({.n = s.n, .k = s.k, .weights = weights},
                                      s.m,
                                      1,
                                      path,
                                      oriel::host::gemm_backend::own)),
        copies_(std::max<std::size_t>(1, buffer_bytes / plan_.packed_bytes)),
        weights_(allocate(copies_ * plan_.packed_bytes)),
        workspace_(allocate(plan_.workspace_bytes)),
        x_(std::size_t{s.m} * s.k),
        out_(std::size_t{s.m} * s.n) {
    oriel::random_stream random(1);
    for (float& x : x_) {
      x = random.next_uniform(-1.0f, 1.0f);
    }
    std::vector<std::byte> plain(std::size_t{s.n} * s.k * size_bytes(weights));
    for (std::size_t i = 0; i < plain.size(); i += size_bytes(weights)) {
      const float w = random.next_uniform(-1.0f, 1.0f);
      const oriel::bf16 rounded = oriel::to_bf16(w);
      std::memcpy(&plain[i],
                  weights == dtype::f32 ? static_cast<const void*>(&w) : &rounded,
                  size_bytes(weights));
    }
    oriel::host::pack_gemm_weights(plan_, plain.data(), 0, s.n, weights_.get());
    for (std::size_t c = 1; c < copies_; ++c) {
      std::memcpy(weights_.get() + c * plan_.packed_bytes, weights_.get(), plan_.packed_bytes);
    }
  }
  void run() {
    oriel::serial_executor serial;
    oriel::host::run_gemm(plan_,
                          {.out = out_.data(),
                           .out_stride = size_.n,
                           .x = x_.data(),
                           .x_stride = size_.k,
                           .weights = weights_.get() + turn_++ % copies_ * plan_.packed_bytes,
                           .rows = size_.m},
                          {workspace_.get(), plan_.workspace_bytes},
                          serial);
  }
  [[nodiscard]] std::size_t weight_bytes() const { return plan_.packed_bytes; }

 private:
  size size_;
  oriel::host::gemm_plan plan_;
  std::size_t copies_;
  std::unique_ptr<std::byte, void (*)(void*)> weights_;
  std::unique_ptr<std::byte, void (*)(void*)> workspace_;
  std::vector<float> x_, out_;
  std::size_t turn_ = 0;
};

#if defined(ORIEL_BENCH_ONEDNN)
// oneDNN's matmul on weights in the layout of its own choice, x in the weights' type already.
class onednn_gemm {
 public:
  onednn_gemm(size s, dtype weights) : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    using tag = dnnl::memory::format_tag;
    omp_set_num_threads(1);
    const auto type =
        weights == dtype::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
    const dnnl::memory::desc x({s.m, s.k}, type, tag::ab), w({s.k, s.n}, type, tag::any),
        out({s.m, s.n}, dnnl::memory::data_type::f32, tag::ab);
    const dnnl::matmul::primitive_desc description({x, w, out}, engine_);
    matmul_ = dnnl::matmul(description);
    x_ = dnnl::memory(x, engine_);
    out_ = dnnl::memory(out, engine_);
    std::memset(x_.get_data_handle(), 0, x.get_size());
    weights_description_ = description.weights_desc();
    copies_ = std::max<std::size_t>(1, buffer_bytes / weights_description_.get_size());
    weights_ = allocate(copies_ * weights_description_.get_size());
  }
  void run() {
    dnnl::memory w(weights_description_,
                   engine_,
                   weights_.get() + turn_++ % copies_ * weights_description_.get_size());
    matmul_.execute(stream_, {{DNNL_ARG_SRC, x_}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, out_}});
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul matmul_;
  dnnl::memory x_, out_;
  dnnl::memory::desc weights_description_;
  std::size_t copies_ = 1;
  std::unique_ptr<std::byte, void (*)(void*)> weights_{nullptr, &std::free};
  std::size_t turn_ = 0;
};
#endif

template <class F>
double seconds_of(std::size_t repeats, F&& f) {
  const double begin = cpu_seconds();
  for (std::size_t i = 0; i < repeats; ++i) {
    f();
  }
  return (cpu_seconds() - begin) / static_cast<double>(repeats);
}

void gemm(benchmark::State& state, dtype weights, isa path, size s) {
  static oriel::engine::read_bandwidth_probe probe(buffer_bytes);
  own_gemm own(s, weights, path);
#if defined(ORIEL_BENCH_ONEDNN)
  onednn_gemm peer(s, weights);
  std::vector<double> to_peer;
#endif
  const double operations = 2.0 * s.m * s.n * s.k;
  const auto repeats =
      static_cast<std::size_t>(std::max(1.0, 2e9 / std::max(operations, 2.0 * 8 * s.n * s.k)));
  const auto kind = weights == dtype::f32 ? oriel::engine::multiply_kind::f32
                                          : oriel::engine::multiply_kind::bf16;
  std::vector<double> to_bandwidth, to_peak, rate;
  for ([[maybe_unused]] auto _ : state) {
    double begin = cpu_seconds();
    oriel::serial_executor serial;
    const double bandwidth =
        static_cast<double>(probe.read_once(serial, 0.125)) / (cpu_seconds() - begin);
    begin = cpu_seconds();
    const double peak = oriel::engine::multiply_once(kind, path) / (cpu_seconds() - begin);
    const double seconds = seconds_of(repeats, [&] { own.run(); });
    state.SetIterationTime(seconds);
    to_bandwidth.push_back(static_cast<double>(own.weight_bytes()) / seconds / bandwidth);
    to_peak.push_back(operations / seconds / peak);
    rate.push_back(operations / seconds / 1e9);
#if defined(ORIEL_BENCH_ONEDNN)
    to_peer.push_back(seconds_of(repeats, [&] { peer.run(); }) / seconds);
#endif
  }
  state.counters["gflops"] = median(rate);
  state.counters["of_read_bandwidth"] = median(to_bandwidth);
  state.counters["of_peak"] = median(to_peak);
#if defined(ORIEL_BENCH_ONEDNN)
  state.counters["of_onednn"] = median(to_peer);
#endif
}

void register_all() {
  for (const isa path : {isa::avx2, isa::avx512, isa::avx512_bf16}) {
    for (const dtype weights : {dtype::f32, dtype::bf16}) {
      if (!oriel::is_supported(path) || (weights == dtype::f32 && path == isa::avx512_bf16)) {
        continue;
      }
      for (const auto& [n, k] :
           {std::pair{4096u, 4096u}, {1024u, 8192u}, {8192u, 1024u}, {512u, 1024u}}) {
        for (const std::uint32_t m : {1u, 2u, 4u, 8u, 12u, 16u, 32u, 64u, 512u, 2048u}) {
          const std::string name = std::string("gemm/") + name_of(path) + "/" + name_of(weights) +
                                   "/n:" + std::to_string(n) + "/k:" + std::to_string(k) +
                                   "/m:" + std::to_string(m);
          const size s{.m = m, .n = n, .k = k};
          benchmark::RegisterBenchmark(
              name.c_str(), [=](benchmark::State& state) { gemm(state, weights, path, s); })
              ->UseManualTime()
              ->Iterations(5)
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
}

[[maybe_unused]] const bool registered = (register_all(), true);

}  // namespace
