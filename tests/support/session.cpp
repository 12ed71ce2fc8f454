// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#define CATCH_CONFIG_RUNNER
#include "support/session.hpp"

#include <catch2/catch.hpp>

namespace oriel_test {

int run_session(int count, const char* const* arguments) {
  return Catch::Session().run(count, arguments);
}

}  // namespace oriel_test
