// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/output/utf8_assembler.hpp>

#include <cstddef>

namespace oriel {
namespace {
constexpr std::string_view replacement = "\xEF\xBF\xBD";
}  // namespace

void utf8_assembler::push(std::string_view bytes, std::string& text) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto byte = static_cast<unsigned char>(bytes[i]);
    if (held_ == 0) {
      start(byte, text);
    } else if (low_ <= byte && byte <= high_) {
      character_[held_++] = bytes[i];
      low_ = 0x80;
      high_ = 0xBF;
      if (held_ == length_) {
        text.append(character_, length_);
        held_ = 0;
      }
    } else {
      flush(text);
      start(byte, text);
    }
  }
}

// The second byte's range is narrower after E0, ED, F0 and F4: that excludes overlong forms,
// surrogates, and what is past U+10FFFF.
void utf8_assembler::start(unsigned char byte, std::string& text) {
  if (byte < 0x80) {
    text.push_back(static_cast<char>(byte));
    return;
  }
  if (byte < 0xC2 || byte > 0xF4) {
    text.append(replacement);
    return;
  }
  character_[0] = static_cast<char>(byte);
  held_ = 1;
  length_ = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  low_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  high_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
}

void utf8_assembler::flush(std::string& text) {
  if (held_ != 0) {
    text.append(replacement);
    held_ = 0;
  }
}

}  // namespace oriel
