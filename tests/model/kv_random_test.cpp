// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Random life in dual pools: sequences are admitted (cold, behind a published prefix, or inside it
// to heal its windows), grow, have rows rejected, publish, switch to another's pages, end;
// published prefixes are evicted. After every operation the pools are compared with a model that
// knows the rules alone (slow_kv.hpp): what is refused and why, how many pages everyone holds, that
// nothing shared is ever written, that every window reads its own tokens, and that free + used ==
// capacity with references counted again from their holders.
#include "model/slow_kv.hpp"
#include "support/scale.hpp"

#include <oriel/kv/dual_pool.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace kv_random_test {

namespace {

using pools_type = oriel::dual_pool<oriel::address_only_memory>;
using handles = std::vector<oriel::page_handle>;

/// A running sequence and what the model says of it.
struct running {
  pools_type::sequence_type real;
  std::uint32_t tokens_max;
  std::vector<std::uint64_t> tags;                // [length] what its tokens are
  std::int64_t full_pages = 0;                    // pages in its full table
  std::vector<slow_ring> rings;                   // [kinds]
  std::vector<std::vector<std::uint32_t>> pages;  // [pools] ids it holds, as last seen
  std::vector<std::uint64_t> lent = {};           // tags of the prefix that it heals
  std::uint32_t heal_row = 0;                     // where the heal began: no window row before it
  std::vector<std::int64_t> scratch = {};         // [kinds] pages before it are never shared

  [[nodiscard]] std::uint64_t tag_at(std::size_t position, std::uint64_t otherwise) const {
    return position < lent.size() ? lent[position] : otherwise;
  }
};

/// What a prefix tree would keep: references to the pages of one boundary.
struct published {
  std::vector<std::uint64_t> tags;  // [length]
  std::vector<handles> pages;       // [pools]; the last pages before the boundary
};

class world {
 public:
  explicit world(std::uint64_t seed) : seed_(seed), random_(seed) {
    step_tokens_ = 1 + below(12);
    const std::uint32_t sizes[] = {1, 2, 3, 4, 16};
    page_size_ = sizes[below(5)];
    const std::uint32_t slack = below(3), kinds = below(4);
    std::vector<oriel::kv_layer_shape> layers{{1, 2, 2, 0}};
    while (windows_.size() < kinds) {
      const std::uint32_t window = 1 + below(40);
      if (std::none_of(
              layers.begin(), layers.end(), [&](auto& l) { return l.window_tokens == window; })) {
        layers.push_back({1, 2, 2, window});
        windows_.push_back({page_size_, window, step_tokens_, slack});
      }
    }
    auto plan = oriel::pool_plan::make(
        layers, {.page_size = page_size_, .step_tokens = step_tokens_, .slack_pages = slack});
    REQUIRE(plan);
    oriel::pool_sizes sizes_of_pools;
    for (std::uint32_t i = 0; i < plan->pools(); ++i) {
      const std::uint32_t tokens = below(6) == 0 ? 60
                                   : i == 0      ? 200 + below(1'000)
                                                 : 80 + below(400);
      sizes_of_pools.pages.push_back(4 + tokens / page_size_);
      model_.emplace_back(sizes_of_pools.pages[i], page_size_);
    }
    auto pools = pools_type::make(*plan, sizes_of_pools);
    REQUIRE(pools);
    pools_ = std::make_unique<pools_type>(std::move(*pools));
  }

  void run(std::uint64_t operations) {
    for (operation_ = 0; operation_ < operations; ++operation_) {
      const std::uint32_t dice = below(64);
      if (running_.empty() || dice < 3) {
        admit();
      } else if (dice < 5) {
        finish(below(running_.size()));
      } else if (dice < 8) {
        publish(running_[below(running_.size())]);
      } else if (dice < 10) {
        evict();
      } else if (dice == 10) {
        give_back_spares(running_[below(running_.size())]);
      } else if (dice == 11) {
        switch_page(running_[below(running_.size())]);
      } else {
        step(below(running_.size()));
      }
      for (std::uint32_t i = 0; i < model_.size(); ++i) {
        const auto& pool = pools_->pool(oriel::pool_id{i});
        expect(pool.used() == model_[i].used, "pages used");
        expect(pool.available() + model_[i].used == pool.capacity(), "free + used == capacity");
      }
      if (operation_ % 256 == 0) {
        recount();
      }
    }
    while (!running_.empty()) {
      finish(running_.size() - 1);
    }
    while (!published_.empty()) {
      evict();
    }
    recount();
    for (const slow_pool& pool : model_) {
      expect(pool.used == 0, "nothing is left");
    }
  }

 private:
  /// Catch's own macros cost more than the operations here.
  void expect(bool holds, const char* what) const {
    if (!holds) {
      FAIL(what << " (seed " << seed_ << ", operation " << operation_ << ", page_size "
                << page_size_ << ", window kinds " << windows_.size() << ")");
    }
  }

  std::uint32_t below(std::size_t n) { return static_cast<std::uint32_t>(random_() % n); }

  [[nodiscard]] std::uint32_t pages_of(std::size_t tokens) const {
    return static_cast<std::uint32_t>((tokens + page_size_ - 1) / page_size_);
  }

  /// Notes which pages a sequence holds now.
  void observe(running& s) {
    for (std::uint32_t i = 0; i < model_.size(); ++i) {
      const auto ids = s.real.table(oriel::pool_id{i}).pages;
      std::vector<std::uint32_t>& seen = s.pages[i];
      if (i == 0 && ids.size() >= seen.size()) {  // The full table only grows at its end.
        for (std::size_t j = seen.size(); j < ids.size(); ++j) {
          seen.push_back(ids[j]);
          model_[0].add(ids[j]);
        }
        continue;
      }
      for (const std::uint32_t page : ids) {
        if (page != to_index(oriel::null_page)) {
          model_[i].add(page);
        }
      }
      for (const std::uint32_t page : seen) {
        model_[i].drop(page);
      }
      seen.clear();
      std::copy_if(ids.begin(), ids.end(), std::back_inserter(seen), [](std::uint32_t page) {
        return page != to_index(oriel::null_page);
      });
    }
  }

  /// The real sequence against the model's.
  void compare(const running& s) {
    expect(s.real.length() == s.tags.size(), "length");
    expect(std::int64_t{s.real.full_pages().size_pages()} == s.full_pages, "full pages");
    for (std::uint32_t kind = 0; kind < windows_.size(); ++kind) {
      const auto& real = s.real.ring(kind);
      expect(real.first_page() == s.rings[kind].first, "first live window page");
      expect(real.end_page() == s.rings[kind].end, "last live window page");
      expect(real.held_pages() == s.rings[kind].held(), "window pages held");
      expect(s.pages[kind + 1].size() == real.held_pages(), "window pages in the table");
    }
  }

  /// Every window position reads the sequence's own tokens; a few full positions do, too.
  void read_back(const running& s) {
    const auto length = static_cast<std::uint32_t>(s.tags.size());
    if (length == 0) {
      return;
    }
    for (int i = 0; i < 4; ++i) {
      read_position(s, 0, below(length));
    }
    for (std::uint32_t kind = 0; kind < windows_.size(); ++kind) {
      std::int64_t oldest = windows_[kind].oldest_position(length);
      if (oldest < s.heal_row) {
        oldest = s.heal_row;
      } else if (s.rings[kind].first * page_size_ > oldest) {  // Lent without the slack.
        oldest = s.rings[kind].first * page_size_;
        const std::int64_t boundary = length / page_size_ * page_size_;
        expect(oldest <= std::max<std::int64_t>(0, boundary - windows_[kind].window_tokens + 1),
               "the last boundary is kept");
      }
      for (auto p = static_cast<std::uint32_t>(oldest); p < length; ++p) {
        read_position(s, kind + 1, p);
      }
    }
  }

  void read_position(const running& s, std::uint32_t pool, std::uint32_t position) {
    const auto table = s.real.table(oriel::pool_id{pool});
    const std::uint32_t page = to_index(table.page_of(position / page_size_));
    expect(page < model_[pool].references.size(), "a live position has a page");
    expect(model_[pool].tag(page, position % page_size_) == s.tags[position], "its own token");
  }

  struct heal_inputs {
    std::uint32_t first_row = 0;
    std::vector<std::uint32_t> first_shared = {};  // [kinds]
  };

  /// A row to start at, low enough that every page of need(length) will be written.
  heal_inputs draw_heal(std::uint32_t length) {
    heal_inputs heal;
    std::uint32_t last = length - 1;
    for (slow_window window : windows_) {
      window.slack_pages = 0;
      const auto page = static_cast<std::uint32_t>(window.oldest_position(length) / page_size_);
      heal.first_shared.push_back(page);
      last = std::min(last, page * page_size_);
    }
    heal.first_row = below(last + 1);
    return heal;
  }

  void admit() {
    const published* prefix =
        !published_.empty() && below(2) == 0 ? &published_[below(published_.size())] : nullptr;
    const std::uint32_t length =
        prefix != nullptr ? static_cast<std::uint32_t>(prefix->tags.size()) : 0;
    const bool heals = prefix != nullptr && below(3) == 0;
    const heal_inputs heal = heals ? draw_heal(length) : heal_inputs{};
    oriel::admission request;
    request.tokens_now = length + below(60);
    request.tokens_max = std::max(1u, request.tokens_now + below(200));
    std::vector<std::span<const oriel::page_handle>> lent;
    std::vector<slow_ring> rings;
    std::int64_t full_pages = 0;
    for (std::uint32_t kind = 0; kind < windows_.size(); ++kind) {
      slow_ring ring{windows_[kind]};
      if (heals) {
        ring.first = ring.end = heal.first_row / page_size_;
      } else if (prefix != nullptr) {
        lent.emplace_back(prefix->pages[kind + 1]);
        ring.end = length / page_size_;
        ring.first = std::max(ring.end - static_cast<std::int64_t>(lent.back().size()),
                              ring.window.oldest_position(length) / page_size_);
      }
      rings.push_back(ring);
    }
    if (prefix != nullptr) {
      request.prefix = {.length = length, .full = prefix->pages[0], .windows = lent};
      if (heals) {
        request.prefix.heal = oriel::heal_start{heal.first_row, heal.first_shared};
      }
      full_pages = length / page_size_;
    }

    // What must happen.
    const std::int64_t missing = pages_of(request.tokens_now) - full_pages;
    bool fits = missing <= model_[0].available();
    bool ever = pages_of(request.tokens_max) <= model_[0].references.size();
    for (std::uint32_t kind = 0; kind < windows_.size(); ++kind) {
      const std::int64_t ring_pages = windows_[kind].ring_pages(step_tokens_);
      const std::int64_t capacity = static_cast<std::int64_t>(model_[kind + 1].references.size());
      ever = ever && std::min<std::int64_t>(ring_pages, pages_of(request.tokens_max)) <= capacity;
      const std::int64_t wanted = rings[kind].missing(request.tokens_now);
      fits = fits && wanted <= model_[kind + 1].available();
      rings[kind].spares += wanted;
    }

    auto admitted = pools_->try_admit(request);
    expect(admitted.has_value() == (ever && fits), "admission");
    if (!admitted) {
      expect((admitted.error().code == oriel::errc::request_too_large) == !ever, "its reason");
      return;
    }
    running s{std::move(*admitted), request.tokens_max, {}, full_pages + missing, rings, {}};
    s.pages.resize(model_.size());
    if (heals) {
      s.tags.assign(prefix->tags.begin(), prefix->tags.begin() + heal.first_row);
      s.lent = prefix->tags;
      s.heal_row = heal.first_row;
      s.scratch.assign(heal.first_shared.begin(), heal.first_shared.end());
    } else if (prefix != nullptr) {
      s.tags = prefix->tags;
    }
    observe(s);
    compare(s);
    read_back(s);
    running_.push_back(std::move(s));
  }

  void step(std::size_t index) {
    running& s = running_[index];
    const std::uint32_t rows = below(step_tokens_ + 1);
    const std::size_t tokens = s.tags.size() + rows;
    const std::int64_t missing = std::max<std::int64_t>(0, pages_of(tokens) - s.full_pages);
    bool fits = missing <= model_[0].available();
    for (std::uint32_t kind = 0; kind < windows_.size(); ++kind) {
      fits = fits && s.rings[kind].missing(static_cast<std::int64_t>(tokens)) <=
                         model_[kind + 1].available();
    }
    const bool too_long = tokens > std::size_t{pages_of(s.tokens_max)} * page_size_;
    const oriel::status reserved = s.real.reserve(rows);
    expect(static_cast<bool>(reserved) == (fits && !too_long), "reservation");
    if (!reserved) {
      expect((reserved.error().code == oriel::errc::request_too_large) == too_long, "its reason");
      compare(s);
      if (too_long || below(4) == 0) {  // It is done, or preempted.
        finish(index);
      }
      return;
    }
    s.full_pages += missing;
    for (slow_ring& ring : s.rings) {
      ring.spares += ring.missing(static_cast<std::int64_t>(tokens));
      ring.open(static_cast<std::int64_t>(tokens));
    }
    observe(s);
    compare(s);
    write(s, rows);
    commit(s, rows == 0 ? 0 : below(rows + 1));
  }

  /// Writes rows behind the sequence's length as a kernel would, with wrong tokens for now.
  void write(running& s, std::uint32_t rows) {
    for (std::uint32_t pool = 0; pool < model_.size(); ++pool) {
      const auto table = s.real.table(oriel::pool_id{pool});
      for (std::uint32_t row = 0; row < rows; ++row) {
        const auto position = static_cast<std::uint32_t>(s.tags.size()) + row;
        const std::uint32_t page = to_index(table.page_of(position / page_size_));
        expect(page < model_[pool].references.size(), "a reserved row has a page");
        if (pool == 0 && position < s.real.lent_tokens()) {
          continue;  // A heal reads what it was lent.
        }
        expect(model_[pool].references[page] == 1, "nothing shared is written");
        model_[pool].tag(page, position % page_size_) = s.tag_at(position, next_tag_ + row);
      }
    }
  }

  void commit(running& s, std::uint32_t rows) {
    for (std::uint32_t row = 0; row < rows; ++row) {
      s.tags.push_back(s.tag_at(s.tags.size(), next_tag_ + row));
    }
    next_tag_ += step_tokens_;
    for (std::uint32_t kind = 0; kind < windows_.size(); ++kind) {
      slow_ring& ring = s.rings[kind];
      const auto length = static_cast<std::int64_t>(s.tags.size());
      const std::int64_t keep = ring.window.oldest_position(length) / page_size_;
      const auto table = s.real.ring_table(kind);
      for (; ring.first < keep; ++ring.first) {  // Reused if nobody else has it, else let go.
        const oriel::page_id page = table.page_of(static_cast<std::uint32_t>(ring.first));
        ring.spares += model_[kind + 1].references[to_index(page)] == 1 ? 1 : 0;
      }
    }
    s.real.commit(rows);
    observe(s);
    compare(s);
    if (below(4) == 0) {
      read_back(s);
    }
  }

  void publish(running& s) {
    const auto boundary = static_cast<std::uint32_t>(s.tags.size()) / page_size_;
    if (boundary == 0 || published_.size() == 6 || s.real.healing()) {
      return;
    }
    published entry;
    entry.tags.assign(s.tags.begin(), s.tags.begin() + boundary * page_size_);
    entry.pages.resize(model_.size());
    for (std::uint32_t pool = 0; pool < model_.size(); ++pool) {
      std::uint32_t first = 0;
      if (pool != 0) {  // All that is there, or just what the boundary needs.
        const slow_ring& ring = s.rings[pool - 1];
        slow_window without_slack = ring.window;
        without_slack.slack_pages = 0;
        const auto need = static_cast<std::uint32_t>(
            without_slack.oldest_position(boundary * page_size_) / page_size_);
        const std::uint32_t oldest = s.real.ring(pool - 1).first_shareable_page();
        const std::int64_t scratch = s.scratch.empty() ? 0 : s.scratch[pool - 1];
        expect(oldest == std::max(ring.first, scratch), "first shareable page");
        first = below(2) == 0 ? need : oldest;
      }
      for (std::uint32_t j = first; j < boundary; ++j) {
        entry.pages[pool].push_back(s.real.share(oriel::pool_id{pool}, j));
        model_[pool].add(to_index(entry.pages[pool].back().id));
      }
    }
    published_.push_back(std::move(entry));
  }

  /// Another page with the same tokens takes the place of a full page, as when a tree has its own.
  void switch_page(running& s) {
    const auto whole = static_cast<std::uint32_t>(s.tags.size()) / page_size_;
    auto& pool = pools_->pool(oriel::full_pool);
    oriel::page_handle page;
    if (whole == 0 || !pool.try_allocate({&page, 1})) {
      return;
    }
    const std::uint32_t logical = below(whole);
    const std::uint32_t old = s.pages[0][logical], now = to_index(page.id);
    for (std::uint32_t offset = 0; offset < page_size_; ++offset) {
      model_[0].tag(now, offset) = model_[0].tag(old, offset);
    }
    s.real.switch_full_page(logical, page);
    pool.release(page);
    s.pages[0][logical] = now;
    model_[0].add(now);
    model_[0].drop(old);
    expect(to_index(s.real.full_table().page_of(logical)) == now, "the table has switched");
    compare(s);
  }

  /// A published page still says what it said, until its holder lets go.
  void check_bytes(const published& entry) {
    for (std::uint32_t pool = 0; pool < model_.size(); ++pool) {
      const handles& pages = entry.pages[pool];
      std::size_t position = entry.tags.size() - pages.size() * page_size_;
      for (const oriel::page_handle page : pages) {
        expect(pools_->pool(oriel::pool_id{pool}).is_live(page), "a published page is live");
        for (std::uint32_t offset = 0; offset < page_size_; ++offset, ++position) {
          expect(model_[pool].tag(to_index(page.id), offset) == entry.tags[position],
                 "a published page keeps its bytes");
        }
      }
    }
  }

  void evict() {
    if (published_.empty()) {
      return;
    }
    std::swap(published_[below(published_.size())], published_.back());
    const published& entry = published_.back();
    check_bytes(entry);
    for (std::uint32_t pool = 0; pool < model_.size(); ++pool) {
      pools_->pool(oriel::pool_id{pool}).release(entry.pages[pool]);
      for (const oriel::page_handle page : entry.pages[pool]) {
        model_[pool].drop(to_index(page.id));
      }
    }
    published_.pop_back();
  }

  void give_back_spares(running& s) {
    const std::uint32_t shorter = 1 + below(step_tokens_);
    s.real.give_back_spares(shorter);
    for (slow_ring& ring : s.rings) {
      const std::int64_t room = ring.window.ring_pages(shorter) - (ring.end - ring.first);
      ring.spares = std::min(ring.spares, std::max<std::int64_t>(0, room));
    }
    observe(s);
    compare(s);
  }

  void finish(std::size_t index) {
    std::swap(running_[index], running_.back());
    running& s = running_.back();
    read_back(s);
    for (std::uint32_t pool = 0; pool < model_.size(); ++pool) {
      for (const std::uint32_t page : s.pages[pool]) {
        model_[pool].drop(page);
      }
    }
    running_.pop_back();
  }

  /// References counted again from their holders.
  void recount() {
    for (std::uint32_t i = 0; i < model_.size(); ++i) {
      const auto& pool = pools_->pool(oriel::pool_id{i});
      std::vector<std::uint32_t> references(pool.capacity());
      for (const running& s : running_) {
        for (const std::uint32_t page : s.real.table(oriel::pool_id{i}).pages) {
          references[page < pool.capacity() ? page : 0] += page < pool.capacity() ? 1u : 0u;
        }
        for (std::uint32_t j = 0; i == 0 && j < s.real.full_pages().size_pages(); ++j) {
          const oriel::page_handle page = s.real.full_pages()[j];
          expect(pool.ref_count(page) == model_[0].references[to_index(page.id)], "references");
        }
      }
      for (const published& entry : published_) {
        for (const oriel::page_handle page : entry.pages[i]) {
          ++references[to_index(page.id)];
        }
        for (const oriel::page_handle page : entry.pages[i]) {
          expect(pool.ref_count(page) == model_[i].references[to_index(page.id)], "references");
        }
      }
      expect(references == model_[i].references, "references recounted");
    }
  }

  std::uint64_t seed_;
  std::uint64_t operation_ = 0;
  std::mt19937_64 random_;
  std::uint32_t page_size_ = 0, step_tokens_ = 0;
  std::vector<slow_window> windows_;
  std::vector<slow_pool> model_;  // [pools]
  std::unique_ptr<pools_type> pools_;
  std::vector<running> running_;
  std::vector<published> published_;
  std::uint64_t next_tag_ = 1;
};

}  // namespace

TEST_CASE("dual pools do what the rules say, whatever happens") {
  constexpr std::uint64_t episodes = 500;
  const std::uint64_t operations = scaled(12'000'000) / episodes;
  for (std::uint64_t seed = 1; seed <= episodes; ++seed) {
    world(seed).run(operations);
  }
}

}  // namespace kv_random_test
