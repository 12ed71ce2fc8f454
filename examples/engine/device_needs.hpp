// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a device must hold and be able to do for a model: arithmetic, asked before weights are
/// read, so that a long wait does not end in a refusal.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/geometry.hpp>

#include <engine/engine_options.hpp>
#include <engine/scaled_products.hpp>
#include <engine/step_runner.hpp>

#include <cstdint>
#include <string_view>

namespace oriel::engine {

/// A model as it is to be served: what a runner_setup says, without pools that hold anything.
struct device_question {
  const model_geometry& model;
  const pool_plan& plan;  ///< of the KV of the model, and of the MTP blocks in use
  const pool_sizes& sizes;
  runner_limits limits;
  dtype compute = dtype::bf16;  ///< of the matrices
  dtype kv = dtype::bf16;
  std::uint32_t drafts_max = 0;
  bool chains_hidden = false;
  bool order_fixed = false;
  bool has_tiers = false;   ///< below the pools
  kept_matrices kept = {};  ///< kept_in_e4m3 of the checkpoint
};

/// Bytes on the device, and of pinned memory of the host.
struct device_needs {
  std::uint64_t weight_bytes = 0;
  std::uint64_t kv_bytes = 0;     ///< when every page is in use
  std::uint64_t step_bytes = 0;   ///< inputs, activations and outputs of a step, page tables
  std::uint64_t stage_bytes = 0;  ///< of the host: between the device and its tiers

  /// On the device.
  [[nodiscard]] std::uint64_t total_bytes() const noexcept {
    return weight_bytes + kv_bytes + step_bytes;
  }
};

/// O(layers^2): makes the largest step programs.
/// @throws engine::error: a device has no kernel for some part of the model
[[nodiscard]] device_needs device_needs_of(const device_question& asked,
                                           std::uint32_t multiprocessors);

/// The same for an engine with these options, and with tiers or without.
[[nodiscard]] device_needs device_needs_of(const model_geometry& model,
                                           const engine_options& options,
                                           bool has_tiers,
                                           dtype compute,
                                           std::uint32_t multiprocessors,
                                           const kept_matrices& kept = {});

/// Bytes of a model's weights on a device: experts, and e4m3 that cuBLASLt does not take, packed
/// for grouped products, the rest plain, each at a multiple of 256 bytes.
/// @param mtp_blocks  that are loaded with it
/// @throws engine::error: a device cannot multiply with such weights
[[nodiscard]] std::uint64_t device_weight_bytes(const model_geometry& model,
                                                dtype compute,
                                                std::uint32_t mtp_blocks,
                                                std::uint32_t multiprocessors,
                                                const kept_matrices& kept = {});

/// @param free_bytes  of the device
/// @param host_bytes  of the host's memory that is available: stages are pinned, they swap out
/// nothing
/// @throws engine::error: the host has less memory available than stages take; or the device has
/// less free memory than the rest, and by how much, and what takes it
void expect_room(const device_needs& needs,
                 std::string_view model_name,
                 std::string_view device_name,
                 std::uint64_t free_bytes,
                 std::uint64_t host_bytes);

}  // namespace oriel::engine
