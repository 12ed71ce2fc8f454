// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The PTX that our kernels use, one instruction a function, for sm_90a. Each says what the PTX ISA
/// (9.0) demands of the caller. Addresses named `shared_*` are of the shared window (32 bits).
#pragma once

#include <cstddef>
#include <cstdint>

namespace oriel::detail::ptx {

/// The address in the shared window of what `p` points to. @pre p is in shared memory
__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// The way back.
__device__ __forceinline__ std::byte* shared_pointer(std::uint32_t address) {
  return static_cast<std::byte*>(__cvta_shared_to_generic(address));
}

// ---- mbarrier: an object of 8 bytes in shared memory, aligned to 8 ----------------------------

/// One thread, once, before anybody uses the barrier. `arrivals`: per phase, 1 to 2^20 - 1.
__device__ __forceinline__ void mbarrier_init(std::uint32_t shared_barrier,
                                              std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_barrier), "r"(arrivals)
               : "memory");
}

/// After the inits, by the same thread: makes them visible to the asynchronous proxy (bulk copies).
/// A barrier of the block must follow before other threads use them.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// One arrival; releases what this thread did before.
__device__ __forceinline__ void mbarrier_arrive(std::uint32_t shared_barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_barrier) : "memory");
}

/// One arrival, and `bytes` more to be copied before the phase ends. @pre bytes < 2^20
__device__ __forceinline__ void mbarrier_arrive_expect(std::uint32_t shared_barrier,
                                                       std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_barrier),
               "r"(bytes)
               : "memory");
}

/// Waits until the phase of parity `parity` has ended; acquires what was released in it. A barrier
/// fresh from init is in phase 0, and the phase before it, of parity 1, counts as ended.
/// @pre the caller is at most one phase behind: a parity cannot tell two phases apart
__device__ __forceinline__ void mbarrier_wait(std::uint32_t shared_barrier, std::uint32_t parity) {
  std::uint32_t ended = 0;
  do {  // try_wait suspends the thread for a while of the hardware's choosing.
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(ended)
        : "r"(shared_barrier), "r"(parity)
        : "memory");
  } while (ended == 0);
}

// ---- clusters: blocks that meet and store into each other's shared memory ----------------------

/// All threads of the cluster's blocks arrive; what they wrote before, who waits behind it sees.
/// @pre whole warps call it, converged, and then wait
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
/// The same, but of what was written only what a fence has released is seen.
__device__ __forceinline__ void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// What this thread wrote to device memory, and what a barrier has shown it, is seen by who learns of
/// something that it does behind this.
__device__ __forceinline__ void fence_device() {
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

/// What is at `shared` in the caller's block, in the block `rank` of its cluster.
__device__ __forceinline__ std::uint32_t remote_address(std::uint32_t shared, std::uint32_t rank) {
  std::uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
  return address;
}

/// Stores two words into a block of the cluster, and 16 bytes are subtracted from what the barrier
/// there expects: who waits for its phase sees them. @pre both are remote_address() of one block,
/// which has not ended; `to` is a multiple of 16
__device__ __forceinline__ void store_remote(std::uint32_t to,
                                             std::uint64_t first,
                                             std::uint64_t second,
                                             std::uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b64 [%0], {%1, %2}, [%3];" ::"r"(
          to),
      "l"(first),
      "l"(second),
      "r"(barrier)
      : "memory");
}

/// mbarrier_wait for a phase that other blocks of the cluster end; acquires what they released.
__device__ __forceinline__ void mbarrier_wait_cluster(std::uint32_t shared_barrier,
                                                      std::uint32_t parity) {
  std::uint32_t ended = 0;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(ended)
        : "r"(shared_barrier), "r"(parity)
        : "memory");
  } while (ended == 0);
}

// ---- bulk copies (TMA without a tensor map) ----------------------------------------------------

/// One thread starts a copy global -> shared of `bytes`; they are subtracted from what the barrier
/// expects. @pre all three of addresses and bytes are multiples of 16; no thread of the block reads
/// or writes the destination until the barrier's phase has ended
__device__ __forceinline__ void bulk_copy(std::uint32_t shared_to,
                                          const void* from,
                                          std::uint32_t bytes,
                                          std::uint32_t shared_barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_to),
      "l"(__cvta_generic_to_global(from)),
      "r"(bytes),
      "r"(shared_barrier)
      : "memory");
}

/// One thread starts a copy shared -> global of `bytes`, of its next group of such copies.
/// @pre as bulk_copy; what plain code wrote there is behind a fence_async_proxy
__device__ __forceinline__ void bulk_store(void* to,
                                           std::uint32_t shared_from,
                                           std::uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(to)),
               "r"(shared_from),
               "r"(bytes)
               : "memory");
}
/// Ends this thread's group of bulk_store.
__device__ __forceinline__ void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Waits until of all but this thread's last N groups the shared memory has been read.
template <std::uint32_t N>
__device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
/// Waits until all of this thread's groups are written, and it sees them so. Shared memory must not
/// go before they were read, so a block ends behind this.
__device__ __forceinline__ void bulk_wait_written() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/// Orders plain reads and writes of shared memory, this thread's and those that a barrier has shown
/// it, before later ones of the asynchronous proxy: needed on the way from a store to a wgmma or a
/// bulk copy that reads it. Where other threads stored there is a barrier on that way, too, in
/// either order: each that stored fences, then all meet (attention, kv_copy); or they meet first,
/// and who multiplies fences (grouped_gemm, whose barrier counts copies that end behind their
/// threads' backs).
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- copies by threads, global -> shared -------------------------------------------------------

/// A thread starts a copy of 16 bytes, of the generic proxy.
/// @pre both addresses are multiples of 16; nobody reads or writes the destination until
/// copies_wait() of this thread
__device__ __forceinline__ void copy_async(std::uint32_t shared_to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_to),
               "l"(__cvta_generic_to_global(from))
               : "memory");
}
/// Waits until all that this thread has started are there. Others see them behind a barrier.
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// ---- named barriers ----------------------------------------------------------------------------

/// `threads` threads of the block meet. @pre 1 <= id <= 15 (0 is __syncthreads'); threads is a
/// multiple of 32; whole warps call it, converged
__device__ __forceinline__ void named_barrier(std::uint32_t id, std::uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Counts for the `threads` of the next named_barrier `id`, and does not wait. @pre as named_barrier
__device__ __forceinline__ void named_barrier_arrive(std::uint32_t id, std::uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- registers ---------------------------------------------------------------------------------

/// What a thread of each warpgroup has, all together, when a block is launched that has its
/// multiprocessor to itself: 65,536 by its threads, in eights. It is all that the block can share.
template <std::uint32_t Warpgroups>
inline constexpr std::uint32_t registers_launched = Warpgroups*(65'536 / (Warpgroups * 128) / 8 *
                                                                8);

/// The calling warpgroup's threads may use `Count` registers from here on; waits until they are
/// free. @pre all four warps of the warpgroup call it, converged; Count is a multiple of 8 from 24
/// to 256; the kernel has a bound on its threads, and the sum over the block's warpgroups never
/// exceeds registers_launched: who asks for more than the others have given waits for ever
template <std::uint32_t Count>
__device__ __forceinline__ void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
/// The rest goes to others.
template <std::uint32_t Count>
__device__ __forceinline__ void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

/// Stores `a` if it or `b` is negative. Where neither ever is: for the assembler, whatever they are
/// computed from comes before this, and this before a wgmma_wait behind it.
__device__ __forceinline__ void store_negative(std::uint32_t shared_to, float a, float b) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.lt.f32 p, %1, 0f00000000;\n"
      "setp.lt.or.f32 p, %2, 0f00000000, p;\n"
      "@p st.shared.f32 [%0], %1;\n"
      "}\n" ::"r"(shared_to),
      "f"(a),
      "f"(b)
      : "memory");
}

// ---- wgmma: 64 x N x 16, bf16 in, f32 out, by four warps --------------------------------------
// All 128 threads of a warpgroup execute the same sequence, converged: fence, mmas, commit, wait.
// Between the first mma of a group and the wait for it nobody touches the registers of its
// accumulators and its A.

/// Before the first mma, and whenever plain code wrote accumulators or A's registers since.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most the `Pending` groups committed last are under way. Of the others the
/// accumulators may be read, and the operands overwritten.
template <std::uint32_t Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

/// For the compiler, which does not know that a wait changes registers: `x` is read and written
/// here, so no use of it moves across.
__device__ __forceinline__ void pin(float& x) {
  asm volatile("" : "+f"(x)::"memory");
}
__device__ __forceinline__ void pin(std::uint32_t& x) {
  asm volatile("" : "+r"(x)::"memory");
}
__device__ __forceinline__ void pin(const std::byte*& x) {
  asm volatile("" : "+l"(x)::"memory");
}

#define ORIEL_F8(d, i)                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])

// The operands behind the descriptors: a predicate (0 starts d at zero), factors 1 of a and b, then
// a 0 for each operand in shared memory: K-major.

/// d (+)= a * b, both in shared memory, K-major. `accumulate`: 0 starts d at zero.
/// @pre descriptors as in mma_fragment.cuh
__device__ __forceinline__ void wgmma_64x64(float (&d)[32],
                                            std::uint64_t a,
                                            std::uint64_t b,
                                            std::uint32_t accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0;\n"
      "}\n"
      : ORIEL_F8(d, 0), ORIEL_F8(d, 8), ORIEL_F8(d, 16), ORIEL_F8(d, 24)
      : "l"(a), "l"(b), "r"(accumulate));
}

/// d += a * b, a in registers (16 columns of it), b in shared memory, K-major.
__device__ __forceinline__ void wgmma_add(float (&d)[32],
                                          const std::uint32_t (&a)[4],
                                          std::uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, 0;\n"
      "}\n"
      : ORIEL_F8(d, 0), ORIEL_F8(d, 8), ORIEL_F8(d, 16), ORIEL_F8(d, 24)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

__device__ __forceinline__ void wgmma_add(float (&d)[64],
                                          const std::uint32_t (&a)[4],
                                          std::uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 0;\n"
      "}\n"
      : ORIEL_F8(d, 0),
        ORIEL_F8(d, 8),
        ORIEL_F8(d, 16),
        ORIEL_F8(d, 24),
        ORIEL_F8(d, 32),
        ORIEL_F8(d, 40),
        ORIEL_F8(d, 48),
        ORIEL_F8(d, 56)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

#undef ORIEL_F8

// ---- mma.sync: 16 x 8 x 16, bf16 in, f32 out, by a warp ----------------------------------------

/// d += a * b. Who has which element: warp_mma.cuh. @pre the whole warp calls it, converged
__device__ __forceinline__ void mma_16x8x16(float (&d)[4],
                                            const std::uint32_t (&a)[4],
                                            const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- arithmetic --------------------------------------------------------------------------------

/// 2^x within 2^-22 of it; exp2(0) is 1, exp2(-inf) is 0; denormals are flushed.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / x within 1 ulp; 1 / inf is 0; denormals are flushed.
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Two floats rounded to bf16, nearest even, `low` in the lower half.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

/// Two products of bf16, rounded to nearest even; subnormal numbers are numbers.
__device__ __forceinline__ std::uint32_t multiply_bf16x2(std::uint32_t a, std::uint32_t b) {
  std::uint32_t y;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
}

}  // namespace oriel::detail::ptx
