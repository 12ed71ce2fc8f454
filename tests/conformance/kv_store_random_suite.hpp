// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Random operations on a `kv_store` beside the obvious one, which knows for each key in which
/// states it may be; and the end of a store that is busy. Included by kv_store_suite.hpp.
#pragma once

#include "kv_store_world.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace oriel_conformance {

template <class Subject>
concept can_reopen_at_random = requires(Subject& s) {
  s.reopen();
};

/// Of two puts of one key either may win, and a late one may not have happened: so the obvious
/// store keeps, for each key, the set of what may be there.
class possible_store {
 public:
  struct variant {
    std::uint64_t session = 0, expires_us = 0;
    auto operator<=>(const variant&) const = default;
  };
  struct possible {
    std::set<variant> there;
    bool may_be_absent = true;
  };

  possible& of(const law_page* page) { return pages_[page]; }

  void put(const law_page* page, variant what, bool is_sure) {
    possible& p = of(page);
    p.there.insert(what);
    p.may_be_absent = p.may_be_absent && !is_sure;
  }

  /// Everything of which `is_gone(page, variant)` holds goes; if it is not sure, it may have.
  template <class IsGone>
  void drop(bool is_sure, IsGone is_gone) {
    for (auto& [page, p] : pages_) {
      const auto among = [&, at = page](const variant& v) { return is_gone(*at, v); };
      if (std::any_of(p.there.begin(), p.there.end(), among)) {
        p.may_be_absent = true;
        if (is_sure) {
          std::erase_if(p.there, among);
        }
      }
    }
  }

  void forget_all() {
    for (auto& [page, p] : pages_) {
      p.may_be_absent = true;
    }
  }

 private:
  std::map<const law_page*, possible> pages_;
};

/// One seed of random items, in batches, some of them late; checked in the order of submission.
template <class Subject>
class kv_store_episode {
 public:
  kv_store_episode(Subject& subject, const kv_store_law& law, std::uint64_t seed)
      : law_(law),
        subject_(subject),
        client_(subject),
        pages_(make_law_pages(law)),
        random_(seed),
        seed_(seed) {}

  void run() {
    for (std::uint64_t items = 0; items < law_.random_items;) {
      INFO("seed " << seed_ << ", item " << items);
      std::vector<law_transfer> batch;
      for (std::uint64_t count = random_() % 16 + 1; count > 0; --count) {
        batch.push_back(draw());
        ++items;
      }
      const std::uint64_t deadline =
          random_() % 8 == 0 ? random_() % 2 * client_.now_us() + 1 : oriel::no_deadline;
      client_.submit(std::move(batch), deadline);
      while (random_() % 3 != 0) {
        client_.step(random_() % 8);
      }
      if (random_() % 16 == 0) {
        client_.drain();
      }
      settle();
      if (random_() % 256 == 0) {
        reopen();
      }
    }
    client_.drain();
    settle();
  }

 private:
  law_transfer draw() {
    // Half of the items concern the first few pages: keys that are in flight more than once.
    const std::size_t among = random_() % 2 == 0 ? 6 : pages_.size();
    const law_page& page = pages_[random_() % among];
    const std::uint64_t session = random_() % 3;
    switch (random_() % 64) {
      case 0:
        return client_.make(store_op::drop_session, page, session);
      case 1:
        return client_.make(random_() % 8 == 0 ? store_op::drop_tenant : store_op::drop_space,
                            page);
      case 2:
        return client_.make(store_op::sync, page);
      case 3:
      case 4:
        return client_.make(store_op::erase, page);
      case 5:
      case 6:
      case 7:
        return client_.make(store_op::touch, page);
      case 8:
      case 9:
      case 10:
        return client_.make(store_op::exists, page);
      default:
        break;
    }
    if (random_() % 2 == 0) {
      const std::uint64_t ends = random_() % 16;
      const std::uint64_t expires = ends == 0 ? 1 : ends == 1 ? far_future : 0;
      return client_.make(store_op::put, page, session, expires);
    }
    const auto layers = static_cast<std::uint32_t>(page.slices.size());
    const auto first = static_cast<std::uint32_t>(random_() % layers);
    const auto count = static_cast<std::uint32_t>(random_() % (layers - first + 1));
    return client_.make(store_op::get, page, session, 0, first, count);
  }

  /// Plays everything up to the first item that is not complete in the obvious store.
  void settle() {
    const std::uint64_t end = client_.first_incomplete(settled_);
    for (; settled_ < end; ++settled_) {
      const law_transfer& t = client_.transfer(settled_);
      INFO("seed " << seed_ << ", item " << settled_ << ": " << oriel::name_of(t.item.op) << " "
                   << oriel::name_of(t.completion.outcome));
      play(t);
    }
    client_.forget(settled_);
  }

  void play(const law_transfer& t) {
    const store_outcome how = t.completion.outcome;
    const bool is_done = how == store_outcome::done;
    switch (t.item.op) {
      case store_op::get:
      case store_op::exists:
        play_lookup(*t.page, how);
        break;
      case store_op::put:
        REQUIRE((is_done || how == store_outcome::late ||
                 (how == store_outcome::refused && law_.may_refuse)));
        if (how != store_outcome::refused) {
          model_.put(t.page, {t.item.owner.session, t.expires_us}, is_done);
        }
        break;
      case store_op::erase:
        play_drop(how, [&](const law_page& p, const auto&) { return &p == t.page; });
        break;
      case store_op::drop_space:
        play_drop(how, [&](const law_page& p, const auto&) { return p.space == t.page->space; });
        break;
      case store_op::drop_tenant:
        play_drop(how,
                  [&](const law_page& p, const auto&) { return p.tenant() == t.page->tenant(); });
        break;
      case store_op::drop_session:
        play_drop(how, [&](const law_page& p, const possible_store::variant& v) {
          return p.tenant() == t.page->tenant() && v.session == t.item.owner.session;
        });
        break;
      case store_op::touch:
      case store_op::sync:
        break;
    }
  }

  void play_lookup(const law_page& page, store_outcome how) {
    const possible_store::possible& p = model_.of(&page);
    const auto lives = [](const auto& v) {
      return v.expires_us == 0 || v.expires_us == far_future;
    };
    const bool may_hit = std::any_of(p.there.begin(), p.there.end(), lives);
    const bool may_miss =
        p.may_be_absent || law_.may_evict || !std::all_of(p.there.begin(), p.there.end(), lives);
    REQUIRE(((how == store_outcome::done && may_hit) || (how == store_outcome::miss && may_miss) ||
             how == store_outcome::late || (how == store_outcome::refused && law_.may_refuse)));
  }

  template <class IsGone>
  void play_drop(store_outcome how, IsGone is_gone) {
    REQUIRE((how == store_outcome::done || how == store_outcome::miss ||
             how == store_outcome::late || (how == store_outcome::refused && law_.may_refuse)));
    if (how != store_outcome::refused) {
      model_.drop(how != store_outcome::late, is_gone);
    }
  }

  void reopen() {
    if constexpr (can_reopen_at_random<Subject>) {
      client_.drain();
      settle();
      subject_.reopen();
      if (!law_.keeps_over_reopen) {
        model_.forget_all();
      }
    }
  }

  static constexpr std::uint64_t far_future = std::uint64_t{1} << 60;

  const kv_store_law& law_;
  Subject& subject_;
  law_client<Subject> client_;
  std::vector<law_page> pages_;
  possible_store model_;
  std::mt19937_64 random_;
  std::uint64_t seed_;
  std::uint64_t settled_ = 1;
};

/// Ends a store that has gets in flight; from then on nothing writes to their slices.
template <class Make>
void check_kv_store_destructor(Make make, const kv_store_law& law) {
  const std::vector<law_page> pages = make_law_pages(law);
  std::vector<law_transfer> gets;
  {
    auto subject = make();
    law_client client(subject);
    std::vector<law_transfer> puts;
    for (const law_page& page : pages) {
      puts.push_back(client.make(store_op::put, page));
      gets.push_back(client.make(store_op::get, page));
    }
    client.run_all(std::move(puts));
    for (law_transfer& t : gets) {
      t.identity.tokens = t.tokens;
      t.item.identity = &t.identity;
      t.item.slices = t.slices.slices();
      client.store().submit({&t.item, 1}, oriel::no_deadline);
    }
    store_completion done[4];
    client.store().poll(done);
  }
  constexpr std::byte mine{0x77};
  for (law_transfer& t : gets) {
    t.slices.fill(mine);
  }
  auto other = make();  // Whatever the first one left running gets its time.
  other.advance(5'000);
  for (law_transfer& t : gets) {
    REQUIRE(t.slices.is_all(mine));
    REQUIRE(t.slices.is_guarded());
  }
}

}  // namespace oriel_conformance
