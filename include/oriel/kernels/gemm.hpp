// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// out[m, n] = sum over k of x[m, k] * w[n, k], with the weights packed once at load.
///
/// Order-fixed: an output element's bits depend on its row of x, its row of w and the arithmetic id
/// alone; not on the number of rows, their companions, or the number of threads.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/executor.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/isa.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace oriel {

/// One weight matrix.
struct gemm_shape {
  std::uint32_t n;  ///< output features (rows of the checkpoint's weight)
  std::uint32_t k;  ///< input features
  dtype weights;    ///< f32: x is used as it is. bf16: x is rounded to bf16 first.
};

/// Arguments of one call.
struct gemm_args {
  float* out;                ///< [rows, n]
  std::size_t out_stride;    ///< elements from one row of out to the next
  const float* x;            ///< [rows, k]
  std::size_t x_stride;      ///< elements from one row of x to the next
  const std::byte* weights;  ///< packed, plan.packed_bytes, 64-byte aligned
  std::uint32_t rows;
  bool accumulate = false;  ///< out += instead of out =, one rounded addition per element
};

namespace reference {

/// The definition, with double accumulation. `weights` here is the plain [n, k] matrix.
void gemm(const gemm_shape& shape, const gemm_args& args);

}  // namespace reference

namespace host {

/// Who multiplies. `automatic` is Oriel's own micro-kernel: it was faster than oneDNN 2.6 on every
/// shape measured (docs/decisions/gemm-backend.md). `onednn` is there in a library built with
/// ORIEL_ONEDNN, for the matrices that oneDNN multiplies row-invariantly.
enum class gemm_backend : std::uint8_t { automatic, own, onednn };

/// A decided matrix product. Plain data; it holds nothing that must be released.
struct gemm_plan {
  gemm_shape shape;
  isa path;
  gemm_backend backend;         ///< never `automatic` in a plan
  std::size_t packed_bytes;     ///< of the packed weights
  std::size_t workspace_bytes;  ///< for rows_max rows and `concurrency` workers
};

/// @param rows_max rows of one call that the workspace is sized for; more of them run in slices
/// @param concurrency of the executors that will run it, at most
/// @returns errc::unsupported_shape when n or k is 0, weights is e4m3, the CPU lacks `path`, or the
///     backend cannot keep the order of the additions
[[nodiscard]] result<gemm_plan> plan_gemm(const gemm_shape& shape,
                                          std::uint32_t rows_max,
                                          std::uint32_t concurrency,
                                          isa path = best_isa(),
                                          gemm_backend backend = gemm_backend::automatic) noexcept;

/// Packs rows [first_row, first_row + rows) of the matrix from plain row-major `rows_of_w`
/// (elements of shape.weights, row stride k). Matrices arrive tensor by tensor: q, k and v rows may
/// come from three tensors into one packed matrix, in any order, and disjoint ranges from several
/// threads.
/// @pre all of [0, n) is packed before the first run
void pack_gemm_weights(const gemm_plan& plan,
                       const void* rows_of_w,
                       std::uint32_t first_row,
                       std::uint32_t rows,
                       std::byte* packed) noexcept;

/// Multiplies. Work is shared by output features and rows, never by k.
///
/// Many small products (the experts of a MoE layer) run side by side: one task each, which calls
/// run_gemm with a `serial_executor` and its worker's own workspace. A plan is shared by all
/// matrices of its shape. The fixed cost of a call is about a tenth of a microsecond beside packing
/// its rows of x.
///
/// Allocates nothing (the onednn backend: a few small objects inside oneDNN).
/// @pre workspace.size() >= plan.workspace_bytes, 64-byte aligned
/// @pre executor.concurrency() is at most the planned one
void run_gemm(const gemm_plan& plan,
              const gemm_args& args,
              std::span<std::byte> workspace,
              executor_ref executor) noexcept;

}  // namespace host
}  // namespace oriel
