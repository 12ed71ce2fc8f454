// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/output/token_stream.hpp>

#include <catch2/catch.hpp>
#include <support/death.hpp>

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace token_stream_test {

namespace {

using oriel::finish_reason;
using oriel::stop_conditions;
using oriel::token_id;
using oriel::token_stream;
using namespace std::string_view_literals;

constexpr token_id plain{7};
constexpr token_id end_of_turn{1};

std::string replaced(std::string_view bytes) {
  oriel::utf8_assembler assembler;
  std::string text;
  assembler.push(bytes, text);
  assembler.flush(text);
  return text;
}

// The slow model: the whole text at once, and for each end every stop string.
struct answer {
  std::string text;
  bool stopped;
  friend bool operator==(const answer&, const answer&) = default;
};

answer cut_at_stop(std::string_view bytes, const std::vector<std::string_view>& stops) {
  const std::string text = replaced(bytes);
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string_view stop : stops) {
      const std::string wanted = replaced(stop);
      if (!wanted.empty() && std::string_view(text).substr(0, end).ends_with(wanted)) {
        longest = std::max(longest, wanted.size());
      }
    }
    if (longest > 0) {
      return {text.substr(0, end - longest), true};
    }
  }
  return {text, false};
}

bool is_whole_utf8(std::string_view text) {
  return replaced(text) == text;
}

// Streams `bytes` cut at random places; every piece that comes out must be whole characters.
answer stream(std::string_view bytes,
              const std::vector<std::string_view>& stops,
              std::mt19937& random) {
  token_stream out({.tokens = {}, .strings = {stops.begin(), stops.end()}});
  std::string text;
  std::uint32_t tokens = 0;
  while (!bytes.empty() && out.finished() == finish_reason::none) {
    const std::size_t count = random() % std::min<std::size_t>(bytes.size() + 1, 6);
    const std::string_view piece = out.push(plain, bytes.substr(0, count));
    REQUIRE(is_whole_utf8(piece));
    text.append(piece);
    bytes.remove_prefix(count);
    REQUIRE(out.token_count() == ++tokens);
  }
  text.append(out.finish());
  REQUIRE(out.finish().empty());
  return {text, out.finished() == finish_reason::stop};
}
}  // namespace

TEST_CASE("invalid bytes become U+FFFD, one for each maximal part") {
  // As Python: bytes.decode("utf-8", "replace").
  CHECK(replaced("a\x80z") == "a\uFFFDz");
  CHECK(replaced("\xC0\xAF") == "\uFFFD\uFFFD");
  CHECK(replaced("\xE2\x82") == "\uFFFD");
  CHECK(replaced("\xE2\x82z") == "\uFFFDz");
  CHECK(replaced("\xE0\x80\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(replaced("\xED\xA0\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(replaced("\xF0\x9F\x98") == "\uFFFD");
  CHECK(replaced("\xF0\x9F\x98\xF0\x9F\x98\x80") == "\uFFFD\U0001F600");
  CHECK(replaced("\xF4\x90\x80\x80") == "\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(replaced("\xFF\xFE") == "\uFFFD\uFFFD");
  CHECK(replaced("a\0b"sv) == "a\0b"sv);
}

TEST_CASE("a character is held back until it is complete") {
  token_stream out;
  CHECK(out.push(plain, "a\xF0\x9F") == "a");
  CHECK(out.push(plain, "\x98").empty());
  CHECK(out.push(plain, "\x80!") == "\U0001F600!");
  CHECK(out.push(plain, "\xE2\x82") == "");
  CHECK(out.finish() == "\uFFFD");
  CHECK(out.finished() == finish_reason::cancelled);
}

TEST_CASE("text that may become a stop string is held back") {
  const std::array stops{"</end>"sv, "\n\n"sv};
  token_stream out({.tokens = {}, .strings = {stops.begin(), stops.end()}});
  CHECK(out.push(plain, "x</e") == "x");
  CHECK(out.push(plain, "nt>") == "</ent>");
  CHECK(out.push(plain, "\n") == "");
  CHECK(out.push(plain, "a</end") == "\na");
  CHECK(out.push(plain, "> and more") == "");
  CHECK(out.finished() == finish_reason::stop);
  CHECK(out.finish().empty());
}

TEST_CASE("what was held back comes out when the answer ends otherwise") {
  const std::array stops{"</end>"sv};
  const stop_conditions conditions{.tokens = {end_of_turn},
                                   .strings = {stops.begin(), stops.end()}};
  SECTION("a stop token") {
    token_stream out(conditions, 2);
    CHECK(out.push(plain, "x</e") == "x");
    CHECK(out.push(end_of_turn, "<|im_end|>") == "</e");
    CHECK(out.finished() == finish_reason::stop);
    CHECK(out.token_count() == 2);
  }
  SECTION("max_tokens") {
    token_stream out(conditions, 2);
    CHECK(out.push(plain, "x</e") == "x");
    CHECK(out.push(plain, "\xC3") == "</e\uFFFD");
    CHECK(out.finished() == finish_reason::length);
  }
  SECTION("a stop string in the last token wins over max_tokens") {
    token_stream out(conditions, 2);
    CHECK(out.push(plain, "x</e") == "x");
    CHECK(out.push(plain, "nd>") == "");
    CHECK(out.finished() == finish_reason::stop);
  }
  SECTION("the caller") {
    token_stream out(conditions, 2);
    CHECK(out.push(plain, "x</e") == "x");
    CHECK(out.finish() == "</e");
    CHECK(out.finished() == finish_reason::cancelled);
  }
}

TEST_CASE("of several stop strings the first complete one counts, then the longest") {
  const std::array stops{"bc"sv, "abcd"sv, "abc"sv, ""sv};
  token_stream out({.tokens = {}, .strings = {stops.begin(), stops.end()}});
  CHECK(out.push(plain, "xabcd") == "x");
}

TEST_CASE("a stop string that is not UTF-8 matches the text it would show as") {
  const std::array stops{"\x82\xAC"sv};
  token_stream out({.tokens = {}, .strings = {stops.begin(), stops.end()}});
  CHECK(out.push(plain, "\u20AC") == "\u20AC");
  CHECK(out.push(plain, "\xFF\xFFz") == "");
  CHECK(out.finished() == finish_reason::stop);
}

TEST_CASE("a finished stream takes no token") {
  CHECK(aborts([] {
    token_stream out({}, 1);
    (void)out.push(plain, "a");
    (void)out.push(plain, "b");
  }));
}

TEST_CASE("any cutting into tokens gives the text of the whole") {
  const std::uint32_t seed = GENERATE(1u, 2u, 3u, 4u);
  CAPTURE(seed);
  std::mt19937 random(seed);
  const std::vector<std::string_view> parts{"a",
                                            "b",
                                            "ab",
                                            "aab",
                                            "\u00E9",
                                            "\xC3",
                                            "\xA9",
                                            "\u20AC",
                                            "\U0001F600",
                                            "\xF0",
                                            "\x9F",
                                            "\x98",
                                            "\x80",
                                            "\xFF",
                                            "\n"};
  const auto draw = [&](std::size_t parts_max) {
    std::string s;
    for (std::size_t i = random() % (parts_max + 1); i > 0; --i) {
      s.append(parts[random() % parts.size()]);
    }
    return s;
  };
  std::size_t stopped = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::string> owned;
    for (std::size_t i = random() % 4; i > 0; --i) {
      owned.push_back(draw(5));
    }
    const std::vector<std::string_view> stops(owned.begin(), owned.end());
    const std::string bytes = draw(24);
    const answer expected = cut_at_stop(bytes, stops);
    CAPTURE(round, bytes, owned);
    REQUIRE(stream(bytes, stops, random) == expected);
    stopped += expected.stopped ? 1u : 0u;
  }
  CHECK(stopped > 2'000);
}

}  // namespace token_stream_test
