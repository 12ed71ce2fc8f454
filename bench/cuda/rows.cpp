// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: kernels that read and write rows once: appending to KV pages, rope with queries to bf16,
//       RMSNorm with the residual and to what a product reads, quantising to e4m3.
// Why:  append has a goal (bench/cuda/table.py), and a kernel that moves bytes should take the time
//       of a copy. Bytes are those that must be read and written once.
#include "measure.hpp"

#include <oriel/core/random.hpp>
#include <oriel/kernels/kv_append.hpp>
#include <oriel/kernels/quantize_rows.hpp>
#include <oriel/kernels/rms_norm.hpp>
#include <oriel/kernels/rope.hpp>

#include <numeric>

namespace {

using namespace oriel;         // NOLINT: a program
using namespace oriel::bench;  // NOLINT

/// 131,072 tokens of K and V (4 heads of 192/128), f32 to bf16 pages: 1 GB.
void append() {
  constexpr std::uint32_t tokens = 131'072, page_tokens = 64, heads = 4, dk = 192, dv = 128;
  const attention_shape shape{64, heads, dk, dv, page_tokens, 0, dtype::bf16};
  const auto plan = cuda::plan_kv_append(shape, tokens);
  require(static_cast<bool>(plan), "plan_kv_append");
  std::vector<std::uint32_t> table(tokens / page_tokens);
  std::iota(table.begin(), table.end(), 0u);
  random_stream random(2);
  for (auto i = static_cast<std::uint32_t>(table.size()); i > 1; --i) {
    std::swap(table[i - 1], table[random.next_below(i)]);
  }
  const device_bytes pages = on_device(table);
  const device_bytes parts =
      on_device(std::vector<paged_sequence>{{pages.as<std::uint32_t>(), 0, 0, tokens}});
  const std::size_t k_bytes = k_bytes_per_page(page_tokens, heads, dk, dtype::bf16),
                    v_bytes = v_bytes_per_page(page_tokens, heads, dv, dtype::bf16);
  const device_bytes kv(table.size() * (k_bytes + v_bytes), dtype::bf16),
      k(std::size_t{tokens} * heads * dk * sizeof(float), dtype::f32),
      v(std::size_t{tokens} * heads * dv * sizeof(float), dtype::f32);
  const kv_append_args args{.kv = {kv.data(), kv.data() + k_bytes, k_bytes + v_bytes},
                            .k = k.as<float>(),
                            .v = v.as<float>(),
                            .k_stride = heads * dk,
                            .v_stride = heads * dv,
                            .v_scale = 1.0f,
                            .sequences = {parts.as<paged_sequence>(), 1}};
  beside_copy("append", tokens * 6.0 * heads * (dk + dv), 30, [&](cudaStream_t stream) {
    require(static_cast<bool>(cuda::run_kv_append(*plan, args, stream)), "run_kv_append");
  });
}

/// As an engine's steps do: 64 query heads of 192, of which 64 dims turn, f32 to bf16; 4 KV heads
/// turn in place. 16,384 rows: 1.2 GB.
void rope() {
  constexpr std::uint32_t tokens = 16'384, q_heads = 64, kv_heads = 4, dk = 192, turning = 64;
  const auto plan = cuda::plan_rope(
      {.head_dim = dk, .rotary_dims = turning, .rope_base_dims = turning, .theta = 1e7});
  require(static_cast<bool>(plan), "plan_rope");
  constexpr std::size_t q_stride = std::size_t{q_heads} * dk, stride = q_stride + kv_heads * dk;
  const std::size_t table_size = plan->table_size(tokens);
  const device_bytes x(tokens * stride * sizeof(float), dtype::f32),
      q(tokens * q_stride * sizeof(bf16), dtype::bf16),
      table(table_size * sizeof(float), dtype::f32);
  const device_bytes positions = on_device(std::vector<std::uint32_t>(tokens));
  const rope_qk_args args{.q = q.as<bf16>(),
                          .q_stride = q_stride,
                          .x = x.as<float>(),
                          .x_stride = stride,
                          .q_heads = q_heads,
                          .kv_heads = kv_heads,
                          .positions = {positions.as<std::uint32_t>(), tokens}};
  const double bytes = tokens * (6.0 * q_heads * dk + 8.0 * kv_heads * turning + 4.0 * turning);
  beside_copy("rope", bytes, 30, [&](cudaStream_t stream) {
    require(static_cast<bool>(cuda::run_rope(*plan, args, {table.as<float>(), table_size}, stream)),
            "run_rope");
  });
}

constexpr std::uint32_t rows = 32'768, width = 6144;
constexpr std::size_t elements = std::size_t{rows} * width;

/// bf16: x and what is added are read, their sum and the normalised rows written: 1.6 GB.
void norm() {
  const auto plan = cuda::plan_rms_norm({.width = width, .eps = 1e-5f, .activation = dtype::bf16});
  require(static_cast<bool>(plan), "plan_rms_norm");
  const device_bytes x(2 * elements, dtype::bf16), add(2 * elements, dtype::bf16),
      sum(2 * elements, dtype::bf16), out(2 * elements, dtype::bf16),
      weight(width * sizeof(float), dtype::f32);
  const basic_rms_norm_args<bf16> args{.out = out.as<bf16>(),
                                       .out_stride = width,
                                       .x = x.as<bf16>(),
                                       .x_stride = width,
                                       .weight = weight.as<float>(),
                                       .rows = rows,
                                       .add = add.as<bf16>(),
                                       .sum = sum.as<bf16>()};
  beside_copy("rms_norm", 8.0 * elements, 30, [&](cudaStream_t stream) {
    require(static_cast<bool>(cuda::run_rms_norm(*plan, args, stream)), "run_rms_norm");
  });
}

/// f32 to what a product reads, as an engine's steps do: bf16, 1.2 GB, or e4m3 with scales, 1.0 GB.
void norm_to(dtype operand, const char* id) {
  const auto plan = cuda::plan_rms_norm({.width = width, .eps = 1e-5f, .activation = dtype::bf16});
  require(static_cast<bool>(plan), "plan_rms_norm");
  constexpr std::uint32_t groups = width / quantize_group;
  const device_bytes x(4 * elements, dtype::f32), out(elements * size_bytes(operand), operand),
      scales(std::size_t{rows} * groups * sizeof(float), dtype::f32),
      weight(width * sizeof(float), dtype::f32);
  rms_norm_args args{.out = nullptr,
                     .out_stride = 0,
                     .x = x.as<float>(),
                     .x_stride = width,
                     .weight = weight.as<float>(),
                     .rows = rows};
  double bytes = elements * (4.0 + static_cast<double>(size_bytes(operand)));
  if (operand == dtype::bf16) {
    args.rounded = out.as<bf16>();
    args.rounded_stride = width;
  } else {
    args.quantized = {out.as<e4m3>(), width, scales.as<float>(), 1, rows};
    bytes += 4.0 * rows * groups;
  }
  beside_copy(id, bytes, 30, [&](cudaStream_t stream) {
    require(static_cast<bool>(cuda::run_rms_norm(*plan, args, stream)), "run_rms_norm");
  });
}

/// bf16 to e4m3, and a scale for 128 of them: 0.6 GB.
void quantize() {
  const auto plan = cuda::plan_quantize_rows({.columns = width});
  require(static_cast<bool>(plan), "plan_quantize_rows");
  constexpr std::uint32_t groups = width / quantize_group;
  const device_bytes x(2 * elements, dtype::bf16), out(elements, dtype::e4m3),
      scales(std::size_t{rows} * groups * sizeof(float), dtype::f32);
  const basic_quantize_rows_args<bf16> args{.out = {.values = out.as<e4m3>(),
                                                    .stride = width,
                                                    .scales = scales.as<float>(),
                                                    .scale_row_stride = 1,
                                                    .scale_group_stride = rows},
                                            .x = x.as<bf16>(),
                                            .x_stride = width,
                                            .rows = rows};
  beside_copy("quantize", 3.0 * elements + 4.0 * rows * groups, 30, [&](cudaStream_t stream) {
    require(static_cast<bool>(cuda::run_quantize_rows(*plan, args, stream)), "run_quantize_rows");
  });
}

}  // namespace

int main(int count, char** arguments) {
  return run_tasks(count,
                   arguments,
                   {{{"append"}, append},
                    {{"rope"}, rope},
                    {{"rms_norm"}, norm},
                    {{"rms_norm_bf16"}, [] { norm_to(dtype::bf16, "rms_norm_bf16"); }},
                    {{"rms_norm_e4m3"}, [] { norm_to(dtype::e4m3, "rms_norm_e4m3"); }},
                    {{"quantize"}, quantize}});
}
