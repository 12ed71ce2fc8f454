// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <engine/machine_memory.hpp>

#include <cstdint>
#include <optional>

using namespace oriel::engine;

TEST_CASE("what memory is available is read from what the system says") {
  CHECK(available_bytes_in("MemTotal:       16314020 kB\nMemFree:         1000 kB\n"
                           "MemAvailable:   12345678 kB\nBuffers: 5 kB\n") ==
        std::uint64_t{12345678} * 1024);
  CHECK(available_bytes_in("MemAvailable: 0 kB") == 0);
  for (const char* text : {"",
                           "MemTotal: 5 kB\n",
                           "MemAvailable:",
                           "MemAvailable:\n5 kB\n",
                           "MemAvailable:   \n",
                           "MemAvailable: -5 kB\n",
                           "MemAvailable: 5 MB\n",
                           "MemAvailable: 5\n",
                           "MemAvailable: 18446744073709551615 kB\n",
                           "MemAvailable: 18446744073709551616 kB\n",
                           "NotMemAvailable: 5 kB\n"}) {
    INFO(text);
    CHECK_FALSE(available_bytes_in(text));
  }
}

TEST_CASE("of this machine's memory a part is available") {
  CHECK(available_memory_bytes() > 0);
  CHECK(available_memory_bytes() <= machine_memory_bytes());
}
