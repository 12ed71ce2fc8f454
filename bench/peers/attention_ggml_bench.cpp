// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: decode attention beside ggml's ggml_flash_attn_ext (CPU backend), on one thread, in turns.
// Why:  goal of group 16: at least 8 times ggml with f16 KV.
//
// 8 KV heads of 192/128, 16 K tokens, KV of several layers in turn so that it comes from memory.
// Both get the same random K, V and q; their outputs are compared first. Times are medians of
// thread time: ours_ms (bf16 KV), ggml_f16_ms, ggml_bf16_ms; x_f16 and x_bf16 are medians of the
// ratios, turn by turn. Built where CMake's ORIEL_GGML_DIR names a folder of ggml's sources.
#include <oriel/core/executor.hpp>
#include <oriel/core/random.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/kv_append.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <numeric>
#include <vector>

#include <ggml-cpu.h>
#include <ggml.h>

namespace {

using namespace oriel;  // NOLINT: a benchmark

constexpr std::uint32_t context = 16'384, kv_heads = 8, dk = 192, dv = 128, layers = 4;
constexpr float scale = 0.07f;

/// Of this thread's own time: the machine may be shared. ggml runs one thread on its caller.
double seconds_of(auto&& f) {
  const auto now = [] {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
  };
  const double start = now();
  f();
  return now() - start;
}

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

std::vector<float> random_values(std::size_t n, std::uint64_t seed) {
  random_stream random(seed);
  std::vector<float> x(n);
  for (float& f : x) {
    f = to_float(to_bf16(random.next_uniform(-1.0f, 1.0f)));
  }
  return x;
}

/// Rows as a model computes them: k [context, kv_heads, dk], v [context, kv_heads, dv].
struct problem {
  std::uint32_t group;
  std::vector<float> k = random_values(std::size_t{context} * kv_heads * dk, 1);
  std::vector<float> v = random_values(std::size_t{context} * kv_heads * dv, 2);
  std::vector<float> q = random_values(std::size_t{group} * kv_heads * dk, 3);
};

class our_side {
 public:
  our_side(const problem& p, isa path)
      : p_(p),
        shape_{p.group * kv_heads, kv_heads, dk, dv, 64, 0, dtype::bf16},
        plan_(*host::plan_attention(shape_, 1, 1, path)),
        pages_(context / shape_.page_size),
        out(std::size_t{p.group} * kv_heads * dv) {
    k_bytes_ = k_bytes_per_page(shape_.page_size, kv_heads, dk, shape_.kv);
    page_bytes_ = k_bytes_ + v_bytes_per_page(shape_.page_size, kv_heads, dv, shape_.kv);
    constexpr std::size_t huge_page = std::size_t{2} << 20;
    const std::size_t bytes = page_bytes_ * pages_.size() * layers;
    pool_.reset(static_cast<std::byte*>(
        std::aligned_alloc(huge_page, (bytes + huge_page - 1) / huge_page * huge_page)));
    workspace_.reset(
        static_cast<std::byte*>(std::aligned_alloc(64, (plan_.workspace_bytes + 63) / 64 * 64)));
    std::iota(pages_.begin(), pages_.end(), 0u);
    const paged_sequence all{pages_.data(), 0, 0, context};
    for (std::uint32_t layer = 0; layer < layers; ++layer) {
      host::run_kv_append(shape_,
                          {.kv = view(layer),
                           .k = p.k.data(),
                           .v = p.v.data(),
                           .k_stride = kv_heads * dk,
                           .v_stride = kv_heads * dv,
                           .v_scale = 1.0f,
                           .sequences = {&all, 1}},
                          serial_);
    }
  }

  void run(std::uint32_t layer) {
    const paged_sequence last{pages_.data(), 0, context - 1, 1};
    host::run_attention(plan_,
                        {.out = out.data(),
                         .q = p_.q.data(),
                         .q_stride = p_.q.size(),
                         .kv = view(layer),
                         .sequences = {&last, 1},
                         .sinks = nullptr,
                         .scale = scale},
                        {workspace_.get(), plan_.workspace_bytes},
                        serial_);
  }

 private:
  struct free_bytes {
    void operator()(std::byte* p) const { std::free(p); }
  };

  [[nodiscard]] kv_layer_view view(std::uint32_t layer) const {
    std::byte* base = pool_.get() + layer * pages_.size() * page_bytes_;
    return {base, base + k_bytes_, page_bytes_};
  }

  const problem& p_;
  attention_shape shape_;
  host::attention_plan plan_;
  std::size_t k_bytes_ = 0, page_bytes_ = 0;
  std::vector<std::uint32_t> pages_;
  std::unique_ptr<std::byte[], free_bytes> pool_, workspace_;
  serial_executor serial_;

 public:
  std::vector<float> out;  ///< [query heads, dv]
};

class ggml_side {
 public:
  ggml_side(const problem& p, ggml_type kv) {
    const std::size_t kv_bytes = std::size_t{context} * kv_heads * (dk + dv) * 2 * layers;
    context_.reset(ggml_init({kv_bytes + (std::size_t{64} << 20), nullptr, false}));
    ggml_context* c = context_.get();
    ggml_tensor* q = ggml_new_tensor_3d(c, GGML_TYPE_F32, dk, 1, std::int64_t{p.group} * kv_heads);
    std::copy(p.q.begin(), p.q.end(), ggml_get_data_f32(q));
    for (std::uint32_t layer = 0; layer < layers; ++layer) {
      ggml_tensor* k = by_head(kv, p.k, dk);
      ggml_tensor* v = by_head(kv, p.v, dv);
      out_[layer] = ggml_flash_attn_ext(c, q, k, v, nullptr, scale, 0.0f, 0.0f);
      graphs_[layer] = ggml_new_graph(c);
      ggml_build_forward_expand(graphs_[layer], out_[layer]);
    }
    ggml_threadpool_params params = ggml_threadpool_params_default(1);
    threads_ = ggml_threadpool_new(&params);
  }
  ~ggml_side() { ggml_threadpool_free(threads_); }
  ggml_side(const ggml_side&) = delete;
  ggml_side& operator=(const ggml_side&) = delete;

  void run(std::uint32_t layer) {
    ggml_cplan plan = ggml_graph_plan(graphs_[layer], 1, threads_);
    work_.resize(plan.work_size);
    plan.work_data = work_.data();
    ggml_graph_compute(graphs_[layer], &plan);
  }
  [[nodiscard]] const float* out(std::uint32_t layer) const {
    return ggml_get_data_f32(out_[layer]);
  }

 private:
  struct free_context {
    void operator()(ggml_context* c) const { ggml_free(c); }
  };

  /// [context, kv_heads, dims] -> a tensor whose rows of one head are neighbours.
  ggml_tensor* by_head(ggml_type type, const std::vector<float>& x, std::int64_t dims) {
    ggml_tensor* t = ggml_new_tensor_3d(context_.get(), type, dims, context, kv_heads);
    for (std::int64_t head = 0; head < kv_heads; ++head) {
      for (std::int64_t token = 0; token < context; ++token) {
        const float* from = x.data() + (token * kv_heads + head) * dims;
        char* to = static_cast<char*>(t->data) + static_cast<std::size_t>(head) * t->nb[2] +
                   static_cast<std::size_t>(token) * t->nb[1];
        if (type == GGML_TYPE_F16) {
          ggml_fp32_to_fp16_row(from, reinterpret_cast<ggml_fp16_t*>(to), dims);
        } else {
          ggml_fp32_to_bf16_row(from, reinterpret_cast<ggml_bf16_t*>(to), dims);
        }
      }
    }
    return t;
  }

  std::unique_ptr<ggml_context, free_context> context_;
  ggml_tensor* out_[layers];
  ggml_cgraph* graphs_[layers];
  ggml_threadpool* threads_;
  std::vector<std::uint8_t> work_;
};

/// max|a - b| / max|a|
double error_of(const std::vector<float>& a, const float* b) {
  double error = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error = std::max(error, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    largest = std::max(largest, std::abs(static_cast<double>(a[i])));
  }
  return error / largest;
}

void decode(benchmark::State& state) {
  const auto path = static_cast<isa>(state.range(1));
  if (!is_supported(path)) {
    state.SkipWithError("this CPU lacks the path");
    return;
  }
  const problem p{static_cast<std::uint32_t>(state.range(0))};
  our_side ours(p, path);
  ggml_side f16(p, GGML_TYPE_F16), bf16(p, GGML_TYPE_BF16);
  ours.run(0);
  f16.run(0);
  bf16.run(0);
  const double f16_error = error_of(ours.out, f16.out(0));
  const double bf16_error = error_of(ours.out, bf16.out(0));
  if (f16_error > 0.2 || bf16_error > 0.02) {  // With f16 KV, ggml sums in f16.
    state.SkipWithError("ggml computes something else");
    return;
  }
  std::vector<double> our_ms, f16_ms, bf16_ms, f16_ratio, bf16_ratio;
  std::uint32_t layer = 0;
  for (auto _ : state) {
    layer = (layer + 1) % layers;
    our_ms.push_back(1e3 * seconds_of([&] { ours.run(layer); }));
    f16_ms.push_back(1e3 * seconds_of([&] { f16.run(layer); }));
    bf16_ms.push_back(1e3 * seconds_of([&] { bf16.run(layer); }));
    f16_ratio.push_back(f16_ms.back() / our_ms.back());
    bf16_ratio.push_back(bf16_ms.back() / our_ms.back());
    state.SetIterationTime(our_ms.back() * 1e-3);
  }
  state.SetLabel(name_of(path));
  state.counters["ours_ms"] = median(our_ms);
  state.counters["ggml_f16_ms"] = median(f16_ms);
  state.counters["ggml_bf16_ms"] = median(bf16_ms);
  state.counters["x_f16"] = median(f16_ratio);
  state.counters["f16_error"] = f16_error;
  state.counters["bf16_error"] = bf16_error;
  state.counters["x_bf16"] = median(bf16_ratio);
}

BENCHMARK(decode)
    ->ArgNames({"group", "isa"})
    ->ArgsProduct({{8, 16}, {2, 3}})
    ->UseManualTime()
    ->Iterations(15)
    ->Unit(benchmark::kMillisecond);

}  // namespace
