// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: attention on a device, by the shapes of the models that Oriel is for (64 query heads, 4 of
//       KV, 192/128): decode, verification and prefill over all keys and over windows.
// Why:  the rows of attention in the goals (bench/cuda/table.py). Bytes are those of K and V that
//       rows see, with windows also of Q and O; FLOPs those of visible keys.
#include "attention_batch.hpp"

#include <numeric>

namespace {

using namespace oriel;         // NOLINT: a program
using namespace oriel::bench;  // NOLINT

std::vector<std::uint32_t> same(std::uint32_t n, std::uint32_t keys) {
  return std::vector<std::uint32_t>(n, keys);
}

double sum(const std::vector<std::uint32_t>& x) {
  return std::accumulate(x.begin(), x.end(), 0.0);
}

void decode(const std::string& id, const std::vector<std::uint32_t>& keys) {
  const batch b(shape_of(0), keys, 1);
  beside_copy(id, sum(keys) * kv_token_bytes(), 30, std::cref(b));
}

constexpr std::uint32_t sequences = 64, context = 4096;  // 0.67 GB of K and V

void verify() {
  const batch one(shape_of(0), same(sequences, context), 1);
  const batch four(shape_of(0), same(sequences, context), 4);
  stopwatch watch;
  race r;
  const auto decode = r.add([&] { return watch.ms(one); });
  const auto verify = r.add([&] { return watch.ms(four); });
  r.run(30);
  report({"verify4",
          "",
          1e3 * r.took(verify),
          "us",
          "decode(1)",
          1e3 * r.took(decode),
          r.ratio(verify, decode)});
}

/// The same batch with 8-bit pages: bytes beside COPY, time beside bf16, and verification.
void decode_e4m3() {
  require(static_cast<bool>(cuda::plan_attention(shape_of(0, dtype::e4m3),
                                                 {.sequences_max = sequences,
                                                  .rows_max = sequences,
                                                  .rows_per_sequence_max = 1,
                                                  .keys_max = context})),
          "plan_attention of e4m3 KV");
  const batch wide(shape_of(0), same(sequences, context), 1);
  const batch narrow(shape_of(0, dtype::e4m3), same(sequences, context), 1);
  const batch narrow4(shape_of(0, dtype::e4m3), same(sequences, context), 4);
  const double bytes = sequences * context * kv_token_bytes(dtype::e4m3);
  stopwatch watch;
  const copy_yardstick copy;
  race r;
  const auto bf16_kv = r.add([&] { return watch.ms(wide); });
  const auto e4m3_kv = r.add([&] { return watch.ms(narrow); });
  const auto verify = r.add([&] { return watch.ms(narrow4); });
  const auto limit = r.add([&] { return watch.ms(copy); });
  r.run(30);
  report({"decode_e4m3",
          "",
          bytes / r.took(e4m3_kv) / 1e6,
          "GB/s",
          "COPY",
          copy_yardstick::moved / r.took(limit) / 1e6,
          r.ratio(limit, e4m3_kv) * bytes / copy_yardstick::moved});
  report({"decode_e4m3_time",
          "",
          1e3 * r.took(e4m3_kv),
          "us",
          "bf16 KV",
          1e3 * r.took(bf16_kv),
          r.ratio(e4m3_kv, bf16_kv)});
  report({"verify4_e4m3",
          "",
          1e3 * r.took(verify),
          "us",
          "decode(1)",
          1e3 * r.took(e4m3_kv),
          r.ratio(verify, e4m3_kv)});
}

/// A prompt of `tokens`, pages anywhere, beside pages in order, beside GEMM.
void prefill(const std::string& id, std::uint32_t tokens, std::uint32_t rounds) {
  stopwatch watch;
  const dense_gemm gemm(8192, 8192, 8192, watch);
  const batch paged(shape_of(0), {tokens}, tokens);
  const batch contiguous(shape_of(0), {tokens}, tokens, pages::in_order);
  const double flops = causal_flops(tokens, 0, q_heads, dk + dv);
  race r;
  const auto ours = r.add([&] { return watch.ms(paged); });
  const auto in_order = r.add([&] { return watch.ms(contiguous); });
  const auto limit = r.add([&] { return watch.ms(gemm); });
  r.run(rounds);
  report({id,
          "",
          flops / r.took(ours) / 1e9,
          "TFLOP/s",
          "GEMM",
          gemm.flops() / r.took(limit) / 1e9,
          r.ratio(limit, ours) * flops / gemm.flops()});
  report({id + "_paged",
          "",
          1e3 * r.took(ours),
          "us",
          "pages in order",
          1e3 * r.took(in_order),
          r.ratio(ours, in_order)});
}

void window_prefill() {
  constexpr std::uint32_t tokens = 32768;
  const batch b(shape_of(window), {tokens}, tokens);
  beside_copy("swa_prefill", tokens * (kv_token_bytes() + row_bytes), 30, std::cref(b));
}

/// Batches in turn, so that each finds its keys in no cache, recorded as one graph.
class cold_windows {
 public:
  cold_windows(std::uint32_t n, cudaStream_t stream)
      : bytes_(n * (window * kv_token_bytes() + row_bytes)) {
    const auto copies = static_cast<std::uint32_t>(
        cold_copies(static_cast<std::size_t>(bytes_), facts().cache_bytes));
    std::vector<std::uint32_t> keys(n);
    for (std::uint32_t i = 0; i < n; ++i) {
      keys[i] = 5000 + i;
    }
    for (std::uint32_t i = 0; i < copies; ++i) {
      batches_.push_back(
          std::make_unique<batch>(shape_of(window), keys, 1, pages::scattered, true));
    }
    graph_ = std::make_unique<recorded>(
        stream, copies, [&](cudaStream_t s, std::uint32_t i) { (*batches_[i])(s); });
  }
  void operator()(cudaStream_t stream) const { (*graph_)(stream); }
  [[nodiscard]] double bytes() const { return bytes_; }
  [[nodiscard]] std::uint32_t nodes() const { return static_cast<std::uint32_t>(batches_.size()); }

 private:
  double bytes_;
  std::vector<std::unique_ptr<batch>> batches_;
  std::unique_ptr<recorded> graph_;
};

void window_decode() {
  stopwatch watch;
  const cold_windows b(256, watch.stream());
  beside_copy("swa_decode", b.bytes(), 30, std::cref(b), b.nodes());
}

/// The limit of a small batch: a graph's empty node, and 1.3 times its bytes at the rate of COPY.
void small_window_decode() {
  stopwatch watch;
  const cold_windows b(8, watch.stream());
  const recorded nothing(
      watch.stream(), b.nodes(), [](cudaStream_t s, std::uint32_t) { enqueue_empty_kernel(s); });
  const copy_yardstick copy;
  race r;
  const auto ours = r.add([&] { return watch.ms(b) / b.nodes(); });
  const auto node = r.add([&] { return watch.ms(nothing) / b.nodes(); });
  const auto limit = r.add([&] { return watch.ms(copy); });
  r.run(30);
  const double allowed = r.took(node) + 1.3 * b.bytes() / copy_yardstick::moved * r.took(limit);
  report({"swa_decode_small",
          "",
          1e3 * r.took(ours),
          "us",
          "empty node + 1.3 x bytes",
          1e3 * allowed,
          r.took(ours) / allowed});
}

}  // namespace

int main(int count, char** arguments) {
  return run_tasks(
      count,
      arguments,
      {{{"decode"}, [] { decode("decode", same(sequences, context)); }},
       {{"decode_skewed"}, [] { decode("decode_skewed", skewed_lengths(sequences, 100, 3500)); }},
       {{"decode_128k"}, [] { decode("decode_128k", {131'072}); }},
       {{"verify4"}, verify},
       {{"decode_e4m3", "decode_e4m3_time", "verify4_e4m3"}, decode_e4m3},
       {{"prefill_8k", "prefill_8k_paged"}, [] { prefill("prefill_8k", 8192, 20); }},
       {{"prefill_32k", "prefill_32k_paged"}, [] { prefill("prefill_32k", 32'768, 7); }},
       {{"swa_prefill"}, window_prefill},
       {{"swa_decode"}, window_decode},
       {{"swa_decode_small"}, small_window_decode}});
}
