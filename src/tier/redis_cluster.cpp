// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "redis_cluster.hpp"

#include <charconv>

namespace oriel::detail {
namespace {

bool read_u16(std::string_view text, std::uint16_t& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return !text.empty() && error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::uint16_t redis_slot(std::string_view key) noexcept {
  if (const std::size_t open = key.find('{'); open != std::string_view::npos) {
    const std::size_t close = key.find('}', open + 1);
    if (close != std::string_view::npos && close > open + 1) {
      key = key.substr(open + 1, close - open - 1);
    }
  }
  std::uint16_t crc = 0;
  for (const char c : key) {
    crc = static_cast<std::uint16_t>(crc ^ (static_cast<unsigned char>(c) << 8));
    for (int bit = 0; bit < 8; ++bit) {
      crc = static_cast<std::uint16_t>((crc << 1) ^ ((crc & 0x8000) != 0 ? 0x1021 : 0));
    }
  }
  return static_cast<std::uint16_t>(crc % redis_slots);
}

std::optional<redis_redirect> parse_redis_redirect(std::string_view error) {
  redis_redirect r;
  if (error.starts_with("MOVED ")) {
    error.remove_prefix(6);
  } else if (error.starts_with("ASK ")) {
    r.is_ask = true;
    error.remove_prefix(4);
  } else {
    return std::nullopt;
  }
  const std::size_t space = error.find(' ');
  const std::size_t colon = error.rfind(':');
  if (space == std::string_view::npos || colon == std::string_view::npos || colon < space ||
      !read_u16(error.substr(0, space), r.slot) || r.slot >= redis_slots ||
      !read_u16(error.substr(colon + 1), r.port) || r.port == 0) {
    return std::nullopt;
  }
  r.host = error.substr(space + 1, colon - space - 1);
  return r;
}

std::optional<std::vector<redis_slot_range>> parse_redis_slots(const resp_value& reply) {
  if (reply.type != '*') {
    return std::nullopt;
  }
  std::vector<redis_slot_range> ranges;
  for (const resp_value& row : reply.items) {
    // [first, last, [host, port, id, ...], replicas...]
    if (row.items.size() < 3 || row.items[2].items.size() < 2) {
      return std::nullopt;
    }
    const std::int64_t first = row.items[0].number, last = row.items[1].number;
    const resp_value &host = row.items[2].items[0], &port = row.items[2].items[1];
    if (row.items[0].type != ':' || row.items[1].type != ':' || port.type != ':' || first < 0 ||
        last < first || last >= redis_slots || port.number < 1 || port.number > 65535) {
      return std::nullopt;
    }
    ranges.push_back({.first = static_cast<std::uint16_t>(first),
                      .last = static_cast<std::uint16_t>(last),
                      .host = host.text == "?" ? std::string() : host.text,
                      .port = static_cast<std::uint16_t>(port.number)});
  }
  return ranges;
}

}  // namespace oriel::detail
