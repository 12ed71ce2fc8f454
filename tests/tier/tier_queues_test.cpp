// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Who waits for whom in front of a store.
#include <oriel/core/random.hpp>
#include <oriel/tier/detail/tier_queues.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace tier_queues_test {

using namespace oriel;
using detail::errand_tag;
using detail::tier_errand;
using detail::tier_line;
using detail::tier_queues;

namespace {

/// What a store was given, in order; it answers when it is told to.
struct ledger {
  std::vector<store_item> taken, unanswered;
  std::size_t room = 1u << 20, answers = 0;
  bool takes_puts = true;
};

class slow_store {
 public:
  explicit slow_store(ledger& l) : ledger_(l) {}
  std::size_t submit(std::span<const store_item> items, std::uint64_t) {
    std::size_t count = std::min(items.size(), ledger_.room - ledger_.unanswered.size());
    if (!ledger_.takes_puts) {
      const auto put = std::ranges::find(items, store_op::put, &store_item::op);
      count = std::min(count, static_cast<std::size_t>(put - items.begin()));
    }
    for (const store_item& item : items.first(count)) {
      ledger_.taken.push_back(item);
      ledger_.unanswered.push_back(item);
    }
    return count;
  }
  std::size_t poll(std::span<store_completion> done) {
    const std::size_t count = std::min({done.size(), ledger_.answers, ledger_.unanswered.size()});
    for (std::size_t i = 0; i < count; ++i) {
      done[i] = {.user = ledger_.unanswered[i].user, .op = ledger_.unanswered[i].op};
    }
    ledger_.unanswered.erase(ledger_.unanswered.begin(),
                             ledger_.unanswered.begin() + static_cast<std::ptrdiff_t>(count));
    ledger_.answers -= count;
    return count;
  }
  bool wait(std::uint64_t) { return false; }
  [[nodiscard]] std::size_t pending() const { return ledger_.unanswered.size(); }
  [[nodiscard]] store_stats stats() const { return {}; }
  [[nodiscard]] store_fault last_fault() const { return {}; }

 private:
  ledger& ledger_;
};

struct world {
  world() : queues(one()) {}
  std::vector<tier> one() {
    std::vector<tier> tiers;
    tiers.push_back({.store = any_store(std::make_unique<slow_store>(book))});
    return tiers;
  }
  void push(store_op op, std::uint32_t key) {
    page_key k;
    std::memcpy(k.link.bytes.data(), &key, sizeof(key));
    const tier_errand errand = op == store_op::get      ? tier_errand::fetch
                               : op == store_op::exists ? tier_errand::look_up
                               : op == store_op::put    ? tier_errand::copy
                                                        : tier_errand::other;
    queues.push(
        0,
        {.op = op, .key = k, .slices = slices, .user = errand_tag{errand, ++number}.packed()},
        no_deadline);
  }
  void turn(std::size_t answers) {
    book.answers = answers;
    queues.turn([&](std::uint8_t, const store_completion&) { ++completed; });
  }
  [[nodiscard]] std::size_t taken(store_op op) const {
    return static_cast<std::size_t>(std::ranges::count(book.taken, op, &store_item::op));
  }
  [[nodiscard]] std::size_t place_of(store_op op, std::uint32_t key) const {
    const auto found = std::ranges::find_if(book.taken, [&](const store_item& i) {
      return i.op == op && std::memcmp(i.key.link.bytes.data(), &key, sizeof(key)) == 0;
    });
    return static_cast<std::size_t>(found - book.taken.begin());
  }

  ledger book;
  tier_queues queues;
  std::span<std::byte> slice;
  std::span<const std::span<std::byte>> slices = {};
  std::uint32_t number = 0;
  std::size_t completed = 0;
};

}  // namespace

TEST_CASE("gets and look-ups do not wait behind copies", "[tier]") {
  world w;
  for (std::uint32_t k = 0; k < 4'096; ++k) {
    w.push(store_op::put, k);
  }
  w.turn(0);
  CHECK(w.book.taken.size() == tier_queues::writes_max);
  w.push(store_op::exists, 1'000'000);
  w.push(store_op::get, 1'000'001);
  w.turn(0);
  CHECK(w.taken(store_op::exists) == 1);
  CHECK(w.taken(store_op::get) == 1);
  CHECK(w.taken(store_op::put) == tier_queues::writes_max);
  while (w.queues.unfinished() != 0) {
    w.turn(100);
  }
  CHECK(w.completed == 4'098);
}

TEST_CASE("a store is given few large copies at a time, and some of any size", "[tier]") {
  for (const auto& [bytes, most] : {std::pair{std::size_t{1} << 20, std::size_t{64}},
                                    std::pair{std::size_t{1} << 30, tier_queues::writes_min}}) {
    world w;
    w.slice = {reinterpret_cast<std::byte*>(4096), bytes};  // Nobody touches it.
    w.slices = {&w.slice, 1};
    for (std::uint32_t k = 0; k < 500; ++k) {
      w.push(store_op::put, k);
    }
    w.turn(0);
    CHECK(w.book.taken.size() == most);
    w.turn(10);
    w.turn(0);
    CHECK(w.book.taken.size() == most + 10);
  }
}

TEST_CASE("the bound on copies is of their bytes together, whatever is first in the line",
          "[tier]") {
  constexpr std::size_t large = std::size_t{2} << 20, small = 4'096;
  world w;
  std::span<std::byte> sizes[] = {{reinterpret_cast<std::byte*>(4096), small},
                                  {reinterpret_cast<std::byte*>(4096), large}};
  const auto in_store_bytes = [&] {
    std::uint64_t bytes = 0;
    for (const store_item& item : w.book.unanswered) {
      bytes += item.slices.empty() ? 0 : item.slices[0].size();
    }
    return bytes;
  };
  std::uint32_t key = 0;
  for (int i = 0; i < 20; ++i) {  // A small one, then many large ones: 20 times.
    for (int k = 0; k < 10; ++k) {
      w.slices = {&sizes[k == 0 ? 0 : 1], 1};
      w.push(store_op::put, key++);
    }
  }
  std::size_t most = 0;
  for (int turns = 0; w.queues.unfinished() != 0 && turns < 1'000; ++turns) {
    w.turn(turns % 3 == 0 ? 5 : 1);
    most = std::max(most, w.book.unanswered.size());
    INFO("turn " << turns << ", " << w.book.unanswered.size() << " in the store");
    REQUIRE((in_store_bytes() <= tier_queues::write_bytes_max ||
             w.book.unanswered.size() <= tier_queues::writes_min));
  }
  CHECK(w.completed == key);
  CHECK(most > tier_queues::writes_min);
  // Large ones are over: as many small ones go as ever.
  w.slices = {&sizes[0], 1};
  for (std::uint32_t k = 0; k < 500; ++k) {
    w.push(store_op::put, key++);
  }
  w.turn(0);
  CHECK(w.book.unanswered.size() == tier_queues::writes_max);
}

TEST_CASE("a store that takes no copies is given reads all the same", "[tier]") {
  world w;
  w.book.takes_puts = false;
  w.push(store_op::put, 1);
  std::uint32_t key = 1'000;
  for (int turns = 0; turns < 20; ++turns) {
    for (int i = 0; i < 64; ++i) {
      w.push(store_op::get, ++key);
    }
    w.turn(64);
  }
  CHECK(w.taken(store_op::get) == 20 * 64);
  CHECK(w.taken(store_op::put) == 0);
  w.book.takes_puts = true;
  w.turn(64);
  CHECK(w.taken(store_op::put) == 1);
}

TEST_CASE("reads without end do not starve copies", "[tier]") {
  world w;
  w.book.room = 32;
  std::uint32_t key = 1u << 20;
  for (std::uint32_t k = 0; k < 400; ++k) {
    w.push(store_op::put, k);
  }
  int turns = 0;
  for (; w.taken(store_op::put) < 400 && turns < 1'000; ++turns) {
    for (int i = 0; i < 64; ++i) {
      w.push(store_op::get, ++key);
    }
    w.turn(32);
  }
  CHECK(turns < 1'000);
  CHECK(w.taken(store_op::get) >= 4 * w.taken(store_op::put));
}

TEST_CASE("a read keeps its place behind a copy of its page, and behind an order", "[tier]") {
  world w;
  for (std::uint32_t k = 0; k < 1'000; ++k) {
    w.push(store_op::put, k);
  }
  w.push(store_op::get, 900);    // Behind its copy.
  w.push(store_op::get, 2'000);  // Nobody's.
  w.push(store_op::drop_tenant, 0);
  w.push(store_op::exists, 3'000);
  while (w.queues.unfinished() != 0) {
    w.turn(100);
  }
  CHECK(w.place_of(store_op::get, 2'000) < w.place_of(store_op::put, 900));
  CHECK(w.place_of(store_op::put, 900) < w.place_of(store_op::get, 900));
  CHECK(w.place_of(store_op::put, 999) < w.place_of(store_op::drop_tenant, 0));
  CHECK(w.place_of(store_op::drop_tenant, 0) < w.place_of(store_op::exists, 3'000));
  // It is over: the next read goes first again.
  for (std::uint32_t k = 5'000; k < 6'000; ++k) {
    w.push(store_op::put, k);
  }
  w.push(store_op::get, 900);
  w.turn(0);
  CHECK(w.book.unanswered.front().op == store_op::get);
}

TEST_CASE("a line keeps its order, whatever is pushed and dropped", "[tier]") {
  const std::uint64_t seed = 7;
  INFO("seed " << seed);
  random_stream draw(seed);
  tier_line line;
  std::deque<std::uint64_t> plain;
  std::uint64_t next = 0;
  for (int step = 0; step < 5'000; ++step) {
    for (std::uint32_t i = draw.next_below(8); i > 0; --i) {
      line.push({.op = store_op::get, .key = {}, .user = next}, next);
      plain.push_back(next++);
    }
    const std::size_t count =
        draw.next_below(static_cast<std::uint32_t>(std::min<std::size_t>(plain.size(), 9) + 1));
    line.drop(count);
    plain.erase(plain.begin(), plain.begin() + static_cast<std::ptrdiff_t>(count));
    REQUIRE(std::ranges::equal(line.all(), plain, {}, &tier_line::waiting::deadline_us));
  }
}

}  // namespace tier_queues_test
