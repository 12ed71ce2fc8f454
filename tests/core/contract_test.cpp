// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>

#include <catch2/catch.hpp>
#include <support/death.hpp>

#include <cstdio>
#include <cstring>
#include <string>

#include <unistd.h>

namespace contract_test {

namespace {

/// Puts the handler back that was there before.
struct handler_guard {
  oriel::contract_handler before;
  ~handler_guard() { oriel::set_contract_handler(before); }
};

int expected_line = 0;

/// Returns, so that the library aborts, only if it was told what broke and where.
void check_arguments(const char* expression, const char* file, int line) {
  const bool as_told = std::strcmp(expression, "1 + 1 == 3") == 0 &&
                       std::strcmp(file, __FILE__) == 0 && line == expected_line;
  if (!as_told) {
    ::_exit(2);
  }
}

void leave(const char*, const char*, int) {
  ::_exit(3);
}

}  // namespace

TEST_CASE("a kept contract does nothing, and evaluates its condition once") {
  int evaluated = 0;
  ORIEL_EXPECTS(++evaluated == 1);
  CHECK(evaluated == 1);
}

TEST_CASE("a handler learns expression, file and line; if it returns, the library aborts") {
  const handler_guard guard{oriel::set_contract_handler(check_arguments)};
  CHECK(aborts([] {
    expected_line = __LINE__ + 1;
    ORIEL_EXPECTS(1 + 1 == 3);
  }));
}

TEST_CASE("a handler may end the process its own way") {
  const handler_guard guard{oriel::set_contract_handler(leave)};
  CHECK_FALSE(aborts([] { ORIEL_EXPECTS(false); }));
}

TEST_CASE("set_contract_handler returns the previous handler; null restores the default") {
  const handler_guard guard{oriel::set_contract_handler(leave)};
  CHECK(oriel::set_contract_handler(check_arguments) == leave);
  CHECK(oriel::set_contract_handler(nullptr) == check_arguments);
  CHECK(oriel::set_contract_handler(nullptr) == nullptr);
  CHECK(aborts([] { ORIEL_EXPECTS(false); }));
}

TEST_CASE("the default prints one line: file, line and expression") {
  const handler_guard guard{oriel::set_contract_handler(nullptr)};
  std::FILE* const capture = std::tmpfile();
  REQUIRE(capture != nullptr);
  static int line = 0;
  line = __LINE__ + 3;
  CHECK(aborts([capture] {
    ::dup2(::fileno(capture), STDERR_FILENO);
    ORIEL_EXPECTS(2 < 1);
  }));
  std::rewind(capture);
  char text[1024] = {};
  const std::size_t size = std::fread(text, 1, sizeof text - 1, capture);
  std::fclose(capture);
  CHECK(std::string(text, size) ==
        __FILE__ ":" + std::to_string(line) + ": contract broken: 2 < 1\n");
}

}  // namespace contract_test
