// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `config_fields`: one JSON object, read key by key. Every complaint names the file, the key and
/// what was expected. Included by .cpp files alone: it needs simdjson.
#pragma once

#include <engine/error.hpp>
#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <simdjson.h>

namespace oriel::engine {

class config_fields {
 public:
  /// `prefix` is the path to the object, with a trailing dot, or empty.
  /// @throws error when a key is there twice
  config_fields(simdjson::dom::object object, std::string where, std::string prefix);

  /// Present and not null.
  [[nodiscard]] bool has(std::string_view key) const noexcept;

  /// Present, perhaps null.
  [[nodiscard]] bool states(std::string_view key) const noexcept;

  /// An integer in [min, max]; null counts as absent.
  [[nodiscard]] std::optional<std::uint32_t> try_count(std::string_view key,
                                                       std::uint32_t min,
                                                       std::uint32_t max) const;
  [[nodiscard]] std::uint32_t count(std::string_view key, std::uint32_t max) const;
  /// A finite number in [min, max].
  [[nodiscard]] std::optional<double> try_number(std::string_view key,
                                                 double min,
                                                 double max) const;
  [[nodiscard]] double number(std::string_view key, double min, double max) const;
  [[nodiscard]] bool flag(std::string_view key, bool otherwise) const;
  [[nodiscard]] std::optional<std::string> try_text(std::string_view key) const;
  [[nodiscard]] std::optional<config_fields> try_object(std::string_view key) const;
  /// Exactly `size` integers in [0, max], or none when absent.
  [[nodiscard]] std::optional<std::vector<std::uint32_t>> try_counts(std::string_view key,
                                                                     std::size_t size,
                                                                     std::uint32_t max) const;
  /// Exactly `size` strings, or none when absent.
  [[nodiscard]] std::optional<std::vector<std::string>> try_texts(std::string_view key,
                                                                  std::size_t size) const;
  /// One integer or a list of at most `size_max`; empty when absent.
  [[nodiscard]] std::vector<std::uint32_t> one_or_more(std::string_view key,
                                                       std::size_t size_max,
                                                       std::uint32_t max) const;

  /// @throws error "FILE: KEY: EXPECTED"
  [[noreturn]] void refuse(std::string_view key, std::string_view expected) const;

 private:
  [[nodiscard]] std::optional<simdjson::dom::element> find(std::string_view key) const noexcept;
  [[nodiscard]] simdjson::dom::array array(std::string_view key,
                                           simdjson::dom::element value,
                                           std::size_t size) const;

  simdjson::dom::object object_;
  std::string where_;
  std::string prefix_;
};

}  // namespace oriel::engine
