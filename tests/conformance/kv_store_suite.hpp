// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `kv_store`, as Catch2 checks. Run it on any model, ours or yours:
///
///     struct my_subject {                      // a fresh, empty store each time
///       my_store& store();
///       std::uint64_t now_us();                // the store's clock
///       void advance(std::uint64_t us);        // lets time pass: sleeps, or turns a fake clock
///       void reopen();  // if the store outlives its process: end it, open it
///     };
///     TEST_CASE("my_store is a kv_store") {
///       check_kv_store([] { return my_subject(); });
///     }
///
/// `kv_store_law` says what of it cannot hold of the model: that it evicts, or refuses.
#pragma once

#include "kv_store_world.hpp"

#include <oriel/tier/kv_store.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cstdint>
#include <random>
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace oriel_conformance {

template <class Subject>
concept can_reopen = requires(Subject& s) {
  s.reopen();
};

/// One run of the law on one fresh store.
template <class Subject>
class kv_store_bench {
 public:
  kv_store_bench(Subject& of, const kv_store_law& by)
      : law(by), subject(of), client(of), pages(make_law_pages(by)) {}

  using op = store_op;
  using outcome = store_outcome;

  /// A put that ends `done`; only what the law lets off may stop it.
  bool put(const law_page& page, std::uint64_t session = 1, std::uint64_t expires_us = 0) {
    const outcome o = client.run(client.make(op::put, page, session, expires_us));
    CHECK((o == outcome::done || (law.may_refuse && o == outcome::refused)));
    return o == outcome::done;
  }
  outcome run(op what, const law_page& page, std::uint64_t session = 1) {
    return client.run(client.make(what, page, session));
  }
  [[nodiscard]] bool is_hit(outcome o) const {
    return o == outcome::done || (o == outcome::miss && (law.may_evict || law.may_refuse));
  }
  void expect_hit(const law_page& page) { CHECK(is_hit(run(op::get, page))); }
  void expect_gone(const law_page& page) {
    CHECK(run(op::get, page) == outcome::miss);
    CHECK(run(op::exists, page) == outcome::miss);
  }
  void reopen() {
    if constexpr (can_reopen<Subject>) {
      subject.reopen();
    }
  }

  // A page by namespace, number of its chain's link (two chains of 8), and pool.
  law_page& page(std::uint32_t space, std::uint32_t link, std::uint32_t pool = 0) {
    const auto pools = static_cast<std::uint32_t>(law.slice_bytes.size());
    return pages[(std::size_t{space} * 16 + link) * pools + pool];
  }

  void check_one_page();
  void check_identity();
  void check_partial_gets();
  void check_order_on_one_key();
  void check_erase_and_drop();
  void check_expiry();
  void check_deadlines();
  void check_queue();
  void check_waiting();
  void check_stats();

  const kv_store_law& law;
  Subject& subject;
  law_client<Subject> client;
  std::vector<law_page> pages;
};

template <class Subject>
void kv_store_bench<Subject>::check_one_page() {
  for (std::uint32_t pool = 0; pool < law.slice_bytes.size(); ++pool) {
    law_page& it = page(0, 3, pool);
    expect_gone(it);
    put(it);
    const outcome there = run(op::exists, it);
    CHECK(is_hit(there));
    expect_hit(it);
    expect_hit(it);  // A get takes nothing away.
    CHECK(is_hit(run(op::touch, it)));
    expect_hit(it);
    put(it);  // The same bytes once more.
    expect_hit(it);
    CHECK(run(op::sync, it) != outcome::miss);
    expect_hit(it);
  }
  expect_gone(page(0, 4));
  if (law.keeps_over_reopen) {
    reopen();
    expect_hit(page(0, 3));
    expect_gone(page(0, 4));
  }
}

// A key is a digest; the record says of what. Whatever differs is a miss, and harms nothing.
template <class Subject>
void kv_store_bench<Subject>::check_identity() {
  const law_page right = page(0, 2);
  put(right);
  std::array<law_page, 5> wrong;
  wrong.fill(right);
  wrong[0].name_space = page(1, 0).name_space;
  wrong[1].parent = right.key.link;
  wrong[2].first_token += law.page_size;
  wrong[3].tokens.back() = oriel::token_id{77};
  wrong[4].tokens.pop_back();
  for (const law_page& other : wrong) {
    CHECK(run(op::get, other) == outcome::miss);
    expect_hit(right);
  }
  law_page elsewhere = right;
  elsewhere.key.pool += 7;
  CHECK(run(op::get, elsewhere) == outcome::miss);
  // Slices of other sizes, or more of them than there are, are those of another layout.
  for (const std::size_t change : {std::size_t{0}, right.slices.size() - 1, right.slices.size()}) {
    law_page odd = right;
    if (change == odd.slices.size()) {
      odd.slices.push_back(odd.slices.front());
    } else {
      odd.slices[change].resize(odd.slices[change].size() * 2);
    }
    CHECK(run(op::get, odd) == outcome::miss);
    expect_hit(right);
  }
}

template <class Subject>
void kv_store_bench<Subject>::check_partial_gets() {
  law_page& it = page(1, 1);
  put(it);
  const auto layers = static_cast<std::uint32_t>(it.slices.size());
  for (std::uint32_t first = 0; first < layers; ++first) {
    for (std::uint32_t count = 1; first + count <= layers; ++count) {
      CHECK(is_hit(client.run(client.make(op::get, it, 1, 0, first, count))));
    }
  }
}

template <class Subject>
void kv_store_bench<Subject>::check_order_on_one_key() {
  law_page& it = page(0, 1);
  const auto expect = [&](std::vector<std::pair<op, outcome>> steps) {
    std::vector<law_transfer> items;
    for (const auto& [what, how] : steps) {
      items.push_back(client.make(what, it));
    }
    const std::vector<outcome> outcomes = client.run_all(std::move(items));
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const auto [what, how] = steps[i];
      INFO("step " << i << ": " << oriel::name_of(what) << " " << oriel::name_of(outcomes[i]));
      const bool is_lookup = what == op::get || what == op::exists || what == op::put;
      const bool is_let_off = (law.may_evict || law.may_refuse) && how == outcome::done;
      CHECK((outcomes[i] == how || !is_lookup || (is_let_off && outcomes[i] != outcome::corrupt)));
    }
  };
  using enum store_op;
  const auto yes = outcome::done, no = outcome::miss;
  expect({{get, no}, {put, yes}, {get, yes}, {exists, yes}, {erase, yes}, {get, no}, {exists, no}});
  expect({{put, yes}, {put, yes}, {erase, yes}, {get, no}, {put, yes}, {get, yes}});
  for (const op drop : {drop_space, drop_tenant, drop_session}) {
    expect({{put, yes}, {get, yes}, {drop, yes}, {get, no}, {put, yes}, {get, yes}});
  }
  expect({{get, yes}, {get, yes}, {touch, yes}, {get, yes}, {erase, yes}, {erase, yes}, {get, no}});
}

template <class Subject>
void kv_store_bench<Subject>::check_erase_and_drop() {
  // Namespaces 0 and 1 are tenant 1's, 2 and 3 tenant 2's; sessions by parity of the link.
  const auto put_all = [&] {
    for (std::uint32_t space = 0; space < 4; ++space) {
      for (std::uint32_t link = 0; link < 4; ++link) {
        put(page(space, link), link % 2 + 1);
      }
    }
  };
  const auto expect_left = [&](auto&& is_left) {
    for (int round = 0; round < 2; ++round) {
      for (std::uint32_t space = 0; space < 4; ++space) {
        for (std::uint32_t link = 0; link < 4; ++link) {
          INFO("space " << space << " link " << link << " round " << round);
          if (!is_left(space, link)) {
            expect_gone(page(space, link));
          } else if (round == 0 || law.keeps_over_reopen) {
            expect_hit(page(space, link));
          }
        }
      }
      reopen();  // For good: also over a restart.
    }
  };
  put_all();
  CHECK(run(op::erase, page(0, 0)) == outcome::done);
  expect_left([](auto space, auto link) { return space != 0 || link != 0; });
  put_all();
  CHECK(run(op::drop_space, page(1, 0)) == outcome::done);
  expect_left([](auto space, auto) { return space != 1; });
  put_all();
  CHECK(run(op::drop_tenant, page(2, 0)) == outcome::done);
  expect_left([](auto space, auto) { return space < 2; });
  put_all();
  CHECK(run(op::drop_session, page(2, 0), 2) == outcome::done);
  expect_left([](auto space, auto link) { return space < 2 || link % 2 == 0; });
  // And what was dropped may come again.
  put_all();
  expect_left([](auto, auto) { return true; });
}

template <class Subject>
void kv_store_bench<Subject>::check_expiry() {
  law_page& past = page(0, 0);
  client.run(client.make(op::put, past, 1, 1));
  CHECK(run(op::get, past) == outcome::miss);
  law_page& soon = page(0, 1);
  const std::uint64_t expires = client.now_us() + law.expiry_us;
  put(soon, 1, expires);
  const outcome before = run(op::get, soon);
  CHECK((is_hit(before) || client.now_us() >= expires));
  while (client.now_us() < expires) {
    subject.advance(expires - client.now_us());
  }
  expect_gone(soon);
  put(soon);
  expect_hit(soon);
}

template <class Subject>
void kv_store_bench<Subject>::check_deadlines() {
  law_page &there = page(0, 0), &other = page(0, 1);
  put(there);
  for (const std::uint64_t deadline : {std::uint64_t{1}, client.now_us()}) {
    for (int i = 0; i < 8; ++i) {
      const outcome o = client.run(client.make(op::get, there), deadline);
      CHECK((o == outcome::late || is_hit(o)));
      const outcome p = client.run(client.make(op::put, other), deadline);
      CHECK(
          (p == outcome::late || p == outcome::done || (p == outcome::refused && law.may_refuse)));
    }
  }
  expect_hit(there);
  const outcome o = run(op::get, other);
  CHECK((o == outcome::done || o == outcome::miss));
  put(other);
  expect_hit(other);
}

// As far as there is room, in order; each once.
template <class Subject>
void kv_store_bench<Subject>::check_queue() {
  CHECK(client.store().submit({}, oriel::no_deadline) == 0);
  std::vector<law_transfer> puts, gets;
  for (law_page& it : pages) {
    puts.push_back(client.make(op::put, it));
  }
  client.run_all(std::move(puts));
  for (int round = 0; round < 3; ++round) {
    for (law_page& it : pages) {
      gets.push_back(client.make(op::get, it));
    }
  }
  for (const outcome o : client.run_all(std::move(gets))) {
    CHECK(is_hit(o));
  }
}

template <class Subject>
void kv_store_bench<Subject>::check_waiting() {
  const auto with_nothing = [&] {
    CHECK(client.store().pending() == 0);
    CHECK(!client.store().wait(oriel::no_deadline));  // At once: there is nothing to wait for.
    store_completion done[4];
    CHECK(client.store().poll(done) == 0);
  };
  with_nothing();
  std::vector<law_transfer> one;
  one.push_back(client.make(op::put, page(0, 0)));
  client.submit(std::move(one));
  CHECK(client.store().poll({}) == 0);  // No room for a completion: none is lost.
  CHECK(client.store().pending() == 1);
  client.store().wait(0);  // Until then, which was long ago.
  for (int i = 0; i < 3'000 && !client.store().wait(client.now_us() + 10'000); ++i) {
    subject.advance(1'000);
  }
  CHECK(client.store().wait(0));
  CHECK(client.step());
  client.drain();
  with_nothing();
}

template <class Subject>
void kv_store_bench<Subject>::check_stats() {
  check_one_page();
  check_erase_and_drop();
  const oriel::store_stats stats = client.store().stats();
  if constexpr (!can_reopen<Subject>) {  // Counts are since construction.
    CHECK(stats.gets == client.gets);
    CHECK(stats.hits == client.hits);
    CHECK(stats.puts == client.puts);
    CHECK(stats.puts_done == client.puts_done);
  }
  CHECK(stats.hits + stats.misses <= stats.gets);
  CHECK(stats.corrupt == 0);
  CHECK(stats.failed == 0);
  CHECK(stats.health == oriel::store_health::healthy);
  CHECK(client.store().last_fault().count == 0);
}

}  // namespace oriel_conformance

#include "kv_store_random_suite.hpp"

/// @param make  gives a subject with a fresh, empty store
template <class Make>
void check_kv_store(Make make, const kv_store_law& law = {}) {
  using subject_type = decltype(make());
  static_assert(
      oriel::kv_store<std::remove_cvref_t<decltype(std::declval<subject_type&>().store())>>);
  const auto with_fresh = [&](auto&& check) {
    subject_type subject = make();
    oriel_conformance::kv_store_bench<subject_type> bench(subject, law);
    check(bench);
  };
  SECTION("a page comes back") {
    with_fresh([](auto& bench) { bench.check_one_page(); });
  }
  SECTION("tokens, place and layout decide") {
    with_fresh([](auto& bench) { bench.check_identity(); });
  }
  SECTION("some layers of a page") {
    with_fresh([](auto& bench) { bench.check_partial_gets(); });
  }
  SECTION("items on one key take effect in order") {
    with_fresh([](auto& bench) { bench.check_order_on_one_key(); });
  }
  SECTION("erase and drop last, and take nothing else along") {
    with_fresh([](auto& bench) { bench.check_erase_and_drop(); });
  }
  SECTION("what expired is a miss") {
    with_fresh([](auto& bench) { bench.check_expiry(); });
  }
  SECTION("a deadline that passed") {
    with_fresh([](auto& bench) { bench.check_deadlines(); });
  }
  SECTION("the queue takes as many as it has room for") {
    with_fresh([](auto& bench) { bench.check_queue(); });
  }
  SECTION("waiting") {
    with_fresh([](auto& bench) { bench.check_waiting(); });
  }
  SECTION("counts") {
    with_fresh([](auto& bench) { bench.check_stats(); });
  }
  SECTION("the destructor waits for what touches slices, and completes nothing") {
    oriel_conformance::check_kv_store_destructor(make, law);
  }
  SECTION("random operations against the obvious store") {
    for (std::uint64_t seed = 1; seed <= law.seeds; ++seed) {
      subject_type subject = make();
      oriel_conformance::kv_store_episode<subject_type>(subject, law, seed).run();
    }
  }
}
