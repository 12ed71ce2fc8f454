// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/crc32c.hpp>
#include <oriel/tier/page_record.hpp>

#include <algorithm>
#include <bit>
#include <cstring>

namespace oriel {
namespace {

static_assert(std::endian::native == std::endian::little, "fields are written as they lie");
static_assert(sizeof(token_id) == 4 && sizeof(record_slice) == 8);

constexpr char magic[] = {'O', 'r', 'i', 'e', 'l', 'P', 'g', '1'};
constexpr std::uint16_t format_version = 1;

// Offsets: the picture in page_record.hpp.
constexpr std::size_t at_version = 8, at_type = 10, at_crc = 12, at_header_bytes = 16, at_pool = 20,
                      at_record_bytes = 24, at_generation = 32, at_offset = 40, at_segment = 48,
                      at_first_token = 52, at_token_count = 56, at_slice_count = 60, at_link = 64,
                      at_parent = 96, at_name_space = 128, at_tenant = 160, at_session = 168,
                      at_expires = 176, at_stamp = 184, fixed_bytes = 192;

template <class T>
T load(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <class T>
void store(std::byte* to, const T& value) noexcept {
  std::memcpy(to, &value, sizeof(value));
}

/// Of all of the header but the four bytes that hold it.
std::uint32_t header_crc(std::span<const std::byte> header) noexcept {
  return crc32c(header.subspan(at_crc + 4), crc32c(header.first(at_crc)));
}

bool is_type(std::uint8_t type) noexcept {
  return type >= static_cast<std::uint8_t>(record_type::page) &&
         type <= static_cast<std::uint8_t>(record_type::segment_start);
}

record_fields load_fields(const std::byte* h) noexcept {
  record_fields f;
  f.type = static_cast<record_type>(load<std::uint8_t>(h + at_type));
  f.key.link = load<page_digest>(h + at_link);
  f.key.pool = load<std::uint32_t>(h + at_pool);
  f.owner = {load<std::uint64_t>(h + at_tenant), load<std::uint64_t>(h + at_session)};
  f.expires_us = load<std::uint64_t>(h + at_expires);
  f.generation = load<std::uint64_t>(h + at_generation);
  f.place = {load<std::uint32_t>(h + at_segment), load<std::uint64_t>(h + at_offset)};
  f.stamp = load<std::uint64_t>(h + at_stamp);
  return f;
}

}  // namespace

record_slice record_view::slice(std::uint32_t i) const noexcept {
  ORIEL_EXPECTS(i < slice_count);
  return load<record_slice>(slices_ + std::size_t{i} * sizeof(record_slice));
}

std::uint64_t record_view::slice_offset(std::uint32_t i) const noexcept {
  ORIEL_EXPECTS(i <= slice_count);
  std::uint64_t offset = header_bytes;
  for (std::uint32_t j = 0; j < i; ++j) {
    offset += record_padded(slice(j).bytes);
  }
  return offset;
}

token_id record_view::token(std::uint32_t i) const noexcept {
  ORIEL_EXPECTS(i < token_count);
  return load<token_id>(tokens_ + std::size_t{i} * sizeof(token_id));
}

bool record_view::has_key(const page_key& key) const noexcept {
  return fields.type == record_type::page && (fields.key == key || ORIEL_MUTANT(key_is_believed));
}

bool record_view::is_at(record_place place, std::uint64_t generation) const noexcept {
  return (fields.place == place || ORIEL_MUTANT(place_is_not_compared)) &&
         (fields.generation == generation || ORIEL_MUTANT(generation_is_ignored));
}

bool record_view::has_identity(const page_identity& identity) const noexcept {
  if (ORIEL_MUTANT(identity_is_not_compared)) {
    return true;
  }
  return name_space == identity.name_space && parent == identity.parent &&
         first_token == identity.first_token && token_count == identity.tokens.size() &&
         (token_count == 0 ||
          std::memcmp(tokens_, identity.tokens.data(), std::size_t{token_count} * 4) == 0);
}

bool record_view::is_slice(std::uint32_t i, std::span<const std::byte> bytes) const noexcept {
  const record_slice wanted = slice(i);
  return bytes.size() == wanted.bytes &&
         (crc32c(bytes) == wanted.crc || ORIEL_MUTANT(slice_checksum_is_ignored));
}

std::size_t record_header_bytes(std::size_t token_count, std::size_t slice_count) noexcept {
  if (token_count > record_tokens_max || slice_count > record_slices_max) {
    return 0;
  }
  const std::size_t bytes =
      fixed_bytes + slice_count * sizeof(record_slice) + token_count * sizeof(token_id);
  static_assert(fixed_bytes + record_tokens_max * 4 + record_slices_max * 8 <=
                record_header_bytes_max);
  return static_cast<std::size_t>(record_padded(bytes));
}

std::uint64_t record_bytes(std::size_t token_count,
                           std::span<const std::span<std::byte>> slices) noexcept {
  std::uint64_t bytes = record_header_bytes(token_count, slices.size());
  if (bytes == 0) {
    return 0;
  }
  for (const std::span<std::byte> slice : slices) {
    if (slice.empty() || slice.size() > 0xFFFF'FFFFu) {
      return 0;
    }
    bytes += record_padded(slice.size());
  }
  return bytes;
}

record_slice summed_slice(std::span<const std::byte> bytes) noexcept {
  ORIEL_EXPECTS(bytes.size() <= 0xFFFF'FFFFu);
  return {static_cast<std::uint32_t>(bytes.size()), crc32c(bytes)};
}

void encode_record_header(const record_fields& fields,
                          const page_identity& identity,
                          std::span<const record_slice> slices,
                          std::span<std::byte> header) noexcept {
  ORIEL_EXPECTS(!header.empty() &&
                header.size() == record_header_bytes(identity.tokens.size(), slices.size()));
  std::byte* h = header.data();
  std::memset(h, 0, header.size());
  std::memcpy(h, magic, sizeof(magic));
  std::uint64_t record_bytes = header.size();
  for (const record_slice& slice : slices) {
    record_bytes += record_padded(slice.bytes);
  }
  store(h + at_version, format_version);
  store(h + at_type, fields.type);
  store(h + at_header_bytes, static_cast<std::uint32_t>(header.size()));
  store(h + at_pool, fields.key.pool);
  store(h + at_record_bytes, record_bytes);
  store(h + at_generation, fields.generation);
  store(h + at_offset, fields.place.offset);
  store(h + at_segment, fields.place.segment);
  store(h + at_first_token, identity.first_token);
  store(h + at_token_count, static_cast<std::uint32_t>(identity.tokens.size()));
  store(h + at_slice_count, static_cast<std::uint32_t>(slices.size()));
  store(h + at_link, fields.key.link);
  store(h + at_parent, identity.parent);
  store(h + at_name_space, identity.name_space);
  store(h + at_tenant, fields.owner.tenant);
  store(h + at_session, fields.owner.session);
  store(h + at_expires, fields.expires_us);
  store(h + at_stamp, fields.stamp);
  std::byte* to = h + fixed_bytes;
  if (!slices.empty()) {
    std::memcpy(to, slices.data(), slices.size_bytes());
    to += slices.size_bytes();
  }
  if (!identity.tokens.empty()) {
    std::memcpy(to, identity.tokens.data(), identity.tokens.size_bytes());
  }
  store(h + at_crc, header_crc(header));
}

void encode_record(const record_fields& fields,
                   const page_identity& identity,
                   std::span<const std::span<std::byte>> slices,
                   std::span<std::byte> record) noexcept {
  ORIEL_EXPECTS(!record.empty() && record.size() == record_bytes(identity.tokens.size(), slices));
  record_slice sums[record_slices_max];
  const std::size_t header_bytes = record_header_bytes(identity.tokens.size(), slices.size());
  std::byte* to = record.data() + header_bytes;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const std::size_t padded = record_padded(slices[i].size());
    std::memcpy(to, slices[i].data(), slices[i].size());
    std::memset(to + slices[i].size(), 0, padded - slices[i].size());
    sums[i] = summed_slice({to, slices[i].size()});  // of the copy: in cache, and what is sent
    to += padded;
  }
  encode_record_header(
      fields, identity, std::span(sums).first(slices.size()), record.first(header_bytes));
}

void move_record(std::span<std::byte> header,
                 record_place place,
                 std::uint64_t generation) noexcept {
  ORIEL_EXPECTS(header.size() >= record_alignment_bytes);
  store(header.data() + at_generation, generation);
  store(header.data() + at_offset, place.offset);
  store(header.data() + at_segment, place.segment);
  store(header.data() + at_crc, header_crc(header));
}

record_verdict decode_record(std::span<const std::byte> bytes, record_view& view) noexcept {
  const std::byte* h = bytes.data();
  if (bytes.size() < record_alignment_bytes || std::memcmp(h, magic, sizeof(magic)) != 0) {
    return record_verdict::torn;
  }
  if (load<std::uint16_t>(h + at_version) != format_version) {
    return record_verdict::foreign_version;
  }
  const auto token_count = load<std::uint32_t>(h + at_token_count);
  const auto slice_count = load<std::uint32_t>(h + at_slice_count);
  const std::size_t header_bytes = record_header_bytes(token_count, slice_count);
  if (header_bytes == 0 || load<std::uint32_t>(h + at_header_bytes) != header_bytes) {
    return record_verdict::damaged;
  }
  if (header_bytes > bytes.size()) {
    return record_verdict::torn;
  }
  if (header_crc(bytes.first(header_bytes)) != load<std::uint32_t>(h + at_crc) &&
      !ORIEL_MUTANT(header_checksum_is_ignored)) {
    return record_verdict::damaged;
  }
  // The checksum matches; a writer with bugs, or a liar, is still bounded by what follows.
  const auto type = load<std::uint8_t>(h + at_type);
  const bool is_page = type == static_cast<std::uint8_t>(record_type::page);
  if (!is_type(type) || (!is_page && slice_count + token_count != 0) ||
      (is_page && slice_count == 0)) {
    return record_verdict::damaged;
  }
  record_view v;
  v.fields = load_fields(h);
  v.parent = load<page_digest>(h + at_parent);
  v.name_space = load<page_digest>(h + at_name_space);
  v.first_token = load<std::uint32_t>(h + at_first_token);
  v.token_count = token_count;
  v.slice_count = slice_count;
  v.header_bytes = static_cast<std::uint32_t>(header_bytes);
  v.record_bytes = load<std::uint64_t>(h + at_record_bytes);
  v.slices_ = h + fixed_bytes;
  v.tokens_ = v.slices_ + std::size_t{slice_count} * sizeof(record_slice);
  for (std::uint32_t i = 0; i < slice_count; ++i) {
    if (v.slice(i).bytes == 0) {
      return record_verdict::damaged;
    }
  }
  if (v.record_bytes != v.slice_offset(slice_count)) {
    return record_verdict::damaged;
  }
  view = v;
  return record_verdict::sound;
}

record_verdict read_record(std::span<const std::byte> record,
                           const page_key& key,
                           const page_identity& identity,
                           std::uint32_t first_slice,
                           std::span<const std::span<std::byte>> slices) noexcept {
  record_view view;
  const record_verdict verdict = decode_record(record, view);
  if (verdict != record_verdict::sound) {
    return verdict;
  }
  if (!view.has_key(key) || !view.has_identity(identity) || first_slice > view.slice_count ||
      slices.size() > view.slice_count - first_slice) {
    return record_verdict::misplaced;
  }
  if (view.record_bytes > record.size()) {
    return record_verdict::torn;
  }
  std::uint64_t offset = view.slice_offset(first_slice);
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const auto at = first_slice + static_cast<std::uint32_t>(i);
    const record_slice slice = view.slice(at);
    if (slice.bytes != slices[i].size()) {
      return record_verdict::misplaced;
    }
    std::memcpy(slices[i].data(), record.data() + offset, slice.bytes);
    if (!view.is_slice(at, slices[i])) {  // of the copy: the source may change under a reader
      return record_verdict::damaged;
    }
    offset += record_padded(slice.bytes);
  }
  return record_verdict::sound;
}

const char* name_of(record_verdict verdict) noexcept {
  switch (verdict) {
    case record_verdict::sound:
      return "sound";
    case record_verdict::torn:
      return "torn";
    case record_verdict::damaged:
      return "damaged";
    case record_verdict::misplaced:
      return "misplaced";
    case record_verdict::foreign_version:
      return "foreign_version";
  }
  return "unknown";
}

}  // namespace oriel
