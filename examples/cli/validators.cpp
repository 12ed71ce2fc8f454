// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "parsed.hpp"
#include "validators.hpp"

#include <oriel/model/presets.hpp>
#include <oriel/request/sampling_options.hpp>
#include <oriel/tier/redis_store.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace oriel::cli {
namespace {

/// "name:N" with N > 0 as N, or nothing.
std::optional<std::uint32_t> parsed_after(std::string_view name, std::string_view text) {
  if (!text.starts_with(name) || !text.substr(name.size()).starts_with(':')) {
    return std::nullopt;
  }
  const auto value = parsed<std::uint32_t>(text.substr(name.size() + 1));
  return value && *value != 0 ? value : std::nullopt;
}

/// "1M", "64GiB", "5000", or nothing.
std::optional<replay::level_size> parse_level(std::string_view text) {
  constexpr double tokens_max = 1099511627776.0, gib_max = 65'536.0, bytes_of_gib = 1073741824.0;
  struct unit {
    std::string_view name;
    double factor;
  };
  const bool is_bytes = text.ends_with("GiB");
  double factor = 1;
  for (const unit& u : {unit{"GiB", 1}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}}) {
    if (text.ends_with(u.name)) {
      factor = u.factor;
      text.remove_suffix(u.name.size());
      break;
    }
  }
  const auto number = parsed<double>(text);
  if (!number || !(*number > 0) || *number * factor > (is_bytes ? gib_max : tokens_max)) {
    return std::nullopt;
  }
  const auto size = static_cast<std::uint64_t>(*number * factor * (is_bytes ? bytes_of_gib : 1));
  if (size == 0) {
    return std::nullopt;
  }
  return is_bytes ? replay::level_size{.bytes = size} : replay::level_size{.tokens = size};
}

}  // namespace

CLI::Validator whole_number(std::uint64_t least, std::uint64_t most, std::uint64_t step) {
  const std::string range = step == 1
                                ? fmt::format("a whole number in [{}, {}]", least, most)
                                : fmt::format("a multiple of {} in [{}, {}]", step, least, most);
  const auto check = [=](std::string& text) -> std::string {
    const auto value = parsed<std::uint64_t>(text);
    if (!value || *value < least || *value > most || *value % step != 0) {
      return fmt::format("'{}' is not {}", text, range);
    }
    text = fmt::format("{}", *value);
    return {};
  };
  return CLI::Validator{check, ""};
}

CLI::Validator number(double least, double most, bool zero) {
  const auto check = [=](std::string& text) -> std::string {
    const auto value = parsed<double>(text);
    // Written so that a NaN fails. An option may be a float, in which a tiny number is 0.
    const bool fits =
        value && *value >= least && *value <= most && (zero || static_cast<float>(*value) != 0.0f);
    return fits ? ""
                : fmt::format(
                      "'{}' is not a number in {}{}, {}]", text, zero ? '[' : '(', least, most);
  };
  return CLI::Validator{check, ""};
}

CLI::Validator some_text(std::size_t bytes_max) {
  const auto check = [=](std::string& text) -> std::string {
    if (text.empty()) {
      return "the text is empty";
    }
    return text.size() <= bytes_max
               ? ""
               : fmt::format("the text has {} bytes, {} are allowed", text.size(), bytes_max);
  };
  return CLI::Validator{check, ""};
}

CLI::Validator redis_server() {
  const auto check = [](std::string& url) -> std::string {
    const auto parsed = parse_redis_url(url);
    return parsed ? "" : fmt::format("{}: {}", url, parsed.error().detail);
  };
  return CLI::Validator{check, ""};
}

CLI::Validator hex_digits(std::size_t least, std::size_t most) {
  const auto check = [=](std::string& text) -> std::string {
    const bool fits = text.size() >= least && text.size() <= most &&
                      text.find_first_not_of("0123456789abcdef") == std::string::npos;
    return fits ? ""
                : fmt::format("'{}' is not {} to {} hex digits in lower case", text, least, most);
  };
  return CLI::Validator{check, ""};
}

CLI::Validator preset_name() {
  const auto check = [](std::string& name) -> std::string {
    return preset(name) ? ""
                        : fmt::format("no preset '{}': the known ones are {}",
                                      name,
                                      fmt::join(preset_names(), ", "));
  };
  return CLI::Validator{check, ""};
}

CLI::Validator token_ids() {
  const auto check = [](std::string& text) -> std::string {
    return parse_ids(text) ? "" : fmt::format("'{}' is not a list of token ids: 1,2,3", text);
  };
  return CLI::Validator{check, ""};
}

CLI::Validator token_biases() {
  const auto check = [](std::string& text) -> std::string {
    return parse_biases(text)
               ? ""
               : fmt::format(
                     "'{}' is not a list of biases: ID:BIAS or ID:never, with commas between; BIAS "
                     "is a number from -100 to 100; at most {} of them",
                     text,
                     logit_biases_max);
  };
  return CLI::Validator{check, ""};
}

CLI::Validator retention() {
  const auto check = [](std::string& text) -> std::string {
    return parse_retain(text) ? ""
                              : fmt::format(
                                    "'{}' is not a retention: tail, every:N, branch, "
                                    "dense:N, or some of them with commas between",
                                    text);
  };
  return CLI::Validator{check, ""};
}

CLI::Validator levels() {
  const auto check = [](std::string& text) -> std::string {
    return parse_levels(text)
               ? ""
               : fmt::format(
                     "'{}' does not say device=SIZE, and host=SIZE, disk=SIZE or both, once each, "
                     "with commas between; SIZE is tokens (5000, 500k, 1.5M, 1G; up to 2^40) or "
                     "memory (64GiB; up to 65536GiB). For a device alone there are "
                     "--capacity-tokens and "
                     "--capacity-gib",
                     text);
  };
  return CLI::Validator{check, ""};
}

std::optional<cache_levels> parse_levels(std::string_view text) {
  cache_levels made;
  for (;;) {
    const std::size_t comma = text.find(',');
    const std::string_view one = text.substr(0, comma);
    const std::size_t equals = one.find('=');
    const std::string_view name = one.substr(0, equals);
    replay::level_size* const level = name == "device" ? &made.device
                                      : name == "host" ? &made.host
                                      : name == "disk" ? &made.disk
                                                       : nullptr;
    const auto size =
        equals == std::string_view::npos ? std::nullopt : parse_level(one.substr(equals + 1));
    if (level == nullptr || level->is_given() || !size) {
      return std::nullopt;
    }
    *level = *size;
    if (comma == std::string_view::npos) {
      const bool has_tier = made.host.is_given() || made.disk.is_given();
      return made.device.is_given() && has_tier ? std::optional{made} : std::nullopt;
    }
    text.remove_prefix(comma + 1);
  }
}

std::optional<std::vector<std::uint32_t>> parse_ids(std::string_view text) {
  std::vector<std::uint32_t> ids;
  for (;;) {
    const std::size_t comma = text.find(',');
    std::string_view one = text.substr(0, comma);
    one.remove_prefix(std::min(one.find_first_not_of(' '), one.size()));
    one = one.substr(0, one.find_last_not_of(' ') + 1);
    const auto id = parsed<std::uint32_t>(one);
    if (!id) {
      return std::nullopt;
    }
    ids.push_back(*id);
    if (comma == std::string_view::npos) {
      return ids;
    }
    text.remove_prefix(comma + 1);
  }
}

std::optional<std::vector<token_bias>> parse_biases(std::string_view text) {
  std::vector<token_bias> biases;
  for (;;) {
    const std::size_t comma = text.find(','), colon = text.find(':');
    if (colon == std::string_view::npos || colon > comma || biases.size() == logit_biases_max) {
      return std::nullopt;
    }
    const auto id = parsed<std::uint32_t>(text.substr(0, colon));
    const std::string_view value = text.substr(0, comma).substr(colon + 1);
    const auto bias = value == "never" ? -std::numeric_limits<float>::infinity()
                                       : parsed<float>(value).value_or(1e9f);
    if (!id || (value != "never" && !(bias >= -100.0f && bias <= 100.0f))) {
      return std::nullopt;
    }
    biases.push_back({.id = token_id{*id}, .bias = bias});
    if (comma == std::string_view::npos) {
      return biases;
    }
    text.remove_prefix(comma + 1);
  }
}

std::optional<replay::retain_choice> parse_retain(std::string_view text) {
  replay::retain_choice retain{.branch_points = false};
  for (;;) {
    const std::size_t comma = text.find(',');
    const std::string_view one = text.substr(0, comma);
    if (const auto every = parsed_after("every", one); every && retain.every_tokens == 0) {
      retain.every_tokens = *every;
    } else if (const auto dense = parsed_after("dense", one);
               dense && retain.dense_head_tokens == 0) {
      retain.dense_head_tokens = *dense;
    } else if (one == "branch") {
      retain.branch_points = true;
    } else if (one != "tail") {
      return std::nullopt;
    }
    if (comma == std::string_view::npos) {
      return retain;
    }
    text.remove_prefix(comma + 1);
  }
}

std::string wrong_retention(const replay::retain_choice& retain, std::uint64_t page_tokens) {
  return retain.every_tokens % page_tokens == 0
             ? ""
             : fmt::format("every:{} is not a multiple of the {} tokens of a page",
                           retain.every_tokens,
                           page_tokens);
}

}  // namespace oriel::cli
