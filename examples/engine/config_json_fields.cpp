// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/config_json_fields.hpp>
#include <engine/printable.hpp>

#include <unordered_set>
#include <utility>

namespace oriel::engine {
namespace {

constexpr const char* missing = "this key is missing";

std::string range_words(const char* kind, auto min, auto max) {
  return fmt::format("expected {} between {} and {}", kind, min, max);
}

}  // namespace

config_fields::config_fields(simdjson::dom::object object, std::string where, std::string prefix)
    : object_(object), where_(std::move(where)), prefix_(std::move(prefix)) {
  std::unordered_set<std::string_view> seen;
  for (const auto field : object_) {
    if (!seen.insert(field.key).second) {
      refuse(printable(field.key), "this key appears twice");
    }
  }
}

void config_fields::refuse(std::string_view key, std::string_view expected) const {
  throw error(fmt::format("{}: {}{}: {}", where_, prefix_, key, expected));
}

std::optional<simdjson::dom::element> config_fields::find(std::string_view key) const noexcept {
  simdjson::dom::element value;
  if (object_.at_key(key).get(value) != simdjson::SUCCESS || value.is_null()) {
    return {};
  }
  return value;
}

bool config_fields::has(std::string_view key) const noexcept {
  return find(key).has_value();
}

bool config_fields::states(std::string_view key) const noexcept {
  return object_.at_key(key).error() == simdjson::SUCCESS;
}

std::optional<std::uint32_t> config_fields::try_count(std::string_view key,
                                                      std::uint32_t min,
                                                      std::uint32_t max) const {
  const auto value = find(key);
  if (!value) {
    return {};
  }
  std::uint64_t n = 0;
  if (value->get(n) != simdjson::SUCCESS || n < min || n > max) {
    refuse(key, range_words("an integer", min, max));
  }
  return static_cast<std::uint32_t>(n);
}

std::uint32_t config_fields::count(std::string_view key, std::uint32_t max) const {
  const auto n = try_count(key, 1, max);
  return n ? *n : (refuse(key, missing), 0);
}

std::optional<double> config_fields::try_number(std::string_view key,
                                                double min,
                                                double max) const {
  const auto value = find(key);
  if (!value) {
    return {};
  }
  double x = 0;
  if (value->get(x) != simdjson::SUCCESS || !(x >= min && x <= max)) {
    refuse(key, range_words("a number", min, max));
  }
  return x;
}

double config_fields::number(std::string_view key, double min, double max) const {
  const auto x = try_number(key, min, max);
  return x ? *x : (refuse(key, missing), 0);
}

bool config_fields::flag(std::string_view key, bool otherwise) const {
  const auto value = find(key);
  if (value && value->get(otherwise) != simdjson::SUCCESS) {
    refuse(key, "expected true or false");
  }
  return otherwise;
}

std::optional<std::string> config_fields::try_text(std::string_view key) const {
  const auto value = find(key);
  if (!value) {
    return {};
  }
  std::string_view text;
  if (value->get(text) != simdjson::SUCCESS) {
    refuse(key, "expected a string");
  }
  return std::string(text);
}

std::optional<config_fields> config_fields::try_object(std::string_view key) const {
  const auto value = find(key);
  if (!value) {
    return {};
  }
  simdjson::dom::object object;
  if (value->get(object) != simdjson::SUCCESS) {
    refuse(key, "expected an object");
  }
  return config_fields(object, where_, fmt::format("{}{}.", prefix_, key));
}

simdjson::dom::array config_fields::array(std::string_view key,
                                          simdjson::dom::element value,
                                          std::size_t size) const {
  simdjson::dom::array array;
  if (value.get(array) != simdjson::SUCCESS || array.size() != size) {
    refuse(key, fmt::format("expected a list of {} entries, one per layer", size));
  }
  return array;
}

std::optional<std::vector<std::uint32_t>> config_fields::try_counts(std::string_view key,
                                                                    std::size_t size,
                                                                    std::uint32_t max) const {
  const auto value = find(key);
  if (!value) {
    return {};
  }
  std::vector<std::uint32_t> counts;
  for (const simdjson::dom::element entry : array(key, *value, size)) {
    std::uint64_t n = 0;
    if (entry.get(n) != simdjson::SUCCESS || n > max) {
      refuse(key, range_words("integers", 0, max));
    }
    counts.push_back(static_cast<std::uint32_t>(n));
  }
  return counts;
}

std::optional<std::vector<std::string>> config_fields::try_texts(std::string_view key,
                                                                 std::size_t size) const {
  const auto value = find(key);
  if (!value) {
    return {};
  }
  std::vector<std::string> texts;
  for (const simdjson::dom::element entry : array(key, *value, size)) {
    std::string_view text;
    if (entry.get(text) != simdjson::SUCCESS) {
      refuse(key, "expected strings");
    }
    texts.emplace_back(text);
  }
  return texts;
}

std::vector<std::uint32_t> config_fields::one_or_more(std::string_view key,
                                                      std::size_t size_max,
                                                      std::uint32_t max) const {
  const auto value = find(key);
  if (!value) {
    return {};
  }
  simdjson::dom::array list;
  if (value->get(list) != simdjson::SUCCESS) {
    return {*try_count(key, 0, max)};
  }
  if (list.size() > size_max) {
    refuse(key, fmt::format("expected at most {} entries", size_max));
  }
  return *try_counts(key, list.size(), max);
}

}  // namespace oriel::engine
