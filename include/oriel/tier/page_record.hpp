// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The record: how a page lies on a disk or travels to another machine. It says of itself what it
/// is, of whom, where it belongs and what its bytes sum to, so that a reader has to believe
/// nothing.
///
///     byte
///       0  magic "OrielPg1"                 8      64  link           32
///       8  format version u16, type u8, 0   4      96  parent         32
///      12  CRC32C of the rest of the header 4     128  name space     32
///      16  header_bytes   u32                     160  tenant         u64
///      20  pool           u32                     168  session        u64
///      24  record_bytes   u64                     176  expires_us     u64
///      32  generation     u64                     184  stamp          u64
///      40  offset         u64                     192  slice_count x { bytes u32, CRC32C u32 }
///      48  segment        u32                          token_count x u32
///      52  first_token    u32                          zeros up to header_bytes, k * 4096
///      56  token_count    u32          header_bytes    slice 0, zeros up to 4096
///      60  slice_count    u32                          slice 1, ...
///
/// Little-endian. Every slice starts at a multiple of 4 KiB, so that one layer can be read alone.
/// A tombstone (erase, drop_*) is a header without tokens and slices. A remote value is a record
/// without a place.
#pragma once

#include <oriel/tier/kv_store.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace oriel {

inline constexpr std::size_t record_alignment_bytes = 4096;
inline constexpr std::size_t record_header_bytes_max = 32'768;
inline constexpr std::uint32_t record_tokens_max = 4096;
inline constexpr std::uint32_t record_slices_max = 480;

enum class record_type : std::uint8_t {
  page = 1,
  erase,          ///< kills older records of its key
  drop_space,     ///< kills older records of its name space
  drop_tenant,    ///< kills older records of its owner.tenant
  drop_session,   ///< kills older records of its owner
  segment_start,  ///< the first of its segment: `stamp` and `generation` tell its life apart
};

/// Where a record belongs on a disk. A record that was found elsewhere is none.
struct record_place {
  std::uint32_t segment = 0xFFFF'FFFFu;
  std::uint64_t offset = 0;  ///< bytes

  friend bool operator==(record_place, record_place) noexcept = default;
};

/// Of a record that is not on a disk.
inline constexpr record_place no_place = {};

/// A slice as the header's table has it.
struct record_slice {
  std::uint32_t bytes = 0;
  std::uint32_t crc = 0;
};

/// What to write, besides the identity and the slices.
struct record_fields {
  record_type type = record_type::page;
  page_key key;
  page_owner owner = {};
  std::uint64_t expires_us = 0;  ///< by the wall clock; 0: never
  std::uint64_t generation = 0;
  record_place place = no_place;
  std::uint64_t stamp = 0;  ///< when it was written, by the wall clock; 0: nobody needs to know

  /// Is the page over? Also if it was written later than now: the wall clock went back since, and
  /// nobody knows how far. So none lives longer than it was meant to when it was written.
  [[nodiscard]] bool is_over(std::uint64_t wall_us) const noexcept {
    return expires_us != 0 && (expires_us <= wall_us || stamp > wall_us);
  }
};

enum class record_verdict : std::uint8_t {
  sound,
  torn,             ///< no record here, or only the beginning of one
  damaged,          ///< a checksum or a length says no
  misplaced,        ///< a sound record, but of another key, place or generation
  foreign_version,  ///< a record of another format
};

/// A header that decode_record found sound. Views the encoded bytes, which must outlive it.
class record_view {
 public:
  record_fields fields;
  page_digest name_space, parent;
  std::uint32_t first_token = 0;
  std::uint32_t token_count = 0;
  std::uint32_t slice_count = 0;
  std::uint32_t header_bytes = 0;
  std::uint64_t record_bytes = 0;  ///< header, slices and padding

  /// @pre i < slice_count
  [[nodiscard]] record_slice slice(std::uint32_t i) const noexcept;
  /// Of slice i's first byte from the record's; record_bytes for i == slice_count. O(i).
  /// @pre i <= slice_count
  [[nodiscard]] std::uint64_t slice_offset(std::uint32_t i) const noexcept;
  /// @pre i < token_count
  [[nodiscard]] token_id token(std::uint32_t i) const noexcept;

  /// Is it the record of this key?
  [[nodiscard]] bool has_key(const page_key& key) const noexcept;
  /// Is it what was written at this place, at this time?
  [[nodiscard]] bool is_at(record_place place, std::uint64_t generation) const noexcept;
  /// Same name space, parent, position and tokens? O(tokens).
  [[nodiscard]] bool has_identity(const page_identity& identity) const noexcept;
  /// Do these bytes have slice i's length and checksum? O(bytes). @pre i < slice_count
  [[nodiscard]] bool is_slice(std::uint32_t i, std::span<const std::byte> bytes) const noexcept;

 private:
  friend record_verdict decode_record(std::span<const std::byte>, record_view&) noexcept;
  const std::byte* slices_ = nullptr;
  const std::byte* tokens_ = nullptr;
};

/// Up to the next multiple of 4 KiB.
[[nodiscard]] constexpr std::uint64_t record_padded(std::uint64_t bytes) noexcept {
  return (bytes + record_alignment_bytes - 1) / record_alignment_bytes * record_alignment_bytes;
}

/// Of a header, a multiple of 4 KiB; 0: more tokens or slices than a record may have.
[[nodiscard]] std::size_t record_header_bytes(std::size_t token_count,
                                              std::size_t slice_count) noexcept;

/// Of a whole record; 0: none can hold this (an empty slice, one of 4 GiB, too many tokens).
[[nodiscard]] std::uint64_t record_bytes(std::size_t token_count,
                                         std::span<const std::span<std::byte>> slices) noexcept;

/// Length and checksum of a slice. O(bytes). @pre bytes.size() < 2^32
[[nodiscard]] record_slice summed_slice(std::span<const std::byte> bytes) noexcept;

/// Writes a header, padding included.
/// @param header  [record_header_bytes(identity.tokens.size(), slices.size())]
/// @pre that is not 0
void encode_record_header(const record_fields& fields,
                          const page_identity& identity,
                          std::span<const record_slice> slices,
                          std::span<std::byte> header) noexcept;

/// Writes a whole record: one value of a remote store.
/// @param record  [record_bytes(identity.tokens.size(), slices)] @pre that is not 0
void encode_record(const record_fields& fields,
                   const page_identity& identity,
                   std::span<const std::span<std::byte>> slices,
                   std::span<std::byte> record) noexcept;

/// Gives a sound encoded header another place and generation, and the checksum that goes with it.
void move_record(std::span<std::byte> header,
                 record_place place,
                 std::uint64_t generation) noexcept;

/// Reads a header. `bytes` may be anything: no length in it is believed before it was checked
/// against the limits above and against what is there. Slices are not looked at: `bytes` may end
/// with the header. O(header).
/// @returns sound, torn, damaged or foreign_version; `view` means something if sound
[[nodiscard]] record_verdict decode_record(std::span<const std::byte> bytes,
                                           record_view& view) noexcept;

/// Copies the slices of a whole record out of it, checked: the reading side of encode_record. The
/// slices may be any consecutive ones, from `first_slice`.
/// @returns sound; torn: `record` is shorter than it says; damaged: a checksum; misplaced: another
///          key or identity, or slices of other lengths
[[nodiscard]] record_verdict read_record(std::span<const std::byte> record,
                                         const page_key& key,
                                         const page_identity& identity,
                                         std::uint32_t first_slice,
                                         std::span<const std::span<std::byte>> slices) noexcept;

/// "sound", "torn", ...
[[nodiscard]] const char* name_of(record_verdict verdict) noexcept;

}  // namespace oriel
