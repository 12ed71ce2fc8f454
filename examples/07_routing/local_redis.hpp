// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A redis-server of this example alone: on a free port of 127.0.0.1, nothing on disk.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <unistd.h>

/// Its path, or nothing.
inline std::string find_redis_server() {
  const char* const path = std::getenv("PATH");
  const std::string folders = std::string(path == nullptr ? "" : path) + ":";
  for (std::size_t at = 0, end = 0; (end = folders.find(':', at)) != std::string::npos;
       at = end + 1) {
    std::string file = folders.substr(at, end - at) + "/redis-server";
    if (::access(file.c_str(), X_OK) == 0) {
      return file;
    }
  }
  return {};
}

class local_redis {
 public:
  explicit local_redis(std::string program) : program_(std::move(program)) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at = address(0);
    socklen_t size = sizeof(at);
    if (::bind(fd, reinterpret_cast<sockaddr*>(&at), size) != 0 ||
        ::getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size) != 0) {
      fail("there is no free port");
    }
    ::close(fd);
    port_ = ntohs(at.sin_port);
    start();
  }
  ~local_redis() { stop(); }
  local_redis(const local_redis&) = delete;
  local_redis& operator=(const local_redis&) = delete;

  [[nodiscard]] std::uint16_t port() const { return port_; }

  /// Returns when it takes connections.
  void start() {
    const std::string port = std::to_string(port_);
    process_ = ::fork();
    if (process_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int bin = ::open("/dev/null", O_RDWR);
      ::dup2(bin, 0), ::dup2(bin, 1), ::dup2(bin, 2);
      ::execl(program_.c_str(),
              program_.c_str(),
              "--port",
              port.c_str(),
              "--bind",
              "127.0.0.1",
              "--save",
              "",
              "--appendonly",
              "no",
              "--dir",
              "/tmp",
              static_cast<char*>(nullptr));
      ::_exit(127);
    }
    for (int i = 0; i < 5000; ++i) {
      const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      const sockaddr_in at = address(port_);
      const bool is_there = ::connect(fd, reinterpret_cast<const sockaddr*>(&at), sizeof(at)) == 0;
      ::close(fd);
      if (is_there) {
        return;
      }
      ::usleep(2000);
    }
    fail("redis-server does not start");
  }
  void stop() {
    if (process_ > 0) {
      ::kill(process_, SIGKILL);
      ::waitpid(process_, nullptr, 0);
      process_ = 0;
    }
  }

 private:
  [[noreturn]] static void fail(const char* why) {
    std::printf("example 07: %s\n", why);
    std::exit(1);
  }
  [[nodiscard]] static sockaddr_in address(std::uint16_t port) {
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
  }

  std::string program_;
  std::uint16_t port_ = 0;
  pid_t process_ = 0;
};
