// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tests of the tests of the segment store, as in mutants/mutants.cpp: the record and the store are
// compiled with their planted bugs, and each must make some case or some life fail.
//
//     test.tier_mutants          all of the list
//     test.tier_mutants NAME     one mutant, "" none
#define CATCH_CONFIG_RUNNER
#include "tier/segment_life.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <catch2/catch.hpp>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include <unistd.h>

namespace {

struct mutant {
  const char* name;
  const char* kin;  ///< whose bug it is: R and F are numbers of docs/reliability.md
  bool is_harmless = false;
};

constexpr mutant all_mutants[] = {
    {"", "no mutant", true},
    // The record.
    {"header_checksum_is_ignored", "F1, F2: a torn tail is taken as sound"},
    {"slice_checksum_is_ignored", "F2: no checksum"},
    {"identity_is_not_compared", "F16, F18"},
    {"key_is_believed", "F18: 16 bytes of a link are believed"},
    {"place_is_not_compared", "F3"},
    {"generation_is_ignored", "F4, R18"},
    // Recovery.
    {"scan_believes_any_place", "F3: every get looks again: slower, never wrong", true},
    {"scan_stops_at_the_first_hole", "F1: what lies behind a torn record is lost"},
    {"youngest_record_is_believed", "a torn rewrite hides an acknowledged page"},
    {"tombstones_are_not_replayed", "I17"},
    {"snapshot_is_believed", "F12"},
    {"recovered_segments_count_as_synced", "F11: a sync after a restart covers nothing"},
    // Writes and syncs.
    {"failed_put_is_visible", "R3, F8"},
    {"put_is_acknowledged_early", "F10: what was acknowledged is lost"},
    {"tombstone_is_not_written", "I17"},
    {"deletion_is_not_synced", "F11"},
    {"sync_is_acknowledged_early", "F11"},
    {"failed_sync_is_trusted", "F9"},
    {"get_overtakes_a_put", "order on one key"},
    {"drop_does_not_wait_for_puts", "order on one key"},
    // Reads and reclaim.
    {"failed_load_keeps_its_entry", "R16"},
    {"pin_holds_nothing", "R5, F27"},
    {"usage_is_not_counted", "R15"},
    {"tenant_has_no_share", "I8"},
    {"window_is_carried_alone", "F28"},
    {"window_stays_without_its_full_page", "F28"},
    {"carried_records_are_not_synced", "F11: what was durable is not any more"},
    {"removed_names_are_not_synced", "F11: segments come back without their tombstones"},
};

std::string chosen;
std::string failing_case;

struct first_failure : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    if (failing_case.empty() && stats.totals.assertions.failed != 0) {
      failing_case = stats.testInfo.name;
    }
  }
};

/// What `act` says, out of a child process: a mutant may crash or hang.
template <class Act>
std::string run_isolated(Act&& act) {
  int ends[2];
  if (::pipe(ends) != 0) {
    return "no pipe";
  }
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    ::alarm(60);
    const std::string why = act();
    const bool is_written =
        ::write(ends[1], why.data(), why.size()) == static_cast<ssize_t>(why.size());
    ::_exit(is_written ? 0 : 1);
  }
  ::close(ends[1]);
  std::string why;
  char some[256];
  for (ssize_t n = ::read(ends[0], some, sizeof(some)); n > 0;
       n = ::read(ends[0], some, sizeof(some))) {
    why.append(some, static_cast<std::size_t>(n));
  }
  ::close(ends[0]);
  int state = 0;
  ::waitpid(child, &state, 0);
  return why.empty() && state != 0 ? "crash or hang" : why;
}

std::string kill_by_cases(const char* program) {
  return run_isolated([&] {
    const char* arguments[] = {program, "~[life]", "--abort", "--out", "/dev/null"};
    Catch::Session session;
    if (session.applyCommandLine(5, arguments) != 0) {
      return std::string("no session");
    }
    return session.run() == 0 ? std::string() : "case: " + failing_case;
  });
}

std::string kill_by_lives() {
  return run_isolated([] {
    for (std::uint64_t seed = 1; seed <= 400; ++seed) {
      oriel_test::segment_life life(
          oriel_test::make_life(400'000 + seed, seed % 4 == 0, seed % 3 != 0));
      if (const std::string why = life.run(); !why.empty()) {
        return "life: " + why;
      }
    }
    return std::string();
  });
}

bool is_as_it_should(const mutant& m, const char* program) {
  chosen = m.name;
  std::string how = kill_by_cases(program);
  how = how.empty() ? kill_by_lives() : how;
  const bool fine = how.empty() == m.is_harmless;
  std::printf("%s  %-36s %s\n    %s\n",
              fine ? "ok  " : "HOLE",
              m.name[0] == '\0' ? "(none)" : m.name,
              m.kin,
              how.empty() ? "survives" : how.c_str());
  std::fflush(stdout);
  return fine;
}

}  // namespace

CATCH_REGISTER_LISTENER(first_failure)

bool oriel::detail::mutant_was_chosen(const char* name) noexcept {
  return !chosen.empty() && chosen == name;
}

int main(int count, char** arguments) {
  ::setenv("ORIEL_TEST_SCALE", "0.01", 0);
  int holes = 0, met = 0;
  for (const mutant& m : all_mutants) {
    if (count < 2 || std::string(arguments[1]) == m.name) {
      ++met;
      holes += is_as_it_should(m, arguments[0]) ? 0 : 1;
    }
  }
  return met != 0 && holes == 0 ? 0 : 1;
}
