// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A server that says what its test tells it to: a thread on a port of 127.0.0.1 that reads
/// commands and sends what a function answers, true or not.
#pragma once

#include "../src/tier/redis_resp.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <poll.h>
#include <unistd.h>

class fake_redis {
 public:
  using words = std::vector<std::string>;
  /// What to send, and whether to hang up then.
  struct answer {
    std::string bytes = {};
    bool hangs_up = false;
  };
  /// Called for each command, with the number of its connection, from 1. One call at a time.
  using answerer = std::function<answer(const words&, int connection)>;

  explicit fake_redis(answerer answers) : answers_(std::move(answers)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(at);
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&at), size) != 0 ||
        ::listen(listener_, 64) != 0 ||
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &size) != 0) {
      throw std::runtime_error("no port");
    }
    port_ = ntohs(at.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  fake_redis(const fake_redis&) = delete;
  fake_redis& operator=(const fake_redis&) = delete;
  ~fake_redis() {
    is_ended_ = true;
    thread_.join();
    ::close(listener_);
  }

  [[nodiscard]] std::uint16_t port() const { return port_; }
  [[nodiscard]] std::string url(const std::string& who = {}) const {
    return "redis://" + who + "127.0.0.1:" + std::to_string(port_);
  }
  /// Another function from the next command on.
  void answer_with(answerer answers) {
    const std::lock_guard lock(mutex_);
    answers_ = std::move(answers);
  }
  /// All commands so far, each "WORD WORD ...", values left out.
  [[nodiscard]] std::vector<std::string> heard() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }

  static std::string bulk(std::string_view text) {
    std::string out;
    oriel::detail::append_argument(out, text);
    return out;
  }
  static constexpr const char* hello =
      "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:7\r\n";

 private:
  struct connection {
    int fd = -1, number = 0;
    std::string in;
    oriel::detail::resp_reader reader{{.bytes = 64 << 20, .elements = 4096, .depth = 2}};
  };

  void serve() {
    std::vector<connection> open;
    int count = 0;
    while (!is_ended_) {
      std::vector<pollfd> fds = {{.fd = listener_, .events = POLLIN, .revents = 0}};
      for (const connection& c : open) {
        fds.push_back({.fd = c.fd, .events = POLLIN, .revents = 0});
      }
      ::poll(fds.data(), fds.size(), 5);
      for (std::size_t i = open.size(); i > 0; --i) {
        if (fds[i].revents != 0 && !read(open[i - 1])) {
          ::close(open[i - 1].fd);
          open.erase(open.begin() + static_cast<std::ptrdiff_t>(i - 1));
        }
      }
      if (fds[0].revents != 0) {
        connection c;
        c.fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        c.number = ++count;
        const int on = 1;
        ::setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        open.push_back(std::move(c));
      }
    }
    for (const connection& c : open) {
      ::close(c.fd);
    }
  }

  bool read(connection& c) {
    std::vector<char> bytes(64 << 10);
    const ssize_t got = ::recv(c.fd, bytes.data(), bytes.size(), 0);
    if (got <= 0) {
      return false;
    }
    c.in.append(bytes.data(), static_cast<std::size_t>(got));
    std::string out;
    bool hangs_up = false;
    while (!hangs_up) {
      std::size_t used = 0;
      const auto step = c.reader.feed(c.in, used);
      c.in.erase(0, used);
      if (step != oriel::detail::resp_step::ok) {
        hangs_up = step == oriel::detail::resp_step::malformed;
        break;
      }
      words command;
      std::string line;
      for (auto& word : c.reader.take().items) {
        line.append(line.empty() ? "" : " ").append(word.text.size() < 100 ? word.text : "...");
        command.push_back(std::move(word.text));
      }
      const std::lock_guard lock(mutex_);
      heard_.push_back(line);
      answer a = answers_(command, c.number);
      out += a.bytes;
      hangs_up = a.hangs_up;
    }
    for (std::size_t at = 0; at < out.size();) {
      const ssize_t sent = ::send(c.fd, out.data() + at, out.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) {
        return false;
      }
      at += static_cast<std::size_t>(sent);
    }
    return !hangs_up;
  }

  std::mutex mutex_;
  answerer answers_;
  std::vector<std::string> heard_;
  int listener_ = -1;
  std::uint16_t port_ = 0;
  std::atomic<bool> is_ended_ = false;
  std::thread thread_;
};

/// An honest little Redis, to be made dishonest where a test wants it.
class honest_redis {
 public:
  fake_redis::answer operator()(const fake_redis::words& w) {
    const std::string& what = w.at(0);
    if (what == "HELLO") {
      return {fake_redis::hello};
    }
    if (what == "GET") {
      return {value_of(w.at(1))};
    }
    if (what == "MGET") {
      std::string out;
      oriel::detail::append_command_front(out, w.size() - 1, {});
      for (std::size_t i = 1; i < w.size(); ++i) {
        out += value_of(w[i]);
      }
      return {out};
    }
    if (what == "SET") {
      if (w.back() == "NX" && values.contains(w.at(1))) {
        return {"_\r\n"};
      }
      values[w.at(1)] = w.at(2);
      return {"+OK\r\n"};
    }
    if (what == "MSET") {
      for (std::size_t i = 1; i + 1 < w.size(); i += 2) {
        values[w[i]] = w[i + 1];
      }
      return {"+OK\r\n"};
    }
    if (what == "GETRANGE") {
      const auto found = values.find(w.at(1));
      const std::string value = found == values.end() ? "" : found->second;
      const std::size_t first = std::min<std::size_t>(std::stoull(w.at(2)), value.size());
      return {fake_redis::bulk(
          std::string_view(value).substr(first, std::stoull(w.at(3)) + 1 - first))};
    }
    if (what == "UNLINK") {
      return {values.erase(w.at(1)) > 0 ? ":1\r\n" : ":0\r\n"};
    }
    if (what == "ECHO") {
      return {fake_redis::bulk(w.at(1))};
    }
    return {"+OK\r\n"};
  }

  std::map<std::string, std::string> values;

 private:
  std::string value_of(const std::string& key) const {
    const auto found = values.find(key);
    return found == values.end() ? "_\r\n" : fake_redis::bulk(found->second);
  }
};
