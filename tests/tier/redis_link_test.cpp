// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What one connection does: greeting, fencing, deadlines, the breaker. The server is ours, and says
// what each case needs.
#include "tier/fake_redis.hpp"
#include "tier/redis_pages.hpp"
#include "tier/redis_server.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

namespace redis_link_test {

using namespace oriel;
using redis_test::run;
using redis_test::run_all;
using redis_test::test_page;
using answer = fake_redis::answer;
using words = fake_redis::words;

namespace {

redis_options quick(const std::string& url) {
  return {.url = url, .backoff_min_us = 1'000, .backoff_max_us = 10'000};
}

bool heard(fake_redis& server, std::string_view line) {
  return std::ranges::any_of(server.heard(),
                             [&](const std::string& l) { return l.starts_with(line); });
}

}  // namespace

TEST_CASE("greetings of old servers, users and databases", "[tier][redis]") {
  honest_redis truth;
  std::string hello = "-ERR unknown command 'HELLO'\r\n";
  fake_redis server([&](const words& w, int) {
    if (w[0] == "HELLO") {
      return answer{hello};
    }
    return w[0] == "CLIENT" ? answer{":5\r\n"} : truth(w);
  });
  test_page page(1);
  {
    redis_store store(quick(server.url("bob:pw@") + "/3"));
    CHECK(run(store, page.item(store_op::put)) == store_outcome::done);
    CHECK(heard(server, "HELLO 3 AUTH bob pw"));
    CHECK(heard(server, "AUTH bob pw"));
    CHECK(heard(server, "CLIENT ID"));
    CHECK(heard(server, "SELECT 3"));
  }
  {
    redis_store store(quick(server.url(":pw@")));
    CHECK(run(store, page.item(store_op::get)) == store_outcome::done);
    CHECK(heard(server, "AUTH pw"));
  }
  for (const std::string refusal : {"-WRONGPASS invalid\r\n", "-NOAUTH HELLO must\r\n"}) {
    server.answer_with([&](const words&, int) { return answer{refusal}; });
    redis_store store(quick(server.url(":pw@")));
    const auto ended = run_all(store, {page.item(store_op::get)});
    CHECK(ended[0].outcome == store_outcome::refused);
    CHECK(ended[0].native == EACCES);
    CHECK(store.last_fault().operation == "authenticate");
  }
}

TEST_CASE("greetings that are none cut the server off", "[tier][redis]") {
  const std::string greetings[] = {"+OK\r\n",
                                   ":1\r\n",
                                   "garbage\r\n",
                                   "HTTP/1.1 200 OK\r\n\r\n",
                                   "*999999999\r\n",
                                   "$99999999999\r\n",
                                   "-LOADING wait\r\n"};
  test_page page(1);
  for (const std::string& greeting : greetings) {
    INFO(greeting);
    fake_redis server([&](const words&, int) { return answer{greeting}; });
    redis_store store(quick(server.url()));
    CHECK(run(store, page.item(store_op::get)) == store_outcome::refused);
    CHECK(store.stats().health == store_health::degraded);
    CHECK(store.last_fault().native != 0);
  }
}

// A connection with a write under way is lost. What it left before the server must not be carried
// out after what its successor sends.
TEST_CASE("the successor of a lost connection has the server end it first", "[tier][redis]") {
  honest_redis truth;
  bool swallows = true;
  int id = 7;
  fake_redis server([&](const words& w, int) {
    if (w[0] == "HELLO") {
      return answer{"%1\r\n$2\r\nid\r\n:" + std::to_string(id++) + "\r\n"};
    }
    if (w[0] == "SET" && w[1].find(":p:") != std::string::npos && swallows) {
      return answer{};
    }
    return truth(w);
  });
  redis_options options = quick(server.url());
  options.silence_timeout_us = 20'000;
  redis_store store(options);
  test_page page(1);
  const auto lost = run_all(store, {page.item(store_op::put)});
  CHECK(lost[0].outcome == store_outcome::failed);
  CHECK(lost[0].native == ETIMEDOUT);
  CHECK(run(store, page.item(store_op::erase)) == store_outcome::done);
  const auto lines = server.heard();
  const auto kill = std::ranges::find(lines, "CLIENT KILL ID 7 SKIPME yes");
  const auto unlink =
      std::ranges::find_if(lines, [](const std::string& l) { return l.starts_with("UNLINK"); });
  REQUIRE(kill != lines.end());
  CHECK(kill < unlink);
}

TEST_CASE("a length beyond all records ends the connection at once", "[tier][redis]") {
  honest_redis truth;
  fake_redis server([&](const words& w, int) {
    if (w[0] == "GET" && w[1].find(":p:") != std::string::npos) {
      return answer{"$1099511627776\r\n" + std::string(4'000, 'x')};  // And no more, and no end.
    }
    return truth(w);
  });
  redis_store store(quick(server.url()));
  test_page page(1);
  const auto ended = run_all(store, {page.item(store_op::get)}, 20'000'000);
  CHECK(ended[0].outcome == store_outcome::failed);
  CHECK(ended[0].native == EMSGSIZE);
}

TEST_CASE("the value of another page ends the connection: what follows is no better",
          "[tier][redis]") {
  honest_redis truth;
  test_page page(1), other(2);
  fake_redis server([&](const words& w, int) {
    const bool is_page = w[0] == "GET" && w[1].find(":p:") != std::string::npos;
    return is_page ? answer{fake_redis::bulk(other.value())} : truth(w);
  });
  redis_store store(quick(server.url()));
  for (std::ptrdiff_t i = 1; i <= 2; ++i) {
    CHECK(run(store, page.item(store_op::get)) == store_outcome::miss);
    const auto lines = server.heard();
    CHECK(std::ranges::count(lines, "HELLO 3") == i);
  }
  CHECK(store.stats().misplaced == 2);
}

TEST_CASE("a server that is silent holds nobody for ever", "[tier][redis]") {
  fake_redis server(
      [&](const words& w, int) { return w[0] == "HELLO" ? answer{fake_redis::hello} : answer{}; });
  redis_options options = quick(server.url());
  options.silence_timeout_us = 20'000;
  redis_store store(options);
  test_page page(1);
  const auto ended = run_all(store, {page.item(store_op::get), page.item(store_op::put)});
  CHECK((ended[0].outcome == store_outcome::failed && ended[0].native == ETIMEDOUT));
  CHECK((ended[1].outcome == store_outcome::failed || ended[1].outcome == store_outcome::refused));
}

TEST_CASE("the breaker opens after failures, refuses at once, probes, and closes",
          "[tier][redis]") {
  // Nobody is there at first.
  const std::uint16_t port = free_port();
  redis_options options = quick("redis://127.0.0.1:" + std::to_string(port));
  options.failures_to_open = 3;
  redis_store store(options);
  test_page page(1);
  const auto ended = run_all(store, {page.item(store_op::get)});
  CHECK(ended[0].outcome == store_outcome::refused);
  CHECK(ended[0].native == ECONNREFUSED);
  CHECK(store.stats().health == store_health::degraded);
  const std::uint64_t before = store.last_fault().count;
  CHECK(before >= 3);
  // Items cost no connection of their own.
  const std::vector<store_item> many(300, page.item(store_op::get));
  for (const store_completion& c : run_all(store, many)) {
    CHECK(c.outcome == store_outcome::refused);
  }
  CHECK(store.last_fault().count < before + 300);
  if (!is_missing("redis-server")) {
    const redis_server server({}, port);
    CHECK(eventually([&] { return run(store, page.item(store_op::get)) == store_outcome::miss; }));
    CHECK(store.stats().health == store_health::healthy);
  }
}

TEST_CASE("lateness alone opens the breaker", "[tier][redis]") {
  honest_redis truth;
  bool is_slow = false;
  fake_redis server(
      [&](const words& w, int) { return w[0] != "HELLO" && is_slow ? answer{} : truth(w); });
  redis_options options = quick(server.url());
  options.lates_to_open = 5;
  redis_store store(options);
  test_page page(1);
  REQUIRE(run(store, page.item(store_op::put)) == store_outcome::done);
  server.answer_with(
      [&](const words& w, int) { return w[0] == "HELLO" ? answer{fake_redis::hello} : answer{}; });
  int lates = 0;
  while (run(store, page.item(store_op::get), 1'000) == store_outcome::late && lates < 100) {
    ++lates;
  }
  CHECK(lates <= 5);
  CHECK(store.last_fault().operation == "answer in time");
}

TEST_CASE("MOVED and ASK are followed, in order", "[tier][redis]") {
  honest_redis truth_a, truth_b;
  bool moves = false, asks = false;
  std::uint16_t port_b = 0;
  const auto slots = [&](std::uint16_t port) {
    return answer{"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:" + std::to_string(port) +
                  "\r\n"};
  };
  fake_redis b([&](const words& w, int) { return w[0] == "CLUSTER" ? slots(port_b) : truth_b(w); });
  port_b = b.port();
  std::uint16_t port_a = 0;
  fake_redis a([&](const words& w, int) {
    if (w[0] == "CLUSTER") {
      return slots(port_a);
    }
    const bool is_page = w.size() > 1 && w[1].find(":p:") != std::string::npos;
    if (is_page && (moves || asks)) {
      return answer{(moves ? "-MOVED 1 127.0.0.1:" : "-ASK 1 127.0.0.1:") + std::to_string(port_b) +
                    "\r\n"};
    }
    return truth_a(w);
  });
  port_a = a.port();
  redis_options options = quick(a.url());
  options.is_cluster = true;
  redis_store store(options);
  test_page page(1);
  CHECK(run(store, page.item(store_op::put)) == store_outcome::done);
  asks = true;
  const auto asked = run_all(store,
                             {page.item(store_op::put),
                              page.item(store_op::erase),
                              page.item(store_op::get),
                              page.item(store_op::put),
                              page.item(store_op::get)});
  CHECK(heard(b, "ASKING"));
  CHECK(asked[0].outcome == store_outcome::done);
  CHECK(asked[1].outcome == store_outcome::done);
  CHECK(asked[2].outcome == store_outcome::miss);
  CHECK(asked[3].outcome == store_outcome::done);
  CHECK(asked[4].outcome == store_outcome::done);
  asks = false, moves = true;
  page.clear();
  CHECK(run(store, page.item(store_op::get)) == store_outcome::done);
  CHECK(page.has_arrived());
  // Two servers that send us to each other.
  b.answer_with([&](const words& w, int) {
    return w[0] == "GET"       ? answer{"-MOVED 1 127.0.0.1:" + std::to_string(port_a) + "\r\n"}
           : w[0] == "CLUSTER" ? slots(port_b)
                               : truth_b(w);
  });
  const auto round = run_all(store, {page.item(store_op::get)});
  CHECK(round[0].outcome == store_outcome::failed);
}

namespace {

struct cluster {
  cluster() {
    for (int i = 0; i < 3; ++i) {
      buses.push_back(free_port());
      nodes.push_back(
          std::make_unique<redis_server>(std::vector<std::string>{"--cluster-enabled",
                                                                  "yes",
                                                                  "--cluster-port",
                                                                  std::to_string(buses.back()),
                                                                  "--cluster-node-timeout",
                                                                  "2000"}));
    }
    nodes[0]->ask("CLUSTER ADDSLOTSRANGE 0 5000");
    nodes[1]->ask("CLUSTER ADDSLOTSRANGE 5001 11000");
    nodes[2]->ask("CLUSTER ADDSLOTSRANGE 11001 16383");
    for (std::size_t i = 1; i < 3; ++i) {
      nodes[0]->ask("CLUSTER MEET 127.0.0.1 " + std::to_string(nodes[i]->port()) + " " +
                    std::to_string(buses[i]));
    }
    is_up = eventually([&] {
      return std::ranges::all_of(nodes, [](const auto& n) {
        const std::string state = n->ask("CLUSTER INFO", "cluster_known_nodes:3");
        return state.find("cluster_state:ok") != std::string::npos &&
               state.find("cluster_known_nodes:3") != std::string::npos;
      });
    });
  }
  std::string id_of(std::size_t node) const {
    return nodes[node]->ask("CLUSTER MYID").substr(5, 40);
  }
  std::vector<std::uint16_t> buses;
  std::vector<std::unique_ptr<redis_server>> nodes;
  bool is_up = false;
};

}  // namespace

TEST_CASE("a cluster of three, and a slot that moves", "[tier][redis][cluster]") {
  if (is_missing("redis-server")) {
    return;
  }
  const cluster c;
  REQUIRE(c.is_up);
  redis_options options = quick(c.nodes[0]->url());
  options.is_cluster = true;
  redis_store store(options);
  std::vector<std::unique_ptr<test_page>> pages;
  std::vector<store_item> puts, gets;
  for (std::uint32_t i = 0; i < 60; ++i) {
    pages.push_back(std::make_unique<test_page>(i));
    puts.push_back(pages.back()->item(store_op::put));
    gets.push_back(pages.back()->item(store_op::get));
  }
  for (const store_completion& p : run_all(store, puts)) {
    CHECK(p.outcome == store_outcome::done);
  }
  const auto all_are = [&](store_outcome how) {
    for (auto& page : pages) {
      page->clear();
    }
    const auto ended = run_all(store, gets);
    return std::ranges::all_of(ended, [&](const auto& e) { return e.outcome == how; }) &&
           std::ranges::all_of(pages, [&](const auto& page) {
             return how != store_outcome::done || page->has_arrived();
           });
  };
  CHECK(all_are(store_outcome::done));

  // All pages of node 2's slot move to node 0: first they are asked for, then the slot has moved.
  std::string key;  // Epochs are keys too.
  REQUIRE(eventually([&] {
    const std::string some = c.nodes[2]->ask("RANDOMKEY");
    const std::size_t begin = some.find("\r\n") + 2;
    key = some.substr(begin, some.rfind("\r\n") - begin);
    return key.find(":p:") != std::string::npos;
  }));
  const std::string slot = c.nodes[2]->ask("CLUSTER KEYSLOT " + key).substr(1, 5);
  const std::string number = slot.substr(0, slot.find('\r'));
  const std::string from = c.id_of(2), to = c.id_of(0);
  c.nodes[0]->ask("CLUSTER SETSLOT " + number + " IMPORTING " + from);
  c.nodes[2]->ask("CLUSTER SETSLOT " + number + " MIGRATING " + to);
  CHECK(all_are(store_outcome::done));
  CHECK(c.nodes[2]
            ->ask("MIGRATE 127.0.0.1 " + std::to_string(c.nodes[0]->port()) + " " + key + " 0 5000")
            .starts_with("+OK"));
  CHECK(all_are(store_outcome::done));  // By ASK.
  for (const auto& node : c.nodes) {
    node->ask("CLUSTER SETSLOT " + number + " NODE " + to);
  }
  CHECK(all_are(store_outcome::done));  // By MOVED.
  CHECK(all_are(store_outcome::done));
  CHECK(run(store, pages[0]->item(store_op::drop_tenant)) == store_outcome::done);
  CHECK(all_are(store_outcome::miss));
}

}  // namespace redis_link_test
