// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A real redis-server of one test, on a free port of 127.0.0.1, with nothing on disk.
#pragma once

#include "support/temporary_directory.hpp"

#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/redis_store.hpp>

#include <arpa/inet.h>
#include <catch2/catch.hpp>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

/// The path of a program, or nothing.
inline std::string find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string folders = path == nullptr ? "/usr/bin:/bin" : path;
  folders += ":/usr/local/sbin:/usr/sbin:";
  for (std::size_t at = 0, end = 0; (end = folders.find(':', at)) != std::string::npos;
       at = end + 1) {
    const std::string file = folders.substr(at, end - at) + "/" + name;
    if (::access(file.c_str(), X_OK) == 0) {
      return file;
    }
  }
  return {};
}

/// Is there no such program? Then the test says so and ends.
inline bool is_missing(const char* program) {
  if (find_program(program).empty()) {
    WARN("skipped: there is no " << program);
    return true;
  }
  return false;
}

inline std::uint16_t free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(at);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&at), size) != 0 ||
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size) != 0) {
    FAIL("no free port");
  }
  ::close(fd);
  return ntohs(at.sin_port);
}

/// Runs a program with its output in the bin. @returns its process
inline pid_t spawn(const std::vector<std::string>& arguments) {
  std::vector<char*> words;
  for (const std::string& a : arguments) {
    words.push_back(const_cast<char*>(a.c_str()));
  }
  words.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // Never outlives the test.
    const int bin = ::open("/dev/null", O_RDWR);
    ::dup2(bin, 0), ::dup2(bin, 1), ::dup2(bin, 2);
    ::execv(words[0], words.data());
    ::_exit(127);
  }
  return child;
}

inline bool run_to_end(const std::vector<std::string>& arguments) {
  int status = 0;
  const pid_t child = spawn(arguments);
  return child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status) &&
         WEXITSTATUS(status) == 0;
}

/// Polls until `is_so` or half a minute is over: no test fails because a machine is slow.
template <class IsSo>
bool eventually(IsSo is_so) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!is_so()) {
    if (std::chrono::steady_clock::now() > end) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

class redis_server {
 public:
  explicit redis_server(std::vector<std::string> more = {}, std::uint16_t port = free_port())
      : more_(std::move(more)), port_(port) {
    start();
  }
  redis_server(const redis_server&) = delete;
  redis_server& operator=(const redis_server&) = delete;
  ~redis_server() { kill(); }

  void start() {
    std::vector<std::string> words = {find_program("redis-server"),
                                      "--port",
                                      std::to_string(port_),
                                      "--bind",
                                      "127.0.0.1",
                                      "--save",
                                      "",
                                      "--appendonly",
                                      "no",
                                      "--dir",
                                      directory_.path().string(),
                                      "--daemonize",
                                      "no",
                                      "--io-threads",
                                      "1"};
    words.insert(words.end(), more_.begin(), more_.end());
    process_ = spawn(words);
    if (!eventually([&] { return is_listening(); })) {
      FAIL("redis-server does not start");
    }
  }
  void kill() {
    if (process_ > 0) {
      ::kill(process_, SIGKILL);
      ::waitpid(process_, nullptr, 0);
      process_ = 0;
    }
  }
  void pause() { ::kill(process_, SIGSTOP); }
  void resume() { ::kill(process_, SIGCONT); }

  [[nodiscard]] std::uint16_t port() const { return port_; }
  [[nodiscard]] std::string url(const std::string& who = {}) const {
    return "redis://" + who + "127.0.0.1:" + std::to_string(port_) + "/0";
  }
  [[nodiscard]] std::filesystem::path directory() const { return directory_.path(); }

  /// Sends a line and gives back what comes until `end` is there or it is quiet for long.
  std::string ask(const std::string& line, const std::string& end = "\r\n") const {
    const int fd = connected();
    std::string out = line + "\r\n", in;
    const timeval quiet = {.tv_sec = 2, .tv_usec = 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &quiet, sizeof(quiet));
    if (fd < 0 || ::send(fd, out.data(), out.size(), MSG_NOSIGNAL) < 0) {
      ::close(fd);
      return {};
    }
    char bytes[4096];
    while (in.find(end) == std::string::npos) {
      const ssize_t got = ::recv(fd, bytes, sizeof(bytes), 0);
      if (got <= 0) {
        break;
      }
      in.append(bytes, static_cast<std::size_t>(got));
    }
    ::close(fd);
    return in;
  }

 private:
  [[nodiscard]] int connected() const {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_port = htons(port_);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&at), sizeof(at)) == 0) {
      return fd;
    }
    ::close(fd);
    return -1;
  }
  [[nodiscard]] bool is_listening() const {
    const int fd = connected();
    ::close(fd);
    return fd >= 0;
  }

  temporary_directory directory_;
  std::vector<std::string> more_;
  std::uint16_t port_;
  pid_t process_ = 0;
};
