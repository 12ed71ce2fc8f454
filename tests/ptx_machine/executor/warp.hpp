// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A kernel decoded into handlers, and the warps, blocks and clusters that they work on.
///
/// Registers of a warp, structure of arrays: each register is 32 lanes of its width side by side, a predicate is one
/// word with a bit per lane. Constants look the same, so that an operand is a base and an offset, whatever it was.
///
///     warp.bases[0] -> | specials | %p1 (4 bytes) | %r1 (32 x 4) | %rd1 (32 x 8) | ...   of the warp
///     warp.bases[1] -> | 0x10 x 32 | 1.0f x 32 | ...                                     of the kernel
#pragma once

#include "machine.hpp"

#include <ptx_machine/block/shared_watch.hpp>
#include <ptx_machine/program/program.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace oriel::ptx_machine {

class block_async;

inline constexpr std::uint32_t warp_lanes = 32;
inline constexpr std::uint32_t all_lanes = 0xFFFFFFFF;

inline constexpr std::uint64_t generic_shared = 0x0100'0000'0000'0000;
inline constexpr std::uint64_t generic_local = 0x0200'0000'0000'0000;
inline constexpr std::uint64_t generic_parameter = 0x0300'0000'0000'0000;
inline constexpr std::uint64_t generic_window_mask = 0xFF00'0000'0000'0000;

inline constexpr std::uint32_t no_register = 0xFFFFFFFF;

/// Where the value of an operand is.
struct slot {
  std::uint32_t offset_bytes = 0;
  std::uint8_t base = 0;   ///< of warp::bases
  std::uint8_t bytes = 0;  ///< of one lane; 0: a predicate
  bool none = false;       ///< "_"
  bool negated = false;    ///< of a predicate
  std::uint32_t register_index = no_register;
  std::uint64_t displacement = 0;  ///< of "[base + displacement]"
};

struct warp;
struct decoded;

enum class outcome : std::uint8_t {
  advance,    ///< to the next instruction
  moved,      ///< the handler has set the program counters
  gathering,  ///< lanes that it needs are not here yet: nothing was done
  blocked,    ///< it cannot go on yet: nothing was done, try again
  yield       ///< done, and whoever waits for others should let them run
};

using handler = outcome (*)(warp& w, const decoded& d, std::uint32_t lanes);

struct decoded {
  handler run = nullptr;
  const slot* slots = nullptr;  ///< operands, vectors flattened
  std::uint32_t slot_count = 0;
  std::uint32_t detail =
      0;  ///< of the handler's table: what the opcode says and the function does not
  std::uint32_t target = 0;  ///< of a branch
  std::uint32_t guard_offset = no_guard;
  bool guard_negated = false;
  bool has_second = false;    ///< slots[1] is the second destination
  bool writes_first = false;  ///< the first `first_count` slots are destinations
  bool is_product = false;    ///< of the wgmma family
  std::uint8_t first_count = 0;
  const instruction* source = nullptr;
};

/// What a table of handlers knows about an opcode. `widths`: bytes of the operands in turn, to check registers against
/// and to widen constants: 1 is a predicate, 0 any.
struct opcode_entry {
  handler run = nullptr;
  std::uint32_t detail = 0;
  std::array<std::uint8_t, 6> widths{};
};

using opcode_table = std::unordered_map<std::string, opcode_entry>;

void add_integer_opcodes(opcode_table& table);
void add_float_opcodes(opcode_table& table);
void add_conversion_opcodes(opcode_table& table);
void add_comparison_opcodes(opcode_table& table);
void add_move_opcodes(opcode_table& table);
void add_memory_opcodes(opcode_table& table);
void add_control_opcodes(opcode_table& table);
void add_lane_opcodes(opcode_table& table);
void add_async_opcodes(opcode_table& table);
void add_matrix_opcodes(opcode_table& table);

/// @returns a copy of the handlers of all opcodes that the machine knows
[[nodiscard]] const opcode_table& all_opcodes();

/// Registers that the machine keeps for the special ones, all of 4 bytes a lane, in the order of special_register.
inline constexpr std::uint32_t special_registers = 20;
/// A warp's registers begin at such an address: a line of a cache.
inline constexpr std::uint32_t register_alignment = 64;

struct decoded_kernel {
  const module* owner = nullptr;
  const kernel* source = nullptr;
  std::vector<std::uint32_t> register_offsets;  ///< by kernel::registers' index
  struct piece {
    std::uint32_t offset_bytes = 0, bytes = 0;
  };
  std::vector<piece>
      unwritten;  ///< of registers that a way leads to a read of, with no write before
  bool uses_products = false;
  std::vector<decoded> code;  ///< with one more at the end, that says that the code ran out
  std::vector<slot> slots;
  std::vector<std::byte> constants;
  std::uint32_t register_bytes = 0;
};

[[nodiscard]] decoded_kernel decode(const module& m, const kernel& k);

/// Lanes of a warp that are at one instruction.
struct lane_group {
  std::uint32_t pc = 0;
  std::uint32_t lanes = 0;
  bool gathering = false;  ///< waits at `pc` for lanes of other groups
};

struct block;
struct machine;

struct warp {
  std::array<std::byte*, 2> bases{};
  std::uint32_t pc = 0;      ///< of the group that runs
  std::uint32_t active = 0;  ///< its lanes
  std::uint32_t live = 0;    ///< lanes not exited
  std::uint32_t other_count = 0;
  std::array<lane_group, warp_lanes> others{};
  bool keep_group = false;  ///< this turn runs a group that is not the first, lest it starve

  block* home = nullptr;
  machine* owner = nullptr;
  std::uint32_t index = 0;        ///< in the block
  bool waits = false;             ///< at a barrier, which takes it on when it is complete
  bool cluster_arrived = false;   ///< and has not waited since
  bool cluster_complete = false;  ///< all others have, too
  std::uint64_t held_until = 0;   ///< turn of the machine
  std::uint32_t since_wait = 0;   ///< instructions since it last waited for something

  /// Pieces of global memory that it has touched.
  struct global_piece {
    std::uint64_t address = 0, bytes = 0;  ///< none: no bytes
  };
  std::array<global_piece, 4> pieces{};
  std::uint32_t oldest_piece = 0;

  std::vector<std::byte> local;  ///< lane after lane

  template <typename T>
  [[nodiscard]] T* at(const slot& s) const {
    return reinterpret_cast<T*>(bases[s.base] + s.offset_bytes);
  }
  /// One lane's bits, zero-extended from the register's width (not for predicates).
  [[nodiscard]] std::uint64_t bits(const slot& s, std::uint32_t lane) const {
    const std::byte* from = bases[s.base] + s.offset_bytes + std::size_t{s.bytes} * lane;
    std::uint64_t value = 0;
    switch (s.bytes) {
      case 8:
        std::memcpy(&value, from, 8);
        break;
      case 4:
        std::memcpy(&value, from, 4);
        break;
      default:
        std::memcpy(&value, from, 2);
        break;
    }
    return value;
  }
  void set_bits(const slot& s, std::uint32_t lane, std::uint64_t value) const {
    std::byte* to = bases[s.base] + s.offset_bytes + std::size_t{s.bytes} * lane;
    switch (s.bytes) {
      case 8:
        std::memcpy(to, &value, 8);
        break;
      case 4:
        std::memcpy(to, &value, 4);
        break;
      default:
        std::memcpy(to, &value, 2);
        break;
    }
  }
  [[nodiscard]] std::uint32_t predicate(const slot& s) const {
    const std::uint32_t bits = *at<std::uint32_t>(s);
    return s.negated ? ~bits : bits;
  }
  void set_predicate(const slot& s, std::uint32_t bits, std::uint32_t lanes) const {
    if (!s.none) {
      std::uint32_t& to = *at<std::uint32_t>(s);
      to = (to & ~lanes) | (bits & lanes);
    }
  }
};

struct named_barrier {
  std::uint32_t threads = 0;  ///< that it waits for; 0: all of the block
  std::uint32_t arrived = 0;  ///< threads, whole warps
  std::vector<warp*> waiting;
  std::uint32_t gone_on = 0;  ///< warps that arrived and do not wait, a bit each
};

struct cluster {
  std::vector<block*> blocks;
  std::uint32_t arrived_warps = 0;
  std::vector<warp*> waiting;
  /// What the warps know that have arrived, and had arrived as the barrier was last complete.
  shared_watch::cluster_clocks gathering, complete;
};

struct block {
  dimensions at;  ///< %ctaid
  std::uint32_t threads = 0;
  std::vector<std::byte> shared;
  std::vector<warp> warps;
  std::uint32_t live_warps = 0;
  std::array<named_barrier, 16> barriers;
  cluster* group = nullptr;
  std::uint32_t rank_in_cluster = 0;
  std::unique_ptr<block_async> async;
};

/// One launch.
struct machine {
  const decoded_kernel* program = nullptr;
  const launch_config* config = nullptr;
  std::span<const std::byte> parameters;
  std::mt19937_64 random;
  std::vector<warp*> ready;  ///< warps that may be tried
  std::uint64_t turn = 0;
  std::uint64_t events = 0;  ///< whatever others may wait for
};

/// @throws machine_error  with kernel, block, warp, lane (warp_lanes: none), instruction and its line before the text
[[noreturn]] void fail(const warp& w,
                       const decoded& d,
                       std::uint32_t lane,
                       const std::string& text);

/// The index of an instruction in kernel::code.
[[nodiscard]] std::uint32_t pc_of(const warp& w, const decoded& d);
[[nodiscard]] std::string hex(std::uint64_t value);
[[nodiscard]] std::string place_of(const decoded_kernel& k, std::uint32_t pc);

/// Runs up to `instructions` of the warp, or until it must wait.
outcome run_warp(warp& w, std::uint32_t instructions);

/// What an instruction marked .aligned demands: all lanes of the warp that have not exited.
/// @returns whether they are here; if so and a guard left some of them out: machine_error
[[nodiscard]] bool converged(const warp& w, const decoded& d, std::uint32_t lanes);

/// Goes on with the lanes that are furthest behind, if any can go on.
void take_first_group(warp& w);

/// Are all lanes of the lanes' membermasks here that have not exited?
/// @throws machine_error  a lane outside its membermask, members that the guard leaves out
[[nodiscard]] bool members_here(const warp& w,
                                const decoded& d,
                                std::uint32_t lanes,
                                const slot& membermask);

/// The value of an operand that has to be the same in all lanes.
[[nodiscard]] std::uint64_t uniform_bits(const warp& w,
                                         const decoded& d,
                                         std::uint32_t lanes,
                                         const slot& s);

/// The barriers that only waited for a warp that is no more.
void warp_exited(warp& w);

template <typename F>
inline void for_lanes(std::uint32_t lanes, F f) {
  for (; lanes != 0; lanes &= lanes - 1) {
    f(static_cast<std::uint32_t>(std::countr_zero(lanes)));
  }
}

}  // namespace oriel::ptx_machine
