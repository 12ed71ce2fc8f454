// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Pages for the tests of redis_store, and a client that runs items to their end.
#pragma once

#include "../src/tier/redis_record.hpp"

#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/redis_store.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace redis_test {

using namespace oriel;

/// Page `number`: all of it follows from the number. Its namespace is number / 100.
struct test_page {
  explicit test_page(std::uint32_t number,
                     std::vector<std::size_t> slice_bytes = {300, 1, 5000, 77}) {
    key.link.bytes.fill(std::byte{0x40});
    std::memcpy(key.link.bytes.data(), &number, 4);
    const std::uint32_t space = number / 100;
    identity.name_space.bytes.fill(std::byte{0x50});
    std::memcpy(identity.name_space.bytes.data(), &space, 4);
    identity.parent.bytes.fill(std::byte{0x60});
    std::memcpy(identity.parent.bytes.data(), &number, 4);
    for (std::uint32_t i = 0; i < 8; ++i) {
      tokens.push_back(token_id{number * 8 + i});
    }
    identity.first_token = number % 100 * 8;
    identity.tokens = tokens;
    std::uint64_t word = number * 0x9E37'79B9'7F4A'7C15u + 1;
    for (const std::size_t bytes : slice_bytes) {
      std::vector<std::byte>& slice = content.emplace_back(bytes);
      for (std::byte& b : slice) {
        word ^= word << 13, word ^= word >> 7, word ^= word << 17;
        b = static_cast<std::byte>(word);
      }
    }
    room = content;
    for (std::size_t i = 0; i < room.size(); ++i) {
      source.emplace_back(content[i]);
      target.emplace_back(room[i]);
    }
    clear();
  }
  test_page(const test_page&) = delete;
  test_page& operator=(const test_page&) = delete;

  void clear(std::byte value = std::byte{0xEE}) {
    for (auto& slice : room) {
      std::ranges::fill(slice, value);
    }
  }
  [[nodiscard]] bool has_arrived() const { return room == content; }
  [[nodiscard]] bool is_clear(std::byte value = std::byte{0xEE}) const {
    return std::ranges::all_of(room, [&](const auto& slice) {
      return std::ranges::all_of(slice, [&](std::byte b) { return b == value; });
    });
  }
  [[nodiscard]] store_item item(store_op op, std::uint64_t session = 1) const {
    store_item i{
        .op = op, .key = key, .identity = &identity, .owner = {.tenant = 7, .session = session}};
    i.slices = op == store_op::put ? source : target;
    if (op == store_op::drop_space) {
      i.key.link = identity.name_space;
    }
    return i;
  }
  /// The value as the store would write it.
  [[nodiscard]] std::string value(const std::array<std::uint64_t, 3>& epochs = {11, 12, 13}) const {
    std::string out;
    detail::encode_redis_head(out, item(store_op::put), epochs, 0);
    for (const auto& slice : content) {
      out.append(reinterpret_cast<const char*>(slice.data()), slice.size());
    }
    return out;
  }

  page_key key;
  page_identity identity;
  std::vector<token_id> tokens;
  std::vector<std::vector<std::byte>> content, room;
  std::vector<std::span<std::byte>> source, target;
};

/// Submits and waits; half a minute is for ever.
inline std::vector<store_completion> run_all(redis_store& store,
                                             std::vector<store_item> items,
                                             std::uint64_t within_us = 0) {
  std::vector<store_completion> ended(items.size());
  std::vector<bool> is_ended(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    items[i].user = i;
  }
  const std::uint64_t deadline = within_us == 0 ? no_deadline : store.now_us() + within_us;
  const std::uint64_t end = store.now_us() + 30'000'000;
  std::size_t taken = 0, count = 0;
  while (count < items.size()) {
    taken += store.submit(std::span(items).subspan(taken), deadline);
    store.wait(store.now_us() + 20'000);
    store_completion done[32];
    for (std::size_t n = store.poll(done), i = 0; i < n; ++i) {
      REQUIRE(done[i].user < items.size());
      REQUIRE(!is_ended[done[i].user]);
      is_ended[done[i].user] = true;
      ended[done[i].user] = done[i];
      ++count;
    }
    REQUIRE(store.now_us() < end);
  }
  return ended;
}

inline store_outcome run(redis_store& store, const store_item& item, std::uint64_t within_us = 0) {
  return run_all(store, {item}, within_us).front().outcome;
}

}  // namespace redis_test
