// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The door for tests/golden/tokenizer/compare.py: hidden, as it needs a file of strings.
#include <catch2/catch.hpp>
#include <engine/tokenizer/tokenizer.hpp>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

namespace tokenizer_compare_test {

namespace {

using oriel::token_id;
using oriel::engine::tokenizer;

std::string read_file(const char* path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void put(std::ofstream& out, std::size_t count) {
  const auto n = static_cast<std::uint32_t>(count);
  out.write(reinterpret_cast<const char*>(&n), sizeof n);
}
}  // namespace

// In: u32 length and bytes of each string. Out, per string: u32 count and the u32 ids; then u32
// length and bytes of the ids decoded.
TEST_CASE("encodes and decodes a file of strings", "[.tokenizer_compare]") {
  const char* model = std::getenv("ORIEL_TOKENIZER");
  const char* strings = std::getenv("ORIEL_STRINGS");
  const char* ids = std::getenv("ORIEL_IDS");
  REQUIRE((model != nullptr && strings != nullptr && ids != nullptr));
  const bool parse_special = std::getenv("ORIEL_NO_SPECIAL") == nullptr;
  const tokenizer tok = tokenizer::load(model);
  const std::string text = read_file(strings);
  std::ofstream out(ids, std::ios::binary);
  for (std::size_t at = 0; at + 4 <= text.size();) {
    std::uint32_t length = 0;
    std::memcpy(&length, text.data() + at, sizeof length);
    REQUIRE(length <= text.size() - at - 4);
    const std::string_view one = std::string_view(text).substr(at + 4, length);
    at += 4 + length;
    const std::vector<token_id> tokens = tok.encode(one, {.parse_special = parse_special});
    put(out, tokens.size());
    for (const token_id id : tokens) {
      put(out, oriel::to_index(id));
    }
    const std::string decoded = tok.decode(tokens);
    put(out, decoded.size());
    out.write(decoded.data(), static_cast<std::streamsize>(decoded.size()));
  }
}

}  // namespace tokenizer_compare_test
