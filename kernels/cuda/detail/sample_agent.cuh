// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sampling a row in one pass over its logits: what a cluster of 8 blocks does. Each block keeps an
/// eighth of the row in shared memory; all that follows reads it there.
///
///     load      penalties and biases are applied, then a logit becomes a key of the same order
///     largest   its key and lowest id: all that greedy needs
///     select    the last token of top_k's or top_p's prefix, by histograms of 10 bits of
///               (key, inverted id) at a time: of counts, or of masses. Exact, ties included.
///               Masses of the many tokens far below the largest are only added up at first; the
///               few near it hold top_p nearly always. Where they do not, the others follow.
///     draw      masses by id: which block, which warp of it, which part of its part, ..., which
///               token
///
/// Counts and masses are integers (kernels/sample.hpp), so no sum has an order, and the result has
/// the bits of the host's. Blocks tell each other by slots in device memory, two sets of them in
/// turn, so that one barrier of the cluster between writing and reading is enough: who writes a set
/// again has passed the barrier that everybody reaches only after reading it.
///
/// A cluster, on a device or on the host:
///
///     c.each_part(f)   f(group, part, shared, keys) for each block (a device: for its own)
///     c.sync()         a barrier among all; what was written before is seen after
///     c.front()        the shared memory of a block; asked for what all blocks have alike
///     c.fetch_ahead(p, bytes)   brings memory that is read later nearer; a hint
#pragma once

#include "moe_route_agent.cuh"
#include "row_vector.cuh"
#include "sample_shared.hpp"
#include "scalar_math.cuh"
#include "thread_group.cuh"

#include <oriel/core/mutation.hpp>
#include <oriel/kernels/sample.hpp>

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

/// The largest of all threads' numbers, to all. @param slots  [threads / 32], free before and after
template <class Group>
ORIEL_HOST_DEVICE typename Group::template var<std::uint32_t> largest_of_group(
    Group& g, const typename Group::template var<std::uint32_t>& v, std::uint64_t* slots) {
  auto largest = g.template max_over<32>(v);
  g.each([&](std::uint32_t thread) {
    if (thread % 32 == 0) {
      slots[thread / 32] = largest[thread];
    }
  });
  g.sync();
  g.each([&](std::uint32_t thread) {
    for (std::uint32_t warp = 0; warp < Group::threads / 32; ++warp) {
      const auto other = static_cast<std::uint32_t>(slots[warp]);
      largest[thread] = other > largest[thread] ? other : largest[thread];
    }
  });
  g.sync();
  return largest;
}

struct sample_agent {
  std::uint32_t vocabulary;
  std::uint32_t part_tokens;  ///< of a block; a multiple of 8
  sample_args args;

  /// @param next_row  the cluster's next; `row` where there is none
  /// @param slots     [2, sample_parts] of this cluster
  /// @param turn      which of the two sets is next; the same for all blocks
  template <class Cluster>
  ORIEL_HOST_DEVICE void operator()(Cluster& c,
                                    std::uint32_t row,
                                    std::uint32_t next_row,
                                    sample_slot* slots,
                                    std::uint32_t& turn) const {
    const sample_row how = args.rows.data()[row];
    const auto next_slots = [&] { return slots + (turn++ % 2) * sample_parts; };
    load(c, row, next_row, how.adjustments);
    find_largest(c, next_slots());
    if (c.front().largest_key <= dead_key) {
      put(c, row, {.id = token_id{0}, .probability = 0.0f});
      return;
    }
    if (how.filters.temperature == 0.0f) {
      put(c, row, {.id = token_id{c.front().first_id}, .probability = 1.0f});
      return;
    }
    c.each_part([&](auto g, std::uint32_t, sample_shared& shared, std::uint32_t*) {
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          shared.cut = order_of(dead_key + 1, (1u << sample_id_bits) - 1);
        }
      });
      g.sync();
    });
    if (how.filters.top_k != 0 && how.filters.top_k < vocabulary) {
      select<false>(c, how.filters, next_slots);
    }
    if (how.filters.top_p < 1.0f) {
      select<true>(c, how.filters, next_slots);
    }
    draw(c, row, how, next_slots());
  }

 private:
  static constexpr std::uint32_t dead_key = 0x007F'FFFFu;  // Of -infinity, and of NaN.

  /// Greater for the token that comes first: larger key, then lower id.
  ORIEL_HOST_DEVICE static std::uint64_t order_of(std::uint32_t key, std::uint32_t id) {
    return (std::uint64_t{key} << sample_id_bits) | ((1u << sample_id_bits) - 1 - id);
  }
  ORIEL_HOST_DEVICE std::uint32_t first_of(std::uint32_t part) const { return part * part_tokens; }
  ORIEL_HOST_DEVICE const float* logits_of(std::uint32_t row, std::uint32_t part) const {
    return args.logits + row * args.logits_stride + first_of(part);
  }
  /// Of `n` keys.
  ORIEL_HOST_DEVICE static std::uint32_t whole_words(std::uint32_t n) { return (n + 3) / 4; }
  ORIEL_HOST_DEVICE std::uint32_t tokens_of(std::uint32_t part) const {
    const std::uint32_t first = first_of(part);
    return first >= vocabulary                ? 0
           : vocabulary - first < part_tokens ? vocabulary - first
                                              : part_tokens;
  }

  /// What a key weighs.
  struct scales {
    float largest;
    float inverse_temperature;
    float min_p;

    /// 0 or less, or a NaN.
    ORIEL_HOST_DEVICE float exponent(std::uint32_t key) const {
      const float v = value_of_key(key);
      return v == largest ? 0.0f : (v - largest) * inverse_temperature;
    }
    /// 0 below min_p.
    ORIEL_HOST_DEVICE std::uint64_t mass(float exponent) const {
      if (!(exponent >= -32.0f)) {  // Below 2^-46, which is no multiple of 2^-44; or a NaN.
        return 0;
      }
      const float w = exp_unfused_normal(exponent);
      return w >= min_p ? mass_of(w) : 0;
    }
  };
  ORIEL_HOST_DEVICE static scales scales_of(const sample_shared& shared,
                                            const sample_filters& filters,
                                            float min_p) {
    return {value_of_key(shared.largest_key), 1.0f / filters.temperature, min_p};
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

  /// Keys behind the part's last are 0 up to a multiple of 4.
  template <class Cluster>
  ORIEL_HOST_DEVICE void load(Cluster& c,
                              std::uint32_t row,
                              std::uint32_t next_row,
                              const logit_adjustments& adjustments) const {
    const bool adjusts = !adjustments.uses.empty() || !adjustments.biases.empty();
    c.each_part([&](auto g, std::uint32_t part, sample_shared&, std::uint32_t* keys) {
      const float* logits = logits_of(row, part);
      const std::uint32_t n = tokens_of(part);
      const std::uint32_t whole = is_aligned(logits) ? n / 4 * 4 : 0;
      g.each([&](std::uint32_t thread) {
        for (std::uint32_t i = thread * 4; i < whole; i += sample_batch * sample_stride) {
          load_batch(logits, i, whole, adjusts, keys);
        }
        for (std::uint32_t i = whole + thread; i < whole_words(n) * 4; i += sample_threads) {
          const float logit = i < n ? logits[i] : 0.0f;
          const std::uint32_t key =
              adjusts ? std::bit_cast<std::uint32_t>(logit) : ordered_key(logit);
          keys[i] = i < n ? key : 0;
        }
        if (thread == 0 && next_row != row) {
          fetch_ahead(c, next_row, part);
        }
      });
      g.sync();
      if (adjusts) {
        adjust(g, adjustments, first_of(part), n, keys);
      }
    });
  }

  static constexpr std::uint32_t sample_stride = sample_threads * 4;  // tokens

  /// All loads first, so that they are under way together.
  ORIEL_HOST_DEVICE static void load_batch(const float* logits,
                                           std::uint32_t first,
                                           std::uint32_t end,
                                           bool adjusts,
                                           std::uint32_t* keys) {
    words16 w[sample_batch];
    const float* from = logits + first;
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < sample_batch; ++j) {
      const std::uint32_t i = j * sample_stride;
      w[j] = first + i < end ? load_words(from + i) : words16{};
    }
    if (!adjusts) {
      ORIEL_UNROLL
      for (words16& words : w) {
        for (std::uint32_t& word : words.word) {
          word = ordered_key(std::bit_cast<float>(word));
        }
      }
    }
    std::uint32_t* const to = keys + first;
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < sample_batch; ++j) {
      const std::uint32_t i = j * sample_stride;
      if (first + i < end) {
        store_words(to + i, w[j]);
      }
    }
  }

  /// Half of what the block will load next, while it works on what it has. (All blocks together:
  /// 10 MB of a usual vocabulary, for which the L2 cache has room beside what else is read.)
  template <class Cluster>
  ORIEL_HOST_DEVICE void fetch_ahead(Cluster& c, std::uint32_t row, std::uint32_t part) const {
    const float* logits = logits_of(row, part);
    const std::uint32_t words = tokens_of(part) / 8;
    if (is_aligned(logits) && words != 0) {
      c.fetch_ahead(logits, words * 16);
    }
  }

  ORIEL_HOST_DEVICE static bool is_aligned(const float* p) {
    return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
  }

  /// kernels/adjust_logits.hpp, for the tokens [first, first + n). `keys` holds logits until the
  /// last step.
  template <class Group>
  ORIEL_HOST_DEVICE void adjust(Group& g,
                                const logit_adjustments& a,
                                std::uint32_t first,
                                std::uint32_t n,
                                std::uint32_t* keys) const {
    g.each([&](std::uint32_t thread) {
      for (std::size_t i = thread; i < a.uses.size(); i += sample_threads) {
        const token_use use = a.uses.data()[i];
        const std::uint32_t at = to_index(use.id) - first;
        if (at < n) {
          float z = std::bit_cast<float>(keys[at]);
          z = z > 0.0f ? z / a.repetition : z * a.repetition;
          if (use.outputs != 0) {
            z -= a.frequency * static_cast<float>(use.outputs);
            z -= a.presence;
          }
          keys[at] = std::bit_cast<std::uint32_t>(z);
        }
      }
    });
    g.sync();
    g.each([&](std::uint32_t thread) {
      for (std::size_t i = thread; i < a.biases.size(); i += sample_threads) {
        const std::uint32_t at = to_index(a.biases.data()[i].id) - first;
        if (at < n && is_first_bias(a, i)) {
          keys[at] = std::bit_cast<std::uint32_t>(add_biases(a, i, std::bit_cast<float>(keys[at])));
        }
      }
    });
    g.sync();
    g.each([&](std::uint32_t thread) {
      for (std::uint32_t i = thread; i < n; i += sample_threads) {
        keys[i] = ordered_key(std::bit_cast<float>(keys[i]));
      }
    });
    g.sync();
  }

  ORIEL_HOST_DEVICE static bool is_first_bias(const logit_adjustments& a, std::size_t i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (a.biases.data()[j].id == a.biases.data()[i].id) {
        return false;
      }
    }
    return true;
  }
  /// Those of one token, in their order.
  ORIEL_HOST_DEVICE static float add_biases(const logit_adjustments& a, std::size_t i, float z) {
    const token_id id = a.biases.data()[i].id;
    for (; i < a.biases.size(); ++i) {
      z = a.biases.data()[i].id == id ? z + a.biases.data()[i].bias : z;
    }
    return z;
  }

  template <class Cluster>
  ORIEL_HOST_DEVICE void find_largest(Cluster& c, sample_slot* slots) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, std::uint32_t* keys) {
      using group = decltype(g);
      const std::uint32_t n = tokens_of(part);
      typename group::template var<std::uint32_t> key, word, inverted_id;
      g.each([&](std::uint32_t thread) {
        key[thread] = 0;
        word[thread] = 0;  // The first with `key`.
        for (std::uint32_t i = thread; i < whole_words(n); i += sample_threads) {
          const words16 w = load_words(keys + i * 4);
          const std::uint32_t low = w.word[0] > w.word[1] ? w.word[0] : w.word[1];
          const std::uint32_t high = w.word[2] > w.word[3] ? w.word[2] : w.word[3];
          const std::uint32_t larger = low > high ? low : high;
          word[thread] = larger > key[thread] ? i : word[thread];
          key[thread] = larger > key[thread] ? larger : key[thread];
        }
      });
      const auto largest = largest_of_group(g, key, shared.warp_value);
      g.each([&](std::uint32_t thread) {
        inverted_id[thread] = 0;
        if (key[thread] == largest[thread] && n != 0) {
          std::uint32_t i = word[thread] * 4;
          while (keys[i] != largest[thread]) {
            ++i;
          }
          inverted_id[thread] = ~(first_of(part) + i);
        }
      });
      const auto first = largest_of_group(g, inverted_id, shared.warp_value);
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          slots[part].value = (std::uint64_t{largest[thread]} << 32) | first[thread];
        }
      });
    });
    c.sync();
    c.each_part([&](auto g, std::uint32_t, sample_shared& shared, std::uint32_t*) {
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          std::uint64_t best = 0;
          for (std::uint32_t p = 0; p < sample_parts; ++p) {
            best = slots[p].value > best ? slots[p].value : best;
          }
          shared.largest_key = static_cast<std::uint32_t>(best >> 32);
          shared.first_id = ~static_cast<std::uint32_t>(best);
        }
      });
      g.sync();
    });
  }

  /// Whose masses a pass adds to its bins: tokens with an exponent of near_exponent or more, the
  /// others, or all. Exponents fall with the order, so near tokens come first: of their bins only
  /// the last may lack some mass, and where they reach the target it is in the bin that it is in
  /// with all masses. Counts are of all tokens from the first pass on.
  enum class reach : std::uint8_t { near, far, all };
  static constexpr float near_exponent = -8.0f;  // A token of 1 / 2,981 of the first's mass.

  /// One pass over the tokens: which bits of an order make its bin.
  struct bin_pass {
    bool is_first;  ///< of a selection
    reach masses;
    std::uint32_t shift;
    std::uint32_t width;
  };

  /// Raises the cut so that the fewest first tokens stay that number top_k, or hold top_p of the
  /// mass of all that are kept so far.
  template <bool ByMass, class Cluster, class NextSlots>
  ORIEL_HOST_DEVICE void select(Cluster& c,
                                const sample_filters& filters,
                                NextSlots& next_slots) const {
    bin_pass pass{
        .is_first = true, .masses = reach::near, .shift = sample_order_bits - 10, .width = 10};
    while (true) {
      sample_slot* slots = next_slots();
      c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, std::uint32_t* keys) {
        count_bins<ByMass>(g, filters, pass, first_of(part), tokens_of(part), shared, keys);
        tell_bins<ByMass>(g, shared, slots[part]);
      });
      c.sync();
      c.each_part([&](auto g, std::uint32_t, sample_shared& shared, std::uint32_t*) {
        choose_bin<ByMass>(g, filters, pass, slots, shared);
      });
      if (c.front().is_found != 0) {
        return;
      }
      if (c.front().is_short != 0) {
        pass.masses = reach::far;
        continue;
      }
      const std::uint32_t width = pass.shift < pass.width ? pass.shift : pass.width;
      pass = {.is_first = false, .masses = reach::all, .shift = pass.shift - width, .width = width};
    }
  }

  /// Counts tokens and adds masses to the bins, which a pass over the far ones finds as the one
  /// over the near ones left them. warp_value: masses that were not added to any.
  template <bool ByMass, class Group>
  ORIEL_HOST_DEVICE void count_bins(Group& g,
                                    const sample_filters& filters,
                                    bin_pass pass,
                                    std::uint32_t first,
                                    std::uint32_t n,
                                    sample_shared& shared,
                                    const std::uint32_t* keys) const {
    const bool is_new = pass.masses != reach::far;
    g.each([&](std::uint32_t thread) {
      for (std::uint32_t bin = thread; is_new && bin < sample_bins; bin += sample_threads) {
        shared.count[bin] = 0;
        for (std::uint32_t l = 0; ByMass && l < sample_limbs; ++l) {
          shared.limb[l][bin] = 0;
        }
      }
      if (thread == 0 && pass.is_first) {
        shared.prefix = 0;
      }
    });
    g.sync();
    const std::uint64_t cut = shared.cut, prefix = shared.prefix;
    const scales weights = scales_of(shared, filters, 0.0f);  // min_p comes after top_p.
    typename Group::template var<std::uint64_t> rest;
    g.each([&](std::uint32_t thread) {
      rest[thread] = 0;
      for (std::uint32_t i = thread; i < n; i += sample_threads) {
        const std::uint32_t key = keys[i];
        const std::uint64_t order = order_of(key, first + i);
        if (order < cut || order >> (pass.shift + pass.width) != prefix) {
          continue;
        }
        const auto bin = static_cast<std::uint32_t>(order >> pass.shift) & ((1u << pass.width) - 1);
        if (is_new) {
          g.add_shared(&shared.count[bin], 1u);
        }
        if constexpr (ByMass) {
          const float exponent = weights.exponent(key);
          const bool is_near = exponent >= near_exponent;
          if (pass.masses == reach::far && is_near) {
            continue;
          }
          const std::uint64_t mass = weights.mass(exponent);
          if (pass.masses == reach::near && !is_near) {
            rest[thread] += mass;
          } else {
            add_mass(g, shared, bin, mass);
          }
        }
      }
    });
    if constexpr (ByMass) {
      const auto sum = g.sum_over_warp(rest);
      g.each([&](std::uint32_t thread) {
        if (thread % 32 == 0) {
          shared.warp_value[thread / 32] = sum[thread];
        }
      });
    }
    g.sync();
  }

  template <class Group>
  ORIEL_HOST_DEVICE static void add_mass(Group& g,
                                         sample_shared& shared,
                                         std::uint32_t bin,
                                         std::uint64_t mass) {
    ORIEL_UNROLL
    for (std::uint32_t l = 0; l < sample_limbs; ++l) {
      const auto limb = static_cast<std::uint32_t>(mass >> (l * sample_limb_bits)) &
                        ((1u << sample_limb_bits) - 1);
      if (limb != 0) {
        g.add_shared(&shared.limb[l][bin], limb);
      }
    }
  }

  template <bool ByMass, class Group>
  ORIEL_HOST_DEVICE static void tell_bins(Group& g,
                                          const sample_shared& shared,
                                          sample_slot& slot) {
    g.each([&](std::uint32_t thread) {
      const std::uint32_t bin = thread * 2;
      slot.count[thread] = shared.count[bin] | (shared.count[bin + 1] << 16);
      if constexpr (ByMass) {
        sample_mass_pair mass{};
        for (std::uint32_t l = 0; l < sample_limbs; ++l) {
          mass.of[0] += std::uint64_t{shared.limb[l][bin]} << (l * sample_limb_bits);
          mass.of[1] += std::uint64_t{shared.limb[l][bin + 1]} << (l * sample_limb_bits);
        }
        slot.mass[thread] = mass;
        if (thread == 0) {
          slot.value = sum_of(shared.warp_value);
        }
      }
    });
  }

  ORIEL_HOST_DEVICE static std::uint64_t sum_of(const std::uint64_t (&warp_value)[sample_warps]) {
    std::uint64_t sum = 0;
    for (const std::uint64_t value : warp_value) {
      sum += value;
    }
    return sum;
  }

  /// Two bins, from the greatest down: what a thread has of all blocks' sums.
  struct bin_sums {
    std::uint64_t value[2];  ///< masses or counts
    std::uint32_t count[2];
  };
  template <bool ByMass>
  ORIEL_HOST_DEVICE static bin_sums sums_of(const sample_slot* slots, std::uint32_t pair) {
    bin_sums sums{};
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < sample_parts; ++p) {
      const std::uint32_t count = slots[p].count[pair];
      sums.count[0] += count >> 16;
      sums.count[1] += count & 0xFFFFu;
      if constexpr (ByMass) {
        const sample_mass_pair mass = slots[p].mass[pair];
        sums.value[0] += mass.of[1];
        sums.value[1] += mass.of[0];
      }
    }
    if constexpr (!ByMass) {
      sums.value[0] = sums.count[0];
      sums.value[1] = sums.count[1];
    }
    return sums;
  }

  /// The bin in which the target is reached, from the greatest down; then the cut, or the next
  /// bits. Where bins hold too little to reach it, nothing but is_short.
  template <bool ByMass, class Group>
  ORIEL_HOST_DEVICE void choose_bin(Group& g,
                                    const sample_filters& filters,
                                    bin_pass pass,
                                    const sample_slot* slots,
                                    sample_shared& shared) const {
    typename Group::template var<bin_sums> bins;
    typename Group::template var<std::uint64_t> own;
    g.each([&](std::uint32_t thread) {
      bins[thread] = sums_of<ByMass>(slots, sample_pairs - 1 - thread);
      own[thread] = bins[thread].value[0] + bins[thread].value[1];
    });
    auto before = scan_group(g, own, shared.warp_value);
    g.each([&](std::uint32_t thread) {
      if (thread == sample_threads - 1) {
        const std::uint64_t held = before[thread] + own[thread];
        if (pass.is_first) {
          std::uint64_t rest = 0;
          for (std::uint32_t p = 0; ByMass && p < sample_parts; ++p) {
            rest += ORIEL_MUTANT(far_tokens_have_no_mass) ? 0 : slots[p].value;
          }
          shared.target = first_target<ByMass>(filters, held + rest);
        }
        shared.is_short = held < shared.target ? 1u : 0u;
      }
    });
    g.sync();
    g.each([&](std::uint32_t thread) {
      const std::uint64_t target = shared.target;
      std::uint64_t held = before[thread];
      ORIEL_UNROLL
      for (std::uint32_t i = 0; i < 2; ++i) {
        const std::uint64_t value = bins[thread].value[i];
        if (held < target && held + value >= target) {
          shared.bin = sample_bins - 1 - thread * 2 - i;
          shared.bin_count = bins[thread].count[i];
          shared.above = held;
        }
        held += value;
      }
    });
    g.sync();
    g.each([&](std::uint32_t thread) {
      if (thread == 0) {
        shared.is_found = 0;
        if (shared.is_short == 0) {
          advance<ByMass>(pass, shared);
        }
      }
    });
    g.sync();
  }

  template <bool ByMass>
  ORIEL_HOST_DEVICE static std::uint64_t first_target(const sample_filters& filters,
                                                      std::uint64_t total) {
    if constexpr (ByMass) {
      const auto target =
          static_cast<std::uint64_t>(double{filters.top_p} * static_cast<double>(total));
      return target > 0 ? target : 1;  // The first token is always kept.
    } else {
      return filters.top_k < total ? filters.top_k : total;
    }
  }

  template <bool ByMass>
  ORIEL_HOST_DEVICE static void advance(bin_pass pass, sample_shared& shared) {
    const std::uint64_t prefix = (shared.prefix << pass.width) | shared.bin;
    const bool all_of_bin = !ByMass && shared.above + shared.bin_count == shared.target;
    shared.is_found = pass.shift == 0 || shared.bin_count == 1 || all_of_bin ? 1u : 0u;
    if (shared.is_found != 0) {
      const std::uint64_t cut = prefix << pass.shift;
      shared.cut = cut > shared.cut ? cut : shared.cut;
    } else {
      shared.prefix = prefix;
      shared.target -= shared.above;
    }
  }

  template <class Cluster>
  ORIEL_HOST_DEVICE void draw(Cluster& c,
                              std::uint32_t row,
                              const sample_row& how,
                              sample_slot* slots) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, std::uint32_t* keys) {
      set_range(g, shared, 0, tokens_of(part));
      add_range(g, how.filters, first_of(part), shared, keys);
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          slots[part].value = sum_of(shared.warp_value);
        }
      });
    });
    c.sync();
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, std::uint32_t* keys) {
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          std::uint64_t total = 0, before = 0;
          for (std::uint32_t p = 0; p < sample_parts; ++p) {
            before += p < part ? slots[p].value : 0;
            total += slots[p].value;
          }
          const std::uint64_t mass = scaled(sample_random(how.seed, how.position), total);
          shared.total = total;
          shared.is_found = mass >= before && mass - before < slots[part].value ? 1u : 0u;
          shared.left = mass - before;
        }
      });
      g.sync();
      if (shared.is_found != 0) {
        take_token(g, row, how.filters, first_of(part), shared, keys);
      }
    });
  }

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

  ORIEL_HOST_DEVICE static std::uint64_t kept_mass(const scales& weights,
                                                   std::uint64_t cut,
                                                   std::uint32_t key,
                                                   std::uint32_t id) {
    return order_of(key, id) < cut ? 0 : weights.mass(weights.exponent(key));
  }

  /// warp_value[w] = the mass of warp w's part of the range.
  template <class Group>
  ORIEL_HOST_DEVICE void add_range(Group& g,
                                   const sample_filters& filters,
                                   std::uint32_t first,
                                   sample_shared& shared,
                                   const std::uint32_t* keys) const {
    typename Group::template var<std::uint64_t> mass;
    g.each([&](std::uint32_t thread) {
      const std::uint32_t count = per_warp(shared);
      const std::uint32_t begin = shared.range_begin + thread / 32 * count;
      const std::uint32_t end = begin + count < shared.range_end ? begin + count : shared.range_end;
      const scales weights = scales_of(shared, filters, filters.min_p);
      const std::uint64_t cut = shared.cut;
      mass[thread] = 0;
      for (std::uint32_t i = begin + thread % 32; i < end; i += 32) {
        mass[thread] += kept_mass(weights, cut, keys[i], first + i);
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
                                    std::uint32_t row,
                                    const sample_filters& filters,
                                    std::uint32_t first,
                                    sample_shared& shared,
                                    const std::uint32_t* keys) const {
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
      add_range(g, filters, first, shared, keys);
    }
    typename Group::template var<std::uint64_t> mass;
    g.each([&](std::uint32_t thread) {
      const scales weights = scales_of(shared, filters, filters.min_p);
      const std::uint32_t i = shared.range_begin + thread;
      mass[thread] = i < shared.range_end ? kept_mass(weights, shared.cut, keys[i], first + i) : 0;
    });
    const auto before = g.scan_warp(mass);
    g.each([&](std::uint32_t thread) {
      if (thread < 32 && shared.left >= before[thread] &&
          shared.left - before[thread] < mass[thread]) {
        args.out.data()[row] = {
            .id = token_id{first + shared.range_begin + thread},
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
