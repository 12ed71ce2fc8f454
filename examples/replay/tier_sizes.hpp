// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `plan_tiers`: how many pages tiers of a given size hold, and what stands for them in a replay.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/model/geometry.hpp>
#include <oriel/tier/tier.hpp>

#include <replay/cache_sizes.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace oriel::replay {

/// At most one is given. Tokens are of full pages; their window pages come on top, as with
/// `cache_question`.
struct level_size {
  std::uint64_t tokens = 0, bytes = 0;

  [[nodiscard]] bool is_given() const noexcept { return tokens != 0 || bytes != 0; }
};

/// Which tiers below the device, and how large.
struct tier_question {
  level_size host = {}, disk = {};
  placement writes = placement::write_through;  ///< of both
};

/// What the stores of a replay are made of. Sizes are those of the model's own pages; a record on
/// the disk is so many blocks of 4 KiB in the replay, the smallest of all pools 2 to 8 of them
/// (more for pages of more than 900 tokens), so that records have to one another nearly the sizes
/// that the model's have.
struct tier_plan {
  std::vector<std::uint32_t> host_pages = {};  ///< [pools]; empty: no host tier
  std::uint64_t host_bytes = 0;
  std::uint64_t disk_bytes = 0;                   ///< of segment files; 0: no disk tier
  std::uint64_t segment_bytes = 0;                ///< of one
  std::vector<std::uint32_t> record_blocks = {};  ///< [pools]; what stands for a record
  double block_bytes = 0;                         ///< of the model's, that a block stands for
  placement writes = placement::write_through;
};

/// @param layers  of the model that `question` was for
/// @param device  the pools that it bought
/// @returns errc::invalid_argument if a tier does not hold a few pages of each kind
[[nodiscard]] result<tier_plan> plan_tiers(std::span<const layer_geometry> layers,
                                           const cache_question& question,
                                           const cache_sizes& device,
                                           const tier_question& tiers);

}  // namespace oriel::replay
