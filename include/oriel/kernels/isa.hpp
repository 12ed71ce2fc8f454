// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `isa`: the instruction sets that host kernels are built for, and which of them this CPU has.
#pragma once

#include <cstdint>

namespace oriel {

/// A path through the host kernels, from the slowest to the fastest. Each path is an arithmetic of
/// its own (docs/arithmetic.md): KV written by one is never read by another.
enum class isa : std::uint8_t {
  scalar,       ///< Plain C++, any x86-64 or other CPU.
  avx2,         ///< AVX2 + FMA.
  avx512,       ///< AVX-512 F, BW, DQ, VL.
  avx512_bf16,  ///< avx512 + the bf16 dot product (vdpbf16ps).
};

/// The path that is fastest on this CPU. Not always the last one it supports: Intel's cores with
/// AMX run vdpbf16ps at half the rate of f32 multiply-adds, so their best path is avx512, which
/// widens bf16. Decided by what CPUID says, never by a measurement: a machine keeps its arithmetic.
[[nodiscard]] isa best_isa() noexcept;

/// True if this CPU has the instructions of `path` and the operating system saves their registers.
[[nodiscard]] bool is_supported(isa path) noexcept;

/// "scalar", "avx2", "avx512", "avx512_bf16".
[[nodiscard]] constexpr const char* name_of(isa path) noexcept {
  switch (path) {
    case isa::scalar:
      return "scalar";
    case isa::avx2:
      return "avx2";
    case isa::avx512:
      return "avx512";
    case isa::avx512_bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

}  // namespace oriel
