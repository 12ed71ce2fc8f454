// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A tier below the device pools: which store, and when pages go there; what is copied down and
/// fetched.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/model/cost.hpp>
#include <oriel/prefix/cache_namespace.hpp>
#include <oriel/tier/any_store.hpp>
#include <oriel/tier/fetch_plan.hpp>
#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/layer_plan.hpp>
#include <oriel/tier/page_key.hpp>
#include <oriel/tier/store_clock.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// What a tier is made of; for reports. Faster first.
enum class tier_role : std::uint8_t { host, disk, remote };
inline constexpr std::size_t tier_roles = 3;

/// "host", "disk", "remote".
[[nodiscard]] const char* name_of(tier_role role) noexcept;

/// When a tier gets a page.
enum class placement : std::uint8_t {
  write_through,  ///< when the prefix tree gets it: all that was ever computed survives
  selective,      ///< when its prefix is hit for the `selective_hits`th time
  write_back,     ///< when the prefix tree evicts it: fewest writes; eviction waits for copies
  read_only,      ///< never: another process fills it
};

/// "write_through", ...
[[nodiscard]] const char* name_of(placement writes) noexcept;

/// One tier; who has several lists the faster ones first.
struct tier {
  any_store store;
  tier_role role = tier_role::host;
  placement writes = placement::write_through;
  transfer_rates rates = {};  ///< expected at first; then measured
};

/// Bounds and habits of the movement between tiers.
struct tier_limits {
  /// The one clock of the cache and all its stores, as `store_clock` has it.
  std::uint64_t (*now_us)() = &monotonic_clock::now_us;
  std::uint32_t copies_max = 4096;  ///< device pages being copied down at once
  std::uint32_t fetches_max = 8;    ///< requests that fetch at once
  /// A fetch may last as long as it would take to compute the prompt, but not less and not more
  /// than this; what has not come by then is a miss.
  std::uint64_t fetch_us_min = 20'000;
  std::uint64_t fetch_us_max = 2'000'000;
  std::uint32_t selective_hits = 2;            ///< of placement::selective
  std::uint64_t touch_period_us = 60'000'000;  ///< how often a prefix in use is touched below
  std::uint64_t ttl_us = 0;                    ///< of every page put; 0: none
  /// At the end, how long what is still on its way down is waited for; the rest is dropped.
  std::uint64_t drain_us_max = 10'000'000;
  layer_load_options layers = {};  ///< of pages that come layer by layer; user_base is not used
};

/// Whose pages a publish brings, or a hit uses: what copies need to know besides what the tree
/// says. It outlives the publish.
struct tiered_sequence {
  page_digest start;                        ///< chain_start of its namespace
  std::span<const token_id> tokens = {};    ///< from position 0
  std::span<const page_digest> links = {};  ///< of all whole pages that it has
  page_owner owner = {};
};

/// What a fetch is for; kept until its last transfer has ended.
struct fetch_request {
  cache_namespace space;
  page_digest start;               ///< chain_start of the namespace
  std::vector<token_id> tokens;    ///< [prompt]
  std::vector<page_digest> links;  ///< of its whole pages
  page_owner owner = {};
  compute_rates rates = {};  ///< of this engine, now; have to be said: both > 0
  /// Not 0: pages come whole, so that one that fails costs those behind it alone, and no step can
  /// join; and nothing is waited for after this time.
  std::uint64_t whole_until_us = 0;
};

/// What the tiers made of an order that went to all of them.
struct order_result {
  std::uint32_t unanswered = 0;        ///< tiers
  std::uint32_t unsupported = 0;       ///< tiers that cannot do it (EOPNOTSUPP); no failure
  std::uint8_t failed_tier = no_tier;  ///< the first one that failed
  store_outcome outcome = store_outcome::done;  ///< what that one said
  int native = 0;                               ///< its errno, or 0

  /// All tiers that can have carried it out.
  [[nodiscard]] bool is_done() const noexcept { return unanswered == 0 && failed_tier == no_tier; }
};

/// What moved, by role of the tier; counts since construction.
struct tier_counters {
  /// Gets into the device that brought their bytes: of whole pages, or of some layers of one.
  std::array<std::uint64_t, tier_roles> fetched_reads = {};
  std::array<std::uint64_t, tier_roles> fetched_bytes = {};
  std::array<std::uint64_t, tier_roles> fetched_tokens = {};  ///< full pages that came into use
  std::array<std::uint64_t, tier_roles> failed_reads = {};    ///< asked for, and not got
  std::array<std::uint64_t, tier_roles> copied_pages = {};    ///< acknowledged
  std::array<std::uint64_t, tier_roles> copied_bytes = {};
  std::array<std::uint64_t, tier_roles> refused_copies = {};  ///< the store said no
  std::uint64_t dropped_copies = 0;   ///< never tried: copies_max, or no memory
  std::uint64_t fetches = 0;          ///< begun, with something to look for
  std::uint64_t fetches_late = 0;     ///< cut off by fetch_us_max
  std::uint64_t fetches_useless = 0;  ///< nothing came that the device did not have
};

}  // namespace oriel
