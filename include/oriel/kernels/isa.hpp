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

/// The best path that this CPU and operating system support. Cached after the first call.
[[nodiscard]] isa best_isa() noexcept;

/// True if `path` runs on this CPU.
[[nodiscard]] inline bool is_supported(isa path) noexcept { return path <= best_isa(); }

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
