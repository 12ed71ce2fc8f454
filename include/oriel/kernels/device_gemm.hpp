// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Dense products on a device: out[m, n] = sum over k of x[m, k] * w[n, k], by cuBLASLt, with
/// weights as a checkpoint has them. Experts, and e4m3 weights whose scales cuBLASLt does not
/// take, are grouped_gemm.hpp's.
///
/// A plan is arithmetic. What needs a device (cuBLASLt's handle, and the algorithm that its
/// heuristics choose for a shape, which is looked up once) is a `gemm_library`.
///
/// Order: no algorithm that cuts k and adds up parts is ever chosen (split-K), so a call with the
/// same arguments gives the same bits on the same kind of device. With gemm_order::fixed the
/// algorithm is the first of those offered for rows_max rows that takes 1, 2, 4, ... and rows_max
/// rows (block-scaled: 4, 8, ...): plans of a matrix with one rows_max, whose operands have the
/// same strides and are aligned to 16 bytes, compute every element by the same code, whatever its
/// companions. A number of rows that this algorithm does not take is refused, never given to
/// another one. NVIDIA promises the first and not that the same code means the same bits for any
/// number of rows; who needs a promise takes grouped_gemm.hpp with one group, and so does who is
/// told by find_gemm that there is no such algorithm.
#pragma once

#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/quantize.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// Arguments of one call; device memory throughout.
/// @tparam X    float, or bf16: of x and of the weights
/// @tparam Out  float, or where X is bf16 also bf16: the finished sum is rounded once
template <class X, class Out>
struct device_gemm_args {
  Out* out;                   ///< [rows, n]
  std::size_t out_stride;     ///< elements from one row of out to the next
  const X* x;                 ///< [rows, k]
  std::size_t x_stride;       ///< elements from one row of x to the next
  const X* weights;           ///< [n, k], as it lies in a checkpoint
  std::size_t weight_stride;  ///< elements from one row of the weights to the next
  std::uint32_t rows;
  bool accumulate = false;  ///< out += instead of out =; added in f32, before the rounding
};

/// Arguments of one product of e4m3 matrices; device memory throughout.
/// @tparam Out  float or bf16
template <class Out>
struct block_scaled_gemm_args {
  Out* out;                         ///< [rows, n]
  std::size_t out_stride;           ///< elements from one row of out to the next
  const e4m3* x;                    ///< [rows, k], as quantize_rows leaves them
  std::size_t x_stride;             ///< elements from one row of x to the next
  const float* x_scales;            ///< [ceil(k / 128), rows]: all rows of a group together
  const e4m3* weights;              ///< [n, k]
  std::size_t weight_stride;        ///< elements from one row of the weights to the next
  const float* weight_scales;       ///< [ceil(n / 128), weight_scale_stride]
  std::size_t weight_scale_stride;  ///< the plan's
  std::uint32_t rows;               ///< a multiple of 4
  bool accumulate = false;          ///< out += instead of out =; added in f32, before the rounding
};

namespace cuda {

/// How an algorithm is chosen (see the top of the file).
enum class gemm_order : std::uint8_t {
  fastest,  ///< for the call's number of rows
  fixed,    ///< for the plan's rows_max, and used for any number of rows
};

/// A decided product. Plain data.
struct gemm_plan {
  gemm_shape shape;  ///< its weights: the type of x and of the weights
  dtype out;
  std::uint32_t rows_max;
  gemm_order order;
  std::size_t workspace_bytes;  ///< products of one stream may share it
};

/// Pure host arithmetic; needs no device and no cuBLASLt.
/// @param out  f32, or where shape.weights is bf16 also bf16
/// @returns errc::unsupported_shape when n, k or rows_max is 0 or above 2^31 - 1, or for other
///          types
[[nodiscard]] result<gemm_plan> plan_gemm(const gemm_shape& shape,
                                          dtype out,
                                          std::uint32_t rows_max,
                                          gemm_order order = gemm_order::fastest) noexcept;

/// A decided product of block-scaled matrices. Plain data.
struct block_scaled_gemm_plan {
  std::uint32_t n, k;
  dtype out;
  std::uint32_t rows_max;
  gemm_order order;
  std::size_t weight_scale_stride;  ///< elements: ceil(k / 128), rounded up to a multiple of 4
  std::size_t workspace_bytes;
};

/// What cuBLASLt multiplies on an sm_90: weights with one plain grid of scales. A fused matrix
/// whose shards have grids of their own, and sizes that are refused here, are for grouped_gemm.hpp.
/// @param shape  its weights: e4m3
/// @param out  f32 or bf16
/// @returns errc::unsupported_shape when n or k is no multiple of 16, or for other types
[[nodiscard]] result<block_scaled_gemm_plan> plan_block_scaled_gemm(
    const gemm_shape& shape,
    dtype out,
    std::uint32_t rows_max,
    gemm_order order = gemm_order::fastest) noexcept;

/// cuBLASLt on one device, and the algorithms found so far. One per device and thread.
///
/// Thread safety: none. Memory: the table of algorithms is taken by create(), about 60 KiB; a run
/// takes none. When the table is full it is emptied.
class gemm_library {
 public:
  /// For the current device.
  /// @returns errc::unsupported_shape when built without cuBLASLt, errc::device_failure when it
  ///          does not start (`native`: cublasStatus_t), errc::out_of_memory
  [[nodiscard]] static result<gemm_library> create() noexcept;
  /// Is there a cuBLASLt in this build?
  [[nodiscard]] static bool is_built() noexcept;
  /// Of cuBLASLt, as cublasLtGetVersion has it; 0: there is none.
  [[nodiscard]] static std::uint64_t version() noexcept;

  gemm_library(gemm_library&& other) noexcept;
  gemm_library& operator=(gemm_library&& other) noexcept;
  ~gemm_library();

  struct state;
  [[nodiscard]] state& get() const noexcept { return *state_; }

 private:
  explicit gemm_library(state* s) noexcept : state_(s) {}
  state* state_;
};

/// How the operands of a product lie: what decides on its algorithm beside its plan.
struct gemm_layout {
  std::size_t x_stride, weight_stride, out_stride;     ///< elements
  std::uint16_t x_alignment = 16, out_alignment = 16;  ///< bytes, a power of 2 up to 16
};

/// Looks the algorithm up that calls of the plan with such operands will use, weights aligned to 16
/// bytes, before there are any: they find it in the table. Host work, as a first call's.
/// @returns errc::unsupported_shape when there is none: runs would refuse; errc::device_failure;
///          `native`: cuBLASLt's cublasStatus_t, 0 where it has algorithms and none that serves
[[nodiscard]] status find_gemm(const gemm_library& library,
                               const gemm_plan& plan,
                               const gemm_layout& layout) noexcept;
[[nodiscard]] status find_gemm(const gemm_library& library,
                               const block_scaled_gemm_plan& plan,
                               const gemm_layout& layout) noexcept;

/// Enqueues the product. The first call of a kind looks its algorithm up, on the host, a few tens
/// of microseconds: let that be outside of a graph's capture, where some versions of cuBLASLt
/// refuse to look. Later calls can be captured. The number of rows is the host's: a graph is
/// captured for so many, and what lies in rows nobody needs does no harm.
/// @pre workspace: of the plan's size, device memory, 256-byte aligned; args.rows <= plan.rows_max
/// @returns errc::unsupported_shape when cuBLASLt has no algorithm (gemm_order::fixed: or the one
/// that it has does not take so many rows) or refuses the call, errc::device_failure; `native` as
/// of find_gemm
status run_gemm(const gemm_library& library,
                const gemm_plan& plan,
                const device_gemm_args<bf16, bf16>& args,
                std::span<std::byte> workspace,
                CUstream_st* stream) noexcept;
status run_gemm(const gemm_library& library,
                const gemm_plan& plan,
                const device_gemm_args<bf16, float>& args,
                std::span<std::byte> workspace,
                CUstream_st* stream) noexcept;
/// All in f32 (no TF32).
status run_gemm(const gemm_library& library,
                const gemm_plan& plan,
                const device_gemm_args<float, float>& args,
                std::span<std::byte> workspace,
                CUstream_st* stream) noexcept;

/// Enqueues the product of block-scaled matrices, as above.
/// @pre args.rows is a multiple of 4; all pointers, and the strides of x and the weights, are
/// multiples of 16 (bytes)
status run_block_scaled_gemm(const gemm_library& library,
                             const block_scaled_gemm_plan& plan,
                             const block_scaled_gemm_args<bf16>& args,
                             std::span<std::byte> workspace,
                             CUstream_st* stream) noexcept;
status run_block_scaled_gemm(const gemm_library& library,
                             const block_scaled_gemm_plan& plan,
                             const block_scaled_gemm_args<float>& args,
                             std::span<std::byte> workspace,
                             CUstream_st* stream) noexcept;

}  // namespace cuda
}  // namespace oriel
