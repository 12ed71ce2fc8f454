// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Does this code abort? Catch2 has no death tests; a child process answers.
#pragma once

#include <sys/wait.h>

#include <csignal>
#include <cstdio>

#include <unistd.h>

/// True if `f` raised SIGABRT. `f` runs in a forked child, so nothing it does is seen here.
template <class F>
bool aborts(F&& f) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGABRT, SIG_DFL);  // Catch2 would report the signal as its own failure.
    if (std::freopen("/dev/null", "w", stderr) == nullptr) {
      ::_exit(1);
    }
    f();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}
