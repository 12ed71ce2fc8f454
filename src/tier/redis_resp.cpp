// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "redis_resp.hpp"

#include <algorithm>
#include <charconv>

namespace oriel::detail {
namespace {

bool read_integer(std::string_view text, std::int64_t& out) {
  if (text.starts_with('+')) {
    text.remove_prefix(1);
    if (text.starts_with('-')) {
      return false;
    }
  }
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return !text.empty() && error == std::errc() && end == text.data() + text.size();
}

}  // namespace

resp_step parse_resp_head(std::string_view in, std::size_t& used, resp_head& out) {
  if (in.empty()) {
    return resp_step::need_more;
  }
  constexpr std::string_view types = "+-:$*_#,(!=%~>";
  if (types.find(in.front()) == std::string_view::npos) {
    return resp_step::malformed;
  }
  const std::size_t end = in.substr(0, resp_line_bytes_max).find('\r');
  if (end == std::string_view::npos) {
    return in.size() >= resp_line_bytes_max ? resp_step::malformed : resp_step::need_more;
  }
  if (in.substr(1, end - 1).find('\n') != std::string_view::npos) {
    return resp_step::malformed;
  }
  if (in.size() < end + 2) {
    return resp_step::need_more;
  }
  if (in[end + 1] != '\n') {
    return resp_step::malformed;
  }
  used = end + 2;
  out = {.type = in.front(), .number = 0, .text = in.substr(1, end - 1)};
  switch (out.type) {
    case ':':
      return read_integer(out.text, out.number) ? resp_step::ok : resp_step::malformed;
    case '$':
    case '*':
      if (out.text == "-1") {
        out.number = -1;
        return resp_step::ok;
      }
      [[fallthrough]];
    case '!':
    case '=':
    case '%':
    case '~':
    case '>':
      return read_integer(out.text, out.number) && out.number >= 0 && out.text[0] != '-'
                 ? resp_step::ok
                 : resp_step::malformed;
    case '_':
      return out.text.empty() ? resp_step::ok : resp_step::malformed;
    case '#':
      out.number = out.text == "t" ? 1 : 0;
      return out.text == "t" || out.text == "f" ? resp_step::ok : resp_step::malformed;
    default:
      return resp_step::ok;
  }
}

resp_step resp_reader::feed(std::string_view in, std::size_t& used) {
  used = 0;
  for (;;) {
    if (is_in_text_) {
      // The last two of text_left_ are the line end.
      const std::size_t body = text_left_ > 2 ? text_left_ - 2 : 0;
      const std::size_t take = std::min(body, in.size() - used);
      text_.text.append(in.substr(used, take));
      used += take;
      text_left_ -= take;
      while (text_left_ <= 2 && text_left_ > 0 && used < in.size()) {
        if (in[used++] != (text_left_ == 2 ? '\r' : '\n')) {
          return resp_step::malformed;
        }
        --text_left_;
      }
      if (text_left_ > 0) {
        return resp_step::need_more;
      }
      is_in_text_ = false;
      const resp_step step = finish(std::move(text_));
      text_ = {};
      if (step != resp_step::need_more) {
        return step;
      }
    }
    resp_head head;
    std::size_t line = 0;
    resp_step step = parse_resp_head(in.substr(used), line, head);
    if (step != resp_step::ok) {
      return step;
    }
    used += line;
    bytes_ += line;
    if (bytes_ > limits_.bytes) {
      return resp_step::malformed;
    }
    step = open(head);
    if (step != resp_step::need_more) {
      return step;
    }
  }
}

resp_step resp_reader::open(const resp_head& head) {
  if (++elements_ > limits_.elements) {
    return resp_step::malformed;
  }
  if (head.number < 0 && (head.type == '$' || head.type == '*')) {
    return finish({});
  }
  switch (head.type) {
    case '$':
    case '!':
    case '=':
      if (static_cast<std::uint64_t>(head.number) > limits_.bytes - bytes_) {
        return resp_step::malformed;
      }
      bytes_ += static_cast<std::size_t>(head.number);
      text_ = {.type = head.type, .number = 0, .text = {}};
      text_left_ = static_cast<std::size_t>(head.number) + 2;
      is_in_text_ = true;
      return resp_step::need_more;
    case '*':
    case '~':
    case '>':
    case '%': {
      const auto count = static_cast<std::uint64_t>(head.number);
      if (count > limits_.elements || open_.size() >= limits_.depth) {
        return resp_step::malformed;
      }
      if (count == 0) {
        return finish({.type = head.type, .number = 0, .text = {}});
      }
      const std::size_t missing = static_cast<std::size_t>(count) * (head.type == '%' ? 2 : 1);
      open_.push_back({.value = {.type = head.type, .number = 0, .text = {}}, .missing = missing});
      return resp_step::need_more;
    }
    default:
      return finish({.type = head.type, .number = head.number, .text = std::string(head.text)});
  }
}

// Hands a whole value to the list it belongs to, and that one to its own when it is whole.
resp_step resp_reader::finish(resp_value value) {
  while (!open_.empty()) {
    frame& top = open_.back();
    top.value.items.push_back(std::move(value));
    if (--top.missing > 0) {
      return resp_step::need_more;
    }
    value = std::move(top.value);
    open_.pop_back();
  }
  done_ = std::move(value);
  return resp_step::ok;
}

resp_value resp_reader::take() {
  resp_value value = std::move(done_);
  restart();
  return value;
}

void resp_reader::restart() {
  open_.clear();
  text_ = {};
  done_ = {};
  text_left_ = bytes_ = elements_ = 0;
  is_in_text_ = false;
}

void append_argument(std::string& out, std::string_view argument) {
  out += '$';
  out += std::to_string(argument.size());
  out += "\r\n";
  out += argument;
  out += "\r\n";
}

void append_command_front(std::string& out,
                          std::size_t argument_count,
                          std::initializer_list<std::string_view> arguments) {
  out += '*';
  out += std::to_string(argument_count);
  out += "\r\n";
  for (const std::string_view argument : arguments) {
    append_argument(out, argument);
  }
}

void append_command(std::string& out, std::initializer_list<std::string_view> arguments) {
  append_command_front(out, arguments.size(), arguments);
}

}  // namespace oriel::detail
