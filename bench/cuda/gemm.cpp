// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: grouped products of 64 experts beside cuBLASLt's dense product of as many rows, columns and
//       k; with SwiGLU; with rows by Zipf's law; and the stream of weights when each expert has two
//       rows, beside COPY.
// Why:  the rows of experts in the goals (bench/cuda/table.py). FLOPs are those of rows that exist.
#include "measure.hpp"

#include <oriel/kernels/device_gemm.hpp>
#include <oriel/kernels/grouped_gemm.hpp>

#include <numeric>

namespace {

using namespace oriel;         // NOLINT: a program
using namespace oriel::bench;  // NOLINT

constexpr std::uint32_t experts = 64, hidden = 4096, inner = 2048;

/// Experts with random weights (packed is as random as plain) over rows in random order.
class experts_product {
 public:
  experts_product(const grouped_gemm_shape& shape, const std::vector<std::uint32_t>& rows_of)
      : rows_(std::accumulate(rows_of.begin(), rows_of.end(), 0u)) {
    const auto plan = cuda::plan_grouped_gemm(shape, {rows_, facts().multiprocessors});
    require(static_cast<bool>(plan), "plan_grouped_gemm");
    plan_ = *plan;
    std::vector<std::uint32_t> offsets{0}, index;
    for (const std::uint32_t n : rows_of) {
      offsets.push_back(offsets.back() + n);
    }
    for (std::uint32_t i = 0; i < rows_; ++i) {
      index.push_back(static_cast<std::uint32_t>(std::uint64_t{i} * 48271 % rows_));
    }
    offsets_ = on_device(offsets);
    index_ = on_device(index);
    weights_ = device_bytes(plan_.packed_bytes * shape.groups, shape.weights);
    x_ = device_bytes(std::size_t{rows_} * shape.k * size_bytes(shape.weights), shape.weights);
    out_ = device_bytes(std::size_t{2} * rows_ * shape.n, dtype::bf16);
    const std::size_t k_groups = (shape.k - 1) / scale_block + 1;
    x_scales_ = device_bytes(k_groups * rows_ * sizeof(float), dtype::f32);
    weight_scales_ =
        device_bytes(shape.groups * shape.plain_grid_rows() * k_groups * sizeof(float), dtype::f32);
    args_ = {.out = out_.as<bf16>(),
             .out_stride = shape.n,
             .x = x_.data(),
             .x_stride = shape.k,
             .row_index = index_.as<std::uint32_t>(),
             .row_divisor = 1,
             .weights = weights_.data(),
             .offsets = offsets_.as<std::uint32_t>(),
             .rows = rows_,
             .x_scales = x_scales_.as<float>(),
             .x_scale_row_stride = 1,
             .x_scale_column_stride = rows_,
             .weight_scales = weight_scales_.as<float>(),
             .weight_scale_group_stride = shape.plain_grid_rows() * k_groups,
             .weight_scale_stride = k_groups,
             .weight_scale_rows = nullptr};
  }
  void operator()(cudaStream_t stream) const {
    require(static_cast<bool>(cuda::run_grouped_gemm(plan_, args_, stream)), "run_grouped_gemm");
  }
  [[nodiscard]] double flops() const {
    return 2.0 * rows_ * plan_.shape.weight_rows() * plan_.shape.k;
  }
  [[nodiscard]] double weight_bytes() const { return static_cast<double>(weights_.size()); }
  [[nodiscard]] std::uint32_t rows() const { return rows_; }

 private:
  std::uint32_t rows_;
  cuda::grouped_gemm_plan plan_{};
  grouped_gemm_args<bf16> args_{};
  device_bytes offsets_, index_, weights_, x_, out_, x_scales_, weight_scales_;
};

std::vector<std::uint32_t> same(std::uint32_t rows) {
  return std::vector<std::uint32_t>(experts, rows);
}

grouped_gemm_shape up(dtype weights) {  // gate and up, with SwiGLU
  return {experts, inner, hidden, weights, true};
}
grouped_gemm_shape down(dtype weights) {
  return {experts, hidden, inner, weights, false};
}

/// Beside cuBLASLt's dense bf16 product of the same size.
void beside_dense(const std::string& id,
                  const grouped_gemm_shape& shape,
                  const std::vector<std::uint32_t>& rows_of) {
  stopwatch watch;
  const experts_product grouped(shape, rows_of);
  const dense_gemm dense(grouped.rows(), shape.weight_rows(), shape.k, watch);
  race r;
  const auto ours = r.add([&] { return watch.ms(grouped); });
  const auto limit = r.add([&] { return watch.ms(dense); });
  r.run(20);
  report({id,
          "",
          grouped.flops() / r.took(ours) / 1e9,
          "TFLOP/s",
          "dense cuBLASLt bf16",
          dense.flops() / r.took(limit) / 1e9,
          r.ratio(limit, ours) * grouped.flops() / dense.flops()});
}

/// GEMM itself, for those who want the machine's rate.
void yardstick() {
  stopwatch watch;
  const dense_gemm gemm(8192, 8192, 8192, watch);
  race r;
  const auto took = r.add([&] { return watch.ms(gemm); });
  r.run(20);
  report({"GEMM", "", gemm.flops() / r.took(took) / 1e9, "TFLOP/s"});
}

/// Two rows an expert: gate, up and down of 64 experts, 3.2 GB of weights in bf16.
void weight_stream(const std::string& id, dtype type) {
  const experts_product first(up(type), same(2)), second(down(type), same(2));
  beside_copy(id, first.weight_bytes() + second.weight_bytes(), 20, [&](cudaStream_t stream) {
    first(stream);
    second(stream);
  });
}

}  // namespace

int main(int count, char** arguments) {
  using enum dtype;
  // bench/gpu.sh reads it.
  std::printf("cuBLASLt: %s\n",
              cuda::gemm_library::is_built() ? std::to_string(cuda::gemm_library::version()).c_str()
                                             : "NONE");
  return run_tasks(
      count,
      arguments,
      {{{"GEMM"}, yardstick},
       {{"grouped_gemm"}, [] { beside_dense("grouped_gemm", down(bf16), same(256)); }},
       {{"grouped_gemm_1024"}, [] { beside_dense("grouped_gemm_1024", down(bf16), same(1024)); }},
       {{"grouped_swiglu"}, [] { beside_dense("grouped_swiglu", up(bf16), same(256)); }},
       {{"grouped_zipf"},
        [] { beside_dense("grouped_zipf", down(bf16), zipf_rows(experts, experts * 512)); }},
       {{"grouped_gemm_e4m3"}, [] { beside_dense("grouped_gemm_e4m3", down(e4m3), same(256)); }},
       {{"weight_stream"}, [] { weight_stream("weight_stream", bf16); }},
       {{"weight_stream_e4m3"}, [] { weight_stream("weight_stream_e4m3", e4m3); }}});
}
