// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a warp of the router does with its token. Lane l has the experts l, l + 32, l + 64, ... in
/// registers. A choice becomes a number of the same order (ordered_key), so that "already taken"
/// can be 0, below every choice, -infinity included; NaN is -infinity.
///
///     top_k times   the warp's largest key, then the lowest id that has it: two reductions
///     then          slots by ascending id, and their weights: one sum in that order
#pragma once

#include "scalar_math.cuh"
#include "thread_group.cuh"

#include <oriel/kernels/moe_route.hpp>

namespace oriel::detail {

inline constexpr std::uint32_t moe_slots_max = 64;
inline constexpr std::uint32_t taken_key = 0;

/// An integer that orders as the float does; -0 and 0 are equal, NaN is -infinity. Never 0.
ORIEL_HOST_DEVICE inline std::uint32_t ordered_key(float v) {
  const float number = v != v ? -std::bit_cast<float>(0x7F80'0000u) : v + 0.0f;
  const auto bits = std::bit_cast<std::uint32_t>(number);
  return (bits & 0x8000'0000u) != 0 ? ~bits : bits | 0x8000'0000u;
}

/// The float of `ordered_key`.
ORIEL_HOST_DEVICE inline float value_of_key(std::uint32_t key) {
  return std::bit_cast<float>((key & 0x8000'0000u) != 0 ? key & 0x7FFF'FFFFu : ~key);
}

/// Shared memory of a warp.
struct moe_route_shared {
  std::uint32_t id[moe_slots_max];  ///< as chosen
  float score[moe_slots_max];
  float sorted_score[moe_slots_max];  ///< by ascending id
};

/// More of it, where experts come in groups of which some are dropped.
struct moe_group_shared {
  std::uint32_t key[max_experts];
  std::uint32_t group_key[max_experts];  ///< taken_key: the group is kept
};

/// @tparam P  experts of a lane
template <std::uint32_t P>
struct moe_route_agent {
  moe_route_shape shape;
  moe_route_args args;

  struct lane_experts {
    float score[P];
    std::uint32_t key[P];
    std::uint32_t best_key;
    std::uint32_t best;  ///< which of the P: the first with best_key
  };

  /// @param groups  null where all groups are kept
  template <class Group>
  ORIEL_HOST_DEVICE void operator()(Group g,
                                    std::uint32_t token,
                                    moe_route_shared& shared,
                                    moe_group_shared* groups) const {
    static_assert(Group::threads == 32);
    typename Group::template var<lane_experts> lanes;
    g.each([&](std::uint32_t lane) { score(token, lane, lanes[lane]); });
    if (groups != nullptr) {
      drop_groups(g, lanes, *groups);
    }
    g.each([&](std::uint32_t lane) { find_best(lanes[lane]); });
    for (std::uint32_t k = 0; k < shape.top_k; ++k) {
      choose(g, lanes, shared, k);
    }
    g.sync();
    weigh(g, token, shared);
  }

 private:
  ORIEL_HOST_DEVICE void score(std::uint32_t token, std::uint32_t lane, lane_experts& of) const {
    const float* logits = args.logits + token * args.logits_stride;
    // All loads first: a sigmoid's division may call a function, and no load moves across.
    float logit[P], bias[P];
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < P; ++p) {
      const std::uint32_t expert = lane + 32 * p;
      const bool exists = expert < shape.experts;
      logit[p] = exists ? logits[expert] : 0.0f;
      bias[p] = exists && args.correction_bias != nullptr ? args.correction_bias[expert] : 0.0f;
    }
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < P; ++p) {
      of.score[p] = 0.0f;
      of.key[p] = taken_key;
      if (lane + 32 * p < shape.experts) {
        const float s = sigmoid_unfused(logit[p]);
        of.score[p] = s != s ? 0.0f : s;
        of.key[p] = ordered_key(s + bias[p]);
      }
    }
  }

  ORIEL_HOST_DEVICE static void find_best(lane_experts& of) {
    of.best_key = taken_key;
    of.best = 0;
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < P; ++p) {
      const bool better = of.key[p] > of.best_key;
      of.best_key = better ? of.key[p] : of.best_key;
      of.best = better ? p : of.best;
    }
  }

  /// The next expert: slot k.
  template <class Group>
  ORIEL_HOST_DEVICE void choose(Group& g,
                                typename Group::template var<lane_experts>& lanes,
                                moe_route_shared& shared,
                                std::uint32_t k) const {
    typename Group::template var<std::uint32_t> key, inverted_id;
    g.each([&](std::uint32_t lane) { key[lane] = lanes[lane].best_key; });
    const auto largest = g.template max_over<32>(key);
    g.each([&](std::uint32_t lane) {
      const std::uint32_t id = lane + 32 * lanes[lane].best;
      inverted_id[lane] = key[lane] == largest[lane] ? ~id : 0;
    });
    const auto chosen = g.template max_over<32>(inverted_id);
    g.each([&](std::uint32_t lane) {
      const std::uint32_t id = ~chosen[lane];
      if (id % 32 == lane) {
        shared.id[k] = id;
        shared.score[k] = take(lanes[lane], id / 32);
        find_best(lanes[lane]);
      }
    });
  }

  /// Marks expert number `taken` of the lane. @returns its score. (Selects, not branches: an index
  /// that is not known would put the arrays into memory.)
  ORIEL_HOST_DEVICE static float take(lane_experts& of, std::uint32_t taken) {
    float score = 0.0f;
    ORIEL_UNROLL
    for (std::uint32_t p = 0; p < P; ++p) {
      score = p == taken ? of.score[p] : score;
      of.key[p] = p == taken ? taken_key : of.key[p];
    }
    return score;
  }

  template <class Group>
  ORIEL_HOST_DEVICE void weigh(Group& g, std::uint32_t token, moe_route_shared& shared) const {
    const std::size_t first = std::size_t{token} * shape.top_k;
    g.each([&](std::uint32_t lane) {
      for (std::uint32_t k = lane; k < shape.top_k; k += 32) {
        std::uint32_t slot = 0;
        for (std::uint32_t j = 0; j < shape.top_k; ++j) {
          slot += shared.id[j] < shared.id[k] ? 1 : 0;
        }
        args.ids[first + slot] = shared.id[k];
        shared.sorted_score[slot] = shared.score[k];
      }
    });
    g.sync();
    g.each([&](std::uint32_t lane) {
      float sum = 0.0f;
      for (std::uint32_t slot = 0; slot < shape.top_k; ++slot) {
        sum += shared.sorted_score[slot];
      }
      for (std::uint32_t slot = lane; slot < shape.top_k; slot += 32) {
        const float s = shared.sorted_score[slot];
        args.weights[first + slot] = (shape.normalize ? s / (sum + 1e-20f) : s) * shape.scale;
      }
    });
  }

  /// Marks the experts outside the kept groups as taken.
  template <class Group>
  ORIEL_HOST_DEVICE void drop_groups(Group& g,
                                     typename Group::template var<lane_experts>& lanes,
                                     moe_group_shared& shared) const {
    const std::uint32_t members = shape.experts / shape.groups;
    g.each([&](std::uint32_t lane) {
      ORIEL_UNROLL
      for (std::uint32_t p = 0; p < P; ++p) {
        shared.key[lane + 32 * p] = lanes[lane].key[p];
      }
    });
    g.sync();
    g.each([&](std::uint32_t lane) {
      for (std::uint32_t group = lane; group < shape.groups; group += 32) {
        shared.group_key[group] = group_key(shared.key + group * members, members);
      }
    });
    g.sync();
    for (std::uint32_t k = 0; k < shape.kept_groups; ++k) {
      keep_best_group(g, shared);
    }
    g.each([&](std::uint32_t lane) {
      ORIEL_UNROLL
      for (std::uint32_t p = 0; p < P; ++p) {
        const std::uint32_t expert = lane + 32 * p;
        if (expert < shape.experts && shared.group_key[expert / members] != taken_key) {
          lanes[lane].key[p] = taken_key;
        }
      }
    });
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
  ORIEL_HOST_DEVICE void keep_best_group(Group& g, moe_group_shared& shared) const {
    typename Group::template var<std::uint32_t> key, best, inverted_id;
    g.each([&](std::uint32_t lane) {
      key[lane] = taken_key;
      for (std::uint32_t group = lane; group < shape.groups; group += 32) {
        if (shared.group_key[group] > key[lane]) {
          key[lane] = shared.group_key[group];
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
        shared.group_key[~chosen[lane]] = taken_key;
      }
    });
    g.sync();
  }
};

}  // namespace oriel::detail
