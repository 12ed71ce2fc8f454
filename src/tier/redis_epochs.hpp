// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a client knows of the epochs that make drops last (docs/redis.md#drops).
#pragma once

#include <oriel/tier/kv_store.hpp>

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::detail {

/// Whose epoch: a name space's, a tenant's, a session's.
struct redis_epoch_name {
  char kind = 's';  ///< s, t, o
  page_digest whose;

  friend auto operator<=>(const redis_epoch_name&, const redis_epoch_name&) noexcept = default;
  [[nodiscard]] std::string key(std::string_view prefix) const;
};

[[nodiscard]] std::array<redis_epoch_name, 3> redis_epoch_names(const page_digest& name_space,
                                                                page_owner owner);
/// The stamp that changes with every drop.
[[nodiscard]] std::string redis_stamp_key(std::string_view prefix);
/// Never 0, and never the same twice, on any machine.
[[nodiscard]] std::uint64_t redis_nonce();

/// A copy of epochs, good as long as the stamp is the one they were read under.
class redis_epochs {
 public:
  enum class answer : std::uint8_t { same, other, unknown };

  /// Does a record with this epoch still count, for an item that needs what check `check` knew?
  /// unknown: it was noted to be fetched.
  [[nodiscard]] answer compare(const redis_epoch_name& name,
                               std::uint64_t epoch,
                               std::uint64_t check);
  /// For a put: the epoch, or 0, and it was noted to be made and fetched.
  [[nodiscard]] std::uint64_t for_put(const redis_epoch_name& name);

  /// The stamp was read. Another one, or none: nothing we know counts any more.
  void hear_stamp(std::uint64_t stamp);
  /// A drop of our own, a lost connection.
  void forget();

  /// What to fetch next; it counts as being fetched until hear() or give_up().
  [[nodiscard]] const std::vector<redis_epoch_name>& begin_fetch(std::size_t most);
  [[nodiscard]] bool is_to_be_made(const redis_epoch_name& name) const;
  [[nodiscard]] bool wants_fetch() const noexcept { return fetching_.empty() && !wanted_.empty(); }
  [[nodiscard]] const std::vector<redis_epoch_name>& fetching() const noexcept { return fetching_; }
  /// @param values      [fetching()], 0: there is none
  /// @param check       the last check sent before the fetch
  /// @returns what was to be made and is not there: no put can have it
  [[nodiscard]] std::vector<redis_epoch_name> hear(const std::vector<std::uint64_t>& values,
                                                   std::uint64_t check);
  void give_up();

  [[nodiscard]] std::uint64_t stamp() const noexcept { return stamp_; }
  [[nodiscard]] std::size_t size() const noexcept { return known_.size(); }

 private:
  struct known {
    std::uint64_t epoch = 0, check = 0;
  };
  void want(const redis_epoch_name& name, bool is_made);

  std::map<redis_epoch_name, known> known_;
  std::set<redis_epoch_name> wanted_;
  std::set<redis_epoch_name> made_,
      making_;  ///< wanted, or being fetched, to be made where missing
  std::vector<redis_epoch_name> fetching_;
  std::uint64_t stamp_ = 0;  ///< 0: unknown
  bool is_stale_fetch_ = false;
};

}  // namespace oriel::detail
