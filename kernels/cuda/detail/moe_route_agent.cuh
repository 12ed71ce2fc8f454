// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a warp of the router does with its token. Lane l has the experts l, l + 32, l + 64, ...
///
///     near      a choice by two approximate instructions, within near_error of the exact one. The
///               top_k-th largest of the lanes' best is at most the top_k-th largest of all, so
///               every expert that is chosen lies above it, less what both may be off by. Mostly
///               that leaves one or two more than top_k; each becomes a lane's own, by ascending
///               id, and has its exact choice there. The worst go until top_k are left.
///     exact     where that leaves too few or more than 32 (ties, infinities, NaN), and for groups:
///               exact choices of all experts in shared memory, and top_k times the best of those
///               behind the one before
///     weigh     slots by ascending id: one sum in that order
///
/// An exact choice becomes a number of the same order (ordered_key), so that "may not be chosen"
/// can be 0, below every choice, -infinity included; NaN is -infinity.
#pragma once

#include "near_math.cuh"
#include "ordered_key.cuh"
#include "scalar_math.cuh"
#include "thread_group.cuh"

#include <oriel/core/mutation.hpp>
#include <oriel/kernels/moe_route.hpp>

#include <math.h>

namespace oriel::detail {

inline constexpr std::uint32_t moe_slots_max = 64;
inline constexpr std::uint32_t taken_key = 0;

/// By how much near_sigmoid may differ from sigmoid_unfused: 2^-22 of 2^x and of exp, 2^-23 of
/// 1 / x, relative, and the roundings between them make 4.6e-7.
inline constexpr float near_sigmoid_error = 6e-7f;

ORIEL_HOST_DEVICE inline float near_sigmoid(float x) {
#ifdef __CUDA_ARCH__
  return near_reciprocal(1.0f + near_exp2(x * -1.442'695'02f));
#else
  // As far off as it may be, up and down, so that tests on the host meet the worst.
  const bool is_odd = (std::bit_cast<std::uint32_t>(x) & 1) != 0;
  return sigmoid_unfused(x) + (is_odd ? near_sigmoid_error : -near_sigmoid_error);
#endif
}

/// Below `choice` by what two near choices, it and another, may be off by: their sigmoids, and one
/// rounding of each sum with its bias. Infinity gives no number.
ORIEL_HOST_DEVICE inline float less_what_is_near(float choice) {
  constexpr float sums = 0x1p-21f;
  const float margin = 2 * near_sigmoid_error + sums * ::fabsf(choice);
  return choice - (ORIEL_MUTANT(route_bound_has_no_margin) ? 0.0f : margin);
}

/// Shared memory of a warp. @tparam P  experts of a lane
template <std::uint32_t P>
struct moe_route_shared {
  union {
    std::uint32_t candidate[32 * P];  ///< ids, ascending
    std::uint32_t key[32 * P];        ///< of an expert's exact choice; taken_key: not to be chosen
  };
  std::uint32_t id[moe_slots_max];  ///< the chosen, ascending
  float score[moe_slots_max];
};

/// More of it, where experts come in groups of which some are dropped.
struct moe_group_shared {
  std::uint32_t group_key[max_experts];  ///< taken_key: the group is kept
};

/// @tparam P  experts of a lane
template <std::uint32_t P>
struct moe_route_agent {
  using shared_memory = moe_route_shared<P>;

  moe_route_shape shape;
  moe_route_args args;

  /// @param groups  null where all groups are kept
  template <class Group>
  ORIEL_HOST_DEVICE void operator()(Group g,
                                    std::uint32_t token,
                                    shared_memory& shared,
                                    moe_group_shared* groups) const {
    static_assert(Group::threads == 32);
    if (groups != nullptr || !choose_near(g, token, shared)) {
      choose_exactly(g, token, shared, groups);
    }
    weigh(g, token, shared);
  }

 private:
  ORIEL_HOST_DEVICE const float* logits_of(std::uint32_t token) const {
    return args.logits + token * args.logits_stride;
  }
  ORIEL_HOST_DEVICE float bias_of(std::uint32_t expert) const {
    return args.correction_bias != nullptr ? args.correction_bias[expert] : 0.0f;
  }

  struct exact_choice {
    float score;
    std::uint32_t key;
  };
  ORIEL_HOST_DEVICE exact_choice exact(std::uint32_t token, std::uint32_t expert) const {
    const float logit = logits_of(token)[expert], bias = bias_of(expert);
    const float s = sigmoid_unfused(logit);
    return {s != s ? 0.0f : s, ordered_key(s + bias)};
  }

  /// How many of the warp's lanes before `lane` are in `mask`.
  ORIEL_HOST_DEVICE static std::uint32_t place_in(std::uint32_t mask, std::uint32_t lane) {
    return set_bits(mask & ((1u << lane) - 1));
  }

  // ---- near ------------------------------------------------------------------------------------

  struct near_choices {
    float of[P];  ///< NaN where there is no expert
  };

  /// @returns false where it did not choose: what it left in shared memory means nothing
  template <class Group>
  ORIEL_HOST_DEVICE bool choose_near(Group& g, std::uint32_t token, shared_memory& shared) const {
    typename Group::template var<near_choices> near;
    typename Group::template var<std::uint32_t> best;
    g.each([&](std::uint32_t lane) {
      near[lane] = choices(token, lane);
      float largest = near[lane].of[0];
      ORIEL_UNROLL
      for (std::uint32_t p = 1; p < P; ++p) {
        largest = ::fmaxf(largest, near[lane].of[p]);  // A NaN loses.
      }
      best[lane] = ordered_key(largest);
    });
    std::uint32_t key = taken_key;
    for (std::uint32_t k = 0; k < shape.top_k; ++k) {
      key = g.template max_over<32>(best)[0];
      g.each([&](std::uint32_t lane) { best[lane] = best[lane] == key ? taken_key : best[lane]; });
    }
    if (key <= lowest_key) {
      return false;
    }
    const float bound = less_what_is_near(value_of_key(key));
    const auto is_candidate = [&](std::uint32_t lane, std::uint32_t p) {
      return near[lane].of[p] >= bound;
    };
    const std::uint32_t count = collect(g, is_candidate, shared.candidate);
    if (count < shape.top_k || count > 32) {
      return false;
    }
    g.sync();
    refine(g, token, count, shared);
    return true;
  }

  ORIEL_HOST_DEVICE near_choices choices(std::uint32_t token, std::uint32_t lane) const {
    const float* logits = logits_of(token);
    near_choices near;
    float bias[P];
    // All loads before the branches meet: they are under way together. Models' experts are all
    // there and biased, which saves the questions.
    if (shape.experts == 32 * P && args.correction_bias != nullptr) {
      ORIEL_UNROLL
      for (std::uint32_t p = 0; p < P; ++p) {
        near.of[p] = logits[lane + 32 * p];
        bias[p] = args.correction_bias[lane + 32 * p];
      }
    } else {
      ORIEL_UNROLL
      for (std::uint32_t p = 0; p < P; ++p) {
        const std::uint32_t expert = lane + 32 * p;
        const bool exists = expert < shape.experts;
        near.of[p] = exists ? logits[expert] : std::bit_cast<float>(0x7FC0'0000u);
        bias[p] = exists ? bias_of(expert) : 0.0f;
      }
    }
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < P; ++p) {
      near.of[p] = near_sigmoid(near.of[p]) + bias[p];
    }
    return near;
  }

  /// The ids of which `is_in(lane, p)`, ascending. @returns how many
  template <class Group, class F>
  ORIEL_HOST_DEVICE static std::uint32_t collect(Group& g, const F& is_in, std::uint32_t* ids) {
    std::uint32_t count = 0;
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < P; ++p) {
      typename Group::template var<std::uint32_t> is;
      g.each([&](std::uint32_t lane) { is[lane] = is_in(lane, p) ? 1u : 0u; });
      const std::uint32_t mask = g.ballot(is)[0];
      g.each([&](std::uint32_t lane) {
        if (is[lane] != 0) {
          ids[count + place_in(mask, lane)] = lane + 32 * p;
        }
      });
      count += set_bits(mask);
    }
    return count;
  }

  /// Candidates, one a lane, to the chosen. @pre top_k <= count <= 32
  template <class Group>
  ORIEL_HOST_DEVICE void refine(Group& g,
                                std::uint32_t token,
                                std::uint32_t count,
                                shared_memory& shared) const {
    typename Group::template var<float> score;
    typename Group::template var<std::uint32_t> id, badness, is;
    g.each([&](std::uint32_t lane) {
      badness[lane] = 0;  // Not a candidate, or none any more.
      if (lane < count) {
        id[lane] = shared.candidate[lane];
        const exact_choice e = exact(token, id[lane]);
        score[lane] = e.score;
        badness[lane] = ~e.key;  // Never 0: no choice is a NaN with all bits set.
      }
    });
    for (; count > shape.top_k; --count) {
      const std::uint32_t worst = g.template max_over<32>(badness)[0];
      g.each([&](std::uint32_t lane) { is[lane] = badness[lane] == worst ? 1u : 0u; });
      const std::uint32_t mask = g.ballot(is)[0];
      g.each([&](std::uint32_t lane) {
        const bool is_last = mask >> lane == 1;  // Of equals, that of the highest id.
        badness[lane] = is_last ? 0 : badness[lane];
      });
    }
    g.each([&](std::uint32_t lane) { is[lane] = badness[lane] != 0 ? 1u : 0u; });
    const std::uint32_t mask = g.ballot(is)[0];
    g.each([&](std::uint32_t lane) {
      if (is[lane] != 0) {
        const std::uint32_t slot = place_in(mask, lane);
        shared.id[slot] = id[lane];
        shared.score[slot] = score[lane];
      }
    });
    g.sync();
  }

  // ---- exact -----------------------------------------------------------------------------------

  template <class Group>
  ORIEL_HOST_DEVICE void choose_exactly(Group& g,
                                        std::uint32_t token,
                                        shared_memory& shared,
                                        moe_group_shared* groups) const {
    g.sync();  // Candidates are done with.
    g.each([&](std::uint32_t lane) {
      for (std::uint32_t expert = lane; expert < 32 * P; expert += 32) {
        shared.key[expert] = expert < shape.experts ? exact(token, expert).key : taken_key;
      }
    });
    g.sync();
    if (groups != nullptr) {
      drop_groups(g, shared, *groups);
    }
    place last{.key = UINT32_MAX, .id = 0};
    for (std::uint32_t k = 0; k < shape.top_k; ++k) {
      last = next_best(g, shared, last);
    }
    const auto is_chosen = [&](std::uint32_t lane, std::uint32_t p) {
      const std::uint32_t expert = lane + 32 * p;
      return !last.is_before(shared.key[expert], expert);
    };
    collect(g, is_chosen, shared.id);
    g.sync();
    g.each([&](std::uint32_t lane) {
      for (std::uint32_t slot = lane; slot < shape.top_k; slot += 32) {
        shared.score[slot] = exact(token, shared.id[slot]).score;
      }
    });
    g.sync();
  }

  /// In the order of choosing: the largest key first, of equals the lowest id.
  struct place {
    std::uint32_t key;
    std::uint32_t id;

    ORIEL_HOST_DEVICE bool is_before(std::uint32_t other_key, std::uint32_t other_id) const {
      return other_key < key || (other_key == key && other_id > id);
    }
  };

  /// The first expert behind `last`.
  template <class Group>
  ORIEL_HOST_DEVICE static place next_best(Group& g, const shared_memory& shared, place last) {
    typename Group::template var<std::uint32_t> key, inverted_id;
    g.each([&](std::uint32_t lane) {
      key[lane] = taken_key;
      inverted_id[lane] = 0;
      for (std::uint32_t expert = lane; expert < 32 * P; expert += 32) {
        const std::uint32_t other = shared.key[expert];
        if (other > key[lane] && last.is_before(other, expert)) {
          key[lane] = other;
          inverted_id[lane] = ~expert;
        }
      }
    });
    const std::uint32_t largest = g.template max_over<32>(key)[0];
    g.each([&](std::uint32_t lane) {
      inverted_id[lane] = key[lane] == largest ? inverted_id[lane] : 0;
    });
    return {largest, ~g.template max_over<32>(inverted_id)[0]};
  }

  /// Marks the experts outside the kept groups as not to be chosen.
  template <class Group>
  ORIEL_HOST_DEVICE void drop_groups(Group& g,
                                     shared_memory& shared,
                                     moe_group_shared& groups) const {
    const std::uint32_t members = shape.experts / shape.groups;
    g.each([&](std::uint32_t lane) {
      for (std::uint32_t group = lane; group < shape.groups; group += 32) {
        groups.group_key[group] = group_key(shared.key + group * members, members);
      }
    });
    g.sync();
    for (std::uint32_t k = 0; k < shape.kept_groups; ++k) {
      keep_best_group(g, groups);
    }
    g.each([&](std::uint32_t lane) {
      for (std::uint32_t expert = lane; expert < shape.experts; expert += 32) {
        if (groups.group_key[expert / members] != taken_key) {
          shared.key[expert] = taken_key;
        }
      }
    });
    g.sync();
  }

  /// Of the sum of a group's two largest choices (of its only one).
  ORIEL_HOST_DEVICE static std::uint32_t group_key(const std::uint32_t* key,
                                                   std::uint32_t members) {
    std::uint32_t first = key[0], second = taken_key;
    for (std::uint32_t i = 1; i < members; ++i) {
      if (key[i] > first) {
        second = first;
        first = key[i];
      } else if (key[i] > second) {
        second = key[i];
      }
    }
    return ordered_key(members > 1 ? value_of_key(first) + value_of_key(second)
                                   : value_of_key(first));
  }

  template <class Group>
  ORIEL_HOST_DEVICE void keep_best_group(Group& g, moe_group_shared& groups) const {
    typename Group::template var<std::uint32_t> key, best, inverted_id;
    g.each([&](std::uint32_t lane) {
      key[lane] = taken_key;
      for (std::uint32_t group = lane; group < shape.groups; group += 32) {
        if (groups.group_key[group] > key[lane]) {
          key[lane] = groups.group_key[group];
          best[lane] = group;
        }
      }
    });
    const auto largest = g.template max_over<32>(key);
    g.each([&](std::uint32_t lane) {
      inverted_id[lane] = key[lane] == largest[lane] && key[lane] != taken_key ? ~best[lane] : 0;
    });
    const auto chosen = g.template max_over<32>(inverted_id);
    g.each([&](std::uint32_t lane) {
      if (lane == 0) {
        groups.group_key[~chosen[lane]] = taken_key;
      }
    });
    g.sync();
  }

  // ---- weigh -----------------------------------------------------------------------------------

  template <class Group>
  ORIEL_HOST_DEVICE void weigh(Group& g, std::uint32_t token, const shared_memory& shared) const {
    const std::size_t first = std::size_t{token} * shape.top_k;
    g.each([&](std::uint32_t lane) {
      float sum = 0.0f;
      for (std::uint32_t slot = 0; slot < shape.top_k; ++slot) {
        sum += shared.score[slot];
      }
      for (std::uint32_t slot = lane; slot < shape.top_k; slot += 32) {
        const float s = shared.score[slot];
        args.ids[first + slot] = shared.id[slot];
        args.weights[first + slot] = (shape.normalize ? s / (sum + 1e-20f) : s) * shape.scale;
      }
    });
  }
};

}  // namespace oriel::detail
