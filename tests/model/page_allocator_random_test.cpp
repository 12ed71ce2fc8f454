// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Random operations on paged_allocator, in step with the obvious one: the same pages in the same
// order, the same counts, no stale handle live, conservation after every operation.
#include "model/slow_pages.hpp"
#include "support/scale.hpp"

#include <oriel/kv/paged_allocator.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace page_allocator_random_test {

namespace {

template <class Order>
class episode {
 public:
  episode(std::uint32_t capacity, slow_order order, std::uint64_t seed)
      : seed_(seed), random_(seed), pool_(capacity), model_(capacity, order) {}

  void run(std::uint64_t operations) {
    for (operation_ = 0; operation_ < operations; ++operation_) {
      switch (random_() % 8) {
        case 0:
        case 1:
          allocate();
          break;
        case 2:
        case 3:
          add_ref();
          break;
        case 4:
          renew();
          break;
        default:
          release();
      }
      expect(pool_.available() == model_.free.size(), "available");
      expect(pool_.available() + referenced_ == pool_.capacity(), "free + used == capacity");
      if (!stale_.empty()) {
        expect(!pool_.is_live(stale_[random_() % stale_.size()]), "a stale handle is dead");
      }
      if (operation_ % 1'024 == 0) {
        recount();
      }
    }
    recount();
  }

 private:
  /// Catch's own macros cost more than the operations here.
  void expect(bool holds, const char* what) const {
    if (!holds) {
      FAIL(what << " (seed " << seed_ << ", operation " << operation_ << ")");
    }
  }

  void allocate() {
    std::vector<oriel::page_handle>& out = scratch_;
    out.assign(random_() % 5, oriel::page_handle{});
    const bool given = pool_.try_allocate(out);
    expect(given == (out.size() <= model_.free.size()), "refuses exactly what does not fit");
    for (const oriel::page_handle page : out) {
      if (!given) {
        expect(page == oriel::page_handle{}, "a refusal writes nothing");
        continue;
      }
      expect(to_index(page.id) == model_.take(), "the page the order wants");
      expect(pool_.is_live(page) && pool_.ref_count(page) == 1, "a new page has one reference");
      held_.push_back(page);
      ++referenced_;
    }
  }

  void add_ref() {
    if (!held_.empty()) {
      const oriel::page_handle page = held_[random_() % held_.size()];
      pool_.add_ref(page);
      ++model_.references[to_index(page.id)];
      held_.push_back(page);
    }
  }

  void renew() {
    if (held_.empty()) {
      return;
    }
    oriel::page_handle& page = held_[random_() % held_.size()];
    if (model_.references[to_index(page.id)] == 1) {
      retire(page);
      ++model_.changes[to_index(page.id)];
      page = pool_.renew(page);
    }
  }

  /// Up to three references at once, of any pages.
  void release() {
    scratch_.clear();
    for (std::uint64_t n = random_() % 4; n > 0 && !held_.empty(); --n) {
      const std::size_t i = random_() % held_.size();
      scratch_.push_back(held_[i]);
      held_[i] = held_.back();
      held_.pop_back();
    }
    pool_.release(scratch_);
    for (const oriel::page_handle page : scratch_) {
      model_.release(to_index(page.id));
      if (model_.references[to_index(page.id)] == 0) {
        retire(page);
        --referenced_;
      }
    }
  }

  void retire(oriel::page_handle page) {
    if (stale_.size() < 256) {
      stale_.push_back(page);
    } else {
      stale_[random_() % stale_.size()] = page;
    }
  }

  /// References counted again from who holds them.
  void recount() {
    std::vector<std::uint32_t> references(pool_.capacity());
    for (const oriel::page_handle page : held_) {
      ++references[to_index(page.id)];
      expect(pool_.is_live(page), "a held handle is live");
    }
    for (const oriel::page_handle page : held_) {
      expect(pool_.ref_count(page) == references[to_index(page.id)], "references recounted");
    }
    expect(references == model_.references, "references as in the model");
  }

  std::uint64_t seed_;
  std::uint64_t operation_ = 0;
  std::mt19937_64 random_;
  oriel::paged_allocator<Order> pool_;
  slow_pages model_;
  std::vector<oriel::page_handle> held_;  // one entry per reference
  std::vector<oriel::page_handle> stale_;
  std::vector<oriel::page_handle> scratch_;
  std::uint32_t referenced_ = 0;  // pages with at least one reference
};

template <class Order>
void run_episodes(slow_order order, std::uint64_t operations) {
  constexpr std::uint64_t episodes = 20;
  for (std::uint64_t seed = 1; seed <= episodes; ++seed) {
    const std::uint32_t capacities[] = {1, 2, 7, 64, 1'000};
    episode<Order>(capacities[seed % 5], order, seed).run(operations / episodes);
  }
}

}  // namespace

TEST_CASE("paged_allocator does what the obvious one does: last released first") {
  run_episodes<oriel::lifo_order>(slow_order::last_released_first, scaled(6'000'000));
}

TEST_CASE("paged_allocator does what the obvious one does: first released first") {
  run_episodes<oriel::fifo_order>(slow_order::first_released_first, scaled(6'000'000));
}

}  // namespace page_allocator_random_test
