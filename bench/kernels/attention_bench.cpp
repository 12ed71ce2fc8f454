// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: attention on one thread, by the shapes of the models that Oriel is for (192/128 heads).
// Why:  it is most of a long context's time. Goals: decode of group 16 at >= 0.45 of the bf16 peak,
//       decode of group 8 at >= 0.75 of read bandwidth, causal prefill at >= 0.55 of the bf16 peak.
//
// The multiply rate (vdpbf16ps, or f32 multiply-adds where the path widens bf16) and the read
// bandwidth are measured between iterations, so that a neighbour's load hits all alike. Counters
// are medians of thread time: GF, of_peak, GB_s, of_read. FLOPs and bytes are those of the keys
// that rows see.
#include <oriel/core/executor.hpp>
#include <oriel/core/random.hpp>
#include <oriel/kernels/attention.hpp>

#include <benchmark/benchmark.h>
#include <engine/machine_peaks.hpp>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <vector>

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

struct free_bytes {
  void operator()(std::byte* p) const { std::free(p); }
};
using byte_array = std::unique_ptr<std::byte[], free_bytes>;

/// In huge pages where the system offers them, as an engine's pools are.
byte_array allocate(std::size_t bytes) {
  constexpr std::size_t huge_page = std::size_t{2} << 20;
  const std::size_t size = (bytes + huge_page - 1) / huge_page * huge_page;
  auto* p = static_cast<std::byte*>(std::aligned_alloc(huge_page, size));
  ::madvise(p, size, MADV_HUGEPAGE);
  return byte_array(p);
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
    return {.out = out_.data(),
            .q = q_.data(),
            .q_stride = std::size_t{shape.q_heads} * 192,
            .kv = {layer, layer + k_bytes_, page_bytes_},
            .sequences = sequences_,
            .sinks = nullptr,
            .scale = 0.07f};
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
  engine::read_bandwidth_probe memory;
  const auto multiply =
      s.kv == dtype::bf16 ? engine::multiply_kind::bf16 : engine::multiply_kind::f32;
  std::vector<double> gflops, of_peak, gbytes, of_read;
  std::size_t iteration = 0;
  for (auto _ : state) {
    const attention_args args = layers.args(iteration);
    const double seconds = seconds_of([&] {
      host::run_attention(*plan, args, {workspace.get(), plan->workspace_bytes}, serial);
    });
    state.SetIterationTime(seconds);
    double read_bytes = 0, multiplied = 0;
    const double read_seconds =
        seconds_of([&] { read_bytes = static_cast<double>(memory.read_once(serial, 1.0 / 64)); });
    const double multiply_seconds =
        seconds_of([&] { multiplied = engine::multiply_once(multiply, path); });
    gflops.push_back(layers.flops() / seconds * 1e-9);
    of_peak.push_back(layers.flops() / seconds * multiply_seconds / multiplied);
    gbytes.push_back(layers.bytes() / seconds * 1e-9);
    of_read.push_back(layers.bytes() / seconds * read_seconds / read_bytes);
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
      ->MinTime(0.2)                                        \
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
