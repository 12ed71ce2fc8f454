// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sampling a row in one pass over its logits: what a cluster of 8 blocks does. Each block keeps an
/// eighth of the row in shared memory; all that follows reads it there.
///
///     load      sample_load.cuh: keys; copied while the row before is finished
///     largest   the largest key and its lowest id: all that greedy needs
///     list      sample_list.cuh: the few tokens that top_k or top_p can keep, to one block, which
///               does the rest alone. Where there is no such list, all blocks do, over the row:
///     select    sample_select.cuh: the last token of top_k's or top_p's prefix
///     draw      sample_draw.cuh: the token
///
/// Counts and masses are integers (kernels/sample.hpp), so no sum has an order, and the result has
/// the bits of the host's. Blocks tell each other by slots in device memory, two sets of them in
/// turn, so that one barrier of the cluster between writing and reading is enough: who writes a set
/// again has passed the barrier that everybody reaches only after reading it. The block with the
/// list reads it until it comes to the next row's barrier.
#pragma once

#include "sample_draw.cuh"
#include "sample_list.cuh"
#include "sample_load.cuh"
#include "sample_select.cuh"

namespace oriel::detail {

/// Two numbers of each thread.
struct number_pair {
  std::uint32_t first;
  std::uint32_t second;
};

/// The largest of all threads' first numbers, and of their second, to all.
/// @param slots  [threads / 32], free before and after
template <class Group>
ORIEL_HOST_DEVICE typename Group::template var<number_pair> largest_of_group(
    Group& g,
    const typename Group::template var<std::uint32_t>& first,
    const typename Group::template var<std::uint32_t>& second,
    std::uint64_t* slots) {
  const auto a = g.template max_over<32>(first);
  const auto b = g.template max_over<32>(second);
  g.each([&](std::uint32_t thread) {
    if (thread % 32 == 0) {
      slots[thread / 32] = (std::uint64_t{a[thread]} << 32) | b[thread];
    }
  });
  g.sync();
  typename Group::template var<number_pair> largest;
  g.each([&](std::uint32_t thread) {
    largest[thread] = {0, 0};
    for (std::uint32_t warp = 0; warp < Group::threads / 32; ++warp) {
      const auto x = static_cast<std::uint32_t>(slots[warp] >> 32);
      const auto y = static_cast<std::uint32_t>(slots[warp]);
      largest[thread].first = x > largest[thread].first ? x : largest[thread].first;
      largest[thread].second = y > largest[thread].second ? y : largest[thread].second;
    }
  });
  g.sync();
  return largest;
}

/// A block as a cluster of its own.
template <class Group>
class single_block {
 public:
  static constexpr std::uint32_t parts = 1;

  ORIEL_HOST_DEVICE single_block(const Group& g, sample_shared& shared, std::uint32_t* keys)
      : group_(g), shared_(shared), keys_(keys) {}

  template <class F>
  ORIEL_HOST_DEVICE void each_part(F&& f) {
    f(group_, 0u, shared_, keys_);
  }
  ORIEL_HOST_DEVICE void sync() { group_.sync(); }
  ORIEL_HOST_DEVICE const sample_shared& front() const { return shared_; }

 private:
  Group group_;
  sample_shared& shared_;
  std::uint32_t* keys_;
};

struct sample_agent {
  std::uint32_t vocabulary;
  std::uint32_t part_tokens;  ///< of a block; a multiple of 8
  sample_args args;

  /// Before the first call: starts to load that row.
  template <class Cluster>
  ORIEL_HOST_DEVICE void begin(Cluster& c, std::uint32_t row) const {
    load().begin(c, row);
  }

  /// @param next_row  the cluster's next; `row` where there is none
  /// @param slots     [sample_slots] of this cluster
  /// @param turn      which of the two sets is next; the same for all blocks
  template <class Cluster>
  ORIEL_HOST_DEVICE void operator()(Cluster& c,
                                    std::uint32_t row,
                                    std::uint32_t next_row,
                                    sample_slot* slots,
                                    std::uint32_t& turn) const {
    const sample_row& how = args.rows.data()[row];
    const sample_filters filters = how.filters;
    const sample_tokens tokens = load().tokens;
    const auto next_slots = [&] { return slots + (turn++ % 2) * sample_parts; };
    const bool is_greedy = filters.temperature == 0.0f;
    const bool lists_count =
        !is_greedy && cuts_count(filters) && filters.top_k <= sample_list_top_k;
    const bool lists_mass = !is_greedy && !cuts_count(filters) && filters.top_p < 1.0f;

    load().end(c, row, how.adjustments);
    find_largest(c, tokens, how, lists_count ? filters.top_k : 0, next_slots());
    const bool is_dead = c.front().largest_key <= lowest_key;
    const bool draws = !is_dead && !is_greedy;
    bool is_listed = false;
    sample_slot* told = nullptr;
    if (draws && (lists_count || lists_mass)) {
      const sample_list list{tokens, filters};
      told = next_slots();
      is_listed =
          lists_count ? list.template make<false>(c, told) : list.template make<true>(c, told);
    }
    if (draws && !is_listed) {
      finish(c, tokens, row, filters, next_slots);
    }
    if (next_row != row) {
      begin(c, next_row);
    }
    if (is_listed) {
      finish_alone(c, row, filters, told, slots + 2 * sample_parts);
    } else if (!draws) {
      put(c,
          row,
          {.id = is_dead ? token_id{0} : token_id{c.front().first_id},
           .probability = is_dead ? 0.0f : 1.0f});
    }
  }

 private:
  ORIEL_HOST_DEVICE bool cuts_count(const sample_filters& filters) const {
    return filters.top_k != 0 && filters.top_k < vocabulary;
  }
  ORIEL_HOST_DEVICE sample_load load() const {
    return {{vocabulary, part_tokens}, args.logits, args.logits_stride};
  }

  /// Filters and the draw. @param tokens  all that may be kept
  template <class Cluster, class NextSlots>
  ORIEL_HOST_DEVICE void finish(Cluster& c,
                                const sample_tokens& tokens,
                                std::uint32_t row,
                                const sample_filters& filters,
                                const NextSlots& next_slots) const {
    const sample_select select{tokens, filters};
    if (cuts_count(filters)) {
      select.template raise_cut<false>(c, next_slots);
    }
    if (filters.top_p < 1.0f) {
      select.template raise_cut<true>(c, next_slots);
    }
    sample_draw{tokens, filters, &args.out.data()[row]}(c, next_slots());
  }

  /// The first block does. The others go on to the next row, which is on its way.
  template <class Cluster>
  ORIEL_HOST_DEVICE void finish_alone(Cluster& c,
                                      std::uint32_t row,
                                      const sample_filters& filters,
                                      const sample_slot* told,
                                      sample_slot* own) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, std::uint32_t*) {
      if (part == 0) {
        const sample_tokens listed = sample_list::take(g, told, shared);
        single_block<decltype(g)> block(g, shared, shared.list_key);
        finish(block, listed, row, filters, [&] { return own; });
        g.sync();
      }
    });
  }

  template <class Cluster>
  ORIEL_HOST_DEVICE void put(Cluster& c, std::uint32_t row, const sampled_token& token) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared&, std::uint32_t*) {
      g.each([&](std::uint32_t thread) {
        if (part == 0 && thread == 0) {
          args.out.data()[row] = token;
        }
      });
      g.sync();
    });
  }

  /// Also the random number, the cut that keeps all numbers, and, for top_k > 0, a bound that top_k
  /// keys reach: of a block's 16 warps each has top_k / 16 threads whose largest keys do, or of all
  /// blocks' 128 each has top_k / 128. The first holds where blocks differ, the second is higher
  /// where they do not.
  template <class Cluster>
  ORIEL_HOST_DEVICE static void find_largest(Cluster& c,
                                             const sample_tokens& tokens,
                                             const sample_row& how,
                                             std::uint32_t top_k,
                                             sample_slot* slots) {
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, std::uint32_t* keys) {
      tell_largest(g, tokens, part, keys, top_k, shared.warp_value, slots[part]);
    });
    c.sync();
    c.each_part([&](auto g, std::uint32_t, sample_shared& shared, std::uint32_t*) {
      g.each([&](std::uint32_t thread) {
        if (thread == sample_threads - 1) {
          shared.random = sample_random(how.seed, how.position);
        }
        if (thread == 0) {
          take_largest(slots, shared);
        }
      });
      g.sync();
    });
  }

  struct largest_key {
    std::uint32_t key;
    std::uint32_t word;  ///< of four keys, the first that has it
  };
  /// Of a thread's part of `n` keys. Key 0 where it has none.
  ORIEL_HOST_DEVICE static largest_key largest_of_thread(const std::uint32_t* keys,
                                                         std::uint32_t n,
                                                         std::uint32_t thread) {
    largest_key found{0, 0};
    for (std::uint32_t i = thread; i < (n + 3) / 4; i += sample_threads) {
      const words16 w = load_words(keys + i * 4);
      const std::uint32_t low = w.word[0] > w.word[1] ? w.word[0] : w.word[1];
      const std::uint32_t high = w.word[2] > w.word[3] ? w.word[2] : w.word[3];
      const std::uint32_t larger = low > high ? low : high;
      found.word = larger > found.key ? i : found.word;
      found.key = larger > found.key ? larger : found.key;
    }
    return found;
  }

  /// What find_largest asks of a block.
  template <class Group>
  ORIEL_HOST_DEVICE static void tell_largest(Group& g,
                                             const sample_tokens& tokens,
                                             std::uint32_t part,
                                             const std::uint32_t* keys,
                                             std::uint32_t top_k,
                                             std::uint64_t* warp_value,
                                             sample_slot& slot) {
    const std::uint32_t n = tokens.count_of(part);
    typename Group::template var<std::uint32_t> key, word, inverted_id, not_in_block, not_in_all;
    g.each([&](std::uint32_t thread) {
      const largest_key found = largest_of_thread(keys, n, thread);
      key[thread] = found.key;
      word[thread] = found.word;
    });
    auto left = key;
    for (std::uint32_t k = 0; k < top_k; k += sample_warps) {
      const bool is_of_all = k * sample_parts < top_k;
      const auto best = g.template max_over<32>(left);
      g.each([&](std::uint32_t thread) {
        not_in_block[thread] = ~best[thread];
        not_in_all[thread] = is_of_all ? ~best[thread] : not_in_all[thread];
        left[thread] = left[thread] == best[thread] ? 0 : left[thread];
      });
    }
    const auto largest = largest_of_group(g, key, not_in_block, warp_value);
    g.each([&](std::uint32_t thread) {
      inverted_id[thread] = 0;
      if (key[thread] == largest[thread].first && n != 0) {
        std::uint32_t i = word[thread] * 4;
        while (keys[i] != key[thread]) {
          ++i;
        }
        inverted_id[thread] = ~tokens.id_of(part, i);
      }
    });
    const auto first = largest_of_group(g, inverted_id, not_in_all, warp_value);
    g.each([&](std::uint32_t thread) {
      if (thread == 0) {
        slot.value = (std::uint64_t{largest[thread].first} << 32) | first[thread].first;
        slot.bound = ~largest[thread].second;
        slot.bound_of_all = ~first[thread].second;
      }
    });
  }

  /// Of what all blocks told.
  ORIEL_HOST_DEVICE static void take_largest(const sample_slot* slots, sample_shared& shared) {
    std::uint64_t best = 0;
    std::uint32_t bound = lowest_key + 1, bound_of_all = UINT32_MAX;
    for (std::uint32_t p = 0; p < sample_parts; ++p) {
      best = slots[p].value > best ? slots[p].value : best;
      bound = slots[p].bound > bound ? slots[p].bound : bound;
      const std::uint32_t other = slots[p].bound_of_all;
      bound_of_all = other < bound_of_all ? other : bound_of_all;
    }
    shared.cut = first_order;
    shared.bound = bound_of_all > bound ? bound_of_all : bound;
    shared.largest_key = static_cast<std::uint32_t>(best >> 32);
    shared.first_id = ~static_cast<std::uint32_t>(best);
  }
};

}  // namespace oriel::detail
