// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/page_record.hpp>

#include <catch2/catch.hpp>

#include <cstring>
#include <random>
#include <vector>

namespace page_record_test {

using namespace oriel;

namespace {

page_digest digest_of(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  page_digest digest;
  for (std::byte& b : digest.bytes) {
    b = static_cast<std::byte>(random());
  }
  return digest;
}

/// A record of two slices of odd lengths, and all that was said of it.
struct sample {
  std::vector<token_id> tokens = {token_id{5}, token_id{6}, token_id{0xFFFF'FFFF}};
  page_identity identity{digest_of(1), digest_of(2), 12, tokens};
  record_fields fields{.key = {digest_of(3), 2},
                       .owner = {77, 88},
                       .expires_us = 99,
                       .generation = ~std::uint64_t{0} - 1,
                       .place = {.segment = 9, .offset = 8192}};
  std::vector<std::byte> first, second, record;
  std::vector<std::span<std::byte>> slices;

  sample() : first(5000, std::byte{1}), second(1, std::byte{2}) {
    slices = {first, second};
    record.resize(record_bytes(tokens.size(), slices));
    encode_record(fields, identity, slices, record);
  }
  /// Reads both slices into fresh memory.
  record_verdict read(std::span<const std::byte> from, std::vector<std::byte>& got) const {
    got.assign(first.size() + second.size(), std::byte{0xEE});
    const std::span<std::byte> parts[] = {std::span(got).first(first.size()),
                                          std::span(got).subspan(first.size())};
    return read_record(from, fields.key, identity, 0, parts);
  }
};

}  // namespace

TEST_CASE("a record gives back all that was written", "[tier]") {
  const sample s;
  CHECK(s.record.size() == 4096 + 8192 + 4096);
  record_view view;
  REQUIRE(decode_record(s.record, view) == record_verdict::sound);
  CHECK(view.fields.type == record_type::page);
  CHECK(view.fields.key == s.fields.key);
  CHECK(view.fields.owner == s.fields.owner);
  CHECK(view.fields.expires_us == 99);
  CHECK(view.fields.generation == s.fields.generation);
  CHECK(view.fields.place == s.fields.place);
  CHECK(view.record_bytes == s.record.size());
  CHECK(view.token(2) == token_id{0xFFFF'FFFF});
  CHECK(view.slice_offset(1) == 4096 + 8192);
  CHECK(view.has_identity(s.identity));
  CHECK(view.is_at(s.fields.place, s.fields.generation));
  std::vector<std::byte> got;
  REQUIRE(s.read(s.record, got) == record_verdict::sound);
  CHECK(std::memcmp(got.data(), s.first.data(), s.first.size()) == 0);
  CHECK(got.back() == std::byte{2});
}

TEST_CASE("a layer can be read alone", "[tier]") {
  const sample s;
  std::byte last{};
  const std::span<std::byte> part[] = {std::span(&last, 1)};
  CHECK(read_record(s.record, s.fields.key, s.identity, 1, part) == record_verdict::sound);
  CHECK(last == std::byte{2});
  CHECK(read_record(s.record, s.fields.key, s.identity, 0, part) == record_verdict::misplaced);
  CHECK(read_record(s.record, s.fields.key, s.identity, 2, part) == record_verdict::misplaced);
  CHECK(read_record(s.record, s.fields.key, s.identity, 3, {}) == record_verdict::misplaced);
}

TEST_CASE("a record cut anywhere is not sound", "[tier]") {
  const sample s;
  std::vector<std::byte> got;
  for (std::size_t length = 0; length < s.record.size(); ++length) {
    record_view view;
    const auto cut = std::span<const std::byte>(s.record).first(length);
    REQUIRE((decode_record(cut, view) == record_verdict::sound) == (length >= 4096));
    REQUIRE(s.read(cut, got) == record_verdict::torn);
  }
}

TEST_CASE("a record with any bit flipped is not sound, but in its padding", "[tier]") {
  sample s;
  std::vector<std::byte> got;
  const auto is_padding = [](std::size_t at) { return at >= 4096 + 5000 && at != 4096 + 8192; };
  for (std::size_t at = 0; at < s.record.size(); ++at) {
    for (const unsigned mask : {0x01u, 0x80u, 0xFFu}) {
      s.record[at] ^= static_cast<std::byte>(mask);
      const record_verdict verdict = s.read(s.record, got);
      REQUIRE((verdict == record_verdict::sound) == is_padding(at));
      s.record[at] ^= static_cast<std::byte>(mask);
    }
  }
  record_view view;
  s.record[8] = std::byte{2};
  CHECK(decode_record(s.record, view) == record_verdict::foreign_version);
}

TEST_CASE("a sound record of another page, place or time is recognised", "[tier]") {
  const sample s;
  std::vector<std::byte> got;
  record_view view;
  REQUIRE(decode_record(s.record, view) == record_verdict::sound);
  CHECK(!view.is_at({.segment = 8, .offset = 8192}, s.fields.generation));
  CHECK(!view.is_at({.segment = 9, .offset = 4096}, s.fields.generation));
  CHECK(!view.is_at(s.fields.place, s.fields.generation - 1));
  CHECK(!view.has_key({s.fields.key.link, 1}));
  CHECK(!view.has_key({digest_of(4), 2}));
  std::vector<token_id> other_tokens = s.tokens;
  other_tokens[1] = token_id{7};
  const auto with = [&](auto change) {
    page_identity other = s.identity;
    change(other);
    return view.has_identity(other);
  };
  CHECK(with([](page_identity&) {}));
  CHECK(!with([](page_identity& i) { i.name_space = digest_of(8); }));
  CHECK(!with([](page_identity& i) { i.parent = digest_of(8); }));
  CHECK(!with([](page_identity& i) { i.first_token = 13; }));
  CHECK(!with([&](page_identity& i) { i.tokens = other_tokens; }));
  CHECK(!with([](page_identity& i) { i.tokens = i.tokens.first(2); }));
  sample wrong;
  wrong.fields.key.pool = 3;
  CHECK(wrong.read(s.record, got) == record_verdict::misplaced);
}

TEST_CASE("a moved header is sound at its new place only", "[tier]") {
  sample s;
  move_record(std::span(s.record).first(4096), {.segment = 1, .offset = 4096}, 5);
  record_view view;
  REQUIRE(decode_record(s.record, view) == record_verdict::sound);
  CHECK(view.is_at({.segment = 1, .offset = 4096}, 5));
  CHECK(!view.is_at(s.fields.place, s.fields.generation));
  std::vector<std::byte> got;
  CHECK(s.read(s.record, got) == record_verdict::sound);
}

TEST_CASE("limits are checked before anything is believed", "[tier]") {
  CHECK(record_header_bytes(record_tokens_max, record_slices_max) <= record_header_bytes_max);
  CHECK(record_header_bytes(record_tokens_max + 1, 1) == 0);
  CHECK(record_header_bytes(1, record_slices_max + 1) == 0);
  std::vector<std::span<std::byte>> none(1);
  CHECK(record_bytes(1, none) == 0);
  // Random headers with a valid checksum: lengths of a liar stay inside.
  std::mt19937_64 random(3);
  sample s;
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bytes(s.record.begin(), s.record.begin() + 4096);
    for (int n = 0; n < 3; ++n) {
      bytes[16 + random() % 200] = static_cast<std::byte>(random());
    }
    // The generation comes last: move_record makes the checksum fit.
    move_record(bytes, {1, 4096}, random());
    record_view view;
    if (decode_record(bytes, view) == record_verdict::sound) {
      REQUIRE(view.header_bytes == 4096);
      REQUIRE(view.slice_offset(view.slice_count) == view.record_bytes);
    }
  }
}

}  // namespace page_record_test
