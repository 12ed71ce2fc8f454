// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: attention on one thread, by the shapes of the models that Oriel is for (192/128 heads).
// Why:  it is most of a long context's time. Goals: decode of group 16 at >= 0.45 of the bf16 peak,
//       decode of group 8 at >= 0.75 of read bandwidth, causal prefill at >= 0.55 of the bf16 peak.
//
// Peak (a register-only loop of vdpbf16ps, or of f32 fma where the path multiplies so) and read
// bandwidth are measured between iterations, so that a neighbour's load hits all alike. Counters
// are medians of thread time: GF, of_peak, GB_s, of_read. FLOPs and bytes are those of the keys
// that rows see.
#include <oriel/core/executor.hpp>
#include <oriel/core/random.hpp>
#include <oriel/kernels/attention.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <vector>

#include <immintrin.h>

namespace {

using namespace oriel;  // NOLINT: a benchmark

/// Of this thread's own time: the machine may be shared.
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

/// FLOPs of 200,000 rounds of twelve independent chains of one instruction.
constexpr double rounds = 200'000;

__attribute__((target("avx512f,avx512bf16"))) void spin_bf16_dot() {
  __m512 a[12];
  for (int i = 0; i < 12; ++i) {  // Different, or the compiler makes them one.
    a[i] = _mm512_set1_ps(static_cast<float>(i));
  }
  const auto x = (__m512bh)_mm512_set1_epi32(0x3F80'3F80);
  for (int i = 0; i < static_cast<int>(rounds); ++i) {
#pragma GCC unroll 12
    for (auto& acc : a) {
      acc = _mm512_dpbf16_ps(acc, x, x);
    }
  }
  for (auto& acc : a) {
    benchmark::DoNotOptimize(acc);
  }
}

__attribute__((target("avx512f"))) void spin_f32_fma_512() {
  __m512 a[12];
  for (int i = 0; i < 12; ++i) {  // Different, or the compiler makes them one.
    a[i] = _mm512_set1_ps(static_cast<float>(i));
  }
  const __m512 x = _mm512_set1_ps(1.0f);
  for (int i = 0; i < static_cast<int>(rounds); ++i) {
#pragma GCC unroll 12
    for (auto& acc : a) {
      acc = _mm512_fmadd_ps(x, x, acc);
    }
  }
  for (auto& acc : a) {
    benchmark::DoNotOptimize(acc);
  }
}

__attribute__((target("avx2,fma"))) void spin_f32_fma_256() {
  __m256 a[12];
  for (int i = 0; i < 12; ++i) {  // Different, or the compiler makes them one.
    a[i] = _mm256_set1_ps(static_cast<float>(i));
  }
  const __m256 x = _mm256_set1_ps(1.0f);
  for (int i = 0; i < static_cast<int>(rounds); ++i) {
#pragma GCC unroll 12
    for (auto& acc : a) {
      acc = _mm256_fmadd_ps(x, x, acc);
    }
  }
  for (auto& acc : a) {
    benchmark::DoNotOptimize(acc);
  }
}

/// FLOP/s of the multiply instruction that `path` uses for `kv`; 0 where there is no fused one.
double measured_peak(isa path, dtype kv) {
  if (path == isa::avx512_bf16 && kv == dtype::bf16) {
    return rounds * 12 * 64 / seconds_of(spin_bf16_dot);
  }
  if (path >= isa::avx512) {
    return rounds * 12 * 32 / seconds_of(spin_f32_fma_512);
  }
  return path == isa::avx2 ? rounds * 12 * 16 / seconds_of(spin_f32_fma_256) : 0.0;
}

/// Reads `bytes` once, in four streams: the fastest of the loops tried. @pre a multiple of 1024
__attribute__((target("avx2"))) std::uint64_t read_all(const std::byte* p, std::size_t bytes) {
  __m256i sum[4] = {};
  const std::size_t quarter = bytes / 4;
  for (std::size_t i = 0; i < quarter; i += 64) {
    for (std::size_t j = 0; j < 4; ++j) {
      const auto* line = reinterpret_cast<const __m256i*>(p + j * quarter + i);
      sum[j] = _mm256_add_epi64(sum[j], _mm256_load_si256(line));
      sum[j] = _mm256_add_epi64(sum[j], _mm256_load_si256(line + 1));
    }
  }
  const __m256i all =
      _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3]));
  return static_cast<std::uint64_t>(_mm256_extract_epi64(all, 0));
}

struct free_bytes {
  void operator()(std::byte* p) const { std::free(p); }
};
using byte_array = std::unique_ptr<std::byte[], free_bytes>;

byte_array allocate(std::size_t bytes) {
  return byte_array(static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
}

/// bf16 (or f32) values in (-1, 1) in every element of a pool.
void fill_random(std::byte* p, std::size_t bytes, dtype kv) {
  random_stream random(1);
  std::vector<std::byte> pattern(1 << 20);
  for (std::size_t i = 0; i < pattern.size(); i += 4) {
    const float x = random.next_uniform(-1.0f, 1.0f), y = random.next_uniform(-1.0f, 1.0f);
    const bf16 pair[2] = {to_bf16(x), to_bf16(y)};
    std::memcpy(pattern.data() + i, kv == dtype::f32 ? static_cast<const void*>(&x) : pair, 4);
  }
  for (std::size_t i = 0; i < bytes; i += pattern.size()) {
    std::memcpy(p + i, pattern.data(), std::min(pattern.size(), bytes - i));
  }
}

struct scenario {
  std::uint32_t batch;    ///< sequences
  std::uint32_t context;  ///< tokens of each, the computed ones included
  std::uint32_t rows;     ///< computed tokens of each
  std::uint32_t kv_heads;
  std::uint32_t group;
  std::uint32_t window;
  std::uint32_t layers;  ///< pools to rotate through, so that KV comes from memory
  dtype kv = dtype::bf16;
};

class layer_set {
 public:
  explicit layer_set(const scenario& s)
      : shape{s.kv_heads * s.group, s.kv_heads, 192, 128, 64, s.window, s.kv}, scenario_(s) {
    const std::uint32_t pages = (s.context + shape.page_size - 1) / shape.page_size;
    k_bytes_ = k_bytes_per_page(shape.page_size, s.kv_heads, 192, s.kv);
    page_bytes_ = k_bytes_ + v_bytes_per_page(shape.page_size, s.kv_heads, 128, s.kv);
    layer_bytes_ = page_bytes_ * pages * s.batch;
    pool_ = allocate(layer_bytes_ * s.layers);
    fill_random(pool_.get(), layer_bytes_ * s.layers, s.kv);
    for (std::uint32_t p = 0; p < pages * s.batch; ++p) {
      table_.push_back(p * 37 % (pages * s.batch));  // Scattered; 37 divides no count used here.
    }
    for (std::uint32_t i = 0; i < s.batch; ++i) {
      sequences_.push_back({table_.data() + std::size_t{i} * pages, 0, s.context - s.rows, s.rows});
    }
    q_.resize(std::size_t{s.batch} * s.rows * shape.q_heads * 192, 0.25f);
    out_.resize(std::size_t{s.batch} * s.rows * shape.q_heads * 128);
  }

  [[nodiscard]] attention_args args(std::size_t iteration) {
    std::byte* layer = pool_.get() + iteration % scenario_.layers * layer_bytes_;
    return {
        out_.data(), q_.data(), {layer, layer + k_bytes_, page_bytes_}, sequences_, nullptr, 0.07f};
  }

  /// Pairs of (row, key seen), all sequences.
  [[nodiscard]] double pairs() const {
    double n = 0;
    for (std::uint32_t p = scenario_.context - scenario_.rows; p < scenario_.context; ++p) {
      n += scenario_.window == 0 ? p + 1 : std::min(p + 1, scenario_.window);
    }
    return n * scenario_.batch;
  }
  [[nodiscard]] double flops() const { return pairs() * shape.q_heads * 2 * (192 + 128); }
  /// K and V of every key that some row sees, once.
  [[nodiscard]] double bytes() const {
    const std::uint32_t seen =
        scenario_.window == 0 ? scenario_.context
                              : std::min(scenario_.context, scenario_.window + scenario_.rows - 1);
    return double{1} * seen * scenario_.batch * scenario_.kv_heads * (192 + 128) *
           static_cast<double>(size_bytes(scenario_.kv));
  }

  attention_shape shape;

 private:
  scenario scenario_;
  std::size_t k_bytes_, page_bytes_, layer_bytes_;
  byte_array pool_;
  std::vector<std::uint32_t> table_;
  std::vector<paged_sequence> sequences_;
  std::vector<float> q_, out_;
};

void attention(benchmark::State& state, scenario s) {
  const auto path = static_cast<isa>(state.range(0));
  if (!is_supported(path)) {
    state.SkipWithError("this CPU lacks the path");
    return;
  }
  layer_set layers(s);
  serial_executor serial;
  const auto plan = host::plan_attention(layers.shape, s.batch * s.rows, 1, path);
  const byte_array workspace = allocate(plan->workspace_bytes);
  constexpr std::size_t cold_bytes = std::size_t{512} << 20, read_bytes = std::size_t{16} << 20;
  const byte_array cold = allocate(cold_bytes);
  std::memset(cold.get(), 1, cold_bytes);

  std::vector<double> gflops, of_peak, gbytes, of_read;
  std::size_t iteration = 0;
  for (auto _ : state) {
    const attention_args args = layers.args(iteration);
    const double seconds = seconds_of([&] {
      host::run_attention(*plan, args, {workspace.get(), plan->workspace_bytes}, serial);
    });
    state.SetIterationTime(seconds);
    const std::byte* part = cold.get() + iteration * read_bytes % cold_bytes;
    const double read = static_cast<double>(read_bytes) /
                        seconds_of([&] { benchmark::DoNotOptimize(read_all(part, read_bytes)); });
    gflops.push_back(layers.flops() / seconds * 1e-9);
    of_peak.push_back(layers.flops() / seconds / measured_peak(path, s.kv));
    gbytes.push_back(layers.bytes() / seconds * 1e-9);
    of_read.push_back(layers.bytes() / seconds / read);
    ++iteration;
  }
  state.SetLabel(name_of(path));
  state.counters["GF"] = median(gflops);
  state.counters["of_peak"] = median(of_peak);
  state.counters["GB_s"] = median(gbytes);
  state.counters["of_read"] = median(of_read);
}

#define ORIEL_ATTENTION_BENCH(name, ...)                    \
  BENCHMARK_CAPTURE(attention, name, scenario{__VA_ARGS__}) \
      ->ArgName("isa")                                      \
      ->DenseRange(0, 3)                                    \
      ->UseManualTime()                                     \
      ->MinTime(1.0)                                        \
      ->Unit(benchmark::kMillisecond)

//                                             batch context rows kv_heads group window layers
ORIEL_ATTENTION_BENCH(full_decode_group16_16k, 1, 16'384, 1, 8, 16, 0, 8);
ORIEL_ATTENTION_BENCH(full_decode_group8_16k, 1, 16'384, 1, 8, 8, 0, 8);
ORIEL_ATTENTION_BENCH(full_verify4_group16_16k, 1, 16'384, 4, 8, 16, 0, 8);
ORIEL_ATTENTION_BENCH(full_prefill_group16_2k, 1, 2'048, 2'048, 1, 16, 0, 4);
ORIEL_ATTENTION_BENCH(full_prefill_group1_2k, 1, 2'048, 2'048, 4, 1, 0, 4);
ORIEL_ATTENTION_BENCH(full_prefill_group16_2k_f32, 1, 2'048, 2'048, 1, 16, 0, 4, dtype::f32);
ORIEL_ATTENTION_BENCH(window_prefill_group16_2k, 1, 2'048, 2'048, 8, 16, 128, 4);
ORIEL_ATTENTION_BENCH(window_prefill_group8_2k, 1, 2'048, 2'048, 8, 8, 128, 4);
ORIEL_ATTENTION_BENCH(window_decode_group8_batch64, 64, 192, 1, 8, 8, 128, 8);
ORIEL_ATTENTION_BENCH(window_decode_group16_batch64, 64, 192, 1, 8, 16, 128, 8);

}  // namespace
