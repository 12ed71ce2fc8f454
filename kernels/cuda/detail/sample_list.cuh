// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A row's first tokens as a list, which one block of the cluster has for itself: filters and the
/// draw then cost a few tokens instead of a row, and barriers of a block instead of a cluster's.
///
///     top_k    all tokens whose key is at least a bound that top_k tokens reach (find_largest)
///     top_p    all tokens of near_exponent or more, where they hold top_p; the masses of the
///              others are only added up
///
/// A warp lists those of its part of the row in their order, so that the list is in the order of
/// ids; no counter is shared. Where a warp finds more than it has room for, or all together do, or
/// near tokens hold too little, there is no list.
#pragma once

#include "sample_tokens.cuh"

#include <oriel/core/mutation.hpp>

namespace oriel::detail {

struct sample_list {
  sample_tokens tokens;
  sample_filters filters;

  /// @returns whether there is one. Then every block's shared memory says how many tokens it has
  ///          (list_begin), the mass of the others (list_outside).
  template <bool ByMass, class Cluster>
  ORIEL_HOST_DEVICE bool make(Cluster& c, sample_slot* slots) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, std::uint32_t* keys) {
      find<ByMass>(g, part, shared, keys);
      tell<ByMass>(g, part, shared, keys, slots[part]);
    });
    c.sync();
    c.each_part([&](auto g, std::uint32_t, sample_shared& shared, std::uint32_t*) {
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          judge<ByMass>(slots, shared);
        }
      });
      g.sync();
    });
    return c.front().is_listed != 0;
  }

  /// Brings the list to a block. @returns it, for a cluster of this block
  template <class Group>
  ORIEL_HOST_DEVICE static sample_tokens take(Group& g,
                                              const sample_slot* slots,
                                              sample_shared& shared) {
    const std::uint32_t count = shared.list_begin[sample_parts];
    g.each([&](std::uint32_t thread) {
      std::uint32_t part = 0;
      for (std::uint32_t i = thread; i < count; i += sample_threads) {
        while (i >= shared.list_begin[part + 1]) {
          ++part;
        }
        const sample_listed token = slots[part].list[i - shared.list_begin[part]];
        shared.list_key[i] = token.key;
        shared.list_id[i] = token.id;
      }
    });
    g.sync();
    return {count, count, shared.list_id, shared.list_outside};
  }

 private:
  static constexpr std::uint32_t batch = 4;  ///< keys that a lane looks at together
  struct some_keys {
    std::uint32_t of[batch];
  };

  /// Each warp: positions in the part, and how many. By mass: the listed's and the others'.
  template <bool ByMass, class Group>
  ORIEL_HOST_DEVICE void find(Group& g,
                              std::uint32_t part,
                              sample_shared& shared,
                              const std::uint32_t* keys) const {
    const std::uint32_t n = tokens.count_of(part);
    const std::uint32_t span = (n + 32 * sample_warps - 1) / (32 * sample_warps) * 32;
    g.each_warp([&](auto w, std::uint32_t warp) {
      const std::uint32_t begin = warp * span < n ? warp * span : n;
      find_in<ByMass>(w, warp, begin, begin + span < n ? begin + span : n, shared, keys);
    });
    g.sync();
  }

  /// Of the tokens [begin, end) of the part.
  template <bool ByMass, class Warp>
  ORIEL_HOST_DEVICE void find_in(Warp& w,
                                 std::uint32_t warp,
                                 std::uint32_t begin,
                                 std::uint32_t end,
                                 sample_shared& shared,
                                 const std::uint32_t* keys) const {
    const std::uint32_t bound = shared.bound;
    const sample_scales weights = scales_of(shared, filters, 0.0f);  // min_p comes after top_p.
    typename Warp::template var<some_keys> some;
    typename Warp::template var<std::uint32_t> far, is;
    typename Warp::template var<std::uint64_t> held, rest;
    std::uint32_t listed = 0;
    for (; begin < end; begin += 32 * batch) {
      w.each([&](std::uint32_t lane) {
        some[lane] = load(begin + lane, end, keys);
        is[lane] = 0;
        ORIEL_UNROLL
        for (std::uint32_t key : some[lane].of) {
          if constexpr (!ByMass) {
            is[lane] |= key >= bound ? 1u : 0u;
          } else {
            const float exponent = weights.quick_exponent(key);
            const bool is_far = exponent < far_exponent;
            far[lane] += far_mass(is_far ? exponent : -80.0f);  // 0; four without a branch.
            is[lane] |= is_far ? 0u : 1u;
          }
        }
      });
      if (w.ballot(is)[0] == 0) {
        continue;
      }
      for (std::uint32_t j = 0; j < batch; ++j) {  // Seldom.
        w.each([&](std::uint32_t lane) {
          const std::uint32_t i = begin + 32 * j + lane, key = i < end ? keys[i] : 0;
          is[lane] = key >= bound ? 1u : 0u;
          if constexpr (ByMass) {
            const float exponent = weights.exponent(key);
            const std::uint64_t mass = exponent >= far_exponent ? weights.mass(exponent) : 0;
            is[lane] = exponent >= near_exponent ? 1u : 0u;
            held[lane] += is[lane] != 0 ? mass : 0;
            rest[lane] += is[lane] != 0 ? 0 : mass;
          }
        });
        const std::uint32_t mask = w.ballot(is)[0];
        w.each([&](std::uint32_t lane) {
          const std::uint32_t place = listed + set_bits(mask & ((1u << lane) - 1));
          if (is[lane] != 0 && place < sample_warp_list) {
            shared.found[warp][place] = static_cast<std::uint16_t>(begin + 32 * j + lane);
          }
        });
        listed += set_bits(mask);
      }
    }
    if constexpr (ByMass) {
      w.each([&](std::uint32_t lane) { rest[lane] += far[lane]; });
      held = w.sum_over_warp(held);
      rest = w.sum_over_warp(rest);
    }
    w.each([&](std::uint32_t lane) {
      if (lane == 0) {
        shared.warp_value[warp] = held[lane];
        shared.warp_rest[warp] = rest[lane];
        shared.warp_listed[warp] = listed;
      }
    });
  }

  /// Keys i, i + 32, ...; 0 from `end` on, which is in no list and weighs nothing.
  ORIEL_HOST_DEVICE static some_keys load(std::uint32_t i,
                                          std::uint32_t end,
                                          const std::uint32_t* keys) {
    some_keys some;
    if (i + 32 * (batch - 1) < end) {
      ORIEL_UNROLL
      for (std::uint32_t j = 0; j < batch; ++j) {
        some.of[j] = keys[i + 32 * j];
      }
    } else {
      ORIEL_UNROLL
      for (std::uint32_t j = 0; j < batch; ++j) {
        some.of[j] = i + 32 * j < end ? keys[i + 32 * j] : 0;
      }
    }
    return some;
  }

  template <bool ByMass, class Group>
  ORIEL_HOST_DEVICE void tell(Group& g,
                              std::uint32_t part,
                              const sample_shared& shared,
                              const std::uint32_t* keys,
                              sample_slot& slot) const {
    g.each([&](std::uint32_t thread) {
      std::uint32_t before = 0, all = 0, most = 0;
      for (std::uint32_t warp = 0; warp < sample_warps; ++warp) {
        const std::uint32_t listed = shared.warp_listed[warp];
        before += warp < thread / 32 ? listed : 0;
        all += listed;
        most = listed > most ? listed : most;
      }
      if (thread == 0) {
        slot.listed = most <= sample_warp_list ? all : no_list;
        slot.value = ByMass ? sum_of(shared.warp_value) : 0;
        slot.rest = ByMass ? sum_of(shared.warp_rest) : 0;
      }
      if (most <= sample_warp_list) {
        for (std::uint32_t i = thread % 32; i < shared.warp_listed[thread / 32]; i += 32) {
          const std::uint32_t at = shared.found[thread / 32][i];
          slot.list[before + i] = {keys[at], tokens.id_of(part, at)};
        }
      }
    });
  }
  static constexpr std::uint32_t no_list = 1u << 24;

  template <bool ByMass>
  ORIEL_HOST_DEVICE void judge(const sample_slot* slots, sample_shared& shared) const {
    std::uint64_t held = 0, rest = 0;
    std::uint32_t listed = 0;
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < sample_parts; ++p) {
      shared.list_begin[p] = listed;
      listed += slots[p].listed;
      held += slots[p].value;
      rest += slots[p].rest;
    }
    shared.list_begin[sample_parts] = listed;
    shared.list_outside = ORIEL_MUTANT(far_tokens_have_no_mass) ? 0 : rest;
    const bool fits = listed <= sample_list_max;
    const bool holds = !ByMass || held >= top_p_target(filters, held + rest);
    shared.is_listed = fits && holds ? 1u : 0u;
  }
};

}  // namespace oriel::detail
