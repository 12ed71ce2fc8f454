// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// When an answer ends, and why it did.
#pragma once

#include <oriel/core/ids.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace oriel {

/// What ends an answer before its number of tokens does.
struct stop_conditions {
  std::vector<token_id> tokens;      ///< end of turn, end of text; their bytes are no output
  std::vector<std::string> strings;  ///< UTF-8; the output is cut where the first one begins
};

/// Why an answer ended.
enum class finish_reason : std::uint8_t {
  none,       ///< it goes on
  stop,       ///< a stop token or string came
  length,     ///< the last token that was allowed came
  cancelled,  ///< the caller ended it: Ctrl-C, a client that left
  failed,     ///< it could not be served: the logits held no number, or there was no memory
};

/// "none", "stop", "length", "cancelled", "failed".
[[nodiscard]] constexpr const char* name_of(finish_reason reason) noexcept {
  switch (reason) {
    case finish_reason::none:
      return "none";
    case finish_reason::stop:
      return "stop";
    case finish_reason::length:
      return "length";
    case finish_reason::cancelled:
      return "cancelled";
    case finish_reason::failed:
      return "failed";
  }
  return "unknown";
}

}  // namespace oriel
