// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `state_store`, for any model of it.
///
/// A `World` has
///
///     Store& join()               a new participant, in use until the world ends
///     double now_s()              of the clock that all of them share here
///     void pass(double seconds)   lets time pass
///     std::size_t log_max()       so many records of ten bytes are surely kept
///
/// What is slow to arrive is waited for: `check_state_store_laws` polls until it is there.
#pragma once

#include <oriel/route/state_store.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace oriel_test {

namespace state_laws {

inline std::vector<std::byte> bytes_of(const std::string& text) {
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

/// Reads until so many records have come, or for a while; then a little longer, for what should
/// not.
template <class World, class Store>
std::vector<std::string> read(World& world, Store& store, std::size_t count) {
  std::vector<std::string> texts;
  std::vector<oriel::state_record> records;
  for (int i = 0; i < 2000 && texts.size() < count; ++i) {
    records.clear();
    store.poll(records, world.now_s());
    for (const oriel::state_record& r : records) {
      CHECK(r.stored_s <= world.now_s() + 0.5);
      texts.emplace_back(reinterpret_cast<const char*>(r.bytes.data()), r.bytes.size());
    }
    world.pass(0.002);
  }
  for (int i = 0; i < 10; ++i) {
    records.clear();
    store.poll(records, world.now_s());
    for (const oriel::state_record& r : records) {
      texts.emplace_back(reinterpret_cast<const char*>(r.bytes.data()), r.bytes.size());
    }
    world.pass(0.002);
  }
  return texts;
}

template <class World, class Store>
bool holds(World& world, Store& store, const char* name, double ttl_s, bool expected) {
  bool is_held = false;
  for (int i = 0; i < 500; ++i) {
    is_held = store.hold(name, ttl_s, world.now_s());
    std::vector<oriel::state_record> records;
    store.poll(records, world.now_s());
    world.pass(0.002);
    if (is_held == expected && (expected || i > 20)) {
      break;
    }
  }
  return is_held;
}

template <class World>
void check_order(World& world) {
  auto& a = world.join();
  auto& b = world.join();
  std::vector<std::string> sent;
  for (int i = 0; i < 50; ++i) {
    auto& who = i % 3 == 0 ? a : b;
    sent.push_back(std::to_string(i).insert(0, 1, i % 3 == 0 ? 'a' : 'b'));
    CHECK(who.append(bytes_of(sent.back()), world.now_s()));
  }
  std::vector<oriel::state_record> none;
  const auto seen_a = read(world, a, sent.size());
  auto seen_b = read(world, b, sent.size());
  if (seen_b.size() > sent.size()) {
    FAIL("a record came twice");
  }
  // One may have read before the other had sent.
  auto all_a = seen_a;
  for (const std::string& more : read(world, a, sent.size() - seen_a.size())) {
    all_a.push_back(more);
  }
  REQUIRE(all_a.size() == sent.size());
  CHECK(all_a == seen_b);
  for (const char who : {'a', 'b'}) {
    std::vector<std::string> in, out;
    for (const std::string& s : sent) {
      s[0] == who ? in.push_back(s) : void();
    }
    for (const std::string& s : all_a) {
      s[0] == who ? out.push_back(s) : void();
    }
    CHECK(in == out);
  }
  auto& late = world.join();
  CHECK(read(world, late, sent.size()) == all_a);
  CHECK(a.status().is_connected);
  CHECK(a.status().received == sent.size());
  CHECK(a.status().dropped == 0);
}

template <class World>
void check_bounds(World& world) {
  auto& a = world.join();
  CHECK(a.append(std::vector<std::byte>(oriel::state_record_bytes_max), world.now_s()));
  CHECK(!a.append(std::vector<std::byte>(oriel::state_record_bytes_max + 1), world.now_s()));
  CHECK(a.status().dropped == 1);
  CHECK(read(world, a, 1).size() == 1);
  CHECK(a.append({}, world.now_s()));  // of no bytes
  CHECK(read(world, a, 1) == std::vector<std::string>{""});
  // Who was away for longer than the log gets the end of it, in order.
  auto& away = world.join();
  const std::size_t many = 4 * world.log_max() + 4000;
  std::size_t seen = 0;
  for (std::size_t i = 0; i < many; ++i) {
    const std::string text = std::to_string(1'000'000'000 + i);
    while (!a.append(bytes_of(text), world.now_s())) {
      seen += read(world, a, 1).size();
    }
    if (i % 100 == 0) {
      std::vector<oriel::state_record> records;
      a.poll(records, world.now_s());
      seen += records.size();
      world.pass(0.001);
    }
  }
  seen += read(world, a, many - seen).size();
  CHECK(seen == many);
  const auto rest = read(world, away, many);
  CHECK(rest.size() < many);
  CHECK(rest.size() >= world.log_max());
  for (std::size_t i = 0; i < rest.size(); ++i) {
    if (rest[i] != std::to_string(1'000'000'000 + many - rest.size() + i)) {
      FAIL("record " << i << " is " << rest[i]);
    }
  }
}

template <class World>
void check_leases(World& world) {
  auto& a = world.join();
  auto& b = world.join();
  CHECK(holds(world, a, "one", 0.6, true));
  CHECK(!holds(world, b, "one", 0.6, false));
  CHECK(holds(world, b, "two", 0.6, true));  // another one
  for (int i = 0; i < 4; ++i) {              // kept by asking again
    world.pass(0.2);
    CHECK(holds(world, a, "one", 0.6, true));
    CHECK(!holds(world, b, "one", 0.6, false));
  }
  a.release("one", world.now_s());
  CHECK(holds(world, b, "one", 0.3, true));
  CHECK(!holds(world, a, "one", 0.3, false));
  world.pass(0.5);  // it is over
  CHECK(holds(world, a, "one", 5.0, true));
  CHECK(!holds(world, b, "one", 0.3, false));
}

}  // namespace state_laws

/// `make()` gives a new, empty world each time.
template <class Make>
void check_state_store_laws(Make make) {
  {
    auto world = make();
    state_laws::check_order(world);
  }
  {
    auto world = make();
    state_laws::check_bounds(world);
  }
  {
    auto world = make();
    state_laws::check_leases(world);
  }
}

}  // namespace oriel_test
