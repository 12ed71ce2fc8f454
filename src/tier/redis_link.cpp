// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "redis_link.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/core/random.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <poll.h>

namespace oriel::detail {
namespace {

constexpr std::size_t in_bytes = 128 << 10;
constexpr std::size_t iovecs_max = 64;  // of one readv or writev
/// Of one read into slices: what is copied and summed while it is in the caches, and what the
/// kernel has queued meanwhile is too. More at once was slower (docs/measurements/redis.md).
constexpr std::size_t direct_bytes_max = 64 << 10;
constexpr int rounds_max = 64;  // reads of one pump

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

redis_link::redis_link(const redis_options& options,
                       const redis_url& who,
                       std::string host,
                       std::uint16_t port,
                       redis_tls* tls,
                       std::uint64_t number)
    : options_(options),
      who_(who),
      host_(std::move(host)),
      port_(port),
      tls_(tls),
      number_(number),
      in_(in_bytes) {}

void redis_link::enqueue(redis_command& command, std::uint64_t now_us) {
  if (is_cut_off_) {
    return lose(command, fault_.native, true);
  }
  if (unanswered() == 0) {
    heard_us_ = now_us;  // The silence begins now.
  }
  out_.push_back(&command);
}

void redis_link::flush(std::uint64_t now_us) {
  if (state_ == state::ready && !out_.empty()) {
    write_some(now_us);
  } else if (state_ == state::down && !out_.empty()) {
    pump(now_us);
  }
}

void redis_link::abandon(redis_command& command) {
  command.is_abandoned = true;
  if (const auto found = std::ranges::find(out_, &command); found != out_.end()) {
    if (found != out_.begin() || !out_is_started_) {
      out_.erase(found);
      return lose(command, ECANCELED, false);
    }
    // The server counts on all of it. What is left is set aside, so that the slices are free.
    std::string rest = command.head;
    for (const auto& slice : command.payload) {
      rest += text_of(slice);
    }
    rest += command.tail;
    rest.erase(0, out_sent_);
    command.head = std::move(rest);
    command.tail.clear();
    out_sent_ = 0;
  } else if (!in_flight_.empty() && in_flight_.front() == &command && reading_ == reading::value &&
             !ORIEL_MUTANT(redis_late_reply_fills_slices)) {
    page_.abandon();
  } else if (ORIEL_MUTANT(redis_late_command_is_forgotten) &&
             std::erase(in_flight_, &command) > 0) {
    return lose(command, ECANCELED, false);
  }
  command.payload = {};
  command.payload_bytes = 0;
}

void redis_link::pump(std::uint64_t now_us) {
  check_timers(now_us);
  if (state_ == state::down && now_us >= retry_us_ && (is_cut_off_ || !out_.empty())) {
    connect(now_us);
  }
  if (state_ == state::connecting) {
    const int error = socket_.advance();
    if (error == 0) {
      state_ = state::greeting;
      send_greeting(greeting::hello);
    } else if (error != EAGAIN) {
      fail(now_us, error, "connect");
    }
  }
  if (state_ >= state::greeting) {
    write_some(now_us);
  }
  if (state_ >= state::greeting) {
    read_some(now_us);
  }
  if (state_ >= state::greeting) {
    write_some(now_us);  // The greeting goes on with what was read.
  }
}

void redis_link::connect(std::uint64_t now_us) {
  since_us_ = now_us;
  if (const int error = socket_.open(host_, port_, tls_); error != 0) {
    return fail(now_us, error, "connect");
  }
  state_ = state::connecting;
}

// HELLO names the protocol, us, and the number of the connection. Servers before 6.0 do not know
// it; they get AUTH.
void redis_link::send_greeting(greeting step) {
  step_ = step;
  greeting_out_.clear();
  switch (step) {
    case greeting::hello:
      if (who_.password.empty()) {
        return append_command(greeting_out_, {"HELLO", "3"});
      }
      return append_command(
          greeting_out_,
          {"HELLO", "3", "AUTH", who_.user.empty() ? "default" : who_.user, who_.password});
    case greeting::auth:
      if (who_.password.empty()) {
        return send_greeting(greeting::id);
      }
      if (who_.user.empty()) {
        return append_command(greeting_out_, {"AUTH", who_.password});
      }
      return append_command(greeting_out_, {"AUTH", who_.user, who_.password});
    case greeting::id:
      return append_command(greeting_out_, {"CLIENT", "ID"});
    case greeting::kill:
      // Writes of the connection we lost may still lie before the server, and would come after
      // what we send from now on: a page that was erased in between would be back. A smaller
      // number than before is that of a new server, which knows nothing of the old connection.
      if (fence_id_ == 0 || client_id_ <= fence_id_) {
        return send_greeting(greeting::select);
      }
      return append_command(greeting_out_,
                            {"CLIENT", "KILL", "ID", std::to_string(fence_id_), "SKIPME", "yes"});
    case greeting::select:
      if (who_.database == 0) {
        return send_greeting(greeting::done);
      }
      return append_command(greeting_out_, {"SELECT", std::to_string(who_.database)});
    case greeting::done:
      return;
  }
}

void redis_link::hear_greeting(std::uint64_t now_us, const resp_value& reply) {
  const auto is_refusal = [&] {
    return reply.text.starts_with("NOAUTH") || reply.text.starts_with("WRONGPASS") ||
           reply.text.starts_with("NOPERM");
  };
  switch (step_) {
    case greeting::hello:
      if (reply.is_error()) {
        if (is_refusal()) {
          return fail(now_us, EACCES, "authenticate");
        }
        if (reply.text.starts_with("LOADING") || reply.text.starts_with("MASTERDOWN")) {
          return fail(now_us, EAGAIN, "connect");
        }
        return send_greeting(greeting::auth);
      }
      client_id_ = 0;
      for (std::size_t i = 0; i + 1 < reply.items.size(); i += 2) {
        if (reply.items[i].text == "id" && reply.items[i + 1].type == ':') {
          client_id_ = reply.items[i + 1].number;
        }
      }
      if (!reply.is_list()) {
        return fail(now_us, EPROTO, "greet");
      }
      return send_greeting(client_id_ == 0 ? greeting::id : greeting::kill);
    case greeting::auth:
      if (reply.text != "OK" || reply.type != '+') {
        return fail(now_us, EACCES, "authenticate");
      }
      return send_greeting(greeting::id);
    case greeting::id:
      client_id_ = reply.type == ':' ? reply.number : 0;
      if (reply.is_error() && is_refusal()) {
        return fail(now_us, EACCES, "authenticate");
      }
      return send_greeting(greeting::kill);
    case greeting::kill:
      // Not permitted: docs/redis.md says what that costs.
      return send_greeting(greeting::select);
    case greeting::select:
      if (reply.text != "OK" || reply.type != '+') {
        return fail(now_us, EINVAL, "select the database at");
      }
      return send_greeting(greeting::done);
    case greeting::done:
      return fail(now_us, EPROTO, "greet");
  }
}

void redis_link::greeted(std::uint64_t now_us) {
  state_ = state::ready;
  fence_id_ = 0;
  ++greetings_;
  heard_us_ = now_us;
  if (!ORIEL_MUTANT(redis_breaker_never_closes)) {
    is_cut_off_ = false;
  }
}

void redis_link::write_some(std::uint64_t now_us) {
  std::array<iovec, iovecs_max> parts = {};
  for (;;) {
    std::size_t count = 0, skip = out_sent_;
    const auto add = [&](const void* at, std::size_t bytes) {
      const std::size_t step = std::min(skip, bytes);
      skip -= step;
      if (bytes > step && count < parts.size()) {
        parts[count++] = {.iov_base = const_cast<char*>(static_cast<const char*>(at)) + step,
                          .iov_len = bytes - step};
      }
    };
    if (state_ == state::greeting) {
      skip = 0;
      add(greeting_out_.data(), greeting_out_.size());
    } else {
      for (std::size_t i = 0; i < out_.size() && count < parts.size(); ++i) {
        add(out_[i]->head.data(), out_[i]->head.size());
        for (const auto& slice : out_[i]->payload) {
          add(slice.data(), slice.size());
        }
        add(out_[i]->tail.data(), out_[i]->tail.size());
      }
    }
    if (count == 0) {
      return;
    }
    const redis_io io = socket_.write(parts.data(), count);
    if (io.error == EAGAIN) {
      // OpenSSL keeps what it was given.
      out_is_started_ = out_is_started_ || (tls_ != nullptr && state_ == state::ready);
      return;
    }
    if (io.error != 0) {
      return fail(now_us, io.error, "write");
    }
    if (state_ == state::greeting) {
      greeting_out_.erase(0, io.bytes);
      continue;
    }
    sent(io.bytes);
  }
}

void redis_link::sent(std::size_t bytes) {
  out_sent_ += bytes;
  out_is_started_ = out_sent_ > 0;
  while (!out_.empty() && out_sent_ >= out_.front()->sent_bytes()) {
    out_sent_ -= out_.front()->sent_bytes();
    out_is_started_ = out_sent_ > 0;
    in_flight_.push_back(out_.front());
    out_.pop_front();
  }
}

void redis_link::read_some(std::uint64_t now_us) {
  has_more_ = true;
  for (int round = 0; round < rounds_max && state_ >= state::greeting; ++round) {
    if (!read_once(now_us)) {
      has_more_ = false;
      return;
    }
  }
}

// How much of the buffer to fill: the head of the next page and no more, since what comes behind
// it can go to the slices without a detour.
std::size_t redis_link::read_ahead() const {
  const bool is_between = reading_ == reading::reply && !is_in_small_;
  const std::size_t next = is_between ? 0 : 1;
  if (reading_ == reading::value && page_.head_wanted() > 0) {
    const std::size_t there = in_end_ - in_begin_;
    return page_.head_wanted() > there ? page_.head_wanted() - there : 1;
  }
  if (next < in_flight_.size()) {
    const redis_command& c = *in_flight_[next];
    if (c.purpose == redis_purpose::page && !c.is_abandoned) {
      return 16 + redis_head_bytes(c.item.slices.size(), c.item.identity->tokens.size());
    }
    if (c.purpose == redis_purpose::page_range && !c.is_abandoned) {
      return 16;
    }
  }
  return in_bytes;
}

// One read and what it brought. @returns was there anything, and are we still connected?
bool redis_link::read_once(std::uint64_t now_us) {
  std::array<iovec, iovecs_max + 1> parts = {};
  std::size_t direct_bytes = 0, count = 0;
  if (reading_ == reading::value && in_begin_ == in_end_) {
    count = page_.targets(parts.data(), iovecs_max, direct_bytes_max, direct_bytes);
  }
  make_room(redis_head_bytes_max);
  const bool is_whole = direct_bytes == page_.left() || direct_bytes == 0;
  if (is_whole) {
    // What goes nowhere comes through the buffer.
    const bool is_draining = reading_ == reading::value && page_.head_wanted() == 0;
    const std::uint64_t wanted =
        read_ahead() + (is_draining && direct_bytes == 0 ? page_.left() : 0);
    const auto room =
        static_cast<std::size_t>(std::min<std::uint64_t>(in_.size() - in_end_, wanted));
    parts[count++] = {.iov_base = in_.data() + in_end_, .iov_len = room};
  }
  const redis_io io = socket_.read(parts.data(), count);
  if (io.error == EAGAIN) {
    return false;
  }
  if (io.error != 0) {
    if (in_flight_.empty() && out_.empty() && state_ == state::ready) {
      socket_.close();  // An idle connection may go; the next item makes another.
      state_ = state::down;
      in_begin_ = in_end_ = 0;
      return false;
    }
    fail(now_us, io.error, "read");
    return false;
  }
  heard_us_ = now_us;
  const std::size_t direct = std::min(io.bytes, direct_bytes);
  page_.advance(direct);
  in_end_ += io.bytes - direct;
  std::size_t asked = 0;
  for (std::size_t i = 0; i < count; ++i) {
    asked += parts[i].iov_len;
  }
  // Less than there was room for is all there was. OpenSSL gives a record at a time.
  const bool is_drained = tls_ == nullptr && io.bytes < asked;
  return take_apart(now_us) && !is_drained;
}

void redis_link::make_room(std::size_t bytes) {
  if (in_begin_ == in_end_) {
    in_begin_ = in_end_ = 0;
  } else if (in_.size() - in_end_ < bytes) {
    std::memmove(in_.data(), in_.data() + in_begin_, in_end_ - in_begin_);
    in_end_ -= in_begin_;
    in_begin_ = 0;
  }
}

// Everything in the buffer that is complete. @returns still connected?
bool redis_link::take_apart(std::uint64_t now_us) {
  for (;;) {
    const auto in = std::span(in_).subspan(in_begin_, in_end_ - in_begin_);
    if (reading_ == reading::value) {
      in_begin_ += page_.feed(in);
      if (page_.left() > 0) {
        return true;
      }
      reading_ = reading::value_end;
    } else if (reading_ == reading::value_end) {
      if (in.size() < 2) {
        return true;
      }
      if (text_of(in.first(2)) != "\r\n") {
        return fail(now_us, EPROTO, "read"), false;
      }
      in_begin_ += 2;
      reading_ = reading::reply;
      answer_front();
    } else {
      const std::size_t before = in_begin_;
      if (in.empty() || !take_reply(now_us)) {
        return state_ >= state::greeting;
      }
      if (in_begin_ == before && reading_ == reading::reply) {
        return true;
      }
    }
  }
}

// The start of a reply. @returns was something taken, and are we still connected?
bool redis_link::take_reply(std::uint64_t now_us) {
  const auto in = text_of(std::span(in_).subspan(in_begin_, in_end_ - in_begin_));
  if (!is_in_small_ && state_ == state::ready && in.front() != '>') {
    if (in_flight_.empty()) {
      return fail(now_us, EPROTO, "read"), false;  // An answer to nothing.
    }
    redis_command& c = *in_flight_.front();
    const bool is_value =
        c.purpose == redis_purpose::page || c.purpose == redis_purpose::page_range;
    resp_head head;
    std::size_t used = 0;
    const resp_step step = parse_resp_head(in, used, head);
    if (step == resp_step::malformed) {
      return fail(now_us, EPROTO, "read"), false;
    }
    if (step == resp_step::need_more) {
      return false;
    }
    if (is_value && head.type == '$' && head.number >= 0) {
      const auto bytes = static_cast<std::uint64_t>(head.number);
      if (bytes > options_.record_bytes_max && !ORIEL_MUTANT(redis_length_is_believed)) {
        return fail(now_us, EMSGSIZE, "read"), false;
      }
      in_begin_ += used;
      reading_ = reading::value;
      if (c.is_abandoned && !ORIEL_MUTANT(redis_late_reply_fills_slices)) {
        page_.begin_nothing(bytes);
      } else {
        page_.begin(c, bytes);
      }
      return true;
    }
  }
  return take_small(now_us);
}

bool redis_link::take_small(std::uint64_t now_us) {
  const auto in = text_of(std::span(in_).subspan(in_begin_, in_end_ - in_begin_));
  if (!is_in_small_) {
    const bool is_long =
        !in_flight_.empty() && (in_flight_.front()->purpose == redis_purpose::slots ||
                                in_flight_.front()->purpose == redis_purpose::log);
    small_ = resp_reader(is_long ? resp_limits{.bytes = 4 << 20, .elements = 200'000, .depth = 8}
                                 : resp_limits{});
    is_in_small_ = true;
  }
  std::size_t used = 0;
  const resp_step step = small_.feed(in, used);
  in_begin_ += used;
  if (step == resp_step::malformed) {
    return fail(now_us, EPROTO, "read"), false;
  }
  if (step == resp_step::need_more) {
    return used > 0;
  }
  is_in_small_ = false;
  resp_value reply = small_.take();
  if (reply.type == '>') {
    return true;  // Nobody subscribed to anything.
  }
  if (state_ == state::greeting) {
    hear_greeting(now_us, reply);
    if (state_ == state::greeting && step_ == greeting::done) {
      greeted(now_us);
    }
    return state_ >= state::greeting;
  }
  in_flight_.front()->reply = std::move(reply);
  in_flight_.front()->has_reply = true;
  answer_front();
  return true;
}

void redis_link::answer_front() {
  finished_.push_back(in_flight_.front());
  in_flight_.pop_front();
}

void redis_link::check_timers(std::uint64_t now_us) {
  if (state_ == state::connecting || state_ == state::greeting) {
    if (now_us >= since_us_ + options_.connect_timeout_us) {
      fail(now_us, ETIMEDOUT, "connect");
    }
  } else if (state_ == state::ready && unanswered() > 0 &&
             now_us >= heard_us_ + options_.silence_timeout_us) {
    fail(now_us, ETIMEDOUT, "read");
  }
}

std::uint64_t redis_link::next_timer_us() const noexcept {
  switch (state_) {
    case state::down:
      return is_cut_off_ || !out_.empty() ? retry_us_ : no_deadline;
    case state::connecting:
    case state::greeting:
      return since_us_ + options_.connect_timeout_us;
    case state::ready:
      return unanswered() > 0 ? heard_us_ + options_.silence_timeout_us : no_deadline;
  }
  return no_deadline;
}

short redis_link::events() const noexcept {
  const bool has_output = state_ == state::greeting ? !greeting_out_.empty() : !out_.empty();
  return socket_.events(has_output);
}

void redis_link::lose(redis_command& command, int error, bool is_refused) {
  command.lost = error;
  command.is_refused = is_refused;
  finished_.push_back(&command);
}

void redis_link::break_off(std::uint64_t now_us, const char* operation) {
  if (state_ != state::down) {
    fail(now_us, EPROTO, operation);
  }
}

void redis_link::note_late(std::uint64_t now_us) {
  if (state_ == state::connecting || state_ == state::greeting) {
    // It may yet come to pass; but whoever asks why nothing came must not hear that all is well.
    note_fault(ETIMEDOUT, "connect in time");
  }
  if (state_ != state::ready) {
    return;
  }
  if (++lates_ >= options_.lates_to_open && !is_cut_off_ &&
      !ORIEL_MUTANT(redis_breaker_never_opens)) {
    failures_ = options_.failures_to_open;
    fail(now_us, ETIMEDOUT, "answer in time");
  }
}

void redis_link::note_good() noexcept {
  failures_ = lates_ = 0;
  tries_ = 0;
}

void redis_link::note_fault(int error, const char* operation) {
  fault_ = {.operation = operation,
            .where = host_ + ":" + std::to_string(port_),
            .native = error,
            .count = fault_.count + 1};
}

void redis_link::fail(std::uint64_t now_us, int error, const char* operation) {
  note_fault(error, operation);
  socket_.close();
  state_ = state::down;
  has_more_ = false;
  in_begin_ = in_end_ = 0;
  reading_ = reading::reply;
  is_in_small_ = false;
  bool has_writes = false;
  if (out_is_started_) {
    in_flight_.push_back(out_.front());
    out_.pop_front();
  }
  for (redis_command* c : in_flight_) {
    has_writes = has_writes || c->is_write;
    lose(*c, error, false);
  }
  fence_id_ = has_writes && client_id_ != 0 ? client_id_ : fence_id_;
  in_flight_.clear();
  out_sent_ = 0;
  out_is_started_ = false;

  // Full jitter of half: clients of one server that died together do not come back together.
  const std::uint64_t doublings = std::min<std::uint64_t>(tries_++, 30);
  const std::uint64_t step =
      std::min(options_.backoff_max_us, options_.backoff_min_us << doublings);
  const float draw = to_unit_float(random_stream(options_.seed, number_).bits(draws_++));
  retry_us_ = now_us + step - static_cast<std::uint64_t>(static_cast<double>(step) / 2 * draw);
  const bool is_hopeless = error == EACCES || error == ENOENT;  // Trying again will not help.
  failures_ = is_hopeless ? options_.failures_to_open : failures_ + 1;
  if (failures_ >= options_.failures_to_open && !ORIEL_MUTANT(redis_breaker_never_opens)) {
    is_cut_off_ = true;
    lates_ = 0;
    for (redis_command* c : out_) {
      lose(*c, error, true);
    }
    out_.clear();
  }
}

}  // namespace oriel::detail
