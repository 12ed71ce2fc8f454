// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The words of a text of PTX.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace oriel::ptx_machine {

struct token {
  /// A name, number, opcode, directive or register as it stands ("%tid.x", ".reg", "-1", "shared::cta" inside an
  /// opcode), a text with its quotes, or one sign of punctuation.
  std::string_view text;
  std::uint32_t line = 0;
};

/// Without comments. The last token is empty. Views into `text`.
[[nodiscard]] std::vector<token> split_into_tokens(std::string_view text);

}  // namespace oriel::ptx_machine
