// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a block of the permutation does: a stable counting sort of pairs by expert.
///
///     pairs     | chunk 0, a block                      | chunk 1 ...
///               | warp 0's 512 pairs | warp 1's 512 ... |
///
///     count     counts[expert][chunk], in shared memory first
///     scan      counts[expert][chunk] becomes the first row of the chunk's pairs of that expert
///     scatter   the same for each warp of the chunk; then a warp places 32 pairs at a time: a
///               pair's row is its expert's next one, plus the lanes before it with that expert
///
/// With one chunk, `whole` does the three in one block.
#pragma once

#include "../../host/detail/workspace.hpp"
#include "thread_group.cuh"

#include <oriel/device/host_device.cuh>
#include <oriel/kernels/moe_permute.hpp>

namespace oriel::detail {

inline constexpr std::uint32_t permute_threads = 256;
inline constexpr std::uint32_t permute_warps = permute_threads / 32;
inline constexpr std::uint32_t permute_pairs_per_warp = 512;
inline constexpr std::uint32_t permute_chunk_pairs = permute_warps * permute_pairs_per_warp;
inline constexpr std::uint32_t permute_scan_threads = 1'024;
inline constexpr std::uint32_t permute_experts_max = 1'024;
inline constexpr std::uint32_t no_pair_row = UINT32_MAX;

/// Device memory of one sort.
struct permute_arrays {
  std::uint32_t* expert_offsets;  ///< [experts + 1]
  std::uint32_t* pair_of_row;     ///< [pairs]
  std::uint32_t* row_of_pair;     ///< [pairs]
  std::uint32_t* counts;          ///< [experts, chunks]; none with one chunk
};

/// The arrays in a workspace of plan.workspace_bytes. Host arithmetic.
inline permute_arrays permute_arrays_in(const cuda::moe_permute_plan& plan,
                                        std::span<std::byte> workspace) noexcept {
  const std::size_t pairs = std::size_t{plan.shape.tokens_max} * plan.shape.top_k;
  const std::size_t experts = plan.shape.experts;
  workspace_cutter cutter(workspace);
  permute_arrays to{};
  to.expert_offsets = cutter.take<std::uint32_t>(experts + 1).data();
  to.pair_of_row = cutter.take<std::uint32_t>(pairs).data();
  to.row_of_pair = cutter.take<std::uint32_t>(pairs).data();
  to.counts = cutter.take<std::uint32_t>(plan.chunks > 1 ? experts * plan.chunks : 0).data();
  return to;
}

/// Shared memory of a block; `next` has experts rows.
struct permute_shared {
  std::uint64_t warp_sums[permute_scan_threads / 32];
  std::uint32_t next[permute_warps * permute_experts_max];  ///< [warps, experts]
};

/// The experts of a thread's pairs in a chunk, for step 0, 1, ...
struct permute_experts {
  std::uint32_t of[permute_pairs_per_warp / 32];
};

struct moe_permute_agent {
  moe_permute_shape shape;
  std::uint32_t chunks;
  std::uint32_t pairs_max;
  const std::uint32_t* ids;
  permute_arrays to;

  /// @param token_count  null: all
  ORIEL_HOST_DEVICE std::uint32_t pairs(const std::uint32_t* token_count) const {
    const std::uint64_t now =
        token_count != nullptr ? std::uint64_t{*token_count} * shape.top_k : pairs_max;
    return now < pairs_max ? static_cast<std::uint32_t>(now) : pairs_max;
  }

  template <class Group>
  ORIEL_HOST_DEVICE void count(Group g,
                               std::uint32_t chunk,
                               std::uint32_t pair_count,
                               permute_shared& shared) const {
    const auto experts = load_experts(g, chunk, pair_count);
    clear(g, shared, 1);
    g.each([&](std::uint32_t thread) { count_experts(g, experts[thread], shared.next); });
    g.sync();
    g.each([&](std::uint32_t thread) {
      for (std::uint32_t e = thread; e < shape.experts; e += Group::threads) {
        to.counts[std::size_t{e} * chunks + chunk] = shared.next[e];
      }
    });
  }

  /// One block: sums of all counts before each, in their order. A thread has a run of them.
  template <class Group>
  ORIEL_HOST_DEVICE void scan(Group g, permute_shared& shared) const {
    const std::uint32_t n = shape.experts * chunks;
    const std::uint32_t run = (n + Group::threads - 1) / Group::threads;
    const auto end_of = [&](std::uint32_t thread) {
      return (thread + 1) * run < n ? (thread + 1) * run : n;
    };
    typename Group::template var<std::uint64_t> sum;
    g.each([&](std::uint32_t thread) {
      sum[thread] = 0;
      for (std::uint32_t i = thread * run; i < end_of(thread); ++i) {
        sum[thread] += to.counts[i];
      }
    });
    auto before = scan_group(g, sum, shared.warp_sums);
    g.each([&](std::uint32_t thread) {
      auto row = static_cast<std::uint32_t>(before[thread]);
      for (std::uint32_t i = thread * run; i < end_of(thread); ++i) {
        const std::uint32_t own = to.counts[i];
        to.counts[i] = row;
        if (i % chunks == 0) {
          to.expert_offsets[i / chunks] = row;
        }
        row += own;
        if (i + 1 == n) {
          to.expert_offsets[shape.experts] = row;
        }
      }
    });
  }

  template <class Group>
  ORIEL_HOST_DEVICE void scatter(Group g,
                                 std::uint32_t chunk,
                                 std::uint32_t pair_count,
                                 permute_shared& shared) const {
    const auto experts = load_experts(g, chunk, pair_count);
    count_by_warp(g, experts, shared);
    g.each([&](std::uint32_t thread) {
      for (std::uint32_t e = thread; e < shape.experts; e += Group::threads) {
        start_warps(e, to.counts[std::size_t{e} * chunks + chunk], shared);
      }
    });
    g.sync();
    place(g, chunk, pair_count, experts, shared);
  }

  /// Count, scan and scatter of the only chunk.
  template <class Group>
  ORIEL_HOST_DEVICE void whole(Group g, std::uint32_t pair_count, permute_shared& shared) const {
    const auto experts = load_experts(g, 0, pair_count);
    count_by_warp(g, experts, shared);
    const std::uint32_t run = (shape.experts + Group::threads - 1) / Group::threads;
    const auto end_of = [&](std::uint32_t thread) {
      return (thread + 1) * run < shape.experts ? (thread + 1) * run : shape.experts;
    };
    typename Group::template var<std::uint64_t> sum;
    g.each([&](std::uint32_t thread) {
      sum[thread] = 0;
      for (std::uint32_t e = thread * run; e < end_of(thread); ++e) {
        sum[thread] += rows_of(e, shared);
      }
    });
    auto before = scan_group(g, sum, shared.warp_sums);
    g.each([&](std::uint32_t thread) {
      auto row = static_cast<std::uint32_t>(before[thread]);
      for (std::uint32_t e = thread * run; e < end_of(thread); ++e) {
        to.expert_offsets[e] = row;
        row = start_warps(e, row, shared);
        if (e + 1 == shape.experts) {
          to.expert_offsets[shape.experts] = row;
        }
      }
    });
    g.sync();
    place(g, 0, pair_count, experts, shared);
  }

 private:
  /// no_pair_row (which is no expert) behind the last pair.
  ORIEL_HOST_DEVICE std::uint32_t expert_of(std::uint32_t pair, std::uint32_t pair_count) const {
    return pair < pair_count ? ids[pair] : no_pair_row;
  }
  ORIEL_HOST_DEVICE static std::uint32_t pair_of(std::uint32_t chunk,
                                                 std::uint32_t thread,
                                                 std::uint32_t step) {
    return chunk * permute_chunk_pairs + thread / 32 * permute_pairs_per_warp + step * 32 +
           thread % 32;
  }

  /// All at once: loads that are under way together.
  template <class Group>
  ORIEL_HOST_DEVICE typename Group::template var<permute_experts> load_experts(
      Group& g, std::uint32_t chunk, std::uint32_t pair_count) const {
    static_assert(Group::threads == permute_threads);
    typename Group::template var<permute_experts> experts;
    g.each([&](std::uint32_t thread) {
      ORIEL_UNROLL
      for (std::uint32_t step = 0; step < permute_pairs_per_warp / 32; ++step) {
        experts[thread].of[step] = expert_of(pair_of(chunk, thread, step), pair_count);
      }
    });
    return experts;
  }

  template <class Group>
  ORIEL_HOST_DEVICE void count_experts(Group& g,
                                       const permute_experts& experts,
                                       std::uint32_t* counts) const {
    ORIEL_UNROLL
    for (const std::uint32_t expert : experts.of) {
      if (expert < shape.experts) {
        g.add_shared(&counts[expert], 1u);
      }
    }
  }

  template <class Group>
  ORIEL_HOST_DEVICE void clear(Group& g, permute_shared& shared, std::uint32_t warps) const {
    g.each([&](std::uint32_t thread) {
      for (std::uint32_t i = thread; i < warps * shape.experts; i += Group::threads) {
        shared.next[i] = 0;
      }
    });
    g.sync();
  }

  /// next[warp][expert] = the warp's pairs of it.
  template <class Group>
  ORIEL_HOST_DEVICE void count_by_warp(Group& g,
                                       const typename Group::template var<permute_experts>& experts,
                                       permute_shared& shared) const {
    clear(g, shared, permute_warps);
    g.each([&](std::uint32_t thread) {
      count_experts(g, experts[thread], shared.next + thread / 32 * shape.experts);
    });
    g.sync();
  }

  ORIEL_HOST_DEVICE std::uint32_t rows_of(std::uint32_t expert,
                                          const permute_shared& shared) const {
    std::uint32_t rows = 0;
    for (std::uint32_t warp = 0; warp < permute_warps; ++warp) {
      rows += shared.next[warp * shape.experts + expert];
    }
    return rows;
  }

  /// next[warp][expert] = the warp's first row of it. @returns the row after the last warp's
  ORIEL_HOST_DEVICE std::uint32_t start_warps(std::uint32_t expert,
                                              std::uint32_t row,
                                              permute_shared& shared) const {
    for (std::uint32_t warp = 0; warp < permute_warps; ++warp) {
      std::uint32_t& next = shared.next[warp * shape.experts + expert];
      const std::uint32_t own = next;
      next = row;
      row += own;
    }
    return row;
  }

  template <class Group>
  ORIEL_HOST_DEVICE void place(Group& g,
                               std::uint32_t chunk,
                               std::uint32_t pair_count,
                               const typename Group::template var<permute_experts>& experts,
                               permute_shared& shared) const {
    ORIEL_UNROLL
    for (std::uint32_t step = 0; step < permute_pairs_per_warp / 32; ++step) {
      typename Group::template var<std::uint32_t> expert, row;
      g.each([&](std::uint32_t thread) { expert[thread] = experts[thread].of[step]; });
      const auto same = g.peers_before(expert);
      g.each([&](std::uint32_t thread) {
        row[thread] =
            expert[thread] < shape.experts
                ? shared.next[thread / 32 * shape.experts + expert[thread]] + same[thread].before
                : no_pair_row;
      });
      g.sync_warp();
      g.each([&](std::uint32_t thread) {
        if (expert[thread] < shape.experts && same[thread].before == 0) {
          shared.next[thread / 32 * shape.experts + expert[thread]] += same[thread].all;
        }
        const std::uint32_t pair = pair_of(chunk, thread, step);
        if (pair < pair_count) {
          to.row_of_pair[pair] = row[thread];
          if (row[thread] != no_pair_row) {
            to.pair_of_row[row[thread]] = pair;
          }
        }
      });
      g.sync_warp();
    }
  }
};

}  // namespace oriel::detail
