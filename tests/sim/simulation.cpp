// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "simulation.hpp"
#include "world.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>

#include <unistd.h>

namespace sim {
namespace {

template <class Events>
outcome run_in(const scenario& what) {
  outcome result;
  auto there = std::make_unique<world<Events>>(what.sizes);
  try {
    for (const operation& op : what.operations) {
      there->apply(op);
      ++result.operations_done;
    }
    there->close();
  } catch (const violation& wrong) {
    result.failure = wrong.what();
    (void)there.release();  // What broke its invariants may not even be destroyed.
    return result;
  }
  result.trace = there->trace();
  result.counts = there->counts();
  result.counts.operations = result.operations_done;
  return result;
}

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

outcome run(const scenario& what) {
  return what.sizes.with_events ? run_in<recorded_events>(what) : run_in<oriel::no_events>(what);
}

std::string run_isolated(const std::function<std::string()>& body, unsigned seconds) {
  int ends[2];
  if (::pipe(ends) != 0) {
    return "no pipe";
  }
  std::fflush(nullptr);
  const pid_t child = ::fork();
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

std::string failure_of(const scenario& what) {
  return run_isolated([&] { return run(what).failure; }, 10);
}

std::vector<operation> shrink(std::vector<operation> operations,
                              const std::function<bool(const std::vector<operation>&)>& fails,
                              std::uint32_t most) {
  std::uint32_t tries = 0;
  for (std::size_t chunk = operations.size(); chunk > 0;) {
    bool removed = false;
    for (std::size_t at = 0; at < operations.size() && tries < most;) {
      std::vector<operation> fewer = operations;
      const auto first = fewer.begin() + static_cast<std::ptrdiff_t>(at);
      fewer.erase(first, first + static_cast<std::ptrdiff_t>(std::min(chunk, fewer.size() - at)));
      ++tries;
      if (fails(fewer)) {
        operations = std::move(fewer);
        removed = true;
      } else {
        at += chunk;
      }
    }
    if (tries >= most) {
      break;
    }
    if (chunk > 1) {
      chunk = (chunk + 1) / 2;
    } else if (!removed) {
      break;
    }
  }
  return operations;
}

std::string report(const scenario& failing, const std::string& why) {
  scenario small = failing;
  small.operations = shrink(failing.operations, [&](const std::vector<operation>& operations) {
    scenario fewer = failing;
    fewer.operations = operations;
    return !failure_of(fewer).empty();
  });
  std::ostringstream text;
  text << "seed " << failing.seed << ": " << why << "\n  " << describe(failing.sizes) << '\n';
  for (const operation& op : small.operations) {
    text << "  " << describe(op) << '\n';
  }
  text << "  = " << failure_of(small) << " (" << small.operations.size() << " of "
       << failing.operations.size() << " operations)\n";
  text << "repro: ORIEL_SIM_SEED=" << failing.seed << " test.sim\n";
  return text.str();
}

}  // namespace sim
