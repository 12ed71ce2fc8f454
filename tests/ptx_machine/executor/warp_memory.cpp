// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// ld, st and atom. Lanes' stores go in the order of the lanes; the ISA leaves it open which of them wins.
#include "lanes.hpp"
#include "warp_memory.hpp"

#include <ptx_machine/block/async.hpp>
#include <ptx_machine/block/memory_map.hpp>

#include <algorithm>

namespace oriel::ptx_machine {

void compute_addresses(const warp& w, const slot& memory, std::uint64_t (&to)[warp_lanes]) {
  if (memory.bytes == 8) {
    const auto* base = w.at<std::uint64_t>(memory);
    for (std::uint32_t i = 0; i < warp_lanes; ++i) {
      to[i] = base[i] + memory.displacement;
    }
  } else {
    const auto* base = w.at<std::uint32_t>(memory);
    for (std::uint32_t i = 0; i < warp_lanes; ++i) {
      to[i] = static_cast<std::uint32_t>(base[i] + memory.displacement);
    }
  }
}

namespace {

void check_aligned(const warp& w,
                   const decoded& d,
                   std::uint32_t lane,
                   std::uint64_t address,
                   std::uint32_t bytes) {
  if ((address & (bytes - 1)) != 0) {
    fail(w,
         d,
         lane,
         "the address " + hex(address) + " is not a multiple of " + std::to_string(bytes));
  }
}

/// Remembers the piece where the address is, in the place of the one that was remembered longest.
void find_piece(
    warp& w, const decoded& d, std::uint32_t lane, std::uint64_t address, std::uint32_t bytes) {
  check_aligned(w, d, lane, address, bytes);
  const auto piece = memory_map::of_process().piece_of(address);
  if (piece.bytes < bytes || address - piece.address > piece.bytes - bytes) {
    std::string text = std::to_string(bytes) + " bytes at " + hex(address) +
                       " are no global memory that was allocated";
    if (piece.bytes != 0) {
      text += " (the piece at " + hex(piece.address) + " has " + std::to_string(piece.bytes) +
              " bytes)";
    }
    fail(w, d, lane, text);
  }
  w.pieces[w.oldest_piece++ % w.pieces.size()] = {piece.address, piece.bytes};
}

std::byte* in_global(
    warp& w, const decoded& d, std::uint32_t lane, std::uint64_t address, std::uint32_t bytes) {
  check_aligned(w, d, lane, address, bytes);
  for (const warp::global_piece& p : w.pieces) {
    if (address - p.address < p.bytes && bytes <= p.bytes - (address - p.address)) {
      return reinterpret_cast<std::byte*>(address);
    }
  }
  find_piece(w, d, lane, address, bytes);
  return reinterpret_cast<std::byte*>(address);
}

std::uint32_t in_shared(const warp& w,
                        const decoded& d,
                        std::uint32_t lane,
                        std::uint64_t address,
                        std::uint32_t bytes) {
  if (address >> cluster_window_shift != 0) {
    fail(w,
         d,
         lane,
         "the address " + hex(address) + " is in the shared memory of the cluster's block " +
             std::to_string(in_cluster(w, d, lane, address).rank) +
             ", which only st.async reaches");
  }
  check_aligned(w, d, lane, address, bytes);
  const std::size_t size = w.home->shared.size();
  if (size < bytes || address > size - bytes) {
    fail(w,
         d,
         lane,
         std::to_string(bytes) + " bytes at " + hex(address) + " of shared memory, which has " +
             hex(size));
  }
  return static_cast<std::uint32_t>(address);
}

std::byte* in_local(const warp& w,
                    const decoded& d,
                    std::uint32_t lane,
                    std::uint64_t address,
                    std::uint32_t bytes) {
  check_aligned(w, d, lane, address, bytes);
  const std::size_t size = w.local.size() / warp_lanes;
  if (size < bytes || address > size - bytes) {
    fail(w,
         d,
         lane,
         std::to_string(bytes) + " bytes at " + hex(address) + " of local memory, which has " +
             hex(size));
  }
  return const_cast<std::byte*>(w.local.data()) + lane * size + address;
}

std::byte* in_parameters(const warp& w,
                         const decoded& d,
                         std::uint32_t lane,
                         std::uint64_t address,
                         std::uint32_t bytes,
                         access kind) {
  const std::uint64_t offset = address & ~generic_window_mask;
  check_aligned(w, d, lane, offset, bytes);
  const auto parameters = w.owner->parameters;
  if ((address & generic_window_mask) != generic_parameter || parameters.size() < bytes ||
      offset > parameters.size() - bytes || kind != access::read) {
    fail(w,
         d,
         lane,
         std::to_string(bytes) + " bytes at " + hex(address) + " of the parameters, which have " +
             hex(parameters.size()));
  }
  return const_cast<std::byte*>(parameters.data()) + offset;
}

/// All lanes at once where they are in one piece, as mostly they are.
void locate_global(warp& w,
                   const decoded& d,
                   std::uint32_t lanes,
                   const std::uint64_t (&addresses)[warp_lanes],
                   std::uint32_t bytes,
                   std::byte* (&to)[warp_lanes]) {
  const std::uint64_t first = addresses[std::countr_zero(lanes)];
  for (const warp::global_piece& p : w.pieces) {
    if (first - p.address >= p.bytes) {
      continue;
    }
    // Past the last start the difference is larger, and before the piece it wraps to something
    // large.
    const std::uint64_t last = p.bytes - std::min<std::uint64_t>(bytes, p.bytes);
    std::uint64_t wrong = bytes > p.bytes ? 1 : 0;
    for (std::uint32_t i = 0; i < warp_lanes; ++i) {
      const std::uint64_t is_wrong = static_cast<std::uint64_t>(addresses[i] - p.address > last) |
                                     (addresses[i] & (bytes - 1));
      wrong |= (lanes >> i & 1) != 0 ? is_wrong : 0;
    }
    if (wrong == 0) {
      std::memcpy(to, addresses, sizeof addresses);
      return;
    }
    break;
  }
  for_lanes(lanes, [&](std::uint32_t i) { to[i] = in_global(w, d, i, addresses[i], bytes); });
}

/// Mostly one address for all.
void locate_parameters(const warp& w,
                       const decoded& d,
                       std::uint32_t lanes,
                       const std::uint64_t (&addresses)[warp_lanes],
                       std::uint32_t bytes,
                       access kind,
                       std::byte* (&to)[warp_lanes]) {
  const auto first = static_cast<std::uint32_t>(std::countr_zero(lanes));
  std::byte* const there = in_parameters(w, d, first, addresses[first], bytes, kind);
  for_lanes(lanes, [&](std::uint32_t i) {
    to[i] = addresses[i] == addresses[first] ? there
                                             : in_parameters(w, d, i, addresses[i], bytes, kind);
  });
}

void locate_shared(warp& w,
                   const decoded& d,
                   std::uint32_t lanes,
                   const std::uint64_t (&addresses)[warp_lanes],
                   std::uint32_t bytes,
                   access kind,
                   std::byte* (&to)[warp_lanes]) {
  std::uint32_t offsets[warp_lanes];
  std::byte* const shared = w.home->shared.data();
  const std::size_t size = w.home->shared.size();
  const std::uint64_t last = size - std::min<std::size_t>(bytes, size);
  std::uint64_t wrong = bytes > size ? 1 : 0;
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    const std::uint64_t is_wrong =
        static_cast<std::uint64_t>(addresses[i] > last) | (addresses[i] & (bytes - 1));
    const bool is_active = (lanes >> i & 1) != 0;
    wrong |= is_active ? is_wrong : 0;
    offsets[i] = is_active ? static_cast<std::uint32_t>(addresses[i]) : 0;
    to[i] = shared + offsets[i];
  }
  if (wrong != 0) {
    for_lanes(lanes, [&](std::uint32_t i) { (void)in_shared(w, d, i, addresses[i], bytes); });
  }
  w.home->async->watch().lanes({w.index, pc_of(w, d)}, kind, lanes, offsets, bytes);
}

/// A generic address has its space in its top byte.
void locate_generic(warp& w,
                    const decoded& d,
                    std::uint32_t lanes,
                    std::uint64_t (&addresses)[warp_lanes],
                    std::uint32_t bytes,
                    access kind,
                    std::byte* (&to)[warp_lanes]) {
  std::uint32_t shared = 0;
  for_lanes(lanes, [&](std::uint32_t i) {
    switch (const std::uint64_t plain = addresses[i] & ~generic_window_mask;
            addresses[i] & generic_window_mask) {
      case generic_shared:
        shared |= 1U << i;
        addresses[i] = plain;
        break;
      case generic_local:
        to[i] = in_local(w, d, i, plain, bytes);
        break;
      case generic_parameter:
        to[i] = in_parameters(w, d, i, addresses[i], bytes, kind);
        break;
      default:
        to[i] = in_global(w, d, i, addresses[i], bytes);
    }
  });
  if (shared != 0) {
    locate_shared(w, d, shared, addresses, bytes, kind, to);
  }
}

}  // namespace

cluster_place in_cluster(const warp& w,
                         const decoded& d,
                         std::uint32_t lane,
                         std::uint64_t address) {
  const std::uint64_t window = address >> cluster_window_shift;
  const std::uint64_t rank = window == 0 ? w.home->rank_in_cluster : window - 1;
  const std::size_t blocks = w.home->group->blocks.size();
  if (rank >= blocks) {
    fail(w,
         d,
         lane,
         "the address " + hex(address) + " is in no shared memory of a cluster of " +
             std::to_string(blocks) + " blocks");
  }
  return {static_cast<std::uint32_t>(rank),
          static_cast<std::uint32_t>(address & ((1U << cluster_window_shift) - 1))};
}

void shared_offsets(const warp& w,
                    const decoded& d,
                    std::uint32_t lanes,
                    const slot& memory,
                    std::uint32_t bytes,
                    std::uint32_t (&to)[warp_lanes]) {
  std::uint64_t addresses[warp_lanes];
  compute_addresses(w, memory, addresses);
  for_lanes(lanes, [&](std::uint32_t i) { to[i] = in_shared(w, d, i, addresses[i], bytes); });
}

void locate(warp& w,
            const decoded& d,
            std::uint32_t lanes,
            space where,
            const slot& memory,
            std::uint32_t bytes,
            access kind,
            std::byte* (&to)[warp_lanes]) {
  std::uint64_t addresses[warp_lanes];
  compute_addresses(w, memory, addresses);
  switch (where) {
    case space::global:
      locate_global(w, d, lanes, addresses, bytes, to);
      break;
    case space::shared:
      locate_shared(w, d, lanes, addresses, bytes, kind, to);
      break;
    case space::local:
      for_lanes(lanes, [&](std::uint32_t i) { to[i] = in_local(w, d, i, addresses[i], bytes); });
      break;
    case space::parameter:
      locate_parameters(w, d, lanes, addresses, bytes, kind, to);
      break;
    case space::generic:
      locate_generic(w, d, lanes, addresses, bytes, kind, to);
      break;
  }
}

namespace {

template <typename T>
void load_element(const warp& w,
                  const slot& to,
                  std::uint32_t lanes,
                  std::byte* const (&from)[warp_lanes],
                  std::size_t offset) {
  if (to.bytes == sizeof(T)) {
    T* const out = w.at<T>(to);
    if (lanes == all_lanes) {
      for (std::uint32_t i = 0; i < warp_lanes; ++i) {
        std::memcpy(&out[i], from[i] + offset, sizeof(T));
      }
    } else {
      for_lanes(lanes, [&](std::uint32_t i) { std::memcpy(&out[i], from[i] + offset, sizeof(T)); });
    }
    return;
  }
  for_lanes(lanes, [&](std::uint32_t i) {
    T value;
    std::memcpy(&value, from[i] + offset, sizeof(T));
    w.set_bits(to, i, static_cast<std::uint64_t>(value));
  });
}

/// ld d, [a] or ld {d0, d1, ..}, [a]; signed types extend into wider registers with their sign.
template <typename T>
outcome load(warp& w, const decoded& d, std::uint32_t lanes) {
  const std::uint32_t elements = d.slot_count - 1;
  std::byte* from[warp_lanes];
  locate(w,
         d,
         lanes,
         static_cast<space>(d.detail),
         d.slots[elements],
         static_cast<std::uint32_t>(elements * sizeof(T)),
         access::read,
         from);
  for (std::uint32_t e = 0; e < elements; ++e) {
    if (!d.slots[e].none) {
      load_element<T>(w, d.slots[e], lanes, from, e * sizeof(T));
    }
  }
  return outcome::advance;
}

template <typename T>
outcome store(warp& w, const decoded& d, std::uint32_t lanes) {
  const std::uint32_t elements = d.slot_count - 1;
  std::byte* to[warp_lanes];
  locate(w,
         d,
         lanes,
         static_cast<space>(d.detail),
         d.slots[0],
         static_cast<std::uint32_t>(elements * sizeof(T)),
         access::write,
         to);
  for (std::uint32_t e = 0; e < elements; ++e) {
    const slot& from = d.slots[1 + e];
    if (lanes == all_lanes && from.bytes == sizeof(T)) {
      const T* const in = w.at<T>(from);
      for (std::uint32_t i = 0; i < warp_lanes; ++i) {
        std::memcpy(to[i] + e * sizeof(T), &in[i], sizeof(T));
      }
      continue;
    }
    for_lanes(lanes, [&](std::uint32_t i) {
      const std::byte* value = w.bases[from.base] + from.offset_bytes + std::size_t{from.bytes} * i;
      std::memcpy(to[i] + e * sizeof(T), value, sizeof(T));
    });
  }
  ++w.owner->events;
  return outcome::advance;
}

/// atom.add d, [a], b.
outcome atomic_add(warp& w, const decoded& d, std::uint32_t lanes) {
  std::byte* at[warp_lanes];
  locate(w, d, lanes, static_cast<space>(d.detail), d.slots[1], 4, access::atomic, at);
  for_lanes(lanes, [&](std::uint32_t i) {
    std::uint32_t old = 0;
    std::memcpy(&old, at[i], 4);
    const auto sum = static_cast<std::uint32_t>(old + w.bits(d.slots[2], i));
    std::memcpy(at[i], &sum, 4);
    if (!d.slots[0].none) {
      w.set_bits(d.slots[0], i, old);
    }
  });
  ++w.owner->events;
  return outcome::advance;
}

constexpr std::pair<const char*, space> spaces[]{{"", space::generic},
                                                 {".global", space::global},
                                                 {".shared", space::shared},
                                                 {".local", space::local},
                                                 {".param", space::parameter}};

template <typename T>
void add_accesses(opcode_table& table, std::initializer_list<const char*> types) {
  for (const auto& [name, where] : spaces) {
    for (const std::string vector : {"", ".v2", ".v4"}) {
      if (vector == ".v4" && sizeof(T) > 4) {
        continue;
      }
      for (const char* const type : types) {
        const std::string spelling = name + vector + "." + type;
        table["ld" + spelling] = {&load<T>, static_cast<std::uint32_t>(where), {}};
        if (where != space::parameter) {
          table["st" + spelling] = {&store<T>, static_cast<std::uint32_t>(where), {}};
        }
      }
    }
  }
}

}  // namespace

void add_memory_opcodes(opcode_table& table) {
  add_accesses<std::uint8_t>(table, {"u8", "b8"});
  add_accesses<std::int8_t>(table, {"s8"});
  add_accesses<std::uint16_t>(table, {"u16", "b16"});
  add_accesses<std::int16_t>(table, {"s16"});
  add_accesses<std::uint32_t>(table, {"u32", "b32", "f32"});
  add_accesses<std::int32_t>(table, {"s32"});
  add_accesses<std::uint64_t>(table, {"u64", "b64", "s64", "f64"});
  for (const std::string type : {"u32", "s32"}) {
    table["atom.add." + type] = {
        &atomic_add, static_cast<std::uint32_t>(space::generic), {4, 0, 4}};
    table["atom.shared.add." + type] = {
        &atomic_add, static_cast<std::uint32_t>(space::shared), {4, 0, 4}};
    table["atom.global.add." + type] = {
        &atomic_add, static_cast<std::uint32_t>(space::global), {4, 0, 4}};
  }
}

}  // namespace oriel::ptx_machine
