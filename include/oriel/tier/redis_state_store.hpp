// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `redis_state_store`: the shared state of routers and workers in Redis 7 or Valkey: a stream of
/// bounded length, and leases. docs/routing.md has the keys and what happens when it breaks.
///
///     redis_state_store log({.redis = {.url = "redis://127.0.0.1:6379/0"}, .name = "log"});
#pragma once

#include <oriel/route/state_store.hpp>
#include <oriel/tier/redis_store.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace oriel {

struct redis_state_options {
  /// URL, TLS, prefix of keys, timeouts and back-off; what concerns pages is not used.
  redis_options redis = {.key_prefix = "oriel:route:"};
  std::string name = "log";  ///< of the stream, after the prefix
  /// Entries that the stream keeps, about; one entry has what was appended between two polls, up to
  /// 128 KiB. > 0
  std::uint32_t entries_max = 65'536;
  std::size_t pending_bytes_max = 8u << 20;  ///< not sent yet; more is dropped
  bool reads = true;                         ///< else poll() sends, and gives nothing
  double read_every_s = 0.002;               ///< how often it is asked for more when there was none
};

/// One participant, with a connection of its own.
///
///  - Records that were on their way when a connection broke are dropped and counted: sent again
///    they could come twice.
///  - A server that fails is left alone and tried now and then (redis_options: back-off); appends
///    wait meanwhile, up to pending_bytes_max.
///  - A stream that is younger than what was read of it is another one: it is read from its start.
///  - `stored_s` is the server's time of the entry, set by the caller's clock as of the last TIME.
///
/// *Thread safety* one thread at a time. Nothing blocks but the look-up of a host that is a name.
/// *Memory* what is pending, one reply of at most 4 MiB.
class redis_state_store {
 public:
  /// Connects at the first poll.
  /// @throws std::invalid_argument  for a URL that is none, a cluster, or an empty name
  /// @throws std::runtime_error     for a CA file that OpenSSL cannot read
  explicit redis_state_store(redis_state_options options);
  ~redis_state_store();
  redis_state_store(redis_state_store&&) noexcept;
  redis_state_store& operator=(redis_state_store&&) noexcept;

  bool append(std::span<const std::byte> bytes, double now_s);
  void poll(std::vector<state_record>& records, double now_s);
  bool hold(std::string_view name, double ttl_s, double now_s);
  void release(std::string_view name, double now_s);
  [[nodiscard]] state_status status() const;
  [[nodiscard]] store_fault last_fault() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

static_assert(state_store<redis_state_store>);

}  // namespace oriel
