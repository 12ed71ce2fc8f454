// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// In which reads the pages of a step come, when each layer is wanted before the next.
///
///     layers   F w w w F w w F        F: full pool, slots 0 .. 2    w: window pool, slots 0 .. 4
///     reads    F(0) of each full page: alone, nothing hides it
///              w(0..4) of each window page: small slices, so several layers are one read
///              F(1) of each full page, F(2) of each full page
///
/// A record is layer-major, so neighbouring slots of a pool are one stretch of it.
#pragma once

#include <oriel/kv/pool_plan.hpp>
#include <oriel/tier/fetch_plan.hpp>
#include <oriel/tier/kv_store.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// A page to be filled.
struct layer_page {
  page_key key;                             ///< key.pool is its pool
  const page_identity* identity = nullptr;  ///< read until the load is over
  std::uint8_t tier = 0;                    ///< that has it
  /// Where its layers go, by slot: [layers of the pool]. Array and bytes belong to the stores until
  /// the page is held no more (`layer_load::is_held`).
  std::span<const std::span<std::byte>> slices = {};
};

struct layer_load_options {
  /// A read takes more layers of its pool until it has so many bytes of a page.
  std::uint64_t read_bytes_min = std::uint64_t{256} << 10;
  /// ... but none that is wanted more than so many layers after its first: until those have come,
  /// the first is not ready.
  std::uint32_t ahead_layers_max = 8;
  /// ... and several together have at most this part of the bytes of all layers before: a compute
  /// that takes so much longer than its loads never waits for the rest of a read.
  double together_share_max = 0.25;
  /// Handed to stores and not acknowledged: what a cancelled step still costs at most. One read may
  /// be larger. Below what a store moves in its latency the load gets slower.
  std::uint64_t in_flight_bytes_max = std::uint64_t{64} << 20;
  /// Added to a read's number in store_item::user, for those who share a store.
  std::uint64_t user_base = 0;
};

/// Some neighbouring layers of one page.
struct layer_read {
  std::uint32_t page = 0;         ///< index in the pages planned for
  std::uint32_t first_slot = 0;   ///< of its pool
  std::uint32_t slots = 0;        ///< > 0
  std::uint32_t first_layer = 0;  ///< the layer of first_slot: when it is wanted
  std::uint64_t bytes = 0;
};

struct layer_plan {
  std::vector<layer_read> reads = {};  ///< in the order in which the compute needs them
  /// The layer in each slot. [pools][slots]
  std::vector<std::vector<std::uint32_t>> layer_in = {};
  std::vector<std::uint32_t> reads_of = {};  ///< reads that a layer waits for. [layers]
  /// Bytes that must come for layer l to be ready when l - 1 is, reads being in order: with layers
  /// read together it is the first of them that waits for the bytes. [layers]
  std::vector<std::uint64_t> arrival_bytes = {};
  std::uint64_t bytes = 0;  ///< of all reads

  [[nodiscard]] std::uint32_t layers() const noexcept {
    return static_cast<std::uint32_t>(reads_of.size());
  }
};

/// Plans the reads that fill `pages`. Each slice of each page is in one read. The first layer that
/// anything comes for is read alone: its load is the one that no layer before hides.
/// O(layers + reads), and sorting at most `layers` groups of slots.
/// @param layers  home of each layer of the model, in the order of compute
/// @param pages   in any order; those of one pool have slices of the same sizes
/// @pre   each page has a slice for each layer of its pool
/// @throws std::bad_alloc
[[nodiscard]] layer_plan plan_layer_reads(std::span<const layer_home> layers,
                                          std::span<const layer_page> pages,
                                          const layer_load_options& options);

/// Seconds that the compute of a step waits for its loads, when reads come one after another at
/// `rate` and the first was asked for `lead_s` before the compute asks for layer 0.
///
/// A layer's compute begins when the one before has ended and its own bytes are there. So the waits
/// add up to the longest that any layer falls behind a compute that never waits:
///
///     max over l of  latency + bytes[0..l] / rate - lead - seconds[0..l-1],  or 0
///
/// It is also the lead that is missing for no stall at all. O(layers), no allocation.
/// @param arrival_bytes  [layers] of the plan
/// @param layer_seconds  [layers] from the moment a layer is asked for to that of the next one
[[nodiscard]] double predict_stall(std::span<const std::uint64_t> arrival_bytes,
                                   std::span<const double> layer_seconds,
                                   const transfer_rates& rate,
                                   double lead_s) noexcept;

}  // namespace oriel
