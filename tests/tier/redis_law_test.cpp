// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The law of kv_store over a real server.
#include "conformance/kv_store_suite.hpp"
#include "support/scale.hpp"
#include "tier/redis_server.hpp"

#include <oriel/tier/redis_store.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

namespace redis_law_test {

using namespace oriel;

namespace {

/// A store of its own on the server that all share: its prefix keeps it apart.
struct redis_subject {
  explicit redis_subject(redis_options with) : options(std::move(with)) {
    static int count = 0;
    options.key_prefix = "law" + std::to_string(count++) + ":";
    tested = std::make_unique<redis_store>(options);
  }
  redis_store& store() { return *tested; }
  std::uint64_t now_us() const { return tested->now_us(); }
  void advance(std::uint64_t us) { std::this_thread::sleep_for(std::chrono::microseconds(us)); }
  void reopen() { tested = std::make_unique<redis_store>(options); }

  redis_options options;
  std::unique_ptr<redis_store> tested;
};

}  // namespace

TEST_CASE("redis_store is a kv_store", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  static redis_server server;
  const kv_store_law law{
      .keeps_over_reopen = true, .expiry_us = 300'000, .random_items = scaled(4'000), .seeds = 2};
  check_kv_store([] { return redis_subject({.url = server.url(), .queue_items_max = 64}); }, law);
}

TEST_CASE("redis_store with three connections and little room is a kv_store", "[tier][redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  static redis_server server;
  const kv_store_law law{.slice_bytes = {{1, 4097, 70'001, 3}, {13}},
                         .page_size = 3,
                         .keeps_over_reopen = true,
                         .expiry_us = 300'000,
                         .random_items = scaled(2'000),
                         .seeds = 2};
  check_kv_store(
      [] {
        return redis_subject({.url = server.url(),
                              .connections = 3,
                              .queue_items_max = 7,
                              .in_flight_commands_max = 3,
                              .in_flight_bytes_max = 100'000});
      },
      law);
}

}  // namespace redis_law_test
