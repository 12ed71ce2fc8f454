// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What simulations came across; a set of seeds that never meets something tests nothing of it.
#pragma once

#include <cstdint>

namespace sim {

struct tally {
  std::uint64_t operations = 0, steps = 0, requests = 0, hits = 0, heals = 0, tokens_out = 0,
                rejected_rows = 0, switched = 0, refused_full = 0, refused_large = 0, evictions = 0,
                preempted = 0, resumed = 0, publications = 0, stale_pins = 0, pages_checked = 0;

  tally& operator+=(const tally& other) noexcept {
    operations += other.operations;
    steps += other.steps;
    requests += other.requests;
    hits += other.hits;
    heals += other.heals;
    tokens_out += other.tokens_out;
    rejected_rows += other.rejected_rows;
    switched += other.switched;
    refused_full += other.refused_full;
    refused_large += other.refused_large;
    evictions += other.evictions;
    preempted += other.preempted;
    resumed += other.resumed;
    publications += other.publications;
    stale_pins += other.stale_pins;
    pages_checked += other.pages_checked;
    return *this;
  }
};

}  // namespace sim
