// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The little Unicode a tokenizer needs: reading UTF-8, four character classes, and NFC.
///
/// Two versions of Unicode are meant, because the `tokenizers` library that trained the files uses
/// two: Unicode 16 for the character classes, Unicode 9 for NFC (marks that came later are not
/// reordered, letters that came later are not composed).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace oriel::engine {

/// Classes of a code point, as bits.
enum char_class : std::uint8_t {
  class_other = 0,
  class_letter = 1,       ///< \p{L}
  class_number = 2,       ///< \p{N}
  class_space = 4,        ///< White_Space; includes class_newline
  class_newline = 8,      ///< \r and \n
  class_word = 16,        ///< \w: alphabetic, mark, decimal number, connector, join control
  class_nfc_unsafe = 32,  ///< may change under NFC, or change what stands before it
  class_nfc_inert = 64,   ///< younger than NFC's Unicode: never composed
};

/// The classes of all code points. Built once from utf8proc's tables, some milliseconds.
class char_classes {
 public:
  [[nodiscard]] static const char_classes& get();

  /// `char_class` bits. @pre c < 0x110000
  [[nodiscard]] std::uint8_t operator[](char32_t c) const noexcept {
    if (c < table_end) {
      return bits_[c];
    }
    const bool variation_selector = 0xE0100 <= c && c <= 0xE01EF;
    return variation_selector ? class_word : class_other;
  }

 private:
  /// Planes 0 to 3; beyond are tags, variation selectors and private use only.
  static constexpr char32_t table_end = 0x40000;

  char_classes();
  void mark_nfc_unsafe();

  std::unique_ptr<std::uint8_t[]> bits_;
};

/// What Unicode gained in versions 15 and 16, as members of a PCRE2 character class
/// ("\x{1c89}-\x{1c8a}..."): letters (class_letter), numbers (class_number), or marks and digits
/// (class_word).
[[nodiscard]] std::string newer_characters(char_class kind);

/// One decoded character.
struct decoded {
  char32_t value;
  std::uint32_t length_bytes;
};

/// The character at `at`. @pre `text` is valid UTF-8, at < text.size() and at a boundary
[[nodiscard]] inline decoded decode_at(std::string_view text, std::size_t at) noexcept {
  const auto byte = [&](std::size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[at + i]));
  };
  const char32_t first = byte(0);
  if (first < 0x80) {
    return {first, 1};
  }
  if (first < 0xE0) {
    return {((first & 0x1F) << 6) | (byte(1) & 0x3F), 2};
  }
  if (first < 0xF0) {
    return {((first & 0x0F) << 12) | ((byte(1) & 0x3F) << 6) | (byte(2) & 0x3F), 3};
  }
  return {((first & 0x07) << 18) | ((byte(1) & 0x3F) << 12) | ((byte(2) & 0x3F) << 6) |
              (byte(3) & 0x3F),
          4};
}

/// Where the character that ends just before `end` begins. @pre valid UTF-8, end > 0
[[nodiscard]] inline std::size_t previous_boundary(std::string_view text,
                                                   std::size_t end) noexcept {
  do {
    --end;
  } while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

/// Appends `c` as UTF-8. @pre c is a scalar value
void append_utf8(std::string& out, char32_t c);

[[nodiscard]] bool is_valid_utf8(std::string_view bytes) noexcept;

/// `bytes` with U+FFFD for each maximal invalid part (Unicode 16, section 3.9, table 3-8).
[[nodiscard]] std::string replace_invalid_utf8(std::string_view bytes);

/// Bytes at the start of `text` that NFC cannot change; text.size() if it is in NFC for sure.
/// The last character before the answer may still compose with what follows. @pre valid UTF-8
[[nodiscard]] std::size_t nfc_safe_prefix(std::string_view text) noexcept;

/// Normalization form C. O(n log n) on runs of combining marks, else O(n). @pre valid UTF-8
[[nodiscard]] std::string to_nfc(std::string_view text);

}  // namespace oriel::engine
