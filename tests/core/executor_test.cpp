// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/executor.hpp>

#include <catch2/catch.hpp>
#include <conformance/executor_suite.hpp>

#include <vector>

TEST_CASE("serial_executor keeps the executor's law") {
  oriel::serial_executor executor;
  oriel::conformance::check_executor_law(executor);
}

TEST_CASE("executor_ref keeps the law of what it refers to") {
  oriel::serial_executor executor;
  oriel::executor_ref ref(executor);
  oriel::conformance::check_executor_law(ref);
}

TEST_CASE("serial_executor runs the tasks in order") {
  oriel::serial_executor executor;
  std::vector<std::uint32_t> seen;
  oriel::executor_ref(executor).for_each(5, [&](std::uint32_t task, std::uint32_t worker) {
    CHECK(worker == 0);
    seen.push_back(task);
  });
  CHECK(seen == std::vector<std::uint32_t>{0, 1, 2, 3, 4});
}
