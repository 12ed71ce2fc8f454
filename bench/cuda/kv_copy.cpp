// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Copies of scattered pages beside one large copy, and decoding beside copies. Random bytes, other
// pages each round, all rows in turn, medians of the rounds.
//
//     bench.cuda.kv_copy [rounds]    prints a table; 77 where there is no device
#include <oriel/core/random.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/kv_copy.hpp>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace oriel;  // NOLINT: a program

void require(bool ok, const char* what) {
  if (!ok) {
    std::fprintf(stderr,
                 "bench.cuda.kv_copy: %s failed (%s)\n",
                 what,
                 cudaGetErrorString(cudaGetLastError()));
    std::exit(1);
  }
}
#define ORIEL_CUDA_CALL(call) require((call) == cudaSuccess, #call)

constexpr std::size_t bytes_moved = std::size_t{256} << 20;  // of one copy: beyond every cache

/// Memory for `bytes_moved` and a bit, on one side, filled with random bytes.
std::byte* make_memory(bool is_host, std::size_t bytes) {
  void* p = nullptr;
  ORIEL_CUDA_CALL(is_host ? cudaMallocHost(&p, bytes) : cudaMalloc(&p, bytes));
  random_stream random(bytes);
  std::vector<std::uint16_t> some(std::size_t{8} << 20);  // bf16 in [1, 2): nothing overflows.
  std::ranges::generate(
      some, [&] { return static_cast<std::uint16_t>(0x3F80 | random.next_below(128)); });
  for (std::size_t at = 0; at < bytes; at += some.size() * 2) {
    ORIEL_CUDA_CALL(cudaMemcpy(static_cast<std::byte*>(p) + at,
                               some.data(),
                               std::min(bytes - at, some.size() * 2),
                               cudaMemcpyDefault));
  }
  return static_cast<std::byte*>(p);
}

/// Milliseconds of what `enqueue` gives the stream.
class stopwatch {
 public:
  explicit stopwatch(cudaStream_t stream) : stream_(stream) {
    ORIEL_CUDA_CALL(cudaEventCreate(&begin_));
    ORIEL_CUDA_CALL(cudaEventCreate(&end_));
  }
  ~stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  stopwatch(const stopwatch&) = delete;
  stopwatch& operator=(const stopwatch&) = delete;

  template <class F>
  double ms(F&& enqueue) {
    ORIEL_CUDA_CALL(cudaDeviceSynchronize());
    ORIEL_CUDA_CALL(cudaEventRecord(begin_, stream_));
    enqueue(stream_);
    ORIEL_CUDA_CALL(cudaEventRecord(end_, stream_));
    ORIEL_CUDA_CALL(cudaEventSynchronize(end_));
    float ms = 0;
    ORIEL_CUDA_CALL(cudaEventElapsedTime(&ms, begin_, end_));
    return static_cast<double>(ms);
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

double median(std::vector<double> x) {
  std::ranges::nth_element(x, x.begin() + static_cast<long>(x.size() / 2));
  return x[x.size() / 2];
}

struct row {
  std::string name;
  std::function<void(cudaStream_t)> enqueue;
  std::size_t yardstick;  ///< the row that it is a part of
  std::vector<double> ms = {};
};

/// Pages of one layer, scattered over both sides.
class page_copy {
 public:
  page_copy(const attention_shape& layer,
            bool permutes,
            bool is_up,
            cuda::kv_copy_options options,
            std::byte* from,
            std::byte* to)
      : from_(from), to_(to) {
    const kv_order away = permutes ? kv_order::host : kv_order::device;
    const auto plan = cuda::plan_kv_copy({.layer = layer,
                                          .from = is_up ? away : kv_order::device,
                                          .to = is_up ? kv_order::device : away},
                                         options);
    require(static_cast<bool>(plan), "plan_kv_copy");
    plan_ = *plan;
    k_bytes_ = k_bytes_per_page(layer.page_size, layer.kv_heads, layer.head_dim_qk, layer.kv);
    page_bytes_ =
        k_bytes_ + v_bytes_per_page(layer.page_size, layer.kv_heads, layer.head_dim_vo, layer.kv);
    pages_ = static_cast<std::uint32_t>(bytes_moved / page_bytes_);
    ORIEL_CUDA_CALL(cudaMallocHost(reinterpret_cast<void**>(&pairs_), pages_ * sizeof *pairs_));
  }
  page_copy(const page_copy&) = delete;
  page_copy& operator=(const page_copy&) = delete;
  ~page_copy() { cudaFreeHost(pairs_); }

  void shuffle(random_stream& random) {
    std::vector<std::uint32_t> to(pages_);
    std::iota(to.begin(), to.end(), 0u);
    for (std::uint32_t i = pages_; i > 1; --i) {
      std::swap(to[i - 1], to[random.next_below(i)]);
    }
    for (std::uint32_t i = 0; i < pages_; ++i) {
      pairs_[i] = {to[(i + 1) % pages_], to[i]};
    }
  }
  void operator()(cudaStream_t stream) const {
    const kv_copy_layer layer{{from_, from_ + k_bytes_, page_bytes_},
                              {to_, to_ + k_bytes_, page_bytes_}};
    require(static_cast<bool>(
                cuda::run_kv_copy(plan_, {{&layer, 1}, {pairs_, pages_}, nullptr}, stream)),
            "run_kv_copy");
  }

 private:
  cuda::kv_copy_plan plan_{};
  std::byte *from_, *to_;
  std::size_t k_bytes_ = 0, page_bytes_ = 0;
  std::uint32_t pages_ = 0;
  kv_page_pair* pairs_ = nullptr;
};

/// A decode of 64 sequences over 4,096 keys each: 0.67 GB of K and V, several times over.
class decode {
 public:
  explicit decode(std::uint32_t multiprocessors) {
    const auto plan = cuda::plan_attention(shape,
                                           {.sequences_max = sequences,
                                            .rows_max = sequences,
                                            .rows_per_sequence_max = 1,
                                            .keys_max = keys,
                                            .multiprocessors = multiprocessors});
    require(static_cast<bool>(plan), "plan_attention");
    plan_ = *plan;
    constexpr std::uint32_t pages = sequences * keys / page_tokens;
    kv_ = make_memory(false, std::size_t{pages} * page_bytes);
    q_ = make_memory(false, std::size_t{sequences} * shape.q_heads * shape.head_dim_qk * 2);
    out_ = make_memory(false, std::size_t{sequences} * shape.q_heads * shape.head_dim_vo * 2);
    workspace_ = make_memory(false, plan_.workspace_bytes + 256);
    std::vector<std::uint32_t> table(pages);
    std::iota(table.begin(), table.end(), 0u);
    ORIEL_CUDA_CALL(cudaMallocHost(reinterpret_cast<void**>(&table_), pages * sizeof *table_));
    std::ranges::copy(table, table_);
    ORIEL_CUDA_CALL(cudaMallocHost(reinterpret_cast<void**>(&parts_), sequences * sizeof *parts_));
    for (std::uint32_t s = 0; s < sequences; ++s) {
      parts_[s] = {table_ + s * (keys / page_tokens), 0, keys - 1, 1};
    }
  }
  decode(const decode&) = delete;
  decode& operator=(const decode&) = delete;
  ~decode() {
    for (std::byte* p : {kv_, q_, out_, workspace_}) {
      cudaFree(p);
    }
    cudaFreeHost(table_);
    cudaFreeHost(parts_);
  }

  void operator()(cudaStream_t stream) const {
    basic_attention_args<bf16> args{};
    args.kv = {kv_, kv_ + k_bytes, page_bytes};
    args.q = reinterpret_cast<const bf16*>(q_);
    args.q_stride = std::size_t{shape.q_heads} * shape.head_dim_qk;
    args.out = reinterpret_cast<bf16*>(out_);
    args.scale = 0.07f;
    args.sequences = {parts_, sequences};
    for (int step = 0; step < 8; ++step) {
      require(static_cast<bool>(
                  cuda::run_attention(plan_, args, {workspace_, plan_.workspace_bytes}, stream)),
              "run_attention");
    }
  }

 private:
  static constexpr std::uint32_t sequences = 64, keys = 4096, page_tokens = 64;
  static constexpr attention_shape shape{64, 4, 192, 128, page_tokens, 0, dtype::bf16};
  static constexpr std::size_t k_bytes = std::size_t{4} * page_tokens * 192 * 2,
                               page_bytes = std::size_t{4} * page_tokens * (192 + 128) * 2;
  cuda::attention_plan plan_{};
  std::byte *kv_ = nullptr, *q_ = nullptr, *out_ = nullptr, *workspace_ = nullptr;
  std::uint32_t* table_ = nullptr;
  paged_sequence* parts_ = nullptr;
};

/// Decoding alone and beside a copy that lasts longer; prints a line for each.
void beside_copies(int rounds, page_copy& copy, random_stream& random) {
  cudaStream_t compute = nullptr, copies = nullptr;
  ORIEL_CUDA_CALL(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
  ORIEL_CUDA_CALL(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking));
  stopwatch watch(compute);
  const decode all(132), fewer(128);
  std::vector<double> alone, beside;
  for (int round = 0; round < rounds; ++round) {
    copy.shuffle(random);
    alone.push_back(watch.ms(all));
    ORIEL_CUDA_CALL(cudaDeviceSynchronize());
    beside.push_back(watch.ms([&](cudaStream_t stream) {
      copy(copies);
      fewer(stream);
    }));
  }
  ORIEL_CUDA_CALL(cudaDeviceSynchronize());
  std::printf("\ndecode on 132 multiprocessors: %.3f ms; on 128 beside a copy by 4: %.3f (%.3f)\n",
              median(alone),
              median(beside),
              median(beside) / median(alone));
  cudaStreamDestroy(compute);
  cudaStreamDestroy(copies);
}

}  // namespace

int main(int count, char** arguments) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("bench.cuda.kv_copy: skipped, no CUDA device\n");
    return 77;
  }
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 15;
  require(rounds > 0, "rounds > 0");
  cudaStream_t stream = nullptr;
  ORIEL_CUDA_CALL(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  std::byte *host = make_memory(true, bytes_moved), *device = make_memory(false, bytes_moved),
            *other = make_memory(false, bytes_moved);

  std::vector<row> rows;
  const auto one_copy = [&](const char* name, std::byte* from, std::byte* to) {
    rows.push_back({name,
                    [=](cudaStream_t s) {
                      ORIEL_CUDA_CALL(cudaMemcpyAsync(to, from, bytes_moved, cudaMemcpyDefault, s));
                    },
                    rows.size()});
  };
  one_copy("LINK up: one copy", host, device);
  one_copy("LINK down: one copy", device, host);
  one_copy("COPY: one copy on the device", device, other);

  const std::pair<const char*, attention_shape> layers[] = {
      {"64 tokens, 4 heads (160 KiB)", {64, 4, 192, 128, 64, 0, dtype::bf16}},
      {"16 tokens, 1 head (10 KiB)", {16, 1, 192, 128, 16, 0, dtype::bf16}}};
  using way = cuda::kv_copy_way;
  std::vector<std::unique_ptr<page_copy>> copies;
  const auto pages = [&](const std::string& name,
                         const attention_shape& layer,
                         std::size_t yardstick,
                         bool permutes,
                         way how,
                         std::uint32_t multiprocessors) {
    const bool is_up = yardstick == 0;
    std::byte* from = is_up ? host : device;
    std::byte* to = is_up ? device : yardstick == 1 ? host : other;
    copies.push_back(std::make_unique<page_copy>(
        layer,
        permutes,
        is_up,
        cuda::kv_copy_options{.way = how, .multiprocessors = multiprocessors},
        from,
        to));
    rows.push_back({name, std::ref(*copies.back()), yardstick});
  };
  for (const auto& [name, layer] : layers) {
    for (std::size_t direction = 0; direction < 2; ++direction) {
      const std::string begin = std::string(direction == 0 ? "up, " : "down, ") + name;
      pages(begin + ", engines", layer, direction, false, way::engine, 1);
      for (const std::uint32_t n : {2u, 4u}) {
        const std::string of = ", " + std::to_string(n) + " multiprocessors";
        pages(begin + of, layer, direction, false, way::multiprocessors, n);
        pages(begin + of + ", permuted", layer, direction, true, way::multiprocessors, n);
      }
    }
    pages(std::string("on the device, ") + name, layer, 2, false, way::multiprocessors, 132);
    pages(std::string("on the device, ") + name + ", permuted",
          layer,
          2,
          true,
          way::multiprocessors,
          132);
  }

  random_stream random(1);
  stopwatch watch(stream);
  for (int round = -1; round < rounds; ++round) {  // The first warms up.
    for (const auto& copy : copies) {
      copy->shuffle(random);
    }
    for (row& r : rows) {
      const double ms = watch.ms(r.enqueue);
      if (round >= 0) {
        r.ms.push_back(ms);
      }
    }
  }
  std::printf("| copy of 256 MiB | GB/s | of one copy |\n|---|---|---|\n");
  for (const row& r : rows) {
    const double bytes = static_cast<double>(bytes_moved) * (r.yardstick == 2 ? 2 : 1);
    std::printf("| %s | %.1f | %.3f |\n",
                r.name.c_str(),
                bytes / median(r.ms) / 1e6,
                median(rows[r.yardstick].ms) / median(r.ms));
  }
  page_copy beside(layers[0].second,
                   true,
                   true,
                   {.way = way::multiprocessors, .multiprocessors = 4},
                   host,
                   device);
  beside_copies(rounds, beside, random);
  cudaFreeHost(host);
  cudaFree(device);
  cudaFree(other);
  cudaStreamDestroy(stream);
  return 0;
}
