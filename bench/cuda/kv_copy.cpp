// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: copies of scattered pages of KV beside one large copy, and decoding beside copies. Other
//       pages each round. All ways are printed on stderr; those with a goal are figures.
// Why:  >= 0.95 LINK with 4 multiprocessors, <= 3 % from attention beside it (bench/cuda/table.py).
#include "attention_batch.hpp"

#include <oriel/kernels/kv_copy.hpp>

#include <numeric>

namespace {

using namespace oriel;         // NOLINT: a program
using namespace oriel::bench;  // NOLINT

constexpr std::size_t bytes_moved = std::size_t{256} << 20;  // of one copy: beyond every cache

/// Pinned memory, of a device's random numbers.
class pinned_bytes {
 public:
  explicit pinned_bytes(const device_bytes& from) {
    ORIEL_CUDA_CALL(cudaMallocHost(reinterpret_cast<void**>(&data_), from.size()));
    ORIEL_CUDA_CALL(cudaMemcpy(data_, from.data(), from.size(), cudaMemcpyDeviceToHost));
  }
  ~pinned_bytes() { cudaFreeHost(data_); }
  pinned_bytes(const pinned_bytes&) = delete;
  pinned_bytes& operator=(const pinned_bytes&) = delete;
  [[nodiscard]] std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
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

using way = cuda::kv_copy_way;

/// Both sides of every copy, and what is copied: a layer's pages.
struct sides {
  device_bytes device{bytes_moved, dtype::bf16}, other{bytes_moved, dtype::bf16};
  pinned_bytes host{device};
};
constexpr attention_shape large{64, 4, 192, 128, 64, 0, dtype::bf16};  // 160 KiB a page
constexpr attention_shape small{16, 1, 192, 128, 16, 0, dtype::bf16};  // 10 KiB

/// Copies of scattered pages in all ways beside one large copy; those with an id are figures, all
/// are printed.
class copies {
 public:
  copies(std::string limit, std::byte* from, std::byte* to, bool is_up, double counted)
      : limit_(std::move(limit)), from_(from), to_(to), is_up_(is_up), counted_(counted) {
    one_ = race_.add([this] {
      return watch_.ms([&](cudaStream_t stream) {
        ORIEL_CUDA_CALL(cudaMemcpyAsync(to_, from_, bytes_moved, cudaMemcpyDefault, stream));
      });
    });
  }
  void add(const std::string& name,
           const std::string& id,
           const attention_shape& layer,
           bool permutes,
           way how,
           std::uint32_t multiprocessors) {
    copies_.push_back(std::make_unique<page_copy>(
        layer,
        permutes,
        is_up_,
        cuda::kv_copy_options{.way = how, .multiprocessors = multiprocessors},
        from_,
        to_));
    page_copy& c = *copies_.back();
    rows_.push_back({name, id, race_.add([&] {
                       c.shuffle(random_);
                       return watch_.ms(c);
                     })});
  }
  void run(std::uint32_t rounds) {
    race_.run(rounds);
    const double bytes = counted_ * static_cast<double>(bytes_moved);
    for (const row& r : rows_) {
      const double rate = bytes / race_.took(r.number) / 1e6, of_one = race_.ratio(one_, r.number);
      std::fprintf(stderr, "| %s | %.1f GB/s | %.3f of one copy |\n", r.name.c_str(), rate, of_one);
      if (!r.id.empty()) {
        report({r.id, "", rate, "GB/s", limit_, bytes / race_.took(one_) / 1e6, of_one});
      }
    }
  }

 private:
  struct row {
    std::string name, id;
    std::size_t number;
  };
  std::string limit_;
  std::byte *from_, *to_;
  bool is_up_;
  double counted_;  ///< bytes for each byte moved
  stopwatch watch_;
  race race_;
  random_stream random_{1};
  std::size_t one_ = 0;
  std::vector<row> rows_;
  std::vector<std::unique_ptr<page_copy>> copies_;
};

/// Host to device, or device to host. The figures are of pages in the host's order: permuted.
void over_the_link(bool is_up) {
  const sides s;
  const std::string id = is_up ? "kv_up" : "kv_down", begin = is_up ? "up, " : "down, ";
  copies all("LINK",
             is_up ? s.host.data() : s.device.data(),
             is_up ? s.device.data() : s.host.data(),
             is_up,
             1);
  for (const auto& [name, layer] :
       {std::pair{"64 tokens, 4 heads", large}, {"16 tokens, 1 head", small}}) {
    const bool is_large = layer.page_size == large.page_size;
    all.add(begin + name + ", engines", "", layer, false, way::engine, 1);
    for (const std::uint32_t n : {2u, 4u}) {
      const std::string of = begin + name + ", " + std::to_string(n) + " multiprocessors";
      const bool is_the_goal = n == 4;
      all.add(of, "", layer, false, way::multiprocessors, n);
      all.add(of + ", permuted",
              !is_the_goal ? ""
              : is_large   ? id
                           : id + "_small",
              layer,
              true,
              way::multiprocessors,
              n);
    }
  }
  all.run(15);
}

void on_the_device() {
  const sides s;
  copies all("COPY", s.device.data(), s.other.data(), false, 2);
  const std::uint32_t n = facts().multiprocessors;
  all.add("on the device, 64 tokens", "kv_device", large, false, way::multiprocessors, n);
  all.add("the same, permuted", "", large, true, way::multiprocessors, n);
  all.add("on the device, 16 tokens", "", small, false, way::multiprocessors, n);
  all.run(15);
}

/// Decoding alone, and on four multiprocessors less beside a copy by these that lasts longer.
void beside_copies() {
  const sides s;
  const std::vector<std::uint32_t> keys(64, 4096);
  const std::uint32_t n = facts().multiprocessors;
  const batch all(shape_of(0), keys, 1),
      fewer(shape_of(0), keys, 1, pages::scattered, false, n - 4);
  page_copy copy(large,
                 true,
                 true,
                 {.way = way::multiprocessors, .multiprocessors = 4},
                 s.host.data(),
                 s.device.data());
  stopwatch compute, copying;
  cudaEvent_t begun = nullptr;
  ORIEL_CUDA_CALL(cudaEventCreateWithFlags(&begun, cudaEventDisableTiming));
  random_stream random(1);
  const auto decode = [](const batch& b) {
    return [&b](cudaStream_t stream) {
      for (int step = 0; step < 8; ++step) {
        b(stream);
      }
    };
  };
  race r;
  const auto alone = r.add([&] { return compute.ms(decode(all)); });
  const auto beside = r.add([&] {
    ORIEL_CUDA_CALL(cudaDeviceSynchronize());  // The last copy may not have ended.
    copy.shuffle(random);
    return compute.ms([&](cudaStream_t stream) {
      // Both begin with the stopwatch, whose stream waits until all is enqueued.
      ORIEL_CUDA_CALL(cudaEventRecord(begun, stream));
      ORIEL_CUDA_CALL(cudaStreamWaitEvent(copying.stream(), begun));
      copy(copying.stream());
      decode(fewer)(stream);
    });
  });
  r.run(15);
  ORIEL_CUDA_CALL(cudaDeviceSynchronize());
  cudaEventDestroy(begun);
  report({"kv_beside",
          "",
          1e3 * r.took(beside),
          "us",
          "alone",
          1e3 * r.took(alone),
          r.ratio(beside, alone)});
}

}  // namespace

int main(int count, char** arguments) {
  return run_tasks(count,
                   arguments,
                   {{{"kv_up", "kv_up_small"}, [] { over_the_link(true); }},
                    {{"kv_down", "kv_down_small"}, [] { over_the_link(false); }},
                    {{"kv_device"}, on_the_device},
                    {{"kv_beside"}, beside_copies}});
}
