// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "redis_link.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/redis_state_store.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <utility>

namespace oriel {
namespace {

constexpr std::uint32_t adds_max = 4;  // XADDs without an answer
constexpr std::size_t entry_bytes = state_record_bytes_max + 4;
constexpr double clock_every_s = 10.0;  // how often the server is asked for its time and end
constexpr double end_again_s = 0.5;     // after an error
constexpr std::string_view reads_at_once = "16";

// Takes or keeps a lease; one that another has is left alone.
constexpr std::string_view hold_script =
    "local h = redis.call('GET', KEYS[1]) "
    "if h and h ~= ARGV[1] then return 0 end "
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1";
constexpr std::string_view release_script =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end "
    "return 0";

struct stream_id {
  std::uint64_t ms = 0, sequence = 0;
  friend bool operator<(const stream_id& a, const stream_id& b) noexcept {
    return a.ms != b.ms ? a.ms < b.ms : a.sequence < b.sequence;
  }
  [[nodiscard]] std::string text() const {
    return std::to_string(ms) + "-" + std::to_string(sequence);
  }
};

std::optional<std::uint64_t> number_in(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value)
                                                                  : std::nullopt;
}

std::optional<stream_id> id_in(const detail::resp_value& value) {
  const std::size_t dash = value.text.find('-');
  if (!value.is_text() || dash == std::string::npos) {
    return std::nullopt;
  }
  const auto ms = number_in(std::string_view(value.text).substr(0, dash));
  const auto sequence = number_in(std::string_view(value.text).substr(dash + 1));
  return ms && sequence ? std::optional(stream_id{*ms, *sequence}) : std::nullopt;
}

redis_url checked(const redis_state_options& o) {
  const result<redis_url> url = parse_redis_url(o.redis.url);
  if (!url) {
    throw std::invalid_argument(std::string("redis_state_options::redis.url: ") +
                                url.error().detail);
  }
  if (o.redis.is_cluster || o.name.empty() || o.entries_max == 0) {
    throw std::invalid_argument(
        "redis_state_options: the log is one stream of at least one entry, with a name, on one "
        "server; give the URL of that server and is_cluster = false");
  }
  return *url;
}

std::string random_name() {
  std::random_device draw;
  std::string name;
  for (int i = 0; i < 4; ++i) {
    name += std::to_string(draw()) + ".";
  }
  return name;
}

}  // namespace

struct redis_state_store::state {
  enum class question : std::uint8_t { clock, end, read, add, hold, release };
  struct request : detail::redis_command {
    question what = question::clock;
    double sent_s = 0.0, ttl_s = 0.0;
    std::uint64_t records = 0;     // of add
    std::uint64_t generation = 0;  // of hold
    std::string name;
  };
  struct lease {
    double until_s = 0.0, asked_s = -1e300;
    bool is_asking = false;
    std::uint64_t generation = 0;
  };

  explicit state(redis_state_options given)
      : options(std::move(given)), url(checked(options)), self(random_name()) {
    if (url.is_tls) {
      tls = std::make_unique<detail::redis_tls>(options.redis.ca_file,
                                                options.redis.verifies_certificate);
    }
    link.emplace(options.redis, url, url.host, url.port, tls.get(), options.redis.seed);
    key = options.redis.key_prefix + options.name;
  }

  [[nodiscard]] std::uint64_t now_us() const {
    if (options.redis.now_us != nullptr) {
      return options.redis.now_us(options.redis.clock);
    }
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                          std::chrono::steady_clock::now().time_since_epoch())
                                          .count());
  }

  request& ask(question what, std::initializer_list<std::string_view> words, double now_s) {
    request& r = *requests.emplace_back(std::make_unique<request>());
    r.purpose = detail::redis_purpose::log;
    r.what = what;
    r.sent_s = now_s;
    detail::append_command(r.head, words);
    link->enqueue(r, now_us());
    return r;
  }

  void ask_clock(double now_s) {
    clock_asked_s = now_s;
    ask(question::clock, {"TIME"}, now_s);
    if (options.reads) {
      is_end_known = false;
      ask(question::end, {"XREVRANGE", key, "+", "-", "COUNT", "1"}, now_s);
    }
  }

  void send(double now_s) {
    if (!link->is_ready()) {
      if (link->unanswered() == 0 && !link->is_cut_off()) {
        ask(question::clock, {"TIME"}, now_s);  // Makes it connect.
      }
      return;
    }
    if (greetings != link->greetings()) {
      status.reconnects += greetings != 0;
      greetings = link->greetings();
      ask_clock(now_s);
    } else if (now_s - clock_asked_s > clock_every_s) {
      ask_clock(now_s);
    }
    while (!batches.empty() && adds < adds_max) {
      batch b = std::move(batches.front());
      batches.pop_front();
      pending_bytes -= b.bytes.size();
      request& r =
          ask(question::add,
              {"XADD", key, "MAXLEN", "~", std::to_string(options.entries_max), "*", "r", b.bytes},
              now_s);
      r.records = b.records;
      ++adds;
    }
    if (options.reads && is_end_known && !is_reading && now_s >= read_again_s) {
      is_reading = true;
      ask(question::read, {"XREAD", "COUNT", reads_at_once, "STREAMS", key, read_to.text()}, now_s);
    }
  }

  void hear_all(std::vector<state_record>& records, double now_s) {
    for (std::size_t i = 0; i < link->finished().size(); ++i) {
      auto* const r = static_cast<request*>(link->finished()[i]);
      hear(*r, records, now_s);
      const auto found =
          std::ranges::find_if(requests, [&](const auto& p) { return p.get() == r; });
      requests.erase(found);
    }
    link->finished().clear();
  }

  void hear(request& r, std::vector<state_record>& records, double now_s) {
    const bool is_lost = r.lost != 0 || r.is_refused;
    if (!is_lost) {
      link->note_good();
    }
    switch (r.what) {
      case question::clock:
        return is_lost ? void() : hear_clock(r, now_s);
      case question::end:
        return is_lost ? void() : hear_end(r, now_s);
      case question::read:
        is_reading = false;
        return is_lost ? void() : hear_read(r, records, now_s);
      case question::add:
        --adds;
        status.dropped += is_lost || r.reply.is_error() ? r.records : 0;
        return;
      case question::hold:
        return hear_hold(r, is_lost);
      case question::release:
        return;
    }
  }

  void hear_clock(const request& r, double now_s) {
    if (r.reply.items.size() != 2) {
      return;
    }
    const auto seconds = number_in(r.reply.items[0].text), us = number_in(r.reply.items[1].text);
    if (seconds && us) {
      ahead_s = static_cast<double>(*seconds) + 1e-6 * static_cast<double>(*us) -
                0.5 * (r.sent_s + now_s);
    }
  }

  // Is the stream the one that was read so far?
  void hear_end(const request& r, double now_s) {
    if (!r.reply.is_list() && !ORIEL_MUTANT(errors_are_empty_logs)) {
      clock_asked_s = now_s - clock_every_s + end_again_s;
      return;  // An error says nothing of the log.
    }
    is_end_known = true;
    std::optional<stream_id> end = stream_id{};
    if (!r.reply.items.empty() && !r.reply.items[0].items.empty()) {
      end = id_in(r.reply.items[0].items[0]);
    }
    if (end && *end < read_to && !ORIEL_MUTANT(lost_logs_are_not_noticed)) {
      ++status.logs_lost;
      read_to = {};
    }
  }

  // RESP3 gives a map of keys, RESP2 a list of pairs.
  void hear_read(const request& r, std::vector<state_record>& records, double now_s) {
    const detail::resp_value* entries = nullptr;
    if (r.reply.type == '%' && r.reply.items.size() == 2) {
      entries = &r.reply.items[1];
    } else if (r.reply.type == '*' && !r.reply.items.empty() &&
               r.reply.items[0].items.size() == 2) {
      entries = &r.reply.items[0].items[1];
    }
    if (entries == nullptr || entries->items.empty()) {
      read_again_s = now_s + options.read_every_s;
      return;
    }
    for (const detail::resp_value& entry : entries->items) {
      const auto id = entry.items.size() == 2 ? id_in(entry.items[0]) : std::nullopt;
      if (!id || !(read_to < *id)) {
        continue;  // Not ours to understand, or a liar's.
      }
      read_to = *id;
      const auto& fields = entry.items[1].items;
      if (fields.size() == 2 && fields[0].text == "r") {
        split(fields[1].text, 1e-3 * static_cast<double>(id->ms) - ahead_s, records);
      }
    }
    read_again_s = now_s;
  }

  // An entry is records, each after its length in four bytes.
  void split(std::string_view bytes, double stored_s, std::vector<state_record>& records) {
    while (bytes.size() >= 4) {
      std::uint32_t size = 0;
      for (int i = 3; i >= 0; --i) {
        size = size << 8 | static_cast<std::uint8_t>(bytes[static_cast<std::size_t>(i)]);
      }
      bytes.remove_prefix(4);
      if (size > bytes.size()) {
        return;
      }
      state_record record{stored_s, std::vector<std::byte>(size)};
      std::transform(bytes.begin(), bytes.begin() + size, record.bytes.begin(), [](char c) {
        return std::byte(c);
      });
      records.push_back(std::move(record));
      ++status.received;
      bytes.remove_prefix(size);
    }
  }

  void hear_hold(const request& r, bool is_lost) {
    const auto found = leases.find(r.name);
    if (found == leases.end() || found->second.generation != r.generation) {
      return;  // Given back meanwhile.
    }
    lease& l = found->second;
    l.is_asking = false;
    if (!is_lost) {
      l.until_s = r.reply.type == ':' && r.reply.number == 1 ? r.sent_s + r.ttl_s : 0.0;
    }
  }

  struct batch {
    std::string bytes;
    std::uint64_t records = 0;
  };

  redis_state_options options;
  redis_url url;
  std::string self, key;
  std::unique_ptr<detail::redis_tls> tls;
  std::vector<std::unique_ptr<request>> requests;  // the link has them until they are finished
  std::optional<detail::redis_link> link;
  std::deque<batch> batches;
  std::size_t pending_bytes = 0;
  std::uint32_t adds = 0;
  std::uint64_t greetings = 0;
  bool is_reading = false, is_end_known = false;
  stream_id read_to;
  double read_again_s = -1e300, clock_asked_s = -1e300;
  double ahead_s = 0.0;  // the server's clock minus the caller's
  std::map<std::string, lease, std::less<>> leases;
  state_status status;
};

redis_state_store::redis_state_store(redis_state_options options)
    : state_(std::make_unique<state>(std::move(options))) {}
redis_state_store::~redis_state_store() = default;
redis_state_store::redis_state_store(redis_state_store&&) noexcept = default;
redis_state_store& redis_state_store::operator=(redis_state_store&&) noexcept = default;

bool redis_state_store::append(std::span<const std::byte> bytes, double) {
  state& s = *state_;
  const std::size_t size = bytes.size() + 4;
  if (bytes.size() > state_record_bytes_max ||
      s.pending_bytes + size > s.options.pending_bytes_max) {
    ++s.status.dropped;
    return false;
  }
  if (s.batches.empty() || s.batches.back().bytes.size() + size > entry_bytes) {
    s.batches.emplace_back();
  }
  state::batch& b = s.batches.back();
  for (int i = 0; i < 4; ++i) {
    b.bytes += static_cast<char>(bytes.size() >> (8 * i) & 0xFF);
  }
  b.bytes.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  ++b.records;
  s.pending_bytes += size;
  ++s.status.appended;
  return true;
}

void redis_state_store::poll(std::vector<state_record>& records, double now_s) {
  state& s = *state_;
  s.link->pump(s.now_us());
  s.hear_all(records, now_s);
  s.send(now_s);
  s.link->flush(s.now_us());
  s.hear_all(records, now_s);
}

bool redis_state_store::hold(std::string_view name, double ttl_s, double now_s) {
  state& s = *state_;
  ORIEL_EXPECTS(ttl_s > 0.0);
  state::lease& l = s.leases[std::string(name)];
  const bool is_held = now_s < l.until_s;
  // One that is held is renewed when a third of its time is over; else it is asked for now and
  // then.
  const double again_s = is_held ? l.until_s - ttl_s * 2.0 / 3.0 : l.asked_s + 0.1 * ttl_s;
  if (!l.is_asking && now_s >= again_s && s.link->is_ready()) {
    l.is_asking = true;
    l.asked_s = now_s;
    const std::string ms = std::to_string(std::max(1LL, static_cast<long long>(ttl_s * 1e3)));
    const std::string key = s.options.redis.key_prefix + "lease:" + std::string(name);
    state::request& r =
        s.ask(state::question::hold, {"EVAL", hold_script, "1", key, s.self, ms}, now_s);
    r.name = name;
    r.ttl_s = ttl_s;
    r.generation = l.generation;
    s.link->flush(s.now_us());
  }
  return is_held;
}

void redis_state_store::release(std::string_view name, double now_s) {
  state& s = *state_;
  const auto found = s.leases.find(name);
  if (found == s.leases.end()) {
    return;
  }
  state::lease& l = found->second;
  l = {.generation = l.generation + 1};
  const std::string key = s.options.redis.key_prefix + "lease:" + std::string(name);
  s.ask(state::question::release, {"EVAL", release_script, "1", key, s.self}, now_s);
  s.link->flush(s.now_us());
}

state_status redis_state_store::status() const {
  state_status status = state_->status;
  status.is_connected = state_->link->is_ready();
  return status;
}

store_fault redis_state_store::last_fault() const {
  return state_->link->last_fault();
}

}  // namespace oriel
