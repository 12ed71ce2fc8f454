// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <engine/tokenizer/byte_alphabet.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace tokenizer_test {

namespace {

using namespace oriel::engine;
using namespace std::string_literals;
using Catch::Contains;
using oriel::token_id;

std::string fixture(const std::string& name) {
  return std::string(ORIEL_TEST_DIR) + "/golden/tokenizer/" + name;
}

// A file with all 256 bytes as tokens 0..255, then `merges` ("a b"), then added tokens.
struct file_parts {
  std::vector<std::pair<std::string, std::string>> merges = {};
  std::string added = "[]";
  std::string normalizer = "null";
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";
  std::string model_extra = {};
  std::string extra = {};
};

std::string quoted(const std::string& text) {
  return text == "\"" ? R"("\"")" : text == "\\" ? R"("\\")" : '"' + text + '"';
}

std::string json_of(const file_parts& parts) {
  std::string vocab, merges;
  int id = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string spelling = spelling_of_bytes(std::string(1, static_cast<char>(byte)));
    vocab += fmt::format("{}{}:{}", id == 0 ? "" : ",", quoted(spelling), id);
    ++id;
  }
  std::map<std::string, int> seen;
  for (const auto& [left, right] : parts.merges) {
    if (left.size() + right.size() > 1 && seen.emplace(left + right, id).second) {
      vocab += fmt::format(",\"{}{}\":{}", left, right, id++);
    }
    merges += fmt::format("{}\"{} {}\"", merges.empty() ? "" : ",", left, right);
  }
  return fmt::format(
      R"({{"version":"1.0","truncation":null,"added_tokens":{},"normalizer":{},"pre_tokenizer":{},)"
      R"("decoder":{{"type":"ByteLevel"}},"model":{{"type":"BPE","vocab":{{{}}},"merges":[{}]{}}}{}}})",
      parts.added,
      parts.normalizer,
      parts.pre_tokenizer,
      vocab,
      merges,
      parts.model_extra,
      parts.extra);
}

std::vector<std::uint32_t> ids_of(const tokenizer& tok,
                                  std::string_view text,
                                  encode_options options = {}) {
  std::vector<std::uint32_t> ids;
  for (const token_id id : tok.encode(text, options)) {
    ids.push_back(oriel::to_index(id));
  }
  return ids;
}

std::string error_of(const std::string& json, const tokenizer_limits& limits = {}) {
  try {
    (void)tokenizer::parse(json, "t.json", limits);
  } catch (const tokenizer_error& e) {
    return e.what();
  }
  return "no error";
}

std::string replace(std::string text, const std::string& what, const std::string& with) {
  const std::size_t at = text.find(what);
  REQUIRE(at != text.npos);
  return text.replace(at, what.size(), with);
}

// The slow model of byte-pair encoding: strings, one merge at a time.
std::vector<std::string> merge_slowly(
    std::string_view word, const std::vector<std::pair<std::string, std::string>>& merges) {
  std::vector<std::string> parts;
  for (const char c : word) {
    parts.emplace_back(1, c);
  }
  while (true) {
    std::size_t best_rank = merges.size(), best_at = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = std::find(merges.begin(), merges.end(), std::pair(parts[i], parts[i + 1]));
      const auto rank = static_cast<std::size_t>(found - merges.begin());
      if (rank < best_rank) {
        best_rank = rank;
        best_at = i;
      }
    }
    if (best_rank == merges.size()) {
      return parts;
    }
    parts[best_at] += parts[best_at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}
}  // namespace

TEST_CASE("merging words equals the slow model, short and long") {
  const std::uint32_t seed = GENERATE(1u, 2u, 3u, 4u, 5u, 6u);
  CAPTURE(seed);
  std::mt19937 random(seed);
  file_parts parts;
  std::vector<std::string> tokens{"a", "b", "c"};
  for (int i = 0; i < 40; ++i) {
    const std::pair merge(tokens[random() % tokens.size()], tokens[random() % tokens.size()]);
    if (merge.first.size() + merge.second.size() <= 12 &&
        std::find(parts.merges.begin(), parts.merges.end(), merge) == parts.merges.end()) {
      parts.merges.push_back(merge);
      tokens.push_back(merge.first + merge.second);
    }
  }
  const tokenizer tok = tokenizer::parse(json_of(parts));
  for (int round = 0; round < 300; ++round) {
    std::string word;
    for (std::size_t n = random() % (round % 3 == 0 ? 200 : 40); n > 0; --n) {
      word.push_back(static_cast<char>('a' + random() % (round % 2 == 0 ? 2 : 3)));
    }
    CAPTURE(word);
    std::vector<std::string> ours;
    for (const token_id id : tok.encode(word)) {
      ours.emplace_back(tok.bytes_of(id));
    }
    REQUIRE(ours == merge_slowly(word, parts.merges));
    REQUIRE(tok.encode(word) == tok.encode(word));  // Also from what the first call remembered.
  }
}

TEST_CASE("a token the merges cannot make is only used with ignore_merges") {
  file_parts parts;
  parts.merges = {{"a", "b"}, {"b", "c"}, {"ab", "c"}, {"a", "bc"}, {"c", "a"}, {"ca", "b"}};
  // "cab": "ab" comes first, so "cab" is out of reach.
  CHECK(ids_of(tokenizer::parse(json_of(parts)), "cab").size() == 2);
  parts.model_extra = R"(,"ignore_merges":true)";
  CHECK(ids_of(tokenizer::parse(json_of(parts)), "cab").size() == 1);
}

TEST_CASE("special tokens are recognised, or text, as asked") {
  const tokenizer tok = tokenizer::load(fixture("llama.json"));
  const token_id end = *tok.find("<|im_end|>");
  const token_id begin = *tok.find("<|endoftext|>");
  CHECK(tok.is_special(end));
  CHECK_FALSE(tok.is_special(*tok.find("<think>")));
  CHECK(tok.encode("<|im_end|>", {.add_special = false}) == std::vector{end});
  CHECK(tok.encode("<|im_end|>", {.parse_special = true}) == std::vector{begin, end, end});
  const auto as_text = tok.encode("<|im_end|>", {.add_special = false, .parse_special = false});
  CHECK(as_text.size() > 1);
  CHECK(std::find(as_text.begin(), as_text.end(), end) == as_text.end());
  CHECK(tok.decode(as_text) == "<|im_end|>");
  CHECK(tok.encode("<think>", {.add_special = false, .parse_special = false}).size() == 1);
  CHECK(tok.decode(tok.encode("ab")) == "<|endoftext|>ab<|im_end|>");
  CHECK(tok.decode(tok.encode("ab"), true) == "ab");
  CHECK(tok.encode("", {.add_special = false}).empty());
}

TEST_CASE("ids without a token decode to nothing") {
  const tokenizer tok = tokenizer::load(fixture("llama.json"));
  CHECK(tok.bytes_of(token_id{tok.vocab_size()}).empty());
  CHECK(tok.bytes_of(token_id{0xFFFF'FFFFu}).empty());
  CHECK_FALSE(tok.is_special(token_id{0xFFFF'FFFFu}));
  CHECK(tok.decode(std::vector{token_id{1u << 30}}).empty());
  CHECK_FALSE(tok.find("no such token"));
  CHECK(tok.bytes_of(*tok.find("\u0120")) == " ");
}

TEST_CASE("invalid UTF-8 counts as U+FFFD") {
  const tokenizer tok = tokenizer::load(fixture("llama.json"));
  for (const auto& [bytes, text] : std::vector<std::pair<std::string, std::string>>{
           {"a\xFFz", "a\uFFFDz"},
           {"\xE2\x82", "\uFFFD"},
           {"\xED\xA0\x80<|im_end|>", "\uFFFD\uFFFD\uFFFD<|im_end|>"},
           {"<|im_end\x80|>", "<|im_end\uFFFD|>"}}) {
    CHECK(tok.encode(bytes) == tok.encode(text));
  }
  std::mt19937 random(7);
  for (int round = 0; round < 2'000; ++round) {
    std::string bytes;
    for (std::size_t n = random() % 24; n > 0; --n) {
      bytes.push_back(static_cast<char>(random()));
    }
    CAPTURE(round);
    const std::string text = tok.decode(tok.encode(bytes, {.add_special = false}));
    REQUIRE(tok.encode(text) == tok.encode(bytes));
  }
}

TEST_CASE("long and hostile texts come back whole") {
  constexpr std::size_t count = 250'000;
  const auto repeated = [](const std::string& unit) {
    std::string text;
    while (text.size() < count) {
      text += unit;
    }
    return text;
  };
  for (const char* name : {"llama.json", "../../../examples/models/nano/tokenizer.json"}) {
    const tokenizer tok = tokenizer::load(fixture(name));
    for (const std::string& unit : {" "s,
                                    "a"s,
                                    "\n"s,
                                    " \n"s,
                                    "\r\n \v"s,
                                    "ab"s,
                                    "1"s,
                                    "'s"s,
                                    "."s,
                                    "<|"s,
                                    "\u3000"s,
                                    "\u4E2D"s,
                                    "\u00E9"s,
                                    "\U0001F600"s,
                                    "\0"s,
                                    " a"s,
                                    "-\n"s}) {
      CAPTURE(name, unit);
      const std::string text = repeated(unit);
      for (const std::string& whole : {text, text + "x"}) {
        const bool same = tok.decode(tok.encode(whole, {.add_special = false})) == whole;
        REQUIRE(same);  // Not the strings: a megabyte takes Catch minutes to print.
      }
    }
  }
}

TEST_CASE("many threads may encode with one tokenizer") {
  const tokenizer tok = tokenizer::load(fixture("gpt2.json"));
  const std::string text = "def main():\n    return caf\u00E9 <|im_end|> LEFT  they've\n";
  const auto expected = tokenizer::load(fixture("gpt2.json")).encode(text);
  std::vector<int> equal(4);
  std::vector<std::thread> threads;
  for (int& result : equal) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        result += tok.encode(text) == expected ? 1 : 0;
      }
    });
  }
  for (std::thread& t : threads) {
    t.join();
  }
  CHECK(equal == std::vector<int>(4, 200));
}

TEST_CASE("what a file cannot say here is refused by name") {
  const std::string good = json_of({.merges = {{"a", "b"}}});
  REQUIRE(error_of(good) == "no error");
  const auto check = [&](const file_parts& parts, const std::string& key, const std::string& why) {
    const std::string error = error_of(json_of(parts));
    CAPTURE(error);
    CHECK_THAT(error, Catch::StartsWith("t.json: " + key + " "));
    CHECK_THAT(error, Contains(why));
  };
  check(
      {.normalizer = R"({"type":"NFKC"})"}, "normalizer.type", "\"NFKC\", which is not supported");
  check({.normalizer = R"({"type":"Sequence","normalizers":[{"type":"Lowercase"}]})"},
        "normalizer.normalizers[0].type",
        "Lowercase");
  check({.pre_tokenizer = R"({"type":"Whitespace"})"}, "pre_tokenizer.type", "Whitespace");
  check({.pre_tokenizer = R"({"type":"Sequence","pretokenizers":[{"type":"Digits"}]})"},
        "pre_tokenizer.pretokenizers[0].type",
        "Digits");
  check(
      {.pre_tokenizer = R"({"type":"Sequence","pretokenizers":[]})"}, "pre_tokenizer", "ByteLevel");
  const auto split = [](const std::string& keys) {
    return R"({"type":"Sequence","pretokenizers":[{"type":"Split",)" + keys +
           R"(},{"type":"ByteLevel"}]})";
  };
  const std::string at = "pre_tokenizer.pretokenizers[0].";
  check({.pre_tokenizer = split(R"("pattern":{"Regex":"("},"behavior":"Isolated")")},
        "pre_tokenizer.pretokenizers[0].pattern.Regex:",
        "does not compile");
  check({.pre_tokenizer = split(R"("pattern":{"Regex":"a"},"behavior":"Removed")")},
        at + "behavior",
        "Isolated");
  check({.pre_tokenizer = split(R"("pattern":{"Regex":"a"},"behavior":"Isolated","invert":true)")},
        at + "invert",
        "false");
  check({.pre_tokenizer = split(R"("pattern":{"String":"a"},"behavior":"Isolated")")},
        at + "pattern.String",
        "Regex");
  check({.model_extra = R"(,"dropout":0.1)"}, "model.dropout", "null");
  check({.model_extra = R"(,"byte_fallback":true)"}, "model.byte_fallback", "false");
  check({.model_extra = R"(,"unk_token":"<unk>")"}, "model.unk_token", "not in model.vocab");
  check({.model_extra = R"(,"end_of_word_suffix":"</w>")"},
        "model.end_of_word_suffix",
        "not supported");
  check({.model_extra = R"(,"novelty":1)"}, "model.novelty", "not a key");
  check({.extra = R"(,"padding":{})"}, "padding", "null");
  check({.extra = R"(,"post_processor":{"type":"BertProcessing"})"},
        "post_processor.type",
        "BertProcessing");
  check({.extra = R"(,"version":"1.0")"}, "version", "twice");
  const std::string token =
      R"("single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true})";
  check({.added = R"([{"id":256,"content":"<s>",)" + token + R"(,{"id":256,"content":"</s>",)" +
                  token + "]"},
        "added_tokens[1].id",
        "must have id 257");
  check({.added = R"([{"id":256,"content":"<s>",)" + token + R"(,{"id":257,"content":"<s>",)" +
                  token + "]"},
        "added_tokens[1].content",
        "as another one is");
  check(
      {.added = R"([{"id":256,"content":"",)" + token + "]"}, "added_tokens[0].content", "0 bytes");
  check({.added = R"([{"id":-1,"content":"x",)" + token + "]"}, "added_tokens[0].id", "not an id");
}

TEST_CASE("a damaged file is an error that says where") {
  const std::string good = json_of({.merges = {{"a", "b"}}});
  CHECK_THAT(error_of(replace(good, "\"a b\"", "\"a zz\"")),
             Contains("model.merges[0] names \"zz\""));
  CHECK_THAT(error_of(replace(good, "\"a b\"", "\"a\"")), Contains("model.merges[0]"));
  CHECK_THAT(error_of(replace(good, "\"a b\"", "[\"a\"]")), Contains("model.merges[0]"));
  CHECK_THAT(error_of(replace(good, "\"a b\"", "7")), Contains("model.merges[0] is a number"));
  CHECK_THAT(error_of(replace(good, "\"ab\":256", "\"ab\":255")), Contains("has id 255, as"));
  CHECK_THAT(error_of(replace(good, "\"ab\":256", "\"ab\":-1")), Contains("model.vocab.ab"));
  CHECK_THAT(error_of(replace(good, "\"ab\":256", "\"ab\":4000000000")),
             Contains("not an id below"));
  CHECK_THAT(error_of(replace(good, "\"ab\":256", "\"ab\":256,\"ab\":257")), Contains("twice"));
  CHECK_THAT(error_of(replace(good, "\"ab\":256", "\"\xFF\":256")), Contains("t.json:"));
  CHECK_THAT(error_of(replace(good, "\"type\":\"BPE\"", "\"type\":\"Unigram\"")),
             Contains("model.type"));
  CHECK_THAT(error_of(replace(good, "\"version\":\"1.0\"", "\"flavour\":\"1.0\"")),
             Contains("flavour"));
  CHECK_THAT(error_of(""), Catch::StartsWith("t.json: is not valid JSON"));
  CHECK_THAT(error_of("[]"), Contains("expected an object"));
  CHECK_THAT(error_of("{}"), Contains("model is missing"));
  CHECK_THAT(error_of(std::string(100'000, '[')), Contains("not valid JSON"));
  CHECK_THROWS_WITH(tokenizer::load("/nonexistent/tokenizer.json"), Contains("cannot be opened"));
  CHECK_THROWS_AS(tokenizer::load("/"), tokenizer_error);
}

TEST_CASE("limits are kept") {
  const std::string good = json_of({.merges = {{"a", "b"}, {"b", "c"}}});
  CHECK_THAT(error_of(good, {.file_bytes = 100}), Contains("limit of 100"));
  CHECK_THAT(error_of(good, {.vocab_tokens = 100}), Contains("below 100"));
  CHECK_THAT(error_of(good, {.merges = 1}), Contains("more than 1"));
  CHECK_THAT(error_of(good, {.token_bytes = 1}), Contains("expected 1 to 1"));
  CHECK_THROWS_WITH(tokenizer::load(fixture("gpt2.json"), {.file_bytes = 100}),
                    Contains("limit of 100"));
  CHECK_THROWS_WITH(tokenizer::load(fixture("gpt2.json"), {.added_tokens = 3}),
                    Contains("limit of 3"));
}

TEST_CASE("no truncation and no flipped byte does harm") {
  const std::string good =
      json_of({.merges = {{"a", "b"}, {"ab", "c"}},
               .added = R"([{"id":258,"content":"<s>","lstrip":true,"special":true}])",
               .normalizer = R"({"type":"NFC"})"});
  REQUIRE(error_of(good) == "no error");
  for (std::size_t size = 0; size < good.size(); size += 3) {
    REQUIRE(error_of(good.substr(0, size)) != "no error");
  }
  std::mt19937 random(11);
  int loaded = 0;
  for (int round = 0; round < 4'000; ++round) {
    std::string bad = good;
    for (std::size_t n = 1 + random() % 3; n > 0; --n) {
      bad[random() % bad.size()] =
          static_cast<char>(round % 2 == 0 ? random() : 32 + random() % 95);
    }
    CAPTURE(round);
    try {
      const tokenizer tok = tokenizer::parse(bad);
      const auto ids = tok.encode("abc <s> caf\u00E9 \xFF");
      (void)tok.decode(ids);
      ++loaded;
    } catch (const tokenizer_error&) {
    }
  }
  CHECK(loaded > 10);  // Some damage does not show: another id, another letter.
}

}  // namespace tokenizer_test
