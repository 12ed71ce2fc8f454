// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/isa.hpp>

namespace oriel {
namespace {

// The compiler's run-time asks CPUID and XGETBV: a feature whose registers the operating system
// does not save counts as absent.
isa probe_last() noexcept {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return isa::scalar;
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return isa::avx2;
  }
  return __builtin_cpu_supports("avx512bf16") ? isa::avx512_bf16 : isa::avx512;
#else
  return isa::scalar;
#endif
}

isa probe_best(isa last) noexcept {
#if defined(__x86_64__)
  if (last == isa::avx512_bf16 && __builtin_cpu_is("intel")) {
    return isa::avx512;
  }
#endif
  return last;
}

isa last_isa() noexcept {
  static const isa last = probe_last();
  return last;
}

}  // namespace

isa best_isa() noexcept {
  static const isa best = probe_best(last_isa());
  return best;
}

bool is_supported(isa path) noexcept {
  return path <= last_isa();
}

}  // namespace oriel
