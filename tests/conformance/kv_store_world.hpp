// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the law of `kv_store` plays with: pages that know their bytes, buffers that notice a stray
/// write, and a client that drives a store and counts what comes back.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/tier/kv_store.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <vector>

/// What the law has to know of a model.
struct kv_store_law {
  /// Pages of pool p have slices of these bytes; at most 64 pages of each pool are put at once.
  std::vector<std::vector<std::uint64_t>> slice_bytes = {{4096, 8192, 4096}, {4096}};
  std::uint32_t page_size = 16;        ///< tokens
  bool may_evict = false;              ///< there is less room than that: a page may go at any time
  bool may_refuse = false;             ///< a put may be refused without a reason the law can see
  bool keeps_over_reopen = false;      ///< what was acknowledged is there after reopen()
  std::uint64_t expiry_us = 50'000;    ///< long enough for a put and a get to be done before
  std::uint64_t random_items = 8'000;  ///< of each seed
  std::uint64_t seeds = 3;             ///< of the random part, from 1
};

namespace oriel_conformance {

using oriel::page_digest;
using oriel::store_completion;
using oriel::store_item;
using oriel::store_op;
using oriel::store_outcome;

/// Fills `out` with bytes that depend on `seed` in every one of 8.
inline void fill_with(std::span<std::byte> out, std::uint64_t seed) {
  std::uint64_t word = seed * 0x9E37'79B9'7F4A'7C15u + 1;
  for (std::size_t i = 0; i < out.size(); i += sizeof(word)) {
    word ^= word << 13, word ^= word >> 7, word ^= word << 17;
    std::memcpy(out.data() + i, &word, std::min(sizeof(word), out.size() - i));
  }
}

/// A page of some chain of some namespace, with its identity and its bytes.
struct law_page {
  oriel::page_key key;
  std::uint32_t space = 0;  ///< its namespace is chain_starts()[space]; its tenant is space / 2 + 1
  page_digest name_space, parent;
  std::uint32_t first_token = 0;
  std::vector<oriel::token_id> tokens;
  std::vector<std::vector<std::byte>> slices;

  [[nodiscard]] oriel::page_identity identity() const {
    return {
        .name_space = name_space, .parent = parent, .first_token = first_token, .tokens = tokens};
  }
  [[nodiscard]] std::uint64_t tenant() const { return space / 2 + 1; }
  [[nodiscard]] std::uint64_t size_bytes() const {
    std::uint64_t bytes = 0;
    for (const auto& slice : slices) {
      bytes += slice.size();
    }
    return bytes;
  }
};

/// 64 pages of each pool: 4 namespaces (two tenants with two each) of 2 chains of 8 links.
inline std::vector<law_page> make_law_pages(const kv_store_law& law) {
  std::vector<law_page> pages;
  for (std::uint32_t chain = 0; chain < 8; ++chain) {
    const std::uint32_t space = chain / 2;
    page_digest start;
    fill_with(start.bytes, 1'000 + space);
    std::vector<oriel::token_id> tokens(std::size_t{8} * law.page_size);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = oriel::token_id{static_cast<std::uint32_t>(chain * 1'000 + i)};
    }
    std::vector<page_digest> links;
    oriel::extend_chain(start, tokens, law.page_size, links);
    for (std::uint32_t i = 0; i < 8; ++i) {
      for (std::uint32_t pool = 0; pool < law.slice_bytes.size(); ++pool) {
        law_page page;
        page.key = {.link = links[i], .pool = pool};
        page.space = space;
        page.name_space = start;
        page.parent = i == 0 ? start : links[i - 1];
        page.first_token = i * law.page_size;
        page.tokens.assign(tokens.begin() + i * law.page_size,
                           tokens.begin() + (i + 1) * law.page_size);
        for (const std::uint64_t bytes : law.slice_bytes[pool]) {
          page.slices.emplace_back(bytes);
          fill_with(page.slices.back(), pages.size() * 64 + page.slices.size());
        }
        pages.push_back(std::move(page));
      }
    }
  }
  return pages;
}

/// Slices for one transfer, each at a multiple of 4096, with guard bytes before and behind.
class guarded_slices {
 public:
  static constexpr std::size_t step = 4096;
  static constexpr std::byte guard{0xA5};

  guarded_slices() = default;
  explicit guarded_slices(std::span<const std::vector<std::byte>> like) {
    std::size_t bytes = 2 * step;
    for (const auto& slice : like) {
      bytes += (slice.size() + 2 * step - 1) / step * step;
    }
    memory_.assign(bytes, guard);
    void* at = memory_.data();
    std::size_t room = memory_.size();
    auto* base = static_cast<std::byte*>(std::align(step, 1, at, room));
    for (const auto& slice : like) {
      base += step;
      slices_.emplace_back(base, slice.size());
      base += (slice.size() + step - 1) / step * step;
    }
  }
  guarded_slices(guarded_slices&&) = default;
  guarded_slices& operator=(guarded_slices&&) = default;

  [[nodiscard]] std::span<const std::span<std::byte>> slices() const { return slices_; }
  void fill(std::byte value) {
    for (const auto& slice : slices_) {
      std::memset(slice.data(), static_cast<int>(value), slice.size());
    }
  }
  void copy(std::span<const std::vector<std::byte>> from) {
    for (std::size_t i = 0; i < slices_.size(); ++i) {
      std::memcpy(slices_[i].data(), from[i].data(), slices_[i].size());
    }
  }
  [[nodiscard]] bool equals(std::span<const std::vector<std::byte>> to) const {
    for (std::size_t i = 0; i < slices_.size(); ++i) {
      if (std::memcmp(slices_[i].data(), to[i].data(), slices_[i].size()) != 0) {
        return false;
      }
    }
    return true;
  }
  [[nodiscard]] bool is_all(std::byte value) const {
    for (const auto& slice : slices_) {
      for (const std::byte b : slice) {
        if (b != value) {
          return false;
        }
      }
    }
    return true;
  }
  /// Are all bytes outside of the slices as they were?
  [[nodiscard]] bool is_guarded() const {
    const std::byte* at = memory_.data();
    const auto untouched = [&](const std::byte* end) {
      for (; at < end; ++at) {
        if (*at != guard) {
          return false;
        }
      }
      return true;
    };
    for (const auto& slice : slices_) {
      if (!untouched(slice.data())) {
        return false;
      }
      at = slice.data() + slice.size();
    }
    return untouched(memory_.data() + memory_.size());
  }

 private:
  std::vector<std::byte> memory_;
  std::vector<std::span<std::byte>> slices_;
};

/// One item in flight and all that belongs to the store until it completes.
struct law_transfer {
  store_item item;
  oriel::page_identity identity;
  std::vector<oriel::token_id> tokens;
  guarded_slices slices;
  const law_page* page = nullptr;
  std::uint64_t expires_us = 0;
  bool is_complete = false;
  store_completion completion = {};
};

/// Drives a store: makes items, checks each completion, scribbles over what is its own again.
template <class Subject>
class law_client {
 public:
  explicit law_client(Subject& subject) : subject_(&subject) {}

  [[nodiscard]] std::uint64_t now_us() { return subject_->now_us(); }
  [[nodiscard]] auto& store() { return subject_->store(); }

  /// @param first, count  slices of a get; count 0: all from first on
  law_transfer make(store_op op,
                    const law_page& page,
                    std::uint64_t session = 1,
                    std::uint64_t expires_us = 0,
                    std::uint32_t first = 0,
                    std::uint32_t count = 0) {
    law_transfer t;
    t.page = &page;
    t.tokens = page.tokens;
    t.identity = page.identity();
    t.item = {.op = op,
              .key = page.key,
              .first_slice = first,
              .owner = {.tenant = page.tenant(), .session = session},
              .expires_us = expires_us};
    t.expires_us = expires_us;
    if (op == store_op::drop_space) {
      t.item.key.link = page.name_space;
    }
    if (op == store_op::get || op == store_op::put) {
      const auto all = std::span(page.slices).subspan(first);
      t.slices = guarded_slices(count == 0 ? all : all.first(count));
      t.slices.fill(std::byte{0x11});
      if (op == store_op::put) {
        t.slices.copy(page.slices);
      }
    }
    return t;
  }

  /// Submits all, in order, polling for room where there is none. @returns their numbers' first
  std::uint64_t submit(std::vector<law_transfer> transfers,
                       std::uint64_t deadline_us = oriel::no_deadline) {
    const std::uint64_t first = next_;
    std::vector<store_item> items;
    for (law_transfer& t : transfers) {
      law_transfer& kept = flights_[next_] = std::move(t);
      kept.identity.tokens = kept.tokens;
      kept.item.identity = &kept.identity;
      kept.item.slices = kept.slices.slices();
      kept.item.user = next_++;
      items.push_back(kept.item);
    }
    std::span<const store_item> rest = items;
    for (int idle = 0; !rest.empty();) {
      const std::size_t before = store().pending();
      const std::size_t taken = store().submit(rest, deadline_us);
      REQUIRE(taken <= rest.size());
      REQUIRE(store().pending() == before + taken);
      rest = rest.subspan(taken);
      idle = taken != 0 || (!rest.empty() && step()) ? 0 : idle + 1;
      REQUIRE(idle < 3'000);  // It takes nothing and completes nothing.
    }
    return first;
  }

  /// Polls once, and waits a little where there was nothing. @returns was there something?
  bool step(std::size_t at_most = 8) {
    store_completion done[64];
    const std::size_t before = store().pending();
    const std::size_t count =
        store().poll(std::span(done).first(std::min<std::size_t>(at_most, 64)));
    REQUIRE(count <= at_most);
    REQUIRE(store().pending() == before - count);
    for (const store_completion& c : std::span(done).first(count)) {
      complete(c);
    }
    if (count == 0 && !store().wait(subject_->now_us() + 10'000)) {
      subject_->advance(1'000);
    }
    return count != 0;
  }

  /// Until nothing is pending.
  void drain() {
    for (int idle = 0; store().pending() != 0; idle = step() ? 0 : idle + 1) {
      REQUIRE(idle < 3'000);  // An item never completes.
    }
    for (const auto& [number, t] : flights_) {
      REQUIRE(t.is_complete);
    }
  }

  /// Submits one item and waits for it.
  store_outcome run(law_transfer t, std::uint64_t deadline_us = oriel::no_deadline) {
    std::vector<law_transfer> one;
    one.push_back(std::move(t));
    return run_all(std::move(one), deadline_us).front();
  }

  /// Submits them together and waits for all. @returns outcomes, in order of the items
  std::vector<store_outcome> run_all(std::vector<law_transfer> transfers,
                                     std::uint64_t deadline_us = oriel::no_deadline) {
    const std::uint64_t first = submit(std::move(transfers), deadline_us);
    drain();
    std::vector<store_outcome> outcomes;
    for (std::uint64_t i = first; i < next_; ++i) {
      outcomes.push_back(flights_.at(i).completion.outcome);
    }
    forget();
    return outcomes;
  }

  /// The number of the first item from `number` on that is not complete.
  [[nodiscard]] std::uint64_t first_incomplete(std::uint64_t number) const {
    while (number < next_ && flights_.at(number).is_complete) {
      ++number;
    }
    return number;
  }
  [[nodiscard]] const law_transfer& transfer(std::uint64_t number) { return flights_.at(number); }

  /// Checks that what completed before `end` was left alone since, and lets go of it.
  void forget(std::uint64_t end = ~std::uint64_t{0}) {
    while (!flights_.empty() && flights_.begin()->first < end) {
      const law_transfer& t = flights_.begin()->second;
      REQUIRE(t.is_complete);
      REQUIRE(t.slices.is_all(scribble));
      REQUIRE(t.slices.is_guarded());
      flights_.erase(flights_.begin());
    }
  }

  std::uint64_t gets = 0, hits = 0, puts = 0, puts_done = 0;

 private:
  static constexpr std::byte scribble{0x5C};

  void complete(const store_completion& c) {
    const auto found = flights_.find(c.user);
    REQUIRE(found != flights_.end());  // It completes what it was given,
    law_transfer& t = found->second;
    REQUIRE(!t.is_complete);  // once,
    REQUIRE(c.op == t.item.op);
    t.is_complete = true;
    t.completion = c;
    const bool is_done = c.outcome == store_outcome::done;
    REQUIRE((c.native == 0 || !is_done));
    REQUIRE(t.slices.is_guarded());  // touches nothing beside the slices,
    if (c.op == store_op::get) {
      ++gets;
      hits += is_done;
      if (is_done) {  // and gives the bytes or none.
        REQUIRE(t.slices.equals(std::span(t.page->slices).subspan(t.item.first_slice)));
      }
    }
    if (c.op == store_op::put) {
      ++puts;
      puts_done += is_done;
      REQUIRE(t.slices.equals(t.page->slices));
    }
    if (is_done && (c.op == store_op::get || c.op == store_op::put)) {
      std::uint64_t bytes = 0;
      for (const auto& slice : t.slices.slices()) {
        bytes += slice.size();
      }
      // A put of what is there already moves nothing.
      REQUIRE((c.bytes == bytes || (c.op == store_op::put && c.bytes == 0)));
    }
    // All of it is the caller's again, who does what he likes with it.
    t.slices.fill(scribble);
    for (oriel::token_id& token : t.tokens) {
      token = oriel::token_id{0xDEAD};
    }
    t.identity = {};
  }

  Subject* subject_;
  std::map<std::uint64_t, law_transfer> flights_;
  std::uint64_t next_ = 1;
};

}  // namespace oriel_conformance
