// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The hand-written word scanner against PCRE2 with the same pattern, and the parts both stand on.
#include <catch2/catch.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/tokenizer/unicode.hpp>
#include <engine/tokenizer/word_regex.hpp>
#include <engine/tokenizer/word_scanner.hpp>

#include <random>
#include <string>
#include <vector>

namespace tokenizer_words_test {

namespace {

using namespace oriel::engine;
using namespace std::string_literals;

const std::string qwen =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string llama3() {
  std::string pattern = qwen;
  return pattern.replace(pattern.find(R"(\p{N}|)"), 6, R"(\p{N}{1,3}|)");
}

std::vector<std::size_t> split(const auto& splitter, std::string_view text) {
  std::vector<std::size_t> ends;
  splitter.split(text, 0, ends);
  return ends;
}

// Pieces that meet at the borders of the alternatives, and any characters between them.
std::string random_text(std::mt19937& random) {
  static const std::vector<std::string> pieces{
      " ",      " ",      "  ",     "\t",         "\n",     "\r",     "\r\n",    "\u00A0",
      "\u3000", "\u0085", "\u2028", "\u180E",     "'",      "'s",     "'S",      "'t",
      "'RE",    "'re",    "'Ve",    "'ll",        "'lL",    "'m",     "'d",      "'\u017F",
      "'l",     "'r",     "\u2019", "a",          "Z",      "\u00E9", "e\u0301", "\u0301",
      "\u4E2D", "\u0300", "0",      "12",         "\u0661", "\u00BD", "\u2167",  "!",
      "...",    "_",      "(",      "\U0001F600", "\u200D", "\0"s,    "\x7F"};
  std::string text;
  for (std::size_t n = random() % 16; n > 0; --n) {
    if (random() % 8 != 0) {
      text.append(pieces[random() % pieces.size()]);
      continue;
    }
    auto c = static_cast<char32_t>(random() % (random() % 2 == 0 ? 0x3000u : 0x110000u));
    append_utf8(text, 0xD800 <= c && c < 0xE000 ? c - 0x800 : c);
  }
  return text;
}
}  // namespace

TEST_CASE("the word scanner cuts as the pattern does") {
  const auto [name, pattern] = GENERATE(
      table<std::string, std::string>({{"qwen", qwen},
                                       {"llama 3", llama3()},
                                       {"gpt-2", std::string(word_scanner::gpt2_pattern())}}));
  CAPTURE(name);
  const auto scanner = word_scanner::for_pattern(pattern);
  REQUIRE(scanner);
  const word_regex regex(pattern, "pattern");
  std::mt19937 random(42);
  for (int round = 0; round < 60'000; ++round) {
    const std::string text = random_text(random);
    CAPTURE(round, text);
    REQUIRE(split(*scanner, text) == split(regex, text));
  }
}

TEST_CASE("the scanner and PCRE2 agree on the class of every character") {
  const auto scanner = word_scanner::for_pattern(qwen);
  const word_regex regex(qwen, "pattern");
  for (char32_t block = 0; block < 0x110000; block += 256) {
    std::string text;
    for (char32_t c = block; c < block + 256; ++c) {
      if (c < 0xD800 || 0xE000 <= c) {  // Where the words end tells what class c has.
        append_utf8(text.append("!"), c);
        text.append("a ");
      }
    }
    CAPTURE(static_cast<std::uint32_t>(block));
    REQUIRE(split(*scanner, text) == split(regex, text));
  }
}

TEST_CASE("only known patterns have a scanner") {
  CHECK_FALSE(word_scanner::for_pattern(""));
  CHECK_FALSE(word_scanner::for_pattern(qwen + "|x"));
}

TEST_CASE("a pattern cuts at its matches and keeps what is between") {
  CHECK(split(word_regex(R"(\d+)", "p"), "ab12c3") == std::vector<std::size_t>{2, 4, 5, 6});
  CHECK(split(word_regex("x", "p"), "abc") == std::vector<std::size_t>{3});
  CHECK(split(word_regex("x*", "p"), "axxb") == std::vector<std::size_t>{1, 3, 4});
  CHECK(split(word_regex("(?=b)", "p"), "abab") == std::vector<std::size_t>{1, 3, 4});
  CHECK(split(word_regex("$", "p"), "a\nb") == std::vector<std::size_t>{1, 3});
  CHECK(split(word_regex("a", "p"), "").empty());
}

TEST_CASE("a pattern that PCRE2 would read differently is refused by name") {
  for (const char* bad : {R"([a&&b])",
                          R"([a[bc]])",
                          R"(a\b)",
                          R"(\h+)",
                          R"((?m:a.b))",
                          R"(a{,3})",
                          R"(a{1,3}+)",
                          R"([\W_])",
                          R"([])",
                          "a\\"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH(word_regex(bad, "file: key"), Catch::StartsWith("file: key: the pattern"));
  }
  for (const char* invalid : {"(", "a**b(", "[z-a]", R"(\p{Nonsense})", "(?<=a+)b", R"(\C)"}) {
    CAPTURE(invalid);
    CHECK_THROWS_AS(word_regex(invalid, "file: key"), tokenizer_error);
  }
}

TEST_CASE("a pattern that explodes gives up with an error") {
  const word_regex bomb("(a+a+)+[bc]", "file: key");
  const std::string text(64, 'a');
  CHECK_THROWS_WITH(split(bomb, text), Catch::StartsWith("file: key: the pattern gave up"));
}

TEST_CASE("long runs need no deep stack") {
  const word_regex nested("(?:a|b|\\p{Lu})+|.", "p");
  std::string text;
  for (int i = 0; i < 300'000; ++i) {
    text.append(i % 2 == 0 ? "a" : "b");
  }
  CHECK(split(nested, text) == std::vector<std::size_t>{text.size()});
}

TEST_CASE("NFC composes, orders, and leaves the young alone") {
  CHECK(to_nfc("e\u0301") == "\u00E9");
  CHECK(to_nfc("q\u0307\u0323") == "q\u0323\u0307");
  CHECK(to_nfc("\u1112\u1161\u11AB") == "\uD55C");
  CHECK(to_nfc("\u212B") == "\u00C5");
  CHECK(to_nfc("\u0B47\u0300\u0B3E") == "\u0B47\u0300\u0B3E");
  CHECK(to_nfc("a\U0001E4EC\u0323") == "a\U0001E4EC\u0323");
  CHECK(to_nfc("\U000105D2\u0307") == "\U000105D2\u0307");
  CHECK(to_nfc("plain") == "plain");
  CHECK(nfc_safe_prefix("plain \u00E9 \u4E2D") == std::string("plain \u00E9 \u4E2D").size());
  CHECK(nfc_safe_prefix("ae\u0301") == 2);
}

TEST_CASE("NFC of a long run of marks is ordered, not quadratic") {
  std::string text = "a";
  for (int i = 0; i < 200'000; ++i) {
    text.append(i % 2 == 0 ? "\u0301" : "\u0323");
  }
  const std::string ordered = to_nfc(text);
  CHECK(ordered.substr(0, 3) == "\u1EA1");
  CHECK(to_nfc(ordered) == ordered);
}

}  // namespace tokenizer_words_test
