// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Catch2's session, compiled once for all programs of mutants.
#define CATCH_CONFIG_RUNNER
#include "mutants/mutant_cases.hpp"
#include "sim/isolated.hpp"

#include <oriel/core/contract.hpp>

#include <catch2/catch.hpp>

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
  return sim::run_isolated(
      [&] {
        oriel::set_contract_handler(nullptr);  // Some cases want to see an abort.
        std::vector<const char*> arguments{
            program, "--filenames-as-tags", "--abort", "--out", "/dev/null"};
        if (!cases.empty()) {
          arguments.push_back(cases.c_str());
        }
        Catch::Session session;
        if (session.applyCommandLine(static_cast<int>(arguments.size()), arguments.data()) != 0) {
          return std::string("no session");
        }
        return session.run() == 0 ? std::string() : "case: " + failing_case;
      },
      seconds);
}

}  // namespace mutants

using mutants::first_failure;  // The macro makes a name of it.
CATCH_REGISTER_LISTENER(first_failure)
