// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// RESP2 and RESP3, the parts a client needs. A reply is one line, "$5\r\n", and what the line
/// announces; nothing here believes what a line announces before it is there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::detail {

enum class resp_step : std::uint8_t { need_more, ok, malformed };

/// The first line of a value.
struct resp_head {
  char type = 0;            ///< + - : $ * _ # , ( ! = % ~ >
  std::int64_t number = 0;  ///< of : the value; of $ ! = bytes, of * ~ > % elements; -1: null
  std::string_view text;    ///< of the others: the line
};

inline constexpr std::size_t resp_line_bytes_max = 4096;

/// Reads a line from the front of `in`; the same for any way to cut the stream. O(line).
/// @param used  of `in`, where the answer is ok
/// @returns malformed: also for numbers beyond 64 bits, negative lengths and streamed types
[[nodiscard]] resp_step parse_resp_head(std::string_view in, std::size_t& used, resp_head& out);

/// One small reply.
struct resp_value {
  char type = '_';  ///< as in resp_head; every kind of null is '_'
  std::int64_t number = 0;
  std::string text;  ///< + - $ ! = , (
  std::vector<resp_value> items = {};

  [[nodiscard]] bool is_error() const noexcept { return type == '-' || type == '!'; }
  [[nodiscard]] bool is_null() const noexcept { return type == '_'; }
  [[nodiscard]] bool is_text() const noexcept { return type == '$' || type == '+' || type == '='; }
  [[nodiscard]] bool is_list() const noexcept {
    return type == '*' || type == '~' || type == '>' || type == '%';
  }
};

struct resp_limits {
  std::size_t bytes = 64 << 10;  ///< of all texts and lines of one reply
  std::size_t elements = 4096;   ///< of one reply
  std::size_t depth = 8;
};

/// Builds a small reply from pieces of a stream. Its memory is bounded by limits and by what came.
class resp_reader {
 public:
  explicit resp_reader(resp_limits limits = {}) : limits_(limits) {}

  /// Takes from `in` as much as belongs to the reply.
  /// @param used  bytes taken; all of `in` if more is needed, but for an unfinished line
  resp_step feed(std::string_view in, std::size_t& used);

  /// The reply, after ok; and ready for the next.
  [[nodiscard]] resp_value take();
  void restart();

 private:
  struct frame {
    resp_value value;
    std::size_t missing = 0;
  };
  resp_step open(const resp_head& head);
  resp_step finish(resp_value value);

  resp_limits limits_;
  std::vector<frame> open_;
  resp_value text_;  ///< of which text_left_ bytes and a line end are missing
  std::size_t text_left_ = 0;
  bool is_in_text_ = false;
  std::size_t bytes_ = 0, elements_ = 0;
  resp_value done_;
};

/// Appends a command, every argument a bulk string. O(bytes).
void append_command(std::string& out, std::initializer_list<std::string_view> arguments);

/// Appends "*n\r\n" and the arguments, for a command that goes on after them.
void append_command_front(std::string& out,
                          std::size_t argument_count,
                          std::initializer_list<std::string_view> arguments);
void append_argument(std::string& out, std::string_view argument);

}  // namespace oriel::detail
