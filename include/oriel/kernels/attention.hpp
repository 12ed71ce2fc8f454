// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Grouped-query attention over paged KV: full or sliding-window, with or without sinks, for any
/// number of query rows per sequence. Prefill with a cached prefix, decode (1 row), verification of
/// drafts (2 to 8 rows) and heal are the same arithmetic with other row counts
/// (docs/arithmetic.md), so one entry serves them all: a row's bits do not depend on how rows were
/// grouped.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/isa.hpp>
#include <oriel/kernels/paged_kv.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// What one attention layer looks like. Counts, not bytes.
struct attention_shape {
  std::uint32_t q_heads;
  std::uint32_t kv_heads;       ///< divides q_heads; q_heads / kv_heads <= 16
  std::uint32_t head_dim_qk;    ///< 1 to 256
  std::uint32_t head_dim_vo;    ///< 1 to 256; may differ from head_dim_qk
  std::uint32_t page_size;      ///< tokens; a multiple of kv_tile_tokens
  std::uint32_t window_tokens;  ///< keys a query sees, itself included; 0 = all (full attention)
  dtype kv;                     ///< storage of K and V; e4m3 on devices alone
};

/// Arguments of one call. rows = sum of sequences[i].rows, in the order of `sequences`.
/// @tparam T  float, or bf16 (for a device, as its plan says); outputs as Out, either
template <class T, class Out = T>
struct basic_attention_args {
  Out* out;              ///< [rows, q_heads, head_dim_vo]
  const T* q;            ///< [rows] rows of [q_heads, head_dim_qk], rope applied
  std::size_t q_stride;  ///< elements from one row of q to the next
  kv_layer_view kv;      ///< K and V of all positions up to each row's own
  std::span<const paged_sequence> sequences;  ///< [batch]
  const float* sinks;                         ///< [q_heads] raw logits, or null: no sink
  float scale;                                ///< usually 1 / sqrt(head_dim_qk)
};
using attention_args = basic_attention_args<float>;

namespace reference {

/// The formula of docs/model.md#attention, in double precision over the stored (rounded) K and V.
/// O(rows * keys * q_heads * (head_dim_qk + head_dim_vo)). Written to be read.
void attention(const attention_shape& shape, const attention_args& args);

}  // namespace reference

namespace host {

/// A decided launch. Plain data.
struct attention_plan {
  attention_shape shape;
  isa path;
  std::uint32_t rows_max;       ///< rows of one call, all sequences together
  std::uint32_t concurrency;    ///< of the executor, at most
  std::size_t workspace_bytes;  ///< what run_attention needs for them, whatever the context
};

/// Chooses the path and sizes the workspace. Pure arithmetic, no allocation. O(1).
/// @returns errc::unsupported_shape outside the ranges above, for e4m3 KV or a path this CPU lacks.
[[nodiscard]] result<attention_plan> plan_attention(const attention_shape& shape,
                                                    std::uint32_t rows_max,
                                                    std::uint32_t concurrency,
                                                    isa path = best_isa()) noexcept;

/// Computes attention for all rows. Neither allocates nor throws. Bytes of KV beyond a row's own
/// position, or before its window, are never used, whatever they hold; pages that hold no key of
/// any row are not touched, so their table entries may be null_page.
///
/// A row's bits (memcmp) depend on its query, the keys it sees and their positions, the sink, the
/// shape but its page size, and the path: not on other rows, chunking, pages, rings or threads.
/// O(rows * keys seen * q_heads * (head_dim_qk + head_dim_vo)); K and V are read once per block of
/// up to 64 rows (tokens x query heads of a KV head).
/// @pre workspace.size() >= plan.workspace_bytes, 64-byte aligned; args.scale > 0;
///      rows <= plan.rows_max; executor.concurrency() <= plan.concurrency
void run_attention(const attention_plan& plan,
                   const attention_args& args,
                   std::span<std::byte> workspace,
                   executor_ref executor) noexcept;

}  // namespace host

namespace cuda {

/// The most that a plan is for. Whatever the lengths turn out to be, they are below these.
struct attention_limits {
  std::uint32_t sequences_max;          ///< parts of one call, empty ones too; 1 to 1024
  std::uint32_t rows_max;               ///< of one call, all sequences together
  std::uint32_t rows_per_sequence_max;  ///< 1 for decode, 2 to 8 for verification
  std::uint32_t keys_max;               ///< last position of any row, plus 1
  std::uint32_t multiprocessors = 132;  ///< of the device; an H200 has 132
  /// A call is for sequences with rows_per_sequence_min to rows_per_sequence_max rows. The rows of
  /// others are left to another call: their outputs stay as they are. So the decoding sequences of
  /// a step can be planned apart from its prompts, over the same arguments.
  std::uint32_t rows_per_sequence_min = 1;
};

/// Which kernel serves a plan.
enum class attention_unit : std::uint8_t {
  tensor_core,  ///< bf16 or e4m3 KV, head dims (192, 128), (128, 128) or (64, 64)
  generic,      ///< any shape; one warp per row and head, no tensor cores
};

/// A decided launch. Plain data.
struct attention_plan {
  attention_shape shape;
  attention_limits limits;
  attention_unit unit;
  dtype q_type;                 ///< of the queries: f32 where KV is f32, else bf16
  std::uint32_t warpgroups;     ///< that share the keys of a block: 64 rows each
  std::uint32_t splits_max;     ///< per row, where splits are computed apart and merged; else 0
  std::uint32_t blocks;         ///< thread blocks of the grid
  std::uint32_t shared_bytes;   ///< shared memory of one
  std::size_t workspace_bytes;  ///< device memory that run_attention needs
};

/// Chooses the kernel and sizes its memory. Pure host arithmetic; needs no device. O(1).
/// @returns errc::unsupported_shape for a shape outside attention_shape's ranges, or limits that
///          are 0, too large, or no range
[[nodiscard]] result<attention_plan> plan_attention(const attention_shape& shape,
                                                    const attention_limits& limits) noexcept;

/// Enqueues attention for all rows. Every pointer in `args` is device memory, also what `sequences`
/// and its `pages` point to, and the workspace; they are read when the kernels run, so that one
/// captured graph serves changing lengths and tables. Pages are in the order of
/// device/paged_kv_view.cuh. What they hold before a row's first key or beyond its position is not
/// used by it; pages without a key of any row are not touched, and may be null_page.
///
/// An arithmetic of its own, one per unit (docs/arithmetic.md): a row's bits depend on its query,
/// its keys, their positions and the sink; not on other rows, chunking, pages, rings, the plan's
/// limits or the number of multiprocessors.
///
/// Queries are in bf16 but with KV in f32, and a mistake about it aborts. Whoever has them in f32
/// rounds them where they come from: run_rope does (rope.hpp, rope_qk_args).
/// @pre args.q is of plan.q_type; for the tensor-core unit its rows are 16-byte aligned (q and
///      q_stride); out in bf16 is 4-byte aligned;
///      workspace.size() >= plan.workspace_bytes, 256-byte aligned; args.scale > 0; what the call
///      has is within plan.limits, but for rows_per_sequence
/// @returns errc::device_failure
status run_attention(const attention_plan& plan,
                     const basic_attention_args<bf16>& args,
                     std::span<std::byte> workspace,
                     CUstream_st* stream) noexcept;
/// The same, outputs not rounded.
status run_attention(const attention_plan& plan,
                     const basic_attention_args<bf16, float>& args,
                     std::span<std::byte> workspace,
                     CUstream_st* stream) noexcept;
/// For KV in f32.
status run_attention(const attention_plan& plan,
                     const attention_args& args,
                     std::span<std::byte> workspace,
                     CUstream_st* stream) noexcept;
/// The same, outputs rounded to bf16.
status run_attention(const attention_plan& plan,
                     const basic_attention_args<float, bf16>& args,
                     std::span<std::byte> workspace,
                     CUstream_st* stream) noexcept;

}  // namespace cuda
}  // namespace oriel
