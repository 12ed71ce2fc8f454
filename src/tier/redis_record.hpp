// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The value of a page in Redis: a head that says what it is, then the slices as they are. Not the
/// record of page_record.hpp: that one is padded to 4 KiB for O_DIRECT, and a record in Redis has
/// to carry the epochs under which it was put.
///
///     fixed    208 bytes, little-endian, closed by a CRC-32C
///     table    per slice: bytes (8), CRC-32C (4), 0 (4)
///     tokens   4 bytes each
///     slices   one after the other
///
///     fixed:   0 "ORRV"       4 version        8 head bytes     12 slices
///             16 pool        20 first token   24 tokens        28 CRC-32C of table and tokens
///             32 name space  64 link          96 parent
///            128 tenant     136 session
///            144 epochs of the name space, the tenant and the session, as of the put
///            168 payload bytes               176 expiry, wall clock microseconds; 0: none
///            184 zeros      204 CRC-32C of bytes 0 to 203
#pragma once

#include <oriel/tier/kv_store.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace oriel::detail {

inline constexpr std::uint32_t redis_record_version = 1;
inline constexpr std::size_t redis_fixed_bytes = 208;
inline constexpr std::size_t redis_table_row_bytes = 16;
/// A head is read as a whole before its slices: room for 1,500 layers or 6,000 tokens.
inline constexpr std::size_t redis_head_bytes_max = 24 << 10;

struct redis_record_fixed {
  std::uint32_t version = redis_record_version;
  std::uint32_t head_bytes = 0, slices = 0, pool = 0, first_token = 0, tokens = 0, tail_crc = 0;
  page_digest name_space, link, parent;
  page_owner owner;
  std::array<std::uint64_t, 3> epochs = {};
  std::uint64_t payload_bytes = 0, expires_wall_us = 0;
};

struct redis_table_row {
  std::uint64_t bytes = 0;
  std::uint32_t crc = 0;
};

/// Writes the head for a put; computes the CRCs of the slices. O(bytes of the slices).
void encode_redis_head(std::string& out,
                       const store_item& item,
                       const std::array<std::uint64_t, 3>& epochs,
                       std::uint64_t expires_wall_us);
/// The bytes that encode_redis_head writes.
[[nodiscard]] std::size_t redis_head_bytes(std::size_t slices, std::size_t tokens) noexcept;

/// Nothing if the magic, the CRC or the lengths are wrong. Another version is the caller's to see.
[[nodiscard]] std::optional<redis_record_fixed> decode_redis_fixed(
    std::span<const std::byte, redis_fixed_bytes> bytes);

[[nodiscard]] redis_table_row decode_redis_row(std::span<const std::byte> head, std::size_t index);

/// Why a record is not the page that was asked for.
enum class redis_verdict : std::uint8_t {
  page,        ///< it is, as far as was looked at
  none,        ///< there is no value
  damaged,     ///< no record, or one that was changed
  other_page,  ///< a sound record of another key
  other_kind,  ///< of this key, but with another version, identity or layout
};

/// Compares a fixed part with the key alone.
[[nodiscard]] redis_verdict judge_redis_fixed(const redis_record_fixed& fixed, const page_key& key);

/// Compares a whole head with key, identity and the sizes of the slices asked for.
/// @param head         fixed, table and tokens: fixed.head_bytes
/// @param value_bytes  of head and slices, as the server says
[[nodiscard]] redis_verdict judge_redis_head(const redis_record_fixed& fixed,
                                             std::span<const std::byte> head,
                                             std::uint64_t value_bytes,
                                             const store_item& item);

}  // namespace oriel::detail
