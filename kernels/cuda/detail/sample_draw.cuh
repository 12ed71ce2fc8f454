// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sampling's last step: the token of a cluster's that a random number falls on, of those behind no
/// cut. Masses by id: which block, which warp of it, which part of its part, ..., which token.
#pragma once

#include "sample_tokens.cuh"

namespace oriel::detail {

/// high 64 bits of the product: `random` / 2^64 of `total`.
ORIEL_HOST_DEVICE inline std::uint64_t scaled(std::uint64_t random, std::uint64_t total) {
#ifdef __CUDA_ARCH__
  return __umul64hi(random, total);
#else
  __extension__ using wide = unsigned __int128;
  return static_cast<std::uint64_t>((wide{random} * total) >> 64);
#endif
}

struct sample_draw {
  sample_tokens tokens;
  sample_filters filters;
  sampled_token* out;

  /// @param slots  of all blocks; none of a block alone
  template <class Cluster>
  ORIEL_HOST_DEVICE void operator()(Cluster& c, sample_slot* slots) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, float* logits) {
      set_range(g, shared, 0, tokens.count_of(part));
      add_range(g, part, shared, logits);
      if constexpr (Cluster::parts > 1) {
        g.each([&](std::uint32_t thread) {
          if (thread == 0) {
            slots[part].value = sum_of(shared.warp_value);
          }
        });
      }
    });
    if constexpr (Cluster::parts > 1) {
      c.sync();
    }
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, float* logits) {
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          const std::uint64_t own = sum_of(shared.warp_value);
          std::uint64_t total = own, before = 0;
          for (std::uint32_t p = 0; Cluster::parts > 1 && p < Cluster::parts; ++p) {
            before += p < part ? slots[p].value : 0;
            total += p != part ? slots[p].value : 0;
          }
          const std::uint64_t mass = scaled(shared.random, total);
          shared.total = total;
          shared.is_found = mass >= before && mass - before < own ? 1u : 0u;
          shared.left = mass - before;
        }
      });
      g.sync();
      if (shared.is_found != 0) {
        take_token(g, part, shared, logits);
      }
    });
  }

 private:
  template <class Group>
  ORIEL_HOST_DEVICE static void set_range(Group& g,
                                          sample_shared& shared,
                                          std::uint32_t begin,
                                          std::uint32_t end) {
    g.each([&](std::uint32_t thread) {
      if (thread == 0) {
        shared.range_begin = begin;
        shared.range_end = end;
      }
    });
    g.sync();
  }

  /// Tokens of the range that a warp has: the first so many, the next so many, ...
  ORIEL_HOST_DEVICE static std::uint32_t per_warp(const sample_shared& shared) {
    return (shared.range_end - shared.range_begin + sample_warps - 1) / sample_warps;
  }

  ORIEL_HOST_DEVICE static std::uint64_t kept_mass(const sample_scales& weights,
                                                   std::uint64_t cut,
                                                   float logit,
                                                   std::uint32_t id) {
    return order_of(logit, id) < cut ? 0 : weights.mass(weights.exponent(logit));
  }

  /// warp_value[w] = the mass of warp w's part of the range.
  template <class Group>
  ORIEL_HOST_DEVICE void add_range(Group& g,
                                   std::uint32_t part,
                                   sample_shared& shared,
                                   const float* logits) const {
    typename Group::template var<std::uint64_t> mass;
    g.each([&](std::uint32_t thread) {
      const std::uint32_t count = per_warp(shared);
      const std::uint32_t begin = shared.range_begin + thread / 32 * count;
      const std::uint32_t end = begin + count < shared.range_end ? begin + count : shared.range_end;
      const sample_scales weights = scales_of(shared, filters, filters.min_p);
      const std::uint64_t cut = shared.cut;
      mass[thread] = 0;
      for (std::uint32_t i = begin + thread % 32; i < end; i += 32) {
        mass[thread] += kept_mass(weights, cut, logits[i], tokens.id_of(part, i));
      }
    });
    const auto sum = g.sum_over_warp(mass);
    g.each([&](std::uint32_t thread) {
      if (thread % 32 == 0) {
        shared.warp_value[thread / 32] = sum[thread];
      }
    });
    g.sync();
  }

  /// The token that `left` falls on. @pre warp_value is of the range
  template <class Group>
  ORIEL_HOST_DEVICE void take_token(Group& g,
                                    std::uint32_t part,
                                    sample_shared& shared,
                                    const float* logits) const {
    while (true) {
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          enter_warp(shared);
        }
      });
      g.sync();
      const bool is_short = shared.range_end - shared.range_begin <= 32;
      if (is_short) {
        break;
      }
      add_range(g, part, shared, logits);
    }
    typename Group::template var<std::uint64_t> mass;
    g.each([&](std::uint32_t thread) {
      const sample_scales weights = scales_of(shared, filters, filters.min_p);
      const std::uint32_t i = shared.range_begin + thread;
      mass[thread] = i < shared.range_end
                         ? kept_mass(weights, shared.cut, logits[i], tokens.id_of(part, i))
                         : 0;
    });
    const auto before = g.scan_warp(mass);
    g.each([&](std::uint32_t thread) {
      if (thread < 32 && shared.left >= before[thread] &&
          shared.left - before[thread] < mass[thread]) {
        *out = {.id = token_id{tokens.id_of(part, shared.range_begin + thread)},
                .probability = static_cast<float>(static_cast<double>(mass[thread]) /
                                                  static_cast<double>(shared.total))};
      }
    });
    g.sync();
  }

  /// The range becomes that of the warp in which `left` falls.
  ORIEL_HOST_DEVICE static void enter_warp(sample_shared& shared) {
    const std::uint32_t count = per_warp(shared);
    std::uint32_t warp = 0;
    for (; shared.left >= shared.warp_value[warp]; ++warp) {
      shared.left -= shared.warp_value[warp];
    }
    shared.range_begin += warp * count;
    const std::uint32_t end = shared.range_begin + count;
    shared.range_end = end < shared.range_end ? end : shared.range_end;
  }
};

}  // namespace oriel::detail
