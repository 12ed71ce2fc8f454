// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/output/utf8_assembler.hpp>

#include <engine/tokenizer/unicode.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <simdjson.h>
#include <utf8proc.h>

namespace oriel::engine {
namespace {

struct range {
  char32_t first, last;
};

// Letters and numbers of Unicode 15 and 16, which the installed utf8proc or PCRE2 may not know yet.
constexpr range newer_letters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
    {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x1123F, 0x11240},
    {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5},
    {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
    {0x11F02, 0x11F02}, {0x11F04, 0x11F10}, {0x11F12, 0x11F33}, {0x1342F, 0x1342F},
    {0x13441, 0x13446}, {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C},
    {0x18CFF, 0x18CFF}, {0x1B132, 0x1B132}, {0x1B155, 0x1B155}, {0x1DF25, 0x1DF2A},
    {0x1E030, 0x1E06D}, {0x1E4D0, 0x1E4EB}, {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0},
    {0x2B739, 0x2B739}, {0x2EBF0, 0x2EE5D}, {0x31350, 0x323AF}};
constexpr range newer_numbers[] = {{0x10D40, 0x10D49},
                                   {0x116D0, 0x116E3},
                                   {0x11BF0, 0x11BF9},
                                   {0x11F50, 0x11F59},
                                   {0x16130, 0x16139},
                                   {0x16D70, 0x16D79},
                                   {0x1CCF0, 0x1CCF9},
                                   {0x1D2C0, 0x1D2D3},
                                   {0x1E4F0, 0x1E4F9},
                                   {0x1E5F1, 0x1E5FA}};

// White_Space, complete.
constexpr range spaces[] = {{0x09, 0x0D},
                            {0x20, 0x20},
                            {0x85, 0x85},
                            {0xA0, 0xA0},
                            {0x1680, 0x1680},
                            {0x2000, 0x200A},
                            {0x2028, 0x2029},
                            {0x202F, 0x202F},
                            {0x205F, 0x205F},
                            {0x3000, 0x3000}};

// Marks and digits of Unicode 15 and 16, which are \w too.
constexpr range newer_words[] = {
    {0x0897, 0x0897},   {0x0CF3, 0x0CF3},   {0x0ECE, 0x0ECE},   {0x10D40, 0x10D49},
    {0x10D69, 0x10D6D}, {0x10EFC, 0x10EFF}, {0x11241, 0x11241}, {0x113B8, 0x113C0},
    {0x113C2, 0x113C2}, {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D0},
    {0x113D2, 0x113D2}, {0x113E1, 0x113E2}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9},
    {0x11F00, 0x11F01}, {0x11F03, 0x11F03}, {0x11F34, 0x11F3A}, {0x11F3E, 0x11F42},
    {0x11F50, 0x11F5A}, {0x13440, 0x13440}, {0x13447, 0x13455}, {0x1611E, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E08F, 0x1E08F}, {0x1E4EC, 0x1E4F9},
    {0x1E5EE, 0x1E5EF}, {0x1E5F1, 0x1E5FA}};

// \w that no general category tells: join controls, circled and squared letters.
constexpr range word_symbols[] = {
    {0x200C, 0x200D}, {0x24B6, 0x24E9}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};

// Combining marks and compositions younger than Unicode 9: inert for NFC.
constexpr range newer_than_nfc[] = {
    {0x07FD, 0x07FD},   {0x0897, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},
    {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x0ECE, 0x0ECE},
    {0x1715, 0x1715},   {0x1ABF, 0x1AFF},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
    {0x105C0, 0x105FF}, {0x10D00, 0x10D8F}, {0x10E80, 0x10EFF}, {0x10F30, 0x10FDF},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x11380, 0x113FF}, {0x1145E, 0x1145E},
    {0x11800, 0x1184F}, {0x11900, 0x11AFF}, {0x11D00, 0x11DAF}, {0x11F00, 0x11F5F},
    {0x16100, 0x1613F}, {0x16D40, 0x16D7F}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E08F},
    {0x1E100, 0x1E7FF}};

// Any code point with a canonical decomposition gives at most this many.
constexpr std::size_t decomposition_max = 8;

bool is_hangul_syllable(char32_t c) {
  return 0xAC00 <= c && c <= 0xD7A3;
}

std::uint8_t general_class(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return class_letter | class_word;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
      return class_number | class_word;
    case UTF8PROC_CATEGORY_NO:
      return class_number;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_PC:
      return class_word;
    default:
      return class_other;
  }
}

utf8proc_propval_t combining_class(utf8proc_int32_t c) {
  return utf8proc_get_property(c)->combining_class;
}

// Full canonical decomposition of one code point: how many were written to `out`.
std::size_t decompose(char32_t c, std::span<utf8proc_int32_t, decomposition_max> out) {
  int last_boundary = 0;
  const auto count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c),
                              out.data(),
                              static_cast<utf8proc_ssize_t>(out.size()),
                              static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE),
                              &last_boundary);
  ORIEL_ASSERT(count > 0 && static_cast<std::size_t>(count) <= out.size());
  return static_cast<std::size_t>(count);
}

// Composes what stands decomposed and ordered in `chars`; returns how many are left.
std::size_t compose(std::span<utf8proc_int32_t> chars) {
  const auto count =
      utf8proc_normalize_utf32(chars.data(),
                               static_cast<utf8proc_ssize_t>(chars.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  return static_cast<std::size_t>(count);
}
}  // namespace

char_classes::char_classes() : bits_(new std::uint8_t[table_end]) {
  for (char32_t c = 0; c < table_end; ++c) {
    bits_[c] = general_class(c);
  }
  const auto add = [&](std::span<const range> ranges, int bits) {
    for (const range& r : ranges) {
      for (char32_t c = r.first; c <= r.last; ++c) {
        bits_[c] = static_cast<std::uint8_t>(bits_[c] | bits);
      }
    }
  };
  add(newer_letters, class_letter | class_word);
  add(newer_numbers, class_number);
  add(newer_words, class_word);
  add(word_symbols, class_word);
  add(spaces, class_space);
  bits_['\n'] |= class_newline;
  bits_['\r'] |= class_newline;
  mark_nfc_unsafe();
}

// Unsafe is a character that is a combining mark, that is not its own NFC, or that may compose with
// the one before it. Everything else may only be changed by an unsafe one behind it.
void char_classes::mark_nfc_unsafe() {
  const auto mark = [&](char32_t c) { bits_[c] |= class_nfc_unsafe; };
  std::array<utf8proc_int32_t, decomposition_max> parts{};
  for (char32_t c = 0; c < table_end; ++c) {
    const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
    if (property->combining_class != 0) {
      mark(c);
    }
    if (property->decomp_seqindex == UINT16_MAX || property->decomp_type != 0 ||
        is_hangul_syllable(c)) {
      continue;
    }
    const std::size_t count = decompose(c, parts);
    for (std::size_t i = 1; i < count; ++i) {
      mark(static_cast<char32_t>(parts[i]));
    }
    if (compose(std::span(parts).first(count)) != 1 ||
        parts[0] != static_cast<utf8proc_int32_t>(c)) {
      mark(c);
    }
  }
  for (char32_t c = 0x1161; c <= 0x11C2; ++c) {  // Hangul vowels and final consonants.
    mark(c);
  }
  for (const range& r : newer_than_nfc) {
    for (char32_t c = r.first; c <= r.last; ++c) {
      bits_[c] = static_cast<std::uint8_t>((bits_[c] & ~class_nfc_unsafe) | class_nfc_inert);
    }
  }
}

const char_classes& char_classes::get() {
  static const char_classes instance;
  return instance;
}

std::string newer_characters(char_class kind) {
  std::string members;
  const std::span<const range> ranges = kind == class_letter ? std::span<const range>(newer_letters)
                                        : kind == class_number
                                            ? std::span<const range>(newer_numbers)
                                            : newer_words;
  for (const range& r : ranges) {
    fmt::format_to(std::back_inserter(members),
                   "\\x{{{:x}}}-\\x{{{:x}}}",
                   static_cast<std::uint32_t>(r.first),
                   static_cast<std::uint32_t>(r.last));
  }
  return members;
}

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3F));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

bool is_valid_utf8(std::string_view bytes) noexcept {
  return simdjson::validate_utf8(bytes.data(), bytes.size());
}

namespace {

// The NFC of one stretch: at most one safe character, then unsafe ones.
void append_nfc_stretch(std::string& out,
                        std::string_view stretch,
                        std::vector<utf8proc_int32_t>& chars) {
  chars.clear();
  std::array<utf8proc_int32_t, decomposition_max> parts{};
  for (std::size_t at = 0; at < stretch.size();) {
    const decoded c = decode_at(stretch, at);
    const std::size_t count = decompose(c.value, parts);
    chars.insert(chars.end(), parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(count));
    at += c.length_bytes;
  }
  const auto is_mark = [](utf8proc_int32_t c) { return combining_class(c) != 0; };
  for (auto from = chars.begin(); from != chars.end();) {
    from = std::find_if(from, chars.end(), is_mark);
    const auto to = std::find_if_not(from, chars.end(), is_mark);
    std::stable_sort(from, to, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    from = to;
  }
  chars.resize(compose(chars));
  for (const utf8proc_int32_t c : chars) {
    append_utf8(out, static_cast<char32_t>(c));
  }
}
}  // namespace

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + 16);
  utf8_assembler assembler;
  assembler.push(bytes, out);
  assembler.flush(out);
  return out;
}

std::size_t nfc_safe_prefix(std::string_view text) noexcept {
  const char_classes& classes = char_classes::get();
  std::size_t at = 0;
  while (at < text.size()) {
    if (static_cast<unsigned char>(text[at]) < 0xCC) {  // Below U+0300 all is safe.
      ++at;
      continue;
    }
    const decoded c = decode_at(text, at);
    if ((classes[c.value] & class_nfc_unsafe) != 0) {
      return at;
    }
    at += c.length_bytes;
  }
  return at;
}

std::string to_nfc(std::string_view text) {
  const char_classes& classes = char_classes::get();
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> chars;
  while (true) {
    const std::size_t unsafe = nfc_safe_prefix(text);
    if (unsafe == text.size()) {
      return out.append(text);
    }
    std::size_t from = unsafe;
    if (unsafe > 0) {
      const std::size_t before = previous_boundary(text, unsafe);
      if ((classes[decode_at(text, before).value] & class_nfc_inert) == 0) {
        from = before;
      }
    }
    std::size_t to = unsafe;
    while (to < text.size()) {
      const decoded c = decode_at(text, to);
      if ((classes[c.value] & class_nfc_unsafe) == 0) {
        break;
      }
      to += c.length_bytes;
    }
    out.append(text.substr(0, from));
    append_nfc_stretch(out, text.substr(from, to - from), chars);
    text.remove_prefix(to);
  }
}

}  // namespace oriel::engine
