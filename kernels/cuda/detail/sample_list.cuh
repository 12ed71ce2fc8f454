// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A row's first tokens as a list, which one block of the cluster has for itself: filters and the
/// draw then cost a few tokens instead of a row, and barriers of a block instead of a cluster's.
///
///     top_k    all tokens whose logit is at least a bound that top_k tokens reach (sample_largest)
///     top_p    all tokens of near_exponent or more, where they hold top_p; of the masses of the
///              others only bounds are known
///
/// A warp lists those of its part of the row in their order, so that the list is in the order of
/// ids; no counter is shared. Where a warp finds more than it has room for, or all together do, or
/// near tokens hold too little, there is no list.
#pragma once

#include "row_vector.cuh"
#include "sample_tokens.cuh"

#include <oriel/core/mutation.hpp>

namespace oriel::detail {

struct sample_list {
  sample_tokens tokens;
  sample_filters filters;

  /// Each block finds its part and tells the others. Nobody reads the row behind it.
  template <bool ByMass, class Cluster>
  ORIEL_HOST_DEVICE void tell(Cluster& c, sample_slot* slots) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, const float* logits) {
      find<ByMass>(g, part, shared, logits);
      list(g, part, shared, logits, slots[part]);
      g.sync();
      g.each_warp([&](auto w, std::uint32_t warp) {
        if (warp == 0) {
          send<ByMass>(c, w, part, shared);
        }
      });
    });
  }

  /// @returns whether there is a list. Then every block's shared memory says how many tokens it has
  ///          of each block (list_begin), and the mass of the others (list_outside).
  template <bool ByMass, class Cluster>
  ORIEL_HOST_DEVICE bool hear(Cluster& c) const {
    c.each_part([&](auto g, std::uint32_t, sample_shared& shared, const float*) {
      const sample_message* messages = c.hear(g, shared);
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          judge<ByMass>(messages, shared);
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
        shared.list_value[i] = token.value;
        shared.list_id[i] = token.id;
      }
    });
    g.sync();
    const std::uint64_t base = order_of(shared.bound, last_id);
    return {.count = count,
            .part_tokens = count,
            .ids = shared.list_id,
            .outside_mass = shared.list_outside,
            .outside_spread = shared.list_outside_spread,
            .base = base,
            .order_bits = bits_of(order_of(shared.largest, 0) - base)};
  }

 private:
  /// Words of four tokens that a lane looks at together: their loads are under way together.
  static constexpr std::uint32_t words = 2;
  static constexpr std::uint32_t warp_batch = 32 * 4 * words;

  /// Each warp: positions in the part, and how many. By mass: the listed's and the others'.
  template <bool ByMass, class Group>
  ORIEL_HOST_DEVICE void find(Group& g,
                              std::uint32_t part,
                              sample_shared& shared,
                              const float* logits) const {
    const std::uint32_t n = (tokens.count_of(part) + 3) / 4 * 4;
    const std::uint32_t span =
        (n + warp_batch * sample_warps - 1) / (warp_batch * sample_warps) * warp_batch;
    g.each_warp([&](auto w, std::uint32_t warp) {
      const std::uint32_t begin = warp * span < n ? warp * span : n;
      find_in<ByMass>(w, warp, begin, begin + span < n ? begin + span : n, shared, logits);
    });
    g.sync();
  }

  /// Four tokens that have no mass.
  ORIEL_HOST_DEVICE static words16 nothing() {
    constexpr auto word = std::bit_cast<std::uint32_t>(negative_infinity);
    return {{word, word, word, word}};
  }

  /// What a lane finds in a word.
  struct word_look {
    std::uint32_t may_list;  ///< whether some of it may have to be listed
    float weight;            ///< by mass: of all, nearly
  };
  template <bool ByMass>
  ORIEL_HOST_DEVICE word_look look_at(const words16& word,
                                      float bound,
                                      const sample_scales& weights) const {
    const auto logit = [&](std::uint32_t i) { return std::bit_cast<float>(word.word[i]); };
    if constexpr (ByMass) {
      const float sum = (weights.near_weight(logit(0)) + weights.near_weight(logit(1))) +
                        (weights.near_weight(logit(2)) + weights.near_weight(logit(3)));
      return {sum < far_weight ? 0u : 1u, sum};  // A NaN is none less.
    } else {
      const float largest = ::fmaxf(::fmaxf(logit(0), logit(1)), ::fmaxf(logit(2), logit(3)));
      return {largest >= bound ? 1u : 0u, 0.0f};
    }
  }

  /// Of the tokens [begin, end) of the part; both are multiples of a word.
  template <bool ByMass, class Warp>
  ORIEL_HOST_DEVICE void find_in(Warp& w,
                                 std::uint32_t warp,
                                 std::uint32_t begin,
                                 std::uint32_t end,
                                 sample_shared& shared,
                                 const float* logits) const {
    const float bound = shared.bound;
    const sample_scales weights = scales_of(shared, filters, 0.0f);  // min_p comes after top_p.
    typename Warp::template var<std::uint32_t> may_list;
    typename Warp::template var<float> weight, far;
    typename Warp::template var<std::uint64_t> held;
    std::uint32_t listed = 0;
    for (; begin < end; begin += warp_batch) {
      w.each([&](std::uint32_t lane) {
        words16 word[words];
        ORIEL_UNROLL
        for (std::uint32_t j = 0; j < words; ++j) {
          const std::uint32_t i = begin + (j * 32 + lane) * 4;
          word[j] = i < end ? load_words(logits + i) : nothing();
        }
        may_list[lane] = 0;
        weight[lane] = 0.0f;
        ORIEL_UNROLL
        for (const words16& four : word) {
          const word_look found = look_at<ByMass>(four, bound, weights);
          may_list[lane] |= found.may_list;
          weight[lane] += found.weight;
        }
      });
      if (w.ballot(may_list)[0] != 0) {  // Seldom.
        listed = list_batch<ByMass>(
            w, warp, begin, end, bound, weights, listed, shared, logits, held, weight);
      }
      w.each([&](std::uint32_t lane) { far[lane] += weight[lane]; });
    }
    typename Warp::template var<std::uint64_t> rest;
    if constexpr (ByMass) {
      w.each([&](std::uint32_t lane) { rest[lane] = near_mass(far[lane]); });
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

  /// Lists those of a warp's words, in their order. Adds the mass of the listed to `held`; `weight`
  /// is what the others weigh. @returns listed, and what is new
  template <bool ByMass, class Warp>
  ORIEL_HOST_DEVICE std::uint32_t list_batch(Warp& w,
                                             std::uint32_t warp,
                                             std::uint32_t begin,
                                             std::uint32_t end,
                                             float bound,
                                             const sample_scales& weights,
                                             std::uint32_t listed,
                                             sample_shared& shared,
                                             const float* logits,
                                             typename Warp::template var<std::uint64_t>& held,
                                             typename Warp::template var<float>& weight) const {
    typename Warp::template var<std::uint32_t> is;
    w.each([&](std::uint32_t lane) { weight[lane] = 0.0f; });
    for (std::uint32_t j = 0; j < warp_batch / 32; ++j) {
      w.each([&](std::uint32_t lane) {
        const std::uint32_t i = begin + 32 * j + lane;
        const float logit = i < end ? logits[i] : negative_infinity;
        if constexpr (ByMass) {
          const float exponent = weights.exponent(logit);
          is[lane] = exponent >= near_exponent ? 1u : 0u;
          held[lane] += is[lane] != 0 ? weights.mass(exponent) : 0;
          const bool has_mass = is[lane] == 0 && exponent >= sample_scales::lowest_exponent;
          weight[lane] += has_mass ? weights.near_weight(logit) : 0.0f;
        } else {
          is[lane] = logit >= bound ? 1u : 0u;
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
    return listed;
  }

  /// What a block found, to device memory.
  template <class Group>
  ORIEL_HOST_DEVICE void list(Group& g,
                              std::uint32_t part,
                              const sample_shared& shared,
                              const float* logits,
                              sample_slot& slot) const {
    g.each([&](std::uint32_t thread) {
      std::uint32_t before = 0, most = 0;
      for (std::uint32_t warp = 0; warp < sample_warps; ++warp) {
        const std::uint32_t listed = shared.warp_listed[warp];
        before += warp < thread / 32 ? listed : 0;
        most = listed > most ? listed : most;
      }
      const std::uint32_t listed = most <= sample_warp_list ? shared.warp_listed[thread / 32] : 0;
      for (std::uint32_t i = thread % 32; i < listed; i += 32) {
        const std::uint32_t at = shared.found[thread / 32][i];
        slot.list[before + i] = {logits[at], tokens.id_of(part, at)};
      }
    });
  }

  /// The numbers, to all blocks: held; how many, and the others' mass.
  template <bool ByMass, class Cluster, class Warp>
  ORIEL_HOST_DEVICE void send(Cluster& c,
                              Warp& w,
                              std::uint32_t part,
                              sample_shared& shared) const {
    w.each([&](std::uint32_t lane) {
      if (lane == 0) {
        c.publish();
      }
    });
    w.sync_warp();
    w.each([&](std::uint32_t lane) {
      if (lane < sample_parts) {
        std::uint32_t listed = 0, most = 0;
        for (const std::uint32_t n : shared.warp_listed) {
          listed += n;
          most = n > most ? n : most;
        }
        const std::uint64_t count = most <= sample_warp_list ? listed : no_list;
        c.send(shared,
               part,
               lane,
               {ByMass ? sum_of(shared.warp_value) : 0,
                (count << rest_bits) | (ByMass ? sum_of(shared.warp_rest) : 0)});
      }
    });
  }
  /// The others have less than near_exponent each, so all together less mass than that.
  static constexpr std::uint32_t rest_bits = 52;
  static constexpr std::uint32_t no_list = (1u << (64 - rest_bits)) - 1;
  static_assert(no_list > sample_warps * sample_warp_list && no_list > sample_list_max);
  static_assert(sample_vocabulary_max / 2'981 < 1u << (rest_bits - 44));

  /// As top_k's, of tokens of near_exponent: a little less, for what rounding does.
  ORIEL_HOST_DEVICE float mass_bound(float largest) const {
    return largest + near_exponent * 1.0001f * filters.temperature;
  }

  template <bool ByMass>
  ORIEL_HOST_DEVICE void judge(const sample_message* messages, sample_shared& shared) const {
    std::uint64_t held = 0, rest = 0;
    std::uint32_t listed = 0;
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < sample_parts; ++p) {
      shared.list_begin[p] = listed;
      listed += static_cast<std::uint32_t>(messages[p].second >> rest_bits);
      held += messages[p].first;
      rest += messages[p].second & ((std::uint64_t{1} << rest_bits) - 1);
    }
    shared.list_begin[sample_parts] = listed;
    const mass_bounds outside = ByMass && !ORIEL_MUTANT(far_tokens_have_no_mass)
                                    ? bounds_of(rest, tokens.count + sample_parts * sample_threads)
                                    : mass_bounds{0, 0};
    shared.list_outside = outside.low;
    shared.list_outside_spread = ORIEL_MUTANT(top_p_trusts_near_masses) ? 0 : outside.spread;
    const bool fits = listed <= sample_list_max;
    const bool holds =
        !ByMass || held >= top_p_target(filters, held + outside.low + outside.spread);
    shared.is_listed = fits && holds ? 1u : 0u;
    shared.bound = ByMass ? mass_bound(shared.largest) : shared.bound;
    shared.may_be_unsure |= ByMass ? 1u : 0u;
  }
};

}  // namespace oriel::detail
