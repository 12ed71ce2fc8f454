// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the killed program and the oracle that kills it both know: pages by number, the bytes of
/// each version of a page, and the messages of the program.
#pragma once

#include "tier/segment_world.hpp"

#include <oriel/tier/kv_store.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace crash {

inline constexpr std::uint32_t pages = 96, sessions = 12;
/// Room for one page in the memory that both see; page k lies at k times this.
inline constexpr std::size_t page_room_bytes = 65'536;

/// Page k: 8, 16, 32 or 64 KiB. The large ones have many layers, so that a batch is more than one
/// system call; the small ones have a layer that ends anywhere.
inline std::vector<std::size_t> slice_bytes_of(std::uint32_t page) {
  switch (page % 4) {
    case 0:
      return {8'000};
    case 1:
      return {4096, 4096, 4096, 4000};
    case 2:
      return std::vector<std::size_t>(8, 4096);
    default:
      return std::vector<std::size_t>(16, 4096);
  }
}

inline std::uint64_t bytes_of(std::uint32_t page) {
  std::uint64_t bytes = 0;
  for (const std::size_t slice : slice_bytes_of(page)) {
    bytes += slice;
  }
  return bytes;
}

inline oriel::page_owner owner_of(std::uint32_t page) {
  return {.tenant = 1, .session = 1 + page % sessions};
}

/// Fills the slices of a version of a page: it begins with its version, the rest follows from both.
inline void fill(std::span<const std::span<std::byte>> slices,
                 std::uint32_t page,
                 std::uint64_t version) {
  std::uint64_t at = 0;
  for (const std::span<std::byte> slice : slices) {
    for (std::size_t i = 0; i < slice.size(); i += 8, ++at) {
      const std::uint64_t word = at == 0 ? version : oriel_test::mixed(version * 128 + page, at);
      std::memcpy(slice.data() + i, &word, std::min<std::size_t>(8, slice.size() - i));
    }
  }
}

/// The names of page k, and slices of memory that somebody else owns.
class named_page {
 public:
  explicit named_page(std::uint32_t page) : page_(page), tokens_(4, oriel::token_id{page}) {
    identity_ = {.name_space = oriel_test::digest_of(~std::uint64_t{0}),
                 .parent = oriel_test::digest_of(500'000 + page),
                 .first_token = 4 * page,
                 .tokens = tokens_};
  }
  named_page(const named_page&) = delete;
  named_page& operator=(const named_page&) = delete;

  [[nodiscard]] oriel::store_item item(oriel::store_op op, std::uint64_t user) const {
    oriel::store_item i{.op = op, .key = {oriel_test::digest_of(page_), 0}, .user = user};
    i.identity = &identity_;
    i.slices = slices;
    i.owner = owner_of(page_);
    return i;
  }

  std::vector<std::span<std::byte>> slices;

 private:
  std::uint32_t page_;
  std::vector<oriel::token_id> tokens_;
  oriel::page_identity identity_;
};

/// Where page k arrives in the memory that both see.
inline std::vector<std::span<std::byte>> arrival(std::span<std::byte> memory, std::uint32_t page) {
  std::vector<std::span<std::byte>> slices;
  std::size_t at = page * page_room_bytes;
  for (const std::size_t bytes : slice_bytes_of(page)) {
    slices.push_back(memory.subspan(at, bytes));
    at += bytes;
  }
  return slices;
}

enum class told : std::uint8_t {
  closed,    ///< the folder could not be opened: `native` is errno
  opened,    ///< the store is there: `count` pages, `damaged` blocks were no records; `native` is
             ///< 1 if it passes by the page cache
  answered,  ///< a get of `page` ended with `outcome`; done: the bytes are in the memory of both
  asked,     ///< that was the last answer
  begun,     ///< `op` on `page` is about to be submitted
  sent,      ///< `sequence` to `last_sequence` are submitted; the disk works on `count` requests
  ended,     ///< the operation of `sequence` ended with `outcome`
};

/// One write of a pipe: whole, or not there.
struct message {
  told what = told::opened;
  oriel::store_op op = oriel::store_op::get;
  oriel::store_outcome outcome = oriel::store_outcome::done;
  std::uint32_t page = 0;
  std::int32_t native = 0;
  std::uint64_t sequence = 0;  ///< of begun and ended; the version of a put
  std::uint64_t last_sequence = 0;
  std::uint64_t count = 0;
  std::uint64_t damaged = 0;
};

/// Descriptors that the program is born with.
inline constexpr int pipe_fd = 3, memory_fd = 4;

/// A life, as arguments of the program.
struct life_plan {
  std::string folder = {};
  std::string disk = "io_uring";  ///< or "threads", "buffered": threads without O_DIRECT
  std::uint64_t seed = 0;
  std::uint64_t first_sequence = 1;
  std::uint64_t operations = ~std::uint64_t{0};  ///< then it ends in good order
  std::uint64_t segments = 64;                   ///< of capacity
  std::string mutant = {};                       ///< a planted bug
};

inline constexpr std::uint64_t segment_bytes = 1 << 20;

}  // namespace crash
