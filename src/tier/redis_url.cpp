// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/redis_store.hpp>

#include <charconv>
#include <optional>

namespace oriel {
namespace {

failure wrong(const char* why) {
  return {.code = errc::invalid_argument, .detail = why};
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

std::optional<std::string> percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size() || hex_digit(text[i + 1]) < 0 || hex_digit(text[i + 2]) < 0) {
      return std::nullopt;
    }
    out.push_back(static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2])));
    i += 2;
  }
  return out;
}

template <class Number>
bool read_number(std::string_view text, Number& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

// "host", "host:port", "[::1]:port". Null: fine.
const char* read_address(std::string_view text, redis_url& url) {
  std::string_view port;
  bool has_port = false;
  if (text.starts_with('[')) {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) {
      return "URL: an IPv6 address needs its closing bracket";
    }
    url.host = text.substr(1, close - 1);
    text.remove_prefix(close + 1);
    if (!text.empty() && text.front() != ':') {
      return "URL: after [address] only :port may follow";
    }
    has_port = !text.empty();
    port = has_port ? text.substr(1) : text;
  } else {
    const std::size_t colon = text.find(':');
    has_port = colon != std::string_view::npos;
    url.host = text.substr(0, colon);
    port = has_port ? text.substr(colon + 1) : std::string_view();
  }
  if (url.host.empty() || url.host.size() > 253) {
    return "URL: the host is missing or longer than 253 bytes";
  }
  for (const char c : url.host) {
    if (c <= ' ' || c == 0x7F) {
      return "URL: a host has no spaces and no control characters";
    }
  }
  if (has_port && (!read_number(port, url.port) || url.port == 0)) {
    return "URL: the port must be a number in [1, 65535]";
  }
  return nullptr;
}

}  // namespace

result<redis_url> parse_redis_url(std::string_view text) {
  redis_url url;
  if (text.starts_with("rediss://")) {
    url.is_tls = true;
    text.remove_prefix(9);
  } else if (text.starts_with("redis://")) {
    text.remove_prefix(8);
  } else {
    return wrong("URL: must begin with redis:// or rediss://");
  }
  const std::size_t slash = text.find('/');
  std::string_view authority = text.substr(0, slash);
  if (slash != std::string_view::npos) {
    const std::string_view path = text.substr(slash + 1);
    if (!path.empty() && !read_number(path, url.database)) {
      return wrong("URL: what follows the host must be /database, a number");
    }
  }
  if (const std::size_t at = authority.rfind('@'); at != std::string_view::npos) {
    const std::string_view who = authority.substr(0, at);
    authority.remove_prefix(at + 1);
    const std::size_t colon = who.find(':');
    if (colon == std::string_view::npos) {
      return wrong("URL: before @ goes user:password, or :password");
    }
    const auto user = percent_decoded(who.substr(0, colon));
    const auto password = percent_decoded(who.substr(colon + 1));
    if (!user || !password) {
      return wrong("URL: a % in user or password needs two hexadecimal digits");
    }
    if (password->empty()) {
      return wrong("URL: the password before @ is empty");
    }
    url.user = *user;
    url.password = *password;
  }
  if (const char* why = read_address(authority, url); why != nullptr) {
    return wrong(why);
  }
  return url;
}

}  // namespace oriel
