// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `utf8_assembler`: bytes that come in arbitrary pieces, out as whole UTF-8 characters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace oriel {

/// Turns a stream of bytes into valid UTF-8. A character that is not complete yet is held back (at
/// most three bytes); each maximal invalid part becomes one U+FFFD, as Unicode recommends and as
/// Python's bytes.decode(errors="replace") does. The text does not depend on where the pieces end.
class utf8_assembler {
 public:
  /// Appends to `text` what `bytes` completes. O(bytes).
  void push(std::string_view bytes, std::string& text);

  /// The stream has ended: what is held back becomes one U+FFFD.
  void flush(std::string& text);

  /// Bytes held back, 0 to 3.
  [[nodiscard]] std::uint32_t held_bytes() const noexcept { return held_; }

 private:
  void start(unsigned char byte, std::string& text);

  char character_[4] = {};                  ///< the one under way
  std::uint32_t held_ = 0;                  ///< bytes of it that are here
  std::uint32_t length_ = 0;                ///< bytes it will have
  unsigned char low_ = 0x80, high_ = 0xBF;  ///< range of its next byte
};

}  // namespace oriel
