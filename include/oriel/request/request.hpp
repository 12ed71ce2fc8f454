// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `request`: what a client asked for, and the limits it is held to.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/core/result.hpp>
#include <oriel/request/sampling_options.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace oriel {

/// When to stop before max_new_tokens.
struct stop_conditions {
  std::vector<token_id> tokens;      ///< end tokens; the one that ends is not part of the output
  std::vector<std::string> strings;  ///< UTF-8; the output is cut where the first one begins
};

/// Why a sequence ended.
enum class finish_reason : std::uint8_t {
  none,       ///< still running
  stop,       ///< a stop token or string
  length,     ///< max_new_tokens, or the context limit
  cancelled,  ///< by the client
};

/// "none", "stop", "length", "cancelled".
[[nodiscard]] constexpr const char* name_of(finish_reason r) noexcept {
  return r == finish_reason::stop     ? "stop"
         : r == finish_reason::length ? "length"
         : r == finish_reason::none   ? "none"
                                      : "cancelled";
}

/// What a client asked for. Owns its tokens; does not change while it is served.
struct request {
  request_id id{};
  std::vector<token_id> prompt;  ///< at least one token
  std::uint32_t max_new_tokens = 128;
  stop_conditions stop;
  sampling_options sampling;
  std::uint64_t cache_namespace = 0;  ///< KV is shared only inside one namespace (tenant, adapter)
};

/// What a request may ask for, checked before anything is reserved for it.
struct request_limits {
  std::uint32_t vocabulary;          ///< token ids of the prompt are below it
  std::uint32_t max_context_tokens;  ///< prompt + max_new_tokens
  std::uint32_t max_stop_tokens = 64;
  std::uint32_t max_stop_strings = 16;
  std::uint32_t max_stop_string_bytes = 1'024;  ///< of each
};

/// @returns errc::request_too_large when prompt + max_new_tokens exceeds the context;
///          errc::invalid_argument for an empty prompt, an id outside the vocabulary, a stop string
///          that is empty or too long, too many stops, or sampling options out of range.
[[nodiscard]] status check(const request& r, const request_limits& limits) noexcept;

}  // namespace oriel
