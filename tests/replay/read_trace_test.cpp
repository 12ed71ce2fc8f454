// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <replay/read_trace.hpp>
#include <replay/session_start.hpp>
#include <support/temporary_directory.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace read_trace_test {

using namespace oriel;
using namespace oriel::replay;
using Catch::Matchers::Contains;

namespace {

trace read(std::string_view text, const trace_options& options = {}) {
  const temporary_directory folder;
  write_file(folder.path() / "trace", text);
  return read_trace(folder.path() / "trace", options);
}

std::vector<std::uint32_t> pages(const trace& t, std::size_t request) {
  const auto span = t.pages_of(t.requests[request]);
  return {span.begin(), span.end()};
}

/// What reading `text` complains of, without the file's folder.
std::string complaint(std::string_view text, const trace_options& options = {}) {
  try {
    (void)read(text, options);
  } catch (const trace_error& e) {
    const std::string what = e.what();
    return what.substr(what.find("/trace") + 1);
  }
  return "none";
}

std::string session(std::string_view rows, std::string_view id = "a") {
  return R"({"id":")" + std::string{id} +
         R"(","block_size":4,"hash_id_scope":"local","requests":[)" + std::string{rows} + "]}\n";
}

constexpr std::string_view two_requests =
    R"({"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]})"
    "\n"
    R"({"timestamp": 1500, "input_length": 1024, "output_length": 0, "hash_ids": [0, 2]})"
    "\n";

/// two_requests as `zstd --check --long=27` writes them.
std::string packed_requests() {
  static constexpr unsigned char bytes[] = {
      0x28, 0xb5, 0x2f, 0xfd, 0x24, 0xa1, 0xbd, 0x02, 0x00, 0x82, 0xc4, 0x10, 0x17, 0x90, 0xa5,
      0x3a, 0xab, 0x50, 0x20, 0x41, 0x52, 0xfb, 0x7c, 0x13, 0xc9, 0xfe, 0x8f, 0x0a, 0x8e, 0x4d,
      0x00, 0x53, 0x9e, 0xaf, 0x96, 0x0b, 0x63, 0xa2, 0xc2, 0x41, 0x61, 0x43, 0xc6, 0x44, 0xe4,
      0xcb, 0xc2, 0x8f, 0xc6, 0xa1, 0x25, 0x16, 0x15, 0xd3, 0xaf, 0x69, 0x09, 0x60, 0x26, 0x3f,
      0xca, 0x9a, 0x78, 0xab, 0x48, 0x2d, 0xe1, 0x6b, 0xfa, 0xe5, 0x1f, 0x85, 0x4e, 0x75, 0x5c,
      0xae, 0xb5, 0x06, 0x02, 0x06, 0x00, 0xc0, 0x13, 0x90, 0xe0, 0x2a, 0xbe, 0x51, 0x0a, 0x72,
      0xd3, 0x79, 0x83, 0x19, 0xcc, 0x27, 0x2a, 0x3c, 0x7a, 0xf1};
  return {reinterpret_cast<const char*>(bytes), sizeof bytes};
}

}  // namespace

TEST_CASE("requests, one per line") {
  const trace t = read(two_requests);
  CHECK(t.page_tokens == 512);
  CHECK(t.distinct_pages == 3);
  CHECK(t.sessions.empty());
  REQUIRE(t.requests.size() == 2);
  CHECK(t.requests[0].input_tokens == 1'000);
  CHECK(t.requests[0].output_tokens == 5);
  CHECK(t.requests[0].session == no_session);
  CHECK(t.requests[0].ended == request_end::unknown);
  CHECK(t.requests[0].duration_us == 0);
  CHECK(t.requests[1].arrival_us == 1'500'000);
  CHECK(t.requests[0].name_space == t.requests[1].name_space);
  CHECK(pages(t, 0) == std::vector<std::uint32_t>{0, 1});
  CHECK(pages(t, 1) == std::vector<std::uint32_t>{0, 2});
}

TEST_CASE("sessions with sub-agents, laid over a window") {
  const trace t = read(
      session(R"({"t":0,"in":4,"out":0,"hash_ids":[1]})", "trace_0001") +
      session(
          R"({"t":2,"in":9,"out":3,"hash_ids":[7,8],"stop":"tool_use","api_time":1.5,"think_time":99},)"
          R"({"t":3,"type":"subagent","requests":[)"
          R"({"t":0.5,"in":4,"out":1,"hash_ids":[7],"stop":"end_turn"},)"
          R"({"t":9,"in":5,"out":1,"hash_ids":[1099511627776,9],"stop":"max_tokens"}]},)"
          R"({"t":5,"in":3,"out":1,"hash_ids":[]})") +
      "\n  \r\n" + session("", "idle"));
  CHECK(t.page_tokens == 4);
  CHECK(t.sessions == std::vector<std::string>{"trace_0001", "a", "idle"});
  REQUIRE(t.requests.size() == 5);
  // trace_0001 begins at 4237.320388 s of 8 h, a at 22791.578986 s.
  CHECK(t.requests[0].arrival_us == 4'237'320'388);
  CHECK(t.requests[1].arrival_us == 22'793'578'986);
  CHECK(t.requests[2].arrival_us == 22'795'078'986);
  CHECK(t.requests[3].arrival_us == 22'796'578'986);
  CHECK(t.requests[4].arrival_us == 22'803'578'986);
  CHECK(t.requests[1].duration_us == 1'500'000);
  CHECK(t.requests[1].ended == request_end::tool_call);
  CHECK(t.requests[2].ended == request_end::end_of_turn);
  CHECK(t.requests[3].ended == request_end::unknown);
  CHECK(t.requests[4].ended == request_end::unknown);
  CHECK(t.requests[0].session == 0);
  CHECK(t.requests[2].session == 1);
  CHECK(t.requests[0].name_space != t.requests[1].name_space);
  CHECK(t.requests[1].name_space == t.requests[2].name_space);
  // 1 of the first session; 7, 8, 2^40 and 9 of the second.
  CHECK(t.distinct_pages == 5);
  CHECK(pages(t, 0) == std::vector<std::uint32_t>{0});
  CHECK(pages(t, 1) == std::vector<std::uint32_t>{1, 2});
  CHECK(pages(t, 2) == std::vector<std::uint32_t>{1});
  CHECK(pages(t, 3).empty());
  CHECK(pages(t, 4) == std::vector<std::uint32_t>{3, 4});
}

TEST_CASE("rows wait for the row before, and join their sub-agents") {
  const trace t =
      read(session(R"({"t":2,"in":4,"out":0,"hash_ids":[1],"api_time":1.5},)"
                   R"({"t":5,"requests":[)"
                   R"({"t":0,"in":4,"out":0,"hash_ids":[2],"api_time":1},)"
                   R"({"t":4,"in":4,"out":0,"hash_ids":[3],"api_time":2,"think_time":2.5}]},)"
                   R"({"t":6,"requests":[{"t":1,"in":4,"out":0,"hash_ids":[4],"think_time":9}]},)"
                   R"({"t":7,"requests":[]},)"
                   R"({"t":20,"in":4,"out":0,"hash_ids":[5],"think_time":16.5},)"
                   R"({"t":30,"in":4,"out":0,"hash_ids":[6]},)"
                   R"({"t":29,"in":4,"out":0,"hash_ids":[7]})"));
  REQUIRE(t.requests.size() == 7);
  const auto by_row = [&](std::uint32_t row) {
    return static_cast<std::uint32_t>(std::ranges::find(t.requests, row, &trace_request::row) -
                                      t.requests.begin());
  };
  const auto waits = [&](std::uint32_t row) {
    std::vector<std::uint32_t> rows;
    for (const std::uint32_t i : t.waits_of(t.requests[by_row(row)])) {
      rows.push_back(t.requests[i].row);
    }
    return rows;
  };
  const auto gap_s = [&](std::uint32_t row) {
    return static_cast<double>(t.requests[by_row(row)].gap_us) * 1e-6;
  };
  CHECK(t.starts_s == std::vector<double>{session_start_s("a", 8)});
  using rows = std::vector<std::uint32_t>;
  CHECK(waits(0).empty());
  CHECK(gap_s(0) == 2.0);
  CHECK(waits(1) == rows{0});  // the sub-agent begins behind its parent's row
  CHECK(gap_s(1) == 1.5);
  CHECK(waits(2) == rows{1});
  CHECK(gap_s(2) == 2.5);
  CHECK(waits(3) == rows{0});  // beside the first one
  CHECK(gap_s(3) == 3.5);      // its first row has nobody to think after
  CHECK(waits(4) == rows{0, 2, 3});
  CHECK(gap_s(4) == 9.0);  // after the first sub-agent, which ended at 11
  CHECK(waits(5) == rows{4});
  CHECK(gap_s(5) == 10.0);
  CHECK(waits(6) == rows{5});  // the file's order, not that of arrival
  CHECK(gap_s(6) == 0.0);
  CHECK(by_row(6) < by_row(5));
  CHECK(t.requests[by_row(0)].agent == 0);
  CHECK(t.requests[by_row(2)].agent == 1);
  CHECK(t.requests[by_row(3)].agent == 2);
  CHECK(t.requests[by_row(4)].agent == 0);
}

TEST_CASE("equal hash ids of two sessions are two pages") {
  const trace t = read(session(R"({"t":0,"in":4,"out":0,"hash_ids":[1]})", "a") +
                       session(R"({"t":0,"in":4,"out":0,"hash_ids":[1]})", "b"));
  CHECK(t.distinct_pages == 2);
}

TEST_CASE("hours stretch the starts of sessions, not their insides") {
  const std::string text = session(R"({"t":10,"in":4,"out":0,"hash_ids":[1]})");
  CHECK(session_start_s("a", 8) == Approx(22'791.578985750675).epsilon(1e-15));
  CHECK(session_start_s("", 8) == Approx(25'615.180648863316).epsilon(1e-15));
  CHECK(read(text, {.hours = 4}).requests[0].arrival_us == 11'405'789'493);
}

TEST_CASE("requests of one instant keep the file's order") {
  std::string text;
  for (int i = 0; i < 50; ++i) {
    text += R"({"timestamp": )" + std::to_string(i % 2 == 0 ? 7 : 3) +
            R"(, "input_length": 1, "output_length": )" + std::to_string(i) +
            R"(, "hash_ids": [0]})" + "\n";
  }
  const trace t = read(text);
  for (std::uint32_t i = 0; i < 25; ++i) {
    CHECK(t.requests[i].output_tokens == 2 * i + 1);
    CHECK(t.requests[25 + i].output_tokens == 2 * i);
  }
}

TEST_CASE("what is wrong with a trace is said with its line and key") {
  const std::string good{two_requests};
  const auto bad = [&](const std::string& line) { return complaint(good + line); };
  CHECK_THAT(complaint(""), Contains("no line"));
  CHECK_THAT(complaint("\n \n"), Contains("no line"));
  CHECK_THAT(complaint("hello"), Contains("trace:1: not valid JSON"));
  CHECK_THAT(complaint("[1]"), Contains("trace:1: expected a JSON object, not an array"));
  CHECK_THAT(complaint("{}"), Contains("neither a session (key requests)"));
  CHECK_THAT(complaint(session("")), Contains("no requests"));
  CHECK_THAT(bad(R"({"timestamp": 0, "input_le)"), Contains("trace:3: not valid JSON"));
  CHECK_THAT(bad(R"({"timestamp":-1,"input_length":1,"output_length":1,"hash_ids":[1]})"),
             Contains("trace:3: timestamp: expected a number in [0, ") && Contains("not -1"));
  CHECK_THAT(
      bad(R"({"timestamp":0,"input_length":-5,"output_length":1,"hash_ids":[1]})"),
      Contains("trace:3: input_length: expected a whole number in [1, ") && Contains("not -5"));
  CHECK_THAT(bad(R"({"timestamp":0,"input_length":0,"output_length":1,"hash_ids":[]})"),
             Contains("input_length: expected"));
  CHECK_THAT(bad(R"({"timestamp":0,"input_length":5.5,"output_length":1,"hash_ids":[1]})"),
             Contains("input_length: expected") && Contains("not 5.5"));
  CHECK_THAT(bad(R"({"timestamp":0,"input_length":99999999999,"output_length":1,"hash_ids":[1]})"),
             Contains("input_length: expected"));
  CHECK_THAT(bad(R"({"timestamp":0,"input_length":1,"hash_ids":[1]})"),
             Contains("trace:3: output_length: the key is missing"));
  CHECK_THAT(bad(R"({"timestamp":0,"input_length":1,"output_length":1,"hash_ids":7})"),
             Contains("hash_ids: expected an array, not 7"));
  CHECK_THAT(bad(R"({"timestamp":0,"input_length":600,"output_length":1,"hash_ids":[1,-2]})"),
             Contains("hash_ids[1]: expected a whole number, not -2"));
  CHECK_THAT(bad(R"({"timestamp":0,"input_length":600,"output_length":1,"hash_ids":[1,2,3]})"),
             Contains("hash_ids: 3 ids, but input_length is 600: 2 pages of 512 tokens"));
  CHECK_THAT(bad(session("")), Contains("trace:3: timestamp: the key is missing"));
}

TEST_CASE("what is wrong with a session names the row in it") {
  const std::string row = R"({"t":0,"in":4,"out":0,"hash_ids":[1]})";
  CHECK_THAT(complaint(session(row + ",3")),
             Contains("trace:1: requests[1]: expected an object, not 3"));
  CHECK_THAT(complaint(session(row + R"(,{"t":0,"requests":[{"t":-1}]})")),
             Contains("trace:1: requests[1].requests[0].t: expected a number in [0, "));
  CHECK_THAT(complaint(session(R"({"t":0,"in":4,"out":0,"hash_ids":[1],"api_time":null})")),
             Contains("requests[0].api_time: expected a number in [0, ") && Contains("not null"));
  CHECK_THAT(complaint(session(R"({"t":0,"in":4,"out":0,"hash_ids":[1],"stop":5})")),
             Contains("requests[0].stop: expected a string, not 5"));
  CHECK_THAT(complaint(R"({"requests":[]})"), Contains("trace:1: block_size: the key is missing"));
  CHECK_THAT(complaint(R"({"id":"a","block_size":0,"hash_id_scope":"local","requests":[]})"),
             Contains("block_size: expected a whole number in [1, "));
  CHECK_THAT(complaint(R"({"id":"a","block_size":4,"hash_id_scope":"global","requests":[]})"),
             Contains("hash_id_scope: expected \"local\""));
  CHECK_THAT(complaint(session(row) +
                       R"({"id":"a","block_size":8,"hash_id_scope":"local","requests":[]})"),
             Contains("trace:2: block_size: 8 tokens, but earlier lines have pages of 4"));
  std::string deep = row;
  for (int i = 0; i < 40; ++i) {
    deep = R"({"t":0,"requests":[)" + deep + "]}";
  }
  CHECK_THAT(complaint(session(deep)), Contains("sub-agents more than 16 deep"));
}

TEST_CASE("sizes beyond the limits are refused") {
  const auto limited = [](auto change) {
    trace_options options;
    change(options.limits);
    return complaint(two_requests, options);
  };
  CHECK_THAT(limited([](trace_limits& l) { l.requests = 1; }),
             Contains("trace:2: hash_ids: more than 1 requests"));
  CHECK_THAT(limited([](trace_limits& l) { l.pages = 3; }),
             Contains("trace:2: hash_ids: more than 3 pages"));
  CHECK_THAT(limited([](trace_limits& l) { l.line_bytes = 79; }),
             Contains("trace:2: the line has more than 79 bytes"));
  CHECK_THAT(limited([](trace_limits& l) { l.file_bytes = 100; }),
             Contains("the file has more than 100 bytes"));
  CHECK_THAT(limited([](trace_limits& l) { l.input_tokens = 1'023; }),
             Contains("trace:2: input_length: expected a whole number in [1, 1023], not 1024"));
}

TEST_CASE("what cannot be opened is named") {
  const temporary_directory folder;
  CHECK_THROWS_WITH(read_trace(folder.path() / "none"), Contains("none: No such file"));
  CHECK_THROWS_WITH(read_trace(folder.path()), Contains("Is a directory"));
}

#ifdef ORIEL_HAS_ZSTD

TEST_CASE("compressed traces are recognised by content, several frames too") {
  const std::string packed = packed_requests();
  CHECK(read(packed).requests.size() == 2);
  CHECK(read(packed).requests[1].arrival_us == 1'500'000);
  CHECK(read(packed + packed).requests.size() == 4);
}

TEST_CASE("a compressed trace that is cut off or damaged anywhere is an error") {
  const std::string packed = packed_requests();
  CHECK_THAT(complaint(packed.substr(0, packed.size() - 1)), Contains("cut off after 99 bytes"));
  CHECK_THAT(complaint(packed.substr(0, 10)), Contains("cut off after 10 bytes"));
  CHECK_THAT(complaint(packed + "more"), Contains("damaged zstd data"));
  for (std::size_t i = 5; i < packed.size(); ++i) {  // Byte 4 has bits that mean nothing.
    std::string flipped = packed;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x10);
    CAPTURE(i);
    CHECK_THROWS_AS(read(flipped), trace_error);
    CHECK_THROWS_AS(read(packed.substr(0, i)), trace_error);
  }
}

#else

TEST_CASE("without libzstd a compressed trace says what is missing") {
  CHECK_THAT(complaint(packed_requests()), Contains("built without libzstd"));
}

#endif

}  // namespace read_trace_test
