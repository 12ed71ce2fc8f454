// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A module of PTX as data: what parse() makes of its text, and the machine runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::ptx_machine {

/// What is wrong with a text or with what a kernel did; the message says where.
class machine_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class register_class : std::uint8_t { predicate, b16, b32, b64 };

/// Registers of all classes are numbered together, from 0, in each kernel.
struct register_info {
  std::string
      name;  ///< "%r12"; with the number of its scope behind it where a scope declares it again
  register_class width;
};

enum class special_register : std::uint8_t {
  tid_x,
  tid_y,
  tid_z,
  ntid_x,
  ntid_y,
  ntid_z,
  ctaid_x,
  ctaid_y,
  ctaid_z,
  nctaid_x,
  nctaid_y,
  nctaid_z,
  laneid,
  warpid,
  clusterid_x,
  nclusterid_x,
  cluster_ctaid_x,
  cluster_nctaid_x,
  cluster_ctarank,
  cluster_nctarank
};

enum class operand_kind : std::uint8_t {
  none,       ///< "_": nobody wants the result
  reg,        ///< `index`; `negated` for "!%p1"
  immediate,  ///< `value`: the bits; floats as the bits of the type that the text gives (0f: 32, 0d: 64)
  special,            ///< `special`
  parameter_address,  ///< the address of a parameter: byte `value` of the kernel's parameters (space .param)
  shared_address,  ///< byte `value` of the block's shared memory (static variables, then dynamic)
  local_address,   ///< byte `value` of the thread's local memory
  memory,  ///< "[base + value]": base is register `index`; `space` tells what a base without register means
  vector,  ///< "{a, b}": the `index` operands that follow
  label    ///< `index`: the instruction to go to
};

/// What an address without a register is in. (The space that an access means is in its opcode.)
enum class address_base : std::uint8_t { from_register, parameter, shared, local, absolute };

struct operand {
  operand_kind kind = operand_kind::none;
  address_base base = address_base::from_register;  ///< of `memory`
  special_register special{};
  bool negated = false;
  std::uint32_t index = 0;
  std::uint64_t value = 0;
  /// The second destination of "%r1|%p1" follows its first as the next operand.
  bool has_second = false;
};

struct source_line {
  std::uint32_t file = 0;  ///< of module::files; 0: not known
  std::uint32_t line = 0;
  std::uint32_t ptx_line = 0;  ///< of the text
};

inline constexpr std::uint32_t no_guard = 0xFFFFFFFF;

struct instruction {
  std::uint32_t opcode = 0;        ///< of module::opcodes: "add.rn.f32", whole
  std::uint32_t guard = no_guard;  ///< the register of "@%p1"
  bool guard_negated = false;
  std::uint32_t first_operand = 0;  ///< of kernel::operands
  std::uint32_t operand_count = 0;  ///< vectors' elements and second destinations counted
  source_line at;
};

struct parameter_info {
  std::string name;
  std::uint32_t offset_bytes = 0, size_bytes = 0;
};

struct kernel {
  std::string name;  ///< mangled
  std::vector<parameter_info> parameters;
  std::uint32_t parameter_bytes = 0;
  std::vector<register_info> registers;
  std::uint32_t static_shared_bytes =
      0;  ///< dynamic shared memory begins behind it, aligned to `dynamic_align`
  std::uint32_t dynamic_align = 1;
  bool has_dynamic_shared = false;
  std::uint32_t local_bytes = 0;
  std::uint32_t max_threads = 1024;                 ///< .maxntid
  std::uint32_t blocks_per_multiprocessor_min = 0;  ///< .minnctapersm; 0: not said
  std::uint32_t cluster[3] = {1, 1, 1};             ///< .reqnctapercluster
  std::vector<instruction> code;
  std::vector<operand> operands;
};

struct module {
  std::string target;  ///< "sm_90a"
  std::vector<std::string> opcodes;
  std::vector<std::string> files;  ///< by .file's number; [0] is empty
  std::vector<kernel> kernels;

  [[nodiscard]] const kernel* find(std::string_view name) const;
};

/// @param name  of the text, for messages
/// @throws machine_error at what it does not know: functions, variables of global memory, ...
[[nodiscard]] module parse(std::string_view text, std::string_view name);

}  // namespace oriel::ptx_machine
