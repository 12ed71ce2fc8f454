// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `grouped`: a large number as people read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace oriel::replay {

/// 12345678 as "12,345,678".
[[nodiscard]] inline std::string grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t end = text.size(); end > 3; end -= 3) {
    text.insert(end - 3, 1, ',');
  }
  return text;
}

}  // namespace oriel::replay
