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
/// @tparam Memory  has at(pool, page, slot, row), a word&
template <class Pools, class Memory>
class row_runner {
 public:
  using sequence_type = typename Pools::sequence_type;

  /// Rows on their way through the layers.
  struct rows {
    std::uint32_t first = 0;
    std::vector<word> states = {};             ///< of each row, after the layers so far
    std::vector<std::uint32_t> frontier = {};  ///< [layers + 1] of a heal; empty: all is exact
    std::uint32_t lent_tokens = 0;             ///< of the sequence
  };

  row_runner(const fake_model& model, const Pools& pools, Memory& memory, bool writes_garbage)
      : model_(model), pools_(pools), memory_(memory), writes_garbage_(writes_garbage) {}

  /// The rows from s.length() on, which are reserved. `paths` names the tokens up to each row;
  /// `heal` leaves out what is below the layers' frontiers. Returns the last states; those of rows
  /// that a heal left out mean nothing.
  std::vector<word> run(const sequence_type& s,
                        std::span<const word> paths,
                        const oriel::heal_plan* heal) {
    rows now = begin(s, paths, heal);
    for (std::uint32_t l = 0; l < model_.layers(); ++l) {
      run_layer(s, l, now);
    }
    return now.states;
  }

  /// The same in steps: rows before the first layer, and one layer after the other.
  [[nodiscard]] rows begin(const sequence_type& s,
                           std::span<const word> paths,
                           const oriel::heal_plan* heal) const {
    rows now{.first = s.length(), .states = {}, .frontier = {}, .lent_tokens = s.lent_tokens()};
    for (std::uint32_t i = 0; i < paths.size(); ++i) {
      now.states.push_back(fake_model::embed(paths[i], now.first + i));
    }
    if (heal != nullptr) {
      now.frontier.assign(heal->frontier.begin(), heal->frontier.end());
    }
    return now;
  }
  void run_layer(const sequence_type& s, std::uint32_t layer, rows& now) {
    append(s, layer, now);
    attend(s, layer, now);
  }

 private:
  [[nodiscard]] word& row(const sequence_type& s, std::uint32_t layer, std::uint32_t position) {
    const oriel::layer_home home = pools_.plan().home(layer);
    const std::uint32_t page_size = pools_.plan().options().page_size;
    const oriel::page_id page = s.table(home.pool).page_of(position / page_size);
    require(page != oriel::null_page, "I5: attention reads a page that is not there");
    return memory_.at(to_index(home.pool), to_index(page), home.slot, position % page_size);
  }
  /// The first row of these that is exact before a layer.
  [[nodiscard]] static std::uint32_t exact_from(const rows& now, std::uint32_t layer) {
    const auto end = now.first + static_cast<std::uint32_t>(now.states.size());
    return now.frontier.empty() ? now.first : std::clamp(now.frontier[layer], now.first, end);
  }

  /// Writes the layer's KV. Inputs are exact from a frontier on; what a heal computes below is
  /// garbage or is not written at all.
  void append(const sequence_type& s, std::uint32_t layer, const rows& now) {
    const std::uint32_t pool = to_index(pools_.plan().home(layer).pool);
    const std::uint32_t page_size = pools_.plan().options().page_size;
    const std::uint32_t exact = exact_from(now, layer);
    const auto end = now.first + static_cast<std::uint32_t>(now.states.size());
    for (std::uint32_t q = now.first; q < end; ++q) {
      if ((pool == 0 && q < now.lent_tokens) || (q < exact && !writes_garbage_)) {
        continue;
      }
      const std::uint32_t page = q / page_size;
      const oriel::page_handle handle = pool == 0 ? s.full_pages()[page] : s.ring(pool - 1)[page];
      require(pools_.pool(oriel::pool_id{pool}).ref_count(handle) == 1,
              "I2: a row is written to a page that others hold");
      const word value = fake_model::kv(now.states[q - now.first], layer);
      row(s, layer, q) = q < exact ? ~value : value;
    }
  }

  void attend(const sequence_type& s, std::uint32_t layer, rows& now) {
    const auto term = [&](std::uint32_t position) {
      const word kv = row(s, layer, position);
      require(kv != poison, "I7: attention reads a row that nobody wrote");
      return fake_model::term(kv, position);
    };
    const std::uint32_t window = model_.windows[layer], from = exact_from(now, layer + 1);
    const auto end = now.first + static_cast<std::uint32_t>(now.states.size());
    word digest = 0;
    for (std::uint32_t q = from; q < end; ++q) {
      for (std::uint32_t p = q == from ? model_.first_read(layer, q) : q; p <= q; ++p) {
        digest += term(p);
      }
      if (q != from && window != 0 && q >= window) {
        digest -= term(q - window);
      }
      word& state = now.states[q - now.first];
      state = fake_model::attend(state, digest);
    }
  }

  const fake_model& model_;
  const Pools& pools_;
  Memory& memory_;
  bool writes_garbage_;
};

}  // namespace sim
