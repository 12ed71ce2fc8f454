// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Moves KV pages layer by layer: device -> host, host -> device, device -> device.
///
/// A device keeps bf16 tiles as core matrices, everything outside of it as pairs (`kv_order`): host
/// memory, disks and other machines. So a page that left one device is read by any other and by the
/// host, and a record says nothing of its writer. The permutation is part of the copy: it happens
/// in shared memory, on the way, and costs the link nothing. f32 and e4m3 tiles are the same in
/// both; scales of e4m3 are part of their tile.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/paged_kv.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// The order of elements inside a bf16 tile of 16 tokens. Pages, heads and tiles lie alike in both.
enum class kv_order : std::uint8_t {
  host,    ///< pairs side by side (kernels/paged_kv.hpp): the order of every tier but a device
  device,  ///< core matrices (device/paged_kv_view.cuh)
};

/// Layers of one shape, and the order of their tiles where they come from and where they go.
struct kv_copy_shape {
  attention_shape layer;  ///< kv_heads, head dims, page_size and kv; the rest is not looked at
  kv_order from;
  kv_order to;
};

/// One layer's KV on both sides.
struct kv_copy_layer {
  kv_layer_view from;  ///< read
  kv_layer_view to;
};

/// One page's index on both sides.
struct kv_page_pair {
  std::uint32_t from;
  std::uint32_t to;
};

/// One copy: each of `pages` in each of `layers`. K and V are written, bytes between parts are not.
/// Nothing is ordered within a copy: who wants some layers before others makes several.
/// @pre no page is written twice, and none is both written and read
struct kv_copy_args {
  std::span<const kv_copy_layer> layers;
  std::span<const kv_page_pair> pages;
  /// Where it is not null: only the first `*page_count` of `pages`. Read when the copy runs.
  const std::uint32_t* page_count = nullptr;
};

namespace reference {

/// Element by element, by the definitions of both orders. Written to be read.
void kv_copy(const kv_copy_shape& shape, const kv_copy_args& args);

}  // namespace reference

namespace cuda {

enum class kv_copy_way : std::uint8_t {
  by_size,          ///< `engine` for parts that are large enough and keep their order
  engine,           ///< the copy engines: no multiprocessor, but about a microsecond a piece
  multiprocessors,  ///< bulk copies through the shared memory of a few multiprocessors
};

struct kv_copy_options {
  kv_copy_way way = kv_copy_way::by_size;
  /// Of the device, that copy; 1 to 65535. Four fill a link; all of them copy device -> device.
  std::uint32_t multiprocessors = 4;
  /// by_size: the least bytes of K and V of a layer in a page that are left to the engines.
  std::uint32_t engine_bytes_min = 64u << 10;
};

/// K, or V, of a layer in a page: [kv_heads][page_size / 16] tiles, cut into pieces of whole tiles.
struct kv_part {
  std::uint32_t dims;             ///< of a head as stored: odd numbers may be padded
  std::uint32_t tile_bytes;       ///< of 16 tokens; a multiple of 32
  std::uint32_t tiles;            ///< of a page
  std::uint32_t tiles_per_piece;  ///< of each piece but the last
  std::uint32_t pieces;
};

/// A decided copy. Plain data.
struct kv_copy_plan {
  kv_copy_shape shape;
  kv_copy_way way;  ///< engine or multiprocessors
  bool permutes;    ///< bf16, and the orders differ
  kv_part k, v;
  std::uint32_t blocks;  ///< multiprocessors that copy
};

/// Pure host arithmetic; needs no device. O(1).
/// @returns errc::unsupported_shape for another page size, head dims beyond 256, or
///          engines that should permute; errc::invalid_argument for no multiprocessor
[[nodiscard]] result<kv_copy_plan> plan_kv_copy(const kv_copy_shape& shape,
                                                const kv_copy_options& options = {}) noexcept;

/// Enqueues the copy: the bytes that reference::kv_copy writes. Memory of the host is pinned and
/// mapped (cudaHostAlloc, or registered), `args.layers` is read before it returns.
///
///  - engine: `args.pages` is read before it returns. What lies side by side on both sides is one
///    copy, and 256 of these are one call of the driver. @pre page_count is null, and `stream` is
///    neither the legacy default stream nor captured: batches have no node in a graph, and say so.
///  - multiprocessors: `pages` and `page_count` are read when it runs, by the device: pinned or its
///    own memory, untouched until then. A captured graph serves changing pages and counts. 16
///    layers are one launch. @pre layers x pages x pieces of 16 layers < 2^32
///
/// Nothing of a copy may be touched by others until it has run: a device page that compute still
/// reads is no target yet, one that it still writes no source (`stream_layers` has the fences).
/// @returns errc::device_failure
status run_kv_copy(const kv_copy_plan& plan,
                   const kv_copy_args& args,
                   CUstream_st* stream) noexcept;

}  // namespace cuda
}  // namespace oriel
