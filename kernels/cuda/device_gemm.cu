// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Dense products by cuBLASLt. Row-major [rows, columns] is column-major [columns, rows] to it, so
// it computes out^T [n, rows] = w [n, k] x^T [k, rows]: its first operand, transposed, is w.
#include <oriel/core/contract.hpp>
#include <oriel/kernels/device_gemm.hpp>

#include <new>
#include <utility>

#ifdef ORIEL_HAS_CUBLASLT

#include <cublasLt.h>

#include <cstring>

namespace oriel::cuda {
namespace {

// One product as cuBLASLt sees it. Compared byte by byte: no padding.
struct product {
  std::uint64_t w_stride, x_stride, out_stride;
  std::uint32_t n, k, rows;
  std::uint32_t rows_chosen_for;                          // gemm_order::fixed; else 0
  std::uint16_t w_alignment, x_alignment, out_alignment;  // bytes, a power of 2 up to 16
  std::uint8_t in, out;                                   // dtype
};
static_assert(std::has_unique_object_representations_v<product>);

// Largest power of 2 that divides p, at most 16: more would let an algorithm depend on where a
// buffer happens to lie.
std::uint16_t alignment_of(const void* p) noexcept {
  const auto bits = reinterpret_cast<std::uintptr_t>(p) | 16u;
  return static_cast<std::uint16_t>(bits & (~bits + 1));
}

cudaDataType_t type_of(std::uint8_t t) noexcept {
  switch (static_cast<dtype>(t)) {
    case dtype::f32:
      return CUDA_R_32F;
    case dtype::bf16:
      return CUDA_R_16BF;
    case dtype::e4m3:
      return CUDA_R_8F_E4M3;
  }
  return CUDA_R_32F;
}

// The first failure of a sequence of calls.
class outcome {
 public:
  void operator()(cublasStatus_t s) noexcept {
    first_ = first_ == CUBLAS_STATUS_SUCCESS ? s : first_;
  }
  [[nodiscard]] cublasStatus_t get() const noexcept { return first_; }

 private:
  cublasStatus_t first_ = CUBLAS_STATUS_SUCCESS;
};

// cuBLASLt's descriptors of a product with so many rows, in place: nothing is allocated.
struct descriptors {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t w, x, out;

  cublasStatus_t init(const product& p, std::uint32_t rows) noexcept {
    outcome all;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    all(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    all(cublasLtMatmulDescSetAttribute(
        &operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
    all(cublasLtMatrixLayoutInit(
        &w, type_of(p.in), p.k, p.n, static_cast<std::int64_t>(p.w_stride)));
    all(cublasLtMatrixLayoutInit(
        &x, type_of(p.in), p.k, rows, static_cast<std::int64_t>(p.x_stride)));
    all(cublasLtMatrixLayoutInit(
        &out, type_of(p.out), p.n, rows, static_cast<std::int64_t>(p.out_stride)));
    if (static_cast<dtype>(p.in) == dtype::e4m3) {
      const std::int32_t blocks = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
      const std::int32_t groups = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
      all(cublasLtMatmulDescSetAttribute(
          &operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &blocks, sizeof blocks));
      all(cublasLtMatmulDescSetAttribute(
          &operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &groups, sizeof groups));
    }
    return all.get();
  }
  cublasStatus_t set_scales(const float* w_scales, const float* x_scales) noexcept {
    outcome all;
    all(cublasLtMatmulDescSetAttribute(
        &operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &w_scales, sizeof w_scales));
    all(cublasLtMatmulDescSetAttribute(
        &operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x_scales, sizeof x_scales));
    return all.get();
  }
};

// Block scales: rows come by fours.
std::uint32_t row_unit(dtype in) noexcept {
  return in == dtype::e4m3 ? 4 : 1;
}

constexpr std::uint32_t slots = 512;  // of the table of algorithms

}  // namespace

struct gemm_library::state {
  struct slot {
    bool used;
    product key;
    std::uint32_t rows_taken;  // order-fixed: a number of rows that the algorithm is known to take
    cublasLtMatmulAlgo_t algorithm;
  };
  cublasLtHandle_t handle = nullptr;
  std::uint32_t used = 0;
  slot table[slots] = {};

  // Where `p` is, or is to be.
  [[nodiscard]] slot& find(const product& p) noexcept {
    std::uint64_t h = 0;
    for (const std::uint64_t part : {p.w_stride,
                                     p.x_stride,
                                     p.out_stride,
                                     std::uint64_t{p.n} << 32 | p.k,
                                     std::uint64_t{p.rows} << 32 | p.rows_chosen_for,
                                     std::uint64_t{p.in} << 8 | p.out}) {
      h = (h ^ part) * 0x9E37'79B9'7F4A'7C15ull;
      h ^= h >> 32;
    }
    std::uint32_t i = static_cast<std::uint32_t>(h % slots);
    while (table[i].used && std::memcmp(&table[i].key, &p, sizeof p) != 0) {
      i = (i + 1) % slots;
    }
    return table[i];
  }
};

namespace {

// Does the algorithm leave k in one piece?
bool keeps_order(const cublasLtMatmulAlgo_t& algorithm) noexcept {
  std::int32_t parts = 0;
  std::uint32_t reduction = 0;
  return cublasLtMatmulAlgoConfigGetAttribute(
             &algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof parts, nullptr) ==
             CUBLAS_STATUS_SUCCESS &&
         cublasLtMatmulAlgoConfigGetAttribute(&algorithm,
                                              CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                              &reduction,
                                              sizeof reduction,
                                              nullptr) == CUBLAS_STATUS_SUCCESS &&
         parts <= 1 && reduction == CUBLASLT_REDUCTION_SCHEME_NONE;
}

struct operands {
  void* out;
  const void* x;
  const void* w;
  const float* x_scales;  // null but for e4m3
  const float* w_scales;
  bool accumulate;
};

// Its answers for what it has no code for. INVALID_VALUE is documented for questions without sense,
// and is also what the heuristics say of block scales beside a type of output that has none
// (pytorch#160816). ARCH_MISMATCH refuses all products, which no other path should hide.
bool is_refusal(cublasStatus_t s) noexcept {
  return s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE;
}

// Does the algorithm take so many rows? A check knows of no beta: whether it adds to what is there
// is decided by the call alone.
bool takes(cublasLtHandle_t handle,
           const product& p,
           const operands& at,
           std::size_t workspace_bytes,
           const cublasLtMatmulAlgo_t& algorithm,
           std::uint32_t rows) noexcept {
  descriptors d;
  outcome all;
  cublasLtMatmulHeuristicResult_t checked;
  all(d.init(p, rows));
  if (at.x_scales != nullptr) {
    all(d.set_scales(at.w_scales, at.x_scales));
  }
  return all.get() == CUBLAS_STATUS_SUCCESS &&
         cublasLtMatmulAlgoCheck(
             handle, &d.operation, &d.w, &d.x, &d.out, &d.out, &algorithm, &checked) ==
             CUBLAS_STATUS_SUCCESS &&
         checked.workspaceSize <= workspace_bytes;
}

// The first algorithm that the heuristics offer, that keeps the order, and that takes p.rows rows.
// Order-fixed: which is offered for rows_chosen_for rows and takes a few numbers up to them; p.rows
// has no say in it, or calls of other numbers would be computed by other code.
status choose(cublasLtHandle_t handle,
              const product& p,
              const operands& at,
              std::size_t workspace_bytes,
              cublasLtMatmulAlgo_t& algorithm) noexcept {
  constexpr int offers_max = 16;
  cublasLtMatmulHeuristicResult_t offers[offers_max];
  int count = 0;
  descriptors wanted;
  cublasLtMatmulPreferenceOpaque_t preference;
  const std::uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE, w = p.w_alignment,
                      x = p.x_alignment, out = p.out_alignment;
  const bool is_fixed = p.rows_chosen_for != 0;
  const std::uint32_t most = is_fixed ? p.rows_chosen_for : p.rows;
  outcome all;
  all(wanted.init(p, most));
  if (at.x_scales != nullptr) {  // The heuristics refuse a mode of scales without their address.
    all(wanted.set_scales(at.w_scales, at.x_scales));
  }
  all(cublasLtMatmulPreferenceInit(&preference));
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
    all(cublasLtMatmulPreferenceSetAttribute(&preference, name, &value, sizeof value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, no_reduction);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, w);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out);
  if (all.get() != CUBLAS_STATUS_SUCCESS) {  // Of ours, whatever the product is.
    return failure{errc::device_failure, all.get(), "gemm: cuBLASLt's descriptors"};
  }
  const cublasStatus_t answer = cublasLtMatmulAlgoGetHeuristic(handle,
                                                               &wanted.operation,
                                                               &wanted.w,
                                                               &wanted.x,
                                                               &wanted.out,
                                                               &wanted.out,
                                                               &preference,
                                                               offers_max,
                                                               offers,
                                                               &count);
  if (is_refusal(answer)) {
    return failure{errc::unsupported_shape, answer, "gemm: cuBLASLt refuses the product"};
  }
  if (answer != CUBLAS_STATUS_SUCCESS) {
    return failure{errc::device_failure, answer, "gemm: cuBLASLt's heuristics"};
  }
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulAlgo_t& offer = offers[i].algo;
    bool fits = offers[i].state == CUBLAS_STATUS_SUCCESS && keeps_order(offer) &&
                takes(handle, p, at, workspace_bytes, offer, most);
    for (std::uint32_t rows = row_unit(static_cast<dtype>(p.in)); fits && is_fixed && rows < most;
         rows *= 2) {
      fits = takes(handle, p, at, workspace_bytes, offer, rows);
    }
    if (!fits) {
      continue;
    }
    algorithm = offer;
    return {};
  }
  return failure{
      errc::unsupported_shape, 0, "gemm: cuBLASLt has no algorithm that keeps the order"};
}

// What decides on the algorithm.
product key_of(product p) noexcept {
  p.rows = p.rows_chosen_for != 0 ? 0 : p.rows;
  return p;
}

// The algorithm for a product, from the table or by the heuristics; null: `out` says why.
const cublasLtMatmulAlgo_t* algorithm_for(gemm_library::state& library,
                                          const product& p,
                                          const operands& at,
                                          std::size_t workspace_bytes,
                                          status& out) noexcept {
  const product key = key_of(p);
  auto* slot = &library.find(key);
  if (!slot->used) {
    cublasLtMatmulAlgo_t algorithm;
    if (out = choose(library.handle, p, at, workspace_bytes, algorithm); !out) {
      return nullptr;
    }
    if (library.used >= slots / 4 * 3) {
      std::memset(library.table, 0, sizeof library.table);
      library.used = 0;
      slot = &library.find(key);
    }
    ++library.used;
    *slot = {true, key, p.rows_chosen_for, algorithm};
  }
  if (p.rows_chosen_for != 0 && slot->rows_taken != p.rows) {
    if (!takes(library.handle, p, at, workspace_bytes, slot->algorithm, p.rows)) {
      out = failure{
          errc::unsupported_shape, 0, "gemm: the order-fixed algorithm does not take so many rows"};
      return nullptr;
    }
    slot->rows_taken = p.rows;
  }
  return &slot->algorithm;
}

status multiply(gemm_library::state& library,
                const product& p,
                const operands& at,
                std::span<std::byte> workspace,
                CUstream_st* stream) noexcept {
  status found;
  const auto* const algorithm = algorithm_for(library, p, at, workspace.size(), found);
  if (algorithm == nullptr) {
    return found;
  }
  descriptors d;
  outcome all;
  all(d.init(p, p.rows));
  if (at.x_scales != nullptr) {
    all(d.set_scales(at.w_scales, at.x_scales));
  }
  const float one = 1.0f, kept = at.accumulate ? 1.0f : 0.0f;
  if (all.get() != CUBLAS_STATUS_SUCCESS) {
    return failure{errc::device_failure, all.get(), "gemm: cuBLASLt's descriptors"};
  }
  const cublasStatus_t answer = cublasLtMatmul(library.handle,
                                               &d.operation,
                                               &one,
                                               at.w,
                                               &d.w,
                                               at.x,
                                               &d.x,
                                               &kept,
                                               at.out,
                                               &d.out,
                                               at.out,
                                               &d.out,
                                               algorithm,
                                               workspace.data(),
                                               workspace.size(),
                                               stream);
  if (is_refusal(answer)) {
    return failure{errc::unsupported_shape,
                   answer,
                   "gemm: cuBLASLt refuses the product that it has an algorithm for"};
  }
  if (answer != CUBLAS_STATUS_SUCCESS) {
    return failure{errc::device_failure, answer, "gemm: cuBLASLt"};
  }
  return {};
}

template <class Plan>
std::uint32_t rows_chosen_for(const Plan& plan, dtype in) noexcept {
  const std::uint32_t rows = plan.order == gemm_order::fixed ? plan.rows_max : 0;
  const std::uint32_t unit = row_unit(in);
  return (rows + unit - 1) / unit * unit;
}

template <class Args, class Plan>
product product_of(const Plan& plan,
                   const Args& args,
                   std::uint32_t n,
                   std::uint32_t k,
                   dtype in,
                   dtype out) noexcept {
  return {.w_stride = args.weight_stride,
          .x_stride = args.x_stride,
          .out_stride = args.out_stride,
          .n = n,
          .k = k,
          .rows = args.rows,
          .rows_chosen_for = rows_chosen_for(plan, in),
          .w_alignment = alignment_of(args.weights),
          .x_alignment = alignment_of(args.x),
          .out_alignment = alignment_of(args.out),
          .in = static_cast<std::uint8_t>(in),
          .out = static_cast<std::uint8_t>(out)};
}

template <class X, class Out>
status run(const gemm_library& library,
           const gemm_plan& plan,
           const device_gemm_args<X, Out>& args,
           dtype in,
           dtype out,
           std::span<std::byte> workspace,
           CUstream_st* stream) noexcept {
  ORIEL_EXPECTS(plan.shape.weights == in && plan.out == out && args.rows <= plan.rows_max);
  ORIEL_EXPECTS(workspace.size() >= plan.workspace_bytes);
  if (args.rows == 0) {
    return {};
  }
  return multiply(library.get(),
                  product_of(plan, args, plan.shape.n, plan.shape.k, in, out),
                  {args.out, args.x, args.weights, nullptr, nullptr, args.accumulate},
                  workspace.first(plan.workspace_bytes),
                  stream);
}

template <class Out>
status run(const gemm_library& library,
           const block_scaled_gemm_plan& plan,
           const block_scaled_gemm_args<Out>& args,
           dtype out,
           std::span<std::byte> workspace,
           CUstream_st* stream) noexcept {
  ORIEL_EXPECTS(plan.out == out && args.rows <= plan.rows_max && args.rows % 4 == 0);
  ORIEL_EXPECTS(args.weight_scale_stride == plan.weight_scale_stride);
  ORIEL_EXPECTS(workspace.size() >= plan.workspace_bytes);
  if (args.rows == 0) {
    return {};
  }
  return multiply(
      library.get(),
      product_of(plan, args, plan.n, plan.k, dtype::e4m3, out),
      {args.out, args.x, args.weights, args.x_scales, args.weight_scales, args.accumulate},
      workspace.first(plan.workspace_bytes),
      stream);
}

template <class Plan>
status find(const gemm_library& library,
            const Plan& plan,
            const gemm_layout& layout,
            std::uint32_t n,
            std::uint32_t k,
            dtype in) noexcept {
  // Where scales lie is asked for and not looked at.
  alignas(16) static constexpr float nowhere[4] = {};
  const float* const scales = in == dtype::e4m3 ? nowhere : nullptr;
  const std::uint32_t unit = row_unit(in);
  const product p{.w_stride = layout.weight_stride,
                  .x_stride = layout.x_stride,
                  .out_stride = layout.out_stride,
                  .n = n,
                  .k = k,
                  .rows = (plan.rows_max + unit - 1) / unit * unit,
                  .rows_chosen_for = rows_chosen_for(plan, in),
                  .w_alignment = 16,
                  .x_alignment = layout.x_alignment,
                  .out_alignment = layout.out_alignment,
                  .in = static_cast<std::uint8_t>(in),
                  .out = static_cast<std::uint8_t>(plan.out)};
  status found;
  const operands at{nullptr, nullptr, nullptr, scales, scales, false};
  algorithm_for(library.get(), p, at, plan.workspace_bytes, found);
  return found;
}

}  // namespace

bool gemm_library::is_built() noexcept {
  return true;
}

std::uint64_t gemm_library::version() noexcept {
  return cublasLtGetVersion();
}

result<gemm_library> gemm_library::create() noexcept {
  auto* const s = new (std::nothrow) state;
  if (s == nullptr) {
    return failure{errc::out_of_memory, 0, "gemm_library"};
  }
  if (const cublasStatus_t e = cublasLtCreate(&s->handle); e != CUBLAS_STATUS_SUCCESS) {
    delete s;
    return failure{errc::device_failure, e, "gemm_library: cublasLtCreate"};
  }
  return gemm_library(s);
}

gemm_library::~gemm_library() {
  if (state_ != nullptr) {
    cublasLtDestroy(state_->handle);
    delete state_;
  }
}

status find_gemm(const gemm_library& library,
                 const gemm_plan& plan,
                 const gemm_layout& layout) noexcept {
  return find(library, plan, layout, plan.shape.n, plan.shape.k, plan.shape.weights);
}

status find_gemm(const gemm_library& library,
                 const block_scaled_gemm_plan& plan,
                 const gemm_layout& layout) noexcept {
  return find(library, plan, layout, plan.n, plan.k, dtype::e4m3);
}

status run_gemm(const gemm_library& library,
                const gemm_plan& plan,
                const device_gemm_args<bf16, bf16>& args,
                std::span<std::byte> workspace,
                CUstream_st* stream) noexcept {
  return run(library, plan, args, dtype::bf16, dtype::bf16, workspace, stream);
}

status run_gemm(const gemm_library& library,
                const gemm_plan& plan,
                const device_gemm_args<bf16, float>& args,
                std::span<std::byte> workspace,
                CUstream_st* stream) noexcept {
  return run(library, plan, args, dtype::bf16, dtype::f32, workspace, stream);
}

status run_gemm(const gemm_library& library,
                const gemm_plan& plan,
                const device_gemm_args<float, float>& args,
                std::span<std::byte> workspace,
                CUstream_st* stream) noexcept {
  return run(library, plan, args, dtype::f32, dtype::f32, workspace, stream);
}

status run_block_scaled_gemm(const gemm_library& library,
                             const block_scaled_gemm_plan& plan,
                             const block_scaled_gemm_args<bf16>& args,
                             std::span<std::byte> workspace,
                             CUstream_st* stream) noexcept {
  return run(library, plan, args, dtype::bf16, workspace, stream);
}

status run_block_scaled_gemm(const gemm_library& library,
                             const block_scaled_gemm_plan& plan,
                             const block_scaled_gemm_args<float>& args,
                             std::span<std::byte> workspace,
                             CUstream_st* stream) noexcept {
  return run(library, plan, args, dtype::f32, workspace, stream);
}

}  // namespace oriel::cuda

#else  // Built without cuBLASLt: there is no library to run with.

namespace oriel::cuda {

struct gemm_library::state {};

bool gemm_library::is_built() noexcept {
  return false;
}

std::uint64_t gemm_library::version() noexcept {
  return 0;
}

result<gemm_library> gemm_library::create() noexcept {
  return failure{errc::unsupported_shape, 0, "gemm_library: built without cuBLASLt"};
}

gemm_library::~gemm_library() {
  delete state_;
}

#define ORIEL_NO_LIBRARY(run, plan, args)                                       \
  status run(const gemm_library&,                                               \
             const plan&,                                                       \
             const args&,                                                       \
             std::span<std::byte>,                                              \
             CUstream_st*) noexcept {                                           \
    return failure{errc::unsupported_shape, 0, "gemm: built without cuBLASLt"}; \
  }
using bf16_to_bf16 = device_gemm_args<bf16, bf16>;
using bf16_to_f32 = device_gemm_args<bf16, float>;
using f32_to_f32 = device_gemm_args<float, float>;
ORIEL_NO_LIBRARY(run_gemm, gemm_plan, bf16_to_bf16)
ORIEL_NO_LIBRARY(run_gemm, gemm_plan, bf16_to_f32)
ORIEL_NO_LIBRARY(run_gemm, gemm_plan, f32_to_f32)
ORIEL_NO_LIBRARY(run_block_scaled_gemm, block_scaled_gemm_plan, block_scaled_gemm_args<bf16>)
ORIEL_NO_LIBRARY(run_block_scaled_gemm, block_scaled_gemm_plan, block_scaled_gemm_args<float>)
#undef ORIEL_NO_LIBRARY

status find_gemm(const gemm_library&, const gemm_plan&, const gemm_layout&) noexcept {
  return failure{errc::unsupported_shape, 0, "gemm: built without cuBLASLt"};
}
status find_gemm(const gemm_library&, const block_scaled_gemm_plan&, const gemm_layout&) noexcept {
  return failure{errc::unsupported_shape, 0, "gemm: built without cuBLASLt"};
}

}  // namespace oriel::cuda

#endif

namespace oriel::cuda {

gemm_library::gemm_library(gemm_library&& other) noexcept
    : state_(std::exchange(other.state_, nullptr)) {}

gemm_library& gemm_library::operator=(gemm_library&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

}  // namespace oriel::cuda
