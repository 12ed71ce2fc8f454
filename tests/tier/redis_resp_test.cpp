// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What is text: RESP, URLs, slots of a cluster, records.
#include "../src/tier/redis_cluster.hpp"
#include "../src/tier/redis_resp.hpp"
#include "support/scale.hpp"
#include "tier/redis_pages.hpp"

#include <catch2/catch.hpp>

#include <random>
#include <string>
#include <string_view>

namespace redis_resp_test {

using namespace oriel;
using namespace oriel::detail;

namespace {

std::string written(const resp_value& v) {
  std::string out(1, v.type);
  out += v.type == ':' || v.type == '#' ? std::to_string(v.number) : v.text;
  if (v.is_list()) {
    out += "[";
    for (const resp_value& item : v.items) {
      out += written(item) + " ";
    }
    out += "]";
  }
  return out;
}

// Feeds pieces as a connection does: what was not taken comes again with what follows.
std::string read_in_pieces(std::string_view stream, const std::vector<std::size_t>& cuts) {
  resp_reader reader({.bytes = 4096, .elements = 64, .depth = 4});
  std::string buffer, out;
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= cuts.size(); ++i) {
    const std::size_t end = i < cuts.size() ? cuts[i] : stream.size();
    buffer += stream.substr(begin, end - begin);
    begin = end;
    for (;;) {
      std::size_t used = 0;
      const resp_step step = reader.feed(buffer, used);
      buffer.erase(0, used);
      if (step == resp_step::malformed) {
        return out + "malformed";
      }
      if (step == resp_step::need_more) {
        break;
      }
      out += written(reader.take()) + "|";
    }
  }
  return out + (buffer.empty() ? "" : "rest");
}

struct stream_case {
  std::string_view stream, expected;
};

const stream_case streams[] = {
    {"+OK\r\n", "+OK|"},
    {"-ERR no\r\n:12\r\n:-7\r\n", "-ERR no|:12|:-7|"},
    {"$5\r\nhello\r\n$0\r\n\r\n$-1\r\n*-1\r\n_\r\n", "$hello|$|_|_|_|"},
    {"$7\r\na\r\nb\r\nc\r\n", "$a\r\nb\r\nc|"},
    {"*2\r\n$1\r\na\r\n*2\r\n:1\r\n*0\r\n+x\r\n", "*[$a *[:1 *[] ] ]|+x|"},
    {"%1\r\n+id\r\n:9\r\n~1\r\n#t\r\n>2\r\n+a\r\n+b\r\n,1.5\r\n(123\r\n",
     "%[+id :9 ]|~[#1 ]|>[+a +b ]|,1.5|(123|"},
    {"=7\r\ntxt:abc\r\n!3\r\nbad\r\n#f\r\n", "=txt:abc|!bad|#0|"},
};

// What a server must not send. Nothing of it may be believed, allocated or waited for.
const std::string_view hostile[] = {
    "x",
    "HTTP/1.1 400 Bad Request\r\n",
    "$-2\r\n",
    "$5x\r\n",
    "$ 5\r\n",
    "$+-5\r\n",
    "$\r\n",
    "$99999999999999999999\r\n",
    "$9223372036854775807\r\n",
    "$1073741824\r\n",
    "$5\r\nhelloXX",
    "$5\r\nhello\rX",
    "$5\nhello\r\n",
    "*9223372036854775807\r\n",
    "*1000000\r\n",
    "*-2\r\n",
    "%9223372036854775807\r\n",
    "%-1\r\n",
    "~-1\r\n",
    ">-1\r\n",
    "!-1\r\n",
    "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
    ":\r\n",
    ":1.5\r\n",
    ":9223372036854775808\r\n",
    ":+-1\r\n",
    "_x\r\n",
    "#x\r\n",
    "$?\r\n",
    "*?\r\n",
    "|1\r\n+a\r\n+b\r\n+c\r\n",
    "+bare\rX",
    "+new\nline\r\n",
    "\r\n",
    std::string_view("\0\0\0\0\r\n", 6),
};

}  // namespace

TEST_CASE("a RESP stream reads the same however it is cut", "[tier][redis]") {
  for (const auto& [stream, expected] : streams) {
    INFO(stream);
    CHECK(read_in_pieces(stream, {}) == expected);
    std::vector<std::size_t> every;
    for (std::size_t cut = 0; cut <= stream.size(); ++cut) {
      every.push_back(cut);
      CHECK(read_in_pieces(stream, {cut}) == expected);
      for (std::size_t second = cut; second <= stream.size(); ++second) {
        CHECK(read_in_pieces(stream, {cut, second}) == expected);
      }
    }
    CHECK(read_in_pieces(stream, every) == expected);
  }
}

TEST_CASE("a hostile RESP stream is malformed, however it is cut", "[tier][redis]") {
  for (const std::string_view stream : hostile) {
    INFO(stream);
    CHECK(read_in_pieces(stream, {}) == "malformed");
    for (std::size_t cut = 0; cut <= stream.size(); ++cut) {
      CHECK(read_in_pieces(stream, {cut}) == "malformed");
    }
  }
  const std::string line(resp_line_bytes_max + 10, 'a');
  CHECK(read_in_pieces("+" + line, {}) == "malformed");
  std::string many = "*64\r\n";
  for (int i = 0; i < 64; ++i) {
    many += ":1\r\n";
  }
  CHECK(read_in_pieces(many, {}) == "malformed");         // 65 values.
  CHECK(read_in_pieces("$4090\r\n", {}) == "malformed");  // With its line too long.
}

TEST_CASE("random bytes never crash the RESP reader", "[tier][redis]") {
  std::mt19937_64 random(1);
  constexpr std::string_view letters = "+-:$*_#,(!=%~>|0123456789\r\n\r\n\r\nOKt";
  for (std::uint64_t i = 0; i < scaled(20'000); ++i) {
    std::string stream;
    for (std::uint64_t n = random() % 40; n > 0; --n) {
      stream += letters[random() % letters.size()];
    }
    const std::string whole = read_in_pieces(stream, {});
    CHECK(read_in_pieces(stream, {random() % (stream.size() + 1)}) == whole);
  }
}

TEST_CASE("commands are arrays of bulk strings", "[tier][redis]") {
  std::string out;
  append_command(out, {"SET", "k", std::string_view("a\0\r\n", 4)});
  CHECK(out == std::string("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\0\r\n\r\n", 30));
}

TEST_CASE("URLs of Redis", "[tier][redis]") {
  const auto url = [](std::string_view text) {
    const auto read = parse_redis_url(text);
    INFO(text << ": " << (read ? "" : read.error().detail));
    REQUIRE(read);
    return *read;
  };
  CHECK(url("redis://host") == redis_url{.host = "host"});
  CHECK(url("redis://host/") == redis_url{.host = "host"});
  CHECK(url("rediss://10.0.0.1:7000/3") ==
        redis_url{.is_tls = true, .host = "10.0.0.1", .port = 7000, .database = 3});
  CHECK(url("redis://bob:a%40b:c@host:1") ==
        redis_url{.user = "bob", .password = "a@b:c", .host = "host", .port = 1});
  CHECK(url("redis://:p@[::1]:65535") == redis_url{.password = "p", .host = "::1", .port = 65535});
  for (const std::string_view wrong : {"",
                                       "host",
                                       "http://host",
                                       "redis://",
                                       "redis://:6379",
                                       "redis://host:",
                                       "redis://host:0",
                                       "redis://host:65536",
                                       "redis://host:-1",
                                       "redis://host:6379x",
                                       "redis://host/x",
                                       "redis://host/-1",
                                       "redis://host/0/1",
                                       "redis://bob@host",
                                       "redis://bob:@host",
                                       "redis://:%4@host",
                                       "redis://:%zz@host",
                                       "redis://[::1",
                                       "redis://[::1]6379",
                                       "redis://ho st"}) {
    INFO(wrong);
    const auto read = parse_redis_url(wrong);
    REQUIRE(!read);
    CHECK(read.error().code == errc::invalid_argument);
    CHECK(std::string_view(read.error().detail).starts_with("URL: "));
    CHECK_THROWS_AS(redis_store({.url = std::string(wrong)}), std::invalid_argument);
  }
  CHECK_THROWS_AS(redis_store({.connections = 0}), std::invalid_argument);
  CHECK_THROWS_AS(redis_store({.url = "rediss://h", .ca_file = "/nowhere"}), std::runtime_error);
}

TEST_CASE("slots, redirects and maps of a cluster", "[tier][redis]") {
  CHECK(redis_slot("123456789") == 0x31C3 % redis_slots);  // The check value of CRC-16/XMODEM.
  CHECK(redis_slot("foo") == 12182);
  CHECK(redis_slot("{user1000}.following") == redis_slot("user1000"));
  CHECK(redis_slot("foo{}{bar}") == redis_slot("foo{}{bar}"));
  CHECK(redis_slot("foo{{bar}}zap") == redis_slot("{bar"));

  const auto moved = parse_redis_redirect("MOVED 3999 127.0.0.1:6381");
  REQUIRE(moved);
  CHECK(
      (!moved->is_ask && moved->slot == 3999 && moved->host == "127.0.0.1" && moved->port == 6381));
  const auto ask = parse_redis_redirect("ASK 1 ::1:7000");
  REQUIRE(ask);
  CHECK((ask->is_ask && ask->host == "::1" && ask->port == 7000));
  CHECK(parse_redis_redirect("MOVED 1 :7000")->host.empty());
  for (const std::string_view wrong : {"",
                                       "ERR",
                                       "MOVED",
                                       "MOVED 1",
                                       "MOVED 16384 h:1",
                                       "MOVED x h:1",
                                       "MOVED 1 h:0",
                                       "MOVED 1 h",
                                       "MOVED -1 h:1",
                                       "ASK 1 h:99999"}) {
    INFO(wrong);
    CHECK(!parse_redis_redirect(wrong));
  }

  const auto map_of = [](std::string_view text) {
    resp_reader reader;
    std::size_t used = 0;
    REQUIRE(reader.feed(text, used) == resp_step::ok);
    return parse_redis_slots(reader.take());
  };
  const auto map = map_of(
      "*2\r\n*3\r\n:0\r\n:5\r\n*3\r\n$1\r\nh\r\n:7000\r\n$2\r\nid\r\n"
      "*4\r\n:6\r\n:16383\r\n*2\r\n_\r\n:7001\r\n*2\r\n$1\r\nr\r\n:7002\r\n");
  REQUIRE(map);
  REQUIRE(map->size() == 2);
  CHECK(((*map)[0].last == 5 && (*map)[0].host == "h" && (*map)[1].port == 7001));
  CHECK((*map)[1].host.empty());
  for (const std::string_view wrong : {"+OK\r\n",
                                       "*1\r\n:1\r\n",
                                       "*1\r\n*3\r\n:5\r\n:4\r\n*2\r\n+h\r\n:1\r\n",
                                       "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n+h\r\n:1\r\n",
                                       "*1\r\n*3\r\n:-1\r\n:4\r\n*2\r\n+h\r\n:1\r\n",
                                       "*1\r\n*3\r\n:0\r\n:4\r\n*2\r\n+h\r\n:0\r\n",
                                       "*1\r\n*3\r\n:0\r\n:4\r\n*1\r\n+h\r\n"}) {
    CHECK(!map_of(wrong));
  }
}

TEST_CASE("a record is what it says, or it is not the page", "[tier][redis]") {
  redis_test::test_page page(3), other(4);
  const auto judge = [&](std::string value, const store_item& item) {
    const auto bytes = std::as_bytes(std::span(value));
    if (bytes.size() < redis_fixed_bytes) {
      return redis_verdict::damaged;
    }
    const auto fixed = decode_redis_fixed(bytes.first<redis_fixed_bytes>());
    if (!fixed || fixed->head_bytes > bytes.size()) {
      return redis_verdict::damaged;
    }
    return judge_redis_head(*fixed, bytes.first(fixed->head_bytes), bytes.size(), item);
  };
  const store_item get = page.item(store_op::get);
  const std::string value = page.value();
  CHECK(judge(value, get) == redis_verdict::page);
  CHECK(judge(other.value(), get) == redis_verdict::other_page);
  CHECK(judge(value + "x", get) == redis_verdict::damaged);
  store_item middle = get;
  middle.first_slice = 2;
  middle.slices = std::span(page.target).subspan(2, 1);
  CHECK(judge(value, middle) == redis_verdict::page);
  middle.first_slice = 1;
  CHECK(judge(value, middle) == redis_verdict::other_kind);
  // Every bit of the head counts.
  const std::size_t head = redis_head_bytes(page.content.size(), page.tokens.size());
  for (std::size_t bit = 0; bit < head * 8; ++bit) {
    std::string flipped = value;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    CHECK(judge(flipped, get) == redis_verdict::damaged);
  }
  for (int which = 0; which < 5; ++which) {
    redis_test::test_page wrong(3);
    which == 0   ? (void)(wrong.identity.name_space = other.key.link)
    : which == 1 ? (void)(wrong.identity.parent = other.key.link)
    : which == 2 ? (void)(wrong.identity.first_token += 1)
    : which == 3 ? (void)(wrong.tokens[7] = token_id{0})
                 : (void)(wrong.identity.tokens = wrong.identity.tokens.first(7));
    CHECK(judge(value, wrong.item(store_op::get)) == redis_verdict::other_kind);
  }
}

}  // namespace redis_resp_test
