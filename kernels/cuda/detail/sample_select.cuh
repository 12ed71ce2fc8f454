// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Where top_k's or top_p's prefix of a cluster's tokens ends, by histograms of 10 bits of
/// (key, inverted id) at a time: of counts, or of masses. Exact, ties included. Masses of the many
/// tokens far below the largest are only added up at first; the few near it hold top_p nearly
/// always. Where they do not, the others follow.
#pragma once

#include "sample_tokens.cuh"

#include <oriel/core/mutation.hpp>

namespace oriel::detail {

struct sample_select {
  sample_tokens tokens;
  sample_filters filters;

  /// Raises the cut so that the fewest first tokens stay that number top_k, or hold top_p of the
  /// mass of all that are kept so far.
  /// @param next_slots  gives the slots of all blocks, another set each time; one block alone may get the same
  template <bool ByMass, class Cluster, class NextSlots>
  ORIEL_HOST_DEVICE void raise_cut(Cluster& c, NextSlots&& next_slots) const {
    bin_pass pass{
        .is_first = true, .masses = reach::near, .shift = sample_order_bits - 10, .width = 10};
    while (true) {
      sample_slot* slots = next_slots();
      c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, std::uint32_t* keys) {
        count_bins<ByMass>(g, pass, part, shared, keys);
        tell_bins<ByMass>(g, shared, slots[part]);
      });
      c.sync();
      c.each_part([&](auto g, std::uint32_t, sample_shared& shared, std::uint32_t*) {
        choose_bin<ByMass, Cluster::parts>(g, pass, slots, shared);
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

 private:
  /// Whose masses a pass adds to its bins: tokens with an exponent of near_exponent or more, the
  /// others, or all. Near tokens come first: of their bins only the last may lack some mass, and
  /// where they reach the target it is in the bin that it is in with all masses. Counts are of all
  /// tokens from the first pass on.
  enum class reach : std::uint8_t { near, far, all };

  /// One pass over the tokens: which bits of an order make its bin.
  struct bin_pass {
    bool is_first;  ///< of a selection
    reach masses;
    std::uint32_t shift;
    std::uint32_t width;
  };

  /// Counts tokens and adds masses to the bins, which a pass over the far ones finds as the one
  /// over the near ones left them. warp_value: masses that were not added to any.
  template <bool ByMass, class Group>
  ORIEL_HOST_DEVICE void count_bins(Group& g,
                                    bin_pass pass,
                                    std::uint32_t part,
                                    sample_shared& shared,
                                    const std::uint32_t* keys) const {
    const bool is_new = pass.masses != reach::far;
    const std::uint32_t n = tokens.count_of(part);
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
    const sample_scales weights = scales_of(shared, filters, 0.0f);  // min_p comes after top_p.
    typename Group::template var<std::uint64_t> rest;
    g.each([&](std::uint32_t thread) {
      rest[thread] = 0;
      for (std::uint32_t i = thread; i < n; i += sample_threads) {
        const std::uint32_t key = keys[i];
        const std::uint64_t order = order_of(key, tokens.id_of(part, i));
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

  /// Two bins, from the greatest down: what a thread has of all blocks' sums.
  struct bin_sums {
    std::uint64_t value[2];  ///< masses or counts
    std::uint32_t count[2];
  };
  template <bool ByMass, std::uint32_t Parts>
  ORIEL_HOST_DEVICE static bin_sums sums_of(const sample_slot* slots, std::uint32_t pair) {
    bin_sums sums{};
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < Parts; ++p) {
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
  template <bool ByMass, std::uint32_t Parts, class Group>
  ORIEL_HOST_DEVICE void choose_bin(Group& g,
                                    bin_pass pass,
                                    const sample_slot* slots,
                                    sample_shared& shared) const {
    typename Group::template var<bin_sums> bins;
    typename Group::template var<std::uint64_t> own;
    g.each([&](std::uint32_t thread) {
      bins[thread] = sums_of<ByMass, Parts>(slots, sample_pairs - 1 - thread);
      own[thread] = bins[thread].value[0] + bins[thread].value[1];
    });
    auto before = scan_group(g, own, shared.warp_value);
    g.each([&](std::uint32_t thread) {
      if (thread == sample_threads - 1) {
        const std::uint64_t held = before[thread] + own[thread];
        if (pass.is_first) {
          std::uint64_t rest = tokens.outside_mass;
          for (std::uint32_t p = 0; ByMass && p < Parts; ++p) {
            rest += ORIEL_MUTANT(far_tokens_have_no_mass) ? 0 : slots[p].value;
          }
          shared.target = first_target<ByMass>(held + rest);
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
  ORIEL_HOST_DEVICE std::uint64_t first_target(std::uint64_t total) const {
    if constexpr (ByMass) {
      return top_p_target(filters, total);
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
};

}  // namespace oriel::detail
