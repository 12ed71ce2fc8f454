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
  /// mass of all that are kept so far. is_unsure says whether that depends on tokens.outside_spread.
  /// @param next_slots  gives the slots of all blocks, another set each time; a block alone asks for none
  template <bool ByMass, class Cluster, class NextSlots>
  ORIEL_HOST_DEVICE void raise_cut(Cluster& c, NextSlots&& next_slots) const {
    bin_pass pass{.is_first = true,
                  .masses = reach::near,
                  .shift = tokens.order_bits - sample_bin_bits,
                  .width = sample_bin_bits};
    while (true) {
      sample_slot* slots = nullptr;  // A block alone needs none.
      if constexpr (Cluster::parts > 1) {
        slots = next_slots();
      }
      c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, float* logits) {
        count_bins<ByMass>(g, pass, part, shared, logits);
        if constexpr (Cluster::parts > 1) {
          tell_bins<ByMass>(g, shared, slots[part]);
        }
      });
      if constexpr (Cluster::parts > 1) {
        c.sync();
      }
      c.each_part([&](auto g, std::uint32_t, sample_shared& shared, float*) {
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
  /// over the near ones left them. warp_rest: masses that were not added to any.
  template <bool ByMass, class Group>
  ORIEL_HOST_DEVICE void count_bins(Group& g,
                                    bin_pass pass,
                                    std::uint32_t part,
                                    sample_shared& shared,
                                    const float* logits) const {
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
        const float logit = logits[i];
        const std::uint64_t order = order_of(logit, tokens.id_of(part, i));
        const std::uint64_t above_base = order - tokens.base;
        if (order < cut || above_base >> (pass.shift + pass.width) != prefix) {
          continue;
        }
        const auto bin =
            static_cast<std::uint32_t>(above_base >> pass.shift) & ((1u << pass.width) - 1);
        if (is_new) {
          g.add_shared(&shared.count[bin], 1u);
        }
        if constexpr (ByMass) {
          const float exponent = weights.exponent(logit);
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
          shared.warp_rest[thread / 32] = sum[thread];
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

  /// Two neighbouring bins of a block.
  struct bin_pair {
    std::uint32_t count;  ///< 16 bits each, the lower bin's low
    sample_mass_pair mass;
  };
  template <bool ByMass>
  ORIEL_HOST_DEVICE static bin_pair bins_of(const sample_shared& shared, std::uint32_t pair) {
    const std::uint32_t bin = pair * 2;
    bin_pair of{shared.count[bin] | (shared.count[bin + 1] << 16), {}};
    for (std::uint32_t l = 0; ByMass && l < sample_limbs; ++l) {
      of.mass.of[0] += std::uint64_t{shared.limb[l][bin]} << (l * sample_limb_bits);
      of.mass.of[1] += std::uint64_t{shared.limb[l][bin + 1]} << (l * sample_limb_bits);
    }
    return of;
  }

  template <bool ByMass, class Group>
  ORIEL_HOST_DEVICE static void tell_bins(Group& g,
                                          const sample_shared& shared,
                                          sample_slot& slot) {
    g.each([&](std::uint32_t thread) {
      const bin_pair bins = bins_of<ByMass>(shared, thread);
      slot.count[thread] = bins.count;
      if constexpr (ByMass) {
        slot.mass[thread] = bins.mass;
        if (thread == 0) {
          slot.value = sum_of(shared.warp_rest);
        }
      }
    });
  }

  /// Two bins, from the greatest down: what a thread has of all blocks' sums.
  struct bin_sums {
    std::uint64_t value[2];  ///< masses or counts
    std::uint32_t count[2];

    template <bool ByMass>
    ORIEL_HOST_DEVICE void add(const bin_pair& bins) {
      const std::uint32_t high = bins.count >> 16, low = bins.count & 0xFFFFu;
      count[0] += high;
      count[1] += low;
      value[0] += ByMass ? bins.mass.of[1] : high;
      value[1] += ByMass ? bins.mass.of[0] : low;
    }
  };
  /// @param slots  of all blocks; a block alone has its own in `shared`
  template <bool ByMass, std::uint32_t Parts>
  ORIEL_HOST_DEVICE static bin_sums sums_of(const sample_slot* slots,
                                            const sample_shared& shared,
                                            std::uint32_t pair) {
    bin_sums sums{};
    if constexpr (Parts == 1) {
      sums.template add<ByMass>(bins_of<ByMass>(shared, pair));
    } else {
      ORIEL_UNROLL
      for (std::uint32_t p = 0; p < Parts; ++p) {
        sums.template add<ByMass>(
            {slots[p].count[pair], ByMass ? slots[p].mass[pair] : sample_mass_pair{}});
      }
    }
    return sums;
  }
  /// Masses that no bin has.
  template <std::uint32_t Parts>
  ORIEL_HOST_DEVICE static std::uint64_t rest_of(const sample_slot* slots,
                                                 const sample_shared& shared) {
    std::uint64_t rest = 0;
    if constexpr (Parts == 1) {
      rest = sum_of(shared.warp_rest);
    } else {
      for (std::uint32_t p = 0; p < Parts; ++p) {
        rest += slots[p].value;
      }
    }
    return ORIEL_MUTANT(far_tokens_have_no_mass) ? 0 : rest;
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
      bins[thread] = sums_of<ByMass, Parts>(slots, shared, sample_pairs - 1 - thread);
      own[thread] = bins[thread].value[0] + bins[thread].value[1];
    });
    auto before = scan_group(g, own, shared.warp_value);
    g.each([&](std::uint32_t thread) {
      if (thread == sample_threads - 1) {
        const std::uint64_t held = before[thread] + own[thread];
        if (pass.is_first) {
          const std::uint64_t rest =
              ByMass ? tokens.outside_mass + rest_of<Parts>(slots, shared) : 0;
          shared.target = first_target<ByMass>(held + rest);
          shared.target_spread =
              first_target<ByMass>(held + rest + tokens.outside_spread) - shared.target;
        }
        if (!pass.is_first) {
          shared.target = shared.next_target;
        }
        shared.is_short = held < shared.target ? 1u : 0u;
        shared.is_found = 0;
      }
    });
    g.sync();
    g.each([&](std::uint32_t thread) {
      const std::uint64_t target = shared.target;
      const bool is_short = shared.is_short != 0;
      std::uint64_t held = before[thread];
      ORIEL_UNROLL
      for (std::uint32_t i = 0; i < 2; ++i) {
        const std::uint64_t value = bins[thread].value[i];
        if (!is_short && held < target && held + value >= target) {  // Of one thread.
          advance<ByMass>(pass,
                          {.bin = sample_bins - 1 - thread * 2 - i,
                           .count = bins[thread].count[i],
                           .value = value,
                           .above = held},
                          shared);
        }
        held += value;
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

  /// The bin in which the target is reached.
  struct chosen_bin {
    std::uint32_t bin;
    std::uint32_t count;  ///< of its tokens
    std::uint64_t value;  ///< its mass, or its tokens
    std::uint64_t above;  ///< held by the bins before it
  };
  template <bool ByMass>
  ORIEL_HOST_DEVICE void advance(bin_pass pass,
                                 const chosen_bin& chosen,
                                 sample_shared& shared) const {
    const std::uint64_t prefix = (shared.prefix << pass.width) | chosen.bin;
    const bool all_of_bin = !ByMass && chosen.above + chosen.count == shared.target;
    if (pass.shift == 0 || chosen.count == 1 || all_of_bin) {
      const std::uint64_t cut = (prefix << pass.shift) + tokens.base;
      shared.cut = cut > shared.cut ? cut : shared.cut;
      shared.is_unsure =
          chosen.above + chosen.value < shared.target + shared.target_spread ? 1u : 0u;
      shared.is_found = 1;
    } else {
      shared.prefix = prefix;
      shared.next_target = shared.target - chosen.above;
    }
  }
};

}  // namespace oriel::detail
