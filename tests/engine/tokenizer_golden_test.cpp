// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Our ids against what the `tokenizers` library made of the same 22,800 strings, for four
// tokenizers. tests/golden/tokenizer/make_golden.py made the expected files, strings.py the
// strings.
#include <catch2/catch.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/tokenizer/unicode.hpp>

#include <cstdint>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace tokenizer_golden_test {

namespace {

using oriel::to_index;
using oriel::token_id;
using oriel::engine::append_utf8;
using oriel::engine::tokenizer;

const std::string folder = std::string(ORIEL_TEST_DIR) + "/golden/tokenizer/";
constexpr std::size_t strings_per_block = 100;

class splitmix64 {
 public:
  explicit splitmix64(std::uint64_t seed) : state_(seed) {}
  std::uint64_t below(std::uint64_t n) {
    state_ += 0x9E3779B97F4A7C15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % n;
  }

 private:
  std::uint64_t state_;
};

// A text, or any character of a range.
struct item {
  std::string text;
  std::uint32_t first = 0, last = 0;
};

struct group {
  std::string name;
  std::size_t strings = 0, items_min = 0, items_max = 0, repeat_max = 0;
  std::vector<item> items;
};

std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out.push_back(text[i]);
      continue;
    }
    const char kind = text[++i];
    if (kind == 'u') {
      const std::size_t close = text.find('}', i);
      append_utf8(out,
                  static_cast<char32_t>(
                      std::stoul(std::string(text.substr(i + 2, close - i - 2)), nullptr, 16)));
      i = close;
    } else {
      out.push_back(kind == 'n'   ? '\n'
                    : kind == 'r' ? '\r'
                    : kind == 't' ? '\t'
                    : kind == 's' ? ' '
                                  : kind);
    }
  }
  return out;
}

std::vector<group> read_groups() {
  std::ifstream in(folder + "corpus.txt");
  REQUIRE(in);
  std::vector<group> groups;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    if (kind == "group") {
      group& g = groups.emplace_back();
      words >> g.name >> g.strings >> g.items_min >> g.items_max >> g.repeat_max;
    } else if (kind == "t") {
      groups.back().items.push_back({unescape(line.substr(2))});
    } else if (kind == "r") {
      item& range = groups.back().items.emplace_back();
      words >> std::hex >> range.first >> range.last;
    }
  }
  return groups;
}

std::vector<std::string> strings_of(const group& g, std::size_t index) {
  splitmix64 random(index + 1);
  std::vector<std::string> strings(g.strings);
  for (std::string& s : strings) {
    for (std::size_t n = g.items_min + random.below(g.items_max - g.items_min + 1); n > 0; --n) {
      const item& chosen = g.items[random.below(g.items.size())];
      std::string text = chosen.text;
      if (text.empty()) {
        append_utf8(
            text,
            static_cast<char32_t>(chosen.first + random.below(chosen.last - chosen.first + 1)));
      }
      const std::size_t times = random.below(16) == 0 ? 1 + random.below(g.repeat_max) : 1;
      for (std::size_t i = 0; i < times; ++i) {
        s.append(text);
      }
    }
  }
  return strings;
}

// FNV-1a over 32-bit words.
class digest {
 public:
  void add(std::uint32_t word) {
    for (int shift = 0; shift < 32; shift += 8) {
      value_ = (value_ ^ ((word >> shift) & 0xFFu)) * 0x100000001B3u;
    }
  }
  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xCBF29CE484222325u;
};

struct expected_group {
  std::string name;
  std::size_t strings = 0;
  std::vector<std::uint64_t> digests;
  std::vector<std::vector<std::uint32_t>> first_ids;
};

std::vector<expected_group> read_expected(const std::string& name) {
  std::ifstream in(folder + "expected_" + name + ".txt");
  REQUIRE(in);
  std::vector<expected_group> groups;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    if (kind == "group") {
      expected_group& g = groups.emplace_back();
      words >> g.name >> g.strings;
    } else if (kind == "digest") {
      words >> std::hex >> groups.back().digests.emplace_back();
    } else if (kind == "ids") {
      std::vector<std::uint32_t>& ids = groups.back().first_ids.emplace_back();
      for (std::uint32_t id = 0; words >> id;) {
        ids.push_back(id);
      }
    }
  }
  return groups;
}

std::vector<std::uint32_t> ids_of(const tokenizer& tok, const std::string& text) {
  std::vector<std::uint32_t> ids;
  for (const token_id id : tok.encode(text)) {
    ids.push_back(to_index(id));
  }
  return ids;
}

void check_group(const tokenizer& tok,
                 const std::vector<std::string>& strings,
                 const expected_group& expected) {
  for (std::size_t i = 0; i < expected.first_ids.size(); ++i) {
    CAPTURE(i, strings[i]);
    REQUIRE(ids_of(tok, strings[i]) == expected.first_ids[i]);
  }
  for (std::size_t block = 0; block < expected.digests.size(); ++block) {
    digest d;
    for (std::size_t i = 0; i < strings_per_block; ++i) {
      const auto ids = ids_of(tok, strings[block * strings_per_block + i]);
      d.add(static_cast<std::uint32_t>(ids.size()));
      for (const std::uint32_t id : ids) {
        d.add(id);
      }
    }
    INFO("strings " << block * strings_per_block
                    << " and on; compare.py names the one that differs");
    REQUIRE(d.value() == expected.digests[block]);
  }
}

void check_tokenizer(const std::string& path, const std::string& name) {
  INFO("if " << path << " is new, run tests/golden/tokenizer/make_golden.py --keep");
  const tokenizer tok = tokenizer::load(path);
  const std::vector<group> groups = read_groups();
  const std::vector<expected_group> expected = read_expected(name);
  REQUIRE(groups.size() == expected.size());
  std::size_t total = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    INFO("group " << groups[i].name);
    REQUIRE(groups[i].name == expected[i].name);
    REQUIRE(groups[i].strings == expected[i].strings);
    REQUIRE(expected[i].digests.size() * strings_per_block == expected[i].strings);
    check_group(tok, strings_of(groups[i], i), expected[i]);
    total += groups[i].strings;
  }
  CHECK(total >= 20'000);
}
}  // namespace

TEST_CASE("ids equal the tokenizers library: the nano model's tokenizer") {
  check_tokenizer(std::string(ORIEL_TEST_DIR) + "/../examples/models/nano/tokenizer.json", "nano");
}

TEST_CASE("ids equal the tokenizers library: GPT-2 form, NFC, a space in front, odd added tokens") {
  check_tokenizer(folder + "gpt2.json", "gpt2");
}

TEST_CASE("ids equal the tokenizers library: Llama 3 form, whole words first, a template") {
  check_tokenizer(folder + "llama.json", "llama");
}

TEST_CASE("ids equal the tokenizers library: other patterns, a byte alphabet with holes") {
  check_tokenizer(folder + "odd.json", "odd");
}

}  // namespace tokenizer_golden_test
