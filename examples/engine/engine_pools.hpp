// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The pools of an engine: how large, and why that is enough.
#pragma once

#include <oriel/model/geometry.hpp>

#include <engine/engine_options.hpp>
#include <engine/host_pools.hpp>

#include <vector>

namespace oriel::engine {

/// How the pools of an engine lie, and how many pages each has: arithmetic, nothing is taken.
struct planned_pools {
  pool_plan plan;
  pool_sizes sizes;
};
/// @throws engine::error when the options do not fit the model
[[nodiscard]] planned_pools plan_pools(const model_geometry& model,
                                       const engine_options& options,
                                       dtype kv);

/// Pools in which a sequence that was admitted never lacks a page. A page that is neither held by a
/// running sequence nor locked by its lease is free, or the cache gives it up when asked:
///
///   - full pages: a lease locks exactly the pages that its sequence has published or borrowed. So
///     all but the pages of running sequences are to be had, and admission promises no more of them
///     than there are.
///   - window pages: a sequence holds at most its ring, and its lease pins at most one window more,
///     which may have slid out of the ring. There is room for both, sequences_max times.
///
///   - a fetch holds the full pages that its request was promised, and the windows of one boundary:
///     there is room for tier_moves.fetches_max.
///
/// The room for the cache comes on top of that. Who makes a runner of its own (options.make_runner)
/// has the bytes elsewhere, by the same page ids: these pools only count then.
/// @throws engine::error, std::bad_alloc
[[nodiscard]] host_pools make_pools(const model_geometry& model,
                                    const engine_options& options,
                                    dtype kv);

/// Where each layer of the model has its KV. @pre the pools have bytes
[[nodiscard]] std::vector<pool_layer> layer_homes(const host_pools& pools);

/// What each layer keeps: of the model, then of its MTP blocks if they draft, which are soft.
[[nodiscard]] std::vector<kv_layer_shape> kv_layers_of(const model_geometry& model,
                                                       const engine_options& options,
                                                       dtype kv);

}  // namespace oriel::engine
