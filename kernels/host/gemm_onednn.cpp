// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>

#include <host/detail/gemm_onednn.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <string_view>
#include <tuple>

#include <dnnl.hpp>

// Weak: oneDNN may stand on another threading run-time than OpenMP, and then these are null.
extern "C" {
[[gnu::weak]] int omp_get_max_threads();
[[gnu::weak]] void omp_set_num_threads(int threads);
}

namespace oriel::host::detail {
namespace {

constexpr std::array<std::uint32_t, 6> row_sizes{512, 64, 16, 8, 4, 1};
constexpr std::uint32_t slice_rows_max = row_sizes.front();
constexpr std::uint32_t chunk_columns = 256;  // A multiple of onednn_panel_width.

// oneDNN runs on the calling thread alone; the tasks are ours.
class one_thread_scope {
 public:
  one_thread_scope() noexcept {
    if (omp_get_max_threads != nullptr && omp_set_num_threads != nullptr) {
      before_ = omp_get_max_threads();
      omp_set_num_threads(1);
    }
  }
  ~one_thread_scope() {
    if (before_ != 0) {
      omp_set_num_threads(before_);
    }
  }
  one_thread_scope(const one_thread_scope&) = delete;
  one_thread_scope& operator=(const one_thread_scope&) = delete;

 private:
  int before_ = 0;
};

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

std::size_t align_up(std::size_t bytes) noexcept {
  return (bytes + 63) / 64 * 64;
}

// x [rows, k] times weights [k, columns] for one of the row sizes.
struct product {
  dnnl::matmul matmul;
  dnnl::memory::desc x, weights, out, scratchpad;

  // False if oneDNN's choice is not known to be row-invariant.
  bool try_make(dtype type, std::uint32_t rows, std::uint32_t columns, std::uint32_t k) {
    using tag = dnnl::memory::format_tag;
    using kind = dnnl::memory::data_type;
    const bool f32 = type == dtype::f32;
    x = {{rows, k}, f32 ? kind::f32 : kind::bf16, tag::ab};
    weights = {{k, columns}, f32 ? kind::f32 : kind::bf16, f32 ? tag::BA16a64b : tag::BA16a64b2a};
    out = {{rows, columns}, kind::f32, tag::ab};
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::primitive_desc description(
        {x, weights, out}, attributes, cpu_engine(), true);
    if (!description || !std::string_view(description.impl_info_str()).starts_with("brg:")) {
      return false;
    }
    scratchpad = description.scratchpad_desc();
    matmul = dnnl::matmul(description);
    return true;
  }
};

// All primitives of one matrix shape.
struct matrix {
  std::array<product, row_sizes.size()> full;  // chunk_columns wide
  std::array<product, row_sizes.size()> last;  // the remainder
  std::size_t scratchpad_bytes = 0;

  bool try_make(const gemm_shape& shape) {
    const std::uint32_t remainder = shape.n % chunk_columns;
    for (std::size_t i = 0; i < row_sizes.size(); ++i) {
      if ((shape.n >= chunk_columns &&
           !try_make_one(full[i], shape, row_sizes[i], chunk_columns)) ||
          (remainder != 0 && !try_make_one(last[i], shape, row_sizes[i], remainder))) {
        return false;
      }
    }
    return true;
  }
  bool try_make_one(product& p,
                    const gemm_shape& shape,
                    std::uint32_t rows,
                    std::uint32_t columns) {
    if (!p.try_make(shape.weights, rows, columns, shape.k)) {
      return false;
    }
    scratchpad_bytes = std::max(scratchpad_bytes, align_up(p.scratchpad.get_size()));
    return true;
  }
  // Of one worker: a dense tile of the output, then oneDNN's scratchpad.
  [[nodiscard]] std::size_t worker_bytes() const noexcept {
    return tile_bytes() + scratchpad_bytes;
  }
  [[nodiscard]] static std::size_t tile_bytes() noexcept {
    return std::size_t{slice_rows_max} * chunk_columns * sizeof(float);
  }
};

// Shapes live as long as the process: a model has a dozen.
const matrix* find_or_make(const gemm_shape& shape) {
  static std::mutex mutex;
  static std::map<std::tuple<dtype, std::uint32_t, std::uint32_t>, matrix> matrices;
  const std::scoped_lock lock(mutex);
  const auto [at, made] = matrices.try_emplace({shape.weights, shape.n, shape.k});
  if (made) {
    const one_thread_scope one_thread;
    if (!at->second.try_make(shape)) {
      matrices.erase(at);
      return nullptr;
    }
  }
  return &at->second;
}

std::size_t row_bytes_of(const gemm_shape& shape) noexcept {
  return shape.k * size_bytes(shape.weights);
}

// Rows of x, dense, in the weights' type.
void pack_rows(const gemm_plan& plan,
               const gemm_args& args,
               std::uint32_t first,
               std::uint32_t rows,
               std::byte* to) noexcept {
  const std::uint32_t k = plan.shape.k;
  for (std::uint32_t r = 0; r < rows; ++r, to += row_bytes_of(plan.shape)) {
    const float* from = args.x + std::size_t{first + r} * args.x_stride;
    if (plan.shape.weights == dtype::f32) {
      std::memcpy(to, from, k * sizeof(float));
      continue;
    }
    auto* const rounded = reinterpret_cast<bf16*>(to);
    for (std::uint32_t i = 0; i < k; ++i) {
      rounded[i] = to_bf16(from[i]);
    }
  }
}

struct slice {
  const gemm_plan& plan;
  const gemm_args& args;
  const matrix& primitives;
  std::byte* x;
  std::uint32_t first_row;
  std::uint32_t rows;

  void multiply(std::uint32_t chunk, std::byte* worker_memory) const {
    const one_thread_scope one_thread;
    const gemm_shape& shape = plan.shape;
    const std::uint32_t column = chunk * chunk_columns,
                        columns = std::min(chunk_columns, shape.n - column);
    const auto& products = columns == chunk_columns ? primitives.full : primitives.last;
    dnnl::stream stream(cpu_engine());
    auto* const tile = reinterpret_cast<float*>(worker_memory);
    const std::size_t chunk_bytes = primitives.full[0].weights.get_size();
    for (std::uint32_t row = 0; row < rows;) {
      const auto size =
          static_cast<std::size_t>(std::find_if(row_sizes.begin(),
                                                row_sizes.end(),
                                                [&](std::uint32_t s) { return s <= rows - row; }) -
                                   row_sizes.begin());
      const product& p = products[size];
      const dnnl::memory from(p.x, cpu_engine(), x + row * row_bytes_of(shape));
      const dnnl::memory weights(
          p.weights, cpu_engine(), const_cast<std::byte*>(args.weights) + chunk * chunk_bytes);
      const dnnl::memory to(p.out, cpu_engine(), tile);
      const dnnl::memory scratchpad(
          p.scratchpad, cpu_engine(), worker_memory + matrix::tile_bytes());
      p.matmul.execute(stream,
                       {{DNNL_ARG_SRC, from},
                        {DNNL_ARG_WEIGHTS, weights},
                        {DNNL_ARG_DST, to},
                        {DNNL_ARG_SCRATCHPAD, scratchpad}});
      stream.wait();
      for (std::uint32_t r = 0; r < row_sizes[size]; ++r) {
        float* const out = args.out + std::size_t{first_row + row + r} * args.out_stride + column;
        for (std::uint32_t c = 0; c < columns; ++c) {
          const float value = tile[std::size_t{r} * columns + c];
          out[c] = args.accumulate ? out[c] + value : value;
        }
      }
      row += row_sizes[size];
    }
  }
};

}  // namespace

result<gemm_plan> plan_onednn_gemm(const gemm_shape& shape,
                                   std::uint32_t rows_max,
                                   std::uint32_t concurrency,
                                   isa path) noexcept {
  // oneDNN chooses instructions by itself: it must be the path that was asked for.
  const bool same_path =
      shape.weights == dtype::bf16 ? path == isa::avx512_bf16 : path >= isa::avx512;
  if (!same_path) {
    return failure{errc::unsupported_shape, 0, "oneDNN multiplies on another path"};
  }
  try {
    const matrix* primitives = find_or_make(shape);
    if (primitives == nullptr) {
      return failure{
          errc::unsupported_shape, 0, "oneDNN's implementation is not known to be row-invariant"};
    }
    const auto padded = [](std::size_t a, std::size_t b) { return (a + b - 1) / b * b; };
    const std::size_t steps =
        shape.weights == dtype::f32 ? shape.k : (std::size_t{shape.k} + 1) / 2;
    const std::uint32_t rows = std::min(std::max(rows_max, 1u), slice_rows_max);
    return gemm_plan{.shape = shape,
                     .path = path,
                     .backend = gemm_backend::onednn,
                     .packed_bytes = padded(shape.n, onednn_panel_width) *
                                     padded(steps, onednn_step_padding) * sizeof(std::uint32_t),
                     .workspace_bytes = align_up(rows * row_bytes_of(shape)) +
                                        std::max(concurrency, 1u) * primitives->worker_bytes()};
  } catch (const std::bad_alloc&) {
    return failure{errc::out_of_memory, 0, "oneDNN could not make its primitives"};
  } catch (const dnnl::error& e) {
    return failure{errc::unsupported_shape, static_cast<int>(e.status), "oneDNN refused the shape"};
  }
}

void run_onednn_gemm(const gemm_plan& plan,
                     const gemm_args& args,
                     std::span<std::byte> workspace,
                     executor_ref executor) noexcept {
  const matrix& primitives = *find_or_make(plan.shape);  // Made by the plan.
  const std::size_t workers_bytes = executor.concurrency() * primitives.worker_bytes();
  const std::size_t row_bytes = row_bytes_of(plan.shape);
  ORIEL_EXPECTS(workspace.size() >= workers_bytes + row_bytes);
  std::byte* const x = workspace.data() + workers_bytes;
  const auto capacity = static_cast<std::uint32_t>(
      std::min<std::size_t>((workspace.size() - workers_bytes) / row_bytes, slice_rows_max));
  const std::uint32_t chunks = (plan.shape.n + chunk_columns - 1) / chunk_columns;
  for (std::uint32_t row = 0; row < args.rows; row += capacity) {
    const std::uint32_t rows = std::min(capacity, args.rows - row);
    pack_rows(plan, args, row, rows, x);
    const slice work{.plan = plan,
                     .args = args,
                     .primitives = primitives,
                     .x = x,
                     .first_row = row,
                     .rows = rows};
    executor.for_each(chunks, [&](std::uint32_t chunk, std::uint32_t worker) {
      work.multiply(chunk, workspace.data() + worker * primitives.worker_bytes());
    });
  }
}

}  // namespace oriel::host::detail
