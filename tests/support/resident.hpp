// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// How much memory this process has.
#pragma once

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdio>

#include <unistd.h>

/// Pages of this process that are in memory now, in bytes.
inline std::size_t resident_bytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  REQUIRE(file != nullptr);
  unsigned long size_pages = 0, resident_pages = 0;
  const int read = std::fscanf(file, "%lu %lu", &size_pages, &resident_pages);
  std::fclose(file);
  REQUIRE(read == 2);
  return resident_pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}
