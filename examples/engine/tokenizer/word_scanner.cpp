// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/tokenizer/word_scanner.hpp>

namespace oriel::engine {
namespace {

constexpr std::string_view gpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view llama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

// One text under the eye: class of the character at a position, and runs of a class.
class text_reader {
 public:
  explicit text_reader(std::string_view text) : text_(text), classes_(char_classes::get()) {}

  struct character {
    std::uint8_t bits;     // char_class; class_end past the end
    std::uint32_t length;  // bytes
  };
  static constexpr std::uint8_t class_end = 128;

  [[nodiscard]] character at(std::size_t i) const noexcept {
    if (i >= text_.size()) {
      return {class_end, 0};
    }
    const auto first = static_cast<unsigned char>(text_[i]);
    if (first < 0x80) {
      return {classes_[first], 1};
    }
    const decoded c = decode_at(text_, i);
    return {classes_[c.value], c.length_bytes};
  }

  // Past the run of characters from `i` on that have one of `bits`.
  [[nodiscard]] std::size_t skip(std::size_t i, std::uint8_t bits) const noexcept {
    for (character c = at(i); (c.bits & bits) != 0; c = at(i)) {
      i += c.length;
    }
    return i;
  }

  // Past the run of [^\s\p{L}\p{N}].
  [[nodiscard]] std::size_t skip_symbols(std::size_t i) const noexcept {
    for (character c = at(i); is_symbol(c); c = at(i)) {
      i += c.length;
    }
    return i;
  }

  [[nodiscard]] static bool is_symbol(character c) noexcept {
    return (c.bits & (class_letter | class_number | class_space | class_end)) == 0;
  }

  [[nodiscard]] char byte(std::size_t i) const noexcept {
    return i < text_.size() ? text_[i] : '\0';
  }
  [[nodiscard]] std::string_view text() const noexcept { return text_; }

 private:
  std::string_view text_;
  const char_classes& classes_;
};

// Bytes of 's 't 're 've 'm 'll 'd at `i`, where an apostrophe stands; 0 if none.
template <bool IgnoreCase>
std::size_t contraction(const text_reader& in, std::size_t i) {
  const auto letter = [&](std::size_t k) {
    const char c = in.byte(i + k);
    return IgnoreCase && 'A' <= c && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  switch (letter(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return letter(2) == 'e' ? 3 : 0;
    case 'l':
      return letter(2) == 'l' ? 3 : 0;
    case '\xC5':  // U+017F, the long s, is an s when case is ignored.
      return IgnoreCase && in.byte(i + 2) == '\xBF' ? 3 : 0;
    default:
      return 0;
  }
}

// \s+(?!\S)|\s+ on the run [i, end): all of it at the end of the text, else all but its last
// character, which goes with the word behind it; a single one alone.
std::size_t end_of_spaces(const text_reader& in, std::size_t i, std::size_t end) {
  if (end == in.text().size()) {
    return end;
  }
  const std::size_t last = previous_boundary(in.text(), end);
  return last > i ? last : end;
}

std::size_t end_of_gpt2_word(const text_reader& in, std::size_t i) {
  if (in.byte(i) == '\'') {
    if (const std::size_t length = contraction<false>(in, i)) {
      return i + length;
    }
  }
  const std::size_t body = in.byte(i) == ' ' ? i + 1 : i;
  const text_reader::character c = in.at(body);
  if ((c.bits & class_letter) != 0) {
    return in.skip(body, class_letter);
  }
  if ((c.bits & class_number) != 0) {
    return in.skip(body, class_number);
  }
  if (text_reader::is_symbol(c)) {
    return in.skip_symbols(body);
  }
  return end_of_spaces(in, i, in.skip(i, class_space));
}

std::size_t end_of_qwen_word(const text_reader& in, std::size_t i, std::uint32_t digits_max) {
  const text_reader::character c = in.at(i);
  if ((c.bits & class_letter) != 0) {
    return in.skip(i, class_letter);
  }
  if (in.byte(i) == '\'') {
    if (const std::size_t length = contraction<true>(in, i)) {
      return i + length;
    }
  }
  if ((c.bits & class_number) != 0) {
    std::size_t end = i + c.length;
    for (std::uint32_t digits = 1; digits < digits_max; ++digits) {
      const text_reader::character next = in.at(end);
      if ((next.bits & class_number) == 0) {
        break;
      }
      end += next.length;
    }
    return end;
  }
  const text_reader::character next = in.at(i + c.length);
  if ((c.bits & class_newline) == 0 && (next.bits & class_letter) != 0) {
    return in.skip(i + c.length, class_letter);
  }
  if (text_reader::is_symbol(c) || (in.byte(i) == ' ' && text_reader::is_symbol(next))) {
    return in.skip(in.skip_symbols(i + c.length), class_newline);
  }
  // A run of white space: up to its last newline if it has one.
  const std::size_t end = in.skip(i, class_space);
  const std::string_view run = in.text().substr(i, end - i);
  if (const std::size_t newline = run.find_last_of("\r\n"); newline != std::string_view::npos) {
    return i + newline + 1;
  }
  return end_of_spaces(in, i, end);
}
}  // namespace

std::optional<word_scanner> word_scanner::for_pattern(std::string_view pattern) {
  if (pattern == qwen) {
    return word_scanner(family::qwen, 1);
  }
  if (pattern == llama3) {
    return word_scanner(family::qwen, 3);
  }
  if (pattern == gpt2) {
    return word_scanner(family::gpt2, 0);
  }
  return std::nullopt;
}

std::string_view word_scanner::gpt2_pattern() noexcept {
  return gpt2;
}

void word_scanner::split(std::string_view text,
                         std::size_t base,
                         std::vector<std::size_t>& ends) const {
  const text_reader in(text);
  for (std::size_t i = 0; i < text.size(); ends.push_back(base + i)) {
    i = family_ == family::gpt2 ? end_of_gpt2_word(in, i) : end_of_qwen_word(in, i, digits_max_);
  }
}

}  // namespace oriel::engine
