// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `json_row`: one JSON object of a trace, read key by key. Every complaint names the line, the
/// key and what was expected. Included by .cpp files alone: it needs simdjson.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <simdjson.h>

namespace oriel::replay {

/// The object that a line holds; `parser` owns what it refers to. @throws trace_error
[[nodiscard]] simdjson::dom::object parse_line(simdjson::dom::parser& parser,
                                               std::string_view line,
                                               std::string_view place);

class json_row {
 public:
  /// `place` is the line, `path` what leads to the object in it ("requests[3]."). Both must outlive
  /// the row.
  json_row(simdjson::dom::object object, std::string_view place, std::string_view path)
      : object_(object), place_(place), path_(path) {}

  [[nodiscard]] bool has(std::string_view key) const noexcept;

  /// A whole number in [min, max].
  [[nodiscard]] std::uint32_t count(std::string_view key,
                                    std::uint32_t min,
                                    std::uint32_t max) const;
  /// A number in [0, max].
  [[nodiscard]] double number(std::string_view key, double max) const;
  [[nodiscard]] std::string_view text(std::string_view key) const;
  /// Nothing if the key is absent.
  [[nodiscard]] std::optional<std::string_view> try_text(std::string_view key) const;
  [[nodiscard]] simdjson::dom::array array(std::string_view key) const;

  /// @throws trace_error "FILE:LINE: PATH KEY: COMPLAINT"
  [[noreturn]] void refuse(std::string_view key, std::string_view complaint) const;

 private:
  [[nodiscard]] simdjson::dom::element at(std::string_view key) const;

  simdjson::dom::object object_;
  std::string_view place_;
  std::string_view path_;
};

/// A value as a message may show it: a number, or what kind of thing it is.
[[nodiscard]] std::string shown(simdjson::dom::element value);

}  // namespace oriel::replay
