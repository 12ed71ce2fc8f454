// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sampling's first step: a cluster loads a row, an eighth into the shared memory of each block.
/// Copies bring the logits while the row before is still worked on; then penalties and biases are
/// applied (kernels/adjust_logits.hpp) and a logit becomes a key, in its place.
#pragma once

#include "row_vector.cuh"
#include "sample_tokens.cuh"

#include <oriel/core/mutation.hpp>

namespace oriel::detail {

struct sample_load {
  sample_tokens tokens;
  const float* logits;  ///< of row 0
  std::size_t logits_stride;

  /// Starts to copy a row's logits. @pre nobody of a block reads or writes its keys any more
  template <class Cluster>
  ORIEL_HOST_DEVICE void begin(Cluster& c, std::uint32_t row) const {
    c.each_part([&](auto g, std::uint32_t part, sample_shared&, std::uint32_t* keys) {
      const float* from = logits_of(row, part);
      const std::uint32_t copied = copied_tokens(from, part);
      g.each([&](std::uint32_t thread) {
        for (std::uint32_t i = thread * 4; i < copied; i += stride) {
          c.copy_ahead(keys + i, from + i);
        }
      });
    });
  }

  /// Keys of the row that was begun; those behind the part's last are 0 up to a multiple of 4.
  template <class Cluster>
  ORIEL_HOST_DEVICE void end(Cluster& c,
                             std::uint32_t row,
                             const logit_adjustments& adjustments) const {
    const bool adjusts = !adjustments.uses.empty() || !adjustments.biases.empty();
    c.each_part([&](auto g, std::uint32_t part, sample_shared&, std::uint32_t* keys) {
      const float* from = logits_of(row, part);
      const std::uint32_t n = tokens.count_of(part);
      const std::uint32_t copied = copied_tokens(from, part);
      if (!ORIEL_MUTANT(sample_copies_are_not_waited_for)) {
        c.wait_for_copies();  // A thread's own: it touches no others before the barrier.
      }
      g.each([&](std::uint32_t thread) {
        ORIEL_UNROLL_BY(5)
        for (std::uint32_t i = thread * 4; i < copied && !adjusts; i += stride) {
          words16 w = load_words(keys + i);
          for (std::uint32_t& word : w.word) {
            word = ordered_key(std::bit_cast<float>(word));
          }
          store_words(keys + i, w);
        }
        for (std::uint32_t i = copied + thread; i < (n + 3) / 4 * 4; i += sample_threads) {
          const float logit = i < n ? from[i] : 0.0f;
          const std::uint32_t key =
              adjusts ? std::bit_cast<std::uint32_t>(logit) : ordered_key(logit);
          keys[i] = i < n ? key : 0;
        }
      });
      g.sync();
      if (adjusts) {
        adjust(g, adjustments, tokens.first_of(part), n, keys);
      }
    });
  }

 private:
  static constexpr std::uint32_t stride = sample_threads * 4;

  ORIEL_HOST_DEVICE const float* logits_of(std::uint32_t row, std::uint32_t part) const {
    return logits + row * logits_stride + tokens.first_of(part);
  }
  /// Of a part, the first: those that copies of 16 bytes bring.
  ORIEL_HOST_DEVICE std::uint32_t copied_tokens(const float* from, std::uint32_t part) const {
    return is_aligned(from) ? tokens.count_of(part) / 4 * 4 : 0;
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
};

}  // namespace oriel::detail
