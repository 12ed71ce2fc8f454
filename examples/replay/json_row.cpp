// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <replay/json_row.hpp>
#include <replay/read_trace.hpp>

#include <cmath>

namespace oriel::replay {
namespace dom = simdjson::dom;

dom::object parse_line(dom::parser& parser, std::string_view line, std::string_view place) {
  dom::element root;
  if (const auto failed = parser.parse(line.data(), line.size()).get(root)) {
    throw trace_error(fmt::format(
        "{}: not valid JSON ({}): a trace has one object per line; the line may be cut off",
        place,
        simdjson::error_message(failed)));
  }
  dom::object object;
  if (root.get(object) != simdjson::SUCCESS) {
    throw trace_error(fmt::format("{}: expected a JSON object, not {}", place, shown(root)));
  }
  return object;
}

std::string shown(dom::element value) {
  switch (value.type()) {
    case dom::element_type::INT64:
      return fmt::format("{}", std::int64_t{value});
    case dom::element_type::UINT64:
      return fmt::format("{}", std::uint64_t{value});
    case dom::element_type::DOUBLE:
      return fmt::format("{}", double{value});
    case dom::element_type::STRING:
      return "a string";
    case dom::element_type::ARRAY:
      return "an array";
    case dom::element_type::OBJECT:
      return "an object";
    case dom::element_type::BOOL:
      return bool{value} ? "true" : "false";
    case dom::element_type::NULL_VALUE:
      return "null";
  }
  return "something else";
}

bool json_row::has(std::string_view key) const noexcept {
  return object_[key].error() == simdjson::SUCCESS;
}

std::uint32_t json_row::count(std::string_view key, std::uint32_t min, std::uint32_t max) const {
  const dom::element value = at(key);
  std::uint64_t number = 0;
  if (value.get(number) != simdjson::SUCCESS || number < min || number > max) {
    refuse(key, fmt::format("expected a whole number in [{}, {}], not {}", min, max, shown(value)));
  }
  return static_cast<std::uint32_t>(number);
}

double json_row::number(std::string_view key, double max) const {
  const dom::element value = at(key);
  double number = 0;
  // Written so that a NaN fails.
  if (value.get(number) != simdjson::SUCCESS || !(number >= 0 && number <= max)) {
    refuse(key, fmt::format("expected a number in [0, {}], not {}", max, shown(value)));
  }
  return number;
}

std::optional<std::string_view> json_row::try_text(std::string_view key) const {
  return has(key) ? std::optional{text(key)} : std::nullopt;
}

std::string_view json_row::text(std::string_view key) const {
  const dom::element value = at(key);
  std::string_view text;
  if (value.get(text) != simdjson::SUCCESS) {
    refuse(key, "expected a string, not " + shown(value));
  }
  return text;
}

dom::array json_row::array(std::string_view key) const {
  const dom::element value = at(key);
  dom::array array;
  if (value.get(array) != simdjson::SUCCESS) {
    refuse(key, "expected an array, not " + shown(value));
  }
  return array;
}

void json_row::refuse(std::string_view key, std::string_view complaint) const {
  throw trace_error(fmt::format("{}: {}{}: {}", place_, path_, key, complaint));
}

dom::element json_row::at(std::string_view key) const {
  dom::element value;
  if (object_[key].get(value) != simdjson::SUCCESS) {
    refuse(key, "the key is missing");
  }
  return value;
}

}  // namespace oriel::replay
