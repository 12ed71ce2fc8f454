// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A TCP proxy of 127.0.0.1 that does to the replies of a Redis what networks and broken servers
/// do: delay, throttle, swallow, cut in the middle, duplicate, reorder, swap values, flip bits.
/// What is sent to the server passes as it is.
#pragma once

#include "../src/tier/redis_resp.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <unistd.h>

class fault_proxy {
 public:
  /// Odds are one in so many replies; 0: never.
  struct faults {
    std::atomic<std::uint32_t> delay_us = 0;     ///< of each reply
    std::atomic<std::uint64_t> bytes_per_s = 0;  ///< 0: no limit
    std::atomic<bool> is_black_hole = false;     ///< nothing comes back
    std::atomic<std::uint32_t> drop_odds = 0;    ///< a reply is missing
    std::atomic<std::uint32_t> cut_odds = 0;     ///< a part of it, then the end
    std::atomic<std::uint32_t> duplicate_odds = 0;
    std::atomic<std::uint32_t> reorder_odds = 0;  ///< it comes after the next
    std::atomic<std::uint32_t> swap_odds = 0;     ///< the value of an earlier reply
    std::atomic<std::uint32_t> flip_odds = 0;     ///< one bit
  };

  fault_proxy(std::uint16_t server, std::uint64_t seed) : server_(server), random_(seed) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at = address(0);
    socklen_t size = sizeof(at);
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&at), size) != 0 ||
        ::listen(listener_, 64) != 0 ||
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &size) != 0) {
      throw std::runtime_error("no port");
    }
    port_ = ntohs(at.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  fault_proxy(const fault_proxy&) = delete;
  fault_proxy& operator=(const fault_proxy&) = delete;
  ~fault_proxy() {
    is_ended_ = true;
    thread_.join();
    ::close(listener_);
  }

  [[nodiscard]] std::uint16_t port() const { return port_; }
  [[nodiscard]] std::uint64_t faults_done() const { return faults_done_; }
  void heal() {
    now.delay_us = 0, now.bytes_per_s = 0, now.is_black_hole = false, now.drop_odds = 0;
    now.cut_odds = 0, now.duplicate_odds = 0, now.reorder_odds = 0, now.swap_odds = 0;
    now.flip_odds = 0;
  }

  faults now;

 private:
  using clock = std::chrono::steady_clock;
  struct pair {
    int client = -1, server = -1;
    std::string from_server;  ///< not a whole reply yet
    std::string out;          ///< for the client
    std::string held;         ///< a reply that comes after the next
    std::string earlier;      ///< a value of before
    clock::time_point not_before = {};
    bool ends = false;  ///< once out is sent
  };

  static sockaddr_in address(std::uint16_t port) {
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
  }

  /// Of the reply at the front, or 0 if it is not whole.
  static std::size_t reply_bytes(std::string_view in) {
    std::size_t at = 0;
    for (std::uint64_t values = 1; values > 0; --values) {
      oriel::detail::resp_head head;
      std::size_t used = 0;
      if (oriel::detail::parse_resp_head(in.substr(at), used, head) !=
          oriel::detail::resp_step::ok) {
        return 0;
      }
      at += used;
      const auto n = static_cast<std::uint64_t>(std::max<std::int64_t>(head.number, 0));
      if ((head.type == '$' || head.type == '=' || head.type == '!') && head.number >= 0) {
        at += n + 2;
      } else if (head.type == '*' || head.type == '~' || head.type == '>') {
        values += n;
      } else if (head.type == '%') {
        values += 2 * n;
      }
      if (at > in.size()) {
        return 0;
      }
    }
    return at;
  }

  bool draws(std::uint32_t odds) {
    const bool does = odds != 0 && random_() % odds == 0;
    faults_done_ += does;
    return does;
  }

  void spoil(pair& p, std::string reply) {
    if (now.is_black_hole || draws(now.drop_odds)) {
      return;
    }
    if (reply.size() > 1'000) {
      const std::string value = reply;
      if (draws(now.swap_odds) && !p.earlier.empty()) {
        reply = p.earlier;
      }
      p.earlier = value;
    }
    if (draws(now.flip_odds)) {
      reply[random_() % reply.size()] ^= static_cast<char>(1 << (random_() % 8));
    }
    if (draws(now.cut_odds)) {
      p.out += reply.substr(0, random_() % reply.size());
      p.ends = true;
      return;
    }
    if (p.held.empty() && draws(now.reorder_odds)) {
      p.held = std::move(reply);
      return;
    }
    p.out += reply;
    if (draws(now.duplicate_odds)) {
      p.out += reply;
    }
    p.out += std::exchange(p.held, {});
    p.not_before = clock::now() + std::chrono::microseconds(now.delay_us);
  }

  // @returns still there?
  bool carry(pair& p, short client_events, short server_events) {
    char bytes[64 << 10];
    if ((client_events & (POLLIN | POLLHUP | POLLERR)) != 0) {
      const ssize_t got = ::recv(p.client, bytes, sizeof(bytes), 0);
      if (got <= 0 || ::send(p.server, bytes, static_cast<std::size_t>(got), MSG_NOSIGNAL) != got) {
        return false;
      }
    }
    if ((server_events & (POLLIN | POLLHUP | POLLERR)) != 0) {
      const ssize_t got = ::recv(p.server, bytes, sizeof(bytes), 0);
      if (got <= 0) {
        return false;
      }
      p.from_server.append(bytes, static_cast<std::size_t>(got));
      for (std::size_t n = 0; !p.ends && (n = reply_bytes(p.from_server)) > 0;) {
        spoil(p, p.from_server.substr(0, n));
        p.from_server.erase(0, n);
      }
    }
    if (!p.out.empty() && clock::now() >= p.not_before) {
      std::size_t most = p.out.size();
      if (now.bytes_per_s > 0) {  // A millisecond's worth at a time.
        most = std::min<std::size_t>(most, now.bytes_per_s / 1'000 + 1);
        p.not_before = clock::now() + std::chrono::milliseconds(1);
      }
      const ssize_t sent = ::send(p.client, p.out.data(), most, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno != EAGAIN) {
        return false;
      }
      p.out.erase(0, sent < 0 ? 0 : static_cast<std::size_t>(sent));
    }
    return !(p.ends && p.out.empty());
  }

  void accept() {
    pair p;
    p.client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    p.server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in at = address(server_);
    const int on = 1;
    ::setsockopt(p.client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    ::setsockopt(p.server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (::connect(p.server, reinterpret_cast<const sockaddr*>(&at), sizeof(at)) != 0) {
      ::close(p.client), ::close(p.server);
      return;
    }
    pairs_.push_back(std::move(p));
  }

  void serve() {
    while (!is_ended_) {
      std::vector<pollfd> fds = {{.fd = listener_, .events = POLLIN, .revents = 0}};
      int wait_ms = 5;
      for (const pair& p : pairs_) {
        fds.push_back({.fd = p.client, .events = POLLIN, .revents = 0});
        fds.push_back({.fd = p.server, .events = POLLIN, .revents = 0});
        wait_ms = p.out.empty() ? wait_ms : 1;
      }
      ::poll(fds.data(), fds.size(), wait_ms);
      for (std::size_t i = pairs_.size(); i > 0; --i) {
        if (!carry(pairs_[i - 1], fds[2 * i - 1].revents, fds[2 * i].revents)) {
          ::close(pairs_[i - 1].client), ::close(pairs_[i - 1].server);
          pairs_.erase(pairs_.begin() + static_cast<std::ptrdiff_t>(i - 1));
        }
      }
      if (fds[0].revents != 0) {
        accept();
      }
    }
    for (const pair& p : pairs_) {
      ::close(p.client), ::close(p.server);
    }
  }

  std::uint16_t server_, port_ = 0;
  std::mt19937_64 random_;
  std::atomic<std::uint64_t> faults_done_ = 0;
  std::vector<pair> pairs_;
  int listener_ = -1;
  std::atomic<bool> is_ended_ = false;
  std::thread thread_;
};
