// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "fat_binary.hpp"

#include <ptx_machine/program/program.hpp>

#include <cstdint>
#include <cstring>

namespace oriel::ptx_machine {
namespace {

struct wrapper_layout {
  std::uint32_t magic, version;
  const std::byte* binary;
  const void* more;
};
constexpr std::uint32_t wrapper_magic = 0x466243B1, binary_magic = 0xBA55ED50;

struct binary_header {
  std::uint32_t magic;
  std::uint16_t version, header_bytes;
  std::uint64_t entries_bytes;
};

struct entry_header {
  std::uint16_t kind, version;
  std::uint32_t header_bytes;
  std::uint64_t payload_bytes;
  std::uint32_t compressed_bytes;  ///< 0: plain
  std::uint32_t options_offset;
  std::uint16_t minor, major;
  std::uint32_t architecture;
  std::uint32_t name_offset, name_bytes;
};
constexpr std::uint16_t ptx_kind = 1;

template <class F>
void each_entry(const void* wrapper, F&& f) {
  wrapper_layout w;
  std::memcpy(&w, wrapper, sizeof w);
  binary_header h;
  if (w.magic != wrapper_magic || (std::memcpy(&h, w.binary, sizeof h), h.magic != binary_magic)) {
    throw machine_error("a unit registered what is no fat binary");
  }
  const std::byte* at = w.binary + h.header_bytes;
  const std::byte* const end = at + h.entries_bytes;
  while (at < end) {
    entry_header e;
    std::memcpy(&e, at, sizeof e);
    f(e, reinterpret_cast<const char*>(at));
    at += e.header_bytes + e.payload_bytes;
  }
}

}  // namespace

std::string unit_name_of(const void* wrapper) {
  std::string name = "a unit without a name";
  each_entry(wrapper, [&](const entry_header& e, const char* at) {
    if (e.name_bytes != 0) {
      name = std::string(at + e.name_offset, e.name_bytes);
    }
  });
  return name;
}

std::string ptx_of(const void* wrapper) {
  std::string text;
  const char* why = "has no PTX: compile for compute_90a, too";
  each_entry(wrapper, [&](const entry_header& e, const char* at) {
    if (e.kind == ptx_kind && e.compressed_bytes != 0) {
      why = "has its PTX compressed: compile with --no-compress";
    } else if (e.kind == ptx_kind) {
      const char* const first = at + e.header_bytes;
      text.assign(first, strnlen(first, e.payload_bytes));
    }
  });
  if (text.empty()) {
    throw machine_error("the fat binary of " + unit_name_of(wrapper) + " " + why);
  }
  return text;
}

}  // namespace oriel::ptx_machine
