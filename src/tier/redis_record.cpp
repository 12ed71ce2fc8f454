// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "redis_record.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace oriel::detail {
namespace {

static_assert(std::endian::native == std::endian::little, "records are copied as they lie");

constexpr std::uint32_t crc_polynomial = 0x82F6'3B78u;  // reflected
constexpr std::size_t stream_bytes = 1024;              // of each of the three streams

struct crc_tables {
  std::array<std::uint32_t, 256> byte = {};
  /// [i][b]: what byte b at place i of a CRC becomes after stream_bytes zeros.
  std::array<std::array<std::uint32_t, 256>, 4> zeros = {};

  crc_tables() {
    for (std::uint32_t b = 0; b < 256; ++b) {
      std::uint32_t crc = b;
      for (int bit = 0; bit < 8; ++bit) {
        crc = (crc >> 1) ^ ((crc & 1) != 0 ? crc_polynomial : 0);
      }
      byte[b] = crc;
    }
    for (std::uint32_t place = 0; place < 4; ++place) {
      for (std::uint32_t bit = 1; bit < 256; bit *= 2) {
        std::uint32_t crc = bit << (8 * place);
        for (std::size_t i = 0; i < stream_bytes; ++i) {
          crc = (crc >> 8) ^ byte[crc & 0xFF];
        }
        zeros[place][bit] = crc;
      }
      for (std::uint32_t b = 1; b < 256; ++b) {
        if (const std::uint32_t low = b & (~b + 1); low != b) {
          zeros[place][b] = zeros[place][low] ^ zeros[place][b ^ low];
        }
      }
    }
  }
  [[nodiscard]] std::uint32_t after_zeros(std::uint32_t crc) const {
    return zeros[0][crc & 0xFF] ^ zeros[1][(crc >> 8) & 0xFF] ^ zeros[2][(crc >> 16) & 0xFF] ^
           zeros[3][crc >> 24];
  }
};

const crc_tables& tables() {
  static const crc_tables all;
  return all;
}

std::uint32_t crc_by_table(std::uint32_t crc, const std::byte* at, std::size_t bytes) {
  const crc_tables& t = tables();
  for (std::size_t i = 0; i < bytes; ++i) {
    crc = (crc >> 8) ^ t.byte[(crc ^ static_cast<std::uint32_t>(at[i])) & 0xFF];
  }
  return crc;
}

#if defined(__x86_64__)
std::uint64_t word_at(const std::byte* at) {
  std::uint64_t word = 0;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

// The instruction takes three cycles and starts once in each: three independent streams fill it.
__attribute__((target("sse4.2"))) std::uint32_t crc_by_instruction(std::uint32_t crc,
                                                                   const std::byte* at,
                                                                   std::size_t bytes) {
  const crc_tables& t = tables();
  for (; bytes >= 3 * stream_bytes; at += 3 * stream_bytes, bytes -= 3 * stream_bytes) {
    std::uint64_t a = crc, b = 0, c = 0;
    for (std::size_t i = 0; i < stream_bytes; i += 8) {
      a = _mm_crc32_u64(a, word_at(at + i));
      b = _mm_crc32_u64(b, word_at(at + stream_bytes + i));
      c = _mm_crc32_u64(c, word_at(at + 2 * stream_bytes + i));
    }
    crc = t.after_zeros(static_cast<std::uint32_t>(a)) ^ static_cast<std::uint32_t>(b);
    crc = t.after_zeros(crc) ^ static_cast<std::uint32_t>(c);
  }
  std::uint64_t rest = crc;
  for (; bytes >= 8; at += 8, bytes -= 8) {
    rest = _mm_crc32_u64(rest, word_at(at));
  }
  crc = static_cast<std::uint32_t>(rest);
  for (; bytes > 0; ++at, --bytes) {
    crc = _mm_crc32_u8(crc, static_cast<unsigned char>(*at));
  }
  return crc;
}
#endif

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

std::uint32_t redis_crc32c(std::uint32_t crc, std::span<const std::byte> bytes) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  if (has_instruction) {
    return ~crc_by_instruction(~crc, bytes.data(), bytes.size());
  }
#endif
  return ~crc_by_table(~crc, bytes.data(), bytes.size());
}

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
    put_at(head, at + 8, redis_crc32c(0, slice));
    put_at(head, at + 12, std::uint32_t{0});
    at += redis_table_row_bytes;
    f.payload_bytes += slice.size();
  }
  if (!identity.tokens.empty()) {
    std::memcpy(head.data() + at, identity.tokens.data(), identity.tokens.size_bytes());
  }
  f.tail_crc = redis_crc32c(0, head.subspan(redis_fixed_bytes));
  std::memset(head.data(), 0, redis_fixed_bytes);
  put_at(head, 0, magic);
  each_field(
      head, f, [](auto bytes, std::size_t field, const auto& v) { put_at(bytes, field, v); });
  put_at(head, redis_fixed_bytes - 4, redis_crc32c(0, head.first(redis_fixed_bytes - 4)));
}

std::optional<redis_record_fixed> decode_redis_fixed(
    std::span<const std::byte, redis_fixed_bytes> bytes) {
  std::array<char, 4> found = {};
  std::uint32_t crc = 0;
  redis_record_fixed f;
  get_at(bytes, 0, found);
  get_at(bytes, redis_fixed_bytes - 4, crc);
  if (found != magic || crc != redis_crc32c(0, bytes.first(redis_fixed_bytes - 4))) {
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
      fixed.tail_crc != redis_crc32c(0, head.subspan(redis_fixed_bytes)) ||
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
