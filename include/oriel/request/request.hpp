// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `request`: what a client asked for, and the limits it is held to.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/core/result.hpp>
#include <oriel/request/sampling_options.hpp>
#include <oriel/request/stop_conditions.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace oriel {

/// What a client asked for. Owns its tokens; does not change while it is served.
struct request {
  request_id id{};
  std::vector<token_id> prompt;        ///< at least one token
  std::uint32_t max_new_tokens = 128;  ///< at least 1
  stop_conditions stop;
  sampling_options sampling;
  /// Whose request it is: a salt that the trusted side chooses. Cached prefixes are shared inside a
  /// tenant only, or by all who say oriel::shared_salt (prefix/cache_namespace.hpp).
  std::string tenant;
  /// The caller's number for a conversation, or 0: what lower tiers may be told to forget at once.
  std::uint64_t session = 0;
};

/// What a request may ask for, checked before anything is reserved for it.
struct request_limits {
  std::uint32_t vocabulary;          ///< token ids of the prompt are below it
  std::uint32_t max_context_tokens;  ///< prompt + max_new_tokens
  std::uint32_t max_stop_tokens = 64;
  std::uint32_t max_stop_strings = 16;
  std::uint32_t max_stop_string_bytes = 1'024;  ///< of each
  std::uint32_t max_tenant_bytes = 1'024;
};

/// @returns errc::request_too_large when prompt + max_new_tokens exceeds the context;
///          errc::invalid_argument for an empty prompt, max_new_tokens 0, an id outside the
///          vocabulary, a stop string that is empty or too long, too many stops, a tenant
///          that is too long, sampling options out of range, or a bias of such an id.
[[nodiscard]] status check(const request& r, const request_limits& limits) noexcept;

}  // namespace oriel
