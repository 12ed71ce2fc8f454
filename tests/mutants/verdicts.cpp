// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tests of what the programs beside this one say: a mutant is found, survives, or was not tried,
// which is neither and fails the run.
#include "mutants/mutant_cases.hpp"
#include "mutants/mutant_list.hpp"
#include "mutants/mutant_program.hpp"

#include <catch2/catch.hpp>

#include <cstdio>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

TEST_CASE("a case that passes") {
  CHECK(true);
}
TEST_CASE("a case that fails") {
  CHECK(false);
}

namespace {

struct trial {
  const char* name;
  const char* kin;
  std::function<std::string()> kill;
  const char* says;  ///< how it ends, or begins where nothing was tried
  bool is_harmless = false;
  bool is_tried = true;
  bool is_hole = false;  ///< tried, and not as it should be
};

std::function<std::string()> by_cases(const char* program, const char* cases) {
  return [=] { return mutants::kill_by_cases(program, cases, 60); };
}
std::function<std::string()> by_program(const char* command, bool plants) {
  return [=] { return mutants::kill_by_program(command, plants); };
}

std::vector<trial> trials_with(const char* program) {
  return {
      {"passes", "", by_cases(program, "a case that passes"), "", true},
      {"passes", "and should not", by_cases(program, "a case that passes"), "", false, true, true},
      {"fails",
       "and is harmless",
       by_cases(program, "a case that fails"),
       "case: a case that fails",
       true,
       true,
       true},
      {"fails", "", by_cases(program, "a case that fails"), "case: a case that fails"},
      {"no_such_case", "", by_cases(program, "no case"), "the session of", false, false},
      {"no_such_case", "harmless", by_cases(program, "no case"), "the session of", true, false},
      {"no_session", "", by_cases(program, "--no-such-option"), "the session of", false, false},
      {"passes", "in a program", by_program("true", false), "", true},
      {"fails", "in a program", by_program("echo it FAILED; false", false), "it fails: it FAILED"},
      {"planted",
       "",
       by_program("echo 2 instructions are mutants; echo FAILED; exit 1", true),
       "it fails: FAILED"},
      {"planted",
       "by the machine",
       by_program("echo 'ptx machine: 1 instructions are mutants'; echo 'ptx machine: a race'; "
                  "kill -ABRT $$",
                  true),
       "it fails: ptx machine: a race"},
      {"out_of_time",
       "",
       by_program("echo 2 instructions are mutants; kill -KILL $$", true),
       "",
       true},
      {"survives", "", by_program("echo 2 instructions are mutants", true), "", true},
      {"nothing_is_planted",
       "",
       by_program("echo passed", true),
       "no bug is planted",
       false,
       false},
      {"nothing_is_planted",
       "and it fails",
       by_program("echo FAILED; exit 1", true),
       "no bug is planted",
       false,
       false},
      {"planted_unasked",
       "",
       by_program("echo 2 instructions are mutants", false),
       "a bug is planted",
       true,
       false},
      {"no_program", "", by_program("/no/such/program", true), "no case is run", false, false},
      {"no_program",
       "harmless",
       by_program("/no/such/program", false),
       "no case is run",
       true,
       false},
      {"no_device", "", by_program("exit 77", true), "no case is run", false, false},
      {"no_such_case",
       "in a program",
       by_program("echo 2 instructions are mutants; echo No tests ran; echo; exit 2", true),
       "no case is run",
       false,
       false},
  };
}

/// What kill says, or throws.
bool says_so(const trial& t) {
  std::string said;
  bool is_tried = true;
  try {
    said = t.kill();
  } catch (const std::exception& e) {
    said = e.what();
    is_tried = false;
  }
  return is_tried == t.is_tried && (t.is_tried ? said == t.says : said.starts_with(t.says));
}

}  // namespace

int main(int, char** arguments) {
  const std::vector<trial> all = trials_with(arguments[0]);
  int wrong = 0;
  const auto expect = [&wrong](bool is_so, const trial& t, const char* what) {
    if (!is_so) {
      ++wrong;
      std::printf("WRONG %s (%s): %s\n", t.name, t.kin, what);
    }
  };
  for (const trial& t : all) {
    expect(says_so(t), t, "what is said of it");
    const int code = mutants::run_all(std::span(&t, 1), 1, arguments, [](const trial& one) {
      return mutants::is_as_it_should(one, [](const trial& on) { return on.kill(); });
    });
    expect(code == (t.is_tried && !t.is_hole ? 0 : 1), t, "the exit code");
  }
  return wrong == 0 ? 0 : 1;
}
