// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `redis_store`: a tier in Redis 7, Valkey, or a Redis Cluster. docs/redis.md has the keys, what
/// is promised, and what is not.
///
///     redis_store store({.url = "rediss://oriel:secret@cache.internal:6380/0"});
///     store.submit(items, store.now_us() + 20'000);
///     ... store.poll(done) ...
///
/// Replies are read into the caller's slices; what is checked before they are handed out: the reply
/// belongs to the command, the record to the key, the namespace, the tokens and the layout, each
/// slice to its CRC-32C, and nobody dropped its namespace, tenant or session since it was put.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/tier/kv_store.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace oriel {

/// Where a server is and who we are to it.
struct redis_url {
  bool is_tls = false;        ///< rediss://
  std::string user = {};      ///< empty: "default"
  std::string password = {};  ///< empty: no AUTH
  std::string host = {};      ///< a name or a numeric address, IPv6 without its brackets
  std::uint16_t port = 6379;
  std::uint32_t database = 0;

  friend bool operator==(const redis_url&, const redis_url&) = default;
};

/// Reads `redis[s]://[[user]:password@]host[:port][/database]`; user and password may be
/// percent-encoded. O(length).
/// @returns errc::invalid_argument, and in `detail` which part is wrong and what it should be
[[nodiscard]] result<redis_url> parse_redis_url(std::string_view text);

struct redis_options {
  std::string url = "redis://127.0.0.1:6379/0";
  std::string key_prefix = "oriel:";  ///< of every key; at most 128 bytes
  bool is_cluster = false;            ///< the URL names one node of a Redis Cluster
  std::string ca_file = {};           ///< PEM of the authorities to trust; empty: the system's
  bool verifies_certificate = true;   ///< of rediss://: chain and host name
  std::uint32_t connections = 1;      ///< to each node, in [1, 64]; a key always takes the same one

  std::uint32_t queue_items_max = 1024;           ///< items not polled yet, in [1, 65536]
  std::uint32_t in_flight_commands_max = 256;     ///< sent and not answered, in [1, 65536]
  std::uint64_t in_flight_bytes_max = 64u << 20;  ///< of pages, but never less than one page
  std::uint64_t record_bytes_max = 256u << 20;    ///< a longer value breaks the connection

  std::uint64_t connect_timeout_us = 1'000'000;  ///< until the server has greeted us
  /// A connection that owes us a reply and sends nothing for so long is given up; so no item waits
  /// for ever, deadline or not.
  std::uint64_t silence_timeout_us = 5'000'000;
  std::uint32_t failures_to_open = 3;        ///< connections lost in a row, in [1, 1000]
  std::uint32_t lates_to_open = 16;          ///< deadlines missed in a row, in [1, 1000000]
  std::uint64_t backoff_min_us = 20'000;     ///< between the first two tries to connect
  std::uint64_t backoff_max_us = 5'000'000;  ///< between later ones; each doubles, less up to half
  std::uint64_t seed = 0;                    ///< of that half

  /// Steady microseconds; null: CLOCK_MONOTONIC. Deadlines and expiries are by this clock.
  std::uint64_t (*now_us)(void* clock) = nullptr;
  void* clock = nullptr;
};

/// A `kv_store` over RESP (RESP3 where the server speaks it).
///
///  - `done` of a put: the server has it in memory. Whether that survives the server is a matter of
///    its configuration, so `sync` is refused. `erase` and drops last as long as the server keeps
///    what it acknowledged, and longer: an epoch that is lost takes its pages along.
///  - A drop is one MSET of two small keys, whatever the number of pages: O(1).
///  - `late` means that the deadline passed: the slices are the caller's from then on; what still
///    arrives for them goes nowhere.
///  - A server that fails again and again is left alone: items are refused at once (health
///    `degraded`) while the store tries to connect now and then; poll() drives that.
///  - `pages`, `used_bytes`, `capacity_bytes` and evictions are the server's and stay 0 in stats().
///
/// *Thread safety* one thread at a time. Nothing blocks but wait(), and the look-up of a host that
/// is a name, which happens in poll(), submit() or wait() when a connection is made. *Memory* items
/// and commands are allocated at construction; a reply's size never decides what is allocated.
class redis_store {
 public:
  /// Connects at the first item, so a server that is down is no reason to fail.
  /// @throws std::invalid_argument  for a URL or an option out of its range
  /// @throws std::runtime_error     for a CA file that OpenSSL cannot read
  explicit redis_store(redis_options options);
  ~redis_store();
  redis_store(const redis_store&) = delete;
  redis_store& operator=(const redis_store&) = delete;

  /// The store's clock, microseconds.
  [[nodiscard]] std::uint64_t now_us() const;

  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us);
  std::size_t poll(std::span<store_completion> done);
  bool wait(std::uint64_t until_us);
  [[nodiscard]] std::size_t pending() const;
  [[nodiscard]] store_stats stats() const;
  [[nodiscard]] store_fault last_fault() const;

 private:
  struct state;
  state* state_;
};

static_assert(kv_store<redis_store>);

}  // namespace oriel
