// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The largest logit of a row, to all blocks of the cluster. Of a greedy row also its lowest id: the
/// token. Of a row with a top_k that is listed also a bound that top_k tokens reach, by keys
/// (integers of the same order) of the threads' largest logits:
///
///     in one block   of whose 16 warps each has top_k / 16 threads that reach it
///     in all         of which each has top_k / 8, at one or two a warp, in as many warps as it takes
///
/// The first holds where blocks differ, the second is higher where they do not; the greater counts.
#pragma once

#include "row_vector.cuh"
#include "sample_tokens.cuh"

namespace oriel::detail {

struct sample_largest {
  sample_tokens tokens;

  /// Each block finds its own and tells the others. Of a greedy row nobody reads logits behind it.
  /// @param top_k  0: no bound
  template <class Cluster>
  ORIEL_HOST_DEVICE void tell(Cluster& c, bool is_greedy, std::uint32_t top_k) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, const float* logits) {
      find(g, part, logits, is_greedy, top_k, shared);
      g.sync();
      g.each_warp([&](auto w, std::uint32_t warp) {
        if (warp == 0) {
          send(c, w, part, top_k, shared);
        }
      });
    });
  }

  /// What all told, in every block's shared memory: largest, first_id (of greedy rows), bound (with
  /// a top_k, else a NaN that nobody reads); also the cut that keeps all numbers.
  template <class Cluster>
  ORIEL_HOST_DEVICE static void hear(Cluster& c) {
    c.each_part([&](auto g, std::uint32_t, sample_shared& shared, float*) {
      const sample_message* messages = c.hear(g, shared);
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          take(messages, shared);
        }
      });
      g.sync();
    });
  }

 private:
  struct largest_logit {
    float value;
    std::uint32_t word;  ///< of four logits, the first that has it
  };
  /// Of a thread's part of `n` logits; -infinity where it has no number.
  ORIEL_HOST_DEVICE static largest_logit largest_of_thread(const float* logits,
                                                           std::uint32_t n,
                                                           std::uint32_t thread) {
    largest_logit found{negative_infinity, 0};
    ORIEL_UNROLL_BY(5)
    for (std::uint32_t i = thread; i < (n + 3) / 4; i += sample_threads) {
      const words16 w = load_words(logits + i * 4);
      const auto logit = [&](std::uint32_t j) { return std::bit_cast<float>(w.word[j]); };
      const float larger = ::fmaxf(::fmaxf(logit(0), logit(1)), ::fmaxf(logit(2), logit(3)));
      found.word = larger > found.value ? i : found.word;
      found.value = larger > found.value ? larger : found.value;
    }
    return found;
  }

  /// What each warp has.
  template <class Group>
  ORIEL_HOST_DEVICE void find(Group& g,
                              std::uint32_t part,
                              const float* logits,
                              bool is_greedy,
                              std::uint32_t top_k,
                              sample_shared& shared) const {
    typename Group::template var<std::uint32_t> key, word, inverted_id, not_in_block, in_all;
    g.each([&](std::uint32_t thread) {
      const largest_logit found = largest_of_thread(logits, tokens.count_of(part), thread);
      key[thread] = ordered_key(found.value);
      word[thread] = found.word;
    });
    const auto largest = g.template max_over<32>(key);
    if (is_greedy) {
      g.each([&](std::uint32_t thread) {
        if (key[thread] == largest[thread] && key[thread] > lowest_key) {
          std::uint32_t i = word[thread] * 4;
          while (ordered_key(logits[i]) != key[thread]) {
            ++i;
          }
          inverted_id[thread] = ~tokens.id_of(part, i);
        }
      });
      inverted_id = g.template max_over<32>(inverted_id);
    }
    auto left = key;
    for (std::uint32_t k = 0; k < top_k; k += sample_warps) {
      const bool is_of_all = k * sample_parts < top_k;
      const auto best = g.template max_over<32>(left);
      g.each([&](std::uint32_t thread) {
        not_in_block[thread] = ~best[thread];
        in_all[thread] = is_of_all ? best[thread] : in_all[thread];
        left[thread] = left[thread] == best[thread] ? 0 : left[thread];
      });
    }
    g.each([&](std::uint32_t thread) {
      if (thread % 32 == 0) {
        shared.warp_largest[thread / 32] = {
            largest[thread], inverted_id[thread], not_in_block[thread], in_all[thread]};
      }
    });
  }

  /// How many of a block's warps have to reach the bound of all.
  ORIEL_HOST_DEVICE static std::uint32_t warps_of_all(std::uint32_t top_k) {
    constexpr std::uint32_t all_warps = sample_parts * sample_warps;
    const std::uint32_t of_warp = (top_k + all_warps - 1) / all_warps;
    return (top_k + sample_parts * of_warp - 1) / (sample_parts * of_warp);
  }
  /// How many have more than that one for it.
  ORIEL_HOST_DEVICE static std::uint32_t warps_before(const sample_shared& shared,
                                                      std::uint32_t warp) {
    const std::uint32_t own = shared.warp_largest[warp].in_all;
    std::uint32_t before = 0;
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < sample_warps; ++i) {
      const std::uint32_t other = shared.warp_largest[i].in_all;
      before += other > own || (other == own && i < warp) ? 1 : 0;
    }
    return before;
  }

  /// The block's, to all: its largest key and that one's lowest id; the bounds.
  template <class Cluster, class Warp>
  ORIEL_HOST_DEVICE static void send(
      Cluster& c, Warp& w, std::uint32_t part, std::uint32_t top_k, sample_shared& shared) {
    typename Warp::template var<std::uint32_t> key, inverted_id, not_in_block, in_all;
    w.each([&](std::uint32_t lane) {
      if (lane < sample_warps) {
        const sample_warp_largest of = shared.warp_largest[lane];
        key[lane] = of.key;
        inverted_id[lane] = of.inverted_id;
        not_in_block[lane] = of.not_in_block;
        const bool is_last = top_k != 0 && warps_before(shared, lane) == warps_of_all(top_k) - 1;
        in_all[lane] = is_last ? of.in_all : 0;
      }
    });
    const auto largest = w.template max_over<32>(key);
    w.each([&](std::uint32_t lane) {
      inverted_id[lane] = key[lane] == largest[lane] ? inverted_id[lane] : 0;
    });
    inverted_id = w.template max_over<32>(inverted_id);
    not_in_block = w.template max_over<32>(not_in_block);
    in_all = w.template max_over<32>(in_all);
    w.each([&](std::uint32_t lane) {
      if (lane < sample_parts) {
        c.send(shared,
               part,
               lane,
               {(std::uint64_t{largest[lane]} << 32) | inverted_id[lane],
                (std::uint64_t{~not_in_block[lane]} << 32) | in_all[lane]});
      }
    });
  }

  ORIEL_HOST_DEVICE static void take(const sample_message* messages, sample_shared& shared) {
    std::uint64_t best = 0;
    std::uint32_t bound = lowest_key + 1, bound_of_all = UINT32_MAX;
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < sample_parts; ++p) {
      const sample_message m = messages[p];
      const auto in_block = static_cast<std::uint32_t>(m.second >> 32);
      const auto in_all = static_cast<std::uint32_t>(m.second);
      best = m.first > best ? m.first : best;
      bound = in_block > bound ? in_block : bound;
      bound_of_all = in_all < bound_of_all ? in_all : bound_of_all;
    }
    shared.cut = first_order;
    shared.bound = value_of_key(bound_of_all > bound ? bound_of_all : bound);
    shared.largest = value_of_key(static_cast<std::uint32_t>(best >> 32));
    shared.first_id = ~static_cast<std::uint32_t>(best);
  }
};

}  // namespace oriel::detail
