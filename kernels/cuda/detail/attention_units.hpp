// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The closed list of attention kernels, and what a plan and a launch agree on. Host arithmetic.
#pragma once

#include "attention_work.cuh"

namespace oriel::detail {

/// Tiles of K and V in a block: 160 KiB of them, at most 8. A consumer holds two, the one whose
/// scores it weighs and the one before, whose product runs meanwhile. 33 KB a multiprocessor under
/// way are enough to keep the memory of an H200 busy; the rest covers table look-ups and short
/// sequences.
[[nodiscard]] constexpr std::uint32_t attention_stages(std::uint32_t stage_bytes) noexcept {
  const std::uint32_t stages = 160 * 1024 / stage_bytes;
  return stages < 8 ? stages : 8;
}

/// e4m3: tiles of bf16, two that a consumer holds and one that is written, and tiles as they are
/// copied: what the others and `query_bytes` leave of 216 KiB, at most 8. 11 KiB more are for
/// tables and barriers.
inline constexpr std::uint32_t converted_stages = 3;
[[nodiscard]] constexpr std::uint32_t attention_raw_stages(std::uint32_t raw_bytes,
                                                           std::uint32_t query_bytes,
                                                           std::uint32_t stage_bytes) noexcept {
  const std::uint32_t left = 216 * 1024 - query_bytes - converted_stages * stage_bytes;
  const std::uint32_t stages = left / raw_bytes;
  return stages < 8 ? stages : 8;
}

/// The item at hand and its two barriers.
inline constexpr std::uint32_t attention_item_bytes = 16 + sizeof(attention_work);

/// Shared memory of a block.
[[nodiscard]] constexpr std::uint32_t attention_shared_bytes(const attention_shape& shape,
                                                             std::uint32_t warpgroups,
                                                             std::uint32_t sequences_max) noexcept {
  constexpr std::uint32_t rows = 64, bf16_bytes = 2, barrier_bytes = 8, barriers_per_stage = 3;
  const std::uint32_t dims = shape.head_dim_qk + shape.head_dim_vo;
  const std::uint32_t queries = warpgroups * rows * shape.head_dim_qk * bf16_bytes;
  const std::uint32_t stage = tile_keys * dims * bf16_bytes;
  const std::uint32_t tables = 2 * (sequences_max + 1) * std::uint32_t{sizeof(std::uint32_t)};
  if (shape.kv == dtype::e4m3) {
    constexpr std::uint32_t scales = 2 * tile_keys * std::uint32_t{sizeof(float)};
    const std::uint32_t raw = tile_keys * (dims + 2 * std::uint32_t{sizeof(float)});
    return queries + converted_stages * (stage + scales + barriers_per_stage * barrier_bytes) +
           attention_raw_stages(raw, queries, stage + scales) * (raw + 2 * barrier_bytes) +
           attention_item_bytes + tables;
  }
  return queries + attention_stages(stage) * (stage + barriers_per_stage * barrier_bytes) +
         attention_item_bytes + tables;
}

inline constexpr std::uint32_t generic_warps_per_block = 4;

/// How a kernel is launched.
struct attention_launch {
  std::uint32_t blocks;
  std::uint32_t shared_bytes;
};

status launch_attention_192_128(const attention_launch&, const attention_call&, CUstream_st*);
status launch_attention_128_128(const attention_launch&, const attention_call&, CUstream_st*);
status launch_attention_64_64(const attention_launch&, const attention_call&, CUstream_st*);
status launch_attention_192_128_e4m3(const attention_launch&, const attention_call&, CUstream_st*);
status launch_attention_128_128_e4m3(const attention_launch&, const attention_call&, CUstream_st*);
status launch_attention_64_64_e4m3(const attention_launch&, const attention_call&, CUstream_st*);
status launch_attention_generic(const attention_launch&, const attention_call&, CUstream_st*);

/// What the kernels are told. `workspace`: of the plan's size, or null where only the sizes count.
/// `T`, `Out`: float or bf16 each. Aborts where queries are not as the plan says.
template <class T, class Out>
[[nodiscard]] attention_call make_attention_call(const cuda::attention_plan& plan,
                                                 const basic_attention_args<T, Out>& args,
                                                 std::byte* workspace) noexcept;

}  // namespace oriel::detail
