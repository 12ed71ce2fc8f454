// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `embedded_state_store`: the shared state of routers and workers of one process.
///
///     embedded_log log(4096);
///     embedded_state_store one(log), other(log);     // a thread may have each
#pragma once

#include <oriel/route/state_store.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace oriel {

/// *Thread safety* any thread; one lock. *Memory* the last `records_max` records.
class embedded_log {
 public:
  /// @pre records_max > 0
  explicit embedded_log(std::size_t records_max);
  ~embedded_log();
  embedded_log(const embedded_log&) = delete;
  embedded_log& operator=(const embedded_log&) = delete;

 private:
  friend class embedded_state_store;
  struct state;
  std::unique_ptr<state> state_;
};

/// One participant. The clock of all is one.
class embedded_state_store {
 public:
  /// `log` outlives it.
  explicit embedded_state_store(embedded_log& log);

  bool append(std::span<const std::byte> bytes, double now_s);
  void poll(std::vector<state_record>& records, double now_s);
  bool hold(std::string_view name, double ttl_s, double now_s);
  void release(std::string_view name, double now_s);
  [[nodiscard]] state_status status() const noexcept { return status_; }

 private:
  embedded_log::state& log_;
  std::uint64_t self_;
  std::uint64_t next_ = 0;  // number of the record to read
  state_status status_{.is_connected = true};
};

static_assert(state_store<embedded_state_store>);

}  // namespace oriel
