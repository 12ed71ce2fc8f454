// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include "mutants/mutant_cases.hpp"
#include "sim/isolated.hpp"
#include "support/session.hpp"

#include <oriel/core/contract.hpp>

#include <catch2/catch.hpp>

#include <stdexcept>
#include <string>
#include <vector>

namespace mutants {
namespace {

std::string failing_case;

struct first_failure : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    if (failing_case.empty() && stats.totals.assertions.failed != 0) {
      failing_case = stats.testInfo.name;
    }
  }
};

}  // namespace

std::string kill_by_cases(const char* program, const std::string& cases, unsigned seconds) {
  const std::string not_run = "not run: ";
  std::string how = sim::run_isolated(
      [&] {
        oriel::set_contract_handler(nullptr);  // Some cases want to see an abort.
        std::vector<const char*> arguments{program,
                                           "--filenames-as-tags",
                                           "--abort",
                                           "--out",
                                           "/dev/null",
                                           "--warn",
                                           "NoTests"};  // Else to run none is to pass.
        if (!cases.empty()) {
          arguments.push_back(cases.c_str());
        }
        const int code =
            oriel_test::run_session(static_cast<int>(arguments.size()), arguments.data());
        if (code == 0) {
          return std::string();
        }
        return failing_case.empty()
                   ? not_run + "the session of \"" + cases + "\" ends with exit code " +
                         std::to_string(code) + ", and no case failed"
                   : "case: " + failing_case;
      },
      seconds);
  if (how.starts_with(not_run)) {
    throw std::runtime_error(how.substr(not_run.size()));
  }
  return how;
}

}  // namespace mutants

using mutants::first_failure;  // The macro makes a name of it.
CATCH_REGISTER_LISTENER(first_failure)
