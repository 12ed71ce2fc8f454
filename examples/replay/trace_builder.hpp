// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `trace_builder`: puts the requests of a file together, whatever its format.
#pragma once

#include <replay/json_row.hpp>
#include <replay/read_trace.hpp>

#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace oriel::replay {

/// Gives hash ids numbers in the order in which they first appear.
class page_numbers {
 public:
  /// Ids seen before mean other pages from now on. O(largest small id).
  void begin_namespace() {
    small_.clear();
    large_.clear();
  }

  /// The number of an id. O(1).
  [[nodiscard]] std::uint32_t number(std::uint64_t hash_id) {
    if (hash_id >= small_ids_max) {
      const auto [place, added] = large_.try_emplace(hash_id, count_);
      count_ += added ? 1 : 0;
      return place->second;
    }
    if (hash_id >= small_.size()) {
      small_.resize(hash_id + 1, none);
    }
    std::uint32_t& number = small_[hash_id];
    if (number == none) {
      number = count_++;
    }
    return number;
  }

  /// Numbers given, over all namespaces.
  [[nodiscard]] std::uint32_t count() const noexcept { return count_; }

 private:
  static constexpr std::uint32_t none = 0xFFFF'FFFFu;
  static constexpr std::uint64_t small_ids_max = std::uint64_t{1} << 22;

  std::vector<std::uint32_t> small_;  // [hash id]
  std::unordered_map<std::uint64_t, std::uint32_t> large_;
  std::uint32_t count_ = 0;
};

class trace_builder {
 public:
  explicit trace_builder(const trace_limits& limits) : limits_(limits) {}

  [[nodiscard]] const trace_limits& limits() const noexcept { return limits_; }

  /// The page size of all that follows. @throws trace_error at `row` if it was another before
  void set_page_tokens(std::uint32_t tokens, const json_row& row, std::string_view key);

  /// Hash ids compare only with those of requests added since. Counts the namespaces.
  void begin_namespace();

  /// A session; requests added since belong to it.
  void begin_session(std::string_view id, double start_s);

  /// A request whose row has `hash_ids`, at `arrival_s`, that waits for others that were added; the
  /// row's other facts are in `request`. @returns its number
  std::uint32_t add(trace_request request,
                    double arrival_s,
                    std::span<const std::uint32_t> waits,
                    const json_row& row,
                    std::string_view input_key);

  /// All that was added, by arrival. The builder is empty then.
  [[nodiscard]] trace finish();

 private:
  void add_pages(trace_request& request, const json_row& row, std::string_view input_key);

  trace_limits limits_;
  trace built_;
  std::vector<double> arrivals_s_;  // [requests]: the order is by these, before rounding.
  page_numbers numbers_;
  std::uint32_t namespaces_ = 0;
};

}  // namespace oriel::replay
