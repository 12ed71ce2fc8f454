// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "isolated.hpp"

#include <oriel/core/contract.hpp>

#include <sys/wait.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include <unistd.h>

namespace sim {
namespace {

int report_pipe = -1;

void say_and_exit(const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(report_pipe, text.data() + done, text.size() - done);
    if (n <= 0) {
      break;
    }
    done += static_cast<std::size_t>(n);
  }
  ::_exit(0);
}

void tell_broken_contract(const char* expression, const char* file, int line) {
  const char* slash = std::strrchr(file, '/');
  say_and_exit("contract broken: " + std::string(expression) + " at " +
               (slash != nullptr ? slash + 1 : file) + ":" + std::to_string(line));
}

}  // namespace

std::string run_isolated(const std::function<std::string()>& body, unsigned seconds) {
  int ends[2];
  if (::pipe(ends) != 0) {
    throw std::runtime_error("no pipe to a child");
  }
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) {
    ::close(ends[0]);
    ::close(ends[1]);
    throw std::runtime_error("no process for a child");
  }
  if (child == 0) {
    ::close(ends[0]);
    report_pipe = ends[1];
    for (const int signal : {SIGABRT, SIGSEGV, SIGALRM, SIGFPE}) {
      std::signal(signal, SIG_DFL);  // Catch2 would take them for its own.
    }
    ::alarm(seconds);
    oriel::set_contract_handler(tell_broken_contract);
    say_and_exit(body());
  }
  ::close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(n));
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) {
    return WTERMSIG(status) == SIGALRM ? "does not end"
                                       : "died of signal " + std::to_string(WTERMSIG(status));
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? text : "exited oddly";
}

}  // namespace sim
