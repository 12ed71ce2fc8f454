// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Drafts and their rollback: a sequence that reserves rows, writes them all and accepts some,
// against a list of what was accepted. Every row of every pool names who wrote it, so a stale row
// shows.
#include "support/scale.hpp"

#include <oriel/core/random.hpp>
#include <oriel/kv/dual_pool.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

namespace rollback_test {

using namespace oriel;

namespace {

using pools_type = dual_pool<address_only_memory>;

/// How many of the drafts are accepted.
enum class pattern { all, none, mixed, to_the_edge };

/// One pool set, what its pages hold, and one sequence after the other.
class world {
 public:
  world(std::uint32_t page, std::uint32_t window, std::uint32_t soft_window, std::uint64_t seed)
      : draw_(seed, 1), page_(page), windows_{0, window, soft_window} {
    std::vector<kv_layer_shape> layers;
    for (const std::uint32_t w : windows_) {
      layers.push_back({.kv_heads = 1, .head_dim_qk = 8, .head_dim_vo = 8, .window_tokens = w});
    }
    layers.back().is_soft = true;
    const auto plan =
        pool_plan::make(layers, {.page_size = page, .step_tokens = step_max, .slack_pages = 1});
    REQUIRE(plan);
    REQUIRE(plan->soft_kind() == 1u);
    pool_sizes sizes;
    for (std::uint32_t pool = 0; pool < plan->pools(); ++pool) {
      sizes.pages.push_back(plan->pages_for(pool_id{pool}, tokens_max) * 2 + 8);
      rows_.emplace_back(std::size_t{sizes.pages.back()} * page);
    }
    auto made = pools_type::make(*plan, sizes);
    REQUIRE(made);
    pools_.emplace_back(std::move(*made));
  }

  /// Steps of one sequence until it is full, then it goes.
  std::uint64_t live(pattern how) {
    pools_type& pools = pools_.front();
    auto admitted = pools.try_admit({.tokens_now = 1, .tokens_max = tokens_max});
    REQUIRE(admitted);
    sequence_type s = std::move(*admitted);
    for (auto& rows : accepted_) {
      rows.clear();
    }
    std::uint64_t steps = 0;
    bool right = true;
    for (; s.length() + step_max <= tokens_max; ++steps) {
      const std::uint32_t rows = 1 + draw_.next_below(step_max);
      right = right && static_cast<bool>(s.reserve(rows));
      write(s, rows);
      const std::uint32_t taken = accept(s.length(), rows, how);
      const std::uint32_t first = s.length();
      s.accept(taken);
      for (std::uint32_t row = 0; row < taken * windows_.size(); ++row) {
        accepted_[row % windows_.size()].push_back(written_ + row / windows_.size());
      }
      write_open_rows(s);
      right = right && s.length() == first + taken && lengths_agree(s) && rows_are_right(s);
      share_some(s);
      s.slide_out();
      right = right && rows_are_right(s) && shared_are_right();
      if (!right) {
        break;
      }
      if (draw_.next_below(16) == 0) {
        s.give_back_spares(1 + draw_.next_below(step_max));
      }
      drop_shared(4);
    }
    INFO("length " << s.length() << ", step " << steps);
    REQUIRE(right);
    s.release();
    drop_shared(0);
    for (std::uint32_t pool = 0; pool < pools.pools(); ++pool) {
      REQUIRE(pools.pool(pool_id{pool}).used() == 0);
    }
    return steps;
  }

 private:
  using sequence_type = pools_type::sequence_type;
  static constexpr std::uint32_t tokens_max = 400, step_max = 8;

  struct shared_page {
    std::uint32_t pool;
    page_handle page;
    std::vector<std::uint64_t> rows;
  };

  std::uint64_t& row_at(const sequence_type& s, std::uint32_t pool, std::uint32_t position) {
    const page_id id = s.table(pool_id{pool}).page_of(position / page_);
    return rows_[pool][std::size_t{to_index(id)} * page_ + position % page_];
  }

  void write(const sequence_type& s, std::uint32_t rows) {
    written_ = stamp_ + 1;
    for (std::uint32_t row = 0; row < rows; ++row) {
      ++stamp_;
      for (std::uint32_t pool = 0; pool < windows_.size(); ++pool) {
        row_at(s, pool, s.length() + row) = stamp_;
      }
    }
  }

  /// As MTP blocks do it: the last rows of the soft kind once more, those that are not final.
  void write_open_rows(const sequence_type& s) {
    const std::uint32_t first = std::max(s.soft_rows().end, s.length() - std::min(s.length(), 2u));
    for (std::uint32_t position = first; position < s.length(); ++position) {
      row_at(s, 2, position) = accepted_[2][position] = ++stamp_;
    }
  }

  /// At least the row of the last token; to_the_edge: so that a page or a window just begins or
  /// ends.
  std::uint32_t accept(std::uint32_t length, std::uint32_t rows, pattern how) {
    switch (how) {
      case pattern::all:
        return rows;
      case pattern::none:
        return 1;
      case pattern::mixed:
        return 1 + draw_.next_below(rows);
      case pattern::to_the_edge: {
        const std::uint32_t edge = page_ - length % page_ + draw_.next_below(3) - 1;
        return std::clamp(edge, 1u, rows);
      }
    }
    return 1;
  }

  static bool lengths_agree(const sequence_type& s) {
    for (std::uint32_t kind = 0; kind < s.window_kinds(); ++kind) {
      if (s.ring(kind).length() != s.length()) {
        return false;
      }
    }
    return true;
  }

  /// What the next step reads: everything in the full pool, and the windows, with the rows that
  /// MTP blocks write again.
  bool rows_are_right(const sequence_type& s) {
    const std::uint32_t length = s.length();
    for (std::uint32_t pool = 0; pool < windows_.size(); ++pool) {
      const std::uint32_t behind =
          pool == 0 ? length : std::min(length, windows_[pool] - 1 + (pool == 2 ? 2 : 0));
      for (std::uint32_t p = length - behind; p < length; ++p) {
        if (row_at(s, pool, p) != accepted_[pool][p]) {
          return false;
        }
      }
    }
    return true;
  }

  /// A prefix cache takes whole pages, whatever hangs in them.
  void share_some(sequence_type& s) {
    if (draw_.next_below(4) != 0) {
      return;
    }
    if (draw_.next_below(2) == 0) {
      s.set_soft_rows({0, s.length() - std::min(s.length(), 2u)});
    }
    for (std::uint32_t pool = 0; pool < windows_.size(); ++pool) {
      const auto pages =
          pool == 0 ? sequence_type::row_range{0, s.length() / page_} : s.shareable_pages(pool - 1);
      if (pages.first == pages.end || shared_.size() > 6) {
        continue;
      }
      const std::uint32_t logical = pages.end - 1;
      const page_handle page = s.share(pool_id{pool}, logical);
      const auto begin = rows_[pool].begin() + std::ptrdiff_t{to_index(page.id)} * page_;
      shared_.push_back({pool, page, {begin, begin + page_}});
      REQUIRE(std::ranges::equal(
          shared_.back().rows,
          std::span(accepted_[pool]).subspan(std::size_t{logical} * page_, page_)));
    }
  }
  bool shared_are_right() const {
    return std::ranges::all_of(shared_, [&](const shared_page& s) {
      return std::ranges::equal(
          s.rows,
          std::span(rows_[s.pool]).subspan(std::size_t{to_index(s.page.id)} * page_, page_));
    });
  }
  void drop_shared(std::size_t left) {
    while (shared_.size() > left) {
      pools_.front().pool(pool_id{shared_.front().pool}).release(shared_.front().page);
      shared_.pop_front();
    }
  }

  random_stream draw_;
  std::uint32_t page_;
  std::vector<std::uint32_t> windows_;            // [pools]
  std::vector<std::vector<std::uint64_t>> rows_;  // [pools][pages * page]: who wrote it
  std::vector<pools_type> pools_;                 // one
  std::vector<std::uint64_t> accepted_[3];        // [pools][length]
  std::deque<shared_page> shared_;
  std::uint64_t stamp_ = 0, written_ = 0;
};

}  // namespace

TEST_CASE("rows that were rolled back are never read, in any pool") {
  const std::uint64_t wanted = scaled(1'000'000);
  std::uint64_t steps = 0;
  for (std::uint64_t seed = 0; steps < wanted; ++seed) {
    random_stream draw(seed, 2);
    const std::uint32_t page = 2 + draw.next_below(8);
    const std::uint32_t window = 1 + draw.next_below(4 * page),
                        soft = 2 + draw.next_below(4 * page);
    CAPTURE(seed, page, window, soft);
    world w(page, window, soft, seed);
    for (const pattern how :
         {pattern::all, pattern::none, pattern::mixed, pattern::to_the_edge, pattern::mixed}) {
      CAPTURE(static_cast<int>(how));
      steps += w.live(how);
    }
  }
}

}  // namespace rollback_test
