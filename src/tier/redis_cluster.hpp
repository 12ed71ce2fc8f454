// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What of Redis Cluster is a matter of text: slots of keys, redirects, and the map of slots.
#pragma once

#include "redis_resp.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::detail {

inline constexpr std::uint32_t redis_slots = 16384;

/// CRC-16 (XMODEM) of the key, or of what stands in its first {} if that is not empty.
[[nodiscard]] std::uint16_t redis_slot(std::string_view key) noexcept;

/// "MOVED 3999 10.0.0.1:6381" or "ASK ...".
struct redis_redirect {
  bool is_ask = false;
  std::uint16_t slot = 0;
  std::string host;  ///< empty: the one that says so
  std::uint16_t port = 0;
};
[[nodiscard]] std::optional<redis_redirect> parse_redis_redirect(std::string_view error);

struct redis_slot_range {
  std::uint16_t first = 0, last = 0;  ///< both included
  std::string host;                   ///< empty: the one that says so
  std::uint16_t port = 0;
};
/// The reply of CLUSTER SLOTS: the master of each range. Nothing if it is not one.
[[nodiscard]] std::optional<std::vector<redis_slot_range>> parse_redis_slots(
    const resp_value& reply);

}  // namespace oriel::detail
