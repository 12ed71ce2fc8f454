// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The byte-level alphabet of GPT-2: each byte is spelled as one printable character, so that a
/// vocabulary of byte strings can be written as JSON text. '!'..'~', U+00A1..U+00AC and
/// U+00AE..U+00FF stand for themselves, the other 68 bytes for U+0100.. in order.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace oriel::engine {

/// The byte that `c` spells, or nothing.
[[nodiscard]] std::optional<unsigned char> byte_of(char32_t c) noexcept;

/// The bytes that `spelling` stands for, or nothing if a character is not of the alphabet.
/// @pre valid UTF-8
[[nodiscard]] std::optional<std::string> bytes_of_spelling(std::string_view spelling);

/// The other way round: `bytes` spelled in the alphabet, as UTF-8.
[[nodiscard]] std::string spelling_of_bytes(std::string_view bytes);

}  // namespace oriel::engine
