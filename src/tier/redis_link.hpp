// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// One connection to one server: greeting, pipeline, timers, and the breaker that leaves a server
/// alone which fails again and again.
///
///     down -> connecting -> greeting -> ready       any of them -> down, when something fails
///
/// RESP has no request numbers: the n-th reply answers the n-th command. So whatever shows that
/// they are out of step ends the connection.
#pragma once

#include "redis_command.hpp"
#include "redis_socket.hpp"

#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/redis_store.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace oriel::detail {

class redis_link {
 public:
  /// @param who      user, password, database and TLS; host and port are the link's own
  /// @param number   of the link, for its jitter
  redis_link(const redis_options& options,
             const redis_url& who,
             std::string host,
             std::uint16_t port,
             redis_tls* tls,
             std::uint64_t number);

  /// To be sent after all before it. The link has it until it stands in finished().
  void enqueue(redis_command& command, std::uint64_t now_us);
  /// Sends what can be sent now.
  void flush(std::uint64_t now_us);
  /// Nobody wants it any more, and its slices and payload are not the link's any more.
  void abandon(redis_command& command);
  /// Connects, sends, receives, gives up: as far as it goes without waiting.
  void pump(std::uint64_t now_us);
  /// Commands that came back, in order. The caller takes them out.
  [[nodiscard]] std::vector<redis_command*>& finished() noexcept { return finished_; }

  /// The peer broke the protocol, as seen from above.
  void break_off(std::uint64_t now_us, const char* operation);
  /// A deadline passed on something sent here; an answer came in time.
  void note_late(std::uint64_t now_us);
  void note_good() noexcept;

  /// Is the server left alone?
  [[nodiscard]] bool is_cut_off() const noexcept { return is_cut_off_; }
  [[nodiscard]] bool is_ready() const noexcept { return state_ == state::ready; }
  [[nodiscard]] std::size_t unanswered() const noexcept { return in_flight_.size() + out_.size(); }
  /// Times that it greeted a server.
  [[nodiscard]] std::uint64_t greetings() const noexcept { return greetings_; }
  /// When pump() has something to do without anything arriving; ~0: never.
  [[nodiscard]] std::uint64_t next_timer_us() const noexcept;
  [[nodiscard]] int fd() const noexcept { return socket_.fd(); }
  [[nodiscard]] short events() const noexcept;
  /// Is there something to read that poll(2) does not see?
  [[nodiscard]] bool has_more() const noexcept { return has_more_; }

  [[nodiscard]] const std::string& host() const noexcept { return host_; }
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  [[nodiscard]] const store_fault& last_fault() const noexcept { return fault_; }

 private:
  enum class state : std::uint8_t { down, connecting, greeting, ready };
  enum class greeting : std::uint8_t { hello, auth, id, kill, select, done };
  enum class reading : std::uint8_t { reply, value, value_end };

  void connect(std::uint64_t now_us);
  void send_greeting(greeting step);
  void hear_greeting(std::uint64_t now_us, const resp_value& reply);
  void greeted(std::uint64_t now_us);
  void write_some(std::uint64_t now_us);
  void sent(std::size_t bytes);
  void read_some(std::uint64_t now_us);
  bool read_once(std::uint64_t now_us);
  bool take_apart(std::uint64_t now_us);
  bool take_reply(std::uint64_t now_us);
  bool take_small(std::uint64_t now_us);
  void answer_front();
  void make_room(std::size_t bytes);
  [[nodiscard]] std::size_t read_ahead() const;
  void check_timers(std::uint64_t now_us);
  void lose(redis_command& command, int error, bool is_refused);
  void note_fault(int error, const char* operation);
  void fail(std::uint64_t now_us, int error, const char* operation);

  const redis_options& options_;
  const redis_url& who_;
  std::string host_;
  std::uint16_t port_;
  redis_tls* tls_;
  std::uint64_t number_;

  redis_socket socket_;
  state state_ = state::down;
  greeting step_ = greeting::hello;
  std::string greeting_out_;
  std::int64_t client_id_ = 0;  ///< as the server numbers its connections; 0: unknown
  std::int64_t fence_id_ = 0;   ///< the lost connection with writes under way; 0: none

  std::deque<redis_command*> out_;        ///< not wholly sent
  std::size_t out_sent_ = 0;              ///< bytes of its front
  bool out_is_started_ = false;           ///< its front may not be taken back any more
  std::deque<redis_command*> in_flight_;  ///< sent, in the order of their replies
  std::vector<redis_command*> finished_;

  std::vector<std::byte> in_;
  std::size_t in_begin_ = 0, in_end_ = 0;
  reading reading_ = reading::reply;
  bool is_in_small_ = false;
  resp_reader small_;
  redis_page_reader page_;
  bool has_more_ = false;

  std::uint64_t heard_us_ = 0;  ///< when bytes came, or when we began to wait for some
  std::uint64_t since_us_ = 0;  ///< of connecting
  std::uint64_t retry_us_ = 0;  ///< no connection before
  std::uint64_t tries_ = 0;     ///< in a row without success
  std::uint64_t draws_ = 0;
  std::uint32_t failures_ = 0, lates_ = 0;
  std::uint64_t greetings_ = 0;
  bool is_cut_off_ = false;
  store_fault fault_;
};

}  // namespace oriel::detail
