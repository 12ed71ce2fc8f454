// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A server that lies, in every way we know, a thousand times each: no wrong byte is ever called
// done, and no lie outlives its connection.
#include "../src/tier/redis_epochs.hpp"
#include "support/scale.hpp"
#include "tier/fake_redis.hpp"
#include "tier/redis_pages.hpp"
#include "tier/redis_server.hpp"

#include <oriel/tier/crc32c.hpp>
#include <oriel/tier/redis_state_store.hpp>

#include <catch2/catch.hpp>

#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>
#include <random>
#include <string>

namespace redis_lies_test {

using namespace oriel;
using redis_test::run;
using redis_test::run_all;
using redis_test::test_page;

namespace {

using answer = fake_redis::answer;

redis_options patient(const std::string& url) {
  return {.url = url,
          .failures_to_open = 1'000,
          .lates_to_open = 1'000'000,
          .backoff_min_us = 1,
          .backoff_max_us = 100};
}

bool is_page_get(const fake_redis::words& w) {
  return w.at(0) == "GET" && w.at(1).find(":p:") != std::string::npos;
}

/// Gives a changed head its checksum: a lie that was told with care.
void seal(std::string& value) {
  const auto bytes = std::as_bytes(std::span(value)).first(detail::redis_fixed_bytes - 4);
  const std::uint32_t crc = crc32c(bytes);
  std::memcpy(value.data() + detail::redis_fixed_bytes - 4, &crc, 4);
}

/// A server of two pages; `lie` may change what it sends for the value of a GET.
struct liar {
  using lie_type = std::function<answer(std::string value, std::mt19937_64& random)>;

  explicit liar(std::uint64_t seed) : random(seed) {}

  /// Fills the server through a store, and makes it lie `times` times from then on.
  void tell(const lie_type& lie, std::uint64_t times, bool may_be_done = false) {
    redis_store store(patient(server.url()));
    REQUIRE(run(store, one.item(store_op::put)) == store_outcome::done);
    REQUIRE(run(store, two.item(store_op::put)) == store_outcome::done);
    for (std::uint64_t i = 0; i < times; ++i) {
      INFO("lie " << i);
      is_lying = true;
      server.answer_with([&](const fake_redis::words& w, int) {
        if (is_page_get(w) && is_lying) {
          is_lying = false;
          return lie(truth.values.at(w[1]), random);
        }
        return truth(w);
      });
      one.clear();
      const store_outcome how = run(store, one.item(store_op::get));
      CHECK((how != store_outcome::done || (may_be_done && one.has_arrived())));
      CHECK(how != store_outcome::late);
      expect_truth(store);
    }
    server.answer_with([&](const fake_redis::words& w, int) { return truth(w); });
  }

  /// The next answers are true; at the latest a new connection tells them.
  void expect_truth(redis_store& store) {
    is_lying = false;
    for (test_page* page : {&one, &two}) {
      store_outcome how = store_outcome::failed;
      for (int tries = 0; tries < 4 && how != store_outcome::done; ++tries) {
        page->clear();
        how = run(store, page->item(store_op::get));
        if (how == store_outcome::miss || how == store_outcome::corrupt) {
          run(store, page->item(store_op::put));  // A damaged one was thrown away.
        }
      }
      CHECK(how == store_outcome::done);
      CHECK(page->has_arrived());
    }
  }

  test_page one{101, {512, 512, 64}}, two{102, {512, 512, 64}};
  honest_redis truth;
  std::atomic<bool> is_lying = false;
  std::mt19937_64 random;
  fake_redis server{[this](const fake_redis::words& w, int) { return truth(w); }};
};

std::uint64_t many() {
  return scaled(1'000);
}

std::string flipped(std::string value,
                    std::size_t begin,
                    std::size_t end,
                    std::mt19937_64& random) {
  for (std::uint64_t n = random() % 3 + 1; n > 0; --n) {
    const std::size_t at = begin + random() % (end - begin);
    value[at] = static_cast<char>(value[at] ^ (1 << (random() % 8)));
  }
  return value;
}

}  // namespace

TEST_CASE("lie: the value of another key", "[tier][redis][lies]") {
  liar l(1);
  l.tell([&](const std::string&, auto&) { return answer{fake_redis::bulk(l.two.value())}; },
         many());
}

TEST_CASE("lie: an old version, or another layout", "[tier][redis][lies]") {
  liar l(2);
  l.tell(
      [&](std::string value, auto& random) {
        switch (random() % 3) {
          case 0:
            value[4] = static_cast<char>(random() % 255 + 2);
            break;
          case 1:
            value = test_page(101, {512, 256, 256, 64}).value();
            break;
          default:
            value = test_page(101, {1024, 64}).value();
            break;
        }
        seal(value);
        return answer{fake_redis::bulk(value)};
      },
      many());
}

TEST_CASE("lie: a part of the value", "[tier][redis][lies]") {
  liar l(3);
  l.tell(
      [](const std::string& value, auto& random) {
        return answer{fake_redis::bulk(std::string_view(value).substr(0, random() % value.size()))};
      },
      many());
}

TEST_CASE("lie: a garbage length", "[tier][redis][lies]") {
  liar l(4);
  l.tell(
      [](const std::string& value, auto& random) {
        const std::string lengths[] = {"-2",
                                       "9223372036854775807",
                                       "4294967296",
                                       "x",
                                       "",
                                       std::to_string(random()),
                                       std::to_string(random() % 4000),
                                       std::to_string(value.size() - 1 - random() % 9),
                                       "1099511627776"};
        const std::string& length = lengths[random() % std::size(lengths)];
        // It hangs up, or else it could just keep us waiting: that is what deadlines are for.
        return answer{std::string("$").append(length).append("\r\n").append(value), true};
      },
      many());
}

TEST_CASE("lie: the same reply twice", "[tier][redis][lies]") {
  liar l(5);
  l.tell([](const std::string& value,
            auto&) { return answer{fake_redis::bulk(value) + fake_redis::bulk(value)}; },
         many(),
         true);
}

TEST_CASE("lie: a reply of another type", "[tier][redis][lies]") {
  liar l(6);
  l.tell(
      [](const std::string& value, auto& random) {
        const std::string replies[] = {
            "+OK\r\n",
            ":1\r\n",
            "#t\r\n",
            ",1.5\r\n",
            std::string("*1\r\n").append(fake_redis::bulk(value.substr(0, 99))),
            "%1\r\n+a\r\n+b\r\n",
            "*-1\r\n",
            "$-1\r\n",
            "~0\r\n",
            "?\r\n",
            ">1\r\n+pushed\r\n_\r\n",
            "=5\r\ntxt:a\r\n"};
        return answer{replies[random() % std::size(replies)]};
      },
      many());
}

TEST_CASE("lie: an error", "[tier][redis][lies]") {
  liar l(7);
  l.tell(
      [](const std::string&, auto& random) {
        const char* const errors[] = {"ERR no",
                                      "OOM command not allowed",
                                      "LOADING dataset",
                                      "NOAUTH",
                                      "READONLY You can't",
                                      "WRONGTYPE Operation",
                                      "NOPERM",
                                      "CLUSTERDOWN Hash slot",
                                      "MOVED 1 127.0.0.1:1",
                                      "ASK 1 :",
                                      "",
                                      "BUSY"};
        return answer{std::string("-").append(errors[random() % std::size(errors)]).append("\r\n")};
      },
      many());
}

TEST_CASE("lie: flipped bits in the head", "[tier][redis][lies]") {
  liar l(8);
  l.tell(
      [&](const std::string& value, auto& random) {
        const std::size_t head = detail::redis_head_bytes(3, 8);
        std::string bad = flipped(value, 0, head, random);
        return answer{fake_redis::bulk(bad == value ? value.substr(1) : bad)};
      },
      many());
}

TEST_CASE("lie: flipped bits in the payload", "[tier][redis][lies]") {
  liar l(9);
  l.tell(
      [&](const std::string& value, auto& random) {
        const std::size_t head = detail::redis_head_bytes(3, 8);
        std::string bad = flipped(value, head, value.size(), random);
        return answer{fake_redis::bulk(bad == value ? value.substr(1) : bad)};
      },
      many());
}

TEST_CASE("lie: a stream that ends early", "[tier][redis][lies]") {
  liar l(10);
  l.tell(
      [](const std::string& value, auto& random) {
        const std::string whole = fake_redis::bulk(value);
        return answer{whole.substr(0, random() % whole.size()), true};
      },
      many());
}

TEST_CASE("lie: slices in another order", "[tier][redis][lies]") {
  liar l(11);
  l.tell(
      [](std::string value, auto&) {
        const auto head =
            value.begin() + static_cast<std::ptrdiff_t>(detail::redis_head_bytes(3, 8));
        std::swap_ranges(head, head + 512, head + 512);
        return answer{fake_redis::bulk(value)};
      },
      many());
}

// Two GETs in flight, and the replies the other way round.
TEST_CASE("lie: replies in another order", "[tier][redis][lies]") {
  liar l(12);
  redis_store store(patient(l.server.url()));
  run(store, l.one.item(store_op::put));
  run(store, l.two.item(store_op::put));
  std::string kept;
  for (std::uint64_t i = 0; i < many(); ++i) {
    kept.clear();
    l.is_lying = true;
    l.server.answer_with([&](const fake_redis::words& w, int) {
      if (!is_page_get(w) || !l.is_lying) {
        return l.truth(w);
      }
      if (kept.empty()) {
        kept = fake_redis::bulk(l.truth.values.at(w[1]));
        return answer{};
      }
      l.is_lying = false;
      return answer{fake_redis::bulk(l.truth.values.at(w[1])) + kept};
    });
    l.one.clear(), l.two.clear();
    for (const store_completion& c :
         run_all(store, {l.one.item(store_op::get), l.two.item(store_op::get)})) {
      CHECK(c.outcome != store_outcome::done);
    }
    l.expect_truth(store);
  }
}

// The reply comes when nobody waits any more, and the slices belong to somebody else.
TEST_CASE("lie: a late reply", "[tier][redis][lies]") {
  liar l(13);
  redis_store store(patient(l.server.url()));
  run(store, l.one.item(store_op::put));
  run(store, l.two.item(store_op::put));
  std::string kept;
  for (std::uint64_t i = 0; i < many(); ++i) {
    kept.clear();
    l.is_lying = true;
    l.server.answer_with([&](const fake_redis::words& w, int) {
      if (is_page_get(w) && l.is_lying) {
        l.is_lying = false;
        const std::string whole = fake_redis::bulk(l.truth.values.at(w[1]));
        // Some of it may come in time.
        const std::size_t begin = l.random() % 2 * (l.random() % whole.size());
        kept = whole.substr(begin);
        return answer{whole.substr(0, begin)};
      }
      answer a = l.truth(w);
      a.bytes = std::exchange(kept, {}) + a.bytes;
      return a;
    });
    const store_outcome how = run(store, l.one.item(store_op::get), 1'000);
    CHECK(how == store_outcome::late);
    l.one.clear(std::byte{0x77});
    l.two.clear();
    const store_outcome next = run(store, l.two.item(store_op::get));
    CHECK((next == store_outcome::done && l.two.has_arrived()));
    CHECK(l.one.is_clear(std::byte{0x77}));
  }
}

TEST_CASE(
    "lie: an epoch that cannot be made ends the puts that need it, and nothing behind them waits",
    "[tier][redis][lies]") {
  const struct {
    std::string reply;
    store_outcome outcome;
    int native;
  } cases[] = {
      {"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
       store_outcome::refused,
       ENOMEM},
      {"-NOREPLICAS Not enough good replicas to write.\r\n", store_outcome::refused, EROFS},
      {"-READONLY You can't write against a read only replica.\r\n", store_outcome::refused, EROFS},
      {"$-1\r\n", store_outcome::failed, EPROTO}};  // There, as garbage.
  for (const auto& c : cases) {
    CAPTURE(c.reply);
    liar l(15);
    test_page other(7);  // Of another name space.
    redis_store store(patient(l.server.url()));
    REQUIRE(run(store, l.one.item(store_op::put)) == store_outcome::done);
    std::atomic<std::uint64_t> sets = 0;
    l.server.answer_with([&](const fake_redis::words& w, int) {
      const bool is_made = w[0] == "SET" && w.back() == "NX";
      sets += is_made;
      return is_made ? answer{c.reply} : l.truth(w);
    });
    const auto ended =
        run_all(store,
                {other.item(store_op::put), l.one.item(store_op::get), l.one.item(store_op::put)},
                0);
    CHECK(ended[0].outcome == c.outcome);
    CHECK(ended[0].native == c.native);
    CHECK(ended[1].outcome == store_outcome::done);
    CHECK(ended[2].outcome == store_outcome::done);
    CHECK(sets <= 4);  // Each name once, and the stamp.
    CHECK(store.last_fault().operation == std::string("make an epoch"));
    // Once it is made again, all is well.
    l.server.answer_with([&](const fake_redis::words& w, int) { return l.truth(w); });
    CHECK(run(store, other.item(store_op::put)) == store_outcome::done);
    CHECK(store.stats().health == store_health::healthy);
  }
}

TEST_CASE("lie: a cluster whose nodes have no slots", "[tier][redis][lies]") {
  liar l(16);
  l.server.answer_with([&](const fake_redis::words& w, int) {
    return w[0] == "CLUSTER" ? answer{"*0\r\n"} : l.truth(w);
  });
  redis_options o = patient(l.server.url());
  o.is_cluster = true;
  redis_store store(o);
  const auto ended = run_all(store, {l.one.item(store_op::put), l.one.item(store_op::get)});
  for (const store_completion& c : ended) {
    CHECK(c.outcome == store_outcome::failed);
    CHECK(c.native == EAGAIN);
  }
  CHECK(store.last_fault().operation == std::string("read the slots"));
}

TEST_CASE("lie: an error for the end of the log", "[tier][redis][lies]") {
  // A log of one entry, which is given to who has read less.
  std::atomic<bool> is_lying = false;
  std::atomic<std::uint64_t> lies = 0, truths = 0;
  fake_redis server([&](const fake_redis::words& w, int) {
    const std::string entry =
        "*2\r\n$4\r\n10-1\r\n*2\r\n$1\r\nr\r\n" + fake_redis::bulk(std::string("\x01\0\0\0a", 5));
    if (w[0] == "HELLO") {
      return answer{fake_redis::hello};
    }
    if (w[0] == "TIME") {
      return answer{"*2\r\n$1\r\n1\r\n$1\r\n0\r\n"};
    }
    if (w[0] == "XREVRANGE") {
      ++(is_lying ? lies : truths);
      return is_lying ? answer{"-NOPERM this user has no permissions\r\n"}
                      : answer{"*1\r\n" + entry};
    }
    if (w[0] == "XREAD") {
      return answer{w.back() == "0-0" ? "%1\r\n$1\r\nk\r\n*1\r\n" + entry : std::string("_\r\n")};
    }
    return answer{"+OK\r\n"};
  });
  redis_state_store store({.redis = patient(server.url())});
  std::vector<state_record> records;
  double now_s = 100.0;  // The store's own clock goes by hand.
  const auto turn_until = [&](const auto& is_so) {
    return eventually([&] {
      store.poll(records, now_s += 0.1);
      return is_so();
    });
  };
  REQUIRE(turn_until([&] { return records.size() == 1 && truths >= 1; }));
  is_lying = true;
  REQUIRE(turn_until([&] { return lies >= 2; }));  // It asks again, and soon.
  is_lying = false;
  const std::uint64_t before = truths;
  REQUIRE(turn_until([&] { return truths >= before + 2; }));
  CHECK(records.size() == 1);  // Each at most once.
  CHECK(store.status().logs_lost == 0);
}

// What is looked for, and missing, while a put comes along is made for the put.
TEST_CASE("an epoch that a get looks for is made for the put behind it", "[tier][redis]") {
  detail::redis_epochs epochs;
  const detail::redis_epoch_name name{.kind = 't', .whose = {}};
  CHECK(epochs.compare(name, 5, 1) == detail::redis_epochs::answer::unknown);
  REQUIRE(epochs.begin_fetch(8).size() == 1);
  CHECK(!epochs.is_to_be_made(name));
  CHECK(epochs.for_put(name) == 0);
  CHECK(epochs.hear({0}, 1).empty());  // Nobody was to make it yet.
  REQUIRE(epochs.wants_fetch());
  REQUIRE(epochs.begin_fetch(8).size() == 1);
  CHECK(epochs.is_to_be_made(name));
  SECTION("it is made") {
    CHECK(epochs.hear({7}, 1).empty());
    CHECK(epochs.for_put(name) == 7);
  }
  SECTION("it is not") {
    CHECK(epochs.hear({0}, 1).size() == 1);
  }
}

// An acknowledgement too many must not stand for a deletion that did not happen.
TEST_CASE("a reply too many is not taken for a deletion", "[tier][redis][lies]") {
  liar l(14);
  redis_store store(patient(l.server.url()));
  run(store, l.one.item(store_op::put));
  l.server.answer_with([&](const fake_redis::words& w, int) {
    if (w[0] == "GET" && is_page_get(w)) {
      answer a = l.truth(w);
      a.bytes += ":1\r\n";
      return a;
    }
    return w[0] == "UNLINK" ? answer{":0\r\n"} : l.truth(w);
  });
  const auto ended = run_all(store, {l.one.item(store_op::get), l.one.item(store_op::erase)});
  CHECK(ended[0].outcome == store_outcome::done);
  CHECK(ended[1].outcome == store_outcome::failed);
}

}  // namespace redis_lies_test
