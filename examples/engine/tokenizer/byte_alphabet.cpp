// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/tokenizer/byte_alphabet.hpp>
#include <engine/tokenizer/unicode.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace oriel::engine {
namespace {

constexpr bool spells_itself(unsigned byte) {
  return ('!' <= byte && byte <= '~') || (0xA1 <= byte && byte <= 0xAC) || byte >= 0xAE;
}

constexpr char32_t alphabet_end = 0x100 + 68;

struct alphabet {
  std::array<char32_t, 256> char_of{};
  std::array<std::int16_t, alphabet_end> byte_of{};
};

constexpr alphabet make_alphabet() {
  alphabet a;
  a.byte_of.fill(-1);
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char32_t c = spells_itself(byte) ? char32_t{byte} : next++;
    a.char_of[byte] = c;
    a.byte_of[c] = static_cast<std::int16_t>(byte);
  }
  return a;
}

constexpr alphabet letters = make_alphabet();
static_assert(letters.char_of[0xFF] == 0xFF && letters.char_of[' '] == 0x120);
static_assert(letters.byte_of[alphabet_end - 1] == 0xAD);

}  // namespace

std::optional<unsigned char> byte_of(char32_t c) noexcept {
  if (c >= alphabet_end || letters.byte_of[c] < 0) {
    return std::nullopt;
  }
  return static_cast<unsigned char>(letters.byte_of[c]);
}

std::optional<std::string> bytes_of_spelling(std::string_view spelling) {
  std::string bytes;
  bytes.reserve(spelling.size());
  for (std::size_t at = 0; at < spelling.size();) {
    const decoded c = decode_at(spelling, at);
    const std::optional<unsigned char> byte = byte_of(c.value);
    if (!byte) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(*byte));
    at += c.length_bytes;
  }
  return bytes;
}

std::string spelling_of_bytes(std::string_view bytes) {
  std::string spelling;
  spelling.reserve(bytes.size() * 2);
  for (const char byte : bytes) {
    append_utf8(spelling, letters.char_of[static_cast<unsigned char>(byte)]);
  }
  return spelling;
}

}  // namespace oriel::engine
