// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Small traces, and the pools that serve them.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/model/presets.hpp>

#include <catch2/catch.hpp>
#include <replay/cache_replay.hpp>
#include <replay/trace.hpp>

#include <cstdint>
#include <vector>

namespace oriel_test {

using namespace oriel;
using namespace oriel::replay;

inline constexpr std::uint32_t page = 64;

/// A heal of its 12 window layers of W = 128 is as much work as 762 tokens.
inline model_geometry small_model() {
  return preset("gpt-oss-20b").value();
}

/// Adds a request for these pages and one token more, so that a hit on all of them counts.
inline void add_request(trace& t, const std::vector<std::uint32_t>& input, std::uint32_t session) {
  const auto pages = static_cast<std::uint32_t>(input.size());
  t.requests.push_back({.arrival_us = t.requests.size() * 3'000'000,
                        .duration_us = 1'000'000,
                        .first_page = t.pages.size(),
                        .pages = pages,
                        .input_tokens = pages * page + 1,
                        .output_tokens = 1,
                        .session = session,
                        .name_space = session,
                        .ended = session % 2 == 0 ? request_end::tool_call : request_end::unknown});
  t.pages.insert(t.pages.end(), input.begin(), input.end());
}

/// Sessions whose requests continue the one before, or fork from it. A page has one parent.
inline trace random_trace(std::uint64_t seed, std::uint32_t requests, std::uint32_t growth_max) {
  random_stream random{seed};
  trace t;
  t.page_tokens = page;
  t.sessions = {"a", "b", "c", "d", "e"};
  std::vector<std::vector<std::uint32_t>> inputs(t.sessions.size());
  while (t.requests.size() < requests) {
    const std::uint32_t session = random.next_below(static_cast<std::uint32_t>(inputs.size()));
    std::vector<std::uint32_t>& input = inputs[session];
    if (random.next_below(4) == 0) {
      input.resize(random.next_below(static_cast<std::uint32_t>(input.size()) + 1));
    }
    for (std::uint32_t n = random.next_below(growth_max); n > 0; --n) {
      input.push_back(t.distinct_pages++);
    }
    add_request(t, input, session);
  }
  return t;
}

inline cache_sizes sizes_for(const cache_question& question) {
  const model_geometry model = small_model();
  auto sizes = plan_cache(model.layers, question);
  REQUIRE(sizes);
  return *sizes;
}

inline cache_sizes one_pool(std::uint32_t pages) {
  return sizes_for({.capacity_tokens = std::uint64_t{pages} * page,
                    .pools = pool_form::uniform,
                    .page_tokens = page});
}

inline cache_sizes dual_pools(std::uint32_t pages, double window_share) {
  return sizes_for({.capacity_tokens = std::uint64_t{pages} * page,
                    .page_tokens = page,
                    .window_share = window_share});
}

inline cache_outcome outcome_of(const trace& t,
                                const cache_sizes& sizes,
                                const cache_options& options) {
  const auto outcome = replay_cache(t, small_model(), sizes, options, {});
  if (!outcome) {
    FAIL(outcome.error().detail);
  }
  return *outcome;
}

/// The cache's alone: requests compute beside the pool.
inline cache_options beside(const trace& t, cache_options options) {
  options.working_pages = working_pages_of(t, page);
  return options;
}

inline constexpr evict_choice every_order[] = {
    evict_choice::lru, evict_choice::s3_fifo, evict_choice::cost_aware, evict_choice::hit_density};

}  // namespace oriel_test
