// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The tiers below an engine's pools, as a user asks for them: so much host memory, a folder on a
/// disk, a Redis server.
#pragma once

#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/geometry.hpp>
#include <oriel/tier/page_key.hpp>
#include <oriel/tier/tier.hpp>

#include <engine/engine_options.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace oriel::engine {

/// Which tiers, and how large. By default none.
struct tier_choice {
  std::uint64_t host_bytes = 0;  ///< of memory; 0: no host tier
  std::string disk_folder = {};  ///< empty: no disk tier; made if it is missing
  std::uint64_t disk_bytes = std::uint64_t{8} << 30;  ///< of its files
  std::string remote_url = {};                        ///< redis://...; empty: no remote tier

  /// When pages go to disk and remote; host memory always gets what is computed.
  placement writes = placement::write_through;
  /// Of the room in host memory and in the folder, what one tenant may fill; in (0, 1].
  double tenant_share_max = 1.0;
  /// So that tiers can live beside other work on the machine: of the disk, reads and writes
  /// together (0: no limit), and of one CPU for each tier, in (0, 1]. Below 1 their threads yield
  /// to others as well.
  std::uint64_t disk_bytes_per_s_max = 0;
  double cpu_share = 1.0;

  [[nodiscard]] bool any() const noexcept {
    return host_bytes != 0 || !disk_folder.empty() || !remote_url.empty();
  }
};

/// What pages of an engine with these options look like. @throws engine::error as `engine` does
[[nodiscard]] page_shape kv_page_shape(const model_geometry& model,
                                       const engine_options& options,
                                       dtype kv);

/// Makes the stores, each in a thread of its own, faster first, and waits until each has answered
/// once, a quarter of a second at most: so that the first prompt finds a server connected. Their
/// clock is `steady_now_us`.
/// Host memory is bound to the memory node of the calling thread, where there are several.
/// @throws engine::error that names the folder or the server, and what is wrong with it
[[nodiscard]] std::vector<tier> make_tiers(const tier_choice& choice, const page_shape& shape);

}  // namespace oriel::engine
