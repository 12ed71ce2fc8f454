// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The memory of the fake model, by pool and page id, and the only code that reads and writes it:
/// through the tables of a sequence, as a kernel would.
#pragma once

#include "fake_model.hpp"
#include "violation.hpp"

#include <oriel/kv/dual_pool.hpp>
#include <oriel/prefix/heal.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace sim {

using pools_type = oriel::dual_pool<oriel::address_only_memory>;
using sequence = pools_type::sequence_type;

/// One word per layer and row of every page.
class kv_memory {
 public:
  explicit kv_memory(const pools_type& pools) : page_size_(pools.plan().options().page_size) {
    for (std::uint32_t i = 0; i < pools.pools(); ++i) {
      const oriel::pool_id id{i};
      slots_.push_back(pools.plan().layout(id).slots());
      words_.emplace_back(std::size_t{pools.pool(id).capacity()} * slots_[i] * page_size_, poison);
    }
  }
  [[nodiscard]] word& at(std::uint32_t pool,
                         std::uint32_t page,
                         std::uint32_t slot,
                         std::uint32_t row) {
    return words_[pool][(std::size_t{page} * slots_[pool] + slot) * page_size_ + row];
  }
  /// The page holds nothing from now on.
  void forget(std::uint32_t pool, std::uint32_t page) {
    const std::size_t words = std::size_t{slots_[pool]} * page_size_;
    std::fill_n(words_[pool].begin() + static_cast<std::ptrdiff_t>(page * words), words, poison);
  }

 private:
  std::uint32_t page_size_;
  std::vector<std::uint32_t> slots_;      // [pools]
  std::vector<std::vector<word>> words_;  // [pools][pages * slots * page_size]
};

/// Runs rows of one sequence.
class row_runner {
 public:
  row_runner(const fake_model& model,
             const pools_type& pools,
             kv_memory& memory,
             bool writes_garbage)
      : model_(model), pools_(pools), memory_(memory), writes_garbage_(writes_garbage) {}

  /// The rows from s.length() on, which are reserved. `paths` names the tokens up to each row;
  /// `heal` leaves out what is below the layers' frontiers. Returns the last states; those of rows
  /// that a heal left out mean nothing.
  std::vector<word> run(const sequence& s,
                        std::span<const word> paths,
                        const oriel::heal_plan* heal) {
    const std::uint32_t first = s.length();
    const std::uint32_t end = first + static_cast<std::uint32_t>(paths.size());
    const auto frontier = [&](std::uint32_t layer) {
      return heal == nullptr ? first : std::clamp(heal->frontier[layer], first, end);
    };
    std::vector<word> states(paths.size());
    for (std::uint32_t q = first; q < end; ++q) {
      states[q - first] = fake_model::embed(paths[q - first], q);
    }
    for (std::uint32_t l = 0; l < model_.layers(); ++l) {
      append(s, l, frontier(l), states);
      attend(s, l, frontier(l + 1), states);
    }
    return states;
  }

 private:
  [[nodiscard]] word& row(const sequence& s, std::uint32_t layer, std::uint32_t position) {
    const oriel::layer_home home = pools_.plan().home(layer);
    const std::uint32_t page_size = pools_.plan().options().page_size;
    const oriel::page_id page = s.table(home.pool).page_of(position / page_size);
    require(page != oriel::null_page, "I5: attention reads a page that is not there");
    return memory_.at(to_index(home.pool), to_index(page), home.slot, position % page_size);
  }

  /// Writes the layer's KV. Inputs are exact from `exact` on; what a heal computes below is garbage
  /// or is not written at all.
  void append(const sequence& s,
              std::uint32_t layer,
              std::uint32_t exact,
              std::span<const word> states) {
    const std::uint32_t pool = to_index(pools_.plan().home(layer).pool);
    const std::uint32_t page_size = pools_.plan().options().page_size;
    const auto end = s.length() + static_cast<std::uint32_t>(states.size());
    for (std::uint32_t q = s.length(); q < end; ++q) {
      if ((pool == 0 && q < s.lent_tokens()) || (q < exact && !writes_garbage_)) {
        continue;
      }
      const std::uint32_t page = q / page_size;
      const oriel::page_handle handle = pool == 0 ? s.full_pages()[page] : s.ring(pool - 1)[page];
      require(pools_.pool(oriel::pool_id{pool}).ref_count(handle) == 1,
              "I2: a row is written to a page that others hold");
      const word value = fake_model::kv(states[q - s.length()], layer);
      row(s, layer, q) = q < exact ? ~value : value;
    }
  }

  void attend(const sequence& s, std::uint32_t layer, std::uint32_t from, std::span<word> states) {
    const auto term = [&](std::uint32_t position) {
      const word kv = row(s, layer, position);
      require(kv != poison, "I7: attention reads a row that nobody wrote");
      return fake_model::term(kv, position);
    };
    const std::uint32_t window = model_.windows[layer];
    const auto end = s.length() + static_cast<std::uint32_t>(states.size());
    word digest = 0;
    for (std::uint32_t q = from; q < end; ++q) {
      for (std::uint32_t p = q == from ? model_.first_read(layer, q) : q; p <= q; ++p) {
        digest += term(p);
      }
      if (q != from && window != 0 && q >= window) {
        digest -= term(q - window);
      }
      states[q - s.length()] = fake_model::attend(states[q - s.length()], digest);
    }
  }

  const fake_model& model_;
  const pools_type& pools_;
  kv_memory& memory_;
  bool writes_garbage_;
};

}  // namespace sim
