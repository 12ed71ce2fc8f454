// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <replay/line_source.hpp>
#include <replay/read_trace.hpp>
#include <replay/session_start.hpp>
#include <replay/trace_builder.hpp>

#include <cmath>
#include <string>
#include <utility>

namespace oriel::replay {
namespace dom = simdjson::dom;
namespace {

constexpr double seconds_max = 1e9;  // Thirty years: more is no arrival.

request_end end_of(std::string_view stop) {
  if (stop == "tool_use") {
    return request_end::tool_call;
  }
  return stop == "end_turn" || stop == "stop_sequence" ? request_end::end_of_turn
                                                       : request_end::unknown;
}

/// Sessions of an agent, one per line.
class session_reader {
 public:
  session_reader(trace_builder& to, double hours) : to_(to), hours_(hours) {}

  void read(dom::object line, std::string_view place) {
    constexpr std::uint32_t page_tokens_max = 65'536;
    const json_row row{line, place, ""};
    to_.set_page_tokens(row.count("block_size", 1, page_tokens_max), row, "block_size");
    if (row.text("hash_id_scope") != "local") {
      row.refuse("hash_id_scope", "expected \"local\": ids that compare inside one session");
    }
    const std::string_view id = row.text("id");
    to_.begin_namespace();
    to_.begin_session(id);
    place_ = place;
    read_rows(row, session_start_s(id, hours_), "", 0);
  }

 private:
  /// `begin_s`: when the session, or the sub-agent at `path`, began.
  void read_rows(const json_row& parent, double begin_s, const std::string& path, int depth) {
    std::size_t i = 0;
    for (const dom::element element : parent.array("requests")) {
      const std::string key = fmt::format("requests[{}]", i++);
      dom::object object;
      if (element.get(object) != simdjson::SUCCESS) {
        parent.refuse(key, "expected an object, not " + shown(element));
      }
      const std::string row_path = path + key + ".";
      const json_row row{object, place_, row_path};
      const double arrival_s = begin_s + row.number("t", seconds_max);
      if (!row.has("requests")) {
        add(row, arrival_s);
      } else if (depth == depth_max) {
        row.refuse("requests", fmt::format("sub-agents more than {} deep", depth_max));
      } else {
        read_rows(row, arrival_s, row_path, depth + 1);
      }
    }
  }

  void add(const json_row& row, double arrival_s) {
    trace_request request;
    request.input_tokens = row.count("in", 1, to_.limits().input_tokens);
    request.output_tokens = row.count("out", 0, to_.limits().input_tokens);
    request.ended = end_of(row.try_text("stop").value_or(""));
    if (row.has("api_time")) {
      request.duration_us =
          static_cast<std::uint64_t>(std::llround(row.number("api_time", seconds_max) * 1e6));
    }
    to_.add(request, arrival_s, row, "in");
  }

  static constexpr int depth_max = 16;

  trace_builder& to_;
  double hours_;
  std::string_view place_;
};

/// Requests of a service, one per line.
class request_reader {
 public:
  explicit request_reader(trace_builder& to) : to_(to) { to_.begin_namespace(); }

  void read(dom::object line, std::string_view place) {
    constexpr std::uint32_t page_tokens = 512;
    const json_row row{line, place, ""};
    to_.set_page_tokens(page_tokens, row, "hash_ids");
    trace_request request;
    const double arrival_s = row.number("timestamp", seconds_max * 1e3) / 1e3;
    request.input_tokens = row.count("input_length", 1, to_.limits().input_tokens);
    request.output_tokens = row.count("output_length", 0, to_.limits().input_tokens);
    to_.add(request, arrival_s, row, "input_length");
  }

 private:
  trace_builder& to_;
};

/// Feeds every line, the parsed one first, to `reader`.
template <class Reader>
void read_lines(line_source& lines, dom::parser& parser, dom::object first, Reader reader) {
  reader.read(first, lines.place());
  while (lines.next()) {
    const std::string place = lines.place();
    reader.read(parse_line(parser, lines.line(), place), place);
  }
}

}  // namespace

trace read_trace(const std::filesystem::path& file, const trace_options& options) {
  line_source lines{file, options.limits.line_bytes, options.limits.file_bytes};
  if (!lines.next()) {
    throw trace_error(fmt::format("{}: the file has no line: not a trace", file.string()));
  }
  dom::parser parser;
  trace_builder builder{options.limits};
  const dom::object first = parse_line(parser, lines.line(), lines.place());
  const json_row row{first, "", ""};
  if (row.has("requests")) {
    read_lines(lines, parser, first, session_reader{builder, options.hours});
  } else if (row.has("timestamp")) {
    read_lines(lines, parser, first, request_reader{builder});
  } else {
    throw trace_error(
        fmt::format("{}: neither a session (key requests) nor a request (key timestamp): not a "
                    "trace that this program reads (docs/cli.md)",
                    lines.place()));
  }
  trace done = builder.finish();
  if (done.requests.empty()) {
    throw trace_error(fmt::format("{}: the sessions have no requests", file.string()));
  }
  return done;
}

}  // namespace oriel::replay
