// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The PTX of the grouped product: wgmma with both operands in shared memory, asynchronous copies
/// of 16 and 4 bytes, the transposition of a matrix across a warp. Rules as in ptx.cuh.
#pragma once

#include "ptx.cuh"

namespace oriel::detail::ptx {

// ---- cp.async: copies by threads, global -> shared --------------------------------------------

/// Starts a copy of the first `bytes` (0 to 16) bytes, from 16 x `units` bytes behind `from` on;
/// the rest of the 16 becomes zero. (The address is made here: 16 of them kept in registers of 64
/// bits are more than a producer has.)
/// @pre both addresses are multiples of 16; nobody reads or writes the destination until a barrier
/// has counted mbarrier_arrive_after_copies of this thread. The copy is of the generic proxy: who
/// reads it with wgmma has to call fence_async_proxy() first
__device__ __forceinline__ void copy_async_16(std::uint32_t shared_to,
                                              const void* from,
                                              std::uint32_t units,
                                              std::uint32_t bytes) {
  asm volatile(
      "{\n"
      ".reg .u64 a;\n"
      "mad.wide.u32 a, %2, 16, %1;\n"
      "cp.async.cg.shared.global [%0], [a], 16, %3;\n"
      "}\n" ::"r"(shared_to),
      "l"(__cvta_generic_to_global(from)),
      "r"(units),
      "r"(bytes)
      : "memory");
}
/// Of all 16.
__device__ __forceinline__ void copy_async_16(std::uint32_t shared_to,
                                              const void* from,
                                              std::uint32_t units) {
  asm volatile(
      "{\n"
      ".reg .u64 a;\n"
      "mad.wide.u32 a, %2, 16, %1;\n"
      "cp.async.cg.shared.global [%0], [a], 16;\n"
      "}\n" ::"r"(shared_to),
      "l"(__cvta_generic_to_global(from)),
      "r"(units)
      : "memory");
}
/// Starts a copy of 4 bytes. @pre both addresses are multiples of 4
__device__ __forceinline__ void copy_async_4(std::uint32_t shared_to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_to),
               "l"(__cvta_generic_to_global(from))
               : "memory");
}
/// One arrival, when all copies that this thread has started so far have ended. The arrival is one
/// of those that the barrier was initialised for.
__device__ __forceinline__ void mbarrier_arrive_after_copies(std::uint32_t shared_barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_barrier)
               : "memory");
}

/// Waits for all copies that this thread has started.
__device__ __forceinline__ void copy_async_wait_all() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/// The copies that this thread has started since the last such call are a group, of none too.
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits for all but this thread's last `Pending` groups. What other threads copied is there behind
/// a barrier that they reach after their own wait.
template <std::uint32_t Pending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// ---- a matrix across a warp --------------------------------------------------------------------

/// An 8 x 8 matrix of 16 bits: thread l has row l / 4, columns 2 (l % 4) and + 1, the first in the
/// low half. The same of the transposed matrix. @pre the whole warp calls it, converged
__device__ __forceinline__ std::uint32_t transpose_8x8(std::uint32_t x) {
  std::uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// ---- wgmma: 64 x N x 32 bytes of k, f32 out, by four warps -------------------------------------

#define ORIEL_F8(d, i)                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define ORIEL_F32(d, i) ORIEL_F8(d, i), ORIEL_F8(d, i + 8), ORIEL_F8(d, i + 16), ORIEL_F8(d, i + 24)
#define ORIEL_D8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define ORIEL_D32                                                                  \
  ORIEL_D8                                                                         \
  ", "                                                                             \
  "%8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define ORIEL_D64                                                                    \
  ORIEL_D32                                                                          \
  ", "                                                                               \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ORIEL_D128                                                                             \
  ORIEL_D64                                                                                    \
  ", "                                                                                         \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "           \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "           \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "     \
  "%111, "                                                                                     \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, " \
  "%127"
// The operands behind the descriptors: a predicate (0 starts d at zero), factors 1 of a and b, and
// for bf16 a 0 for each operand: K-major, as e4m3 always is.
#define ORIEL_WGMMA(shape, types, d, a, b, p, majors, ...)                           \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p                                 \
               ", 0;\n"                                                              \
               "wgmma.mma_async.sync.aligned." shape "." types " {" d "}, " a ", " b \
               ", p, 1, 1" majors ";\n}\n"                                           \
               : __VA_ARGS__                                                         \
               : "l"(w), "l"(x), "r"(accumulate))

/// The first Columns / 2 registers of d (+)= w * x^T: w 64 x 32 bytes, x Columns x 32 bytes, of
/// bf16 or e4m3, both in shared memory, K-major. `accumulate`: 0 starts at zero.
/// @pre descriptors as in mma_fragment.cuh
template <bool IsBf16, std::uint32_t Columns, std::uint32_t Size>
__device__ __forceinline__ void wgmma_in_shared(float (&d)[Size],
                                                std::uint64_t w,
                                                std::uint64_t x,
                                                std::uint32_t accumulate) {
  static_assert(Columns / 2 <= Size);
  if constexpr (IsBf16 && Columns == 16) {
    ORIEL_WGMMA(
        "m64n16k16", "f32.bf16.bf16", ORIEL_D8, "%8", "%9", "%10", ", 0, 0", ORIEL_F8(d, 0));
  } else if constexpr (IsBf16 && Columns == 64) {
    ORIEL_WGMMA(
        "m64n64k16", "f32.bf16.bf16", ORIEL_D32, "%32", "%33", "%34", ", 0, 0", ORIEL_F32(d, 0));
  } else if constexpr (IsBf16 && Columns == 128) {
    ORIEL_WGMMA("m64n128k16",
                "f32.bf16.bf16",
                ORIEL_D64,
                "%64",
                "%65",
                "%66",
                ", 0, 0",
                ORIEL_F32(d, 0),
                ORIEL_F32(d, 32));
  } else if constexpr (IsBf16 && Columns == 256) {
    ORIEL_WGMMA("m64n256k16",
                "f32.bf16.bf16",
                ORIEL_D128,
                "%128",
                "%129",
                "%130",
                ", 0, 0",
                ORIEL_F32(d, 0),
                ORIEL_F32(d, 32),
                ORIEL_F32(d, 64),
                ORIEL_F32(d, 96));
  } else if constexpr (!IsBf16 && Columns == 16) {
    ORIEL_WGMMA("m64n16k32", "f32.e4m3.e4m3", ORIEL_D8, "%8", "%9", "%10", "", ORIEL_F8(d, 0));
  } else if constexpr (!IsBf16 && Columns == 64) {
    ORIEL_WGMMA("m64n64k32", "f32.e4m3.e4m3", ORIEL_D32, "%32", "%33", "%34", "", ORIEL_F32(d, 0));
  } else if constexpr (!IsBf16 && Columns == 128) {
    ORIEL_WGMMA("m64n128k32",
                "f32.e4m3.e4m3",
                ORIEL_D64,
                "%64",
                "%65",
                "%66",
                "",
                ORIEL_F32(d, 0),
                ORIEL_F32(d, 32));
  } else {
    static_assert(Columns == 16, "no such instruction here");
  }
}

#undef ORIEL_WGMMA
#undef ORIEL_D128
#undef ORIEL_D64
#undef ORIEL_D32
#undef ORIEL_D8
#undef ORIEL_F32
#undef ORIEL_F8

}  // namespace oriel::detail::ptx
