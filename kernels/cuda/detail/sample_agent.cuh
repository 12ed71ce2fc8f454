// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sampling rows in one pass over their logits: what a cluster of 8 blocks does. Each block keeps
/// an eighth of the row in shared memory; all that follows reads it there.
///
///     load      sample_load.cuh: copies, begun as soon as nobody reads the row before any more
///     largest   sample_largest.cuh: the largest logit; its lowest id, which is all that greedy
///               needs; or a bound that top_k tokens reach
///     list      sample_list.cuh: the few tokens that top_k or top_p can keep, to one block, which
///               does the rest alone. Where there is no such list, all blocks do, over the row:
///     select    sample_select.cuh: the last token of top_k's or top_p's prefix
///     draw      sample_draw.cuh: the token
///
/// Counts and masses are integers (kernels/sample.hpp), so no sum has an order, and the result has
/// the bits of the host's. For top_p's list the mass of all other tokens is known within bounds;
/// where the last token that is kept depends on it, the row is done again, with all masses.
///
/// A row with a list takes two rounds of messages between the blocks. What they tell each other at
/// length goes through slots in device memory: behind it a fence and a message (lists), or a barrier
/// of the cluster (bins). Two sets of slots in turn make one of these enough: who writes a set again
/// has passed the barrier, or heard the round, that everybody reaches only after reading it.
#pragma once

#include "sample_draw.cuh"
#include "sample_largest.cuh"
#include "sample_list.cuh"
#include "sample_load.cuh"
#include "sample_select.cuh"

namespace oriel::detail {

/// A block as a cluster of its own.
template <class Group>
class single_block {
 public:
  static constexpr std::uint32_t parts = 1;

  ORIEL_HOST_DEVICE single_block(const Group& g, sample_shared& shared, float* logits)
      : group_(g), shared_(shared), logits_(logits) {}

  template <class F>
  ORIEL_HOST_DEVICE void each_part(F&& f) {
    f(group_, 0u, shared_, logits_);
  }
  ORIEL_HOST_DEVICE const sample_shared& front() const { return shared_; }

 private:
  Group group_;
  sample_shared& shared_;
  float* logits_;
};

struct sample_agent {
  std::uint32_t vocabulary;
  std::uint32_t part_tokens;  ///< of a block; a multiple of 8
  sample_args args;

  /// The rows `first`, `first` + `step`, ... below `rows`.
  /// @param slots  [sample_slots] of this cluster
  template <class Cluster>
  ORIEL_HOST_DEVICE void operator()(Cluster& c,
                                    std::uint32_t first,
                                    std::uint32_t step,
                                    std::uint32_t rows,
                                    sample_slot* slots) const {
    if (first >= rows) {
      return;
    }
    load().begin(c, first);
    c.each_part([](auto g, std::uint32_t, sample_shared& shared, float*) {
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          shared.unsure_rows = 0;
          shared.may_be_unsure = 0;
          shared.is_second_time = 0;
          shared.is_listed = 1;
        }
      });
      g.sync();
    });
    c.open();
    run state{slots};
    do {
      for (std::uint32_t row = first; row < rows; row += step) {
        const bool is_first_time = c.front().is_second_time == 0;
        if (!is_first_time) {
          if (args.out.data()[row].probability != unsure) {
            continue;
          }
          load().begin(c, row);
        }
        sample(c, row, is_first_time && rows - row > step ? row + step : row, state);
      }
    } while (c.front().is_second_time == 0 && c.front().may_be_unsure != 0 && has_unsure_rows(c));
  }

 private:
  /// A probability that no token has.
  static constexpr float unsure = -1.0f;

  /// Of a cluster's rows; the same for all its blocks.
  struct run {
    sample_slot* slots;
    std::uint32_t turn = 0;

    ORIEL_HOST_DEVICE sample_slot* next_slots() { return slots + (turn++ % 2) * sample_parts; }
    ORIEL_HOST_DEVICE sample_slot* last_slots() const {
      return slots + ((turn - 1) % 2) * sample_parts;
    }
  };

  ORIEL_HOST_DEVICE bool cuts_count(const sample_filters& filters) const {
    return filters.top_k != 0 && filters.top_k < vocabulary;
  }
  ORIEL_HOST_DEVICE bool lists_by_count(const sample_filters& filters) const {
    return cuts_count(filters) && filters.top_k <= sample_list_top_k;
  }
  ORIEL_HOST_DEVICE bool lists_by_mass(const sample_filters& filters) const {
    return !cuts_count(filters) && filters.top_p < 1.0f;
  }
  ORIEL_HOST_DEVICE sample_load load() const {
    return {{vocabulary, part_tokens}, args.logits, args.logits_stride};
  }

  /// @param next_row  the cluster's next; `row` where there is none
  template <class Cluster>
  ORIEL_HOST_DEVICE void sample(Cluster& c,
                                std::uint32_t row,
                                std::uint32_t next_row,
                                run& state) const {
    const sample_row& how = args.rows.data()[row];
    const bool is_greedy = how.filters.temperature == 0.0f;
    const bool lists_count = !is_greedy && lists_by_count(how.filters);
    const std::uint32_t top_k = lists_count ? how.filters.top_k : 0;
    const auto list = [&] { return sample_list{load().tokens, c.front().filters}; };
    bool has_begun = next_row == row;
    const auto begin_next = [&] {
      if (!has_begun) {
        load().begin(c, next_row);
      }
      has_begun = true;
    };

    keep_in_shared(c, how);
    load().end(c, row, how.adjustments);
    const sample_largest largest{load().tokens};
    largest.tell(c, is_greedy, top_k);
    if (is_greedy) {
      begin_next();
    }
    sample_largest::hear(c);
    const bool is_dead = !(c.front().largest > negative_infinity);
    const bool draws = !is_dead && !is_greedy;
    const bool trusts_list = c.front().is_listed != 0;  // The row before with one had it.
    bool is_listed = false;
    if (draws && lists_count) {
      list().template tell<false>(c, state.next_slots());
      if (trusts_list) {
        begin_next();
      }
      is_listed = list().template hear<false>(c);
    } else if (draws && lists_by_mass(c.front().filters) && c.front().is_second_time == 0) {
      list().template tell<true>(c, state.next_slots());
      if (trusts_list) {
        begin_next();
      }
      is_listed = list().template hear<true>(c);
    }
    if (is_listed) {
      finish_alone(c, row, state);
    } else if (!draws) {
      put(c,
          row,
          {.id = is_dead ? token_id{0} : token_id{c.front().first_id},
           .probability = is_dead ? 0.0f : 1.0f});
    } else {
      if (has_begun && next_row != row) {
        load().again(c, row, how.adjustments);
        has_begun = false;
      }
      finish(c, load().tokens, row, state);
    }
    begin_next();
  }

  /// What is asked of the row, at hand for all that follows: under the copies, which it waits for.
  template <class Cluster>
  ORIEL_HOST_DEVICE static void keep_in_shared(Cluster& c, const sample_row& how) {
    c.each_part([&](auto g, std::uint32_t, sample_shared& shared, float*) {
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          shared.filters = how.filters;
          shared.random = sample_random(how.seed, how.position);
        }
      });
    });
  }

  /// Filters and the draw. @param tokens  all that may be kept
  template <class Cluster, class State>
  ORIEL_HOST_DEVICE void finish(Cluster& c,
                                const sample_tokens& tokens,
                                std::uint32_t row,
                                State&& state) const {
    const sample_filters filters = c.front().filters;
    const sample_select select{tokens, filters};
    const auto next_slots = [&] { return state.next_slots(); };
    if (cuts_count(filters)) {
      select.template raise_cut<false>(c, next_slots);
    }
    if (filters.top_p < 1.0f) {
      select.template raise_cut<true>(c, next_slots);
      if (c.front().is_unsure != 0) {
        put_unsure(c, row);
        return;
      }
    }
    sample_draw{tokens, filters, &args.out.data()[row]}(c, state.next_slots());
  }

  /// Of a block alone, which tells nobody.
  struct no_slots {
    ORIEL_HOST_DEVICE static sample_slot* next_slots() { return nullptr; }
  };

  /// The first block does. The others go on to the next row, which is on its way.
  template <class Cluster>
  ORIEL_HOST_DEVICE void finish_alone(Cluster& c, std::uint32_t row, const run& state) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, float*) {
      if (part == 0) {
        const sample_tokens listed = sample_list::take(g, state.last_slots(), shared);
        single_block<decltype(g)> block(g, shared, shared.list_value);
        finish(block, listed, row, no_slots{});
        g.sync();
      }
    });
  }

  template <class Cluster>
  ORIEL_HOST_DEVICE void put(Cluster& c, std::uint32_t row, const sampled_token& token) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared&, float*) {
      g.each([&](std::uint32_t thread) {
        if (part == 0 && thread == 0) {
          args.out.data()[row] = token;
        }
      });
      g.sync();
    });
  }

  template <class Cluster>
  ORIEL_HOST_DEVICE void put_unsure(Cluster& c, std::uint32_t row) const {
    put(c, row, {.id = token_id{0}, .probability = unsure});
    c.each_part([&](auto g, std::uint32_t, sample_shared& shared, float*) {
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          ++shared.unsure_rows;
        }
      });
    });
  }
  /// @returns whether the first block had such rows: to all, for whom the second time begins
  template <class Cluster>
  ORIEL_HOST_DEVICE static bool has_unsure_rows(Cluster& c) {
    c.each_part([&](auto g, std::uint32_t part, sample_shared& shared, float*) {
      g.sync();  // All have read what changes below.
      g.each([&](std::uint32_t thread) {
        if (thread < sample_parts) {
          c.send(shared, part, thread, {shared.unsure_rows, 0});
        }
      });
    });
    c.each_part([&](auto g, std::uint32_t, sample_shared& shared, float*) {
      const sample_message* messages = c.hear(g, shared);
      g.each([&](std::uint32_t thread) {
        if (thread == 0) {
          shared.is_second_time = messages[0].first != 0 ? 1u : 0u;
        }
      });
      g.sync();
    });
    if (c.front().is_second_time == 0) {
      return false;
    }
    c.sync();
    return true;
  }
};

}  // namespace oriel::detail
