// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A drop-in for the part of libcublasLt that this project calls. Refuses what cuBLASLt's
// documentation says that a device of compute capability 9.0 has no product for; what it takes is
// computed on the host, in stream order.
#include "enqueue.hpp"
#include "product.hpp"

#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <type_traits>

using namespace oriel::ptx_machine;  // NOLINT: functions of C

namespace {

/// What this library keeps in the toolkit's opaque structs.
struct layout {
  std::uint64_t rows, columns;
  std::int64_t stride;
  std::uint32_t type;
  std::int32_t order, batch;
};
struct operation {
  const float* scales[4];  ///< a, b, c, d
  std::int32_t scale_modes[4];
  std::int32_t compute_type, scale_type, pointer_mode, transposed[3];
  std::uint32_t epilogue;
};
struct preference {
  std::uint64_t workspace_bytes_max;
  std::uint32_t reduction_mask, alignments[4];  ///< a, b, c, d; bytes
};
struct algorithm {
  std::uint64_t mark, workspace_bytes;
  std::uint32_t alignments[4];
};
constexpr std::uint64_t algorithm_mark = 0x6F72'6965'6C20'6C74;
constexpr std::uint64_t workspace_bytes_used = 32 << 10;

template <class Ours, class Theirs>
Ours get(const Theirs* from) {
  static_assert(sizeof(Ours) <= sizeof(Theirs) && std::is_trivially_copyable_v<Ours>);
  Ours out;
  std::memcpy(&out, from, sizeof out);
  return out;
}
template <class Ours, class Theirs>
void put(Theirs* to, const Ours& value) {
  static_assert(sizeof(Ours) <= sizeof(Theirs) && std::is_trivially_copyable_v<Ours>);
  std::memset(to, 0, sizeof *to);
  std::memcpy(to, &value, sizeof value);
}

template <class T>
cublasStatus_t set(T& to, const void* from, std::size_t bytes) {
  if (from == nullptr || bytes != sizeof to) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  std::memcpy(&to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

/// One product as it is asked for.
struct question {
  operation op;
  layout a, b, c, d;
};

bool is_type(std::uint32_t type, element& out) {
  switch (type) {
    case CUDA_R_32F:
      return out = element::f32, true;
    case CUDA_R_16BF:
      return out = element::bf16, true;
    case CUDA_R_8F_E4M3:
      return out = element::e4m3, true;
    default:
      return false;
  }
}

bool is_block_mode(std::int32_t mode) {
  return mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F ||
         mode == CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
}

bool is_aligned(const void* at, std::uint64_t to) {
  return reinterpret_cast<std::uint64_t>(at) % to == 0;
}

/// m, n and k; false where the matrices do not fit each other.
bool sizes(const question& q, product& p) {
  const bool a_t = q.op.transposed[0] != CUBLAS_OP_N, b_t = q.op.transposed[1] != CUBLAS_OP_N;
  p.m = a_t ? q.a.columns : q.a.rows;
  p.k = a_t ? q.a.rows : q.a.columns;
  p.n = b_t ? q.b.rows : q.b.columns;
  for (const layout* l : {&q.a, &q.b, &q.c, &q.d}) {
    if (l->rows == 0 || l->columns == 0 || l->stride < static_cast<std::int64_t>(l->rows)) {
      return false;
    }
  }
  return p.k == (b_t ? q.b.columns : q.b.rows) && q.d.rows == p.m && q.d.columns == p.n &&
         q.c.rows == p.m && q.c.columns == p.n;
}

/// Scales by blocks or vectors, and nowhere to read them.
bool lacks_scales(const operation& op) {
  return (is_block_mode(op.scale_modes[0]) && op.scales[0] == nullptr) ||
         (is_block_mode(op.scale_modes[1]) && op.scales[1] == nullptr);
}

/// FP8: its A is transposed, its B is not; what lies side by side, and strides, are multiples of 16
/// bytes.
bool is_good_for_fp8(const question& q, const product& p) {
  element out{};
  const std::size_t out_bytes = is_type(q.d.type, out) ? bytes_of(out) : 0;
  const std::int32_t* const modes = q.op.scale_modes;
  if (q.op.transposed[0] != CUBLAS_OP_T || q.op.transposed[1] != CUBLAS_OP_N || p.k % 16 != 0 ||
      p.m * out_bytes % 16 != 0 || q.a.stride % 16 != 0 || q.b.stride % 16 != 0 ||
      static_cast<std::uint64_t>(q.c.stride) * out_bytes % 16 != 0 ||
      static_cast<std::uint64_t>(q.d.stride) * out_bytes % 16 != 0) {
    return false;
  }
  if (!is_block_mode(modes[0]) && !is_block_mode(modes[1])) {
    return modes[0] == CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F &&
           modes[1] == CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
  }
  const bool are_both = is_block_mode(modes[0]) && is_block_mode(modes[1]);
  const bool is_one_vector = modes[0] == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F ||
                             modes[1] == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
  const bool a_fits = modes[0] != CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F || p.m % 4 == 0;
  const bool b_fits = modes[1] != CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F || p.n % 4 == 0;
  const bool are_aligned = is_aligned(q.op.scales[0], 16) && is_aligned(q.op.scales[1], 16);
  return are_both && is_one_vector && a_fits && b_fits && are_aligned;
}

/// Is there such a product? `p`: its sizes.
cublasStatus_t judge(const question& q, product& p) {
  for (const layout* l : {&q.a, &q.b, &q.c, &q.d}) {
    if (l->order != CUBLASLT_ORDER_COL || l->batch != 1) {
      return CUBLAS_STATUS_NOT_SUPPORTED;
    }
  }
  if (!sizes(q, p) || lacks_scales(q.op)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  element a{}, b{}, c{}, d{};
  if (!is_type(q.a.type, a) || !is_type(q.b.type, b) || !is_type(q.c.type, c) ||
      !is_type(q.d.type, d) || q.op.compute_type != CUBLAS_COMPUTE_32F ||
      q.op.scale_type != CUDA_R_32F || a != b || c != d || d == element::e4m3 ||
      (a == element::f32 && d != element::f32) || q.op.transposed[2] != CUBLAS_OP_N ||
      q.op.pointer_mode != CUBLASLT_POINTER_MODE_HOST ||
      q.op.epilogue != CUBLASLT_EPILOGUE_DEFAULT || q.op.scales[2] != nullptr ||
      q.op.scales[3] != nullptr) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (a == element::e4m3) {
    return is_good_for_fp8(q, p) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const bool has_scales = q.op.scales[0] != nullptr || q.op.scales[1] != nullptr ||
                          is_block_mode(q.op.scale_modes[0]) || is_block_mode(q.op.scale_modes[1]);
  return has_scales ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

question asked(cublasLtMatmulDesc_t op,
               cublasLtMatrixLayout_t a,
               cublasLtMatrixLayout_t b,
               cublasLtMatrixLayout_t c,
               cublasLtMatrixLayout_t d) {
  return {get<operation>(op), get<layout>(a), get<layout>(b), get<layout>(c), get<layout>(d)};
}

scale_layout scales_of(std::int32_t mode) {
  return mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F       ? scale_layout::vector_128
         : mode == CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F ? scale_layout::block_128
                                                               : scale_layout::whole;
}

std::size_t extent_bytes(const layout& l, element type) {
  return ((l.columns - 1) * static_cast<std::size_t>(l.stride) + l.rows) * bytes_of(type);
}

std::size_t scale_bytes(const matrix& x, std::uint64_t outer, std::uint64_t k) {
  const std::uint64_t blocks = (k + 127) / 128;
  const std::uint64_t count = x.scales_are == scale_layout::vector_128 ? blocks * outer
                              : x.scales_are == scale_layout::block_128
                                  ? (outer + 127) / 128 * ((blocks + 3) / 4 * 4)
                                  : 1;
  return x.scales == nullptr ? 0 : count * sizeof(float);
}

struct enqueued_product {
  product p;
  void* workspace;
  std::size_t workspace_bytes;
};

/// A real one may use its workspace: nobody else's bytes may lie there.
void run_product(void* arguments) {
  const auto& e = *static_cast<const enqueued_product*>(arguments);
  if (e.workspace_bytes != 0) {
    std::memset(e.workspace, 0xFF, e.workspace_bytes);
  }
  multiply(e.p);
}

void drop_product(void* arguments) {
  delete static_cast<enqueued_product*>(arguments);
}

matrix matrix_of(const question& q, const layout& l, int index, const void* at) {
  matrix out{{}, static_cast<std::uint64_t>(l.stride), false, at, nullptr, scale_layout::whole};
  is_type(l.type, out.type);
  if (index < 2) {
    out.is_transposed = q.op.transposed[index] != CUBLAS_OP_N;
    out.scales = q.op.scales[index];
    out.scales_are = scales_of(q.op.scale_modes[index]);
  }
  return out;
}

cublasStatus_t enqueue(
    const question& q, product p, void* workspace, std::size_t workspace_bytes, cudaStream_t s) {
  auto* const e = new (std::nothrow) enqueued_product{p, workspace, workspace_bytes};
  if (e == nullptr) {
    return CUBLAS_STATUS_ALLOC_FAILED;
  }
  const enqueued_work work{"cublasLtMatmul",
                           run_product,
                           e,
                           drop_product,
                           {{"A", p.a.at, extent_bytes(q.a, p.a.type)},
                            {"B", p.b.at, extent_bytes(q.b, p.b.type)},
                            {"C", p.c.at, p.beta == 0.0f ? 0 : extent_bytes(q.c, p.c.type)},
                            {"D", p.d, extent_bytes(q.d, p.d_type)},
                            {"A's scales", p.a.scales, scale_bytes(p.a, p.m, p.k)},
                            {"B's scales", p.b.scales, scale_bytes(p.b, p.n, p.k)},
                            {"workspace", workspace, workspace_bytes},
                            {}}};
  return oriel_ptx_machine_enqueue(s, &work) == 0 ? CUBLAS_STATUS_SUCCESS
                                                  : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace

extern "C" {

std::size_t cublasLtGetVersion() {
  return CUBLAS_VERSION;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* out) {
  *out = reinterpret_cast<cublasLtHandle_t>(new (std::nothrow) char);
  return *out == nullptr ? CUBLAS_STATUS_ALLOC_FAILED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<char*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t out,
                                                 std::size_t bytes,
                                                 cudaDataType type,
                                                 std::uint64_t rows,
                                                 std::uint64_t columns,
                                                 std::int64_t stride) {
  if (out == nullptr || bytes < sizeof *out) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  put(out, layout{rows, columns, stride, static_cast<std::uint32_t>(type), CUBLASLT_ORDER_COL, 1});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* out,
                                          cudaDataType type,
                                          std::uint64_t rows,
                                          std::uint64_t columns,
                                          std::int64_t stride) {
  *out = new (std::nothrow) cublasLtMatrixLayoutOpaque_t;
  return *out == nullptr
             ? CUBLAS_STATUS_ALLOC_FAILED
             : cublasLtMatrixLayoutInit_internal(*out, sizeof **out, type, rows, columns, stride);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
  delete l;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t out,
                                               std::size_t bytes,
                                               cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  if (out == nullptr || bytes < sizeof *out) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  operation op{};
  op.compute_type = compute;
  op.scale_type = scale;
  op.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  put(out, op);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* out,
                                        cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  *out = new (std::nothrow) cublasLtMatmulDescOpaque_t;
  return *out == nullptr ? CUBLAS_STATUS_ALLOC_FAILED
                         : cublasLtMatmulDescInit_internal(*out, sizeof **out, compute, scale);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  delete d;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t to,
                                              cublasLtMatmulDescAttributes_t name,
                                              const void* from,
                                              std::size_t bytes) {
  auto op = get<operation>(to);
  cublasStatus_t out = CUBLAS_STATUS_INVALID_VALUE;
  if (name >= CUBLASLT_MATMUL_DESC_TRANSA && name <= CUBLASLT_MATMUL_DESC_TRANSC) {
    out = set(op.transposed[name - CUBLASLT_MATMUL_DESC_TRANSA], from, bytes);
  } else if (name >= CUBLASLT_MATMUL_DESC_A_SCALE_POINTER &&
             name <= CUBLASLT_MATMUL_DESC_D_SCALE_POINTER) {
    out = set(op.scales[name - CUBLASLT_MATMUL_DESC_A_SCALE_POINTER], from, bytes);
  } else if (name >= CUBLASLT_MATMUL_DESC_A_SCALE_MODE &&
             name <= CUBLASLT_MATMUL_DESC_D_SCALE_MODE) {
    out = set(op.scale_modes[name - CUBLASLT_MATMUL_DESC_A_SCALE_MODE], from, bytes);
  } else if (name == CUBLASLT_MATMUL_DESC_POINTER_MODE) {
    out = set(op.pointer_mode, from, bytes);
  } else if (name == CUBLASLT_MATMUL_DESC_EPILOGUE) {
    out = set(op.epilogue, from, bytes);
  }
  put(to, op);
  return out;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t out,
                                                     std::size_t bytes) {
  if (out == nullptr || bytes < sizeof *out) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  put(out, preference{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* out) {
  *out = new (std::nothrow) cublasLtMatmulPreferenceOpaque_t;
  return *out == nullptr ? CUBLAS_STATUS_ALLOC_FAILED
                         : cublasLtMatmulPreferenceInit_internal(*out, sizeof **out);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  delete p;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t to,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void* from,
                                                    std::size_t bytes) {
  auto p = get<preference>(to);
  cublasStatus_t out = CUBLAS_STATUS_INVALID_VALUE;
  if (name >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES &&
      name <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES) {
    out = set(p.alignments[name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], from, bytes);
  } else if (name == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
    out = set(p.workspace_bytes_max, from, bytes);
  } else if (name == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) {
    out = set(p.reduction_mask, from, bytes);
  }
  put(to, p);
  return out;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t,
                                              cublasLtMatmulDesc_t op,
                                              cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t wanted,
                                              int most,
                                              cublasLtMatmulHeuristicResult_t* out,
                                              int* count) {
  *count = 0;
  const question q = asked(op, a, b, c, d);
  const auto p = get<preference>(wanted);
  product sizes_of_it{};
  if (most < 1) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (const cublasStatus_t s = judge(q, sizes_of_it); s != CUBLAS_STATUS_SUCCESS) {
    return s;
  }
  const bool is_fp8 = q.a.type == CUDA_R_8F_E4M3;
  for (const std::uint32_t alignment : p.alignments) {
    if (is_fp8 && alignment < 16) {
      return CUBLAS_STATUS_NOT_SUPPORTED;
    }
  }
  algorithm offer{algorithm_mark, std::min(p.workspace_bytes_max, workspace_bytes_used), {}};
  std::copy_n(p.alignments, 4, offer.alignments);
  out[0] = {};
  put(&out[0].algo, offer);
  out[0].workspaceSize = offer.workspace_bytes;
  out[0].state = CUBLAS_STATUS_SUCCESS;
  out[0].wavesCount = 1.0f;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t,
                                       cublasLtMatmulDesc_t op,
                                       cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* which,
                                       cublasLtMatmulHeuristicResult_t* out) {
  const auto offer = get<algorithm>(which);
  product sizes_of_it{};
  if (offer.mark != algorithm_mark) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const cublasStatus_t s = judge(asked(op, a, b, c, d), sizes_of_it);
  *out = {};
  out->algo = *which;
  out->state = s;
  out->workspaceSize = offer.workspace_bytes;
  out->wavesCount = 1.0f;
  return s;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* which,
                                                    cublasLtMatmulAlgoConfigAttributes_t name,
                                                    void* to,
                                                    std::size_t bytes,
                                                    std::size_t* written) {
  if (get<algorithm>(which).mark != algorithm_mark || bytes != sizeof(std::int32_t) ||
      to == nullptr) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  // k in one piece, summed up in no other scheme, and whatever else there is to ask is 0.
  const std::int32_t value = name == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? 1 : 0;
  std::memcpy(to, &value, sizeof value);
  if (written != nullptr) {
    *written = sizeof value;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t,
                              cublasLtMatmulDesc_t op,
                              const void* alpha,
                              const void* a,
                              cublasLtMatrixLayout_t a_layout,
                              const void* b,
                              cublasLtMatrixLayout_t b_layout,
                              const void* beta,
                              const void* c,
                              cublasLtMatrixLayout_t c_layout,
                              void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* which,
                              void* workspace,
                              std::size_t workspace_bytes,
                              cudaStream_t s) {
  const question q = asked(op, a_layout, b_layout, c_layout, d_layout);
  product p{};
  if (const cublasStatus_t status = judge(q, p); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  const std::uint32_t least = q.a.type == CUDA_R_8F_E4M3 ? 16 : 1;
  algorithm used{algorithm_mark,
                 std::min(workspace_bytes, workspace_bytes_used),
                 {least, least, least, least}};
  if (which != nullptr) {
    used = get<algorithm>(which);
  }
  const void* const places[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    if (places[i] == nullptr || used.alignments[i] == 0 ||
        !is_aligned(places[i], used.alignments[i])) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  if (used.mark != algorithm_mark || workspace_bytes < used.workspace_bytes ||
      !is_aligned(workspace, 16)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  p.a = matrix_of(q, q.a, 0, a);
  p.b = matrix_of(q, q.b, 1, b);
  p.c = matrix_of(q, q.c, 2, c);
  p.d_type = p.c.type;
  p.d_stride = static_cast<std::uint64_t>(q.d.stride);
  p.d = d;
  std::memcpy(&p.alpha, alpha, sizeof p.alpha);
  std::memcpy(&p.beta, beta, sizeof p.beta);
  return enqueue(q, p, workspace, used.workspace_bytes, s);
}

}  // extern "C"
