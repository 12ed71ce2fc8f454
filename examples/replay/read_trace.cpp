// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <replay/line_source.hpp>
#include <replay/read_trace.hpp>
#include <replay/session_start.hpp>
#include <replay/trace_builder.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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
    const double start_s = session_start_s(id, hours_);
    to_.begin_session(id, start_s);
    place_ = place;
    agents_ = 1;
    agent parent;
    parent.began_s = start_s;
    read_rows(row, start_s, "", 0, parent);
  }

 private:
  /// A request, and when it ended.
  struct ended {
    std::uint32_t request;
    double end_s;
  };
  /// Who asks one request after another.
  struct agent {
    std::uint32_t number = 0;
    double began_s = 0.0;            // where its first request waits for nobody
    std::optional<ended> last = {};  // its last request, at first the parent's
    bool is_first = true;            // `last` is not its own
    std::vector<ended> joined = {};  // sub-agents since then
  };

  /// `begin_s`: when the session, or the sub-agent at `path`, began.
  void read_rows(
      const json_row& parent, double begin_s, const std::string& path, int depth, agent& who) {
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
        add(row, arrival_s, who);
      } else if (depth == depth_max) {
        row.refuse("requests", fmt::format("sub-agents more than {} deep", depth_max));
      } else {
        agent sub{.number = agents_++, .began_s = who.began_s, .last = who.last};
        read_rows(row, arrival_s, row_path, depth + 1, sub);
        if (!sub.is_first) {
          who.joined.push_back(*sub.last);
        }
        who.joined.insert(who.joined.end(), sub.joined.begin(), sub.joined.end());
      }
    }
  }

  void add(const json_row& row, double arrival_s, agent& who) {
    trace_request request;
    request.input_tokens = row.count("in", 1, to_.limits().input_tokens);
    request.output_tokens = row.count("out", 0, to_.limits().input_tokens);
    request.ended = end_of(row.try_text("stop").value_or(""));
    request.agent = who.number;
    double end_s = arrival_s;
    if (row.has("api_time")) {
      const double duration_s = row.number("api_time", seconds_max);
      request.duration_us = static_cast<std::uint64_t>(std::llround(duration_s * 1e6));
      end_s += duration_s;
    }
    const double gap_s = gap_of(row, arrival_s, who);
    request.gap_us = static_cast<std::uint64_t>(std::llround(gap_s * 1e6));
    std::vector<std::uint32_t> waits;
    if (who.last) {
      waits.push_back(who.last->request);
    }
    for (const ended& sub : who.joined) {
      waits.push_back(sub.request);
    }
    who.last = ended{to_.add(request, arrival_s, waits, row, "in"), end_s};
    who.is_first = false;
    who.joined.clear();
  }

  /// From the last end of those that it waits for, as far as the trace tells, to its arrival.
  [[nodiscard]] static double gap_of(const json_row& row, double arrival_s, const agent& who) {
    double gap_s = arrival_s - (who.last ? who.last->end_s : who.began_s);
    if (!who.is_first && row.has("think_time")) {
      gap_s = row.number("think_time", seconds_max);
    }
    for (const ended& sub : who.joined) {
      gap_s = std::min(gap_s, arrival_s - sub.end_s);
    }
    return std::max(gap_s, 0.0);
  }

  static constexpr int depth_max = 16;

  trace_builder& to_;
  double hours_;
  std::string_view place_;
  std::uint32_t agents_ = 0;  // of the session
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
    to_.add(request, arrival_s, {}, row, "input_length");
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
