// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sampling's first step: a cluster loads a row, an eighth into the shared memory of each block.
/// Copies bring the logits while the row before is still worked on; then penalties and biases are
/// applied (kernels/adjust_logits.hpp) in their place.
#pragma once

#include "row_vector.cuh"
#include "sample_tokens.cuh"

#include <oriel/core/mutation.hpp>

namespace oriel::detail {

struct sample_load {
  sample_tokens tokens;
  const float* first_row;  ///< in device memory
  std::size_t logits_stride;

  /// Starts to copy a row's logits. @pre nobody of a block reads or writes its own any more
  template <class Cluster>
  ORIEL_HOST_DEVICE void begin(Cluster& c, std::uint32_t row) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared&, float* logits) {
      const float* from = logits_of(row, part);
      const std::uint32_t copied = copied_tokens(from, part);
      g.each([&](std::uint32_t thread) {
        for (std::uint32_t i = thread * 4; i < copied; i += sample_threads * 4) {
          c.copy_ahead(logits + i, from + i);
        }
      });
    });
  }

  /// The row that was begun is there; behind the part's last token are -infinities up to a multiple
  /// of 4. A thread sees the words of 16 bytes that are its own: number thread, thread + 512, ...
  /// Behind a barrier of the block all see all.
  template <class Cluster>
  ORIEL_HOST_DEVICE void end(Cluster& c,
                             std::uint32_t row,
                             const logit_adjustments& adjustments) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared&, float* logits) {
      const float* from = logits_of(row, part);
      const std::uint32_t n = tokens.count_of(part);
      const bool adjusts = !adjustments.uses.empty() || !adjustments.biases.empty();
      if (!ORIEL_MUTANT(sample_copies_are_not_waited_for)) {
        c.wait_for_copies();
      }
      g.each([&](std::uint32_t thread) {
        const std::uint32_t copied = copied_tokens(from, part) / 4;
        const std::uint32_t skipped = (copied + sample_threads - 1 - thread) / sample_threads;
        for (std::uint32_t i = (thread + skipped * sample_threads) * 4; i < n;
             i += sample_threads * 4) {
          load_word(logits + i, from + i, n - i);
        }
      });
      if (adjusts) {
        g.sync();
        adjust(g, adjustments, tokens.first_of(part), n, logits);
      }
    });
  }

  /// A row in the place of another one that was begun.
  template <class Cluster>
  ORIEL_HOST_DEVICE void again(Cluster& c,
                               std::uint32_t row,
                               const logit_adjustments& adjustments) const {
    c.each_part([&](auto, std::uint32_t, sample_shared&, float*) { c.wait_for_copies(); });
    begin(c, row);
    end(c, row, adjustments);
    c.each_part([&](auto g, std::uint32_t, sample_shared&, float*) { g.sync(); });
  }

 private:
  ORIEL_HOST_DEVICE const float* logits_of(std::uint32_t row, std::uint32_t part) const {
    return first_row + row * logits_stride + tokens.first_of(part);
  }
  /// Of a part, the first: those that copies of 16 bytes bring.
  ORIEL_HOST_DEVICE std::uint32_t copied_tokens(const float* from, std::uint32_t part) const {
    return is_aligned(from) ? tokens.count_of(part) / 4 * 4 : 0;
  }
  ORIEL_HOST_DEVICE static bool is_aligned(const float* p) {
    return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
  }

  /// Four logits, of which `n` or more are there.
  ORIEL_HOST_DEVICE static void load_word(float* to, const float* from, std::uint32_t n) {
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < 4; ++i) {
      to[i] = i < n ? from[i] : negative_infinity;
    }
  }

  /// kernels/adjust_logits.hpp, for the tokens [first, first + n).
  template <class Group>
  ORIEL_HOST_DEVICE void adjust(Group& g,
                                const logit_adjustments& a,
                                std::uint32_t first,
                                std::uint32_t n,
                                float* logits) const {
    g.each([&](std::uint32_t thread) {
      for (std::size_t i = thread; i < a.uses.size(); i += sample_threads) {
        const token_use use = a.uses.data()[i];
        const std::uint32_t at = to_index(use.id) - first;
        if (at < n) {
          float z = logits[at];
          z = z > 0.0f ? z / a.repetition : z * a.repetition;
          if (use.outputs != 0) {
            z -= a.frequency * static_cast<float>(use.outputs);
            z -= a.presence;
          }
          logits[at] = z;
        }
      }
    });
    g.sync();
    g.each([&](std::uint32_t thread) {
      for (std::size_t i = thread; i < a.biases.size(); i += sample_threads) {
        const std::uint32_t at = to_index(a.biases.data()[i].id) - first;
        if (at < n && is_first_bias(a, i)) {
          logits[at] = add_biases(a, i, logits[at]);
        }
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
};

}  // namespace oriel::detail
