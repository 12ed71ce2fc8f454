// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "redis_record.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/crc32c.hpp>

#include <bit>
#include <cstring>

namespace oriel::detail {
namespace {

static_assert(std::endian::native == std::endian::little, "records are copied as they lie");

template <class Number>
void put_at(std::span<std::byte> out, std::size_t at, const Number& value) {
  std::memcpy(out.data() + at, &value, sizeof(value));
}

template <class Number>
void get_at(std::span<const std::byte> in, std::size_t at, Number& value) {
  std::memcpy(&value, in.data() + at, sizeof(value));
}

constexpr std::array<char, 4> magic = {'O', 'R', 'R', 'V'};

// One list of fields for reading and writing, so that they cannot drift apart.
template <class Bytes, class Fixed, class Each>
void each_field(Bytes bytes, Fixed& f, Each each) {
  each(bytes, 4, f.version), each(bytes, 8, f.head_bytes), each(bytes, 12, f.slices);
  each(bytes, 16, f.pool), each(bytes, 20, f.first_token), each(bytes, 24, f.tokens);
  each(bytes, 28, f.tail_crc), each(bytes, 32, f.name_space), each(bytes, 64, f.link);
  each(bytes, 96, f.parent), each(bytes, 128, f.owner.tenant), each(bytes, 136, f.owner.session);
  each(bytes, 144, f.epochs), each(bytes, 168, f.payload_bytes);
  each(bytes, 176, f.expires_wall_us);
}

}  // namespace

std::size_t redis_head_bytes(std::size_t slices, std::size_t tokens) noexcept {
  return redis_fixed_bytes + slices * redis_table_row_bytes + tokens * sizeof(token_id);
}

void encode_redis_head(std::string& out,
                       const store_item& item,
                       const std::array<std::uint64_t, 3>& epochs,
                       std::uint64_t expires_wall_us) {
  const page_identity& identity = *item.identity;
  const std::size_t begin = out.size();
  out.resize(begin + redis_head_bytes(item.slices.size(), identity.tokens.size()));
  const auto head = std::as_writable_bytes(std::span(out).subspan(begin));
  redis_record_fixed f{.head_bytes = static_cast<std::uint32_t>(head.size()),
                       .slices = static_cast<std::uint32_t>(item.slices.size()),
                       .pool = item.key.pool,
                       .first_token = identity.first_token,
                       .tokens = static_cast<std::uint32_t>(identity.tokens.size()),
                       .name_space = identity.name_space,
                       .link = item.key.link,
                       .parent = identity.parent,
                       .owner = item.owner,
                       .epochs = epochs,
                       .expires_wall_us = expires_wall_us};
  std::size_t at = redis_fixed_bytes;
  for (const auto& slice : item.slices) {
    put_at(head, at, static_cast<std::uint64_t>(slice.size()));
    put_at(head, at + 8, crc32c(slice));
    put_at(head, at + 12, std::uint32_t{0});
    at += redis_table_row_bytes;
    f.payload_bytes += slice.size();
  }
  if (!identity.tokens.empty()) {
    std::memcpy(head.data() + at, identity.tokens.data(), identity.tokens.size_bytes());
  }
  f.tail_crc = crc32c(head.subspan(redis_fixed_bytes));
  std::memset(head.data(), 0, redis_fixed_bytes);
  put_at(head, 0, magic);
  each_field(
      head, f, [](auto bytes, std::size_t field, const auto& v) { put_at(bytes, field, v); });
  put_at(head, redis_fixed_bytes - 4, crc32c(head.first(redis_fixed_bytes - 4)));
}

std::optional<redis_record_fixed> decode_redis_fixed(
    std::span<const std::byte, redis_fixed_bytes> bytes) {
  std::array<char, 4> found = {};
  std::uint32_t crc = 0;
  redis_record_fixed f;
  get_at(bytes, 0, found);
  get_at(bytes, redis_fixed_bytes - 4, crc);
  if (found != magic || crc != crc32c(bytes.first(redis_fixed_bytes - 4))) {
    return std::nullopt;
  }
  const std::span<const std::byte> all = bytes;
  each_field(all, f, [](auto from, std::size_t field, auto& v) { get_at(from, field, v); });
  if (f.version == redis_record_version && f.head_bytes != redis_head_bytes(f.slices, f.tokens)) {
    return std::nullopt;
  }
  return f;
}

redis_table_row decode_redis_row(std::span<const std::byte> head, std::size_t index) {
  redis_table_row row;
  const std::size_t at = redis_fixed_bytes + index * redis_table_row_bytes;
  ORIEL_EXPECTS(at + redis_table_row_bytes <= head.size());
  get_at(head, at, row.bytes);
  get_at(head, at + 8, row.crc);
  return row;
}

redis_verdict judge_redis_fixed(const redis_record_fixed& fixed, const page_key& key) {
  if (fixed.version != redis_record_version) {
    return redis_verdict::other_kind;
  }
  if ((fixed.link != key.link || fixed.pool != key.pool) &&
      !ORIEL_MUTANT(redis_identity_is_not_compared)) {
    return redis_verdict::other_page;
  }
  return redis_verdict::page;
}

redis_verdict judge_redis_head(const redis_record_fixed& fixed,
                               std::span<const std::byte> head,
                               std::uint64_t value_bytes,
                               const store_item& item) {
  if (const redis_verdict v = judge_redis_fixed(fixed, item.key); v != redis_verdict::page) {
    return v;
  }
  if (head.size() != fixed.head_bytes ||
      fixed.tail_crc != crc32c(head.subspan(redis_fixed_bytes)) ||
      (fixed.payload_bytes > value_bytes || value_bytes - fixed.payload_bytes != head.size())) {
    return redis_verdict::damaged;
  }
  const page_identity& identity = *item.identity;
  const auto tokens = std::as_bytes(identity.tokens);
  const bool is_same =
      fixed.name_space == identity.name_space && fixed.parent == identity.parent &&
      fixed.first_token == identity.first_token && fixed.tokens == identity.tokens.size() &&
      (tokens.empty() ||
       std::memcmp(head.data() + head.size() - tokens.size(), tokens.data(), tokens.size()) == 0);
  const std::size_t end = std::size_t{item.first_slice} + item.slices.size();
  if ((!is_same && !ORIEL_MUTANT(redis_identity_is_not_compared)) || end > fixed.slices) {
    return redis_verdict::other_kind;
  }
  std::uint64_t payload_bytes = 0;
  for (std::size_t i = 0; i < fixed.slices; ++i) {
    const redis_table_row row = decode_redis_row(head, i);
    if (i >= item.first_slice && i < end && row.bytes != item.slices[i - item.first_slice].size()) {
      return redis_verdict::other_kind;
    }
    if (row.bytes > fixed.payload_bytes - payload_bytes) {
      return redis_verdict::damaged;
    }
    payload_bytes += row.bytes;
  }
  return payload_bytes == fixed.payload_bytes ? redis_verdict::page : redis_verdict::damaged;
}

}  // namespace oriel::detail
