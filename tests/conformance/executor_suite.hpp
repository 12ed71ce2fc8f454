// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `oriel::executor`, to be run on any model of it: `check_executor_law(my_executor)`.
#pragma once

#include <oriel/core/executor.hpp>

#include <catch2/catch.hpp>

#include <atomic>
#include <cstdint>
#include <vector>

namespace oriel::conformance {

namespace detail {

// What one run's tasks leave behind. Plain integers where the law promises exclusion or visibility,
// so that a thread sanitizer sees a broken promise too.
struct run_record {
  std::vector<std::uint32_t> calls;  // [tasks], not atomic: each task is run by one thread
  std::vector<std::uint32_t>
      inside;  // [concurrency], not atomic: overlapping tasks differ in worker
  std::atomic<std::uint32_t> overlaps{0};
  std::atomic<std::uint32_t> out_of_range{0};
};

inline void record_task(void* context, std::uint32_t task, std::uint32_t worker) {
  auto& record = *static_cast<run_record*>(context);
  if (worker >= record.inside.size() || task >= record.calls.size()) {
    ++record.out_of_range;
    return;
  }
  if (record.inside[worker]++ != 0) {
    ++record.overlaps;
  }
  ++record.calls[task];
  --record.inside[worker];
}

}  // namespace detail

/// Checks the three sentences of the concept on `runs` runs of 0 to 200 tasks.
template <executor E>
void check_executor_law(E& subject, std::uint32_t runs = 500) {
  const std::uint32_t concurrency = subject.concurrency();
  REQUIRE(concurrency >= 1);
  for (std::uint32_t run = 0; run < runs; ++run) {
    const std::uint32_t tasks = run < 4 ? run : (run * 37) % 201;
    detail::run_record record;
    record.calls.assign(tasks, 0);
    record.inside.assign(concurrency, 0);
    subject.run_tasks(tasks, &detail::record_task, &record);
    REQUIRE(record.out_of_range == 0);
    REQUIRE(record.overlaps == 0);
    for (std::uint32_t t = 0; t < tasks; ++t) {
      REQUIRE(record.calls[t] == 1);
    }
    REQUIRE(subject.concurrency() == concurrency);
  }
}

}  // namespace oriel::conformance
