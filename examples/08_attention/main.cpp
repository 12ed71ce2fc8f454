// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Example 08: attention over pages. A window layer needs no more memory than its window, however
// long the conversation: the same tokens go through a ring of a few pages, in chunks, and through a
// flat table, at once. The outputs are equal, bit for bit.
// Next: 09_speculative drafts tokens and keeps those that the model would have said.
#include <oriel/core/executor.hpp>
#include <oriel/core/random.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/kv_append.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

namespace {

using namespace oriel;  // NOLINT: an example

constexpr attention_shape shape{.q_heads = 16,
                                .kv_heads = 2,
                                .head_dim_qk = 192,
                                .head_dim_vo = 128,
                                .page_size = 16,
                                .window_tokens = 128,
                                .kv = dtype::bf16};
constexpr std::uint32_t tokens = 1'000, chunk_tokens = 32;
constexpr std::size_t q_row = std::size_t{shape.q_heads} * shape.head_dim_qk;
constexpr std::size_t k_row = std::size_t{shape.kv_heads} * shape.head_dim_qk;
constexpr std::size_t v_row = std::size_t{shape.kv_heads} * shape.head_dim_vo;
constexpr std::size_t out_row = std::size_t{shape.q_heads} * shape.head_dim_vo;

std::vector<float> random_rows(std::uint64_t stream, std::size_t row) {
  random_stream random(2026, stream);
  std::vector<float> x(tokens * row);
  std::generate(x.begin(), x.end(), [&] { return random.next_uniform(-1.0f, 1.0f); });
  return x;
}

/// 64-byte aligned bytes.
auto allocate(std::size_t bytes) {
  const auto release = [](std::byte* p) { ::operator delete (p, std::align_val_t{64}); };
  auto* p = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{64}));
  return std::unique_ptr<std::byte, decltype(release)>(p, release);
}

/// All tokens through `pages` pages, `chunk` tokens at a time: append K and V, then attend.
std::vector<float> run(std::uint32_t pages, bool ring, std::uint32_t chunk) {
  const auto q = random_rows(1, q_row), k = random_rows(2, k_row), v = random_rows(3, v_row);
  const std::size_t k_bytes = k_bytes_per_page(shape.page_size, shape.kv_heads, 192, shape.kv);
  const std::size_t v_bytes = v_bytes_per_page(shape.page_size, shape.kv_heads, 128, shape.kv);
  const auto memory = allocate((k_bytes + v_bytes) * pages);
  std::memset(memory.get(), 0xFF, (k_bytes + v_bytes) * pages);  // NaN, lest a stale key be used.
  const kv_layer_view kv{memory.get(), memory.get() + k_bytes, k_bytes + v_bytes};
  std::vector<std::uint32_t> table(pages);
  std::iota(table.begin(), table.end(), 0u);

  serial_executor serial;
  const auto plan = host::plan_attention(shape, chunk, serial.concurrency());
  const auto workspace = allocate(plan->workspace_bytes);
  std::vector<float> out(tokens * out_row);
  for (std::uint32_t first = 0; first < tokens; first += chunk) {
    const std::uint32_t rows = std::min(chunk, tokens - first);
    const paged_sequence sequence{table.data(), ring ? pages : 0, first, rows};
    host::run_kv_append(shape,
                        {.kv = kv,
                         .k = k.data() + first * k_row,
                         .v = v.data() + first * v_row,
                         .k_stride = k_row,
                         .v_stride = v_row,
                         .v_scale = 1.0f,
                         .sequences = {&sequence, 1}},
                        serial);
    host::run_attention(*plan,
                        {.out = out.data() + first * out_row,
                         .q = q.data() + first * q_row,
                         .q_stride = q_row,
                         .kv = kv,
                         .sequences = {&sequence, 1},
                         .sinks = nullptr,
                         .scale = 1.0f / std::sqrt(192.0f)},
                        {workspace.get(), plan->workspace_bytes},
                        serial);
  }
  std::printf("%-4s %4u pages of %u tokens, chunks of %4u: out[last][0] = %.9g\n",
              ring ? "ring" : "flat",
              pages,
              shape.page_size,
              chunk,
              double{out[(tokens - 1) * out_row]});
  return out;
}

}  // namespace

int main() {
  // A chunk's first query looks window - 1 keys back; one more page, as neither end is aligned.
  constexpr std::uint32_t ring_pages =
      (shape.window_tokens - 1 + chunk_tokens + shape.page_size - 1) / shape.page_size + 1;
  const auto flat = run((tokens + shape.page_size - 1) / shape.page_size, false, tokens);
  const auto ring = run(ring_pages, true, chunk_tokens);
  const bool equal = std::memcmp(flat.data(), ring.data(), flat.size() * sizeof(float)) == 0;
  std::printf("%zu outputs are %s\n", flat.size(), equal ? "equal, bit for bit" : "NOT equal");
  return equal ? 0 : 1;
}
