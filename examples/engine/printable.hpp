// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `printable`: a name from an untrusted file, made fit for a terminal.
#pragma once

#include <string>
#include <string_view>

namespace oriel::engine {

/// `text` in single quotes; control characters and bytes beyond ASCII become '?', and what is
/// longer than 160 bytes is cut.
[[nodiscard]] inline std::string printable(std::string_view text) {
  constexpr std::size_t bytes_max = 160;
  std::string out = "'";
  for (const char c : text.substr(0, bytes_max)) {
    out += c >= ' ' && c <= '~' ? c : '?';
  }
  out += text.size() > bytes_max ? "...'" : "'";
  return out;
}

}  // namespace oriel::engine
